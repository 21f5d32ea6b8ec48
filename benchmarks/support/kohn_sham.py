"""DFT as an energy function, for what optimises with it."""

from __future__ import annotations

from fflux_py.iqa.scf.electronic_structure import GroundState
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray


class KohnSham:
    """The labels' level of theory as an energy function."""

    def __init__(self, molecule: Molecule, level: LevelOfTheory | None = None) -> None:
        self.molecule = molecule
        self.level = level or LevelOfTheory()

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr) at positions in bohr."""
        state = GroundState(self.molecule.with_positions(positions), self.level)
        return state.energy, state.forces()

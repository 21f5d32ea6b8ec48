"""DFT as an energy function, for what optimises with it."""

from __future__ import annotations

import numpy as np

from fflux_py.iqa.electronic_structure import GroundState, LevelOfTheory, build_mean_field, build_mole, converge
from fflux_py.molecule import Molecule
from fflux_py.potential import FloatArray


class KohnSham:
    """The labels' level of theory as an energy function."""

    def __init__(self, molecule: Molecule) -> None:
        self.molecule = molecule
        self.level = LevelOfTheory()

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr) at positions in bohr."""
        state = GroundState(self.molecule.with_positions(positions), self.level)
        return state.energy, state.forces()

    def hessian(self, positions: FloatArray) -> FloatArray:
        """Second derivatives in closed form (PySCF), hartree/bohr^2, shape ``(3 n_atoms, 3 n_atoms)``."""
        mean_field = build_mean_field(build_mole(self.molecule.with_positions(positions), self.level), self.level)
        converge(mean_field, self.level, self.molecule.name)
        blocks = np.asarray(mean_field.Hessian().kernel())
        return blocks.transpose(0, 2, 1, 3).reshape(positions.size, positions.size)

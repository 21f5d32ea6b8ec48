"""Labels of the level of theory that teaches: GFN2-xTB, milliseconds each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray, Progress

if TYPE_CHECKING:
    from fflux_py.sampling.gfn2 import GFN2

LEVEL: Final = "GFN2-xTB"
"""The level of theory, as it stands in files."""


@dataclass(frozen=True)
class Labels:
    """Geometries with energies and forces.

    Parameters
    ----------
    positions, energies, forces
        Bohr, hartree, hartree/bohr; shapes ``(m, n, 3)``, ``(m,)`` and ``(m, n, 3)``.
    """

    positions: FloatArray
    energies: FloatArray
    forces: FloatArray

    def __len__(self) -> int:
        return len(self.energies)

    def joined(self, other: Labels) -> Labels:
        """These and others."""
        pairs = ((getattr(self, k), getattr(other, k)) for k in ("positions", "energies", "forces"))
        return Labels(*(np.concatenate(pair) for pair in pairs))

    def select(self, chosen: np.ndarray) -> Labels:
        """Those with these indices, or of this mask."""
        return Labels(self.positions[chosen], self.energies[chosen], self.forces[chosen])

    @classmethod
    def stacked(cls, rows: list[tuple[FloatArray, float, FloatArray]], n_atoms: int) -> Labels:
        """From single geometries, maybe none."""
        if not rows:
            return cls(np.zeros((0, n_atoms, 3)), np.zeros(0), np.zeros((0, n_atoms, 3)))
        return cls(*(np.array(column) for column in zip(*rows, strict=True)))


class Level:
    """Energies and forces of the level of theory, None where it does not converge.

    Parameters
    ----------
    molecule
        Elements and charge.
    ceiling
        Highest energy that counts, hartree; and so for the largest force component.
    """

    LARGEST_FORCE: Final = 0.7
    """Hartree/bohr."""

    def __init__(self, molecule: Molecule, ceiling: float = np.inf) -> None:
        self.ceiling = ceiling
        self.calls = 0
        self._potential = _gfn2(molecule, accuracy=0.5)
        self.program = self._potential.program

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """As of every energy function (hartree, hartree/bohr at bohr)."""
        self.calls += 1
        return self._potential.energy_and_forces(positions)

    def label(self, positions: FloatArray) -> tuple[FloatArray, float, FloatArray] | None:
        """A geometry with its label; None above the ceiling, and where the charges do not converge."""
        try:
            energy, forces = self.energy_and_forces(positions)
        except ConvergenceError:
            return None
        low = energy < self.ceiling and float(np.abs(forces).max()) < self.LARGEST_FORCE
        return (np.array(positions), energy, forces) if low else None


def label_geometries(
    molecule: Molecule, positions: FloatArray, level: str = LEVEL, progress: Progress | None = None
) -> Labels:
    """Labels of given geometries, for the difference that a Gaussian process learns.

    Parameters
    ----------
    molecule
        Elements, order of atoms, charge.
    positions
        Bohr, shape ``(m, n, 3)``.
    level
        Name of the level; only :data:`LEVEL` is known.
    progress
        Called with the number of labels made and of all.

    Raises
    ------
    InputError
        Another level.
    ConvergenceError
        Charges that do not converge.
    """
    if level != LEVEL:
        raise InputError("level of the teacher", LEVEL, repr(level), "teach again")
    potential = _gfn2(molecule, accuracy=0.1)
    rows = []
    for k, x in enumerate(positions):
        rows.append((x, *potential.energy_and_forces(x)))
        if progress is not None:
            progress(k + 1, len(positions))
    return Labels.stacked(rows, molecule.n_atoms)


def _gfn2(molecule: Molecule, accuracy: float) -> GFN2:
    """The energy function, imported only where it is used: the package tblite is optional.

    Raises
    ------
    MissingDependencyError
        tblite is not installed.
    """
    from fflux_py.sampling.gfn2 import GFN2

    return GFN2(molecule, accuracy)

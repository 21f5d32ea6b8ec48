"""Limits that a run must not leave, and what is said when it does.

A bond must stay between 0.5 and 1.5 times its length in the reference geometry of the model's molecule, and no two
atoms may come closer than 0.6 angstrom.  A run that leaves these limits does not simulate this molecule any more (on
what counts as stable: Fu et al., "Forces are not enough", arXiv:2210.07237).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fflux_py.dynamics import _integrator as compiled
from fflux_py.errors import SimulationStopped
from fflux_py.molecule import Molecule
from fflux_py.potential import FloatArray, IntArray
from fflux_py.units import ANGSTROM

if TYPE_CHECKING:
    from fflux_py.dynamics.trajectory import Trajectory

SHORTEST: Final = 0.5
"""Lower limit of a bond, in units of its reference length."""

LONGEST: Final = 1.5
"""Upper limit of a bond, in units of its reference length."""

CONTACT: Final = 0.6 / ANGSTROM
"""Smallest distance of two atoms, bohr."""

NAMES: Final = {
    compiled.BOND_TOO_SHORT: "bond",
    compiled.BOND_TOO_LONG: "bond",
    compiled.CONTACT: "contact",
    compiled.NOT_FINITE: "energy",
}
"""Kind of every guard, by the outcome's code."""


class GuardTripped(SimulationStopped):
    """A guard ended the run.

    Attributes
    ----------
    kind
        ``"bond"``, ``"contact"`` or ``"energy"``.
    step
        The step at which it tripped.
    frame
        The molecule at that step; ``None`` if its coordinates were not finite or two atoms stood on one spot.
    trajectory
        The run until its last report before.
    """

    def __init__(self, where: str, expected: str, found: str, remedy: str, kind: str, step: int) -> None:
        super().__init__(where, expected, found, remedy)
        self.kind = kind
        self.step = step
        self.frame: Molecule | None = None
        self.trajectory: Trajectory | None = None


def bond_limits(reference: Molecule) -> tuple[IntArray, FloatArray]:
    """Bonds of the reference geometry, shape ``(n_bonds, 2)``, and their lengths in bohr, shape ``(n_bonds,)``."""
    bonds = np.array(reference.bonds, dtype=np.int64).reshape(-1, 2)
    vectors = reference.positions[bonds[:, 0]] - reference.positions[bonds[:, 1]]
    return bonds, np.linalg.norm(vectors, axis=1)


def label(molecule: Molecule, *atoms: int) -> str:
    """Atoms as a reader counts them: ``C1-H4``."""
    return "-".join(f"{molecule.symbols[a]}{a + 1}" for a in atoms)


def describe(
    outcome: compiled.Outcome, system: compiled.System, molecule: Molecule, time_fs: float, step: int
) -> GuardTripped:
    """The error of an outcome: step, time, atoms, length and limit."""
    when = f"step {step} ({time_fs:g} fs)"
    kind = NAMES[outcome.code]
    remedy = "the model left what it knows: label such frames and train on them, or lower temperature or time step"
    if outcome.code == compiled.NOT_FINITE:
        return GuardTripped(when, "finite energy and coordinates", "NaN or infinity", remedy, kind, step)
    atoms = label(molecule, outcome.first, outcome.second)
    found = f"{outcome.length * ANGSTROM:.3f} angstrom"
    if outcome.code == compiled.CONTACT:
        expected = f"at least {system.contact * ANGSTROM:.1f} angstrom"
        return GuardTripped(f"{when}, atoms {atoms}", expected, found, remedy, kind, step)
    bond = int(np.flatnonzero((system.bonds == (outcome.first, outcome.second)).all(axis=1))[0])
    low, high = system.bond_minima[bond] * ANGSTROM, system.bond_maxima[bond] * ANGSTROM
    expected = f"{low:.3f} to {high:.3f} angstrom ({SHORTEST} to {LONGEST} x its reference length)"
    return GuardTripped(f"{when}, bond {atoms}", expected, found, remedy, kind, step)

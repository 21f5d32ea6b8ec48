"""Limits that a run must not leave, and what is said and done when it does.

By default a bond must stay between 0.5 and 1.5 times its length in the reference geometry of the model's molecule, and
no two atoms may come closer than 0.6 angstrom.  A run that leaves these limits does not simulate this molecule any more
(on what counts as stable: Fu et al., "Forces are not enough", arXiv:2210.07237).  Further guards look at the conserved
quantity, at the features of the local frames and at the model's own uncertainty
(:class:`fflux_py.dynamics.config.GuardConfig`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from fflux_py.dynamics import _integrator as compiled
from fflux_py.dynamics.config import GuardConfig
from fflux_py.errors import SimulationStopped
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import features
from fflux_py.molecules.matching import Matching
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM, KCAL_MOL

if TYPE_CHECKING:
    from fflux_py.dynamics.trajectory import Trajectory

SHORTEST: Final = GuardConfig.bond_shortest
"""Lower limit of a bond, in units of its reference length."""

LONGEST: Final = GuardConfig.bond_longest
"""Upper limit of a bond, in units of its reference length."""

CONTACT: Final = GuardConfig.contact_distance / ANGSTROM
"""Smallest distance of two atoms, bohr."""

EXIT_CODES: Final = {"bond": 4, "contact": 5, "energy": 6, "conserved": 7, "features": 8, "deviation": 9}
"""Exit code of every guard that stops a run; ``energy`` is an energy or a coordinate that is not finite."""

_COMPILED: Final = {
    "bond": compiled.BOND,
    "contact": compiled.CONTACT,
    "energy": compiled.ENERGY,
    "conserved": compiled.CONSERVED,
}
_CODES: Final = {"off": compiled.OFF, "warn": compiled.RECORD, "save": compiled.RECORD, "stop": compiled.STOP}
_NARROWEST: Final = 1e-3
_REMEDY: Final = "the model left what it knows: label such frames and train on them, or lower temperature or time step"


class GuardTripped(SimulationStopped):
    """A guard ended the run.

    Attributes
    ----------
    kind
        A key of :data:`EXIT_CODES`.
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
        self.exit_code = EXIT_CODES[kind]
        self.frame: Molecule | None = None
        self.trajectory: Trajectory | None = None


@dataclass(frozen=True)
class GuardEvent:
    """A guard tripped.

    Parameters
    ----------
    kind, action
        Which guard, and what it does.
    replica, step, time_fs
        Where.  Of several steps between two reports the first.
    count
        Steps of this block at which it tripped.
    place, expected, found
        Atoms, limit and value in words.
    value
        Bond or contact: angstrom; conserved and deviation: kcal/mol; features: distance from the training range as a
        share of that range.
    positions, velocities
        The frame, atomic units, shape ``(n_atoms, 3)``.
    """

    kind: str
    action: str
    replica: int
    step: int
    time_fs: float
    count: int
    place: str
    expected: str
    found: str
    value: float
    positions: FloatArray
    velocities: FloatArray

    @property
    def message(self) -> str:
        """One line: when, where, limit and value."""
        return f"{self._where}: expected {self.expected}, found {self.found}"

    @property
    def _where(self) -> str:
        when = f"step {self.step} ({self.time_fs:g} fs)"
        return f"{when}, {self.place}" if self.place else when

    def error(self) -> GuardTripped:
        """The error that ends the run."""
        return GuardTripped(self._where, self.expected, self.found, _REMEDY, self.kind, self.step)


def actions(guards: GuardConfig) -> IntArray:
    """What the compiled loop does for each of its kinds."""
    table = np.full(compiled.N_KINDS, compiled.STOP, dtype=np.int64)
    for name in ("bond", "contact", "conserved"):
        table[_COMPILED[name]] = _CODES[getattr(guards, name)]
    return table


def bond_limits(reference: Molecule) -> tuple[IntArray, FloatArray]:
    """Bonds of the reference geometry, shape ``(n_bonds, 2)``, and their lengths in bohr, shape ``(n_bonds,)``."""
    bonds = np.array(reference.bonds, dtype=np.int64).reshape(-1, 2)
    vectors = reference.positions[bonds[:, 0]] - reference.positions[bonds[:, 1]]
    return bonds, np.linalg.norm(vectors, axis=1)


def label(molecule: Molecule, *atoms: int) -> str:
    """Atoms as a reader counts them: ``C1-H4``."""
    return "-".join(f"{molecule.symbols[a]}{a + 1}" for a in atoms)


def new_events(n_replicas: int, n_atoms: int) -> compiled.Events:
    """Room for the events of a block, all counts zero."""
    shape = (n_replicas, compiled.N_KINDS)
    return compiled.Events(
        counts=np.zeros(shape, dtype=np.int64),
        step=np.zeros(shape, dtype=np.int64),
        atoms=np.zeros((*shape, 2), dtype=np.int64),
        value=np.zeros(shape),
        positions=np.zeros((*shape, n_atoms, 3)),
        velocities=np.zeros((*shape, n_atoms, 3)),
    )


def compiled_events(
    events: compiled.Events,
    r: int,
    replica: int,
    system: compiled.System,
    molecule: Molecule,
    guards: GuardConfig,
    timestep_fs: float,
) -> Iterator[GuardEvent]:
    """What the compiled loop saw of its r-th replica."""
    for kind, k in _COMPILED.items():
        if not events.counts[r, k]:
            continue
        i, j, value = int(events.atoms[r, k, 0]), int(events.atoms[r, k, 1]), float(events.value[r, k])
        place, expected, found, converted = _describe(kind, i, j, value, system, molecule, guards)
        step = int(events.step[r, k])
        yield GuardEvent(
            kind=kind,
            action="stop" if kind == "energy" else getattr(guards, kind),
            replica=replica,
            step=step,
            time_fs=step * timestep_fs,
            count=int(events.counts[r, k]),
            place=place,
            expected=expected,
            found=found,
            value=converted,
            positions=events.positions[r, k].copy(),
            velocities=events.velocities[r, k].copy(),
        )


def _describe(
    kind: str, i: int, j: int, value: float, system: compiled.System, molecule: Molecule, guards: GuardConfig
) -> tuple[str, str, str, float]:
    if kind == "energy":
        return "", "finite energy and coordinates", "NaN or infinity", value
    if kind == "conserved":
        limit = f"a change by at most {guards.conserved_jump:g} kcal/mol since the last report"
        return "conserved quantity", limit, f"{value * KCAL_MOL:.3g} kcal/mol", value * KCAL_MOL
    length, found = value * ANGSTROM, f"{value * ANGSTROM:.3f} angstrom"
    if kind == "contact":
        return f"atoms {label(molecule, i, j)}", f"at least {guards.contact_distance:g} angstrom", found, length
    bond = int(np.flatnonzero((system.bonds == (i, j)).all(axis=1))[0])
    low, high = system.bond_minima[bond] * ANGSTROM, system.bond_maxima[bond] * ANGSTROM
    ratios = f"{guards.bond_shortest} to {guards.bond_longest} x its reference length"
    return f"bond {label(molecule, i, j)}", f"{low:.3f} to {high:.3f} angstrom ({ratios})", found, length


class Inspector:
    """Compares frames with what the model was trained on: features out of range, predictive deviations.

    Parameters
    ----------
    forcefield
        The model.  Ranges are those of its training points, an azimuth standing as cosine and sine.
    guards
        Limits and actions.
    matching
        How the atoms of the frames become those of the model; None if they are in its order.
    """

    def __init__(self, forcefield: ForceField, guards: GuardConfig, matching: Matching | None = None) -> None:
        self._forcefield, self._guards = forcefield, guards
        self._matching = matching or Matching(np.arange(forcefield.molecule.n_atoms))
        self._ranges = []
        for model in forcefield.atoms:
            plain = replace(model.covariance, theta=np.ones_like(model.covariance.theta))
            training = plain.embed(model.points)
            # of a wrapped angle the range says nothing
            self._ranges.append((plain, training.min(axis=0), training.max(axis=0), plain.periods() == 0.0))

    def excess(self, positions: FloatArray) -> FloatArray:
        """Largest distance of a feature of every atom from its training range, in ranges, shape ``(m, n_atoms)``.

        The atoms are the model's.
        """
        columns = []
        positions = self._matching.to_reference(positions)
        for model, (plain, low, high, compared) in zip(self._forcefield.atoms, self._ranges, strict=True):
            values = plain.embed(features(positions, model.frame, model.feature_kind))
            beyond = np.maximum(low - values, values - high) / np.maximum(high - low, _NARROWEST)
            columns.append(np.maximum(beyond[:, compared].max(axis=1), 0.0))
        return np.stack(columns, axis=-1)

    def _deviations(self, positions: FloatArray) -> FloatArray:
        return self._forcefield.unmatched.atomic_deviations(self._matching.to_reference(positions))

    def events(
        self, positions: FloatArray, velocities: FloatArray, replica: int, step: int, time_fs: float
    ) -> Iterator[GuardEvent]:
        """What is wrong with one frame (bohr, shape ``(n_atoms, 3)``)."""
        guards, molecule = self._guards, self._forcefield.molecule
        quantities = (
            ("features", self.excess, guards.features_margin, 1.0, "of the training range beyond it"),
            ("deviation", self._deviations, guards.deviation_limit, KCAL_MOL, "kcal/mol"),
        )
        for kind, measure, limit, unit, word in quantities:
            action = getattr(guards, kind)
            if action == "off":
                continue
            values = measure(positions[None])[0] * unit
            atom = int(values.argmax())
            if values[atom] <= limit:
                continue
            what = "features of" if kind == "features" else "predictive deviation of"
            yield GuardEvent(
                kind=kind,
                action=action,
                replica=replica,
                step=step,
                time_fs=time_fs,
                count=1,
                place=f"{what} {molecule.symbols[atom]}{self._matching.order[atom] + 1}",
                expected=f"at most {limit:g} {word}",
                found=f"{values[atom]:.3g}",
                value=float(values[atom]),
                positions=positions.copy(),
                velocities=velocities.copy(),
            )

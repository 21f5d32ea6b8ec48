"""Geometries that a mean is taught with: all that a hot molecule can come to, and more.

Torsions over the whole circle, those of double bonds and amides too; short pieces of dynamics of the level of theory
from there; random displacements; stretched and squeezed bonds and angles; contacts.  Later, frames of the network's own
dynamics: where it is wrong, it goes, and there it is taught again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from fflux_py.bias.collective_variables import torsion
from fflux_py.errors import ConvergenceError, GeometryError
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.molecules.mechanics import maxwell_boltzmann
from fflux_py.molecules.molecule import Molecule, Torsion
from fflux_py.sampling.distortions import Change, angles_of, distort
from fflux_py.sampling.starts import set_torsion
from fflux_py.teacher.classical import repulsion
from fflux_py.teacher.labels import Labels, Level
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, DALTON, FEMTOSECOND, KCAL_MOL

TEMPERATURES: Final = (300.0, 600.0, 1000.0, 1500.0)
"""Of the pieces of dynamics, kelvin."""
_HYDROGEN_MASS: Final = 3.0 / DALTON
# Contacts: distances over the geometric mean of UFF's van der Waals distances.  Atoms of unbonded groups in a crystal
# are at 0.8 to 1; below 0.45 a torsion clashes.
_CLASH, _CONTACTS, _CLOSEST = 0.45, (0.30, 0.48), 0.28
_DISPLACEMENTS: Final = (0.02 / ANGSTROM, 0.04 / ANGSTROM, 0.07 / ANGSTROM)
_BOND_FACTORS, _ANGLE_FACTORS = (0.72, 1.45), (0.7, 1.35)
_POOL_CEILING: Final = 60.0 / KCAL_MOL
_REPLICAS: Final = 16
_ESCAPED: Final = (-10.0 / KCAL_MOL, 350.0 / KCAL_MOL)


class Proposals:
    """Random geometries of a molecule.

    Parameters
    ----------
    molecule
        At its relaxed geometry.
    rng
        Source of all random numbers.
    """

    def __init__(self, molecule: Molecule, rng: np.random.Generator) -> None:
        self.molecule, self._rng = molecule, rng
        soft = set(molecule.torsions())
        self._torsions: list[tuple[Torsion, bool]] = [(t, t not in soft) for t in molecule.torsions(stiff=True)]
        coordinates: list[tuple[int, ...]] = [*molecule.bonds, *(tuple(reversed(b)) for b in molecule.bonds)]
        self._coordinates = [*coordinates, *angles_of(molecule)]
        apart = _apart(molecule)
        self._i, self._j = np.nonzero(np.triu(apart))
        # 12 / b is the van der Waals distance of a pair
        symbols = molecule.symbols
        self._distances = np.array(
            [12.0 / repulsion(symbols[i], symbols[j])[1] for i, j in zip(self._i, self._j, strict=True)]
        )

    def contact(self, positions: FloatArray) -> float:
        """The shortest distance over the van der Waals distance of atoms three bonds apart or more; one if none are."""
        if not len(self._i):
            return 1.0
        d = np.linalg.norm(positions[self._i] - positions[self._j], axis=1)
        return float((d / self._distances).min())

    def twisted(self, positions: FloatArray) -> FloatArray:
        """All torsions at random; those of stiff bonds half of the time, else at a flip or near where they were."""
        molecule = self.molecule.with_positions(positions)
        for atoms, stiff in self._torsions:
            angle = self._rng.uniform(-np.pi, np.pi)
            if stiff and self._rng.random() > 0.5:
                current = float(torsion(molecule.positions, atoms))
                flip = np.pi if self._rng.random() < 0.3 else 0.0
                angle = current + flip + 0.3 * self._rng.normal()
            try:
                molecule = set_torsion(molecule, atoms, float(angle))
            except GeometryError:  # two atoms on one spot
                return np.array(positions)
        return np.array(molecule.positions)

    def distorted(self, positions: FloatArray) -> FloatArray:
        """One or two bonds and angles changed."""
        changes = []
        for _ in range(self._rng.integers(1, 3)):
            atoms = self._coordinates[self._rng.integers(len(self._coordinates))]
            low, high = _BOND_FACTORS if len(atoms) == 2 else _ANGLE_FACTORS
            changes.append(Change(atoms, float(self._rng.uniform(low, high))))
        return distort(self.molecule.with_positions(positions), changes)

    def displaced(self, positions: FloatArray) -> FloatArray:
        """All coordinates moved at random."""
        spread = _DISPLACEMENTS[self._rng.integers(len(_DISPLACEMENTS))]
        return positions + spread * self._rng.normal(size=positions.shape)

    def without_clash(self) -> FloatArray:
        """A twisted geometry to start dynamics from; the relaxed one after many tries."""
        for _ in range(50):
            positions = self.twisted(self.molecule.positions)
            if self.contact(positions) > _CLASH:
                return positions
        return np.array(self.molecule.positions)


def first_labels(
    proposals: Proposals, level: Level, most: int, time_left: Callable[[], float], rng: np.random.Generator
) -> Labels:
    """Labelled geometries for the first training: until there are ``most``, or no time is left."""
    molecule = proposals.molecule
    pool = [np.array(molecule.positions)]
    rows: list[tuple[FloatArray, float, FloatArray]] = []
    low = level.energy_and_forces(molecule.positions)[0] + _POOL_CEILING
    while len(rows) < most and time_left() > 0.0:
        kind = rng.random()
        base = pool[rng.integers(len(pool))]
        if kind < 0.45:
            new = _piece_of_level(molecule, proposals.without_clash(), level, rng)
            pool += [x for x, energy, _ in new if energy < low and rng.random() < 0.3]
        else:
            try:
                positions = _single(proposals, base, kind)
            except GeometryError:
                continue
            label = level.label(positions) if proposals.contact(positions) > _CLOSEST else None
            new = [] if label is None else [label]
        rows += new
    return Labels.stacked(rows, molecule.n_atoms)


def _single(proposals: Proposals, base: FloatArray, kind: float) -> FloatArray:
    if kind < 0.65:
        return proposals.displaced(base)
    if kind < 0.85:
        return proposals.distorted(base)
    for _ in range(20):
        positions = proposals.twisted(base)
        if _CONTACTS[0] < proposals.contact(positions) < _CONTACTS[1]:
            return positions
    return proposals.displaced(base)


def _piece_of_level(
    molecule: Molecule, start: FloatArray, level: Level, rng: np.random.Generator
) -> list[tuple[FloatArray, float, FloatArray]]:
    """Every second frame of 50 fs of the level's own dynamics, from velocities of twice the temperature."""
    temperature = TEMPERATURES[rng.integers(len(TEMPERATURES))]
    masses = heavy_hydrogens(molecule)
    x, v = np.array(start), np.sqrt(2.0) * maxwell_boltzmann(start, masses, temperature, rng)
    rows = []
    try:
        _, forces = level.energy_and_forces(x)
        for step in range(24):
            x, v = _half_step(x, v, forces, masses, np.array([temperature]), 2.0, 100.0, rng)
            energy, forces = level.energy_and_forces(x)
            v = v + 0.5 * 2.0 / FEMTOSECOND * forces / masses[:, None]
            fits = energy < level.ceiling and np.abs(forces).max() < level.LARGEST_FORCE
            if step % 2 and fits:
                rows.append((np.array(x), energy, forces))
    except ConvergenceError:
        return rows
    return rows


def own_frames(
    mean: TaughtMean,
    proposals: Proposals,
    lowest: float,
    count: int,
    time_left: Callable[[], float],
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Frames of the network's own Langevin dynamics from twisted geometries, and their temperatures.

    Sixteen replicas side by side, four at each of :data:`TEMPERATURES`, for 0.45 or 1.8 ps, after 45 fs that take
    clashes away.  A replica ends where its energy leaves what is possible.

    Parameters
    ----------
    mean, proposals
        What runs, and where it starts.
    lowest
        The lowest labelled energy, hartree.
    count
        Frames that are asked for; there may be up to 191 more.
    time_left
        Seconds; no further replicas are started without.
    rng
        Source of all random numbers.

    Returns
    -------
    positions, temperatures
        Bohr, shape ``(m, n, 3)``; kelvin, ``(m,)``.
    """
    masses = heavy_hydrogens(proposals.molecule)
    temperatures = np.repeat(TEMPERATURES, _REPLICAS // len(TEMPERATURES))
    frames: list[FloatArray] = []
    warm: list[float] = []
    while len(frames) < count and time_left() > 0.0:
        x = np.array([proposals.without_clash() for _ in temperatures])
        v = np.array([maxwell_boltzmann(p, masses, t, rng) for p, t in zip(x, temperatures, strict=True)])
        steps = int(rng.choice([300, 1200]))
        alive = np.ones(len(x), dtype=bool)
        _, forces = mean.energies_and_forces(x)
        for step in range(30 + steps):
            friction = 10.0 if step < 30 else 100.0
            x, v = _half_step(x, v, forces, masses, temperatures, 1.5, friction, rng)
            energies, forces = mean.energies_and_forces(x)
            v = v + 0.5 * 1.5 / FEMTOSECOND * forces / masses[:, None]
            if step < 30:
                continue
            inside = (energies > lowest + _ESCAPED[0]) & (energies < lowest + _ESCAPED[1])
            keep = alive & ((step - 29) % (steps // 12) == 0)
            chosen = (keep & inside) | (alive & ~inside & np.isfinite(x).all(axis=(1, 2)))
            frames += list(x[chosen])
            warm += temperatures[chosen].tolist()
            alive &= inside
            # what left stands still, so that its numbers stay finite
            x[~alive], v[~alive] = proposals.molecule.positions, 0.0
            if not alive.any():
                break
            if (~alive).any():
                forces[~alive] = 0.0
    n = proposals.molecule.n_atoms
    return np.array(frames).reshape(-1, n, 3), np.array(warm)


def heavy_hydrogens(molecule: Molecule) -> FloatArray:
    """Masses (electron masses) with hydrogens of 3 dalton, for longer steps; averages do not depend on them."""
    return np.where(molecule.numbers == 1, _HYDROGEN_MASS, molecule.masses)


def _half_step(
    x: FloatArray,
    v: FloatArray,
    forces: FloatArray,
    masses: FloatArray,
    temperatures: FloatArray,
    timestep: float,
    friction: float,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """The part B A O A of a BAOAB step: time step and friction time in femtosecond."""
    dt, memory = timestep / FEMTOSECOND, np.exp(-timestep / friction)
    thermal = np.sqrt(BOLTZMANN * temperatures.reshape((-1,) + (1,) * (x.ndim - 1)) / masses[:, None])
    v = v + 0.5 * dt * forces / masses[:, None]
    x = x + 0.5 * dt * v
    v = memory * v + np.sqrt(1.0 - memory**2) * (thermal * rng.normal(size=x.shape)).reshape(x.shape)
    return x + 0.5 * dt * v, v


def _apart(molecule: Molecule) -> np.ndarray:
    """Which pairs of atoms are three bonds apart or more, shape ``(n, n)``, bool."""
    bonded = np.eye(molecule.n_atoms, dtype=bool)
    for i, j in molecule.bonds:
        bonded[i, j] = bonded[j, i] = True
    two_steps: np.ndarray = bonded.astype(int) @ bonded.astype(int) == 0
    return two_steps

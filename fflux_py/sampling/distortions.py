"""Distorted geometries: bonds and angles of relaxed conformers far beyond what a trajectory visits.

A model that has never seen a stretched bond does not know that it pulls back.  Here every bond and every angle of every
conformer is set to several values of a wide range, singly and in pairs, everything else staying as it is; what lies
above an energy ceiling, or has formed a new bond, is left out.

Displaced geometries are another kind: all coordinates moved at random, as where a geometry optimisation may begin.
Bonds are off by tenths of an angstrom all over the molecule, which no single change shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from fflux_py.errors import ConvergenceError, GeometryError, InputError
from fflux_py.molecules.molecule import Molecule, Torsion, find_bonds
from fflux_py.molecules.potential import PotentialEnergy, energy_of
from fflux_py.sampling.selection import extend_farthest, pair_features
from fflux_py.sampling.starts import random_conformer, relax
from fflux_py.sampling.thermostatted import CLOSEST_CONTACT, fault
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KCAL_MOL

Split = Literal["train", "test"]
_NEAR_EQUILIBRIUM = 0.05
"""Changes by less than this share are no distortions."""
_SAME_MINIMUM = 0.02
"""Distance in pair features (1/bohr) under which two relaxed geometries are one minimum."""
_TRIES = 100
_STREAM = 1_000_000
"""Conformers have seeds of their own, beyond those of the trajectories."""


@dataclass(frozen=True)
class DistortionConfig:
    """Which distortions are made and how many are kept.

    Parameters
    ----------
    train_frames, test_frames
        Distorted geometries to keep.
    train_conformers, test_conformers
        Relaxed conformers that they start from, different ones for training and testing.  The first for training is
        the relaxed start itself.
    bond_factors
        Least and greatest length of a bond over its relaxed length.  The default includes C-H at 0.75 and 1.6 angstrom.
    angle_factors
        The same for angles.
    largest_angle
        No angle is opened beyond this, radian; 165 degrees.
    values
        Values of each bond and angle in each conformer.
    pairs
        Simultaneous changes of two bonds or angles tried in each conformer, chosen at random.
    ceiling
        Highest energy above the lowest conformer, hartree; 160 kcal/mol.  Not for displaced geometries.
    displaced_frames
        Displaced geometries for training, from the conformers for training in turn.
    displacement
        Largest change of a coordinate in them, bohr; each geometry has a share of it between 0.3 and 1 of its own.
    """

    train_frames: int
    test_frames: int = 0
    train_conformers: int = 4
    test_conformers: int = 2
    bond_factors: tuple[float, float] = (0.68, 1.6)
    angle_factors: tuple[float, float] = (0.7, 1.35)
    largest_angle: float = np.radians(165.0)
    values: int = 8
    pairs: int = 150
    ceiling: float = 160.0 / KCAL_MOL
    displaced_frames: int = 0
    displacement: float = 0.25 / ANGSTROM

    def __post_init__(self) -> None:
        for name, least in (("train_frames", 0), ("test_frames", 0), ("train_conformers", 1), ("test_conformers", 0),
                            ("values", 2), ("pairs", 0), ("displaced_frames", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise InputError(f"distortions, {name}", f"at least {least}", str(getattr(self, name)))
        if self.test_frames and not self.test_conformers:
            raise InputError("distortions, test_conformers", "at least 1 for test frames", "0")
        for name in ("bond_factors", "angle_factors"):
            low, high = getattr(self, name)
            if not 0.3 <= low < 1.0 < high <= 3.0:
                raise InputError(f"distortions, {name}", "factors from 0.3 below 1 to 3 above it", f"{low:g}, {high:g}")
        if not (np.isfinite(self.ceiling) and self.ceiling > 0.0):
            raise InputError("distortions, ceiling", "a positive energy", str(self.ceiling))
        if not 0.0 < self.displacement * ANGSTROM <= 1.0:
            raise InputError(
                "distortions, displacement", "up to 1 angstrom", f"{self.displacement * ANGSTROM:g} angstrom"
            )

    @property
    def n_conformers(self) -> int:
        """Conformers that are distorted."""
        train = self.train_conformers if self.train_frames else 0
        return train + (self.test_conformers if self.test_frames else 0)

    def n_tried(self, molecule: Molecule) -> int:
        """Distorted geometries of one conformer that are tried."""
        return (len(molecule.bonds) + len(angles_of(molecule))) * self.values + self.pairs

    def settings(self) -> dict[str, str | int | float]:
        """The distortions in words and numbers, for the header of the file."""
        parts = [f"train {self.train_conformers} conformers {self.train_frames} frames"]
        if self.test_frames:
            parts.append(f"test {self.test_conformers} conformers {self.test_frames} frames")
        bonds, angles = ("{:g} to {:g}".format(*pair) for pair in (self.bond_factors, self.angle_factors))
        limits = f"bonds times {bonds}, angles times {angles}, at most {np.degrees(self.largest_angle):.6g} degrees"
        settings: dict[str, str | int | float] = {}
        if self.displaced_frames:
            most = self.displacement * ANGSTROM
            settings["sampling_displaced"] = f"{self.displaced_frames} frames, coordinates by up to {most:g} angstrom"
        if not self.train_frames + self.test_frames:
            return settings
        return settings | {
            "sampling_distortions": f"{', '.join(parts)}: {limits}, up to {self.ceiling * KCAL_MOL:.6g} kcal/mol"
        }


class MarkedGeometry(NamedTuple):
    """A geometry (bohr), where it comes from, and which split it belongs to."""

    positions: FloatArray
    source: str
    split: Split


class Change(NamedTuple):
    """A bond (two atoms) or an angle (three, the vertex in the middle) and the factor that it is multiplied with."""

    atoms: tuple[int, ...]
    factor: float


def angles_of(molecule: Molecule) -> tuple[tuple[int, int, int], ...]:
    """All angles i-j-k between bonds, i < k."""
    return tuple(
        (i, j, k) for j in range(molecule.n_atoms) for i, k in itertools.combinations(molecule.neighbours[j], 2)
    )


def distort(molecule: Molecule, changes: Sequence[Change]) -> FloatArray:
    """Positions (bohr) with bonds and angles changed one after the other.

    A bond is stretched by moving what hangs on its second atom, an angle is opened by turning that about the normal of
    the plane.  What hangs on the atom is its whole side of the molecule, which keeps all other bonds and angles; in a
    ring it is the atom with its substituents outside the ring.
    """
    positions = np.array(molecule.positions)
    for atoms, factor in changes:
        j, k = atoms[-2], atoms[-1]
        moving = _side_of(molecule, j, k)
        arm = positions[k] - positions[j]
        if len(atoms) == 2:
            positions[moving] += (factor - 1.0) * arm
            continue
        other = positions[atoms[0]] - positions[j]
        normal = np.cross(other, arm)
        if np.linalg.norm(normal) < 1e-6 * np.linalg.norm(other) * np.linalg.norm(arm):
            normal = np.cross(other, np.eye(3)[int(np.abs(other).argmin())])
        angle = np.arctan2(np.linalg.norm(np.cross(other, arm)), other @ arm)
        rotation = Rotation.from_rotvec((factor - 1.0) * angle * normal / np.linalg.norm(normal))
        positions[moving] = rotation.apply(positions[moving] - positions[j]) + positions[j]
    return positions


def _side_of(molecule: Molecule, j: int, k: int) -> list[int]:
    """Atom k and what is connected with it but not through j."""
    ring = molecule.in_ring(j, k)
    moving, front = {k}, [k]
    while front:
        a = front.pop()
        for b in molecule.neighbours[a]:
            if b != j and b not in moving and not (ring and a == k and molecule.in_ring(k, b)):
                moving.add(b)
                front.append(b)
    return sorted(moving)


def extra_frames(
    reference: Molecule,
    make: Callable[[Molecule], PotentialEnergy],
    torsions: Sequence[Torsion],
    config: DistortionConfig,
    minima: bool,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[MarkedGeometry]:
    """The distorted geometries of the plan, and the relaxed conformers that they start from if ``minima``.

    The sources read ``distorted-bond-C1-H4-1.45-c2`` (bond, factor, conformer), ``distorted-angle-...`` and
    ``distorted-pair-...``; ``displaced-0.21-c2`` (largest change in angstrom, conformer) are the displaced geometries;
    ``minimum-c2`` are the conformers, each minimum once.  Of the distortions for training the
    extremes of every bond and angle are kept, then what differs most from all that is kept; those for testing are drawn
    at random.  ``progress`` is called with (geometries tried, geometries in total).

    Raises
    ------
    InputError
        If fewer distortions than asked for stay under the ceiling.
    SimulationStopped
        If no conformer relaxes.
    """
    potential = make(reference)
    conformers: dict[Split, list[tuple[int, Molecule]]] = {
        "train": [(1, _relax_tightly(reference, potential))],
        "test": [],
    }
    n_train = config.train_conformers
    n_all = n_train + (config.test_conformers if config.test_frames else 0)
    for number in range(2, n_all + 1):
        rng = np.random.default_rng([seed, _STREAM + number])
        relaxed = _relax_tightly(random_conformer(reference, potential, torsions, rng), potential)
        conformers["train" if number <= n_train else "test"].append((number, relaxed))
    energies = [energy_of(potential, c.positions) for group in conformers.values() for _, c in group]
    ceiling = min(energies) + config.ceiling
    frames: list[MarkedGeometry] = []
    if minima:
        frames += _distinct_minima(conformers["train"] + conformers["test"], n_train, torsions)
    counter = _Counter(0, config.n_tried(reference) * config.n_conformers, progress)
    for stream, (split, group) in enumerate(conformers.items(), start=n_all + 1):
        n_frames = config.train_frames if split == "train" else config.test_frames
        if not n_frames:
            continue
        rng = np.random.default_rng([seed, _STREAM + stream])
        kept = _distort_under_ceiling(group, potential, ceiling, split, config, rng, counter)
        if len(kept) < n_frames:
            raise InputError(f"distortions for {split}ing", f"at most {len(kept)} frames (those under the ceiling)",
                             str(n_frames), "ask for fewer, take more conformers, or raise the ceiling")  # fmt: skip
        if split == "test":
            frames += [kept[i][0] for i in rng.permutation(len(kept))[:n_frames]]
        else:
            frames += _most_diverse(kept, n_frames, torsions)
    return frames + _displace(conformers["train"], config, np.random.default_rng([seed, _STREAM]))


def _displace(
    conformers: Sequence[tuple[int, Molecule]], config: DistortionConfig, rng: np.random.Generator
) -> list[MarkedGeometry]:
    """Move all coordinates of conformers at random, until there is no new bond and no contact; a hundred tries each."""
    frames: list[MarkedGeometry] = []
    for k in range(config.displaced_frames):
        number, conformer = conformers[k % len(conformers)]
        for _ in range(_TRIES):
            most = config.displacement * rng.uniform(0.3, 1.0)
            positions = conformer.positions + most * rng.uniform(-1.0, 1.0, conformer.positions.shape)
            if _is_sound(conformer, positions):
                break
        else:
            raise InputError("distortions, displacement", "one that leaves the bonds as they are",
                             f"{config.displacement * ANGSTROM:g} angstrom", "take a smaller one")  # fmt: skip
        frames.append(MarkedGeometry(positions, f"displaced-{most * ANGSTROM:.2f}-c{number}", "train"))
    return frames


def _relax_tightly(conformer: Molecule, potential: PotentialEnergy) -> Molecule:
    """Relax the conformer further; leave it as it is if that does not converge or leads to another molecule."""
    try:
        relaxed = relax(conformer, potential, fmax=1e-4)
    except ConvergenceError:
        return conformer
    return relaxed if fault(conformer, relaxed.positions) is None else conformer


class _Counter:
    """Geometries tried so far, for the progress callback."""

    def __init__(self, done: int, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.progress = done, total, progress

    def add(self, n: int) -> None:
        self.done += n
        if self.progress is not None:
            self.progress(self.done, self.total)


def _distinct_minima(
    conformers: Sequence[tuple[int, Molecule]], n_train: int, torsions: Sequence[Torsion]
) -> list[MarkedGeometry]:
    frames: list[MarkedGeometry] = []
    features = pair_features(np.array([c.positions for _, c in conformers]), torsions)
    for index, (number, conformer) in enumerate(conformers):
        gaps = np.linalg.norm(features[:index] - features[index], axis=1)
        if not (gaps < _SAME_MINIMUM).any():
            split: Split = "train" if number <= n_train else "test"
            frames.append(MarkedGeometry(conformer.positions, f"minimum-c{number}", split))
    return frames


def _distort_under_ceiling(
    conformers: Sequence[tuple[int, Molecule]],
    potential: PotentialEnergy,
    ceiling: float,
    split: Split,
    config: DistortionConfig,
    rng: np.random.Generator,
    counter: _Counter,
) -> list[tuple[MarkedGeometry, tuple[Change, ...]]]:
    """Make all distortions of these conformers; keep those that are sound and under the ceiling."""
    kept = []
    for number, conformer in conformers:
        for changes in _changes(conformer, config, rng, exact=split == "train"):
            positions = distort(conformer, changes)
            if _is_sound(conformer, positions) and _energy(potential, positions) <= ceiling:
                kept.append((MarkedGeometry(positions, _source(conformer, number, changes), split), changes))
        counter.add(config.n_tried(conformer))
    return kept


def _most_diverse(
    kept: Sequence[tuple[MarkedGeometry, tuple[Change, ...]]], n_frames: int, torsions: Sequence[Torsion]
) -> list[MarkedGeometry]:
    """The extremes of every bond and angle, then what differs most from what is there."""
    features = pair_features(np.array([frame.positions for frame, _ in kept]), torsions)
    begin = _extremes([changes for _, changes in kept])
    if len(begin) > n_frames:
        begin = [begin[i] for i in extend_farthest(features[begin], n_frames, [0])]
    return [kept[i][0] for i in extend_farthest(features, n_frames, begin or [0])]


def _extremes(changes: Sequence[tuple[Change, ...]]) -> list[int]:
    """Of every bond, then of every angle, the shortest and the longest among the single changes."""
    single = [(index, entry[0]) for index, entry in enumerate(changes) if len(entry) == 1]
    coordinates = sorted({change.atoms for _, change in single}, key=lambda atoms: (len(atoms), atoms))
    chosen: list[int] = []
    for atoms in coordinates:
        of_it = [(change.factor, -index) for index, change in single if change.atoms == atoms]
        # On a tie the first, that is the lowest conformer.
        low, high = min(of_it, key=lambda entry: (entry[0], -entry[1])), max(of_it)
        chosen += [-low[1]] if low[0] < 1.0 else []
        chosen += [-high[1]] if high[0] > 1.0 else []
    return chosen


def _changes(
    molecule: Molecule, config: DistortionConfig, rng: np.random.Generator, exact: bool
) -> list[tuple[Change, ...]]:
    """Single changes of all bonds and angles, one random factor in each of equal parts of the range, and random pairs.

    With ``exact`` the ends of the range are among them.
    """
    ranges: dict[tuple[int, ...], tuple[float, float]] = {}
    for bond in molecule.bonds:
        ranges[_lighter_last(molecule, bond)] = config.bond_factors
    for angle in angles_of(molecule):
        atoms = _lighter_last(molecule, angle)
        low, high = config.angle_factors
        value = _angle(molecule.positions, atoms)
        ranges[atoms] = (low, min(high, max(config.largest_angle / value, low)))
    singles: list[tuple[Change, ...]] = []
    for atoms, (low, high) in ranges.items():
        part = (high - low) / config.values
        factors = low + part * (np.arange(config.values) + rng.uniform(size=config.values))
        if exact:
            factors[0], factors[-1] = low, high
        singles += [(Change(atoms, float(f)),) for f in factors if abs(f - 1.0) >= _NEAR_EQUILIBRIUM]
    pairs: list[tuple[Change, ...]] = []
    coordinates = list(ranges)
    for _ in range(config.pairs if len(coordinates) > 1 else 0):
        chosen = [coordinates[c] for c in rng.choice(len(coordinates), size=2, replace=False)]
        both = tuple(Change(atoms, float(rng.uniform(*ranges[atoms]))) for atoms in chosen)
        if min(abs(change.factor - 1.0) for change in both) >= _NEAR_EQUILIBRIUM:
            pairs.append(both)
    return singles + pairs


def _lighter_last(molecule: Molecule, atoms: tuple[int, ...]) -> tuple[int, ...]:
    """The atoms in the order in which the smaller part of the molecule hangs on the last."""
    forward, backward = _side_of(molecule, *atoms[-2:]), _side_of(molecule, atoms[1], atoms[0])
    return atoms if len(forward) <= len(backward) else atoms[::-1]


def _angle(positions: FloatArray, atoms: tuple[int, ...]) -> float:
    a, b = positions[atoms[0]] - positions[atoms[1]], positions[atoms[2]] - positions[atoms[1]]
    return float(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))


def _is_sound(molecule: Molecule, positions: FloatArray) -> bool:
    """No contact under 0.5 angstrom and no new bond; a bond may be stretched beyond what counts as one."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    no_new_bond = set(find_bonds(molecule.symbols, positions)) <= set(molecule.bonds)
    return no_new_bond and bool(distance.min() >= CLOSEST_CONTACT)


def _energy(potential: PotentialEnergy, positions: FloatArray) -> float:
    """Infinite where the energy function gives up."""
    try:
        return energy_of(potential, positions)
    except (ConvergenceError, GeometryError):
        return np.inf


def _source(molecule: Molecule, number: int, changes: Sequence[Change]) -> str:
    parts = [f"{'-'.join(f'{molecule.symbols[a]}{a + 1}' for a in c.atoms)}-{c.factor:.2f}" for c in changes]
    kind = "pair" if len(changes) > 1 else "bond" if len(changes[0].atoms) == 2 else "angle"
    return f"distorted-{kind}-{'+'.join(parts)}-c{number}"

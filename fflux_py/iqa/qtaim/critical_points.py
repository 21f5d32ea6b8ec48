"""Critical points of an electron density: where its gradient vanishes, sorted by the signature of the Hessian.

A (3,-1) point lies between two bonded atoms (bond), a (3,+1) point within a ring, a (3,+3) point within a cage; nuclei
are the attractors.  The numbers satisfy n - b + r - c = 1 for one molecule (Poincare and Hopf), which tells whether a
search has found them all.

Source: R. F. W. Bader, Atoms in Molecules: A Quantum Theory, Oxford 1990, chapter 2.  Searches follow eigenvectors:
uphill along the lowest modes, downhill along the others (as for transition states, C. J. Cerjan and W. H. Miller, J.
Chem. Phys. 75, 2800 (1981)), so that a search converges to the signature it asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py.errors import ConvergenceError
from fflux_py.iqa.scf._density import DensityData, density_at, evaluate, workspace
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray, IntArray

NUCLEAR_RADIUS = 0.2
"""Within this distance of a nucleus, in bohr, a point belongs to it."""
_SMALLEST_DENSITY = 2e-6
_LONGEST_BOND = 12.0
_LARGEST_RING = 9.0
_SAME = 1e-3
_SAMPLES = 24


@dataclass(frozen=True)
class CriticalPoints:
    """Critical points of a molecule's density.

    Parameters
    ----------
    bonds
        (3,-1) points in bohr, shape ``(n_bonds, 3)``.
    bonded
        The two atoms of each, at the ends of the paths along the negative and the positive third eigenvector of the
        Hessian (:meth:`axes`), ``(n_bonds, 2)``.
    axes
        Eigenvectors of the Hessian at each bond point as columns, by ascending eigenvalue, right-handed,
        ``(n_bonds, 3, 3)``.
    curvatures
        The eigenvalues, e/bohr^5, ``(n_bonds, 3)``.
    rings, cages
        (3,+1) and (3,+3) points in bohr, each ``(n, 3)``.
    """

    bonds: FloatArray
    bonded: IntArray
    axes: FloatArray
    curvatures: FloatArray
    rings: FloatArray
    cages: FloatArray

    def __post_init__(self) -> None:
        for name in ("bonds", "axes", "curvatures", "rings", "cages"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


def find_critical_points(data: DensityData, name: str = "the molecule") -> CriticalPoints:
    """Find all critical points.

    Parameters
    ----------
    data
        The density.
    name
        What to call the molecule in an error.

    Raises
    ------
    ConvergenceError
        The points found contradict the theorem of Poincare and Hopf, or a bond path ends where there is no nucleus (a
        non-nuclear attractor).
    """
    centres = data.centres
    bonds = _search(data, _bond_guesses(data), 2, np.empty((0, 3)))
    rings, cages = np.empty((0, 3)), np.empty((0, 3))
    for attempt in range(5):
        axes, curvatures = _axes(data, bonds)
        bonded = _bonded(data, bonds, axes, name)
        parts = _components(len(centres), bonded)
        euler = len(centres) - len(bonds) + len(rings) - len(cages)
        if euler == len(set(parts)) and _apart(data, parts):
            return CriticalPoints(bonds, bonded, axes, curvatures, rings, cages)
        if attempt == 0:
            rings = _search(data, _ring_guesses(data), 1, rings)
            continue
        guesses = _further_guesses(centres, bonds, rings, attempt - 1)
        bonds = _search(data, guesses, 2, bonds)
        rings = _search(data, guesses, 1, rings)
        cages = _search(data, guesses, 0, cages)
    raise ConvergenceError(
        f"critical points of {name}",
        f"{len(set(parts))} = atoms - bonds + rings - cages, and no two separate parts in contact",
        f"{len(centres)} - {len(bonds)} + {len(rings)} - {len(cages)}, {len(set(parts))} separate parts",
        "the topology of this density is not understood: leave the geometry out or use another partition",
    )


def _bond_guesses(data: DensityData) -> FloatArray:
    """Minima of the density along the lines between atoms."""
    centres = data.centres
    guesses = []
    fractions = np.linspace(0.04, 0.96, _SAMPLES)
    for i, j in combinations(range(len(centres)), 2):
        if np.linalg.norm(centres[i] - centres[j]) > _LONGEST_BOND:
            continue
        line = centres[i] + fractions[:, None] * (centres[j] - centres[i])
        density = density_at(data, line)[0]
        inner = density[1:-1]
        low = np.flatnonzero((inner < density[:-2]) & (inner <= density[2:]) & (inner > _SMALLEST_DENSITY)) + 1
        guesses.extend(line[low])
    return np.array(guesses).reshape(-1, 3)


def _ring_guesses(data: DensityData) -> FloatArray:
    """Centroids of three atoms, where there is density."""
    distance = np.linalg.norm(data.centres[:, None] - data.centres[None], axis=2)
    near = distance < _LARGEST_RING
    triples = [
        (i, j, k) for i, j, k in combinations(range(len(data.centres)), 3) if near[i, j] and near[i, k] and near[j, k]
    ]
    return np.array([data.centres[list(t)].mean(axis=0) for t in triples]).reshape(-1, 3)


def _further_guesses(centres: FloatArray, bonds: FloatArray, rings: FloatArray, attempt: int) -> FloatArray:
    """Points between all that is known, scattered more widely at every attempt."""
    known = np.concatenate([centres, bonds, rings])
    pairs = [
        0.5 * (known[i] + known[j])
        for i, j in combinations(range(len(known)), 2)
        if np.linalg.norm(known[i] - known[j]) < _LARGEST_RING
    ]
    guesses = np.array(pairs).reshape(-1, 3)
    return guesses + 0.3 * attempt * np.random.default_rng(attempt).normal(size=guesses.shape)


def _search(data: DensityData, guesses: FloatArray, n_uphill: int, known: FloatArray) -> FloatArray:
    """``known`` and the new points with ``n_uphill`` negative curvatures that are reached from ``guesses``."""
    points = list(known)
    ends = np.empty_like(guesses)
    converged = np.empty(len(guesses), dtype=np.int64)
    _follow_eigenvectors(data, np.ascontiguousarray(guesses), n_uphill, ends, converged)
    for point in ends[converged > 0]:
        at_nucleus = np.linalg.norm(data.centres - point, axis=1).min() < NUCLEAR_RADIUS
        if not at_nucleus and all(np.linalg.norm(point - other) > _SAME for other in points):
            points.append(point)
    return np.array(points).reshape(-1, 3)


@njit(cache=True)
def _follow_eigenvectors(
    data: DensityData, guesses: FloatArray, n_uphill: int, ends: FloatArray, converged: IntArray
) -> None:  # pragma: no cover - compiled
    phi, functions = workspace(data)
    gradient, hessian = np.empty(3), np.empty((3, 3))
    for k in range(len(guesses)):
        point = guesses[k].copy()
        converged[k] = 0
        for _ in range(80):
            density = evaluate(data, point, phi, functions, gradient, hessian)
            if density < 1e-6:
                break
            values, vectors = np.linalg.eigh(hessian)
            step = np.zeros(3)
            for mode in range(3):
                along = np.dot(gradient, np.ascontiguousarray(vectors[:, mode]))
                size = along / max(abs(values[mode]), 1e-12)
                step += (size if mode < n_uphill else -size) * vectors[:, mode]
            length = np.sqrt(np.sum(step * step))
            if length < 1e-9:
                negative = 0
                for mode in range(3):
                    if values[mode] < 0.0:
                        negative += 1
                converged[k] = 1 if negative == n_uphill else 0
                break
            point += step * min(1.0, 0.2 / length)
        ends[k] = point


def _axes(data: DensityData, bonds: FloatArray) -> tuple[FloatArray, FloatArray]:
    values, vectors = np.linalg.eigh(density_at(data, bonds)[2])
    vectors[:, :, 0] *= np.sign(np.linalg.det(vectors))[:, None]
    return vectors, values


def _bonded(data: DensityData, bonds: FloatArray, axes: FloatArray, name: str) -> IntArray:
    """Nuclei at the two ends of every bond path."""
    ends = np.empty((len(bonds), 2), dtype=np.int64)
    for k, point in enumerate(bonds):
        for side in (0, 1):
            start = point + (2 * side - 1) * 0.02 * axes[k, :, 2]
            ends[k, side] = _attractor(data, np.ascontiguousarray(start))
            if ends[k, side] < 0:
                raise ConvergenceError(
                    f"bond path of {name}",
                    "an end at a nucleus",
                    "a non-nuclear attractor",
                    "its basin belongs to no atom: leave the geometry out or use another partition",
                )
    return ends


@njit(cache=True)
def _attractor(data: DensityData, start: FloatArray) -> int:  # pragma: no cover - compiled
    """Nucleus to which the density rises from ``start`` (fourth-order Runge-Kutta along the gradient), or -1."""
    phi, functions = workspace(data)
    gradient, hessian = np.empty(3), np.empty((3, 3))
    point = start.copy()
    for _ in range(2000):
        nearest, closest = -1, 1e9
        for atom in range(data.centres.shape[0]):
            distance = np.sqrt(np.sum((point - data.centres[atom]) ** 2))
            if distance < closest:
                nearest, closest = atom, distance
        if closest < 0.2:
            return nearest
        step = min(0.1, 0.25 * closest)
        slopes = np.zeros((4, 3))
        for stage in range(4):
            trial = point.copy()
            if stage > 0:
                trial += slopes[stage - 1] * (step if stage == 3 else 0.5 * step)
            evaluate(data, trial, phi, functions, gradient, hessian)
            length = np.sqrt(np.sum(gradient * gradient))
            if length < 1e-9:
                return -1
            slopes[stage] = gradient / length
        move = (slopes[0] + 2.0 * slopes[1] + 2.0 * slopes[2] + slopes[3]) * (step / 6.0)
        if np.sqrt(np.sum(move * move)) < 0.2 * step:
            return -1
        point += move
    return -1


def _components(n_atoms: int, bonded: IntArray) -> list[int]:
    """Number of the connected part that every atom belongs to."""
    part = list(range(n_atoms))
    for a, b in bonded:
        old, new = part[a], part[b]
        part = [new if p == old else p for p in part]
    return part


def _apart(data: DensityData, parts: list[int]) -> bool:
    """Whether atoms of different parts have no density between them."""
    for i, j in combinations(range(len(parts)), 2):
        if parts[i] != parts[j]:
            line = data.centres[i] + np.linspace(0.05, 0.95, _SAMPLES)[:, None] * (data.centres[j] - data.centres[i])
            if density_at(data, line)[0].min() > _SMALLEST_DENSITY:
                return False
    return True

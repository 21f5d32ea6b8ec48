"""The distances between atoms that a model has learnt, and starts of a search that are moved there.

Far from all training geometries a Gaussian process returns to its prior mean, and its forces say nothing about the
molecule: a search that begins with a bond of half its length may follow them into a well that is none.  Where the
distances of two atoms lie among the training geometries is known, though, and a geometry can be brought back there by
moving every atom as little as it takes (the idea of distance geometry: Crippen and Havel, *Distance Geometry and
Molecular Conformation*, Research Studies Press 1988, chapter 6, with bounds from the data).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.optimize import minimize

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import FeatureSet
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.symmetry import no_symmetry
from fflux_py.typing import FloatArray, IntArray

TOLERANCE: Final = 1e-8
"""Bohr; a distance that violates its range by no more than this counts as inside."""

_SHORTEST: Final = 1e-6
_MOST_STEPS: Final = 1000


def distance_ranges(forcefield: ForceField) -> tuple[FloatArray, FloatArray]:
    """Shortest and longest distance of every pair of atoms over a model's training geometries.

    Atoms that the model's symmetry exchanges have the same ranges.

    Returns
    -------
    shortest, longest
        Bohr, shape ``(n_atoms, n_atoms)``, symmetric, zero on the diagonal.
    """
    n = forcefield.molecule.n_atoms
    if forcefield.joint is not None:
        lengths = distances(forcefield.joint.positions)
        symmetry = forcefield.joint.symmetry or no_symmetry(n)
        return _symmetrise(lengths.min(axis=0), lengths.max(axis=0), symmetry.generators())
    shortest, longest = np.full((n, n), np.inf), np.zeros((n, n))
    for model in forcefield.atoms:
        atom, others = model.frame.atom, [model.frame.x_axis, model.frame.xy_plane, *model.frame.others(n)]
        known = FeatureSet(model.feature_kind, n).distances(model.points)
        shortest[atom, others] = np.minimum(shortest[atom, others], known.min(axis=0))
        longest[atom, others] = np.maximum(longest[atom, others], known.max(axis=0))
    np.fill_diagonal(shortest, 0.0)
    return np.minimum(shortest, shortest.T), np.maximum(longest, longest.T)


def distances(positions: FloatArray) -> FloatArray:
    """Distances of all pairs of atoms, bohr, shape ``(..., n_atoms, n_atoms)``."""
    return np.asarray(np.linalg.norm(positions[..., :, None, :] - positions[..., None, :, :], axis=-1))


def _symmetrise(
    shortest: FloatArray, longest: FloatArray, permutations: Sequence[IntArray]
) -> tuple[FloatArray, FloatArray]:
    """Give all pairs of atoms that permutations exchange the same range, the union of theirs."""
    while True:
        low, high = shortest, longest
        for order in permutations:
            low = np.minimum(low, low[np.ix_(order, order)])
            high = np.maximum(high, high[np.ix_(order, order)])
        if (low == shortest).all() and (high == longest).all():
            return low, high
        shortest, longest = low, high


def largest_violation(positions: FloatArray, shortest: FloatArray, longest: FloatArray) -> tuple[int, int, float]:
    """The pair of atoms whose distance lies furthest outside of its range, and by how much (bohr; below: negative)."""
    lengths = distances(positions)
    violation = lengths - np.clip(lengths, shortest, longest)
    i, j = np.unravel_index(int(np.abs(violation).argmax()), violation.shape)
    return int(min(i, j)), int(max(i, j)), float(violation[i, j])


def move_into_ranges(positions: FloatArray, shortest: FloatArray, longest: FloatArray) -> FloatArray:
    """Move a geometry as little as it takes to bring its distances into ranges.

    The sum of the squares by which distances violate their ranges is minimised downhill from ``positions`` (L-BFGS).
    It becomes zero, if these ranges can be met together.  The centre of mass of equal masses does not move.

    Parameters
    ----------
    positions
        Bohr, shape ``(n_atoms, 3)``.
    shortest, longest
        Bohr, shape ``(n_atoms, n_atoms)``.

    Returns
    -------
    positions
        The same array if all distances are inside already.

    Raises
    ------
    InputError
        ``shortest`` and ``longest`` are of another shape, or a range is empty.
    """
    n = len(positions)
    if not shortest.shape == longest.shape == (n, n):
        raise InputError("shortest and longest", f"shape {(n, n)}", f"{shortest.shape} and {longest.shape}")
    if (shortest > longest).any():
        raise InputError("shortest", "nowhere above longest", f"{int((shortest > longest).sum())} pairs are")
    if abs(largest_violation(positions, shortest, longest)[2]) <= TOLERANCE:
        return positions
    first, second = np.triu_indices(n, 1)
    low, high = shortest[first, second], longest[first, second]

    def violation_and_gradient(flat: FloatArray) -> tuple[float, FloatArray]:
        vectors = flat.reshape(n, 3)[first] - flat.reshape(n, 3)[second]
        lengths = np.maximum(np.linalg.norm(vectors, axis=1), _SHORTEST)
        violation = lengths - np.clip(lengths, low, high)
        slopes = (2.0 * violation / lengths)[:, None] * vectors
        gradient = np.zeros((n, 3))
        np.add.at(gradient, first, slopes)
        np.add.at(gradient, second, -slopes)
        return float(violation @ violation), gradient.reshape(-1)

    settings = {"maxiter": _MOST_STEPS, "ftol": 0.0, "gtol": TOLERANCE}
    search = minimize(violation_and_gradient, positions.reshape(-1), jac=True, method="L-BFGS-B", options=settings)
    return np.asarray(search.x.reshape(n, 3))


def move_into_training_range(forcefield: ForceField, start: Molecule) -> Molecule:
    """Move the start of a search to distances that the model has learnt; ``start`` itself if it is there already.

    Raises
    ------
    ModelMismatchError
        ``start`` is another molecule than the model's.
    """
    forcefield.check_molecule(start)
    moved = move_into_ranges(start.positions, *distance_ranges(forcefield))
    return start if moved is start.positions else start.with_positions(moved)

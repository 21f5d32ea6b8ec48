"""The distances between atoms that a model has learnt, and starts of a search that are moved there.

Far from all training geometries a Gaussian process returns to its prior mean, and its forces say nothing about the
molecule: a search that begins with a bond of half its length may follow them into a well that is none.  Where the
distances of two atoms lie among the training geometries is known, though, and a geometry can be brought back there by
moving every atom as little as it takes (the idea of distance geometry: Crippen and Havel, *Distance Geometry and
Molecular Conformation*, Research Studies Press 1988, chapter 6, with bounds from the data).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.optimize import minimize

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.distance_ranges import distance_ranges as distance_ranges_of
from fflux_py.gp.distance_ranges import distances
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

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
    return distance_ranges_of(forcefield.atoms, forcefield.joint)


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

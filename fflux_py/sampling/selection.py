"""Choice of geometries that differ: farthest-point selection in a feature space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fflux_py.bias.collective_variables import torsion
from fflux_py.errors import InputError
from fflux_py.molecules.molecule import Torsion
from fflux_py.typing import FloatArray, IntArray

_TORSION_WEIGHT = 0.1
"""Radius (1/bohr) of the circle on which a torsion counts: about the spread of an inverse distance at 300 K."""


def pair_features(positions: FloatArray, torsions: Sequence[Torsion] = ()) -> FloatArray:
    """Features of whole geometries: inverse distances of all pairs and, weighted, cosine and sine of torsions.

    Inverse distances alone do not tell mirror images apart; the torsions do.

    Parameters
    ----------
    positions
        Bohr, ``(m, n_atoms, 3)``.
    torsions
        Torsions to include, k of them.

    Returns
    -------
    array
        ``(m, n_atoms (n_atoms - 1) / 2 + 2 k)``, 1/bohr.
    """
    i, j = np.triu_indices(positions.shape[1], k=1)
    inverse = 1.0 / np.linalg.norm(positions[:, i] - positions[:, j], axis=-1)
    if not torsions:
        return np.asarray(inverse)
    angles = np.array([[torsion(x, atoms) for atoms in torsions] for x in positions])
    return np.concatenate([inverse, _TORSION_WEIGHT * np.cos(angles), _TORSION_WEIGHT * np.sin(angles)], axis=1)


def farthest_points(features: FloatArray, n_select: int, first: int) -> IntArray:
    """Greedy max-min selection (Gonzalez, Theor. Comput. Sci. 38, 293 (1985)), O(m n_select).

    Every next point is the one whose Euclidean distance to the nearest point chosen so far is largest, the lowest
    index on a tie.

    Parameters
    ----------
    features
        ``(m, d)``.
    n_select
        Number of points to choose, at most m.
    first
        Index of the first point.

    Returns
    -------
    array
        Indices in the order of choice, ``(n_select,)``.
    """
    m = len(features)
    if not 1 <= n_select <= m:
        raise InputError("n_select", f"a number from 1 to {m} (the geometries at hand)", str(n_select),
                         "ask for fewer frames or sample longer")  # fmt: skip
    if not 0 <= first < m:
        raise InputError("first", f"an index from 0 to {m - 1}", str(first))
    return extend_farthest(features, n_select, [first])


def extend_farthest(features: FloatArray, n_select: int, begin: Sequence[int]) -> IntArray:
    """:func:`farthest_points` that begins with several points, all of which are kept.

    Parameters
    ----------
    begin
        Indices of the first points, at least one and at most ``n_select``, all different.
    """
    m = len(features)
    if not 1 <= len(set(begin)) == len(begin) <= n_select <= m:
        raise InputError("begin", f"from 1 to {min(n_select, m)} different indices", str(len(begin)))
    chosen = np.empty(n_select, dtype=np.int64)
    chosen[: len(begin)] = begin
    nearest = np.full(m, np.inf)
    for k in range(1, n_select):
        difference = features - features[chosen[k - 1]]
        nearest = np.minimum(nearest, np.einsum("md,md->m", difference, difference))
        # A chosen point never returns, not even among copies of one geometry.
        nearest[chosen[k - 1]] = -1.0
        if k >= len(begin):
            chosen[k] = int(nearest.argmax())
    return chosen


def evenly_spaced(m: int, n_select: int) -> IntArray:
    """``n_select`` indices of 0 .. m-1 at equal spacing, the last one m-1."""
    if not 1 <= n_select <= m:
        raise InputError("n_select", f"a number from 1 to {m} (the frames at hand)", str(n_select), "sample longer")
    spacing = m // n_select
    return np.asarray(m - 1 - spacing * np.arange(n_select)[::-1], dtype=np.int64)

"""Becke's fuzzy cells, and the derivative of their weights with the positions of the nuclei, compiled.

The weight of atom a at a point x is w_a = P_a / sum_b P_b with P_a = prod_b s(nu_ab), nu_ab = mu + a_ab (1 - mu^2) and
mu = (|x - R_a| - |x - R_b|) / |R_a - R_b| (A. D. Becke, J. Chem. Phys. 88, 2547 (1988), equations 13, 19 to 22 and A1
to A8).  The integration weight of a point of atom A is w = w_A;

    d w = w sum_a (delta_aA - w_a) d ln P_a,

and the point moves with its atom (B. G. Johnson, P. M. W. Gill, J. A. Pople, J. Chem. Phys. 98, 5612 (1993), appendix
B).  Only the sum over points is ever needed, so nothing of the size points x atoms x atoms is stored.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py.typing import FloatArray

_BLOCK: Final = 64
_TINY: Final = 1e-200


def cell_shifts(radii: FloatArray) -> FloatArray:
    """a_ab, shape ``(n, n)``: cells meet where the distances are in the ratio of ``radii`` (A1 to A6, at most 1/2)."""
    ratio = radii[:, None] / radii[None]
    return np.asarray(np.clip(0.25 * (ratio.T - ratio), -0.5, 0.5))


def cell_weights(points: FloatArray, centres: FloatArray, shifts: FloatArray) -> FloatArray:
    """Weight of every atom at every point, shape ``(n_atoms, n_points)``.

    Parameters
    ----------
    points
        Bohr, ``(n_points, 3)``.
    centres
        Nuclei, bohr, ``(n_atoms, 3)``.
    shifts
        a_ab, ``(n_atoms, n_atoms)``.
    """
    cells = np.ones((len(centres), len(points)))
    _multiply(np.ascontiguousarray(points.T), np.ascontiguousarray(centres), shifts, cells)
    return np.asarray(cells / cells.sum(axis=0))


def weighted_gradient(
    points: FloatArray, values: FloatArray, owner: int, centres: FloatArray, shifts: FloatArray
) -> FloatArray:
    """Gradient of ``sum_g values_g w_g`` with respect to the nuclei, the values held fixed.

    Parameters
    ----------
    points
        Points that belong to ``owner`` and move with it, bohr, shape ``(n, 3)``.
    values
        What the weights multiply, ``(n,)``.
    owner
        Index of their atom.
    centres
        Nuclei, bohr, ``(n_atoms, 3)``.
    shifts
        a_ab, antisymmetric, ``(n_atoms, n_atoms)``; zeros for none.

    Returns
    -------
    gradient
        Per bohr, shape ``(n_atoms, 3)``; its sum over atoms is zero.
    """
    gradient = np.zeros_like(centres)
    if len(centres) > 1:
        _accumulate(np.ascontiguousarray(points.T), values, owner, centres, shifts, gradient)
    return gradient


@njit(cache=True, fastmath=True, error_model="numpy")
def _multiply(points: FloatArray, centres: FloatArray, shifts: FloatArray, weights: FloatArray) -> None:
    n_atoms, n_points = len(centres), points.shape[1]
    distance = np.empty((n_atoms, _BLOCK))
    slopes = np.empty((n_atoms * (n_atoms - 1) // 2, 2, _BLOCK))
    for first in range(0, n_points, _BLOCK):
        n = min(_BLOCK, n_points - first)
        _distances(points, first, n, centres, distance)
        _cells(distance, n, centres, shifts, weights[:, first : first + n], slopes)


@njit(cache=True, fastmath=True, error_model="numpy")
def _accumulate(
    points: FloatArray, values: FloatArray, owner: int, centres: FloatArray, shifts: FloatArray, gradient: FloatArray
) -> None:
    n_atoms, n_points = len(centres), points.shape[1]
    distance = np.empty((n_atoms, _BLOCK))
    cells = np.empty((n_atoms, _BLOCK))
    radial = np.empty((n_atoms, _BLOCK))
    slopes = np.empty((n_atoms * (n_atoms - 1) // 2, 2, _BLOCK))
    scale = np.empty(_BLOCK)
    for first in range(0, n_points, _BLOCK):
        n = min(_BLOCK, n_points - first)
        _distances(points, first, n, centres, distance)
        cells[:], radial[:] = 1.0, 0.0
        _cells(distance, n, centres, shifts, cells, slopes)
        for g in range(n):
            total = 0.0
            for a in range(n_atoms):
                total += cells[a, g]
            for a in range(n_atoms):
                cells[a, g] /= total
            scale[g] = values[first + g] * cells[owner, g]
        _pairs(distance, n, owner, centres, cells, slopes, scale, radial, gradient)
        for a in range(n_atoms):
            for g in range(n):
                step = radial[a, g] / distance[a, g]
                for k in range(3):
                    along = step * (points[k, first + g] - centres[a, k])
                    gradient[a, k] -= along
                    gradient[owner, k] += along


@njit(cache=True, fastmath=True, error_model="numpy")
def _distances(points: FloatArray, first: int, n: int, centres: FloatArray, distance: FloatArray) -> None:
    for a in range(len(centres)):
        for g in range(n):
            x = points[0, first + g] - centres[a, 0]
            y = points[1, first + g] - centres[a, 1]
            z = points[2, first + g] - centres[a, 2]
            distance[a, g] = max(np.sqrt(x * x + y * y + z * z), _TINY)


@njit(cache=True, fastmath=True, error_model="numpy")
def _cells(
    distance: FloatArray, n: int, centres: FloatArray, shifts: FloatArray, cells: FloatArray, slopes: FloatArray
) -> None:
    """Products of the cell functions, and -1/2 f'(nu) nu'(mu) over both cell functions of every pair."""
    pair = 0
    for a in range(len(centres)):
        for b in range(a):
            inverse = 1.0 / np.sqrt(np.sum((centres[a] - centres[b]) ** 2))
            shift = shifts[a, b]
            for g in range(n):
                mu = (distance[a, g] - distance[b, g]) * inverse
                p0 = mu + shift * (1.0 - mu * mu)
                p1 = (1.5 - 0.5 * p0 * p0) * p0
                p2 = (1.5 - 0.5 * p1 * p1) * p1
                p3 = (1.5 - 0.5 * p2 * p2) * p2
                slope = (27.0 / 16.0) * (1.0 - p2 * p2) * (1.0 - p1 * p1) * (1.0 - p0 * p0) * (1.0 - 2.0 * shift * mu)
                inside, outside = max(0.5 * (1.0 - p3), _TINY), max(0.5 * (1.0 + p3), _TINY)
                cells[a, g] *= inside
                cells[b, g] *= outside
                slopes[pair, 0, g] = -slope / inside
                slopes[pair, 1, g] = slope / outside
            pair += 1


@njit(cache=True, fastmath=True, error_model="numpy")
def _pairs(
    distance: FloatArray,
    n: int,
    owner: int,
    centres: FloatArray,
    weights: FloatArray,
    slopes: FloatArray,
    scale: FloatArray,
    radial: FloatArray,
    gradient: FloatArray,
) -> None:
    """Derivatives with mu_ab: along the lines from the nuclei to the points, and through the distance of the nuclei."""
    pair = 0
    for a in range(len(centres)):
        own_a = 1.0 if a == owner else 0.0
        for b in range(a):
            own_b = 1.0 if b == owner else 0.0
            inverse = 1.0 / np.sqrt(np.sum((centres[a] - centres[b]) ** 2))
            stretch = 0.0
            for g in range(n):
                change = scale[g] * (
                    (own_a - weights[a, g]) * slopes[pair, 0, g] + (own_b - weights[b, g]) * slopes[pair, 1, g]
                )
                stretch += change * (distance[a, g] - distance[b, g]) * inverse
                radial[a, g] += change * inverse
                radial[b, g] -= change * inverse
            for k in range(3):
                along = stretch * (centres[a, k] - centres[b, k]) * inverse * inverse
                gradient[a, k] -= along
                gradient[b, k] += along
            pair += 1

"""Bundles of gradient paths that run together for long before they part: followed as one, then started anew.

The density is nearly level between two atoms that hardly touch (at a ring point, or where one is about to appear).  All
paths that come near leave the bond critical point within 10^-10 of one azimuth, or less; rounded numbers cannot tell
them apart there.  A few paths of such a bundle are followed to where it has a width.  They define a smooth curve, from
which the paths between them start with all their digits.  Nothing but that curve is interpolated, and it lies upstream
of all that is hard.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev

from fflux_py.iqa.qtaim._gradient_paths import advance
from fflux_py.iqa.qtaim.starting_curves import Curve
from fflux_py.iqa.scf._density import DensityData, density_at
from fflux_py.typing import FloatArray

# A bundle narrower than this at its start (bohr) is followed until it is as wide as that.
_NARROW = 4e-3
_WIDE = 3e-2
_SMALLEST_WIDENING = 3.0
_N_PATHS = 7
_SPACING = 0.04
_MOST_LENGTHS = 400
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class FollowedBundle:
    """The part of a surface that a bundle has swept, and the curve from which its paths start anew.

    Parameters
    ----------
    points, elements
        Points (bohr) and area elements (bohr^2) of the part of the surface that is swept, ``(n, 3)``.
    curve
        Starting points of the paths, for parameters from -1 to 1.
    """

    points: FloatArray
    elements: FloatArray
    curve: Curve


def follow_bundle(
    data: DensityData, curve: Curve, low: float, high: float, end_density: float
) -> FollowedBundle | None:
    """Follow the paths that start on a part of a curve; None if they are no bundle that widens.

    Parameters
    ----------
    data
        The density.
    curve, low, high
        Where the paths start: the curve, and the two ends of an interval of its parameter.
    end_density
        Density at which paths end, e/bohr^3.
    """
    nodes, weights = _clenshaw_curtis()
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    origins = np.array([curve(middle + half * node) for node in nodes])
    origins[:, 1] *= half
    width = float(_widths(origins[None, :, 0])[0])
    if width > _NARROW:
        return None
    states = np.empty((_MOST_LENGTHS, _N_PATHS, 6))
    n_lengths = advance(data, origins, _TOLERANCE, end_density, _SPACING, states)
    widths = _widths(states[: max(n_lengths, 1), :, :3])
    wide = np.flatnonzero(widths > _WIDE)
    if len(wide) == 0:
        return None
    last = int(wide[0]) - 1
    last -= last % 2
    if last < 2 or widths[last] < _SMALLEST_WIDENING * width:
        return None
    simpson = np.full(last + 1, 2.0)
    simpson[1::2] = 4.0
    simpson[[0, -1]] = 1.0
    area = np.outer(simpson * _SPACING / 3.0, weights).ravel()
    points = states[: last + 1, :, :3].reshape(-1, 3)
    tangents = -density_at(data, points)[1]
    tangents /= np.linalg.norm(tangents, axis=1)[:, None]
    elements = area[:, None] * np.cross(tangents, states[: last + 1, :, 3:].reshape(-1, 3))
    coefficients = np.linalg.solve(chebyshev.chebvander(nodes, _N_PATHS - 1), states[last, :, :3])
    slope = chebyshev.chebder(coefficients)

    def new_curve(t: float) -> tuple[FloatArray, FloatArray]:
        point, derivative = chebyshev.chebval(t, coefficients), chebyshev.chebval(t, slope)
        return np.asarray(point, dtype=np.float64), np.asarray(derivative, dtype=np.float64)

    return FollowedBundle(points, elements, new_curve)


def _widths(positions: FloatArray) -> FloatArray:
    """Lengths of the lines from path to path, ``(n,)``."""
    return np.asarray(np.linalg.norm(np.diff(positions, axis=1), axis=2).sum(axis=1))


@cache
def _clenshaw_curtis() -> tuple[FloatArray, FloatArray]:
    """Nodes on [-1, 1], both ends among them, and weights."""
    nodes = -np.cos(np.pi * np.arange(_N_PATHS) / (_N_PATHS - 1))
    degrees = np.arange(_N_PATHS)
    integrals = np.where(degrees % 2 == 0, 2.0 / (1.0 - degrees.astype(float) ** 2 + (degrees == 1)), 0.0)
    weights = np.linalg.solve(chebyshev.chebvander(nodes, _N_PATHS - 1).T, integrals)
    return nodes, np.asarray(weights, dtype=np.float64)

"""Interatomic surfaces of topological atoms, as points with oriented area elements for integrals of a flux.

The surface between two bonded atoms consists of the paths of steepest ascent that end at the bond critical point.  It
is swept by following them downhill, away from that point: errors across the surface die out in this direction (the
density has a minimum across it).  With the azimuth phi at which a path leaves the bond critical point and its length s,
the area element is n dS = (dx/ds x dx/dphi) ds dphi; dx/dphi =: J follows the linearised equation of the path,

    dx/ds = -g / |g|,    dJ/ds = -H J / |g|    (up to a multiple of g, which does not count),

with the gradient g and the Hessian H of the density.  The paths are integrated with the method of order 8 of Dormand
and Prince (E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, Springer 1993), the azimuth
by adaptive Gauss-Kronrod quadrature, which needs no knowledge of where the paths crowd or fan out.  No ray from a
nucleus is ever intersected with a surface, so nothing depends on whether a basin is star-shaped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.integrate import DOP853

from fflux_py.errors import ConvergenceError
from fflux_py.iqa._density import DensityData, evaluate, workspace
from fflux_py.iqa.critical_points import CriticalPoints
from fflux_py.iqa.qtaim_starts import Curve, path_starts
from fflux_py.potential import FloatArray, IntArray

END_DENSITY = 1e-7
"""A path ends where the density falls below this, e/bohr^3."""
_LONGEST_STEP = 0.8
_N_STEP_NODES = 5
_TOLERANCE = 1e-6
_MAXIMUM_POINTS = 4000
_MAXIMUM_PANELS = 400

# Gauss-Kronrod (7, 15): nodes on [-1, 1], weights of both rules.
# fmt: off
_KRONROD_NODES = np.array([
    0.9914553711208126, 0.9491079123427585, 0.8648644233597691, 0.7415311855993945,
    0.5860872354676911, 0.4058451513773972, 0.2077849550078985, 0.0,
])
_KRONROD_WEIGHTS = np.array([
    0.0229353220105292, 0.0630920926299786, 0.1047900103222502, 0.1406532597155259,
    0.1690047266392679, 0.1903505780647854, 0.2044329400752989, 0.2094821410847278,
])
_GAUSS_WEIGHTS = np.array([0.1294849661688697, 0.2797053914892767, 0.3818300505051189, 0.4179591836734694])
# fmt: on
NODES = np.concatenate([-_KRONROD_NODES, _KRONROD_NODES[-2::-1]])
KRONROD = np.concatenate([_KRONROD_WEIGHTS, _KRONROD_WEIGHTS[-2::-1]])
GAUSS = np.zeros(15)
GAUSS[1::2] = np.concatenate([_GAUSS_WEIGHTS, _GAUSS_WEIGHTS[-2::-1]])


Fluxes = Callable[[FloatArray, FloatArray, IntArray], FloatArray]


@dataclass(frozen=True)
class Surface:
    """Points on one interatomic surface.

    Parameters
    ----------
    atoms
        The atoms on its negative and positive side.
    points
        Positions in bohr, ``(n, 3)``.
    elements
        Area elements, pointing from the first atom to the second, bohr^2, ``(n, 3)``.
    error
        Estimated error of the electrons that a flux through these points moves.
    """

    atoms: tuple[int, int]
    points: FloatArray
    elements: FloatArray
    error: float


def interatomic_surface(
    data: DensityData,
    topology: CriticalPoints,
    bond: int,
    fluxes: Fluxes,
    tolerance: float,
    name: str = "the molecule",
) -> Surface:
    """Sweep the surface through one bond critical point.

    Parameters
    ----------
    data
        The density.
    topology
        Its critical points.
    bond
        Which bond critical point.
    fluxes
        The fluxes that decide on the refinement: points ``(n, 3)``, area elements ``(n, 3)`` and the path of each
        (0 to 14) -> fluxes of every path, ``(15, n_fields)``.
    tolerance
        Error allowed in these fluxes together.
    name
        What to call the molecule in an error.

    Raises
    ------
    ConvergenceError
        The tolerance is not reached, or a path does not end.
    """
    starts = path_starts(data, topology, bond)
    tolerance *= starts.sharpness
    panels = [_panel(data, *place, fluxes, name) for place in starts.panels]
    while sum(p.error for p in panels) > tolerance:
        if len(panels) > _MAXIMUM_PANELS:
            a, b = (int(i) + 1 for i in topology.bonded[bond])
            raise ConvergenceError(
                f"surface between atoms {a} and {b} of {name}",
                f"a flux within {tolerance:g} electrons in {_MAXIMUM_PANELS} panels",
                f"an error of {sum(p.error for p in panels):.1e}",
                "leave the geometry out or use another partition",
            )
        worst = max(range(len(panels)), key=lambda k: panels[k].error)
        panel = panels.pop(worst)
        middle = 0.5 * (panel.low + panel.high)
        panels.append(_panel(data, panel.curve, panel.low, middle, fluxes, name))
        panels.append(_panel(data, panel.curve, middle, panel.high, fluxes, name))
    ends = topology.bonded[bond]
    return Surface(
        (int(ends[0]), int(ends[1])),
        np.concatenate([starts.centre] + [p.points for p in panels]),
        np.concatenate([starts.centre_elements] + [p.elements for p in panels]),
        float(sum(p.error for p in panels)),
    )


@dataclass(frozen=True)
class _Panel:
    curve: Curve
    low: float
    high: float
    points: FloatArray
    elements: FloatArray
    error: float


def _panel(
    data: DensityData,
    curve: Curve,
    low: float,
    high: float,
    fluxes: Fluxes,
    name: str,
) -> _Panel:
    """Fifteen paths that begin on a curve."""
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    begins = np.empty((15, 2, 3))
    for k, node in enumerate(NODES):
        begins[k] = curve(middle + half * node)
    points, elements = np.empty((15 * _MAXIMUM_POINTS, 3)), np.empty((15 * _MAXIMUM_POINTS, 3))
    counts = np.zeros(15, dtype=np.int64)
    total = _trace(data, begins, _TOLERANCE, END_DENSITY, points, elements, counts)
    if total < 0:
        raise ConvergenceError(
            f"surface of {name}",
            f"paths that end at a density of {END_DENSITY:g}",
            f"a path that does not end after {_MAXIMUM_POINTS} points",
            "leave the geometry out or use another partition",
        )
    points, elements = points[:total].copy(), elements[:total] * half
    owner = np.repeat(np.arange(15), counts)
    flux = fluxes(points, elements, owner)
    return _Panel(curve, low, high, points, elements * KRONROD[owner, None], float(_quadrature_errors(flux).sum()))


def _quadrature_errors(values: FloatArray) -> FloatArray:
    """Errors of the Kronrod rule for the columns of ``values`` at its nodes, by QUADPACK's estimate.

    The difference of the two rules is the error of the lower one; the higher one is far better.
    """
    error = np.abs((KRONROD - GAUSS) @ values)
    spread = KRONROD @ np.abs(values - 0.5 * (KRONROD @ values))
    scale = np.where(spread > 0.0, spread, 1.0)
    return np.asarray(spread * np.minimum(1.0, (200.0 * error / scale) ** 1.5))


@njit(cache=True)
def _slope(
    data: DensityData,
    state: FloatArray,
    phi: FloatArray,
    functions: FloatArray,
    gradient: FloatArray,
    hessian: FloatArray,
    out: FloatArray,
) -> float:  # pragma: no cover - compiled
    """Derivative of point and J by the length; returns the density."""
    density = evaluate(data, state[:3], phi, functions, gradient, hessian)
    length = np.sqrt(gradient[0] ** 2 + gradient[1] ** 2 + gradient[2] ** 2)
    inverse = 1.0 / max(length, 1e-14)
    for i in range(3):
        out[i] = -gradient[i] * inverse
        out[3 + i] = -(hessian[i, 0] * state[3] + hessian[i, 1] * state[4] + hessian[i, 2] * state[5]) * inverse
    # J along the path does not count; without it J stays short.
    along = out[0] * out[3] + out[1] * out[4] + out[2] * out[5]
    for i in range(3):
        out[3 + i] -= along * out[i]
    return density


@njit(cache=True)
def _trace(
    data: DensityData,
    begins: FloatArray,
    tolerance: float,
    end_density: float,
    points: FloatArray,
    elements: FloatArray,
    counts: IntArray,
) -> int:  # pragma: no cover - compiled
    """Follow paths downhill; points with elements go into the arrays.  Returns their number, or -1."""
    phi, functions = workspace(data)
    gradient, hessian = np.empty(3), np.empty((3, 3))
    slopes = np.zeros((16, 6))
    extension = np.empty((7, 6))
    place, tangent = np.empty(6), np.empty(6)
    total = 0
    trial, after = np.empty(6), np.empty(6)
    for path in range(begins.shape[0]):
        state = np.concatenate((begins[path, 0], begins[path, 1]))
        density = _slope(data, state, phi, functions, gradient, hessian, slopes[0])
        step = 0.06
        first = total
        while density > end_density:
            if total + _N_STEP_NODES > points.shape[0] or total - first > 3990:
                return -1
            for stage in range(1, 13):
                _combine(state, slopes, step, stage, trial)
                density_there = _slope(data, trial, phi, functions, gradient, hessian, slopes[stage])
            after[:] = trial
            error = _error(slopes, step, after, tolerance)
            factor = min(5.0, max(0.2, 0.9 * (error + 1e-12) ** -0.125))
            if error > 1.0:
                step *= factor
                if step < 1e-7:
                    return -1
                continue
            for stage in range(13, 16):
                _combine(state, slopes, step, stage, trial)
                _slope(data, trial, phi, functions, gradient, hessian, slopes[stage])
            _extension(state, after, slopes, step, extension)
            for q in range(_N_STEP_NODES):
                _dense(state, extension, _STEP_NODES[q], place, tangent)
                points[total] = place[:3]
                w = _STEP_WEIGHTS[q]
                elements[total, 0] = w * (tangent[1] * place[5] - tangent[2] * place[4])
                elements[total, 1] = w * (tangent[2] * place[3] - tangent[0] * place[5])
                elements[total, 2] = w * (tangent[0] * place[4] - tangent[1] * place[3])
                total += 1
            state[:] = after
            slopes[0] = slopes[12]
            density = density_there
            step = min(step * factor, _LONGEST_STEP)
        counts[path] = total - first
    return total


# Gauss's rule within a step.
_LEGENDRE = np.polynomial.legendre.leggauss(_N_STEP_NODES)
_STEP_NODES, _STEP_WEIGHTS = 0.5 + 0.5 * _LEGENDRE[0], 0.5 * _LEGENDRE[1]
_A = np.zeros((16, 16))
_A[:12, :12] = DOP853.A
_A[12, :12] = DOP853.B
_A[13:] = DOP853.A_EXTRA
_E3, _E5, _D = np.array(DOP853.E3), np.array(DOP853.E5), np.array(DOP853.D)


@njit(cache=True)
def _combine(
    state: FloatArray, slopes: FloatArray, step: float, stage: int, out: FloatArray
) -> None:  # pragma: no cover - compiled
    for i in range(6):
        value = 0.0
        for k in range(stage):
            value += _A[stage, k] * slopes[k, i]
        out[i] = state[i] + step * value


@njit(cache=True)
def _error(slopes: FloatArray, step: float, after: FloatArray, tolerance: float) -> float:  # pragma: no cover
    """Error of a step over the tolerance, that of J relative to its length."""
    scale = 20.0 * np.sqrt(after[3] ** 2 + after[4] ** 2 + after[5] ** 2) + 1e-300
    fifth, third = 0.0, 0.0
    for i in range(6):
        a, b = 0.0, 0.0
        for k in range(13):
            a += _E5[k] * slopes[k, i]
            b += _E3[k] * slopes[k, i]
        size = 1.0 if i < 3 else scale
        fifth += (a / size) ** 2
        third += (b / size) ** 2
    if fifth == 0.0:
        return 0.0
    return float(step * fifth / np.sqrt((fifth + 0.01 * third) * 6.0) / tolerance)


@njit(cache=True)
def _extension(
    state: FloatArray, after: FloatArray, slopes: FloatArray, step: float, out: FloatArray
) -> None:  # pragma: no cover - compiled
    """Coefficients of the continuous extension of order 7."""
    for i in range(6):
        change = after[i] - state[i]
        out[0, i] = change
        out[1, i] = step * slopes[0, i] - change
        out[2, i] = 2.0 * change - step * (slopes[12, i] + slopes[0, i])
        for row in range(4):
            value = 0.0
            for k in range(16):
                value += _D[row, k] * slopes[k, i]
            out[3 + row, i] = step * value


@njit(cache=True)
def _dense(
    state: FloatArray, extension: FloatArray, t: float, place: FloatArray, tangent: FloatArray
) -> None:  # pragma: no cover - compiled
    """State at the fraction t of a step, and its derivative by t."""
    for i in range(6):
        value, slope = 0.0, 0.0
        for k in range(7):
            value += extension[6 - k, i]
            if k % 2 == 0:
                slope = slope * t + value
                value *= t
            else:
                slope = slope * (1.0 - t) - value
                value *= 1.0 - t
        place[i] = state[i] + value
        tangent[i] = slope

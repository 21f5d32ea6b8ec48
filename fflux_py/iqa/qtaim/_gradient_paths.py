"""Paths of steepest descent of an electron density with the linearised distance to their neighbours, compiled.

A path x(s), s its length, and J, the derivative of x by a parameter of its starting point, follow

    dx/ds = -g / |g|,    dJ/ds = -H J / |g|    (up to a multiple of g, which does not count),

with the gradient g and the Hessian H of the density: six equations, integrated with the method of order 8 of Dormand
and Prince (E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, Springer 1993).
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import DOP853

from fflux_py._compiled.jit import njit
from fflux_py.iqa.scf._density import DensityData, evaluate, workspace
from fflux_py.typing import FloatArray, IntArray

_LONGEST_STEP = 0.8
_N_STEP_NODES = 5
MAXIMUM_POINTS = 4000
"""Most points of one path of :func:`trace`."""
# Gauss's rule within a step.
_LEGENDRE = np.polynomial.legendre.leggauss(_N_STEP_NODES)
_STEP_NODES, _STEP_WEIGHTS = 0.5 + 0.5 * _LEGENDRE[0], 0.5 * _LEGENDRE[1]
_A = np.zeros((16, 16))
_A[:12, :12] = DOP853.A
_A[12, :12] = DOP853.B
_A[13:] = DOP853.A_EXTRA
_E3, _E5, _D = np.array(DOP853.E3), np.array(DOP853.E5), np.array(DOP853.D)


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
def trace(
    data: DensityData,
    origins: FloatArray,
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
    interpolated, tangent = np.empty(6), np.empty(6)
    total = 0
    trial, after = np.empty(6), np.empty(6)
    for path in range(origins.shape[0]):
        state = np.concatenate((origins[path, 0], origins[path, 1]))
        density = _slope(data, state, phi, functions, gradient, hessian, slopes[0])
        step = 0.06
        first = total
        while density > end_density:
            if total + _N_STEP_NODES > points.shape[0] or total - first > MAXIMUM_POINTS - 10:
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
                _dense(state, extension, _STEP_NODES[q], interpolated, tangent)
                points[total] = interpolated[:3]
                w = _STEP_WEIGHTS[q]
                elements[total, 0] = w * (tangent[1] * interpolated[5] - tangent[2] * interpolated[4])
                elements[total, 1] = w * (tangent[2] * interpolated[3] - tangent[0] * interpolated[5])
                elements[total, 2] = w * (tangent[0] * interpolated[4] - tangent[1] * interpolated[3])
                total += 1
            state[:] = after
            slopes[0] = slopes[12]
            density = density_there
            step = min(step * factor, _LONGEST_STEP)
        counts[path] = total - first
    return total


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
    state: FloatArray, extension: FloatArray, t: float, interpolated: FloatArray, tangent: FloatArray
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
        interpolated[i] = state[i] + value
        tangent[i] = slope


@njit(cache=True)
def advance(
    data: DensityData, origins: FloatArray, tolerance: float, end_density: float, spacing: float, states: FloatArray
) -> int:  # pragma: no cover - compiled
    """Follow paths side by side; ``states[k, path]`` is that of a path after the length ``k * spacing``.

    Parameters
    ----------
    data
        The density.
    origins
        Starting points and J, shape ``(n_paths, 2, 3)``.
    tolerance
        Local error of a step in bohr.
    end_density
        All paths end where the first comes to a lower density, e/bohr^3.
    spacing
        Bohr.
    states
        Point and J, room for ``(n, n_paths, 6)``.

    Returns
    -------
    Number of lengths for which the states of all paths are known, or -1 if a step could not be made.
    """
    phi, functions = workspace(data)
    gradient, hessian = np.empty(3), np.empty((3, 3))
    slopes = np.zeros((16, 6))
    trial = np.empty(6)
    known = states.shape[0]
    for path in range(origins.shape[0]):
        state = np.concatenate((origins[path, 0], origins[path, 1]))
        states[0, path] = state
        density = _slope(data, state, phi, functions, gradient, hessian, slopes[0])
        step = 0.02
        for k in range(1, known):
            left = spacing
            while left > 0.0:
                h = min(step, left)
                for stage in range(1, 13):
                    _combine(state, slopes, h, stage, trial)
                    density = _slope(data, trial, phi, functions, gradient, hessian, slopes[stage])
                error = _error(slopes, h, trial, tolerance)
                step = h * min(5.0, max(0.2, 0.9 * (error + 1e-12) ** -0.125))
                if error > 1.0:
                    if step < 1e-7:
                        return -1
                    continue
                state[:] = trial
                slopes[0] = slopes[12]
                left = left - h if left - h > 1e-12 else 0.0
            if density < end_density:
                known = k
                break
            states[k, path] = state
    return int(known)

"""The symplectic gradient of a trained action and the solution of its step, compiled: what makes a step affordable.

:class:`fflux_py.propagators._torch.action.ActionNet` written out, value by value, with its gradient by the chain rule;
and Broyden's method for the step in place of Newton's, so that a step costs some gradients and no Hessian.  Both are
checked against automatic differentiation and Newton's method of :mod:`fflux_py.propagators._torch.action`.

Source: C. G. Broyden, A class of methods for solving nonlinear simultaneous equations, Math. Comp. 19, 577 (1965), the
first ("good") method, in its form for the inverse (Sherman and Morrison).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from fflux_py._compiled.features import BY_AXES, FRAME_ROWS, frame_axes, frame_axes_backward
from fflux_py._compiled.jit import njit
from fflux_py._compiled.vectors import dot
from fflux_py.bias._compiled import TORSION, variable
from fflux_py.typing import FloatArray, IntArray

FAST: Final = 14
"""Iterations with an inverse Jacobian from elsewhere, before it is made afresh."""

_SHIFT: Final = 1e-6
_LARGEST: Final = 1e6


class Layers(NamedTuple):
    """Weights and biases of two hidden layers and the last one."""

    w1: FloatArray
    b1: FloatArray
    w2: FloatArray
    b2: FloatArray
    w3: FloatArray
    b3: FloatArray


class ActionArrays(NamedTuple):
    """An action as arrays; the names are those of :class:`fflux_py.propagators._torch.action.ActionNet`."""

    frames: IntArray
    pairs: IntArray
    dihedrals: IntArray
    roots: FloatArray
    centre: FloatArray
    spread: FloatArray
    lower: IntArray
    linear: FloatArray
    quadratic: FloatArray
    metric: FloatArray
    length: float
    even: bool
    shape: Layers
    odd: Layers


@njit(cache=True, error_model="numpy")
def _layer(w: Any, b: Any, x: Any) -> Any:
    out = np.dot(w, x)
    for k in range(len(out)):
        out[k] = np.tanh(out[k] + b[k])
    return out


@njit(cache=True, error_model="numpy")
def _back(net: Any, first: Any, second: Any, slope: Any) -> Any:
    """Gradient by the inputs of a network, from that by its outputs and from its hidden values."""
    inner = np.dot(slope, net.w3)
    for k in range(len(inner)):
        inner[k] *= 1.0 - second[k] * second[k]
    outer = np.dot(inner, net.w2)
    for k in range(len(outer)):
        outer[k] *= 1.0 - first[k] * first[k]
    return np.dot(outer, net.w1)


@njit(cache=True, error_model="numpy")
def _features(q: Any, arrays: Any, x: Any, angle_gradients: Any) -> None:
    """Inverse distances, cosines and sines of dihedrals, centred and scaled; keeps the dihedrals' gradients."""
    n_pairs, n_dihedrals = len(arrays.pairs), len(arrays.dihedrals)
    arm = np.empty(3)
    for p in range(n_pairs):
        arm[:] = q[arrays.pairs[p, 0]] - q[arrays.pairs[p, 1]]
        x[p] = 1.0 / np.sqrt(dot(arm, arm))
    for d in range(n_dihedrals):
        angle = variable(q, TORSION, arrays.dihedrals[d], angle_gradients[d])
        x[n_pairs + d] = np.cos(angle)
        x[n_pairs + n_dihedrals + d] = np.sin(angle)
    for k in range(len(x)):
        x[k] = (x[k] - arrays.centre[k]) / arrays.spread[k]


@njit(cache=True, error_model="numpy")
def _features_back(q: Any, arrays: Any, x: Any, angle_gradients: Any, slope: Any, out: Any) -> None:
    """Add the gradient by q to ``out``, from that by the features x."""
    n_pairs, n_dihedrals = len(arrays.pairs), len(arrays.dihedrals)
    arm = np.empty(3)
    for p in range(n_pairs):
        i, j = arrays.pairs[p]
        arm[:] = q[i] - q[j]
        factor = -slope[p] / arrays.spread[p] / dot(arm, arm) ** 1.5
        for r in range(3):
            out[i, r] += factor * arm[r]
            out[j, r] -= factor * arm[r]
    for d in range(n_dihedrals):
        at_cosine, at_sine = n_pairs + d, n_pairs + n_dihedrals + d
        cosine = x[at_cosine] * arrays.spread[at_cosine] + arrays.centre[at_cosine]
        sine = x[at_sine] * arrays.spread[at_sine] + arrays.centre[at_sine]
        by_angle = cosine * slope[at_sine] / arrays.spread[at_sine]
        by_angle -= sine * slope[at_cosine] / arrays.spread[at_cosine]
        for corner in range(4):
            out[arrays.dihedrals[d, corner]] += by_angle * angle_gradients[d, corner]


@njit(cache=True, error_model="numpy")
def symplectic_gradient(z: Any, arrays: Any, out: Any) -> None:
    """J grad S at z = (y, u), shape ``(6 n_atoms,)``: dS/du, then -dS/dy."""
    n = len(arrays.roots)
    k = len(arrays.centre)
    y, u = z[: 3 * n].reshape(n, 3), z[3 * n :].reshape(n, 3)
    roots = arrays.roots
    total = 0.0
    drift, x, s = np.zeros(3), np.empty(k), np.empty(3 * n)
    q, moving = np.empty((n, 3)), np.empty((n, 3))
    for a in range(n):
        total += roots[a] * roots[a]
        drift += roots[a] * u[a]
        q[a] = y[a] * arrays.length / roots[a]
    drift /= total
    axes, angle_gradients = np.empty((n, FRAME_ROWS, 3)), np.empty((len(arrays.dihedrals), 4, 3))
    _features(q, arrays, x, angle_gradients)
    for a in range(n):
        frame_axes(q, arrays.frames[a], axes[a])
        moving[a] = u[a] - roots[a] * drift
        for r in range(3):
            s[3 * a + r] = dot(axes[a, r], moving[a])

    by_x = arrays.linear + np.dot(arrays.quadratic, x)
    by_s = np.zeros(3 * n)
    # the metric, which depends on the shape
    first = _layer(arrays.shape.w1, arrays.shape.b1, x)
    second = _layer(arrays.shape.w2, arrays.shape.b2, first)
    outputs = np.dot(arrays.shape.w3, second) + arrays.shape.b3
    slope = np.empty(len(outputs))
    slope[0] = 1.0
    for m in range(arrays.lower.shape[1]):
        i, j = arrays.lower[0, m], arrays.lower[1, m]
        factor = 0.5 * (arrays.metric[m] + outputs[1 + m])
        by_s[i] += factor * s[j]
        by_s[j] += factor * s[i]
        slope[1 + m] = 0.5 * s[i] * s[j]
    by_x += _back(arrays.shape, first, second, slope)
    # what is of higher order in the velocities
    joined = np.empty(k + 3 * n)
    joined[:k] = x
    one = np.ones(1)
    weight = 0.5 if arrays.even else 1.0
    for sign in (1.0, -1.0):
        if sign < 0.0 and not arrays.even:
            continue
        joined[k:] = sign * s
        first = _layer(arrays.odd.w1, arrays.odd.b1, joined)
        second = _layer(arrays.odd.w2, arrays.odd.b2, first)
        gradient = _back(arrays.odd, first, second, one)
        by_x += weight * gradient[:k]
        by_s += weight * sign * gradient[k:]

    by_q, by_moving, drifting, none = np.zeros((n, 3)), np.zeros((n, 3)), np.zeros(3), np.zeros(3)
    _features_back(q, arrays, x, angle_gradients, by_x, by_q)
    for a in range(n):
        for r in range(3):
            axes[a, BY_AXES + r] = by_s[3 * a + r] * moving[a]
            by_moving[a] += by_s[3 * a + r] * axes[a, r]
        drifting += roots[a] * by_moving[a]
        frame_axes_backward(q, arrays.frames[a], 0, axes[a], none, by_q)
    for a in range(n):
        for r in range(3):
            out[3 * a + r] = u[a, r] + by_moving[a, r] - roots[a] * drifting[r] / total
            out[3 * (n + a) + r] = -by_q[a, r] * arrays.length / roots[a]


@njit(cache=True, error_model="numpy")
def _inverse(middle: Any, arrays: Any) -> Any:
    """Inverse of 1 - J H / 2 at a midpoint, H by central differences of the field."""
    size = len(middle)
    jacobian, up, down = np.eye(size), np.empty(size), np.empty(size)
    moved = middle.copy()
    for k in range(size):
        moved[k] = middle[k] + _SHIFT
        symplectic_gradient(moved, arrays, up)
        moved[k] = middle[k] - _SHIFT
        symplectic_gradient(moved, arrays, down)
        moved[k] = middle[k]
        for r in range(size):
            jacobian[r, k] -= 0.25 * (up[r] - down[r]) / _SHIFT
    return np.linalg.inv(jacobian)


@njit(cache=True, error_model="numpy")
def solve(z: Any, guess: Any, arrays: Any, inverse: Any, fresh: bool, tolerance: float, most: int) -> Any:
    """Solve zb = z + J grad S(zb) / 2 for one geometry by Broyden's method; z' = 2 zb - z replaces ``guess``.

    Parameters
    ----------
    z, guess
        Start, and where the end may be, shape ``(6 n_atoms,)``.
    arrays
        The action.
    inverse
        An approximate inverse of the Jacobian, which is changed to that of this step, ``(6 n_atoms, 6 n_atoms)``.
    fresh
        Whether ``inverse`` holds nothing yet.
    tolerance, most
        Largest residual that counts as converged, and the most iterations.

    Returns
    -------
    iterations, residual
        The residual is not below the tolerance if the method did not converge.
    """
    size = len(z)
    middle = 0.5 * (z + guess)
    residual, last, value = np.empty(size), np.empty(size), np.empty(size)
    symplectic_gradient(middle, arrays, value)
    residual[:] = middle - z - 0.5 * value
    if fresh:
        inverse[:] = _inverse(middle, arrays)
    since = 0
    for iteration in range(most):
        largest = np.abs(residual).max()
        if largest < tolerance:
            # one move more costs no gradient, and takes the error far below the tolerance
            guess[:] = 2.0 * (middle - np.dot(inverse, residual)) - z
            return iteration, largest
        if not largest < _LARGEST:
            return iteration, largest
        if since == FAST:
            inverse[:] = _inverse(middle, arrays)
            since = 0
        since += 1
        move = -np.dot(inverse, residual)
        middle += move
        last[:] = residual
        symplectic_gradient(middle, arrays, value)
        residual[:] = middle - z - 0.5 * value
        # B + (dz - B dr) dz^T B / (dz^T B dr)
        applied = np.dot(inverse, residual - last)
        scale = np.dot(move, applied)
        if scale != 0.0:
            row = np.dot(move, inverse) / scale
            for i in range(size):
                gap = move[i] - applied[i]
                for j in range(size):
                    inverse[i, j] += gap * row[j]
    return most, np.abs(residual).max()

"""The field of a trained action and the solution of its step, compiled: what makes a step affordable.

:class:`fflux_py.propagators._action.ActionNet` written out, value by value, with its gradient by the chain rule; and
Broyden's method for the step in place of Newton's, so that a step costs some gradients and no Hessian.  Both are
checked against automatic differentiation and Newton's method of :mod:`fflux_py.propagators._action`.

Source: C. G. Broyden, A class of methods for solving nonlinear simultaneous equations, Math. Comp. 19, 577 (1965), the
first ("good") method, in its form for the inverse (Sherman and Morrison); dihedral gradients: A. Blondel and
M. Karplus, J. Comput. Chem. 17, 1132 (1996), equation 27.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit

from fflux_py.potential import FloatArray, IntArray

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
    """An action as arrays; the names are those of :class:`fflux_py.propagators._action.ActionNet`."""

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


@njit(cache=True)
def _layer(w: Any, b: Any, x: Any) -> Any:
    out = np.dot(w, x)
    for k in range(len(out)):
        out[k] = np.tanh(out[k] + b[k])
    return out


@njit(cache=True)
def _back(net: Any, first: Any, second: Any, slope: Any) -> Any:
    """Gradient by the inputs of a network, from that by its outputs and from its hidden values."""
    inner = np.dot(slope, net.w3)
    for k in range(len(inner)):
        inner[k] *= 1.0 - second[k] * second[k]
    outer = np.dot(inner, net.w2)
    for k in range(len(outer)):
        outer[k] *= 1.0 - first[k] * first[k]
    return np.dot(outer, net.w1)


@njit(cache=True)
def _cross(a: Any, b: Any, out: Any) -> None:
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]


@njit(cache=True)
def _dot(a: Any, b: Any) -> float:
    return float(a[0] * b[0] + a[1] * b[1] + a[2] * b[2])


@njit(cache=True)
def _features(q: Any, arrays: Any, x: Any) -> None:
    """Inverse distances, cosines and sines of dihedrals, centred and scaled."""
    n_pairs, n_dihedrals = len(arrays.pairs), len(arrays.dihedrals)
    f, g, h = np.empty(3), np.empty(3), np.empty(3)
    a, b, c = np.empty(3), np.empty(3), np.empty(3)
    for p in range(n_pairs):
        f[:] = q[arrays.pairs[p, 0]] - q[arrays.pairs[p, 1]]
        x[p] = 1.0 / np.sqrt(_dot(f, f))
    for d in range(n_dihedrals):
        i, j, k, m = arrays.dihedrals[d]
        f[:], g[:], h[:] = q[i] - q[j], q[j] - q[k], q[m] - q[k]
        _cross(f, g, a)
        _cross(h, g, b)
        _cross(b, a, c)
        size = np.sqrt(_dot(a, a) * _dot(b, b))
        x[n_pairs + d] = _dot(a, b) / size
        x[n_pairs + n_dihedrals + d] = _dot(c, g) / (size * np.sqrt(_dot(g, g)))
    for k in range(len(x)):
        x[k] = (x[k] - arrays.centre[k]) / arrays.spread[k]


@njit(cache=True)
def _features_back(q: Any, arrays: Any, x: Any, slope: Any, out: Any) -> None:
    """Add the gradient by q to ``out``, from that by the features x."""
    n_pairs, n_dihedrals = len(arrays.pairs), len(arrays.dihedrals)
    f, g, h = np.empty(3), np.empty(3), np.empty(3)
    a, b = np.empty(3), np.empty(3)
    for p in range(n_pairs):
        i, j = arrays.pairs[p]
        f[:] = q[i] - q[j]
        inverse = 1.0 / np.sqrt(_dot(f, f))
        factor = -slope[p] / arrays.spread[p] * inverse**3
        for r in range(3):
            out[i, r] += factor * f[r]
            out[j, r] -= factor * f[r]
    for d in range(n_dihedrals):
        i, j, k, m = arrays.dihedrals[d]
        at_cosine, at_sine = n_pairs + d, n_pairs + n_dihedrals + d
        cosine = x[at_cosine] * arrays.spread[at_cosine] + arrays.centre[at_cosine]
        sine = x[at_sine] * arrays.spread[at_sine] + arrays.centre[at_sine]
        by_angle = cosine * slope[at_sine] / arrays.spread[at_sine]
        by_angle -= sine * slope[at_cosine] / arrays.spread[at_cosine]
        f[:], g[:], h[:] = q[i] - q[j], q[j] - q[k], q[m] - q[k]
        _cross(f, g, a)
        _cross(h, g, b)
        axis = np.sqrt(_dot(g, g))
        of_a, of_b = by_angle / _dot(a, a), by_angle / _dot(b, b)
        along_f, along_h = _dot(f, g) / axis, _dot(h, g) / axis
        for r in range(3):
            end, other = of_a * axis * a[r], of_b * axis * b[r]
            shear = of_a * along_f * a[r] - of_b * along_h * b[r]
            out[i, r] -= end
            out[j, r] += end + shear
            out[k, r] -= shear + other
            out[m, r] += other


@njit(cache=True)
def _axes(p: Any, frames: Any, axes: Any, lengths: Any) -> None:
    """Local axes of every atom, and the lengths of both vectors that they are made of."""
    for a in range(len(frames)):
        atom, first, second = frames[a]
        x, y = axes[a, 0], axes[a, 1]
        x[:] = p[first] - p[atom]
        lengths[a, 0] = np.sqrt(_dot(x, x))
        x /= lengths[a, 0]
        y[:] = p[second] - p[atom]
        y -= _dot(y, x) * x
        lengths[a, 1] = np.sqrt(_dot(y, y))
        y /= lengths[a, 1]
        _cross(x, y, axes[a, 2])


@njit(cache=True)
def _axes_back(p: Any, frames: Any, axes: Any, lengths: Any, slope: Any, out: Any) -> None:
    """Add the gradient by p to ``out``, from that by the axes, ``(n_atoms, 3, 3)``; changes ``slope``."""
    turned = np.empty(3)
    for a in range(len(frames)):
        atom, first, second = frames[a]
        x, y = axes[a, 0], axes[a, 1]
        by_x, by_y, by_z = slope[a, 0], slope[a, 1], slope[a, 2]
        _cross(y, by_z, turned)
        by_x += turned
        _cross(by_z, x, turned)
        by_y += turned
        by_y -= _dot(by_y, y) * y
        by_y /= lengths[a, 1]
        other = p[second] - p[atom]
        along = _dot(by_y, x)
        by_x -= along * other + _dot(other, x) * by_y
        by_y -= along * x
        by_x -= _dot(by_x, x) * x
        by_x /= lengths[a, 0]
        for r in range(3):
            out[first, r] += by_x[r]
            out[second, r] += by_y[r]
            out[atom, r] -= by_x[r] + by_y[r]


@njit(cache=True)
def field(z: Any, arrays: Any, out: Any) -> None:
    """J grad S at z = (y, u), shape ``(6 n_atoms,)``: dS/du, then -dS/dy."""
    n = len(arrays.roots)
    k = len(arrays.centre)
    y, u = z[: 3 * n].reshape(n, 3), z[3 * n :].reshape(n, 3)
    roots = arrays.roots
    total = 0.0
    drift, x, s = np.zeros(3), np.empty(k), np.empty(3 * n)
    q, p, moving = np.empty((n, 3)), np.empty((n, 3)), np.empty((n, 3))
    for a in range(n):
        total += roots[a] * roots[a]
        drift += roots[a] * u[a]
        p[a] = y[a] / roots[a]
        q[a] = p[a] * arrays.length
    drift /= total
    axes, lengths = np.empty((n, 3, 3)), np.empty((n, 2))
    _features(q, arrays, x)
    _axes(p, arrays.frames, axes, lengths)
    for a in range(n):
        moving[a] = u[a] - roots[a] * drift
        for r in range(3):
            s[3 * a + r] = _dot(axes[a, r], moving[a])

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
        found = _back(arrays.odd, first, second, one)
        by_x += weight * found[:k]
        by_s += weight * sign * found[k:]

    by_q, by_p = np.zeros((n, 3)), np.zeros((n, 3))
    _features_back(q, arrays, x, by_x, by_q)
    by_axes, by_moving, drifting = np.empty((n, 3, 3)), np.zeros((n, 3)), np.zeros(3)
    for a in range(n):
        for r in range(3):
            by_axes[a, r] = by_s[3 * a + r] * moving[a]
            by_moving[a] += by_s[3 * a + r] * axes[a, r]
        drifting += roots[a] * by_moving[a]
    _axes_back(p, arrays.frames, axes, lengths, by_axes, by_p)
    for a in range(n):
        for r in range(3):
            out[3 * a + r] = u[a, r] + by_moving[a, r] - roots[a] * drifting[r] / total
            out[3 * (n + a) + r] = -(by_q[a, r] * arrays.length + by_p[a, r]) / roots[a]


@njit(cache=True)
def _inverse(middle: Any, arrays: Any) -> Any:
    """Inverse of 1 - J H / 2 at a midpoint, H by central differences of the field."""
    size = len(middle)
    jacobian, up, down = np.eye(size), np.empty(size), np.empty(size)
    moved = middle.copy()
    for k in range(size):
        moved[k] = middle[k] + _SHIFT
        field(moved, arrays, up)
        moved[k] = middle[k] - _SHIFT
        field(moved, arrays, down)
        moved[k] = middle[k]
        for r in range(size):
            jacobian[r, k] -= 0.25 * (up[r] - down[r]) / _SHIFT
    return np.linalg.inv(jacobian)


@njit(cache=True)
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
    field(middle, arrays, value)
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
        field(middle, arrays, value)
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

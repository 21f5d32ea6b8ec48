"""Features of one local frame, and the way back from their gradient to positions, in compiled code.

The plain NumPy counterpart, which the tests compare with, is :mod:`fflux_py.local_frame`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from fflux_py.potential import FloatArray, IntArray

FEATURES: Final = {"spherical": 0, "unit-vector": 1, "spherical-inverse-r": 2, "unit-vector-r": 3}
"""Numbers of the sets of features: odd with unit vectors, 1 and 2 with 1/R."""
_POLE: Final = 1e-12


@njit(cache=True, error_model="numpy")
def _cross(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]


@njit(cache=True, error_model="numpy")
def _dot(a: FloatArray, b: FloatArray) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]  # type: ignore[no-any-return]


@njit(cache=True, error_model="numpy")
def _axes(positions: FloatArray, frame: IntArray, axes: FloatArray, lengths: FloatArray) -> None:
    """Axes (rows) and |a|, |b|, e1.b, e2.b of a frame."""
    a, b = np.empty(3), np.empty(3)
    for c in range(3):
        a[c] = positions[frame[1], c] - positions[frame[0], c]
        b[c] = positions[frame[2], c] - positions[frame[0], c]
    lengths[0] = np.sqrt(_dot(a, a))
    lengths[1] = np.sqrt(_dot(b, b))
    for c in range(3):
        axes[0, c] = a[c] / lengths[0]
    lengths[2] = _dot(axes[0], b)
    for c in range(3):
        axes[1, c] = b[c] - lengths[2] * axes[0, c]
    lengths[3] = np.sqrt(_dot(axes[1], axes[1]))
    for c in range(3):
        axes[1, c] /= lengths[3]
    _cross(axes[0], axes[1], axes[2])


@njit(cache=True, error_model="numpy")
def local_features(
    positions: FloatArray,
    frame: IntArray,
    kind: int,
    axes: FloatArray,
    lengths: FloatArray,
    local: FloatArray,
    f: FloatArray,
) -> None:
    """Features of one atom; keeps axes, lengths and local coordinates for the way back."""
    _axes(positions, frame, axes, lengths)
    vectors, inverse = kind % 2 == 1, kind == 1 or kind == 2
    f[0], f[1] = lengths[0], lengths[1]
    if inverse:
        f[0], f[1] = 1.0 / lengths[0], 1.0 / lengths[1]
    f[2] = lengths[2] / lengths[1] if vectors else np.arctan2(lengths[3], lengths[2])
    k = 3
    d = np.empty(3)
    for i in range(positions.shape[0]):
        if i == frame[0] or i == frame[1] or i == frame[2]:
            continue
        for c in range(3):
            d[c] = positions[i, c] - positions[frame[0], c]
        x, y, z = _dot(axes[0], d), _dot(axes[1], d), _dot(axes[2], d)
        local[i, 0], local[i, 1], local[i, 2] = x, y, z
        r = np.sqrt(x * x + y * y + z * z)
        f[k] = 1.0 / r if inverse else r
        if vectors:
            f[k + 1], f[k + 2], f[k + 3] = x / r, y / r, z / r
            k += 4
        else:
            f[k + 1], f[k + 2] = np.arctan2(np.sqrt(x * x + y * y), z), np.arctan2(y, x)
            k += 3


@njit(cache=True, error_model="numpy")
def _local_gradient(kind: int, local: FloatArray, g: FloatArray, k: int, out: FloatArray) -> None:
    """Gradient by the local coordinates of one atom from the gradient by its features, which start at ``k``."""
    x, y, z = local[0], local[1], local[2]
    r2 = x * x + y * y + z * z
    r = np.sqrt(r2)
    by_distance = -g[k] / r2 if kind == 1 or kind == 2 else g[k]
    for c in range(3):
        out[c] = by_distance * local[c] / r
    if kind % 2 == 1:
        along = (g[k + 1] * x + g[k + 2] * y + g[k + 3] * z) / r2
        for c in range(3):
            out[c] += (g[k + 1 + c] - along * local[c]) / r
        return
    rho2 = x * x + y * y
    if rho2 > _POLE * r2:
        rho = np.sqrt(rho2)
        out[0] += g[k + 1] * z * x / (rho * r2) - g[k + 2] * y / rho2
        out[1] += g[k + 1] * z * y / (rho * r2) + g[k + 2] * x / rho2
        out[2] -= g[k + 1] * rho / r2
    else:
        out[2] -= g[k + 1] * np.sqrt(rho2) / r2


@njit(cache=True, error_model="numpy")
def local_features_backward(
    positions: FloatArray,
    frame: IntArray,
    kind: int,
    axes: FloatArray,
    lengths: FloatArray,
    local: FloatArray,
    g: FloatArray,
    gradient: FloatArray,
) -> None:
    """Add the gradient by positions from the gradient ``g`` by the features of one atom."""
    origin = frame[0]
    g_axes = np.zeros((3, 3))
    g_a, g_b, b = np.zeros(3), np.zeros(3), np.empty(3)
    d, g_local, tmp = np.empty(3), np.empty(3), np.empty(3)
    k = 3
    for i in range(positions.shape[0]):
        if i == frame[0] or i == frame[1] or i == frame[2]:
            continue
        _local_gradient(kind, local[i], g, k, g_local)
        k += 4 if kind % 2 == 1 else 3
        for c in range(3):
            d[c] = positions[i, c] - positions[origin, c]
        for c in range(3):
            pull = g_local[0] * axes[0, c] + g_local[1] * axes[1, c] + g_local[2] * axes[2, c]
            gradient[i, c] += pull
            gradient[origin, c] -= pull
            g_axes[0, c] += g_local[0] * d[c]
            g_axes[1, c] += g_local[1] * d[c]
            g_axes[2, c] += g_local[2] * d[c]
    for c in range(3):
        b[c] = positions[frame[2], c] - positions[origin, c]
    # chi, |a| and |b|; along = e1.b and across = |y| are the cosine and sine sides of chi
    r_b, along, across = lengths[1], lengths[2], lengths[3]
    g_length_a, g_length_b = g[0], g[1]
    if kind == 1 or kind == 2:
        g_length_a, g_length_b = -g[0] / lengths[0] ** 2, -g[1] / r_b**2
    if kind % 2 == 1:
        g_length_b -= g[2] * along / r_b**2
        g_along, g_across = g[2] / r_b, 0.0
    else:
        g_along, g_across = -g[2] * across / r_b**2, g[2] * along / r_b**2
    # e3 = e1 x e2
    _cross(axes[1], g_axes[2], tmp)
    for c in range(3):
        g_axes[0, c] += tmp[c]
    _cross(g_axes[2], axes[0], tmp)
    for c in range(3):
        g_axes[1, c] += tmp[c]
    # e2 = y / |y|, with |y| = across
    along_e2 = _dot(g_axes[1], axes[1])
    for c in range(3):
        tmp[c] = (g_axes[1, c] - along_e2 * axes[1, c]) / across + g_across * axes[1, c]
    # y = b - (e1.b) e1
    projected = _dot(tmp, axes[0])
    for c in range(3):
        g_b[c] += tmp[c] - projected * axes[0, c] + g_along * axes[0, c] + g_length_b * b[c] / r_b
        g_axes[0, c] += -projected * b[c] - along * tmp[c] + g_along * b[c]
    # e1 = a / |a|
    along_e1 = _dot(g_axes[0], axes[0])
    for c in range(3):
        g_a[c] = (g_axes[0, c] - along_e1 * axes[0, c]) / lengths[0] + g_length_a * axes[0, c]
        gradient[frame[1], c] += g_a[c]
        gradient[frame[2], c] += g_b[c]
        gradient[origin, c] -= g_a[c] + g_b[c]

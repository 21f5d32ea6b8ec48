"""Energy and forces of all atoms in compiled code: arrays in, arrays out.

For every atom: features of its local frame, scaled and embedded; one pass over the training points for the energy and
its gradient in the embedding; then the chain rule backwards through embedding, features, axes and frame to positions.
The plain NumPy counterpart, which the tests compare with, is :class:`fflux_py.atomic_model.AtomicModel`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit

from fflux_py.potential import FloatArray, IntArray

SPHERICAL: Final = 0
UNIT_VECTOR: Final = 1
SQUARED_EXPONENTIAL: Final = 0
MATERN52: Final = 1
_POLE: Final = 1e-12
_REASSOCIATE: Final = {"reassoc", "contract", "nsz"}


class KernelArrays(NamedTuple):
    """Everything that a force evaluation needs; ``n`` atoms, ``p`` training points, ``f`` features, ``d`` embedded.

    Parameters
    ----------
    frames
        Atom, x-axis atom, xy-plane atom, shape ``(n, 3)``.
    points
        Scaled, embedded training points, shape ``(n, p, d)``.
    weights
        Shape ``(n, p)``, hartree.
    slopes
        Slopes of the derivative basis, shape ``(n, p, d)``, hartree; ``(n, 0, d)`` in the plain basis.
    means
        Prior means, shape ``(n,)``, hartree.
    scales
        Square roots of theta, shape ``(n, f)``.
    periods
        Period of every embedded coordinate or zero, shape ``(n, d)``.
    expanded
        Features that stand as cosine and sine; the sine of the k-th stands at ``f + k``.
    options
        Feature kind, kernel shape, and one if any period is not zero; shape ``(3,)``.
    """

    frames: IntArray
    points: FloatArray
    weights: FloatArray
    slopes: FloatArray
    means: FloatArray
    scales: FloatArray
    periods: FloatArray
    expanded: IntArray
    options: IntArray


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
def _features(
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
    if kind == UNIT_VECTOR:
        f[0], f[1], f[2] = 1.0 / lengths[0], 1.0 / lengths[1], lengths[2] / lengths[1]
    else:
        f[0], f[1], f[2] = lengths[0], lengths[1], np.arctan2(lengths[3], lengths[2])
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
        if kind == UNIT_VECTOR:
            f[k], f[k + 1], f[k + 2], f[k + 3] = 1.0 / r, x / r, y / r, z / r
            k += 4
        else:
            f[k], f[k + 1], f[k + 2] = r, np.arctan2(np.sqrt(x * x + y * y), z), np.arctan2(y, x)
            k += 3


@njit(cache=True, error_model="numpy")
def _local_gradient(kind: int, local: FloatArray, g: FloatArray, k: int, out: FloatArray) -> None:
    """Gradient by the local coordinates of one atom from the gradient by its features, which start at ``k``."""
    x, y, z = local[0], local[1], local[2]
    r2 = x * x + y * y + z * z
    r = np.sqrt(r2)
    if kind == UNIT_VECTOR:
        along = (g[k + 1] * x + g[k + 2] * y + g[k + 3] * z) / r2
        for c in range(3):
            out[c] = (g[k + 1 + c] - along * local[c]) / r - g[k] * local[c] / (r2 * r)
        return
    rho2 = x * x + y * y
    for c in range(3):
        out[c] = g[k] * local[c] / r
    if rho2 > _POLE * r2:
        rho = np.sqrt(rho2)
        out[0] += g[k + 1] * z * x / (rho * r2) - g[k + 2] * y / rho2
        out[1] += g[k + 1] * z * y / (rho * r2) + g[k + 2] * x / rho2
        out[2] -= g[k + 1] * rho / r2
    else:
        out[2] -= g[k + 1] * np.sqrt(rho2) / r2


@njit(cache=True, error_model="numpy")
def _features_backward(
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
        k += 4 if kind == UNIT_VECTOR else 3
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
    if kind == UNIT_VECTOR:
        g_length_a, g_length_b = -g[0] / lengths[0] ** 2, -g[1] / r_b**2 - g[2] * along / r_b**2
        g_along, g_across = g[2] / r_b, 0.0
    else:
        g_length_a, g_length_b = g[0], g[1]
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


@njit(cache=True, error_model="numpy", fastmath=_REASSOCIATE)
def _posterior(
    z: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    slopes: FloatArray,
    periods: FloatArray,
    shape: int,
    wraps: int,
    difference: FloatArray,
    g: FloatArray,
) -> float:
    """Sum of weighted kernels at ``z``; its gradient by ``z`` is written to ``g``."""
    n_points, n_embedded = points.shape
    derivative_basis = slopes.shape[0] > 0
    g[:] = 0.0
    energy = 0.0
    for i in range(n_points):
        # Loops that sum write nothing: a loop that does both is compiled twice, vectorised and not, and which of the
        # two runs (and so the order of the sum) depends on where the arrays happen to lie in memory.
        for h in range(n_embedded):
            difference[h] = z[h] - points[i, h]
        if wraps:
            for h in range(n_embedded):
                if periods[h] > 0.0:
                    difference[h] -= periods[h] * np.floor(difference[h] / periods[h] + 0.5)
        s = 0.0
        for h in range(n_embedded):
            s += difference[h] * difference[h]
        if shape == SQUARED_EXPONENTIAL:
            k = np.exp(-s)
            k1, k2 = -k, k
        else:
            root = np.sqrt(10.0 * s)
            decay = np.exp(-root)
            k = (1.0 + root + root * root / 3.0) * decay
            k1 = -(5.0 / 3.0) * (1.0 + root) * decay
            k2 = (25.0 / 3.0) * decay
        if derivative_basis:
            along = 0.0
            for h in range(n_embedded):
                along += difference[h] * slopes[i, h]
            energy += weights[i] * k - 2.0 * k1 * along
            radial = 2.0 * (weights[i] * k1 - 2.0 * k2 * along)
            for h in range(n_embedded):
                g[h] += radial * difference[h] - 2.0 * k1 * slopes[i, h]
        else:
            energy += weights[i] * k
            radial = 2.0 * weights[i] * k1
            for h in range(n_embedded):
                g[h] += radial * difference[h]
    return energy


@njit(cache=True, error_model="numpy")
def atomic_energies_and_gradient(
    positions: FloatArray, arrays: KernelArrays, energies: FloatArray, gradient: FloatArray
) -> None:
    """Write the atomic energies (hartree, ``(n,)``) and the gradient of their sum (hartree/bohr, ``(n, 3)``)."""
    n_atoms = positions.shape[0]
    n_features = arrays.scales.shape[1]
    n_embedded = arrays.points.shape[2]
    kind, shape, wraps = arrays.options[0], arrays.options[1], arrays.options[2]
    axes, lengths, local = np.empty((3, 3)), np.empty(4), np.zeros((n_atoms, 3))
    f, g_f = np.empty(n_features), np.empty(n_features)
    z, g_z, difference = np.empty(n_embedded), np.empty(n_embedded), np.empty(n_embedded)
    gradient[:] = 0.0
    for a in range(n_atoms):
        frame, scale = arrays.frames[a], arrays.scales[a]
        _features(positions, frame, kind, axes, lengths, local, f)
        for h in range(n_features):
            z[h] = f[h] * scale[h]
        for k in range(len(arrays.expanded)):
            h = arrays.expanded[k]
            z[h] = np.cos(f[h]) * scale[h]
            z[n_features + k] = np.sin(f[h]) * scale[h]
        energies[a] = arrays.means[a] + _posterior(
            z, arrays.points[a], arrays.weights[a], arrays.slopes[a], arrays.periods[a], shape, wraps, difference, g_z
        )
        for h in range(n_features):
            g_f[h] = g_z[h] * scale[h]
        for k in range(len(arrays.expanded)):
            h = arrays.expanded[k]
            g_f[h] = g_z[n_features + k] * z[h] - g_z[h] * z[n_features + k]
        _features_backward(positions, frame, kind, axes, lengths, local, g_f, gradient)


@njit(cache=True, error_model="numpy")
def energy_and_forces(positions: FloatArray, arrays: KernelArrays) -> tuple[float, FloatArray]:
    """Energy (hartree) and forces (hartree/bohr, ``(n, 3)``) at positions (bohr, ``(n, 3)``)."""
    energies = np.empty(positions.shape[0])
    forces = np.empty_like(positions)
    atomic_energies_and_gradient(positions, arrays, energies, forces)
    for i in range(positions.shape[0]):
        for c in range(3):
            forces[i, c] = -forces[i, c]
    return energies.sum(), forces


@njit(cache=True, error_model="numpy")
def batch(positions: FloatArray, arrays: KernelArrays, energies: FloatArray, gradient: FloatArray) -> None:
    """:func:`atomic_energies_and_gradient` over geometries, shapes ``(m, n, 3)``, ``(m, n)``, ``(m, n, 3)``."""
    for k in range(positions.shape[0]):
        atomic_energies_and_gradient(positions[k], arrays, energies[k], gradient[k])

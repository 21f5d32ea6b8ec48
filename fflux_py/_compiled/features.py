"""Features of one local frame, and the way back from their gradient to positions, in compiled code.

Nothing is allocated, and every division and root is made once, as in a large group of replicas this is a good part of a
step.  The plain NumPy counterpart, which the tests compare with, is :mod:`fflux_py.gp.features`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py._compiled.vectors import cross, dot
from fflux_py.typing import FloatArray, IntArray

SPHERICAL: Final = 0
UNIT_VECTOR: Final = 1
SPHERICAL_INVERSE_R: Final = 2
UNIT_VECTOR_R: Final = 3
FEATURES: Final = {
    "spherical": SPHERICAL,
    "unit-vector": UNIT_VECTOR,
    "spherical-inverse-r": SPHERICAL_INVERSE_R,
    "unit-vector-r": UNIT_VECTOR_R,
}
"""Numbers of the kinds of features (:data:`fflux_py.gp.features.FORMS`)."""
FRAME_ROWS: Final = 11
"""Rows of scratch of one frame: three axes; lengths; and what the way back needs as scratch."""
_POLE: Final = 1e-12
# Sine of the angle below which three atoms stand on a line.
_LINEAR: Final = 1e-10
_LENGTHS: Final = 3  # |a|, |b|, e1.b; and e2.b in the row below
_ACROSS: Final = 4
BY_AXES: Final = 5
"""First of the three rows of a frame that hold the gradient by its axes."""

# arctan t = t + t^3 P(t^2) / Q(t^2) for t <= 0.66 (Moshier, Cephes mathematical library, 1989)
_P: Final = (
    -8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1, -1.228866684490136173410e2,
    -6.485021904942025371773e1,
)  # fmt: skip
_Q: Final = (
    2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2, 4.853903996359136964868e2,
    1.945506571482613964425e2,
)  # fmt: skip


@njit(cache=True, error_model="numpy")
def _directional(kind: int) -> bool:
    """Whether directions stand as unit vectors (four features of every other atom) and not as angles (three)."""
    return kind == UNIT_VECTOR or kind == UNIT_VECTOR_R


@njit(cache=True, error_model="numpy")
def _inverse(kind: int) -> bool:
    """Whether distances stand as 1/R and not as R."""
    return kind == UNIT_VECTOR or kind == SPHERICAL_INVERSE_R


@njit(cache=True, error_model="numpy")
def _of_length(r: float, kind: int) -> float:
    """How a distance stands among the features."""
    if _inverse(kind):
        return 1.0 / r
    return r


@njit(cache=True, error_model="numpy")
def _by_bond(g: float, r: float, kind: int) -> float:
    """Gradient by the distance r to an atom of the frame, from the gradient ``g`` by its feature."""
    if _inverse(kind):
        return -g / r**2
    return g


@njit(cache=True, error_model="numpy")
def _by_distance(g: float, q: float, kind: int) -> float:
    """Gradient by the distance 1/q to another atom, from the gradient ``g`` by its feature."""
    if _inverse(kind):
        return -g * q * q
    return g


@njit(cache=True, error_model="numpy")
def arctangent(y: float, x: float) -> float:
    """Angle of the point (x, y), as ``math.atan2`` to two units in the last place, in a third of its time."""
    wide, high = abs(x), abs(y)
    small, large = min(wide, high), max(wide, high)
    if large == 0.0:
        return 0.0
    base = 0.0
    if small > 0.66 * large:
        base = 0.25 * np.pi
        small, large = small - large, small + large
    t = small / large
    s = t * t
    p = (((_P[0] * s + _P[1]) * s + _P[2]) * s + _P[3]) * s + _P[4]
    q = ((((s + _Q[0]) * s + _Q[1]) * s + _Q[2]) * s + _Q[3]) * s + _Q[4]
    angle = base + (t + t * s * p / q)
    if high > wide:
        angle = 0.5 * np.pi - angle
    if x < 0.0:
        angle = np.pi - angle
    return -angle if y < 0.0 else angle


@njit(cache=True, error_model="numpy")
def frame_axes(positions: FloatArray, frame: IntArray, rows: FloatArray) -> None:
    """Axes (rows 0 to 2), and |a|, |b|, e1.b, e2.b of a frame."""
    a, b = rows[0], rows[1]
    for c in range(3):
        a[c] = positions[frame[1], c] - positions[frame[0], c]
        b[c] = positions[frame[2], c] - positions[frame[0], c]
    length_a, length_b = np.sqrt(dot(a, a)), np.sqrt(dot(b, b))
    for c in range(3):
        a[c] /= length_a
    along = dot(a, b)
    for c in range(3):
        b[c] -= along * a[c]
    across = np.sqrt(dot(b, b))
    if positions.shape[0] == 3 and not across > _LINEAR * length_b:
        # no feature of three atoms on a line depends on where the plane lies: any will do
        smallest = 0
        for c in range(1, 3):
            if abs(a[c]) < abs(a[smallest]):
                smallest = c
        for c in range(3):
            b[c] = -a[smallest] * a[c]
        b[smallest] += 1.0
        across = np.sqrt(dot(b, b))
        for c in range(3):
            b[c] /= across
        across = _LINEAR * length_b
    else:
        for c in range(3):
            b[c] /= across
    cross(a, b, rows[2])
    rows[_LENGTHS, 0], rows[_LENGTHS, 1], rows[_LENGTHS, 2], rows[_ACROSS, 0] = length_a, length_b, along, across


@njit(cache=True, error_model="numpy", nogil=True)
def smallest_sine(positions: FloatArray, frames: IntArray) -> float:
    """Smallest sine of the angle of a frame's three atoms, of all frames and geometries; NaN if one is.

    Parameters
    ----------
    positions, frames
        Bohr, ``(k, n, 3)``; the frames' atoms, ``(m, 3)``.
    """
    smallest, rows = 1.0, np.empty((FRAME_ROWS, 3))
    for k in range(positions.shape[0]):
        for frame in frames:
            frame_axes(positions[k], frame, rows)
            sine = rows[_ACROSS, 0] / rows[_LENGTHS, 1]
            if not sine >= smallest:
                smallest = sine
            if smallest != smallest:
                return smallest
    return smallest


@njit(cache=True, error_model="numpy")
def local_features(
    positions: FloatArray, frame: IntArray, kind: int, rows: FloatArray, local: FloatArray, f: FloatArray
) -> None:
    """Features of one atom; keeps what the way back needs.

    Parameters
    ----------
    positions, frame, kind
        Bohr, ``(n, 3)``; the frame's three atoms; a number of :data:`FEATURES`.
    rows, local
        Kept: axes and lengths, ``(FRAME_ROWS, 3)``; every other atom's local coordinates and 1/R, ``(n, 4)``.
    f
        The features.
    """
    frame_axes(positions, frame, rows)
    vectors = _directional(kind)
    length_a, length_b, along = rows[_LENGTHS, 0], rows[_LENGTHS, 1], rows[_LENGTHS, 2]
    f[0] = _of_length(length_a, kind)
    f[1] = _of_length(length_b, kind)
    f[2] = along / length_b if vectors else arctangent(rows[_ACROSS, 0], along)
    x0, x1, x2, y0, y1, y2 = rows[0, 0], rows[0, 1], rows[0, 2], rows[1, 0], rows[1, 1], rows[1, 2]
    z0, z1, z2 = rows[2, 0], rows[2, 1], rows[2, 2]
    o0, o1, o2 = positions[frame[0], 0], positions[frame[0], 1], positions[frame[0], 2]
    k = 3
    for i in range(positions.shape[0]):
        if i == frame[0] or i == frame[1] or i == frame[2]:
            continue
        d0, d1, d2 = positions[i, 0] - o0, positions[i, 1] - o1, positions[i, 2] - o2
        x, y, z = x0 * d0 + x1 * d1 + x2 * d2, y0 * d0 + y1 * d1 + y2 * d2, z0 * d0 + z1 * d1 + z2 * d2
        rho2 = x * x + y * y
        r = np.sqrt(rho2 + z * z)
        q = 1.0 / r
        local[i, 0], local[i, 1], local[i, 2], local[i, 3] = x, y, z, q
        f[k] = _of_length(r, kind)
        if vectors:
            f[k + 1], f[k + 2], f[k + 3] = x * q, y * q, z * q
            k += 4
        else:
            f[k + 1], f[k + 2] = arctangent(np.sqrt(rho2), z), arctangent(y, x)
            k += 3


@njit(cache=True, error_model="numpy")
def _local_gradient(kind: int, local: FloatArray, g: FloatArray, k: int) -> tuple[float, float, float]:
    """Gradient by the local coordinates of one atom from the gradient by its features, which start at ``k``."""
    q = local[3]
    x, y, z = local[0] * q, local[1] * q, local[2] * q
    by_distance = _by_distance(g[k], q, kind)
    if _directional(kind):
        along = by_distance - (g[k + 1] * x + g[k + 2] * y + g[k + 3] * z) * q
        return along * x + g[k + 1] * q, along * y + g[k + 2] * q, along * z + g[k + 3] * q
    rho2 = x * x + y * y
    rho = np.sqrt(rho2)
    g0, g1, g2 = by_distance * x, by_distance * y, by_distance * z - g[k + 1] * rho * q
    if rho2 > _POLE:
        turn, tilt = g[k + 2] * q / rho2, g[k + 1] * z * q / rho
        g0 += tilt * x - turn * y
        g1 += tilt * y + turn * x
    return g0, g1, g2


@njit(cache=True, error_model="numpy")
def local_features_backward(
    positions: FloatArray, frame: IntArray, kind: int, rows: FloatArray, local: FloatArray, g: FloatArray,
    gradient: FloatArray,
) -> None:  # fmt: skip
    """Add the gradient by positions from the gradient ``g`` by the features of one atom."""
    o0, o1, o2 = positions[frame[0], 0], positions[frame[0], 1], positions[frame[0], 2]
    x0, x1, x2, y0, y1, y2 = rows[0, 0], rows[0, 1], rows[0, 2], rows[1, 0], rows[1, 1], rows[1, 2]
    z0, z1, z2 = rows[2, 0], rows[2, 1], rows[2, 2]
    p0, p1, p2 = 0.0, 0.0, 0.0  # pull on the origin
    # gradient by the axes
    gx0, gx1, gx2, gy0, gy1, gy2, gz0, gz1, gz2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    k = 3
    for i in range(positions.shape[0]):
        if i == frame[0] or i == frame[1] or i == frame[2]:
            continue
        gx, gy, gz = _local_gradient(kind, local[i], g, k)
        k += 4 if _directional(kind) else 3
        d0, d1, d2 = positions[i, 0] - o0, positions[i, 1] - o1, positions[i, 2] - o2
        f0, f1, f2 = gx * x0 + gy * y0 + gz * z0, gx * x1 + gy * y1 + gz * z1, gx * x2 + gy * y2 + gz * z2
        gradient[i, 0] += f0
        gradient[i, 1] += f1
        gradient[i, 2] += f2
        p0, p1, p2 = p0 + f0, p1 + f1, p2 + f2
        gx0, gx1, gx2 = gx0 + gx * d0, gx1 + gx * d1, gx2 + gx * d2
        gy0, gy1, gy2 = gy0 + gy * d0, gy1 + gy * d1, gy2 + gy * d2
        gz0, gz1, gz2 = gz0 + gz * d0, gz1 + gz * d1, gz2 + gz * d2
    rows[BY_AXES, 0], rows[BY_AXES, 1], rows[BY_AXES, 2] = gx0, gx1, gx2
    rows[BY_AXES + 1, 0], rows[BY_AXES + 1, 1], rows[BY_AXES + 1, 2] = gy0, gy1, gy2
    rows[BY_AXES + 2, 0], rows[BY_AXES + 2, 1], rows[BY_AXES + 2, 2] = gz0, gz1, gz2
    gradient[frame[0], 0] -= p0
    gradient[frame[0], 1] -= p1
    gradient[frame[0], 2] -= p2
    frame_axes_backward(positions, frame, kind, rows, g, gradient)


@njit(cache=True, error_model="numpy")
def frame_axes_backward(
    positions: FloatArray, frame: IntArray, kind: int, rows: FloatArray, g: FloatArray, gradient: FloatArray
) -> None:
    """Add the gradient by the frame's atoms from that by the axes (in ``rows``) and by |a|, |b| and chi."""
    e1, e2, tmp, b = rows[0], rows[1], rows[8], rows[9]
    g_e1, g_e2, g_e3 = rows[BY_AXES], rows[BY_AXES + 1], rows[BY_AXES + 2]
    for c in range(3):
        b[c] = positions[frame[2], c] - positions[frame[0], c]
    # along = e1.b and across = |y| are the cosine and sine sides of chi
    r_a, r_b, along, across = rows[_LENGTHS, 0], rows[_LENGTHS, 1], rows[_LENGTHS, 2], rows[_ACROSS, 0]
    g_length_a, g_length_b = _by_bond(g[0], r_a, kind), _by_bond(g[1], r_b, kind)
    if _directional(kind):
        g_length_b -= g[2] * along / r_b**2
        g_along, g_across = g[2] / r_b, 0.0
    else:
        g_along, g_across = -g[2] * across / r_b**2, g[2] * along / r_b**2
    # e3 = e1 x e2
    cross(e2, g_e3, tmp)
    for c in range(3):
        g_e1[c] += tmp[c]
    cross(g_e3, e1, tmp)
    for c in range(3):
        g_e2[c] += tmp[c]
    # e2 = y / |y|, with |y| = across
    along_e2 = dot(g_e2, e2)
    for c in range(3):
        tmp[c] = (g_e2[c] - along_e2 * e2[c]) / across + g_across * e2[c]
    # y = b - (e1.b) e1
    projected = dot(tmp, e1)
    for c in range(3):
        g_e1[c] += -projected * b[c] - along * tmp[c] + g_along * b[c]
        tmp[c] += (g_along - projected) * e1[c] + g_length_b * b[c] / r_b
    # e1 = a / |a|
    along_e1 = dot(g_e1, e1)
    for c in range(3):
        by_a = (g_e1[c] - along_e1 * e1[c]) / r_a + g_length_a * e1[c]
        gradient[frame[1], c] += by_a
        gradient[frame[2], c] += tmp[c]
        gradient[frame[0], c] -= by_a + tmp[c]

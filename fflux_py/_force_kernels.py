"""Energy and forces of all atoms in compiled code: arrays in, arrays out.

For every frame: features, scaled and embedded; one pass over the training points for the energy and its gradient in the
embedding; then the chain rule backwards through embedding, features, axes and frame to positions.  Training points
stand transposed (coordinate by point) in blocks that stay in the cache while all *queries* pass over them: those of
several geometries, and with symmetry those of all images, which are the same points seen from permuted coordinates.
Inner loops run over the points of a block, so that they and the exponential are vector code.

The plain NumPy counterpart, which the tests compare with, is :class:`fflux_py.atomic_model.AtomicModel`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit

from fflux_py._feature_kernels import local_features, local_features_backward
from fflux_py.potential import FloatArray, IntArray

SQUARED_EXPONENTIAL: Final = 0
MATERN52: Final = 1
BLOCK: Final = 32
"""Training points of a block; their number is padded to a multiple."""
TOGETHER: Final = 8
"""Geometries that pass over the points of a block together."""
_REASSOCIATE: Final = {"reassoc", "contract", "nsz"}
_ROTOR: Final = 12  # features of a rotor's three atoms

# exp(x) = 2^n exp(r): adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
_LOG2E: Final = 1.4426950408889634
_ROUND: Final = 6755399441055744.0
_LN2_HIGH: Final = 6.93145751953125e-1
_LN2_LOW: Final = 1.42860682030941723212e-6
_SMALLEST: Final = -708.0


class KernelArrays(NamedTuple):
    """What a force evaluation needs; ``m`` frames, ``p`` blocks of points, ``f`` features, ``d`` embedded.

    An atom has one frame, or several with symmetry.

    Parameters
    ----------
    frames
        Atom, x-axis atom, xy-plane atom, shape ``(m, 3)``.
    points
        Scaled, embedded training points, shape ``(m, p, d, BLOCK)``.
    weights
        Shape ``(m, p, BLOCK)``, hartree; zero where padded.
    slopes
        Slopes of the derivative basis, shape ``(m, p, d, BLOCK)``, hartree; ``(m, p, 0, BLOCK)`` in the plain basis.
    means
        Prior means, shape ``(m,)``, hartree.
    polynomials
        Centre, linear and quadratic coefficients of a mean in the embedded features, shape ``(m, 3, d)``; ``(m, 0, d)``
        if the means are constants.
    scales
        Square roots of theta, shape ``(m, f)``.
    periods
        Period of every embedded coordinate or zero, shape ``(m, d)``.
    expanded
        Features that stand as cosine and sine; the sine of the k-th stands at ``f + k``.
    first_query
        Where the queries of a frame's points begin, and their number at the end, shape ``(m + 1,)``.
    sources
        Frame whose features make a query, shape ``(q,)``.
    order, signs, shifts
        A query's coordinate h is ``signs[h] * z[order[h]] + shifts[h]`` of its frame's z, shapes ``(q, d)``; the
        coordinates of rotors come last.
    rotors
        Numbers of rotors, shape ``(m,)``.
    options
        Feature kind, kernel shape, and one if any period is not zero; shape ``(3,)``.
    """

    frames: IntArray
    points: FloatArray
    weights: FloatArray
    slopes: FloatArray
    means: FloatArray
    polynomials: FloatArray
    scales: FloatArray
    periods: FloatArray
    expanded: IntArray
    first_query: IntArray
    sources: IntArray
    order: IntArray
    signs: FloatArray
    shifts: FloatArray
    rotors: IntArray
    options: IntArray


@njit(cache=True, error_model="numpy")
def exponential(x: FloatArray, out: FloatArray, rounded: FloatArray, bits: IntArray) -> None:
    """Write exp of :data:`BLOCK` numbers that are not positive, to one unit in the last place or two.

    Parameters
    ----------
    x, out
        Arguments and results.  Below -708 the result is that of -708, 3e-308.
    rounded, bits
        Scratch: one memory, seen as floating-point numbers and as integers.
    """
    for i in range(BLOCK):
        rounded[i] = max(x[i], _SMALLEST) * _LOG2E + _ROUND
    for i in range(BLOCK):
        n = rounded[i] - _ROUND
        r = max(x[i], _SMALLEST) - n * _LN2_HIGH - n * _LN2_LOW
        e = 1.0 / 6227020800.0
        e = e * r + 1.0 / 479001600.0
        e = e * r + 1.0 / 39916800.0
        e = e * r + 1.0 / 3628800.0
        e = e * r + 1.0 / 362880.0
        e = e * r + 1.0 / 40320.0
        e = e * r + 1.0 / 5040.0
        e = e * r + 1.0 / 720.0
        e = e * r + 1.0 / 120.0
        e = e * r + 1.0 / 24.0
        e = e * r + 1.0 / 6.0
        e = e * r + 0.5
        e = e * r + 1.0
        out[i] = e * r + 1.0
    for i in range(BLOCK):
        bits[i] = (bits[i] << 52) + (1023 << 52)
    for i in range(BLOCK):
        out[i] *= rounded[i]


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _distances(
    z: FloatArray, first: int, last: int, shift: int, points: FloatArray, slopes: FloatArray, s: FloatArray,
    along: FloatArray,
) -> None:  # fmt: skip
    """Add squared distances, and slopes along the differences, of coordinates ``first`` to ``last`` of a block.

    ``shift`` places the points' coordinates against the query's: it turns a rotor's atoms.  Four coordinates at once
    keep the sums in registers for longer.
    """
    derivative_basis = slopes.shape[0] > 0
    whole = last - (last - first) % 4
    for h in range(first, whole, 4):
        t = h + shift
        z0, z1, z2, z3 = z[h], z[h + 1], z[h + 2], z[h + 3]
        if derivative_basis:
            for i in range(BLOCK):
                d0, d1, d2, d3 = z0 - points[t, i], z1 - points[t + 1, i], z2 - points[t + 2, i], z3 - points[t + 3, i]
                s[i] += d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
                along[i] += d0 * slopes[t, i] + d1 * slopes[t + 1, i] + d2 * slopes[t + 2, i] + d3 * slopes[t + 3, i]
        else:
            for i in range(BLOCK):
                d0, d1, d2, d3 = z0 - points[t, i], z1 - points[t + 1, i], z2 - points[t + 2, i], z3 - points[t + 3, i]
                s[i] += d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
    for h in range(whole, last):
        t = h + shift
        for i in range(BLOCK):
            d0 = z[h] - points[t, i]
            s[i] += d0 * d0
            if derivative_basis:
                along[i] += d0 * slopes[t, i]


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _wrapped_distances(
    z: FloatArray, points: FloatArray, slopes: FloatArray, periods: FloatArray, s: FloatArray, along: FloatArray
) -> None:
    """The same for all coordinates, those with a period by the nearest image."""
    for h in range(len(z)):
        for i in range(BLOCK):
            d = z[h] - points[h, i]
            if periods[h] > 0.0:
                d -= periods[h] * np.floor(d / periods[h] + 0.5)
            s[i] += d * d
            if slopes.shape[0] > 0:
                along[i] += d * slopes[h, i]


@njit(cache=True, error_model="numpy", fastmath=_REASSOCIATE)
def _gradient(
    z: FloatArray, first: int, last: int, shift: int, points: FloatArray, slopes: FloatArray, radial: FloatArray,
    flat: FloatArray, g: FloatArray,
) -> None:  # fmt: skip
    """Add the gradient by coordinates ``first`` to ``last``: radial times difference, and flat times slope.

    The loops that sum write nothing: a loop that does both is compiled twice, vectorised and not, and which of the two
    runs (and so the order of the sum) depends on where the arrays happen to lie in memory.
    """
    derivative_basis = slopes.shape[0] > 0
    whole = last - (last - first) % 4
    for h in range(first, whole, 4):
        t = h + shift
        z0, z1, z2, z3 = z[h], z[h + 1], z[h + 2], z[h + 3]
        g0, g1, g2, g3 = 0.0, 0.0, 0.0, 0.0
        if derivative_basis:
            for i in range(BLOCK):
                g0 += radial[i] * (z0 - points[t, i]) + flat[i] * slopes[t, i]
                g1 += radial[i] * (z1 - points[t + 1, i]) + flat[i] * slopes[t + 1, i]
                g2 += radial[i] * (z2 - points[t + 2, i]) + flat[i] * slopes[t + 2, i]
                g3 += radial[i] * (z3 - points[t + 3, i]) + flat[i] * slopes[t + 3, i]
        else:
            for i in range(BLOCK):
                g0 += radial[i] * (z0 - points[t, i])
                g1 += radial[i] * (z1 - points[t + 1, i])
                g2 += radial[i] * (z2 - points[t + 2, i])
                g3 += radial[i] * (z3 - points[t + 3, i])
        g[h] += g0
        g[h + 1] += g1
        g[h + 2] += g2
        g[h + 3] += g3
    for h in range(whole, last):
        t, total = h + shift, 0.0
        if derivative_basis:
            for i in range(BLOCK):
                total += radial[i] * (z[h] - points[t, i]) + flat[i] * slopes[t, i]
        else:
            for i in range(BLOCK):
                total += radial[i] * (z[h] - points[t, i])
        g[h] += total


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _wrapped_gradient(
    z: FloatArray, points: FloatArray, slopes: FloatArray, periods: FloatArray, radial: FloatArray, flat: FloatArray,
    g: FloatArray,
) -> None:  # fmt: skip
    """The same for all coordinates, those with a period by the nearest image."""
    for h in range(len(z)):
        for i in range(BLOCK):
            d = z[h] - points[h, i]
            if periods[h] > 0.0:
                d -= periods[h] * np.floor(d / periods[h] + 0.5)
            g[h] += radial[i] * d
            if slopes.shape[0] > 0:
                g[h] += flat[i] * slopes[h, i]


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _radial_parts(
    shape: int, weights: FloatArray, derivative_basis: bool, w: tuple[FloatArray, ...], bits: IntArray
) -> None:
    """From squared distances and slopes to energies and the two factors of the gradient, for a block without rotors."""
    s, along, k, radial, flat, energy, rounded = w[:7]
    if shape == SQUARED_EXPONENTIAL:
        for i in range(BLOCK):
            s[i] = -s[i]
        exponential(s, k, rounded, bits)
        for i in range(BLOCK):
            total = weights[i] + 2.0 * along[i]
            energy[i] = k[i] * total
            radial[i] = -2.0 * k[i] * total
            flat[i] = 2.0 * k[i]
        return
    for i in range(BLOCK):
        flat[i] = np.sqrt(10.0 * s[i])
    for i in range(BLOCK):
        s[i] = -flat[i]
    exponential(s, k, rounded, bits)
    for i in range(BLOCK):
        root = flat[i]
        slope = -(5.0 / 3.0) * (1.0 + root) * k[i]
        energy[i] = weights[i] * (1.0 + root + root * root / 3.0) * k[i] - 2.0 * slope * along[i]
        radial[i] = 2.0 * (weights[i] * slope - (50.0 / 3.0) * k[i] * along[i])
        flat[i] = -2.0 * slope


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _rotor_parts(
    weights: FloatArray, n_rotors: int, w: tuple[FloatArray, ...], turns: FloatArray, bits: IntArray
) -> None:
    """The same with rotors: squared exponentials, summed over the permutations p of every rotor m.

    A term is ``K (w + 2 u.d + 2 sum_m tau_m)``, with ``tau_m`` the mean slope along a rotor's differences over the
    shares of its permutations (:mod:`fflux_py._joint_kernels`).  On return ``turns[0, m, p]`` holds the radial and
    ``turns[1, m, p]`` the flat factor of a rotor's coordinates, and ``turns[2, m, 0]`` its mean slope.
    """
    s, along, k, radial, flat, energy, rounded = w[:7]
    for i in range(BLOCK):
        flat[i] = 1.0
        energy[i] = weights[i] + 2.0 * along[i]
    for m in range(n_rotors):
        squares, slopes, means = turns[0, m], turns[1, m], turns[2, m, 0]
        for i in range(BLOCK):
            radial[i] = min(squares[0, i], min(squares[1, i], squares[2, i]))
            s[i] += radial[i]
        for p in range(3):
            for i in range(BLOCK):
                squares[p, i] = radial[i] - squares[p, i]
            exponential(squares[p], k, rounded, bits)
            for i in range(BLOCK):
                squares[p, i] = k[i]
        for i in range(BLOCK):
            whole = squares[0, i] + squares[1, i] + squares[2, i]
            flat[i] *= whole
            mean = squares[0, i] * slopes[0, i] + squares[1, i] * slopes[1, i] + squares[2, i] * slopes[2, i]
            means[i] = 2.0 * mean / whole
            energy[i] += means[i]
            for p in range(3):
                squares[p, i] /= whole
    for i in range(BLOCK):
        s[i] = -s[i]
    exponential(s, k, rounded, bits)
    for i in range(BLOCK):
        k[i] *= flat[i]
        radial[i] = -2.0 * k[i] * energy[i]
        flat[i] = 2.0 * k[i]
    for m in range(n_rotors):
        for p in range(3):
            for i in range(BLOCK):
                share = turns[0, m, p, i] * k[i]
                turns[0, m, p, i] = -2.0 * share * (energy[i] - turns[2, m, 0, i] + 2.0 * turns[1, m, p, i])
                turns[1, m, p, i] = 2.0 * share
    for i in range(BLOCK):
        energy[i] *= k[i]


@njit(cache=True, error_model="numpy")
def _block(
    z: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    slopes: FloatArray,
    periods: FloatArray,
    n_rotors: int,
    options: IntArray,
    w: tuple[FloatArray, ...],
    turns: FloatArray,
    bits: IntArray,
    g: FloatArray,
) -> float:
    """Energy of one query over one block of points; its gradient is added to ``g``."""
    s, along, _, radial, flat, energy, _ = w[:7]
    n_plain = len(z) - _ROTOR * n_rotors
    wraps = options[2] > 0
    for i in range(BLOCK):
        s[i] = 0.0
        along[i] = 0.0
    if wraps:
        _wrapped_distances(z, points, slopes, periods, s, along)
    else:
        _distances(z, 0, n_plain, 0, points, slopes, s, along)
    if n_rotors == 0:
        _radial_parts(options[1], weights, slopes.shape[0] > 0, w, bits)
    else:
        turns[:2] = 0.0
        for m in range(n_rotors):
            for p in range(3):
                for q in range(3):
                    first = n_plain + _ROTOR * m + 4 * q
                    shift = 4 * ((q + p) % 3 - q)
                    _distances(z, first, first + 4, shift, points, slopes, turns[0, m, p], turns[1, m, p])
        _rotor_parts(weights, n_rotors, w, turns, bits)
        for m in range(n_rotors):
            for p in range(3):
                for q in range(3):
                    first = n_plain + _ROTOR * m + 4 * q
                    shift = 4 * ((q + p) % 3 - q)
                    _gradient(z, first, first + 4, shift, points, slopes, turns[0, m, p], turns[1, m, p], g)
    if wraps:
        _wrapped_gradient(z, points, slopes, periods, radial, flat, g)
    else:
        _gradient(z, 0, n_plain, 0, points, slopes, radial, flat, g)
    total = 0.0
    for i in range(BLOCK):
        total += energy[i]
    return total


@njit(cache=True, error_model="numpy")
def _embedded(f: FloatArray, arrays: KernelArrays, a: int, z: FloatArray) -> None:
    """Scaled, embedded coordinates of one frame's features."""
    scale = arrays.scales[a]
    n_features = len(f)
    for h in range(n_features):
        z[h] = f[h] * scale[h]
    for k in range(len(arrays.expanded)):
        h = arrays.expanded[k]
        z[h] = np.cos(f[h]) * scale[h]
        z[n_features + k] = np.sin(f[h]) * scale[h]


@njit(cache=True, error_model="numpy")
def _embedded_backward(z: FloatArray, g_z: FloatArray, arrays: KernelArrays, a: int, g_f: FloatArray) -> None:
    """Gradient by one frame's features from the gradient by its embedded coordinates."""
    scale = arrays.scales[a]
    n_features = len(g_f)
    for h in range(n_features):
        g_f[h] = g_z[h] * scale[h]
    for k in range(len(arrays.expanded)):
        h = arrays.expanded[k]
        g_f[h] = g_z[n_features + k] * z[h] - g_z[h] * z[n_features + k]


@njit(cache=True, error_model="numpy")
def _posteriors(z: FloatArray, arrays: KernelArrays, energies: FloatArray, g: FloatArray) -> None:
    """Energies and gradients of all frames of some geometries: shapes ``(r, m, d)``, ``(r, m)``, ``(r, m, d)``."""
    n_geometries, n_frames, n_embedded = z.shape
    most = 0
    for b in range(n_frames):
        most = max(most, arrays.first_query[b + 1] - arrays.first_query[b])
    queries = np.empty((n_geometries * most, n_embedded))
    slopes_of = np.empty((n_geometries * most, n_embedded))
    scratch = np.empty((7, BLOCK))
    w = (scratch[0], scratch[1], scratch[2], scratch[3], scratch[4], scratch[5], scratch[6])
    bits = scratch[6].view(np.int64)
    turns = np.empty((3, max(arrays.rotors.max(), 1), 3, BLOCK))
    for b in range(n_frames):
        first, last = arrays.first_query[b], arrays.first_query[b + 1]
        count = last - first
        for r in range(n_geometries):
            for k in range(count):
                source = arrays.sources[first + k]
                for h in range(n_embedded):
                    place = arrays.order[first + k, h]
                    value = arrays.signs[first + k, h] * z[r, source, place] + arrays.shifts[first + k, h]
                    queries[r * count + k, h] = value
        slopes_of[:] = 0.0
        for block in range(arrays.points.shape[1]):
            points, slopes, weights = arrays.points[b, block], arrays.slopes[b, block], arrays.weights[b, block]
            for r in range(n_geometries):
                for k in range(count):
                    c = r * count + k
                    energies[r, arrays.sources[first + k]] += _block(
                        queries[c], points, weights, slopes, arrays.periods[b], arrays.rotors[b],
                        arrays.options, w, turns, bits, slopes_of[c],
                    )  # fmt: skip
        for r in range(n_geometries):
            for k in range(count):
                source = arrays.sources[first + k]
                for h in range(n_embedded):
                    place = arrays.order[first + k, h]
                    g[r, source, place] += arrays.signs[first + k, h] * slopes_of[r * count + k, h]


@njit(cache=True, error_model="numpy")
def batch(positions: FloatArray, arrays: KernelArrays, energies: FloatArray, gradient: FloatArray) -> None:
    """Write atomic energies and the gradient of their sum, geometry by geometry.

    The result for a geometry does not depend, to the last bit, on the geometries beside it.

    Parameters
    ----------
    positions
        Bohr, shape ``(k, n, 3)``.
    arrays
        The force field.
    energies, gradient
        Hartree, shape ``(k, n)``, and hartree/bohr, shape ``(k, n, 3)``.
    """
    n_geometries, n_atoms, _ = positions.shape
    n_frames, n_embedded = arrays.periods.shape
    n_features = arrays.scales.shape[1]
    kind = arrays.options[0]
    together = min(n_geometries, TOGETHER)
    axes, lengths = np.empty((together, n_frames, 3, 3)), np.empty((together, n_frames, 4))
    local = np.zeros((together, n_frames, n_atoms, 3))
    f, g_f = np.empty(n_features), np.empty(n_features)
    z, g_z = np.empty((together, n_frames, n_embedded)), np.empty((together, n_frames, n_embedded))
    of_frames = np.empty((together, n_frames))
    gradient[:] = 0.0
    energies[:] = 0.0
    for begin in range(0, n_geometries, together):
        count = min(together, n_geometries - begin)
        for r in range(count):
            for a in range(n_frames):
                local_features(positions[begin + r], arrays.frames[a], kind, axes[r, a], lengths[r, a], local[r, a], f)
                _embedded(f, arrays, a, z[r, a])
        of_frames[:] = 0.0
        g_z[:] = 0.0
        _posteriors(z[:count], arrays, of_frames[:count], g_z[:count])
        for r in range(count):
            for a in range(n_frames):
                energies[begin + r, arrays.frames[a, 0]] += arrays.means[a] + of_frames[r, a]
                if arrays.polynomials.shape[1] > 0:
                    centre, linear = arrays.polynomials[a, 0], arrays.polynomials[a, 1]
                    quadratic = arrays.polynomials[a, 2]
                    mean = 0.0
                    for h in range(n_embedded):
                        d = z[r, a, h] - centre[h]
                        mean += d * (linear[h] + d * quadratic[h])
                        g_z[r, a, h] += linear[h] + 2.0 * d * quadratic[h]
                    energies[begin + r, arrays.frames[a, 0]] += mean
                _embedded_backward(z[r, a], g_z[r, a], arrays, a, g_f)
                local_features_backward(
                    positions[begin + r], arrays.frames[a], kind, axes[r, a], lengths[r, a], local[r, a], g_f,
                    gradient[begin + r],
                )  # fmt: skip


@njit(cache=True, error_model="numpy")
def energy_and_forces(positions: FloatArray, arrays: KernelArrays) -> tuple[float, FloatArray]:
    """Energy (hartree) and forces (hartree/bohr, ``(n, 3)``) at positions (bohr, ``(n, 3)``)."""
    energies = np.empty((1, positions.shape[0]))
    forces = np.empty((1, positions.shape[0], 3))
    batch(positions.reshape((1, positions.shape[0], 3)), arrays, energies, forces)
    for i in range(positions.shape[0]):
        for c in range(3):
            forces[0, i, c] = -forces[0, i, c]
    return energies.sum(), forces[0]


@njit(cache=True, error_model="numpy")
def energies_and_forces(positions: FloatArray, arrays: KernelArrays) -> tuple[FloatArray, FloatArray]:
    """Energies (hartree, ``(k,)``) and forces (hartree/bohr) of geometries (bohr), shapes ``(k, n, 3)``."""
    energies = np.empty((positions.shape[0], positions.shape[1]))
    forces = np.empty_like(positions)
    batch(positions, arrays, energies, forces)
    totals = np.zeros(positions.shape[0])
    for k in range(positions.shape[0]):
        for i in range(positions.shape[1]):
            totals[k] += energies[k, i]
            for c in range(3):
                forces[k, i, c] = -forces[k, i, c]
    return totals, forces

"""Energies of all frames and their gradients in the embedding: the pass over the training points, in compiled code.

Squared distances are matrix products, |z|^2 + |x|^2 - 2 z.x, of coordinates that stand about their mean; so is the
gradient.  The points of a frame stand in blocks that stay in the nearest cache while all *queries* pass over them:
those of several geometries, and with symmetry those of all images, which are the same points seen from permuted
coordinates.  The whole training set is read once for a group of geometries.

Functions that take gradients, or None, are compiled for both: without gradients nothing of them is computed, and the
energies have the same bits.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fflux_py._compiled import simd
from fflux_py._compiled.jit import njit
from fflux_py._compiled.point_arrays import (
    ALONG,
    BIAS,
    ROTATED,
    ROTOR,
    WEIGHT,
    KernelArrays,
    Work,
    make_work,
)
from fflux_py._compiled.radial_kernels import MATERN52, SQUARED_EXPONENTIAL, VECTORISED, radial_block
from fflux_py.typing import FloatArray

_TOGETHER: Final = simd.TOGETHER


@njit(cache=True, error_model="numpy", nogil=True)
def _fill(z: FloatArray, arrays: KernelArrays, b: int, work: Work) -> None:
    """Queries of one frame's points from the embedded coordinates of all frames, ``(r, m, d)``."""
    first, last = arrays.first_query[b], arrays.first_query[b + 1]
    plain, n_rotors, twice = arrays.plain[b], arrays.rotors[b], 2.0 * arrays.units[b, 0]
    count = last - first
    for r in range(z.shape[0]):
        for k in range(count):
            source, c = arrays.sources[first + k], r * count + k
            length = 0.0
            for h in range(plain):
                column = arrays.order[first + k, h]
                value = arrays.signs[first + k, h] * z[r, source, column] + arrays.shifts[first + k, h]
                work.queries[c, h] = twice * value
                length += value * value
            for m in range(n_rotors):
                for t in range(ROTOR):
                    h = plain + ROTOR * m + t
                    column = arrays.order[first + k, h]
                    value = arrays.signs[first + k, h] * z[r, source, column] + arrays.shifts[first + k, h]
                    length += value * value
                    for p in range(3):
                        work.queries[c, plain + ROTATED * m + ROTOR * p + (t + 4 * p) % ROTOR] = twice * value
            work.start[c] = -length


@njit(cache=True, error_model="numpy", nogil=True)
def _pass(n: int, arrays: KernelArrays, a: int, work: Work, gradients: FloatArray | None) -> None:
    """Let the first ``n`` queries pass over all points of a frame without rotors and periods: kernels in vector code.

    ``gradients`` are sums over points, lane by lane, ``(n, w, lanes)``; None: energies alone.

    All arrays have names of their own here and no function but those of :mod:`fflux_py._compiled.simd` is called:
    otherwise counting references would take as long as the arithmetic.
    """
    x, queries, start, energies, factor_sums = arrays.points, work.queries, work.start, work.energies, work.factor_sums
    s, t, zeros, terms = work.exponents, work.along, work.zeros, arrays.terms
    last, slopes = arrays.plain[a], arrays.periods.shape[1]
    end = slopes + last
    squared, derivative = arrays.kernel_code == SQUARED_EXPONENTIAL, arrays.derivative
    in_groups = n - n % _TOGETHER
    for b in range(x.shape[1]):
        q = 0
        while q < n:
            if q < in_groups:
                simd.begin4(queries, q, 0, x, a, b, 0, last, terms, BIAS, start, s, q)
                if derivative:
                    simd.begin4(queries, q, 0, x, a, b, slopes, end, terms, ALONG, zeros, t, q)
            else:
                simd.begin1(queries, q, 0, x, a, b, 0, last, terms, BIAS, start, s, q)
                if derivative:
                    simd.begin1(queries, q, 0, x, a, b, slopes, end, terms, ALONG, zeros, t, q)
            step = _TOGETHER if q < in_groups else 1
            for k in range(q, q + step):
                if gradients is None:
                    if squared and derivative:
                        simd.energies_derivative(s, t, k, terms, a, b, WEIGHT, energies)
                    elif squared:
                        simd.energies_plain(s, t, k, terms, a, b, WEIGHT, energies)
                    elif derivative:
                        simd.matern_energies_derivative(s, t, k, terms, a, b, WEIGHT, energies)
                    else:
                        simd.matern_energies_plain(s, t, k, terms, a, b, WEIGHT, energies)
                elif squared and derivative:
                    simd.radial_derivative(s, t, k, terms, a, b, WEIGHT, energies, factor_sums)
                elif squared:
                    simd.radial_plain(s, t, k, terms, a, b, WEIGHT, energies, factor_sums)
                elif derivative:
                    simd.matern_derivative(s, t, k, terms, a, b, WEIGHT, energies, factor_sums)
                else:
                    simd.matern_plain(s, t, k, terms, a, b, WEIGHT, energies, factor_sums)
            if gradients is not None:
                if q < in_groups:
                    simd.add_weighted4(s, q, x, a, b, 0, last, gradients, q, 0)
                    if derivative:
                        simd.add_weighted4(t, q, x, a, b, slopes, end, gradients, q, 0)
                else:
                    simd.add_weighted1(s, q, x, a, b, 0, last, gradients, q, 0)
                    if derivative:
                        simd.add_weighted1(t, q, x, a, b, slopes, end, gradients, q, 0)
            q += step


@njit(cache=True, error_model="numpy", nogil=True)
def _pass_scalar(n: int, arrays: KernelArrays, a: int, work: Work, gradients: FloatArray | None) -> None:
    """The same for a kernel without vector code of its own."""
    x, queries, start, energies, factor_sums = arrays.points, work.queries, work.start, work.energies, work.factor_sums
    s, t, zeros, terms = work.exponents, work.along, work.zeros, arrays.terms
    last, slopes = arrays.plain[a], arrays.periods.shape[1]
    end = slopes + last
    code, derivative = arrays.kernel_code, arrays.derivative
    for b in range(x.shape[1]):
        for q in range(n):
            simd.begin1(queries, q, 0, x, a, b, 0, last, terms, BIAS, start, s, q)
            if derivative:
                simd.begin1(queries, q, 0, x, a, b, slopes, end, terms, ALONG, zeros, t, q)
            radial_block(code, derivative, s[q], t[q], terms[a, b, WEIGHT], energies[q], factor_sums[q])
            if gradients is not None:
                simd.add_weighted1(s, q, x, a, b, 0, last, gradients, q, 0)
                if derivative:
                    simd.add_weighted1(t, q, x, a, b, slopes, end, gradients, q, 0)


@njit(cache=True, error_model="numpy", nogil=True)
def _pass_rotors(n: int, arrays: KernelArrays, a: int, work: Work, gradients: FloatArray | None) -> None:
    """The same with rotors."""
    x, queries, start, rotations = arrays.points, work.queries, work.start, work.rotations
    s, t, zeros, terms = work.exponents, work.along, work.zeros, arrays.terms
    plain, n_rotors, derivative = arrays.plain[a], arrays.rotors[a], arrays.derivative
    last, slopes = plain, arrays.periods.shape[1]
    end, size = slopes + plain, len(work.start)
    t[:n] = 0.0
    for b in range(x.shape[1]):
        rotations[: 6 * n_rotors * size] = 0.0
        for q in range(n):
            simd.begin1(queries, q, 0, x, a, b, 0, last, terms, BIAS, start, s, q)
            if derivative:
                simd.begin1(queries, q, 0, x, a, b, slopes, end, terms, ALONG, zeros, t, q)
            for j in range(3 * n_rotors):
                m = j // 3
                row, column = last + ROTOR * m, plain + ROTOR * j
                simd.extend1(queries, q, column, x, a, b, row, row + ROTOR, rotations, j * size + q)
                if derivative:
                    row = end + ROTOR * m
                    target = (3 * n_rotors + j) * size + q
                    simd.extend1(queries, q, column, x, a, b, row, row + ROTOR, rotations, target)
        for q in range(n):
            _rotors(q, size, arrays, a, b, work, gradients)
        if gradients is not None:
            for q in range(n):
                simd.add_weighted1(s, q, x, a, b, 0, last, gradients, q, 0)
                if derivative:
                    simd.add_weighted1(t, q, x, a, b, slopes, end, gradients, q, 0)
                for j in range(3 * n_rotors):
                    m = j // 3
                    row, column = last + ROTOR * m, plain + ROTOR * j
                    simd.add_weighted1(rotations, j * size + q, x, a, b, row, row + ROTOR, gradients, q, column)
                    if derivative:
                        row = end + ROTOR * m
                        source = (3 * n_rotors + j) * size + q
                        simd.add_weighted1(rotations, source, x, a, b, row, row + ROTOR, gradients, q, column)


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"}, nogil=True)
def _rotors(q: int, n: int, arrays: KernelArrays, a: int, b: int, work: Work, gradients: FloatArray | None) -> None:
    """Energies and factors of one query: squared exponentials, summed over the rotations p of every rotor m.

    A term is ``K (w + t + sum_m t_m)``, with t twice the slope along the differences, and ``t_m`` its mean over the
    shares of a rotor's rotations (:mod:`fflux_py._compiled.covariances`).
    """
    weights, size = arrays.terms[a, b, WEIGHT], arrays.terms.shape[3]
    s, t, rotations, n_rotations = work.exponents[q], work.along[q], work.rotations, 3 * arrays.rotors[a]
    factor, total = np.ones_like(s), np.empty_like(s)
    for i in range(size):
        total[i] = weights[i] + t[i]
    for m in range(arrays.rotors[a]):
        e0, e1, e2 = rotations[3 * m * n + q], rotations[(3 * m + 1) * n + q], rotations[(3 * m + 2) * n + q]
        j = n_rotations + 3 * m
        t0, t1, t2, mean = (
            rotations[j * n + q],
            rotations[(j + 1) * n + q],
            rotations[(j + 2) * n + q],
            rotations[(n_rotations + j) * n + q],
        )
        for i in range(size):
            largest = max(e0[i], max(e1[i], e2[i]))
            s[i] += largest
            e0[i] -= largest
            e1[i] -= largest
            e2[i] -= largest
        simd.exponential(e0, e0)
        simd.exponential(e1, e1)
        simd.exponential(e2, e2)
        for i in range(size):
            rotor = e0[i] + e1[i] + e2[i]
            factor[i] *= rotor
            e0[i] /= rotor
            e1[i] /= rotor
            e2[i] /= rotor
            mean[i] = e0[i] * t0[i] + e1[i] * t1[i] + e2[i] * t2[i]
            total[i] += mean[i]
    simd.exponential(s, s)
    for i in range(size):
        factor[i] *= s[i]
        s[i] = factor[i] * total[i]
        t[i] = factor[i]
    if gradients is not None:
        for j in range(n_rotations):
            share, slope = rotations[j * n + q], rotations[(n_rotations + j) * n + q]
            mean = rotations[(2 * n_rotations + 3 * (j // 3)) * n + q]
            for i in range(size):
                both = share[i] * factor[i]
                share[i] = both * (total[i] - mean[i] + slope[i])
                slope[i] = both
    lanes = work.energies.shape[1]
    for v in range(simd.REGISTERS):
        for i in range(lanes):
            work.energies[q, i] += s[lanes * v + i]
            work.factor_sums[q, i] += s[lanes * v + i]


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"}, nogil=True)
def _wrapped_distances(q: int, arrays: KernelArrays, a: int, b: int, work: Work) -> None:
    """Exponents and slopes along the differences where coordinates with a period count by the nearest image."""
    x, s, t = arrays.points[a, b], work.exponents[q], work.along[q]
    shift = arrays.periods.shape[1]
    s[:] = 0.0
    t[:] = 0.0
    for h in range(arrays.plain[a]):
        period = arrays.periods[a, h]
        for i in range(x.shape[1]):
            d = 0.5 * work.queries[q, h] - x[h, i]
            if period > 0.0:
                d -= period * np.floor(d / period + 0.5)
            s[i] -= d * d
            if arrays.derivative:
                t[i] += 2.0 * d * x[shift + h, i]


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"}, nogil=True)
def _wrapped_gradients(q: int, arrays: KernelArrays, a: int, b: int, work: Work, gradients: FloatArray) -> None:
    """What a query gets from the points of a block, so that the sum over points is all there is."""
    x, c, t = arrays.points[a, b], work.exponents[q], work.along[q]
    shift, lanes = arrays.periods.shape[1], work.energies.shape[1]
    work.factor_sums[q, :] = 0.0
    for h in range(arrays.plain[a]):
        period, g = arrays.periods[a, h], gradients[q, h]
        for i in range(x.shape[1]):
            d = 0.5 * work.queries[q, h] - x[h, i]
            if period > 0.0:
                d -= period * np.floor(d / period + 0.5)
            g[i % lanes] -= c[i] * d
            if arrays.derivative:
                g[i % lanes] += t[i] * x[shift + h, i]


@njit(cache=True, error_model="numpy", nogil=True)
def _pass_wrapped(n: int, arrays: KernelArrays, a: int, work: Work, gradients: FloatArray | None) -> None:
    """The same where coordinates have periods."""
    s, t, terms, energies, factor_sums = work.exponents, work.along, arrays.terms, work.energies, work.factor_sums
    for b in range(arrays.points.shape[1]):
        for q in range(n):
            _wrapped_distances(q, arrays, a, b, work)
            if arrays.kernel_code == SQUARED_EXPONENTIAL:
                if arrays.derivative:
                    simd.radial_derivative(s, t, q, terms, a, b, WEIGHT, energies, factor_sums)
                else:
                    simd.radial_plain(s, t, q, terms, a, b, WEIGHT, energies, factor_sums)
            elif arrays.kernel_code == MATERN52:
                if arrays.derivative:
                    simd.matern_derivative(s, t, q, terms, a, b, WEIGHT, energies, factor_sums)
                else:
                    simd.matern_plain(s, t, q, terms, a, b, WEIGHT, energies, factor_sums)
            else:
                code, weights = arrays.kernel_code, terms[a, b, WEIGHT]
                radial_block(code, arrays.derivative, s[q], t[q], weights, energies[q], factor_sums[q])
            if gradients is not None:
                _wrapped_gradients(q, arrays, a, b, work, gradients)


@njit(cache=True, error_model="numpy", nogil=True)
def posteriors(z: FloatArray, arrays: KernelArrays, energies: FloatArray, g: FloatArray | None) -> None:
    """Add energies and gradients of all frames of some geometries.

    Parameters
    ----------
    z
        Embedded coordinates of all frames, shape ``(r, m, d)``.
    arrays
        The force field.
    energies
        Hartree, shape ``(r, m)``.
    g
        Gradients by the embedded coordinates, hartree, shape ``(r, m, d)``; None: energies alone.
    """
    n_geometries, n_frames, _ = z.shape
    most = 0
    for b in range(n_frames):
        most = max(most, arrays.first_query[b + 1] - arrays.first_query[b])
    work = make_work(n_geometries * most, arrays)
    if g is not None:
        gradients = np.empty((*work.queries.shape, work.energies.shape[1]), work.energies.dtype)
        sums = np.empty(work.queries.shape)
    for b in range(n_frames):
        first, last = arrays.first_query[b], arrays.first_query[b + 1]
        plain, n_rotors = arrays.plain[b], arrays.rotors[b]
        count, unit, value = last - first, arrays.units[b, 0], arrays.units[b, 1]
        _fill(z, arrays, b, work)
        work.energies[:] = 0.0
        work.factor_sums[:] = 0.0
        # One more function in between would cost more than it tidies: every call counts references of all arrays.
        if g is None:
            if arrays.wraps:
                _pass_wrapped(n_geometries * count, arrays, b, work, None)
            elif n_rotors > 0:
                _pass_rotors(n_geometries * count, arrays, b, work, None)
            elif arrays.kernel_code not in VECTORISED:
                _pass_scalar(n_geometries * count, arrays, b, work, None)
            else:
                _pass(n_geometries * count, arrays, b, work, None)
        else:
            gradients[:] = 0.0
            if arrays.wraps:
                _pass_wrapped(n_geometries * count, arrays, b, work, gradients)
            elif n_rotors > 0:
                _pass_rotors(n_geometries * count, arrays, b, work, gradients)
            elif arrays.kernel_code not in VECTORISED:
                _pass_scalar(n_geometries * count, arrays, b, work, gradients)
            else:
                _pass(n_geometries * count, arrays, b, work, gradients)
        for r in range(n_geometries):
            for k in range(count):
                source, c = arrays.sources[first + k], r * count + k
                energy, factor_sum = 0.0, 0.0
                for i in range(work.energies.shape[1]):
                    energy += work.energies[c, i]
                    factor_sum += work.factor_sums[c, i]
                energies[r, source] += value * energy
                if g is not None:
                    simd.sum_lanes(gradients, c, plain + ROTATED * n_rotors, sums)
                    factor_sum /= unit
                    for h in range(plain):
                        slope = 2.0 * unit * sums[c, h] - factor_sum * work.queries[c, h]
                        g[r, source, arrays.order[first + k, h]] += arrays.signs[first + k, h] * value * slope
                    for m in range(n_rotors):
                        for t in range(ROTOR):
                            h = plain + ROTOR * m + t
                            base = plain + ROTATED * m
                            slope = -factor_sum * work.queries[c, base + t]
                            for p in range(3):
                                slope += 2.0 * unit * sums[c, base + ROTOR * p + (t + 4 * p) % ROTOR]
                            g[r, source, arrays.order[first + k, h]] += arrays.signs[first + k, h] * value * slope

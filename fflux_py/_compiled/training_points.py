"""Energies of all frames and their gradients in the embedding: the pass over the training points, in compiled code.

Squared distances are matrix products, |z|^2 + |x|^2 - 2 z.x, of coordinates that stand about their mean; so is the
gradient.  The points of a frame stand in blocks that stay in the nearest cache while all *queries* pass over them:
those of several geometries, and with symmetry those of all images, which are the same points seen from permuted
coordinates.  The whole training set is read once for a group of geometries.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from fflux_py._compiled import simd
from fflux_py._compiled.jit import njit
from fflux_py._compiled.radial_kernels import MATERN52, SQUARED_EXPONENTIAL, VECTORISED, radial_block
from fflux_py.typing import FloatArray, IntArray

BIAS: Final = 0
"""Row of a block's terms that holds minus the squared length of every point."""
WEIGHT: Final = 1
"""Row of the weights."""
ALONG: Final = 2
"""Row of minus twice the point times its slopes."""
ROTOR: Final = 12
"""Coordinates of a rotor's three atoms."""
_TOGETHER: Final = simd.TOGETHER
_TURNS: Final = 3 * ROTOR


class KernelArrays(NamedTuple):
    """What a force evaluation needs; ``m`` frames, ``p`` blocks of ``B`` points, ``f`` features, ``d`` embedded.

    An atom has one frame, or several with symmetry.

    Parameters
    ----------
    frames
        Atom, x-axis atom, xy-plane atom, shape ``(m, 3)``.
    points
        Training points, shape ``(m, p, rows, B)``, float64, float32 or int32, in ``units``.  Rows are ``w`` scaled,
        embedded coordinates less ``shifts``; and in the derivative basis ``w`` slopes.
    terms
        Minus the squared length of every point, its weight (zero where padded) and minus twice the point times its
        slopes, shape ``(m, p, 3, B)``; weights and slopes in ``units``.  Products and sums have their type.
    units
        Of a frame's coordinates; and of its weights and slopes times coordinates, hartree; shape ``(m, 2)``.
    means
        Prior means, shape ``(m,)``, hartree.
    polynomials
        Centre, linear and quadratic coefficients of a mean in the embedded features, shape ``(m, 3, d)``; ``(m, 0, d)``
        if the means are constants.
    scales
        Square roots of theta, shape ``(m, f)``.
    periods
        Period of every row of coordinates or zero, shape ``(m, w)``.
    expanded
        Features that stand as cosine and sine; the sine of the k-th stands at ``f + k``.
    plain, rotors
        Rows of coordinates that belong to no rotor, a multiple of four, and numbers of rotors, whose coordinates
        follow; shapes ``(m,)``.  Coordinates without influence are left out.
    first_query
        Where the queries of a frame's points begin, and their number at the end, shape ``(m + 1,)``.
    sources
        Frame whose features make a query, shape ``(q,)``.
    order, signs, shifts
        Row h of a query is ``signs[h] * z[order[h]] + shifts[h]`` of its frame's z, shapes ``(q, w)``.
    options
        Feature kind, code of the radial kernel, one if any period is not zero, one for the derivative basis; shape
        ``(4,)``.
    """

    frames: IntArray
    points: FloatArray
    terms: FloatArray
    units: FloatArray
    means: FloatArray
    polynomials: FloatArray
    scales: FloatArray
    periods: FloatArray
    expanded: IntArray
    plain: IntArray
    rotors: IntArray
    first_query: IntArray
    sources: IntArray
    order: IntArray
    signs: FloatArray
    shifts: FloatArray
    options: IntArray


class Work(NamedTuple):
    """Scratch of one group of queries, in the type of products and sums; ``n`` queries.

    Parameters
    ----------
    queries
        Twice the coordinates, times their unit; those of rotors under each of their three turns, shape ``(n, w)``.
    start, zeros
        Minus the squared length of a query, and zeros, ``(n,)``.
    exponents, along
        Of the points of a block, later their factors, ``(n, B)``.
    turns
        Exponents, slopes and (for turn 0) mean slopes of the turns of rotors, ``(3 * rotors * 3 * n, B)``.
    energies, pulls, gradients
        Sums over points, lane by lane, ``(n, lanes)`` and ``(n, w, lanes)``.
    """

    queries: FloatArray
    start: FloatArray
    zeros: FloatArray
    exponents: FloatArray
    along: FloatArray
    turns: FloatArray
    energies: FloatArray
    pulls: FloatArray
    gradients: FloatArray


@njit(cache=True, error_model="numpy", nogil=True)
def _work(n: int, arrays: KernelArrays) -> Work:
    kind = arrays.terms.dtype
    size = arrays.points.shape[3]
    lanes = size // simd.REGISTERS
    n_rotors = arrays.rotors.max()
    width = arrays.plain.max() + _TURNS * n_rotors
    return Work(
        queries=np.zeros((n, width), kind),
        start=np.zeros(n, kind),
        zeros=np.zeros(n, kind),
        exponents=np.empty((n, size), kind),
        along=np.empty((n, size), kind),
        turns=np.empty((9 * n_rotors * n, size), kind),
        energies=np.empty((n, lanes), kind),
        pulls=np.empty((n, lanes), kind),
        gradients=np.empty((n, width, lanes), kind),
    )


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
                place = arrays.order[first + k, h]
                value = arrays.signs[first + k, h] * z[r, source, place] + arrays.shifts[first + k, h]
                work.queries[c, h] = twice * value
                length += value * value
            for m in range(n_rotors):
                for t in range(ROTOR):
                    h = plain + ROTOR * m + t
                    place = arrays.order[first + k, h]
                    value = arrays.signs[first + k, h] * z[r, source, place] + arrays.shifts[first + k, h]
                    length += value * value
                    for p in range(3):
                        work.queries[c, plain + _TURNS * m + ROTOR * p + (t + 4 * p) % ROTOR] = twice * value
            work.start[c] = -length


@njit(cache=True, error_model="numpy", nogil=True)
def _pass(n: int, arrays: KernelArrays, a: int, work: Work) -> None:
    """Let the first ``n`` queries pass over all points of a frame without rotors and periods: kernels in vector code.

    All arrays have names of their own here and no function but those of :mod:`fflux_py._compiled.simd` is called:
    otherwise counting references would take as long as the arithmetic.
    """
    x, queries, start, energies, pulls = arrays.points, work.queries, work.start, work.energies, work.pulls
    s, t, gradients, zeros, terms = work.exponents, work.along, work.gradients, work.zeros, arrays.terms
    last, slopes = arrays.plain[a], arrays.periods.shape[1]
    end = slopes + last
    squared, derivative = arrays.options[1] == SQUARED_EXPONENTIAL, arrays.options[3] > 0
    whole = n - n % _TOGETHER
    for b in range(x.shape[1]):
        q = 0
        while q < n:
            if q < whole:
                simd.begin4(queries, q, 0, x, a, b, 0, last, terms, BIAS, start, s, q)
                if derivative:
                    simd.begin4(queries, q, 0, x, a, b, slopes, end, terms, ALONG, zeros, t, q)
            else:
                simd.begin1(queries, q, 0, x, a, b, 0, last, terms, BIAS, start, s, q)
                if derivative:
                    simd.begin1(queries, q, 0, x, a, b, slopes, end, terms, ALONG, zeros, t, q)
            step = _TOGETHER if q < whole else 1
            for k in range(q, q + step):
                if squared and derivative:
                    simd.radial_derivative(s, t, k, terms, a, b, WEIGHT, energies, pulls)
                elif squared:
                    simd.radial_plain(s, t, k, terms, a, b, WEIGHT, energies, pulls)
                elif derivative:
                    simd.matern_derivative(s, t, k, terms, a, b, WEIGHT, energies, pulls)
                else:
                    simd.matern_plain(s, t, k, terms, a, b, WEIGHT, energies, pulls)
            if q < whole:
                simd.pull4(s, q, x, a, b, 0, last, gradients, q, 0)
                if derivative:
                    simd.pull4(t, q, x, a, b, slopes, end, gradients, q, 0)
            else:
                simd.pull1(s, q, x, a, b, 0, last, gradients, q, 0)
                if derivative:
                    simd.pull1(t, q, x, a, b, slopes, end, gradients, q, 0)
            q += step


@njit(cache=True, error_model="numpy", nogil=True)
def _pass_scalar(n: int, arrays: KernelArrays, a: int, work: Work) -> None:
    """The same for a kernel without vector code of its own."""
    x, queries, start, energies, pulls = arrays.points, work.queries, work.start, work.energies, work.pulls
    s, t, gradients, zeros, terms = work.exponents, work.along, work.gradients, work.zeros, arrays.terms
    last, slopes = arrays.plain[a], arrays.periods.shape[1]
    end = slopes + last
    code, derivative = arrays.options[1], arrays.options[3] > 0
    for b in range(x.shape[1]):
        for q in range(n):
            simd.begin1(queries, q, 0, x, a, b, 0, last, terms, BIAS, start, s, q)
            if derivative:
                simd.begin1(queries, q, 0, x, a, b, slopes, end, terms, ALONG, zeros, t, q)
            radial_block(code, derivative, s[q], t[q], terms[a, b, WEIGHT], energies[q], pulls[q])
            simd.pull1(s, q, x, a, b, 0, last, gradients, q, 0)
            if derivative:
                simd.pull1(t, q, x, a, b, slopes, end, gradients, q, 0)


@njit(cache=True, error_model="numpy", nogil=True)
def _pass_rotors(n: int, arrays: KernelArrays, a: int, work: Work) -> None:
    """The same with rotors."""
    x, queries, start, turns = arrays.points, work.queries, work.start, work.turns
    s, t, gradients, zeros, terms = work.exponents, work.along, work.gradients, work.zeros, arrays.terms
    plain, n_rotors, derivative = arrays.plain[a], arrays.rotors[a], arrays.options[3] > 0
    last, slopes = plain, arrays.periods.shape[1]
    end, size = slopes + plain, len(work.start)
    t[:n] = 0.0
    for b in range(x.shape[1]):
        turns[: 6 * n_rotors * size] = 0.0
        for q in range(n):
            simd.begin1(queries, q, 0, x, a, b, 0, last, terms, BIAS, start, s, q)
            if derivative:
                simd.begin1(queries, q, 0, x, a, b, slopes, end, terms, ALONG, zeros, t, q)
            for j in range(3 * n_rotors):
                m = j // 3
                row, column = last + ROTOR * m, plain + ROTOR * j
                simd.extend1(queries, q, column, x, a, b, row, row + ROTOR, turns, j * size + q)
                if derivative:
                    row = end + ROTOR * m
                    target = (3 * n_rotors + j) * size + q
                    simd.extend1(queries, q, column, x, a, b, row, row + ROTOR, turns, target)
        for q in range(n):
            _rotors(q, size, arrays, a, b, work)
        for q in range(n):
            simd.pull1(s, q, x, a, b, 0, last, gradients, q, 0)
            if derivative:
                simd.pull1(t, q, x, a, b, slopes, end, gradients, q, 0)
            for j in range(3 * n_rotors):
                m = j // 3
                row, column = last + ROTOR * m, plain + ROTOR * j
                simd.pull1(turns, j * size + q, x, a, b, row, row + ROTOR, gradients, q, column)
                if derivative:
                    row = end + ROTOR * m
                    source = (3 * n_rotors + j) * size + q
                    simd.pull1(turns, source, x, a, b, row, row + ROTOR, gradients, q, column)


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"}, nogil=True)
def _rotors(q: int, n: int, arrays: KernelArrays, a: int, b: int, work: Work) -> None:
    """The same with rotors: squared exponentials, summed over the turns p of every rotor m.

    A term is ``K (w + t + sum_m t_m)``, with t twice the slope along the differences, and ``t_m`` its mean over the
    shares of a rotor's turns (:mod:`fflux_py._compiled.covariances`).
    """
    weights, size = arrays.terms[a, b, WEIGHT], arrays.terms.shape[3]
    s, t, turns, n_turns = work.exponents[q], work.along[q], work.turns, 3 * arrays.rotors[a]
    factor, total = np.ones_like(s), np.empty_like(s)
    for i in range(size):
        total[i] = weights[i] + t[i]
    for m in range(arrays.rotors[a]):
        e0, e1, e2 = turns[3 * m * n + q], turns[(3 * m + 1) * n + q], turns[(3 * m + 2) * n + q]
        j = n_turns + 3 * m
        t0, t1, t2, mean = (
            turns[j * n + q],
            turns[(j + 1) * n + q],
            turns[(j + 2) * n + q],
            turns[(n_turns + j) * n + q],
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
            whole = e0[i] + e1[i] + e2[i]
            factor[i] *= whole
            e0[i] /= whole
            e1[i] /= whole
            e2[i] /= whole
            mean[i] = e0[i] * t0[i] + e1[i] * t1[i] + e2[i] * t2[i]
            total[i] += mean[i]
    simd.exponential(s, s)
    for i in range(size):
        factor[i] *= s[i]
        s[i] = factor[i] * total[i]
        t[i] = factor[i]
    for j in range(n_turns):
        share, slope, mean = turns[j * n + q], turns[(n_turns + j) * n + q], turns[(2 * n_turns + 3 * (j // 3)) * n + q]
        for i in range(size):
            both = share[i] * factor[i]
            share[i] = both * (total[i] - mean[i] + slope[i])
            slope[i] = both
    lanes = work.energies.shape[1]
    for v in range(simd.REGISTERS):
        for i in range(lanes):
            work.energies[q, i] += s[lanes * v + i]
            work.pulls[q, i] += s[lanes * v + i]


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
            if arrays.options[3] > 0:
                t[i] += 2.0 * d * x[shift + h, i]


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"}, nogil=True)
def _wrapped_gradients(q: int, arrays: KernelArrays, a: int, b: int, work: Work) -> None:
    """What a query gets from the points of a block, so that the sum over points is all there is."""
    x, c, t = arrays.points[a, b], work.exponents[q], work.along[q]
    shift, lanes = arrays.periods.shape[1], work.energies.shape[1]
    work.pulls[q, :] = 0.0
    for h in range(arrays.plain[a]):
        period, g = arrays.periods[a, h], work.gradients[q, h]
        for i in range(x.shape[1]):
            d = 0.5 * work.queries[q, h] - x[h, i]
            if period > 0.0:
                d -= period * np.floor(d / period + 0.5)
            g[i % lanes] -= c[i] * d
            if arrays.options[3] > 0:
                g[i % lanes] += t[i] * x[shift + h, i]


@njit(cache=True, error_model="numpy", nogil=True)
def _pass_wrapped(n: int, arrays: KernelArrays, a: int, work: Work) -> None:
    """The same where coordinates have periods."""
    s, t, terms, energies, pulls = work.exponents, work.along, arrays.terms, work.energies, work.pulls
    for b in range(arrays.points.shape[1]):
        for q in range(n):
            _wrapped_distances(q, arrays, a, b, work)
            if arrays.options[1] == SQUARED_EXPONENTIAL:
                if arrays.options[3] > 0:
                    simd.radial_derivative(s, t, q, terms, a, b, WEIGHT, energies, pulls)
                else:
                    simd.radial_plain(s, t, q, terms, a, b, WEIGHT, energies, pulls)
            elif arrays.options[1] == MATERN52:
                if arrays.options[3] > 0:
                    simd.matern_derivative(s, t, q, terms, a, b, WEIGHT, energies, pulls)
                else:
                    simd.matern_plain(s, t, q, terms, a, b, WEIGHT, energies, pulls)
            else:
                radial_block(
                    arrays.options[1], arrays.options[3] > 0, s[q], t[q], terms[a, b, WEIGHT], energies[q], pulls[q]
                )
            _wrapped_gradients(q, arrays, a, b, work)


@njit(cache=True, error_model="numpy", nogil=True)
def posteriors(z: FloatArray, arrays: KernelArrays, energies: FloatArray, g: FloatArray) -> None:
    """Add energies and gradients of all frames of some geometries: shapes ``(r, m, d)``, ``(r, m)``, ``(r, m, d)``."""
    n_geometries, n_frames, _ = z.shape
    most = 0
    for b in range(n_frames):
        most = max(most, arrays.first_query[b + 1] - arrays.first_query[b])
    work = _work(n_geometries * most, arrays)
    sums = np.empty(work.queries.shape)
    for b in range(n_frames):
        first, last = arrays.first_query[b], arrays.first_query[b + 1]
        plain, n_rotors = arrays.plain[b], arrays.rotors[b]
        count, unit, value = last - first, arrays.units[b, 0], arrays.units[b, 1]
        _fill(z, arrays, b, work)
        work.energies[:] = 0.0
        work.pulls[:] = 0.0
        work.gradients[:] = 0.0
        if arrays.options[2] > 0:
            _pass_wrapped(n_geometries * count, arrays, b, work)
        elif n_rotors > 0:
            _pass_rotors(n_geometries * count, arrays, b, work)
        elif arrays.options[1] not in VECTORISED:
            _pass_scalar(n_geometries * count, arrays, b, work)
        else:
            _pass(n_geometries * count, arrays, b, work)
        for r in range(n_geometries):
            for k in range(count):
                source, c = arrays.sources[first + k], r * count + k
                energy, pull = 0.0, 0.0
                for i in range(work.energies.shape[1]):
                    energy += work.energies[c, i]
                    pull += work.pulls[c, i]
                energies[r, source] += value * energy
                simd.collect(work.gradients, c, plain + _TURNS * n_rotors, sums)
                pull /= unit
                for h in range(plain):
                    slope = 2.0 * unit * sums[c, h] - pull * work.queries[c, h]
                    g[r, source, arrays.order[first + k, h]] += arrays.signs[first + k, h] * value * slope
                for m in range(n_rotors):
                    for t in range(ROTOR):
                        h = plain + ROTOR * m + t
                        base = plain + _TURNS * m
                        slope = -pull * work.queries[c, base + t]
                        for p in range(3):
                            slope += 2.0 * unit * sums[c, base + ROTOR * p + (t + 4 * p) % ROTOR]
                        g[r, source, arrays.order[first + k, h]] += arrays.signs[first + k, h] * value * slope

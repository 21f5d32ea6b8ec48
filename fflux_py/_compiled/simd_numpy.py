"""The functions of :mod:`fflux_py._compiled.simd` in NumPy, for when the compiler is switched off.

A function that exists for four queries and for one is made here for any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fflux_py.typing import FloatArray

SMALLEST: Final = {64: -708.0, 32: -87.0}
"""Exponents below these, by the bits of a number, count as these."""


def make_begin(queries: int) -> Callable[..., None]:
    def begin(z: FloatArray, q: int, column: int, x: FloatArray, a: int, b: int, *rest: Any) -> None:
        first, last, terms, row, start, s, target = rest
        s[target : target + queries] = terms[a, b, row] + start[q : q + queries, None]
        make_extend(queries)(z, q, column, x, a, b, first, last, s, target)

    return begin


def make_extend(queries: int) -> Callable[..., None]:
    def extend(z: FloatArray, q: int, column: int, x: FloatArray, a: int, b: int, *rest: Any) -> None:
        first, last, s, target = rest
        # row by row: the bits must not depend on the number of queries, as those of a matrix product may
        for k in range(queries):
            for h in range(last - first):
                s[target + k] += z[q + k, column + h] * x[a, b, first + h]

    return extend


def make_add_weighted(queries: int) -> Callable[..., None]:
    def add_weighted(c: FloatArray, source: int, x: FloatArray, a: int, b: int, *rest: Any) -> None:
        first, last, g, q, column = rest
        for k in range(queries):
            products = (c[source + k] * x[a, b, first:last]).reshape(last - first, -1, g.shape[2])
            g[q + k, column : column + last - first] += products.sum(axis=1)

    return add_weighted


def make_radial(matern: bool, derivative: bool, gradient: bool = True) -> Callable[..., None]:
    def radial(
        s: FloatArray, t: FloatArray, q: int, terms: FloatArray, a: int, b: int, row: int, *sums_of: FloatArray
    ) -> None:
        weight, along = terms[a, b, row], t[q] if derivative else 0.0
        if matern:
            root = np.sqrt(np.maximum(-10.0 * s[q], 0.0))
            k = np.exp(-root)
            flat = (5.0 / 3.0) * (1.0 + root) * k
            e = weight * (1.0 + root + root * root / 3.0) * k + flat * along
            c = weight * flat + (25.0 / 3.0) * k * along
        else:
            flat = np.exp(np.maximum(s[q], SMALLEST[8 * s.itemsize]))
            e = c = flat * (weight + along)
        for array, values in zip(sums_of, (e, c), strict=False):
            array[q] += values.reshape(-1, array.shape[1]).sum(axis=0)
        if gradient:
            s[q] = c
        if gradient and derivative:
            t[q] = flat

    return radial


def exponential(x: FloatArray, out: FloatArray) -> None:
    out[:] = np.exp(np.maximum(x, SMALLEST[8 * x.itemsize]))


def sum_lanes(g: FloatArray, q: int, rows: int, out: FloatArray) -> None:
    out[q, :rows] = g[q, :rows].sum(axis=-1)

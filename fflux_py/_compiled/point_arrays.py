"""The arrays that the pass over the training points takes, and its scratch."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from fflux_py._compiled import simd
from fflux_py._compiled.jit import njit
from fflux_py._compiled.taught_mean import TaughtMeanArrays
from fflux_py.typing import FloatArray, IntArray

BIAS: Final = 0
"""Row of a block's terms that holds minus the squared length of every point."""
WEIGHT: Final = 1
"""Row of the weights."""
ALONG: Final = 2
"""Row of minus twice the point times its slopes."""
ROTOR: Final = 12
"""Coordinates of a rotor's three atoms."""
ROTATED: Final = 3 * ROTOR
"""Coordinates of a rotor's three atoms under its three rotations."""


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
    feature_code
        The set of features (:data:`fflux_py._compiled.features.FEATURES`).
    kernel_code
        The radial kernel (:mod:`fflux_py._compiled.radial_kernels`).
    wraps
        Whether any period is not zero.
    derivative
        Whether points carry slopes: the derivative basis.
    taught_mean
        A mean of the total energy that is a function of all positions; one of no atoms if there is none.
    mean_shares
        Share of each atom in that mean, adding up to one, shape ``(n,)``; not read if there is none.
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
    feature_code: int
    kernel_code: int
    wraps: bool
    derivative: bool
    taught_mean: TaughtMeanArrays
    mean_shares: FloatArray


class Work(NamedTuple):
    """Scratch of one group of queries, in the type of products and sums; ``n`` queries.

    Parameters
    ----------
    queries
        Twice the coordinates, times their unit; those of rotors under each of their three rotations, ``(n, w)``.
    start, zeros
        Minus the squared length of a query, and zeros, ``(n,)``.
    exponents, along
        Of the points of a block, later their factors, ``(n, B)``.
    rotations
        Exponents, slopes and (for rotation 0) mean slopes of the rotations of rotors, ``(3 * rotors * 3 * n, B)``.
    energies, factor_sums
        Sums over points of energies and of factors, lane by lane, ``(n, lanes)``.
    """

    queries: FloatArray
    start: FloatArray
    zeros: FloatArray
    exponents: FloatArray
    along: FloatArray
    rotations: FloatArray
    energies: FloatArray
    factor_sums: FloatArray


@njit(cache=True, error_model="numpy", nogil=True)
def make_work(n: int, arrays: KernelArrays) -> Work:
    """Scratch for ``n`` queries."""
    kind = arrays.terms.dtype
    size = arrays.points.shape[3]
    lanes = size // simd.REGISTERS
    n_rotors = arrays.rotors.max()
    width = arrays.plain.max() + ROTATED * n_rotors
    return Work(
        queries=np.zeros((n, width), kind),
        start=np.zeros(n, kind),
        zeros=np.zeros(n, kind),
        exponents=np.empty((n, size), kind),
        along=np.empty((n, size), kind),
        rotations=np.empty((9 * n_rotors * n, size), kind),
        energies=np.empty((n, lanes), kind),
        factor_sums=np.empty((n, lanes), kind),
    )

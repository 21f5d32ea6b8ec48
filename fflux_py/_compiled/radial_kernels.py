"""Radial kernels in compiled code: value and derivatives by the scaled squared distance s, chosen by a kernel's code.

The counterpart in NumPy, and the kernels' names, are in :mod:`fflux_py.gp.radial_kernel`; the tests compare the two.

The covariances of a joint fit call :func:`radial` for every kernel.  The pass over the training points has vector code
of its own for the codes in :data:`VECTORISED` (:mod:`fflux_py._compiled.simd`); for all others it calls
:func:`radial_block`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py.typing import FloatArray

SQUARED_EXPONENTIAL: Final = 0
MATERN52: Final = 1
RATIONAL_QUADRATIC: Final = 2
MATERN72: Final = 3
VECTORISED: Final = (SQUARED_EXPONENTIAL, MATERN52)
"""Codes of the kernels for which :mod:`fflux_py._compiled.simd` has vector code."""


@njit(cache=True, error_model="numpy", nogil=True)
def radial(s: float, code: int) -> tuple[float, float, float]:
    """The kernel and its first two derivatives by the scaled squared distance ``s``, which is not negative; or NaN."""
    if code == SQUARED_EXPONENTIAL:
        k = np.exp(-s)
        return k, -k, k
    if code == MATERN52:
        root = np.sqrt(10.0 * s)
        decay = np.exp(-root)
        k = (1.0 + root + root * root / 3.0) * decay
        return k, -(5.0 / 3.0) * (1.0 + root) * decay, (25.0 / 3.0) * decay
    if code == RATIONAL_QUADRATIC:
        base = 1.0 / (1.0 + 0.5 * s)
        k = base * base
        return k, -k * base, 1.5 * k * k
    if code == MATERN72:
        root = np.sqrt(14.0 * s)
        decay = np.exp(-root)
        k = (1.0 + root * (1.0 + root * (0.4 + root / 15.0))) * decay
        return k, -1.4 * (1.0 + root * (1.0 + root / 3.0)) * decay, (49.0 / 15.0) * (1.0 + root) * decay
    return np.nan, np.nan, np.nan  # no kernel has this code


@njit(cache=True, error_model="numpy", nogil=True)
def radial_third(s: float, code: int) -> float:
    """The kernel's third derivative by ``s``; zero at s = 0, where it only stands beside squares of differences."""
    if code == SQUARED_EXPONENTIAL:
        return float(-np.exp(-s))
    if code == MATERN52:
        root = np.sqrt(10.0 * s)
        return float(-(125.0 / 3.0) * np.exp(-root) / root) if root > 0.0 else 0.0
    if code == RATIONAL_QUADRATIC:
        base = 1.0 / (1.0 + 0.5 * s)
        return -3.0 * base**5
    if code == MATERN72:
        return float(-(343.0 / 15.0) * np.exp(-np.sqrt(14.0 * s)))
    return np.nan  # no kernel has this code


@njit(cache=True, error_model="numpy", nogil=True)
def radial_block(
    code: int,
    derivative: bool,
    exponents: FloatArray,
    along: FloatArray,
    weights: FloatArray,
    energies: FloatArray,
    factor_sums: FloatArray,
) -> None:
    """From exponents to energies for one query and a block of training points, number by number.

    The result is that of the vector code (:data:`fflux_py._compiled.simd.radial_plain` and its like): a point of the
    weight w adds ``w k - k' t`` to the energy and the factor ``c = -w k' + k'' t`` to the sum of factors; c replaces
    its exponent, and in the derivative basis -k' replaces t.

    Parameters
    ----------
    code
        The kernel's code.
    derivative
        Whether the points have slopes (the derivative basis); if not, t is zero.
    exponents, along
        Minus the scaled squared distances, and twice the slopes along the differences (t), shape ``(B,)``.
    weights
        Of the points, shape ``(B,)``.
    energies, factor_sums
        Sums of the query, lane by lane, shape ``(lanes,)``; point i belongs to the lane ``i % lanes``.
    """
    lanes = len(energies)
    for first in range(0, len(exponents), lanes):
        for lane in range(lanes):
            i = first + lane
            k, k1, k2 = radial(max(-exponents[i], 0.0), code)
            energy, factor = weights[i] * k, -weights[i] * k1
            if derivative:
                energy -= k1 * along[i]
                factor += k2 * along[i]
                along[i] = -k1
            exponents[i] = factor
            energies[lane] += energy
            factor_sums[lane] += factor

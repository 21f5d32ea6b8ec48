r"""Products of the joint covariance with vectors, in compiled code, without making the matrix.

Of every geometry's coefficients only the weight w of its energies and the slopes u = -J v of its forces in the frame's
embedding are needed.  With the notation of :mod:`fflux_py._compiled.covariances` the products are

.. math:: f_i = \sum_j K w_j + \nabla_{z'} K \cdot u_j, \qquad
          g_i = \sum_j w_j \nabla_z K + \nabla_z \nabla_{z'}^T K\, u_j,

which costs a few operations for each embedded coordinate of a pair of geometries, in place of the
:math:`(3n)^2` entries of its block.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fflux_py._compiled.covariances import KernelForm, _rotor_terms
from fflux_py._compiled.jit import njit
from fflux_py._compiled.radial_kernels import radial
from fflux_py.typing import FloatArray


class _PairTerms(NamedTuple):
    """What the kernel of a pair of geometries needs: written anew for every pair.

    Parameters
    ----------
    a, b
        Factors of the derivatives by the one geometry's coordinates and by the other's, ``(d,)``.
    shares, alpha, beta
        Of the three permutations of every rotor: their shares of the kernel, ``(n_rotors, 3)``, and the factors of the
        derivatives, ``(n_rotors, 3, 3 * width)``.
    inner, across
        Sums over the coordinates for every vector, ``(n_columns,)``: b . u, later times the kernel; and the sums over
        one rotor's coordinates, ``(4, n_columns)``.
    """

    a: FloatArray
    b: FloatArray
    shares: FloatArray
    alpha: FloatArray
    beta: FloatArray
    inner: FloatArray
    across: FloatArray


@njit(cache=True, error_model="numpy", nogil=True)
def _add_rotor_products(u: FloatArray, form: KernelForm, k: float, m: int, pair: _PairTerms, g: FloatArray) -> None:
    """Add one rotor's rows of the second derivative times u; ``pair.inner`` is k times b . u."""
    a, b, shares, alpha, beta, inner, across = pair
    n_columns = u.shape[1]
    width, first = form.width, form.n_plain + 3 * form.width * m
    size = 3 * width
    for c in range(n_columns):
        across[3, c] = inner[c]
    for h in range(size):
        factor = k * b[first + h]
        for c in range(n_columns):
            across[3, c] -= factor * u[first + h, c]
    for p in range(3):
        share = k * shares[m, p]
        for c in range(n_columns):
            across[p, c] = 0.0
        for h in range(size):
            factor = share * beta[m, p, h]
            for c in range(n_columns):
                across[p, c] += factor * u[first + h, c]
    for atom in range(3):
        for part in range(width):
            h = width * atom + part
            one, two, three = alpha[m, 0, h], alpha[m, 1, h], alpha[m, 2, h]
            zero = a[first + h]
            s0, s1, s2 = 2.0 * k * shares[m, 0], 2.0 * k * shares[m, 1], 2.0 * k * shares[m, 2]
            j0 = first + width * atom + part
            j1 = first + width * ((atom + 1) % 3) + part
            j2 = first + width * ((atom + 2) % 3) + part
            for c in range(n_columns):
                g[first + h, c] += (
                    zero * across[3, c]
                    + one * across[0, c]
                    + two * across[1, c]
                    + three * across[2, c]
                    + s0 * u[j0, c]
                    + s1 * u[j1, c]
                    + s2 * u[j2, c]
                )


@njit(cache=True, error_model="numpy", nogil=True)
def write_products(
    z: FloatArray,
    points: FloatArray,
    weights: FloatArray,
    slopes: FloatArray,
    form: KernelForm,
    first: int,
    last: int,
    f: FloatArray,
    g: FloatArray,
) -> None:
    """Write one frame's products for the geometries ``first`` to ``last``, for several vectors at once.

    Parameters
    ----------
    z, points
        Embedded coordinates of the geometries ``(N, d)`` and of their images under one operation, ``(M, d)``.
    weights, slopes
        w ``(M, n_columns)`` and u ``(M, d, n_columns)``.
    form
        The kernel.
    first, last
        The part of the geometries: parts are independent of each other.
    f, g
        ``(N, n_columns)`` and ``(N, d, n_columns)``.
    """
    d, n_columns = slopes.shape[1], slopes.shape[2]
    a, b = np.empty(d), np.empty(d)
    shares = np.empty((form.n_rotors, 3))
    alpha = np.empty((form.n_rotors, 3, 3 * form.width))
    beta = np.empty_like(alpha)
    inner, both = np.empty(n_columns), np.empty(n_columns)
    pair = _PairTerms(a, b, shares, alpha, beta, inner, np.empty((4, n_columns)))
    for i in range(first, last):
        f[i] = 0.0
        g[i] = 0.0
        out = g[i]
        for j in range(len(points)):
            s = _rotor_terms(z[i], points[j], form, a, b, shares, alpha, beta)
            for h in range(form.n_plain):
                b[h] = 2.0 * (z[i, h] - points[j, h])
                a[h] = -b[h]
                s += 0.25 * b[h] * b[h]
            k, k1, k2 = radial(s, form.kernel)
            u, w = slopes[j], weights[j]
            for c in range(n_columns):
                inner[c] = 0.0
            for h in range(d):
                factor = b[h]
                for c in range(n_columns):
                    inner[c] += factor * u[h, c]
            for c in range(n_columns):
                f[i, c] += k * w[c] - k1 * inner[c]
                both[c] = -k1 * w[c] + k2 * inner[c]
                inner[c] *= k
            diagonal = -2.0 * k1
            for h in range(form.n_plain):
                factor = a[h]
                for c in range(n_columns):
                    out[h, c] += diagonal * u[h, c] + factor * both[c]
            for h in range(form.n_plain, d):
                factor = a[h] * k
                for c in range(n_columns):
                    out[h, c] += factor * w[c]
            for m in range(form.n_rotors):
                _add_rotor_products(u, form, k, m, pair, out)

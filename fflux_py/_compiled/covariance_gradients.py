r"""Weighted sums of the covariances of energies and forces, and their derivatives by length scales, in compiled code.

For the weights :math:`w` of all covariances of one frame, and with :math:`\Delta = z - z'`,
:math:`s = |\Delta|^2` and primes for derivatives of the kernel by s, a pair of geometries adds

.. math:: \Phi = w\,k + 2 k'\, u\cdot\Delta - 2 k'\,\mathrm{tr}\,M - 4 k''\,\Delta^T M \Delta

to the sum, where u collects the weights of the covariances of forces with the energy, and :math:`M = J W J'^T` those of
forces with forces.  The derivative by the logarithm of :math:`\theta_h` is

.. math:: \Delta_h^2 (w k' + 2 k''\, u\cdot\Delta - 2 k''\,\mathrm{tr}\,M - 4 k'''\,\Delta^T M \Delta)
          + 2 k' u_h \Delta_h - 2 k' M_{hh} - 4 k'' \Delta_h (M\Delta + M^T\Delta)_h .

Of M only its diagonal and two products with a vector are needed.  Rotors' cyclic permutations are summed one after the
other; they share the product J W, which takes most of the time.
"""

from __future__ import annotations

import numpy as np

from fflux_py._compiled.covariances import KernelForm
from fflux_py._compiled.jit import njit
from fflux_py._compiled.radial_kernels import radial, radial_third
from fflux_py.typing import FloatArray, IntArray

_NEGLIGIBLE = 40.0
"""Exponents by which a rotor's permutation is less than the largest one, beyond which it adds nothing."""


@njit(cache=True, error_model="numpy", nogil=True)
def rotated_orders(form: KernelForm, d: int) -> IntArray:
    """Where the coordinates of a point stand under every permutation of its rotors, shape ``(3**n_rotors, d)``."""
    orders = np.empty((3**form.n_rotors, d), np.int64)
    for p in range(len(orders)):
        rest = p
        for h in range(form.n_plain):
            orders[p, h] = h
        for m in range(form.n_rotors):
            shift, rest = rest % 3, rest // 3
            first = form.n_plain + 3 * form.width * m
            for k in range(3):
                for c in range(form.width):
                    orders[p, first + form.width * k + c] = first + form.width * ((k + shift) % 3) + c
    return orders


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _products(
    delta: FloatArray, left: FloatArray, right: FloatArray, order: IntArray, work: FloatArray, out: FloatArray
) -> None:
    """Write M's diagonal and the sum of its products with ``delta`` from both sides, for M = left right^T."""
    d, m = left.shape
    here, there = work[0], work[1]
    here[:] = 0.0
    there[:] = 0.0
    for h in range(d):
        a, b = left[h], right[order[h]]
        diagonal = 0.0
        for c in range(m):
            diagonal += a[c] * b[c]
            here[c] += a[c] * delta[h]
            there[c] += b[c] * delta[h]
        out[0, h] = diagonal
    for h in range(d):
        a, b = left[h], right[order[h]]
        forth, back = 0.0, 0.0
        for c in range(m):
            forth += a[c] * there[c]
            back += b[c] * here[c]
        out[1, h] = forth
        out[2, h] = back


@njit(cache=True, error_model="numpy", nogil=True)
def add_gradient(
    z: FloatArray,
    rows: FloatArray,
    points: FloatArray,
    columns: FloatArray,
    form: KernelForm,
    weights: tuple[FloatArray, FloatArray, FloatArray],
    gradient: FloatArray,
) -> float:
    """Return the weighted sum of one frame's covariances with one image; add its derivatives by log theta.

    Parameters
    ----------
    z, rows, points, columns, form
        As of :func:`fflux_py._compiled.covariances.add_covariances`, for unit variance.
    weights
        Of the covariances of energies, ``(N, N)``; of forces with energies, ``(3nN, N)``; of forces, lower triangle of
        blocks, ``(3nN, 3nN)``: those below the diagonal count twice.
    gradient
        Of every embedded coordinate, ``(d,)``; added to.
    """
    of_energies, of_both, of_forces = weights
    count, d = z.shape
    m = rows.shape[1]
    orders = rotated_orders(form, d)
    exponents, delta, work, product = np.empty(len(orders)), np.empty(d), np.empty((2, m)), np.empty((3, d))
    u, block, turned = np.empty((d, count)), np.empty(m * m * count), np.empty(d * m * count)
    total = 0.0
    for i in range(count):
        n = (i + 1) * m
        np.dot(rows[i].T, of_both[i * m : i * m + m], u)
        part = block[: m * n].reshape((m, n))
        part[:] = of_forces[i * m : i * m + m, :n]
        left = turned[: d * n].reshape((d, n))
        np.dot(rows[i].T, part, left)
        for j in range(count):
            for p in range(len(orders)):
                exponents[p] = 0.0
                for h in range(d):
                    difference = z[i, h] - points[j, orders[p, h]]
                    exponents[p] += difference * difference
            nearest = exponents.min()
            for p in range(len(orders)):
                s = exponents[p]
                if s > nearest + _NEGLIGIBLE:
                    continue
                along = 0.0
                for h in range(d):
                    delta[h] = z[i, h] - points[j, orders[p, h]]
                    along -= u[h, j] * delta[h]
                k, k1, k2 = radial(s, form.kernel)
                value = of_energies[i, j] * k + 2.0 * k1 * along
                slope = of_energies[i, j] * k1 + 2.0 * k2 * along
                if j <= i:
                    _products(delta, left[:, j * m : j * m + m], columns[j], orders[p], work, product)
                    times = 1.0 if i == j else 2.0
                    trace, outer = 0.0, 0.0
                    for h in range(d):
                        trace += product[0, h]
                        outer += delta[h] * product[1, h]
                    value -= times * (2.0 * k1 * trace + 4.0 * k2 * outer)
                    slope -= times * (2.0 * k2 * trace + 4.0 * radial_third(s, form.kernel) * outer)
                    for h in range(d):
                        both = delta[h] * (product[1, h] + product[2, h])
                        gradient[h] -= times * (2.0 * k1 * product[0, h] + 4.0 * k2 * both)
                for h in range(d):
                    gradient[h] += delta[h] * (slope * delta[h] - 2.0 * k1 * u[h, j])
                total += value
    return total

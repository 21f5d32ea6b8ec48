r"""Covariances between energies and forces of one frame's Gaussian process, in compiled code.

With z and z' in the embedding, first and second derivatives of the kernel K are written as

.. math:: \nabla_z K = K a, \qquad \nabla_{z'} K = K b, \qquad
          \nabla_z \nabla_{z'}^T K = D + \text{a matrix of low rank},

with D twice K on the coordinates outside rotors.  A rotor's twelve coordinates enter the squared exponential as
:math:`S = \sum_p e^{-|z - P_p z'|^2}` over its cyclic permutations p, with :math:`\pi_p` the terms' shares:

.. math:: a = \sum_p \pi_p \alpha_p, \quad b = \sum_p \pi_p \beta_p, \quad
          \alpha_p = -2 (z - P_p z'), \quad \beta_p = 2 P_p^T (z - P_p z'),

.. math:: \nabla_z \nabla_{z'}^T S / S = \sum_p \pi_p (2 P_p + \alpha_p \beta_p^T).

The oracle in the tests sums the plain kernel over all permutations.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py._compiled.radial_kernels import radial
from fflux_py.typing import FloatArray

_CHUNK: Final = 16


class KernelForm(NamedTuple):
    """How the kernel is made: everything but the points.

    Parameters
    ----------
    kernel
        Code of the radial kernel (:mod:`fflux_py._compiled.radial_kernels`); only one that factorises has rotors.
    n_plain
        Embedded coordinates outside rotors; they come first.
    width
        Coordinates of one atom of a rotor.
    n_rotors
        Rotors, each of ``3 * width`` coordinates.
    """

    kernel: int
    n_plain: int
    width: int
    n_rotors: int


@njit(cache=True, error_model="numpy", nogil=True)
def _rotor_terms(
    z: FloatArray,
    y: FloatArray,
    form: KernelForm,
    a: FloatArray,
    b: FloatArray,
    shares: FloatArray,
    alpha: FloatArray,
    beta: FloatArray,
) -> float:
    """Write a, b, the shares, alpha and beta of all rotors; return the sum of their exponents' smallest parts."""
    width, exponent = form.width, 0.0
    s = np.empty(3)
    for m in range(form.n_rotors):
        first = form.n_plain + 3 * width * m
        for p in range(3):
            s[p] = 0.0
            for k in range(3):
                here, there = first + width * k, first + width * ((k + p) % 3)
                for c in range(width):
                    d = z[here + c] - y[there + c]
                    s[p] += d * d
                    alpha[m, p, width * k + c] = -2.0 * d
                    beta[m, p, width * ((k + p) % 3) + c] = 2.0 * d
        least, total = min(s[0], s[1], s[2]), 0.0
        for p in range(3):
            shares[m, p] = np.exp(least - s[p])
            total += shares[m, p]
        exponent += least - np.log(total)
        for h in range(3 * width):
            a[first + h] = 0.0
            b[first + h] = 0.0
        for p in range(3):
            shares[m, p] /= total
            for h in range(3 * width):
                a[first + h] += shares[m, p] * alpha[m, p, h]
                b[first + h] += shares[m, p] * beta[m, p, h]
    return exponent


@njit(cache=True, error_model="numpy", nogil=True)
def kernel_rows(z: FloatArray, points: FloatArray, form: KernelForm, k: FloatArray, slopes: FloatArray) -> None:
    """Write the kernel between ``z`` and every point (``(N,)``) and its gradient by ``z`` (``(d, N)``)."""
    d = len(z)
    a, b = np.empty(d), np.empty(d)
    shares = np.empty((form.n_rotors, 3))
    alpha = np.empty((form.n_rotors, 3, 3 * form.width))
    beta = np.empty_like(alpha)
    for j in range(len(points)):
        s = _rotor_terms(z, points[j], form, a, b, shares, alpha, beta)
        for h in range(form.n_plain):
            a[h] = z[h] - points[j, h]
            s += a[h] * a[h]
        k[j], k1, _ = radial(s, form.kernel)
        for h in range(form.n_plain):
            slopes[h, j] = 2.0 * k1 * a[h]
        for h in range(form.n_plain, d):
            slopes[h, j] = k[j] * a[h]


@njit(cache=True, error_model="numpy", nogil=True)
def _second_derivative_times(
    z: FloatArray,
    y: FloatArray,
    jacobian: FloatArray,
    form: KernelForm,
    variance: float,
    work: tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray],
    out: FloatArray,
) -> None:
    """Write the second derivative of the kernel by z and y, times a Jacobian ``(d, n_coordinates)``."""
    a, b, shares, alpha, beta = work
    d, n_coordinates = jacobian.shape
    width = form.width
    s = _rotor_terms(z, y, form, a, b, shares, alpha, beta)
    for h in range(form.n_plain):
        b[h] = 2.0 * (z[h] - y[h])
        a[h] = -b[h]
        s += 0.25 * b[h] * b[h]
    k, k1, k2 = radial(s, form.kernel)
    # For the squared exponential k2 = -k1 = k; other kernels have no rotors, where a and b are -2 and 2 times Delta.
    diagonal, outer, k = -2.0 * k1 * variance, k2 * variance, k * variance
    along = np.zeros(n_coordinates)
    for h in range(d):
        for c in range(n_coordinates):
            along[c] += b[h] * jacobian[h, c]
    for h in range(form.n_plain):
        for c in range(n_coordinates):
            out[h, c] = diagonal * jacobian[h, c] + outer * a[h] * along[c]
    across = np.empty((4, n_coordinates))
    for m in range(form.n_rotors):
        first = form.n_plain + 3 * width * m
        across[:] = 0.0
        for h in range(3 * width):
            for c in range(n_coordinates):
                across[3, c] += b[first + h] * jacobian[first + h, c]
        for p in range(3):
            for h in range(3 * width):
                for c in range(n_coordinates):
                    across[p, c] += beta[m, p, h] * jacobian[first + h, c]
        for atom in range(3):
            for part in range(width):
                h = width * atom + part
                for c in range(n_coordinates):
                    out[first + h, c] = k * a[first + h] * (along[c] - across[3, c])
                for p in range(3):
                    there = first + width * ((atom + p) % 3) + part
                    share = k * shares[m, p]
                    for c in range(n_coordinates):
                        out[first + h, c] += share * (2.0 * jacobian[there, c] + alpha[m, p, h] * across[p, c])


@njit(cache=True, error_model="numpy", nogil=True)
def add_covariances(
    z: FloatArray,
    rows: FloatArray,
    points: FloatArray,
    columns: FloatArray,
    form: KernelForm,
    variance: float,
    energies: FloatArray,
    forces_energies: FloatArray,
    forces: FloatArray,
) -> None:
    """Add one frame's covariances of geometries with the images of geometries under one operation.

    Parameters
    ----------
    z, rows
        Embedded coordinates ``(N, d)`` and their transposed Jacobians ``(N, 3n, d)`` of the geometries.
    points, columns
        Those of the images, ``(N, d)`` and ``(N, d, 3n)``, by the coordinates of the geometries themselves.
    form, variance
        The kernel.
    energies
        Covariances of energies, ``(N, N)``; written.
    forces_energies
        Of forces (rows) with energies, ``(3nN, N)``; written.
    forces
        Of forces, lower triangle of blocks, ``(3nN, 3nN)``; added to.
    """
    count, d = z.shape
    n_coordinates = rows.shape[1]
    slopes = np.empty((d, count))
    alpha = np.empty((form.n_rotors, 3, 3 * form.width))
    work = (np.empty(d), np.empty(d), np.empty((form.n_rotors, 3)), alpha, np.empty_like(alpha))
    turned = np.empty((d, _CHUNK * n_coordinates))
    product = np.empty((n_coordinates, _CHUNK * n_coordinates))
    with_energy = np.empty((n_coordinates, count))
    for i in range(count):
        kernel_rows(z[i], points, form, energies[i], slopes)
        first_row = i * n_coordinates
        np.dot(rows[i], slopes, with_energy)
        for c in range(n_coordinates):
            for j in range(count):
                forces_energies[first_row + c, j] = -variance * with_energy[c, j]
        for j in range(count):
            energies[i, j] *= variance
        for first in range(0, i + 1, _CHUNK):
            last = min(first + _CHUNK, i + 1)
            for j in range(first, last):
                place = (j - first) * n_coordinates
                out = turned[:, place : place + n_coordinates]
                _second_derivative_times(z[i], points[j], columns[j], form, variance, work, out)
            np.dot(rows[i], turned, product)
            for c in range(n_coordinates):
                row = forces[first_row + c]
                for e in range((last - first) * n_coordinates):
                    row[first * n_coordinates + e] += product[c, e]

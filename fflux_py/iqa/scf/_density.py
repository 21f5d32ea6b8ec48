"""Electron density with gradient and Hessian at single points, compiled: the inner loop of everything topological.

PySCF evaluates orbitals fast on blocks of points; following the gradient of the density needs one point after another.
The density is a sum over contracted Cartesian Gaussians x^i y^j z^k R(r^2); spherical functions enter through their
Cartesian expansion, made once per geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py.iqa.scf.auxiliary_potential import CARTESIAN_FACTOR, AuxiliaryShell
from fflux_py.typing import FloatArray, IntArray

# A shell is left out where its largest function falls below this (its square in the density is far below any density
# at which a path ends).
_NEGLIGIBLE = 1e-7
_DISTANCES = np.linspace(0.5, 40.0, 396)


class DensityData(NamedTuple):
    """A density as arrays; made by :func:`density_data`, used by compiled functions.

    Parameters
    ----------
    centres
        Positions of the nuclei in bohr, shape ``(n_atoms, 3)``.
    shells
        Atom, angular momentum, first and last primitive and first Cartesian function of every shell, ``(n_shells, 5)``.
    reach
        Squared distance beyond which a shell is negligible, bohr^2, ``(n_shells,)``.
    exponents, coefficients
        Primitives, normalisation of the Cartesian functions included, ``(n_primitives,)``.
    orbitals
        Square root of the occupation times the coefficients of the orbitals, ``(n_cartesian, n_orbitals)``.
    """

    centres: FloatArray
    shells: IntArray
    reach: FloatArray
    exponents: FloatArray
    coefficients: FloatArray
    orbitals: FloatArray


def density_data(shells: Sequence[AuxiliaryShell], centres: FloatArray, orbitals: FloatArray) -> DensityData:
    """Arrange a basis and orbitals for :func:`evaluate`.

    Parameters
    ----------
    shells
        One shell for each contraction, in the order of the basis functions.
    centres
        Positions of the atoms in bohr, ``(n_atoms, 3)``.
    orbitals
        Orbitals times the square root of their occupations, ``(n_functions, n_orbitals)``.
    """
    rows, blocks, reach, exponents, coefficients = [], [], [], [], []
    function = primitive = cartesian = 0
    for shell in shells:
        l = shell.momentum  # noqa: E741 - the field's name
        n_cartesian = (l + 1) * (l + 2) // 2
        width = n_cartesian if shell.spherical is None else 2 * l + 1
        block = orbitals[function : function + width]
        blocks.append(block if shell.spherical is None else shell.spherical @ block)
        factors = shell.coefficients * CARTESIAN_FACTOR.get(l, 1.0)
        rows.append((shell.atom, l, primitive, primitive + len(shell.exponents), cartesian))
        size = np.abs(np.exp(-np.outer(_DISTANCES**2, shell.exponents)) @ factors) * _DISTANCES**l
        far = np.flatnonzero(size * max(1.0, float(np.abs(blocks[-1]).max())) > _NEGLIGIBLE)
        reach.append(_DISTANCES[min(far[-1] + 1, len(_DISTANCES) - 1)] ** 2 if len(far) else 0.0)
        exponents.append(shell.exponents)
        coefficients.append(factors)
        function, primitive, cartesian = function + width, rows[-1][3], cartesian + n_cartesian
    return DensityData(
        np.ascontiguousarray(centres, dtype=np.float64),
        np.array(rows, dtype=np.int64),
        np.array(reach),
        np.concatenate(exponents),
        np.concatenate(coefficients),
        np.ascontiguousarray(np.concatenate(blocks)),
    )


def density_at(data: DensityData, points: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Density (e/bohr^3), gradient and Hessian at ``points`` (bohr): shapes ``(n,)``, ``(n, 3)``, ``(n, 3, 3)``."""
    density, gradient, hessian = np.empty(len(points)), np.empty((len(points), 3)), np.empty((len(points), 3, 3))
    _evaluate_all(data, np.ascontiguousarray(points, dtype=np.float64), density, gradient, hessian)
    return density, gradient, hessian


def orbitals_at(data: DensityData, points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Orbitals with gradients at ``points``, ``(4, n_orbitals, n)``, and the density's Laplacian, ``(n,)``."""
    orbitals, laplacian = np.empty((4, data.orbitals.shape[1], len(points))), np.empty(len(points))
    _orbitals_all(data, np.ascontiguousarray(points, dtype=np.float64), orbitals, laplacian)
    return orbitals, laplacian


@njit(cache=True)
def _orbitals_all(
    data: DensityData, points: FloatArray, orbitals: FloatArray, laplacian: FloatArray
) -> None:  # pragma: no cover - compiled
    phi, functions = workspace(data)
    gradient, hessian = np.empty(3), np.empty((3, 3))
    for p in range(len(points)):
        evaluate(data, points[p], phi, functions, gradient, hessian)
        laplacian[p] = hessian[0, 0] + hessian[1, 1] + hessian[2, 2]
        for x in range(4):
            for i in range(phi.shape[1]):
                orbitals[x, i, p] = phi[x, i]


@njit(cache=True)
def workspace(data: DensityData) -> tuple[FloatArray, FloatArray]:  # pragma: no cover - compiled
    """Arrays that :func:`evaluate` writes to: orbitals with gradients, and functions with derivatives."""
    return np.zeros((4, data.orbitals.shape[1])), np.zeros((data.orbitals.shape[0], 10))


@njit(cache=True)
def _evaluate_all(
    data: DensityData, points: FloatArray, density: FloatArray, gradient: FloatArray, hessian: FloatArray
) -> None:  # pragma: no cover - compiled
    phi, functions = workspace(data)
    for p in range(len(points)):
        density[p] = evaluate(data, points[p], phi, functions, gradient[p], hessian[p])


@njit(cache=True, fastmath=True)
def evaluate(
    data: DensityData,
    point: FloatArray,
    phi: FloatArray,
    functions: FloatArray,
    gradient: FloatArray,
    hessian: FloatArray,
) -> float:  # pragma: no cover - compiled
    """Density at ``point``; its gradient and Hessian go into the last two arguments."""
    phi[:] = 0.0
    orbitals = data.orbitals
    n_orbitals = orbitals.shape[1]
    used = np.empty(data.shells.shape[0], np.int64)
    n_used = 0
    for s in range(data.shells.shape[0]):
        atom, l = data.shells[s, 0], data.shells[s, 1]  # noqa: E741 - the field's name
        x = point[0] - data.centres[atom, 0]
        y = point[1] - data.centres[atom, 1]
        z = point[2] - data.centres[atom, 2]
        squared = x * x + y * y + z * z
        if squared > data.reach[s]:
            continue
        used[n_used] = s
        n_used += 1
        radial, first, second = 0.0, 0.0, 0.0
        for k in range(data.shells[s, 2], data.shells[s, 3]):
            a = data.exponents[k]
            if a * squared < 60.0:
                value = data.coefficients[k] * np.exp(-a * squared)
                radial += value
                first -= 2.0 * a * value
                second += 4.0 * a * a * value
        _functions(l, x, y, z, radial, first, second, data.shells[s, 4], functions)
        for f in range(data.shells[s, 4], data.shells[s, 4] + (l + 1) * (l + 2) // 2):
            f0, f1, f2, f3 = functions[f, 0], functions[f, 1], functions[f, 2], functions[f, 3]
            for i in range(n_orbitals):
                c = orbitals[f, i]
                phi[0, i] += c * f0
                phi[1, i] += c * f1
                phi[2, i] += c * f2
                phi[3, i] += c * f3
    density = 0.0
    gx, gy, gz = 0.0, 0.0, 0.0
    hxx, hxy, hxz, hyy, hyz, hzz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n_orbitals):
        a, b, c, d = phi[0, i], phi[1, i], phi[2, i], phi[3, i]
        density += a * a
        gx += a * b
        gy += a * c
        gz += a * d
        hxx += b * b
        hxy += b * c
        hxz += b * d
        hyy += c * c
        hyz += c * d
        hzz += d * d
    for u in range(n_used):
        s = used[u]
        l = data.shells[s, 1]  # noqa: E741
        for f in range(data.shells[s, 4], data.shells[s, 4] + (l + 1) * (l + 2) // 2):
            v = 0.0
            for i in range(n_orbitals):
                v += orbitals[f, i] * phi[0, i]
            hxx += v * functions[f, 4]
            hxy += v * functions[f, 5]
            hxz += v * functions[f, 6]
            hyy += v * functions[f, 7]
            hyz += v * functions[f, 8]
            hzz += v * functions[f, 9]
    gradient[0], gradient[1], gradient[2] = 2.0 * gx, 2.0 * gy, 2.0 * gz
    hessian[0, 0], hessian[1, 1], hessian[2, 2] = 2.0 * hxx, 2.0 * hyy, 2.0 * hzz
    hessian[0, 1] = hessian[1, 0] = 2.0 * hxy
    hessian[0, 2] = hessian[2, 0] = 2.0 * hxz
    hessian[1, 2] = hessian[2, 1] = 2.0 * hyz
    return density


@njit(cache=True, fastmath=True)
def _functions(
    l: int,  # noqa: E741
    x: float,
    y: float,
    z: float,
    radial: float,
    first: float,
    second: float,
    row: int,
    out: FloatArray,
) -> None:  # pragma: no cover - compiled
    """Values, gradients and second derivatives (xx, xy, xz, yy, yz, zz) of the functions of one shell."""
    if l == 0:
        out[row, 0] = radial
        out[row, 1], out[row, 2], out[row, 3] = x * first, y * first, z * first
        out[row, 4], out[row, 5], out[row, 6] = first + x * x * second, x * y * second, x * z * second
        out[row, 7], out[row, 8], out[row, 9] = first + y * y * second, y * z * second, first + z * z * second
        return
    for i in range(l, -1, -1):
        for j in range(l - i, -1, -1):
            k = l - i - j
            px, py, pz = x**i, y**j, z**k
            dx = i * x ** (i - 1) if i > 0 else 0.0
            dy = j * y ** (j - 1) if j > 0 else 0.0
            dz = k * z ** (k - 1) if k > 0 else 0.0
            dxx = i * (i - 1) * x ** (i - 2) if i > 1 else 0.0
            dyy = j * (j - 1) * y ** (j - 2) if j > 1 else 0.0
            dzz = k * (k - 1) * z ** (k - 2) if k > 1 else 0.0
            m = px * py * pz
            mx, my, mz = dx * py * pz, px * dy * pz, px * py * dz
            out[row, 0] = m * radial
            out[row, 1] = mx * radial + m * x * first
            out[row, 2] = my * radial + m * y * first
            out[row, 3] = mz * radial + m * z * first
            out[row, 4] = dxx * py * pz * radial + (2.0 * mx * x + m) * first + m * x * x * second
            out[row, 5] = dx * dy * pz * radial + (mx * y + my * x) * first + m * x * y * second
            out[row, 6] = dx * py * dz * radial + (mx * z + mz * x) * first + m * x * z * second
            out[row, 7] = px * dyy * pz * radial + (2.0 * my * y + m) * first + m * y * y * second
            out[row, 8] = px * dy * dz * radial + (my * z + mz * y) * first + m * y * z * second
            out[row, 9] = px * py * dzz * radial + (2.0 * mz * z + m) * first + m * z * z * second
            row += 1

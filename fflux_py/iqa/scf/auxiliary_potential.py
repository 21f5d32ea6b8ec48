"""Electrostatic potential of auxiliary (density-fitting) Gaussians at arbitrary points, in closed form.

The Coulomb potential of a solid-harmonic Gaussian is one Boys function times the same solid harmonic,

    int r'^(2k) S_lm(r') exp(-a r'^2) / |r - r'| dr' = 2 pi S_lm(r) (-d/da)^k [F_l(a r^2) / a],

because S_lm(grad) acting on a function of r^2 gives back S_lm (Hobson's theorem; T. Helgaker, P. Jorgensen, J. Olsen,
Molecular Electronic-Structure Theory, Wiley 2000, section 9.13).  It costs a table look-up per shell and point, less
than general integrals against point charges.  Cartesian shells contain harmonics of lower order, r^2k S_(l-2k),m; their
fitting coefficients are transformed to harmonics once per molecule, so that only harmonics are ever evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import gamma, gammainc

from fflux_py._compiled.jit import njit
from fflux_py.typing import FloatArray, IntArray

_TABLE_STEP = 0.1
_TABLE_END = 40.0
_TAYLOR_TERMS = 8
# Normalisation of Cartesian s and p functions in libcint; higher shells carry none.
CARTESIAN_FACTOR = {0: 0.282094791773878143, 1: 0.488602511902919921}


@dataclass(frozen=True)
class AuxiliaryShell:
    """One shell of the auxiliary basis.

    Parameters
    ----------
    atom
        Index of the atom it sits on.
    momentum
        Angular momentum l.
    exponents, coefficients
        Primitives: bohr^-2, and contraction coefficients with libcint's radial normalisation; ``(n_primitives,)``.
    spherical
        ``None`` for a Cartesian shell, else the matrix from Cartesian to spherical functions, ``(n_cartesian, 2l+1)``.
    """

    atom: int
    momentum: int
    exponents: FloatArray
    coefficients: FloatArray
    spherical: FloatArray | None


class AuxiliaryPotential:
    """Potentials of all harmonics of an auxiliary basis, and the change from its functions to those harmonics.

    Parameters
    ----------
    shells
        Shells in the order of the basis.
    centres
        Positions of the atoms in bohr, shape ``(n_atoms, 3)``.
    """

    def __init__(self, shells: Sequence[AuxiliaryShell], centres: FloatArray) -> None:
        self._centres = np.ascontiguousarray(centres, dtype=np.float64)
        self._shells = tuple(shells)
        blocks = [_to_harmonics(s) for s in self._shells]
        self.n_functions = sum(b.shape[0] for b in blocks)
        self.n_harmonics = sum(b.shape[1] for b in blocks)
        self._blocks = blocks
        rows = np.cumsum([0] + [b.shape[1] for b in blocks])[:-1]
        primitives = np.cumsum([0] + [len(s.exponents) for s in self._shells])
        table = [
            (s.atom, s.momentum, 0 if s.spherical is not None else s.momentum // 2, row, first, last)
            for s, row, first, last in zip(self._shells, rows, primitives[:-1], primitives[1:], strict=True)
        ]
        self._index: IntArray = np.array(table, dtype=np.int64)
        self._exponents = np.concatenate([s.exponents for s in self._shells])
        self._coefficients = np.concatenate([s.coefficients for s in self._shells])
        self._boys = boys_table(max(s.momentum for s in self._shells))

    def to_harmonics(self, coefficients: FloatArray) -> FloatArray:
        """Fitting coefficients ``(..., n_functions)`` as coefficients of the harmonics ``(..., n_harmonics)``."""
        out = np.empty((*coefficients.shape[:-1], self.n_harmonics))
        f = h = 0
        for block in self._blocks:
            out[..., h : h + block.shape[1]] = coefficients[..., f : f + block.shape[0]] @ block
            f, h = f + block.shape[0], h + block.shape[1]
        return out

    def __call__(self, points: FloatArray) -> FloatArray:
        """Potentials (hartree/e) of the harmonics at ``points`` (bohr, ``(n, 3)``), shape ``(n_harmonics, n)``."""
        out = np.zeros((self.n_harmonics, len(points)))
        _potentials(
            np.ascontiguousarray(points),
            self._centres,
            self._index,
            self._exponents,
            self._coefficients,
            self._boys,
            out,
        )
        return out


def _to_harmonics(shell: AuxiliaryShell) -> FloatArray:
    """Matrix ``(n_functions, n_harmonics)`` with function = sum of coefficient times r^2k S_(l-2k),m."""
    matrix = _cartesian_to_harmonics(shell.momentum)
    if shell.spherical is not None:
        # Spherical functions hold no lower harmonics: only the columns of k = 0 survive.
        matrix = (shell.spherical.T @ matrix)[:, : 2 * shell.momentum + 1]
    return matrix * CARTESIAN_FACTOR.get(shell.momentum, 1.0)


@cache
def _cartesian_to_harmonics(momentum: int) -> FloatArray:
    """Expansion of the monomials of degree l (x highest first) in r^2k S_(l-2k),m; columns ordered by k, then m."""
    points = np.random.default_rng(7).uniform(-1.0, 1.0, (8 * (momentum + 1) ** 2, 3))
    x, y, z = points.T
    monomials = np.array(
        [x**i * y**j * z ** (momentum - i - j) for i in range(momentum, -1, -1) for j in range(momentum - i, -1, -1)]
    )
    solid = np.zeros(((momentum + 1) ** 2, len(points)))
    _solid_harmonics(x, y, z, momentum, solid)
    squared = x * x + y * y + z * z
    columns = [
        squared**k * solid[order * order + m]
        for k in range(momentum // 2 + 1)
        for order in [momentum - 2 * k]
        for m in range(2 * order + 1)
    ]
    matrix: FloatArray = np.linalg.lstsq(np.array(columns).T, monomials.T, rcond=None)[0].T
    matrix[np.abs(matrix) < 1e-13] = 0.0
    return matrix


@cache
def boys_table(highest: int) -> FloatArray:
    """Boys functions F_m(x), m up to ``highest`` plus the Taylor terms, on the grid of x; shape ``(n_x, n_m)``."""
    x = np.arange(0.0, _TABLE_END + 2 * _TABLE_STEP, _TABLE_STEP)
    table = np.empty((len(x), highest + _TAYLOR_TERMS + 1))
    for m in range(table.shape[1]):
        table[0, m] = 1.0 / (2 * m + 1)
        table[1:, m] = gamma(m + 0.5) * gammainc(m + 0.5, x[1:]) / (2.0 * x[1:] ** (m + 0.5))
    return table


@njit(cache=True)
def _boys(x: float, highest: int, table: FloatArray, out: FloatArray) -> None:  # pragma: no cover - compiled
    """F_0 .. F_highest at x into ``out``: Taylor expansion of the highest and downward recursion, or the asymptote."""
    if x < 40.0:
        node = int(x * 10.0 + 0.5)
        step = node * 0.1 - x
        term, value = 1.0, 0.0
        for k in range(8):
            value += table[node, highest + k] * term
            term *= step / (k + 1)
        out[highest] = value
        if highest > 0:
            decay = np.exp(-x)
            for m in range(highest - 1, -1, -1):
                out[m] = (2.0 * x * out[m + 1] + decay) / (2 * m + 1)
    else:
        out[0] = 0.5 * np.sqrt(np.pi / x)
        decay = np.exp(-x)
        for m in range(highest):
            out[m + 1] = ((2 * m + 1) * out[m] - decay) / (2.0 * x)


@njit(cache=True)
def _solid_harmonics(
    x: FloatArray, y: FloatArray, z: FloatArray, highest: int, out: FloatArray
) -> None:  # pragma: no cover - compiled
    """Unnormalised real solid harmonics, row l^2 + l + m, by the recursions of associated Legendre functions."""
    for p in range(x.shape[0]):
        squared = x[p] * x[p] + y[p] * y[p] + z[p] * z[p]
        cosine, sine, diagonal = 1.0, 0.0, 1.0
        for m in range(highest + 1):
            below, here = 0.0, diagonal
            for order in range(m, highest + 1):
                row = order * order + order
                out[row + m, p] = here * cosine
                if m > 0:
                    out[row - m, p] = here * sine
                following = ((2 * order + 1) * z[p] * here - (order + m) * squared * below) / (order + 1 - m)
                below, here = here, following
            cosine, sine = x[p] * cosine - y[p] * sine, x[p] * sine + y[p] * cosine
            diagonal *= 2 * m + 1


@njit(cache=True)
def _potentials(
    points: FloatArray,
    centres: FloatArray,
    index: IntArray,
    exponents: FloatArray,
    coefficients: FloatArray,
    table: FloatArray,
    out: FloatArray,
) -> None:  # pragma: no cover - compiled
    n_points = points.shape[0]
    highest = 0
    for s in range(index.shape[0]):
        highest = max(highest, index[s, 1])
    solid = np.zeros(((highest + 1) ** 2, n_points))
    squared = np.zeros(n_points)
    radial = np.zeros((highest // 2 + 1, n_points))
    boys = np.zeros(highest + 1)
    current = -1
    for s in range(index.shape[0]):
        atom, momentum, lowered, row = index[s, 0], index[s, 1], index[s, 2], index[s, 3]
        if atom != current:
            current = atom
            x, y, z = points[:, 0] - centres[atom, 0], points[:, 1] - centres[atom, 1], points[:, 2] - centres[atom, 2]
            squared = x * x + y * y + z * z
            _solid_harmonics(x, y, z, highest, solid)
        radial[:] = 0.0
        for primitive in range(index[s, 4], index[s, 5]):
            a = exponents[primitive]
            factor = 2.0 * np.pi * coefficients[primitive]
            for p in range(n_points):
                _boys(a * squared[p], momentum, table, boys)
                for k in range(lowered + 1):
                    # (-d/da)^k [F_l(a r^2) / a] by Leibniz's rule
                    order = momentum - 2 * k
                    value, weight = 0.0, 1.0
                    for i in range(k, 0, -1):
                        weight *= i / a
                    power = weight / a
                    binomial = 1.0
                    for j in range(k + 1):
                        value += binomial * power * boys[order + j]
                        binomial *= (k - j) / (j + 1)
                        if j < k:
                            power *= squared[p] * a / (k - j)
                    radial[k, p] += factor * value
        for k in range(lowered + 1):
            order = momentum - 2 * k
            for m in range(2 * order + 1):
                for p in range(n_points):
                    out[row, p] = radial[k, p] * solid[order * order + m, p]
                row += 1

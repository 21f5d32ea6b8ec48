"""Everything in the energy that is local in space, at given points: densities, potentials, energy densities.

The Coulomb potential is that of the fitted density; the exact-exchange energy density -c sum_ij phi_i phi_j V_ij takes
the potentials of the fitted orbital pairs.  The orbitals are localised first (S. F. Boys, Rev. Mod. Phys. 32, 296
(1960)), which changes no density, but leaves only a few pairs that matter at any place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py.iqa.scf._density import DensityData, density_data, orbitals_at
from fflux_py.iqa.scf.electronic_structure import GroundState
from fflux_py.typing import FloatArray, IntArray

# An orbital pair is left out of a block of points in which its product is nowhere larger than this, e/bohr^3.
_NEGLIGIBLE_PAIR = 1e-6
_SWEEPS = 200


@dataclass(frozen=True)
class Densities:
    """Local quantities at points, atomic units, each ``(n_points,)``.

    Parameters
    ----------
    electrons
        Electron density.
    laplacian
        Its Laplacian.
    kinetic
        Positive kinetic energy density G.
    coulomb
        Half the density times its Coulomb potential.
    exact_exchange
        Exact-exchange energy density, times its fraction in the functional.
    local_xc
        Energy density of the local part of the functional.
    """

    electrons: FloatArray
    laplacian: FloatArray
    kinetic: FloatArray
    coulomb: FloatArray
    exact_exchange: FloatArray
    local_xc: FloatArray


class LocalDensities:
    """Local quantities of one ground state.

    Parameters
    ----------
    state
        A converged ground state.
    fitting_basis
        Basis of the potentials of the density and of orbital pairs; that of the level of theory if left out.
    """

    def __init__(self, state: GroundState, fitting_basis: str | None = None) -> None:
        self._state = state
        self._fraction = state.exchange_fraction
        orbitals = state.occupied_orbitals().coefficients
        if self._fraction and orbitals.shape[1] > 1:
            orbitals = orbitals @ localising_rotation(orbitals, state.position_integrals())
        self.data: DensityData = density_data(state.shells(), state.molecule.positions, np.sqrt(2.0) * orbitals)
        self._potential = state.auxiliary_potential(fitting_basis)
        self._pairs, fit = state.pair_fit(orbitals, not self._fraction, fitting_basis)
        self._fit = self._potential.to_harmonics(fit)
        diagonal = self._pairs[:, 0] == self._pairs[:, 1]
        self._density_fit = 2.0 * self._fit[diagonal].sum(axis=0)
        # The orbitals at points carry the square root of 2; both orders of a pair are counted at once.
        self._multiplicity = np.where(diagonal, 0.5, 1.0)

    def electrons_at(self, points: FloatArray) -> FloatArray:
        """Electron density alone, ``(n_points,)``."""
        phi = orbitals_at(self.data, points)[0][0]
        return np.asarray(np.einsum("ip,ip->p", phi, phi))

    def __call__(self, points: FloatArray) -> Densities:
        """Evaluate everything at ``points`` (bohr, ``(n_points, 3)``); fastest if they lie close together."""
        phi, laplacian = orbitals_at(self.data, points)
        electrons = np.einsum("ip,ip->p", phi[0], phi[0])
        gradient = 2.0 * np.einsum("ip,xip->xp", phi[0], phi[1:])
        kinetic = 0.5 * np.einsum("xip,xip->p", phi[1:], phi[1:])
        potentials = self._potential(points)
        return Densities(
            electrons,
            laplacian,
            kinetic,
            0.5 * electrons * (self._density_fit @ potentials),
            -self._fraction * self._exchange(phi[0], potentials),
            self._state.local_xc_density(np.vstack([electrons[None], gradient, kinetic[None]])),
        )

    def _exchange(self, phi: FloatArray, potentials: FloatArray) -> FloatArray:
        """Sum over i, j of phi_i phi_j V_ij at every point."""
        if not self._fraction:
            return np.zeros(phi.shape[1])
        first, second = self._pairs.T
        largest = np.abs(phi).max(axis=1)
        # The product's largest value is below the product of the largest values; only few pairs need a closer look.
        near = np.flatnonzero(largest[first] * largest[second] > _NEGLIGIBLE_PAIR)
        products = phi[first[near]]
        products *= phi[second[near]]
        kept = np.abs(products).max(axis=1) > _NEGLIGIBLE_PAIR
        near, products = near[kept], products[kept]
        products *= self._fit[near] @ potentials
        return np.asarray(self._multiplicity[near] @ products)


def compact_blocks(points: FloatArray, size: int) -> list[IntArray]:
    """Indices of ``points`` in groups of at most ``size`` that lie close together (halved along the longest side)."""
    groups, out = [np.arange(len(points))], []
    while groups:
        group = groups.pop()
        if len(group) <= size:
            out.append(group)
            continue
        inside = points[group]
        axis = int(np.argmax(np.ptp(inside, axis=0)))
        order = np.argpartition(inside[:, axis], len(group) // 2)
        groups.extend([group[order[len(group) // 2 :]], group[order[: len(group) // 2]]])
    return out


def localising_rotation(orbitals: FloatArray, position: FloatArray) -> FloatArray:
    """Orthogonal matrix that turns orbitals into those of Boys, as far apart as can be.

    Parameters
    ----------
    orbitals
        Coefficients, ``(n_functions, n_orbitals)``.
    position
        Integrals of x, y and z, ``(3, n_functions, n_functions)``.
    """
    centres = np.ascontiguousarray(np.einsum("pi,xpq,qj->xij", orbitals, position, orbitals, optimize=True))
    rotation = np.eye(orbitals.shape[1])
    _rotate_pairs(centres, rotation)
    return rotation


@njit(cache=True)
def _rotate_pairs(centres: FloatArray, rotation: FloatArray) -> None:  # pragma: no cover - compiled
    """Jacobi sweeps over pairs (C. Edmiston, K. Ruedenberg, Rev. Mod. Phys. 35, 457 (1963))."""
    n = rotation.shape[0]
    for _ in range(_SWEEPS):
        largest = 0.0
        for i in range(n):
            for j in range(i):
                a, b = 0.0, 0.0
                for x in range(3):
                    half = 0.5 * (centres[x, i, i] - centres[x, j, j])
                    a += centres[x, i, j] ** 2 - half * half
                    b += 2.0 * centres[x, i, j] * half
                size = np.sqrt(a * a + b * b)
                if size < 1e-12:
                    continue
                angle = 0.25 * np.arctan2(b, -a)
                if abs(angle) < 1e-7:
                    continue
                largest = max(largest, abs(angle))
                c, s = np.cos(angle), np.sin(angle)
                for k in range(n):
                    u, v = rotation[k, i], rotation[k, j]
                    rotation[k, i], rotation[k, j] = c * u + s * v, c * v - s * u
                    for x in range(3):
                        u, v = centres[x, k, i], centres[x, k, j]
                        centres[x, k, i], centres[x, k, j] = c * u + s * v, c * v - s * u
                for x in range(3):
                    for k in range(n):
                        u, v = centres[x, i, k], centres[x, j, k]
                        centres[x, i, k], centres[x, j, k] = c * u + s * v, c * v - s * u
        if largest < 1e-3:
            return

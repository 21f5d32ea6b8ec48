"""Interacting-quantum-atoms (IQA) energies of atoms from local energy densities.

E(A) = T(A) + 1/2 V_ne(A, Mol) + 1/2 V_en(A, Mol) + V_ee(A) + 1/2 V_nn(A), each term one integral over the basin of A:

- T(A): G = 1/2 sum_i n_i |grad phi_i|^2, the positive kinetic energy density.  In a fuzzy basin the kinetic energy
  depends on the choice of the density (K - G = -1/4 lap(rho) does not integrate to zero there); G needs no second
  derivatives, which are noisy on a grid next to the nuclei.
- V_en(A, Mol): the electrons of A and all nuclei; V_ne(A, Mol): nucleus A and all electrons, analytic.
- V_ee(A): 1/2 rho V_J, with the potential V_J of the fitted density, plus the local exchange-correlation density, plus
  the exact-exchange density -c sum_ij phi_i phi_j V_ij with the potentials of the fitted orbital pairs.

Every component's sum over the atoms is known analytically.  What the integration grid misses, the *residual*, is given
to the atoms in proportion to the size of their share of that component (the attraction to each nucleus by itself), so
that the atoms' energies sum to the SCF energy.  What an atom was given, summed over components without regard to sign,
is its error estimate.

Sources: M. A. Blanco, A. Martin Pendas, E. Francisco, J. Chem. Theory Comput. 1, 1096 (2005) (IQA); P. Salvador,
I. Mayer, J. Chem. Phys. 120, 5046 (2004) (fuzzy atoms); the local form of the inter-basin sums is Fubini's theorem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fflux_py.iqa.electronic_structure import AnalyticEnergies, GroundState
from fflux_py.iqa.partition import Partition
from fflux_py.potential import FloatArray, IntArray

# Points with fewer electrons than this are left out: 1e-11 electrons in all, below 1e-9 hartree.
_NEGLIGIBLE_ELECTRONS = 1e-15
_BLOCK = 1600


@dataclass(frozen=True)
class AtomicEnergies:
    """Energies of the atoms in a molecule.

    Parameters
    ----------
    energies
        IQA energies in hartree, shape ``(n_atoms,)``; they sum to the SCF energy.
    errors
        Sum of the sizes of all corrections that an atom received, hartree, shape ``(n_atoms,)``.
    charges
        Charges in elementary charges, shape ``(n_atoms,)``; they sum to the charge of the molecule.
    components
        Parts of ``energies`` by name, hartree, each ``(n_atoms,)``.
    residuals
        Analytic minus integrated value of every component, hartree (``electrons``: electrons).
    """

    energies: FloatArray
    errors: FloatArray
    charges: FloatArray
    components: dict[str, FloatArray]
    residuals: dict[str, float]


@dataclass(frozen=True)
class _Integrals:
    """Integrals over the basins, as the grid gives them; every array has the atoms as its last axis."""

    electrons: FloatArray
    kinetic: FloatArray
    attraction: FloatArray
    """Electrons of an atom (last axis) by each nucleus (first axis)."""
    coulomb: FloatArray
    exact_exchange: FloatArray
    local_xc: FloatArray


def atomic_energies(state: GroundState, partition: Partition) -> AtomicEnergies:
    """Partition the energy of ``state`` into atoms.

    Parameters
    ----------
    state
        A converged ground state.
    partition
        Weights of the atoms at grid points.
    """
    analytic = state.analytic_energies()
    return _correct(_integrate(state, partition), analytic, state)


def _integrate(state: GroundState, partition: Partition) -> _Integrals:
    molecule = state.molecule
    n = molecule.n_atoms
    potential = state.auxiliary_potential
    pairs, fit = state.pair_fit()
    fit = potential.to_harmonics(fit)
    density_fit = 2.0 * fit[pairs[:, 0] == pairs[:, 1]].sum(axis=0)
    multiplicity = np.where(pairs[:, 0] == pairs[:, 1], 1.0, 2.0)
    sums = np.zeros((5, n))
    attraction = np.zeros((n, n))
    points, quadrature = state.grid()
    for start in range(0, len(points), _BLOCK):
        block, weight = points[start : start + _BLOCK], quadrature[start : start + _BLOCK]
        orbitals = state.orbitals(block)
        density = 2.0 * np.einsum("ip,ip->p", orbitals[0], orbitals[0])
        kept = np.abs(weight * density) > _NEGLIGIBLE_ELECTRONS
        if not kept.any():
            continue
        block, weight, orbitals, density = block[kept], weight[kept], orbitals[:, :, kept], density[kept]
        gradient = 4.0 * np.einsum("ip,xip->xp", orbitals[0], orbitals[1:])
        potentials = potential(block)
        exchange = np.zeros(len(block))
        if state.exchange_fraction:
            exchange = _exchange_density(orbitals[0], pairs, multiplicity, fit @ potentials)
        densities = np.stack(
            [
                density,
                np.einsum("xip,xip->p", orbitals[1:], orbitals[1:]),
                0.5 * density * (density_fit @ potentials),
                -state.exchange_fraction * exchange,
                state.local_xc_density(np.vstack([density[None], gradient])),
            ]
        )
        basins = partition(molecule, state.level, block) * weight
        sums += densities @ basins.T
        distance = np.linalg.norm(molecule.positions[:, None] - block[None], axis=2)
        attraction -= ((molecule.numbers[:, None] / distance) * density) @ basins.T
    return _Integrals(sums[0], sums[1], attraction, sums[2], sums[3], sums[4])


def _exchange_density(
    orbitals: FloatArray, pairs: IntArray, multiplicity: FloatArray, potentials: FloatArray
) -> FloatArray:
    """Sum over i, j of phi_i phi_j V_ij at every point, from the pairs i <= j."""
    products = orbitals[pairs[:, 0]]
    products *= orbitals[pairs[:, 1]]
    products *= potentials
    return np.asarray(multiplicity @ products)


def _correct(raw: _Integrals, analytic: AnalyticEnergies, state: GroundState) -> AtomicEnergies:
    """Give the residual of every component to the atoms, and add the components up."""
    electrons = float(state.molecule.numbers.sum() - state.molecule.charge)
    totals = {
        "electrons": (raw.electrons, electrons),
        "kinetic": (raw.kinetic, analytic.kinetic),
        "coulomb": (raw.coulomb, analytic.coulomb),
        "exact_exchange": (raw.exact_exchange, analytic.exact_exchange),
        "local_xc": (raw.local_xc, analytic.local_xc),
    }
    corrections = {name: _shared(total - part.sum(), part) for name, (part, total) in totals.items()}
    corrected = {name: part + corrections[name] for name, (part, _) in totals.items()}
    residuals = {name: float(total - part.sum()) for name, (part, total) in totals.items()}

    by_nucleus = analytic.nuclear_attraction - raw.attraction.sum(axis=1)
    correction = np.array([_shared(r, part) for r, part in zip(by_nucleus, raw.attraction, strict=True)])
    residuals["nuclear_attraction"] = float(by_nucleus.sum())
    corrections["electron_nuclear"] = 0.5 * correction.sum(axis=0)
    components = {
        "kinetic": corrected["kinetic"],
        "electron_nuclear": 0.5 * (raw.attraction + correction).sum(axis=0),
        "nuclear_electron": 0.5 * analytic.nuclear_attraction,
        "coulomb": corrected["coulomb"],
        "exact_exchange": corrected["exact_exchange"],
        "local_xc": corrected["local_xc"],
        "nuclear_repulsion": analytic.nuclear_repulsion,
    }
    errors = np.sum([np.abs(c) for name, c in corrections.items() if name != "electrons"], axis=0)
    return AtomicEnergies(
        energies=np.sum(list(components.values()), axis=0),
        errors=errors,
        charges=state.molecule.numbers - corrected["electrons"],
        components=components,
        residuals=residuals,
    )


def _shared(residual: float, shares: FloatArray) -> FloatArray:
    """``residual`` in proportion to the size of ``shares``; nothing where there are no shares."""
    total = float(np.abs(shares).sum())
    return np.asarray(residual * np.abs(shares) / total) if total else np.zeros_like(shares)

"""Interacting-quantum-atoms (IQA) energies of atoms from local energy densities.

E(A) = T(A) + 1/2 V_ne(A, Mol) + 1/2 V_en(A, Mol) + V_ee(A) + 1/2 V_nn(A), each term one integral over the basin of A:

- T(A): G = 1/2 sum_i n_i |grad phi_i|^2, the positive kinetic energy density.  In a fuzzy basin the kinetic energy
  depends on the choice of the density (K - G = -1/4 lap(rho) does not integrate to zero there).  In a topological atom
  it does not; G, without the spikes of the Laplacian at the nuclei, is integrated more accurately than K.
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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fflux_py.iqa.qtaim.basins import BasinSettings, check_basins, find_basins
from fflux_py.iqa.scf.electronic_structure import AnalyticEnergies, GroundState
from fflux_py.iqa.scf.level_of_theory import DENSITY_FIT_OF_PARTITION, LevelOfTheory
from fflux_py.iqa.scf.local_densities import Densities, LocalDensities, compact_blocks
from fflux_py.iqa.scf.preflight import elements_without
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

# Points with fewer electrons than this are left out: 1e-11 electrons in all, below 1e-9 hartree.
_NEGLIGIBLE_ELECTRONS = 1e-15
_BLOCK = 1200
# The limit of the field for the integral of the Laplacian over a topological atom, hartree.
_LARGEST_LAPLACIAN = 1e-3
# Above this the surfaces are swept again with another tolerance.
_SUSPICIOUS_LAPLACIAN = 1.5e-4
_SHARP_TOLERANCE = 3e-5
_FINER = "cc-pvtz-jkfit"


class WeightFunction(Protocol):
    """Weights of fuzzy atoms at points: not negative, and summing to one at every point."""

    def __call__(self, molecule: Molecule, level: LevelOfTheory, points: FloatArray) -> FloatArray:
        """Return the weights, shape ``(n_atoms, n_points)``, at ``points`` (bohr, ``(n_points, 3)``)."""
        ...


@dataclass(frozen=True)
class AtomicEnergies:
    """Energies and moments of the atoms in a molecule.

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
    dipoles
        Dipole moments of the electrons about the atom's nucleus, global axes, e bohr, ``(n_atoms, 3)``.
    quadrupoles
        Their quadrupole moments Q20, Q21c, Q21s, Q22c, Q22s (A. J. Stone, The Theory of Intermolecular Forces, Oxford
        2013), about the nucleus, global axes, e bohr^2, ``(n_atoms, 5)``.
    laplacians
        L(A), -1/4 of the integral of the density's Laplacian, hartree, ``(n_atoms,)``: zero in a topological atom but
        for the error of the integration.
    populations
        Electrons, ``(n_atoms,)``.
    attractions
        Attraction of the electrons of an atom (columns) by every nucleus (rows), hartree, ``(n_atoms, n_atoms)``:
        within the atoms on the diagonal, between them elsewhere.
    """

    energies: FloatArray
    errors: FloatArray
    charges: FloatArray
    components: dict[str, FloatArray]
    residuals: dict[str, float]
    dipoles: FloatArray
    quadrupoles: FloatArray
    laplacians: FloatArray
    populations: FloatArray
    attractions: FloatArray

    def integrals(self) -> dict[str, FloatArray]:
        """What is not an energy, by name."""
        return {
            "population": self.populations,
            "dipole": self.dipoles,
            "quadrupole": self.quadrupoles,
            "laplacian": self.laplacians,
            "attraction": self.attractions,
        }


@dataclass(frozen=True)
class BasinIntegrals:
    """Integrals over the basins as the grid gives them, atomic units; all arrays have the atoms as their last axis."""

    electrons: FloatArray
    laplacian: FloatArray
    kinetic: FloatArray
    coulomb: FloatArray
    exact_exchange: FloatArray
    local_xc: FloatArray
    attraction: FloatArray
    """Electrons of an atom (last axis) by each nucleus (first axis)."""
    moments: FloatArray
    """Dipole and quadrupole moments, ``(8, n_atoms)``."""


def integrate_fuzzy_atoms(state: GroundState, weights: WeightFunction) -> AtomicEnergies:
    """Divide the energy of ``state`` among fuzzy atoms.

    Parameters
    ----------
    state
        A converged ground state.
    weights
        Weights of the atoms at grid points.
    """
    local = LocalDensities(state)
    points, quadrature = state.grid()
    electrons = local.electrons_at(points)
    kept = np.abs(quadrature * electrons) > _NEGLIGIBLE_ELECTRONS
    points, quadrature = points[kept], quadrature[kept]

    def blocks() -> Iterator[tuple[FloatArray, FloatArray]]:
        for block in compact_blocks(points, _BLOCK):
            yield points[block], weights(state.molecule, state.level, points[block]) * quadrature[block]

    return distribute_residuals(_integrate_blocks(state, local, blocks()), state.analytic_energies(), state.molecule)


def potential_basis(symbols: Iterable[str], level: LevelOfTheory) -> str:
    """The fitting basis of the potentials in topological atoms.

    With the default fitting basis of the SCF they miss those of the reference program by up to 4e-5 hartree; with
    cc-pVTZ-JKFIT, where it has all elements, by half as much.  A fitting basis that was asked for is taken.
    """
    default = level.auxiliary_basis == DENSITY_FIT_OF_PARTITION
    return level.auxiliary_basis if not default or elements_without(set(symbols), _FINER) else _FINER


def integrate_topological_atoms(state: GroundState) -> AtomicEnergies:
    """Divide the energy of ``state`` among topological atoms.

    Raises
    ------
    ConvergenceError
        A basin that is not found, holds no nucleus, or does not integrate the Laplacian of the density to zero.
    """
    local = LocalDensities(state, potential_basis(state.molecule.symbols, state.level))
    raw = _integrate_basins(state, local, BasinSettings())
    if np.abs(raw.laplacian).max() > _SUSPICIOUS_LAPLACIAN:
        # A sliver of a surface was missed: its two sides cannot both have a Laplacian that integrates to zero.
        raw = _integrate_basins(state, local, BasinSettings(surface_tolerance=_SHARP_TOLERANCE))
    check_basins(raw.laplacian, _LARGEST_LAPLACIAN, repr(state.molecule.name))
    return distribute_residuals(raw, state.analytic_energies(), state.molecule)


def _integrate_basins(state: GroundState, local: LocalDensities, settings: BasinSettings) -> BasinIntegrals:
    grid = find_basins(local.data, state.molecule, settings)

    def blocks() -> Iterator[tuple[FloatArray, FloatArray]]:
        for block in compact_blocks(grid.points, _BLOCK):
            yield grid.points[block], grid.shares[:, block] * grid.weights[block]

    return _integrate_blocks(state, local, blocks())


def _integrate_blocks(
    state: GroundState, local: LocalDensities, blocks: Iterator[tuple[FloatArray, FloatArray]]
) -> BasinIntegrals:
    """Sum over blocks of points with the weights of the atoms, ``(n_atoms, n_points)``."""
    molecule = state.molecule
    n = molecule.n_atoms
    sums, moments, attraction = np.zeros((6, n)), np.zeros((8, n)), np.zeros((n, n))
    for points, basins in blocks:
        densities = local(points)
        sums += _stacked(densities) @ basins.T
        charge = basins * densities.electrons
        displacement = points[None] - molecule.positions[:, None]
        squared_distance = np.einsum("apx,apx->ap", displacement, displacement)
        attraction -= (molecule.numbers[:, None] / np.sqrt(squared_distance)) @ charge.T
        moments += _moments(displacement, squared_distance, charge)
    return BasinIntegrals(sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], attraction, moments)


def _stacked(densities: Densities) -> FloatArray:
    return np.stack(
        [
            densities.electrons,
            -0.25 * densities.laplacian,
            densities.kinetic,
            densities.coulomb,
            densities.exact_exchange,
            densities.local_xc,
        ]
    )


def _moments(displacement: FloatArray, squared_distance: FloatArray, charge: FloatArray) -> FloatArray:
    """Moments of the electrons of every atom about its nucleus, ``(8, n_atoms)``."""
    x, y, z = np.moveaxis(displacement, 2, 0)
    root = np.sqrt(3.0)
    terms = (
        x,
        y,
        z,
        1.5 * z * z - 0.5 * squared_distance,
        root * x * z,
        root * y * z,
        0.5 * root * (x * x - y * y),
        root * x * y,
    )
    return -np.array([np.einsum("ap,ap->a", term, charge) for term in terms])


def distribute_residuals(raw: BasinIntegrals, analytic: AnalyticEnergies, molecule: Molecule) -> AtomicEnergies:
    """Give the residual of every component to the atoms, and add the components up.

    Parameters
    ----------
    raw
        Integrals over the atoms.
    analytic
        What they should sum to.
    molecule
        Nuclei and charge.
    """
    electrons = float(molecule.numbers.sum() - molecule.charge)
    totals = {
        "electrons": (raw.electrons, electrons),
        "kinetic": (raw.kinetic, analytic.kinetic),
        "coulomb": (raw.coulomb, analytic.coulomb),
        "exact_exchange": (raw.exact_exchange, analytic.exact_exchange),
        "local_xc": (raw.local_xc, analytic.local_xc),
    }
    corrections = {name: _share_of_residual(total - part.sum(), part) for name, (part, total) in totals.items()}
    corrected = {name: part + corrections[name] for name, (part, _) in totals.items()}
    residuals = {name: float(total - part.sum()) for name, (part, total) in totals.items()}

    by_nucleus = analytic.nuclear_attraction - raw.attraction.sum(axis=1)
    correction = np.array([_share_of_residual(r, part) for r, part in zip(by_nucleus, raw.attraction, strict=True)])
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
        charges=molecule.numbers - corrected["electrons"],
        components=components,
        residuals=residuals,
        dipoles=raw.moments[:3].T,
        quadrupoles=raw.moments[3:].T,
        laplacians=raw.laplacian,
        populations=corrected["electrons"],
        attractions=raw.attraction + correction,
    )


def _share_of_residual(residual: float, shares: FloatArray) -> FloatArray:
    """``residual`` in proportion to the size of ``shares``; nothing where there are no shares."""
    total = float(np.abs(shares).sum())
    return np.asarray(residual * np.abs(shares) / total) if total else np.zeros_like(shares)

"""Kohn-Sham ground states by PySCF: energy, forces, orbitals and energy densities.

Restricted Kohn-Sham (local, GGA, meta-GGA, global hybrids) and Hartree-Fock, by default with density fitting of
Coulomb and exchange.  PySCF's ``b3lyp`` uses the VWN form fitted to the RPA (called VWN3 in Gaussian), so that it is
Gaussian's B3LYP.  The forces contain the response of the integration grid: they are the exact gradient of the energy
as computed, and sum to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.iqa.scf._energy_gradient import energy_gradient
from fflux_py.iqa.scf._pyscf import (
    check_functional,
    independent_root,
    load_pyscf,
    no_advice_on_missing_bases,
    no_checkpoint_files,
    refuse_effective_cores,
)
from fflux_py.iqa.scf._two_grid_scf import run_two_grid_scf
from fflux_py.iqa.scf.auxiliary_potential import AuxiliaryPotential, AuxiliaryShell
from fflux_py.iqa.scf.dispersion import dispersion_energy_and_gradient
from fflux_py.iqa.scf.functionals import MP2, check_atomic_energies, is_range_separated, split_dispersion
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.iqa.scf.mp2 import mp2_energy_and_gradient
from fflux_py.iqa.scf.stability import Stability, judge_stability
from fflux_py.molecules.molecule import Molecule, read_only
from fflux_py.typing import FloatArray, IntArray

# Stored orbitals count as converged up to this multiple of the SCF's own threshold (PySCF's last cycle grants three).
_GRADIENT_SLACK = 10.0
# Stands for the fraction of exact exchange where that depends on the distance.
_RANGE_SEPARATED_EXCHANGE = 0.5


@dataclass(frozen=True)
class AnalyticEnergies:
    """Components of the SCF energy in hartree, as the SCF has them (matrix elements; local part on the SCF grid)."""

    kinetic: float
    nuclear_attraction: FloatArray
    """Attraction of all electrons by each nucleus, shape ``(n_atoms,)``."""
    coulomb: float
    exact_exchange: float
    local_xc: float
    nuclear_repulsion: FloatArray
    """Half the repulsion of each nucleus by the others, shape ``(n_atoms,)``."""


@dataclass(frozen=True)
class OccupiedOrbitals:
    """Doubly occupied orbitals of a converged SCF: all that is needed to have its state again.

    Parameters
    ----------
    coefficients
        Coefficients of the basis functions in PySCF's order, shape ``(n_basis, n_occupied)``.
    energies
        Orbital energies in hartree, shape ``(n_occupied,)``.
    """

    coefficients: FloatArray
    energies: FloatArray

    def __post_init__(self) -> None:
        for name in ("coefficients", "energies"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        if self.coefficients.ndim != 2 or self.energies.shape != self.coefficients.shape[1:]:
            shapes = f"shapes {self.coefficients.shape} and {self.energies.shape}"
            raise InputError("orbitals", "coefficients (n_basis, n_occupied), energies (n_occupied,)", shapes)


def program_versions() -> dict[str, str]:
    """Versions of the programs that the energies come from."""
    return {"pyscf": str(load_pyscf().__version__), "numpy": np.__version__}


def use_threads(threads: int) -> None:
    """Set the number of threads of PySCF's own parallel loops in this process."""
    load_pyscf().lib.num_threads(threads)


def threads_in_use() -> int:
    """Return the number of threads of PySCF's own parallel loops in this process."""
    return int(load_pyscf().lib.num_threads())


def build_mole(molecule: Molecule, level: LevelOfTheory, spin: int | None = 0) -> Any:
    """Return PySCF's molecule with its basis; ``spin`` is the number of unpaired electrons (``None``: the fewest)."""
    pyscf = load_pyscf()
    electrons = int(molecule.numbers.sum()) - molecule.charge
    spin = electrons % 2 if spin is None else spin
    if (electrons - spin) % 2 or electrons < max(spin, 1):
        raise InputError(
            f"charge of {molecule.name!r}",
            "an even number of electrons (closed shell)",
            f"{electrons} electrons at charge {molecule.charge}",
            "open shells are not supported",
        )
    refuse_effective_cores(set(molecule.symbols), level.basis)
    try:
        with no_advice_on_missing_bases():
            return pyscf.gto.M(
                atom=list(zip(molecule.symbols, molecule.positions.tolist(), strict=True)),
                unit="Bohr",
                basis=level.basis,
                charge=molecule.charge,
                spin=spin,
                cart=level.cartesian,
                verbose=0,
            )
    except (pyscf.gto.basis.BasisNotFoundError, KeyError) as error:
        raise InputError(
            "basis", f"a basis that PySCF has for {molecule.formula}", repr(level.basis), "choose another basis"
        ) from error


def build_mean_field(mole: Any, level: LevelOfTheory) -> Any:
    """Return PySCF's Kohn-Sham object, restricted if ``mole`` has no unpaired electron, else unrestricted."""
    pyscf = load_pyscf()
    check_functional(level.functional)
    kohn_sham = pyscf.dft.RKS if mole.spin == 0 else pyscf.dft.UKS
    with no_checkpoint_files():
        mean_field = kohn_sham(mole, xc=level.functional)
    try:
        with no_advice_on_missing_bases():
            pyscf.df.addons.make_auxmol(mole, level.auxiliary_basis)
    except pyscf.gto.basis.BasisNotFoundError as error:
        raise InputError(
            "auxiliary_basis", "a fitting basis that PySCF has", repr(level.auxiliary_basis), "choose another basis"
        ) from error
    if level.density_fit:
        mean_field = mean_field.density_fit(auxbasis=level.auxiliary_basis)
    mean_field.max_cycle = level.max_cycle
    return mean_field


def converge(mean_field: Any, level: LevelOfTheory, what: str) -> FloatArray:
    """Run the SCF and return the Fock matrix of its density.

    The start density depends on the geometry alone, so that the result does not depend on what was computed before.

    Raises
    ------
    ConvergenceError
        The SCF has not converged within ``level.max_cycle`` iterations.
    """
    if mean_field.mol.spin == 0:
        fock = run_two_grid_scf(mean_field, level.grid_level, level.convergence, level.gradient_convergence)
    else:
        mean_field.grids.level = level.grid_level
        mean_field.conv_tol, mean_field.conv_tol_grad = level.convergence, level.gradient_convergence
        mean_field.kernel()
        fock = mean_field.get_fock() if mean_field.converged and math.isfinite(mean_field.e_tot) else None
    if fock is None:
        raise ConvergenceError(
            f"SCF of {what}",
            f"convergence to {level.convergence:g} hartree within {level.max_cycle} iterations",
            "no convergence",
            "check the geometry or raise max_cycle",
        )
    return np.asarray(fock)


def restore(mean_field: Any, level: LevelOfTheory, orbitals: OccupiedOrbitals) -> FloatArray | None:
    """Put ``mean_field`` into the state of converged orbitals and return its Fock matrix.

    None, and nothing done, if the orbitals are not converged.
    """
    mole = mean_field.mol
    n_occupied = mole.nelectron // 2
    if orbitals.coefficients.shape != (mole.nao, n_occupied):
        return None
    overlap, core = mean_field.get_ovlp(), mean_field.get_hcore()
    coefficients = np.array(orbitals.coefficients)
    if not np.allclose(coefficients.T @ overlap @ coefficients, np.eye(n_occupied), rtol=0.0, atol=1e-8):
        return None
    mean_field.grids.level = level.grid_level
    density = mean_field.make_rdm1(coefficients, np.full(n_occupied, 2.0))
    potential = mean_field.get_veff(mole, density)
    fock = core + np.asarray(potential)
    residual = fock @ coefficients - overlap @ coefficients * orbitals.energies
    gradient = 2.0 * math.sqrt(max(float(np.vdot(residual, np.linalg.solve(overlap, residual))), 0.0))
    if not gradient < _GRADIENT_SLACK * level.gradient_convergence:
        mean_field.reset()
        return None
    mean_field.mo_coeff, mean_field.mo_energy = coefficients, np.array(orbitals.energies)
    mean_field.mo_occ = np.full(n_occupied, 2.0)
    mean_field.e_tot = mean_field.energy_tot(density, core, potential)
    mean_field.converged = True
    return np.asarray(fock)


class GroundState:
    """Converged closed-shell ground state of one geometry.

    Parameters
    ----------
    molecule
        Elements and positions.
    level
        Level of theory.
    orbitals
        Orbitals of this geometry at this level from an earlier SCF.  If they are converged the state is taken from
        them, bit for bit that at the end of their SCF; if not, they are ignored.

    Raises
    ------
    ConvergenceError
        The SCF does not converge.
    """

    def __init__(self, molecule: Molecule, level: LevelOfTheory, orbitals: OccupiedOrbitals | None = None) -> None:
        self.molecule = molecule
        self.level = level
        self._mole = build_mole(molecule, level)
        self._mean_field = build_mean_field(self._mole, level)
        fock = None if orbitals is None else restore(self._mean_field, level, orbitals)
        self.from_stored_orbitals = fock is not None
        """Whether no SCF was needed."""
        if fock is None:
            fock = converge(self._mean_field, level, f"{molecule.name!r} ({molecule.formula})")
        self._fock = fock
        dispersion, self._gradient_beyond = dispersion_energy_and_gradient(molecule, level.method)
        self.energy = float(self._mean_field.e_tot)
        if dispersion:
            self.energy += dispersion
        occupied = self._mean_field.mo_occ > 0
        self._orbitals: FloatArray = np.ascontiguousarray(self._mean_field.mo_coeff[:, occupied])
        self._density = self._mean_field.make_rdm1()
        if level.method == MP2:
            self.energy, self._gradient_beyond = mp2_energy_and_gradient(self._mole, self._density)

    def occupied_orbitals(self) -> OccupiedOrbitals:
        """Return the orbitals from which the same state can be had again."""
        return OccupiedOrbitals(self._orbitals, self._mean_field.mo_energy[self._mean_field.mo_occ > 0])

    def stability(self, always: bool = False) -> Stability:
        """Whether unpaired spins lower the energy; looked into where the gap is small, or ``always``."""
        fraction = _RANGE_SEPARATED_EXCHANGE if is_range_separated(self.level.functional) else self.exchange_fraction
        return judge_stability(self._mean_field, self._fock, fraction, always)

    def forces(self) -> FloatArray:
        """Forces in hartree/bohr, shape ``(n_atoms, 3)``, with the response of the integration grid."""
        if self.level.method == MP2:
            return -self._gradient_beyond
        if is_range_separated(self.level.functional):
            gradient = self._mean_field.nuc_grad_method()
            gradient.grid_response = True
            forces = -np.asarray(gradient.kernel())
        else:
            forces = -energy_gradient(self._mean_field, self._orbitals, self._fock, self.exchange_fraction)
        return forces - self._gradient_beyond if split_dispersion(self.level.method)[1] else forces

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """Points (bohr, ``(n, 3)``) and weights (bohr^3, ``(n,)``) of the integration grid."""
        return self._mean_field.grids.coords, self._mean_field.grids.weights

    def orbitals(self, points: FloatArray) -> FloatArray:
        """Values and gradients of the occupied orbitals at ``points``: ``(4, n_occupied, n_points)``."""
        basis = load_pyscf().dft.numint.eval_ao(self._mole, points, deriv=1)
        return np.stack([self._orbitals.T @ values.T for values in basis])

    def local_xc_density(self, density: FloatArray) -> FloatArray:
        """Exchange-correlation energy per volume of the local part of the functional.

        Parameters
        ----------
        density
            Electron density, its gradient and the positive kinetic energy density tau = 1/2 sum n |grad phi|^2, shape
            ``(5, n_points)``; the last is read by meta-GGAs only and may be left out for the others.
        """
        libxc = load_pyscf().dft.libxc
        kind = libxc.xc_type(self.level.functional)
        if kind == "HF":
            return np.zeros(density.shape[1])
        rows = {"LDA": 1, "GGA": 4, "MGGA": 5}[kind]
        if len(density) < rows:
            raise InputError("density", f"{rows} rows for {self.level.functional}", str(len(density)))
        argument = density[0] if rows == 1 else density[:rows]
        if rows == 5:  # libxc's place of the Laplacian, which no functional accepted here reads
            argument = np.insert(argument, 4, 0.0, axis=0)
        per_electron = libxc.eval_xc(self.level.functional, argument, deriv=0)[0]
        return np.asarray(per_electron * density[0])

    @property
    def exchange_fraction(self) -> float:
        """Fraction of exact exchange; a range-separated hybrid has none, which is an ``InputError``."""
        check_atomic_energies(self.level.functional)
        return float(load_pyscf().dft.libxc.hybrid_coeff(self.level.functional))

    def analytic_energies(self) -> AnalyticEnergies:
        """Return the components of the SCF energy; they sum to :attr:`energy`."""
        mole, dm = self._mole, self._density
        summary = self._mean_field.scf_summary
        attraction = np.empty(mole.natm)
        for atom in range(mole.natm):
            with mole.with_rinv_at_nucleus(atom):
                attraction[atom] = -mole.atom_charge(atom) * np.vdot(dm, mole.intor("int1e_rinv"))
        exchange = 0.0
        if self.exchange_fraction:
            exchange = -0.25 * self.exchange_fraction * float(np.vdot(dm, self._mean_field.get_k(mole, dm)))
        return AnalyticEnergies(
            kinetic=float(np.vdot(dm, mole.intor("int1e_kin"))),
            nuclear_attraction=attraction,
            coulomb=float(summary["coul"]),
            exact_exchange=exchange,
            local_xc=float(summary["exc"]) - exchange,
            nuclear_repulsion=_nuclear_repulsion(mole.atom_charges(), mole.atom_coords()),
        )

    @cached_property
    def auxiliary_potential(self) -> AuxiliaryPotential:
        """Potentials of the fitting functions."""
        return AuxiliaryPotential(_shells(self._fit.auxmol), self._fit.auxmol.atom_coords())

    def shells(self) -> list[AuxiliaryShell]:
        """Shells of the orbital basis, in the order of its functions."""
        return _shells(self._mole)

    def position_integrals(self) -> FloatArray:
        """Integrals of x, y and z over pairs of basis functions, ``(3, n_basis, n_basis)``."""
        return np.asarray(self._mole.intor("int1e_r"))

    def pair_fit(self, orbitals: FloatArray | None = None, only_diagonal: bool = False) -> tuple[IntArray, FloatArray]:
        """Fit of the occupied orbital pairs i <= j.

        Parameters
        ----------
        orbitals
            Coefficients of the orbitals, ``(n_basis, n_occupied)``; the canonical ones if left out.
        only_diagonal
            Only the pairs i = j.

        Returns
        -------
        pairs
            Indices ``(n_pairs, 2)``.
        coefficients
            Coefficients of the fitting functions, ``(n_pairs, n_auxiliary)``: phi_i phi_j = sum_P C_P chi_P.
        """
        orbitals = self._orbitals if orbitals is None else orbitals
        n = orbitals.shape[1]
        pairs = np.array([(i, j) for i in range(n) for j in range(i, i + 1 if only_diagonal else n)], dtype=np.int64)
        lib = load_pyscf().lib
        half = []
        for block in self._fit.loop():
            full = lib.unpack_tril(block)
            transformed = np.einsum("pi,xpq,qj->xij", orbitals, full, orbitals, optimize=True)
            half.append(transformed[:, pairs[:, 0], pairs[:, 1]])
        return pairs, (_metric_root(self._fit.auxmol).T @ np.concatenate(half)).T

    @cached_property
    def _fit(self) -> Any:
        """PySCF's density-fitting object with its three-centre integrals."""
        if self.level.density_fit:
            return self._mean_field.with_df
        fit = load_pyscf().df.DF(self._mole, auxbasis=self.level.auxiliary_basis)
        fit.build()
        return fit


def _shells(auxiliary: Any) -> list[AuxiliaryShell]:
    """One shell per contraction of PySCF's auxiliary molecule, in its order of functions."""
    gto = load_pyscf().gto
    shells = []
    for index in range(auxiliary.nbas):
        momentum = int(auxiliary.bas_angular(index))
        spherical = None if auxiliary.cart else np.asarray(gto.cart2sph(momentum, normalized="sp"))
        for contraction in auxiliary._libcint_ctr_coeff(index).T:
            shells.append(
                AuxiliaryShell(
                    int(auxiliary.bas_atom(index)), momentum, auxiliary.bas_exp(index), contraction.copy(), spherical
                )
            )
    return shells


def _metric_root(auxiliary: Any) -> FloatArray:
    """Matrix R with (P|Q)^-1 = R^T R, the one that PySCF contracts the three-centre integrals with."""
    metric = auxiliary.intor("int2c2e")
    try:
        lower = scipy.linalg.cholesky(metric, lower=True)
    except scipy.linalg.LinAlgError:
        return independent_root(metric)
    return np.asarray(scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True))


def _nuclear_repulsion(charges: FloatArray, positions: FloatArray) -> FloatArray:
    """Half the repulsion energy of each nucleus with all others."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return np.asarray(0.5 * charges * (charges[None] / distance).sum(axis=1))

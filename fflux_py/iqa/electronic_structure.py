"""Kohn-Sham ground states: energy, forces, orbitals and energy densities.  The only module that imports PySCF.

Restricted Kohn-Sham with density fitting of Coulomb and exchange.  PySCF's ``b3lyp`` uses the VWN form fitted to the
RPA (called VWN3 in Gaussian), so that it is Gaussian's B3LYP.  The forces contain the response of the integration grid:
they are the exact gradient of the energy as computed, and sum to zero.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from fflux_py.errors import ConvergenceError, InputError, MissingDependencyError
from fflux_py.iqa.auxiliary_potential import AuxiliaryPotential, AuxiliaryShell
from fflux_py.molecule import Molecule
from fflux_py.potential import FloatArray, IntArray

# The SCF converges on this grid first, so that only half of its iterations pay for the final one.
_COARSE_GRID_LEVEL = 0
_COARSE_TOLERANCE = 1e-8
_DENSITY_FIT_OF_PARTITION = "def2-universal-jkfit"


@dataclass(frozen=True)
class LevelOfTheory:
    """Everything on which the energy of a geometry depends.

    Parameters
    ----------
    method
        Functional, PySCF's name: local, generalised-gradient or global hybrid, or ``hf``.
    basis
        Orbital basis, PySCF's name.
    cartesian
        Six Cartesian d functions (the convention of 6-31+G(d,p) in Gaussian) instead of five spherical ones.
    density_fit
        Fit Coulomb and exchange in ``auxiliary_basis``.
    auxiliary_basis
        Fitting basis; without density fitting it still serves the potentials of the atomic partition.
    grid_level
        PySCF's integration grid, 0 (coarse) to 9.
    convergence
        Change of energy (hartree) at which the SCF ends.
    gradient_convergence
        Norm of the orbital gradient at which the SCF ends.
    max_cycle
        Iterations after which the SCF has failed.
    """

    method: str = "b3lyp"
    basis: str = "6-31+g(d,p)"
    cartesian: bool = True
    density_fit: bool = True
    auxiliary_basis: str = _DENSITY_FIT_OF_PARTITION
    grid_level: int = 2
    convergence: float = 1e-9
    gradient_convergence: float = 3e-5
    max_cycle: int = 60

    def __post_init__(self) -> None:
        for name in ("method", "basis", "auxiliary_basis"):
            if not getattr(self, name).strip():
                raise InputError(name, "a name", "an empty text")
            object.__setattr__(self, name, getattr(self, name).strip().lower())
        if not 0 <= self.grid_level <= 9:
            raise InputError("grid_level", "an integer from 0 to 9", str(self.grid_level))
        for name in ("convergence", "gradient_convergence"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InputError(name, "a number between 0 and 1", str(getattr(self, name)))
        if self.max_cycle < 1:
            raise InputError("max_cycle", "at least 1", str(self.max_cycle))

    def as_dict(self) -> dict[str, str | int | float | bool]:
        """Fields by name, for headers and content hashes."""
        return asdict(self)


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
    try:
        with _no_advice_on_missing_bases():
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
    check_functional(level.method)
    kohn_sham = pyscf.dft.RKS if mole.spin == 0 else pyscf.dft.UKS
    with no_checkpoint_files():
        mean_field = kohn_sham(mole, xc=level.method)
    try:
        with _no_advice_on_missing_bases():
            pyscf.df.addons.make_auxmol(mole, level.auxiliary_basis)
    except pyscf.gto.basis.BasisNotFoundError as error:
        raise InputError(
            "auxiliary_basis", "a fitting basis that PySCF has", repr(level.auxiliary_basis), "choose another basis"
        ) from error
    if level.density_fit:
        mean_field = mean_field.density_fit(auxbasis=level.auxiliary_basis)
    mean_field.max_cycle = level.max_cycle
    return mean_field


@contextmanager
def _no_advice_on_missing_bases() -> Iterator[None]:
    """Leave it to our own error to say that a basis is missing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Basis may be available", category=UserWarning)
        yield


@contextmanager
def no_checkpoint_files() -> Iterator[None]:
    """Keep SCF objects made inside from opening temporary checkpoint files, which nothing here reads."""
    settings = load_pyscf().scf.hf
    before = settings.MUTE_CHKFILE
    settings.MUTE_CHKFILE = True
    try:
        yield
    finally:
        settings.MUTE_CHKFILE = before


def check_functional(method: str) -> None:
    """Refuse functionals whose energy density is not known here: meta, range-separated, non-local, with dispersion."""
    pyscf = load_pyscf()
    libxc = pyscf.dft.libxc
    try:
        kind = libxc.xc_type(method)
        plain = kind in ("HF", "LDA", "GGA") and libxc.rsh_coeff(method)[0] == 0.0 and not libxc.is_nlc(method)
        plain = plain and pyscf.scf.dispersion.parse_dft(method)[2] is None
    except (KeyError, NotImplementedError) as error:
        raise InputError("method", "a functional that PySCF knows", repr(method), "correct the name") from error
    if not plain:
        raise InputError(
            "method",
            "a local, generalised-gradient or global hybrid functional, or hf",
            f"{method!r}",
            "meta, range-separated, non-local and dispersion-corrected methods have no atomic energies here; use b3lyp",
        )


def converge(mean_field: Any, level: LevelOfTheory, what: str) -> None:
    """Run the SCF: on a coarse grid first, then on the grid of ``level``.

    The start density depends on the geometry alone, so that the result does not depend on what was computed before.

    Raises
    ------
    ConvergenceError
        The final SCF has not converged within ``level.max_cycle`` iterations.
    """
    density = None
    if level.grid_level > _COARSE_GRID_LEVEL:
        mean_field.grids.level = _COARSE_GRID_LEVEL
        mean_field.conv_tol, mean_field.conv_tol_grad = _COARSE_TOLERANCE, None
        mean_field.kernel()
        density = mean_field.make_rdm1()
    mean_field.grids.level = level.grid_level
    mean_field.conv_tol, mean_field.conv_tol_grad = level.convergence, level.gradient_convergence
    mean_field.kernel(dm0=density)
    if not mean_field.converged or not math.isfinite(mean_field.e_tot):
        raise ConvergenceError(
            f"SCF of {what}",
            f"convergence to {level.convergence:g} hartree within {level.max_cycle} iterations",
            f"no convergence (last energy {mean_field.e_tot:.8f} hartree)",
            "check the geometry or raise max_cycle",
        )


class GroundState:
    """Converged closed-shell ground state of one geometry.

    Parameters
    ----------
    molecule
        Elements and positions.
    level
        Level of theory.

    Raises
    ------
    ConvergenceError
        The SCF does not converge.
    """

    def __init__(self, molecule: Molecule, level: LevelOfTheory) -> None:
        self.molecule = molecule
        self.level = level
        self._mole = build_mole(molecule, level)
        self._mean_field = build_mean_field(self._mole, level)
        converge(self._mean_field, level, f"{molecule.name!r} ({molecule.formula})")
        self.energy = float(self._mean_field.e_tot)
        occupied = self._mean_field.mo_occ > 0
        self._orbitals: FloatArray = np.ascontiguousarray(self._mean_field.mo_coeff[:, occupied])
        self._density = self._mean_field.make_rdm1()

    def forces(self) -> FloatArray:
        """Forces in hartree/bohr, shape ``(n_atoms, 3)``, with the response of the integration grid."""
        gradient = self._mean_field.nuc_grad_method()
        gradient.grid_response = True
        return -np.asarray(gradient.kernel(), dtype=np.float64)

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
            Electron density and its gradient, shape ``(4, n_points)``.
        """
        libxc = load_pyscf().dft.libxc
        kind = libxc.xc_type(self.level.method)
        if kind == "HF":
            return np.zeros(density.shape[1])
        argument = density if kind == "GGA" else density[0]
        per_electron = libxc.eval_xc(self.level.method, argument, deriv=0)[0]
        return np.asarray(per_electron * density[0])

    @property
    def exchange_fraction(self) -> float:
        """Fraction of exact exchange."""
        return float(load_pyscf().dft.libxc.hybrid_coeff(self.level.method))

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

    def pair_fit(self) -> tuple[IntArray, FloatArray]:
        """Fit of the occupied orbital pairs i <= j.

        Returns
        -------
        pairs
            Indices ``(n_pairs, 2)``.
        coefficients
            Coefficients of the fitting functions, ``(n_pairs, n_auxiliary)``: phi_i phi_j = sum_P C_P chi_P.
        """
        n = self._orbitals.shape[1]
        pairs = np.array([(i, j) for i in range(n) for j in range(i, n)], dtype=np.int64)
        lib = load_pyscf().lib
        half = []
        for block in self._fit.loop():
            full = lib.unpack_tril(block)
            transformed = np.einsum("pi,xpq,qj->xij", self._orbitals, full, self._orbitals, optimize=True)
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


def load_pyscf() -> Any:
    """Import PySCF, or say how to install it."""
    try:
        package = importlib.import_module("pyscf")
        for module in ("gto", "dft", "df", "lib", "scf", "scf.atom_ks", "scf.dispersion"):
            importlib.import_module(f"pyscf.{module}")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "labelling", "the package pyscf", "none installed", "pip install 'fflux_py[label]'"
        ) from error
    return package


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
        # PySCF's own fall-back for a linearly dependent fitting basis.
        values, vectors = scipy.linalg.eigh(metric)
        kept = values > load_pyscf().df.incore.LINEAR_DEP_THR
        return np.asarray(vectors[:, kept].T / np.sqrt(values[kept])[:, None])
    return np.asarray(scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True))


def _nuclear_repulsion(charges: FloatArray, positions: FloatArray) -> FloatArray:
    """Half the repulsion energy of each nucleus with all others."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return np.asarray(0.5 * charges * (charges[None] / distance).sum(axis=1))

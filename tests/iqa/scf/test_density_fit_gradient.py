"""Gradient of the fitted two-electron energy: against PySCF, finite differences and what symmetry demands."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyscf")

import scipy.linalg
from pyscf import df, gto, scf

from fflux_py.errors import InputError
from fflux_py.iqa.scf._density_fit_gradient import density_fit_gradient
from fflux_py.iqa.scf.electronic_structure import use_threads
from fflux_py.typing import FloatArray

FITTING_BASIS = "def2-universal-jkfit"
GEOMETRIES = {
    "water": "O 0.1 -0.2 0.3; H 1.9 0.2 -0.1; H -0.6 1.5 0.9",
    "methanol": "C -1.3 0.1 0.0; O 1.4 0.2 -0.1; H -2.0 2.0 0.2; H -2.1 -0.9 1.6; H -1.9 -0.9 -1.8; H 2.0 -1.5 0.3",
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    use_threads(1)


def molecule(atoms: Any, basis: str = "6-31+g(d,p)", cartesian: bool = True) -> Any:
    return gto.M(atom=atoms, unit="Bohr", basis=basis, cart=cartesian, spin=None, verbose=0)


def some_orbitals(mole: Any, n_occupied: int, seed: int = 0) -> FloatArray:
    """Orthonormal, but those of no SCF: the gradient at fixed coefficients is defined for any."""
    raw = np.random.default_rng(seed).normal(size=(mole.nao, n_occupied))
    root = scipy.linalg.cholesky(raw.T @ mole.intor("int1e_ovlp") @ raw)
    return np.asarray(scipy.linalg.solve_triangular(root, raw.T, trans=1).T)


@cache
def pyscf_contributions(name: str, cartesian: bool) -> tuple[Any, Any, FloatArray, FloatArray, FloatArray]:
    """Molecule, fitting functions, SCF orbitals and PySCF's gradients of Coulomb and of whole exact exchange."""
    mole = molecule(GEOMETRIES[name], cartesian=cartesian)
    mean_field = scf.RHF(mole).density_fit(auxbasis=FITTING_BASIS)
    mean_field.conv_tol = 1e-6
    mean_field.kernel()
    density = mean_field.make_rdm1()
    coulomb, exchange = mean_field.nuc_grad_method().get_jk(mole, density)
    found = []
    for fock, factor in ((coulomb, 1.0), (exchange, -0.5)):
        per_function = 2.0 * factor * np.einsum("xij,ij->xi", fock, density)
        by_atom = [per_function[:, a:b].sum(axis=1) for a, b in mole.aoslice_by_atom()[:, 2:]]
        found.append(np.array(by_atom) + factor * fock.aux.sum(axis=(0, 1)))
    return mole, mean_field.with_df.auxmol, mean_field.mo_coeff[:, mean_field.mo_occ > 0], found[0], found[1]


@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("cartesian", [True, False])
@pytest.mark.parametrize("name", list(GEOMETRIES))
def test_is_that_of_pyscf(name: str, cartesian: bool, fraction: float) -> None:
    mole, auxiliary, orbitals, coulomb, exchange = pyscf_contributions(name, cartesian)
    assert min(np.abs(coulomb).max(), np.abs(exchange).max()) > 0.1
    found = density_fit_gradient(mole, auxiliary, orbitals, fraction)
    np.testing.assert_allclose(found, coulomb + fraction * exchange, rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-10)


def fitted_energy(mole: Any, auxiliary: Any, orbitals: FloatArray, fraction: float) -> float:
    """Coulomb and exchange energy from the Fock matrices' definition, with whole arrays."""
    integrals = df.incore.aux_e2(mole, auxiliary)
    # Half of the inverse metric on each side: the metric of Cartesian functions is nearly singular.
    root = scipy.linalg.cholesky(auxiliary.intor("int2c2e"), lower=True)
    factors = scipy.linalg.solve_triangular(root, integrals.reshape(mole.nao**2, -1).T, lower=True)
    factors = factors.reshape(-1, mole.nao, mole.nao)
    density = 2.0 * orbitals @ orbitals.T
    coulomb = np.einsum("pij,pkl,kl->ij", factors, factors, density, optimize=True)
    exchange = np.einsum("pik,pjl,kl->ij", factors, factors, density, optimize=True)
    return float(0.5 * np.vdot(density, coulomb) - 0.25 * fraction * np.vdot(density, exchange))


@pytest.mark.parametrize("fraction", [0.0, 0.6])
@pytest.mark.parametrize("cartesian", [True, False])
def test_is_the_derivative_of_the_energy_at_fixed_coefficients(cartesian: bool, fraction: float) -> None:
    symbols, positions = ("H", "C", "N"), np.array([[0.2, -0.1, -2.0], [0.0, 0.1, 0.1], [0.1, -0.3, 2.3]])

    def build(at: FloatArray) -> tuple[Any, Any]:
        mole = molecule(list(zip(symbols, at.tolist(), strict=True)), "6-31g(d)", cartesian)
        return mole, df.addons.make_auxmol(mole, "weigend")

    mole, auxiliary = build(positions)
    orbitals = some_orbitals(mole, 4)
    found = density_fit_gradient(mole, auxiliary, orbitals, fraction)
    direction = np.random.default_rng(1).normal(size=(2, 3, 3))
    step = 1e-3
    for along in direction:
        at = {k: fitted_energy(*build(positions + k * step * along), orbitals, fraction) for k in (-2, -1, 1, 2)}
        slope = (8.0 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12.0 * step)
        assert np.vdot(found, along) == pytest.approx(slope, abs=1e-9)
        assert abs(slope) > 0.1


def test_no_torque_where_fixed_coefficients_turn_with_the_molecule() -> None:
    # Coefficients of s functions do not change in a rotation, nor does the space of the fitting functions.
    positions = np.array([[0.0, 0.1, 0.2], [1.5, -0.3, 0.4], [0.3, 1.7, -0.8], [-0.9, 0.5, 1.6]])
    mole = molecule([("He", tuple(p)) for p in positions], "6-31g")
    auxiliary = df.addons.make_auxmol(mole, FITTING_BASIS)
    found = density_fit_gradient(mole, auxiliary, some_orbitals(mole, 4), 1.0)
    assert np.linalg.norm(np.cross(positions, found), axis=1).max() > 0.1
    np.testing.assert_allclose(np.cross(positions, found).sum(axis=0), 0.0, atol=1e-10)
    np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-10)


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_blocks_do_not_change_the_result(fraction: float) -> None:
    mole, auxiliary, orbitals = pyscf_contributions("water", True)[:3]
    whole = density_fit_gradient(mole, auxiliary, orbitals, fraction, block_bytes=2**30)
    for size in (1, 2**20):
        blocked = density_fit_gradient(mole, auxiliary, orbitals, fraction, block_bytes=size)
        np.testing.assert_allclose(blocked, whole, rtol=0.0, atol=1e-12)
    again = density_fit_gradient(mole, auxiliary, orbitals, fraction, block_bytes=2**30)
    np.testing.assert_array_equal(again, whole)


def test_rotation_among_the_orbitals_changes_nothing() -> None:
    mole, auxiliary, orbitals = pyscf_contributions("water", False)[:3]
    n = orbitals.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(n, n)))[0]
    expected = density_fit_gradient(mole, auxiliary, orbitals, 0.2)
    found = density_fit_gradient(mole, auxiliary, orbitals @ rotation, 0.2)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_linearly_dependent_fitting_functions_count_once(fraction: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shells = [[0, [3.0, 1.0]], [0, [0.7, 1.0]], [1, [1.1, 1.0]]]
    mole = molecule("He 0 0 0; He 0.3 1.8 0.4; H 1.9 0.2 -0.9; H 2.4 -0.8 0.1", "6-31g(d,p)")
    orbitals = some_orbitals(mole, 3)
    once, twice = (
        df.addons.make_auxmol(mole, {element: shells * times for element in ("He", "H")}) for times in (1, 2)
    )
    expected = density_fit_gradient(mole, once, orbitals, fraction)

    def fail(*_: Any, **__: Any) -> None:
        raise scipy.linalg.LinAlgError  # whatever rounding makes of a zero pivot

    monkeypatch.setattr(scipy.linalg, "cho_factor", fail)
    found = density_fit_gradient(mole, twice, orbitals, fraction)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-9)


def test_arrays_of_another_molecule_are_refused() -> None:
    mole = molecule("He 0 0 0", "6-31g")
    auxiliary = df.addons.make_auxmol(mole, FITTING_BASIS)
    with pytest.raises(InputError, match="orbitals"):
        density_fit_gradient(mole, auxiliary, np.ones((3, 1)), 1.0)

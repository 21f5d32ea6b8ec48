"""Closed-form potentials of fitting functions against PySCF's integrals and against electrostatics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

pytest.importorskip("pyscf")

from pyscf import df, gto

from fflux_py.iqa.scf.auxiliary_potential import AuxiliaryPotential, AuxiliaryShell, boys_table
from fflux_py.iqa.scf.electronic_structure import _shells

GEOMETRY = "C 0 0 0; O 0.3 2.1 -0.4; H -1.0 -0.9 1.3"


@pytest.mark.parametrize("cartesian", [True, False])
@pytest.mark.parametrize("basis", ["def2-universal-jkfit", "cc-pvqz-jkfit"])
def test_potentials_agree_with_integrals_against_point_charges(cartesian: bool, basis: str) -> None:
    mole = gto.M(atom=GEOMETRY, unit="Bohr", spin=1, basis="sto-3g", cart=cartesian, verbose=0)
    auxiliary = df.addons.make_auxmol(mole, basis)
    potential = AuxiliaryPotential(_shells(auxiliary), auxiliary.atom_coords())
    generator = np.random.default_rng(3)
    points = np.concatenate([generator.normal(size=(300, 3)) * 4.0, generator.normal(size=(20, 3)) * 60.0])
    points[:3] = auxiliary.atom_coords()
    kind = "int2c2e_cart" if cartesian else "int2c2e_sph"
    expected = gto.intor_cross(kind, auxiliary, gto.fakemol_for_charges(points))
    coefficients = generator.normal(size=(40, auxiliary.nao))
    found = potential.to_harmonics(coefficients) @ potential(points)
    assert potential.n_functions == auxiliary.nao
    np.testing.assert_allclose(found, coefficients @ expected, rtol=0, atol=1e-10)


def test_potential_of_an_s_gaussian_is_the_error_function() -> None:
    exponent = 0.73
    # exp(-a r^2) times this is a unit charge; a shell holds the factor of the s function besides.
    unit = (exponent / np.pi) ** 1.5 / 0.282094791773878143
    shell = AuxiliaryShell(0, 0, np.array([exponent]), np.array([unit]), None)
    potential = AuxiliaryPotential([shell], np.zeros((1, 3)))
    distance = np.array([0.01, 0.5, 1.7, 4.0, 7.3, 7.5, 40.0])
    values = (potential.to_harmonics(np.ones((1, 1))) @ potential(distance[:, None] * np.array([[0.6, 0.0, 0.8]])))[0]
    np.testing.assert_allclose(values, erf(np.sqrt(exponent) * distance) / distance, rtol=1e-13)


def test_boys_table_obeys_the_downward_recursion() -> None:
    table = boys_table(4)
    x = np.arange(len(table))[:, None] * 0.1
    m = np.arange(table.shape[1] - 1)
    np.testing.assert_allclose((2 * m + 1) * table[:, :-1], 2 * x * table[:, 1:] + np.exp(-x), rtol=1e-12)

"""Integrals over atoms to atomic energies: what was missed, and who receives it.  Numbers by hand, no SCF."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fflux_py.iqa.atomic_energies import BasinIntegrals, distribute_residuals
from fflux_py.iqa.scf.electronic_structure import AnalyticEnergies
from fflux_py.molecules.molecule import Molecule

# Helium and a proton: all electrons are helium's.  Rows of the attraction are nuclei, columns the electrons' atoms.
ION = Molecule(("He", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]]), charge=1)
INTEGRALS = BasinIntegrals(
    electrons=np.array([2.0, 0.0]),
    laplacian=np.zeros(2),
    kinetic=np.array([2.9, 0.0]),
    coulomb=np.array([2.0, 0.0]),
    exact_exchange=np.array([-1.0, 0.0]),
    local_xc=np.zeros(2),
    attraction=np.array([[-6.5, 0.0], [-1.25, 0.0]]),
    moments=np.zeros((8, 2)),
)
ANALYTIC = AnalyticEnergies(
    kinetic=2.9,
    nuclear_attraction=np.array([-6.5, -1.25]),
    coulomb=2.0,
    exact_exchange=-1.0,
    local_xc=0.0,
    nuclear_repulsion=np.array([2.0 / 3.0, 2.0 / 3.0]),
)


def test_nothing_missed_is_nothing_given() -> None:
    found = distribute_residuals(INTEGRALS, ANALYTIC, ION)
    np.testing.assert_array_equal(found.errors, 0.0)
    np.testing.assert_allclose(found.energies, [2.9 - 3.875 - 3.25 + 2.0 - 1.0 + 2 / 3, -0.625 + 2 / 3], atol=1e-14)
    np.testing.assert_allclose(found.charges, [0.0, 1.0])


def test_missed_attraction_is_an_error_of_the_atom_whose_electrons_are_attracted() -> None:
    """Half of what both nuclei missed is helium's: the proton has no electrons, and its energy is exact."""
    analytic = replace(ANALYTIC, nuclear_attraction=np.array([-6.7, -1.35]))
    found = distribute_residuals(INTEGRALS, analytic, ION)
    np.testing.assert_allclose(found.errors, [0.5 * (0.2 + 0.1), 0.0], atol=1e-14)
    np.testing.assert_allclose(found.components["electron_nuclear"], [0.5 * (-6.7 - 1.35), 0.0], atol=1e-14)
    np.testing.assert_allclose(found.components["nuclear_electron"], [0.5 * -6.7, 0.5 * -1.35])
    np.testing.assert_allclose(found.attractions, [[-6.7, 0.0], [-1.35, 0.0]], atol=1e-14)
    assert found.residuals["nuclear_attraction"] == pytest.approx(-0.3)


def test_errors_add_up_without_regard_to_sign_in_proportion_to_the_shares() -> None:
    shared = replace(
        INTEGRALS, electrons=np.array([1.5, 0.3]), kinetic=np.array([2.4, 0.6]), coulomb=np.array([1.5, 0.5])
    )
    analytic = replace(ANALYTIC, kinetic=3.1, coulomb=1.9)
    found = distribute_residuals(shared, analytic, ION)
    np.testing.assert_allclose(found.components["kinetic"], [2.48, 0.62])
    np.testing.assert_allclose(found.components["coulomb"], [1.425, 0.475])
    # the missed electrons change the charges, which sum to that of the molecule, and are no energy
    np.testing.assert_allclose(found.errors, [0.08 + 0.075, 0.02 + 0.025], atol=1e-14)
    np.testing.assert_allclose(found.populations, [1.5 * 2.0 / 1.8, 0.3 * 2.0 / 1.8])
    assert found.charges.sum() == pytest.approx(1.0)
    residuals = {"electrons": 0.2, "kinetic": 0.1, "coulomb": -0.1, "exact_exchange": 0.0, "local_xc": 0.0}
    assert found.residuals == pytest.approx({**residuals, "nuclear_attraction": 0.0})

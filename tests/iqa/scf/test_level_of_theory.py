"""Levels of theory by name: the kind of basis functions that a basis set is defined with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyscf")

from fflux_py.errors import InputError
from fflux_py.iqa.labelling import label_geometry
from fflux_py.iqa.scf.electronic_structure import GroundState, use_threads
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory, uses_cartesian_functions
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, EV

# The geometry for which the energies of both kinds are known, angstrom.
WATER = Molecule(
    ("O", "H", "H"),
    np.array([[0.0, 0.0, 0.119262], [0.0, 0.763239, -0.477047], [0.0, -0.763239, -0.477047]]) / ANGSTROM,
    name="water",
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    use_threads(1)


@pytest.mark.parametrize(
    "basis", ["3-21g", "3-21g*", "6-31g", "6-31G*", "6-31+g(d,p)", "6-31++G**", "6-31g(2d,p)", "4-31g"]
)
def test_poples_split_valence_sets_are_cartesian(basis: str) -> None:
    assert uses_cartesian_functions(basis)
    assert LevelOfTheory(basis=basis).cartesian


@pytest.mark.parametrize(
    "basis", ["6-311g**", "6-311++g(2df,2pd)", "def2-svp", "def2-tzvppd", "cc-pvdz", "aug-cc-pvtz", "pc-1", "sto-3g"]
)
def test_all_others_are_spherical(basis: str) -> None:
    assert not LevelOfTheory(basis=basis).cartesian


def test_a_kind_that_is_asked_for_is_taken() -> None:
    assert LevelOfTheory(basis="def2-svp", basis_functions="cartesian").cartesian
    assert not LevelOfTheory(basis_functions="spherical").cartesian
    assert replace(LevelOfTheory(), basis="def2-svp") == LevelOfTheory(basis="def2-svp", basis_functions="spherical")
    with pytest.raises(InputError, match=r"basis_functions.*auto, spherical, cartesian.*'pure'"):
        LevelOfTheory(basis_functions="pure")  # type: ignore[arg-type]


def test_a_mixture_of_kinds_is_refused() -> None:
    with pytest.raises(InputError, match="Cartesian d and spherical f"):
        LevelOfTheory(basis="6-31g(2df,p)")
    assert LevelOfTheory(basis="6-31g(2df,p)", basis_functions="spherical").cartesian is False


def test_names_of_results_stay_as_they_were() -> None:
    level = LevelOfTheory()
    assert level.as_dict() == {
        "method": "b3lyp", "basis": "6-31+g(d,p)", "cartesian": True, "density_fit": True,
        "auxiliary_basis": "def2-universal-jkfit", "grid_level": 2, "convergence": 1e-9, "gradient_convergence": 3e-5,
        "max_cycle": 60,
    }  # fmt: skip
    for other in (level, LevelOfTheory(basis="cc-pvdz"), LevelOfTheory(basis="cc-pvdz", basis_functions="cartesian")):
        assert LevelOfTheory.from_dict(other.as_dict()) == other


@pytest.mark.parametrize(("basis", "expected"), [("def2-svp", -2077.81480), ("cc-pvdz", -2079.51010)])
def test_energy_is_that_of_the_named_level(basis: str, expected: float) -> None:
    # Energies of PySCF without density fitting, spherical functions, in eV; Cartesian ones lie 0.03 eV and more lower.
    assert GroundState(WATER, LevelOfTheory(basis=basis)).energy * EV == pytest.approx(expected, abs=1.5e-3)
    assert GroundState(WATER, LevelOfTheory(basis=basis, basis_functions="cartesian")).energy * EV < expected - 0.02


@pytest.mark.parametrize("partition", ["hirshfeld", "qtaim"])
@pytest.mark.parametrize("basis", ["def2-svp", "cc-pvdz"])
def test_atomic_energies_of_spherical_bases_sum_to_the_energy(basis: str, partition: str) -> None:
    level = LevelOfTheory(basis=basis, convergence=1e-11, gradient_convergence=1e-6)
    label = label_geometry(WATER, level, partition)
    assert label.atomic_energies.sum() == pytest.approx(label.energy, abs=1e-9)
    # What the sum is made of: a wrong orbital, density or potential would leave residuals far above these.
    assert max(abs(r) for r in label.residuals.values()) < (1e-4 if partition == "hirshfeld" else 1e-3)
    assert np.abs(label.forces.sum(axis=0)).max() < 1e-9
    step, direction = 1e-3, np.random.default_rng(5).normal(size=(3, 3))
    energies = [GroundState(WATER.with_positions(WATER.positions + h * direction), level).energy for h in (step, -step)]
    assert -(energies[0] - energies[1]) / (2.0 * step) == pytest.approx(np.vdot(label.forces, direction), abs=2e-6)

"""Levels of energies and forces alone: MP2, dispersion corrections, GFN2-xTB; refused first with a partition."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pyscf = pytest.importorskip("pyscf", reason="needs pyscf")

from fflux_py.certification.labellers import level_of  # noqa: E402
from fflux_py.errors import InputError, MissingDependencyError  # noqa: E402
from fflux_py.iqa.campaign import Campaign  # noqa: E402
from fflux_py.iqa.labelling import label_geometry  # noqa: E402
from fflux_py.iqa.scf.electronic_structure import GroundState, use_threads  # noqa: E402
from fflux_py.iqa.scf.free_atoms import compute_isolated_atoms  # noqa: E402
from fflux_py.iqa.scf.functionals import mean_field_functional, split_dispersion  # noqa: E402
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory  # noqa: E402
from fflux_py.iqa.scf.preflight import check_level  # noqa: E402
from fflux_py.molecules.dataset import Dataset, GeometrySet  # noqa: E402
from fflux_py.molecules.extended_xyz import write_molecule  # noqa: E402
from fflux_py.molecules.molecule import Molecule  # noqa: E402
from fflux_py.units import ANGSTROM  # noqa: E402
from tests.support.cli_support import fflux, refused  # noqa: E402

MP2_LEVEL = LevelOfTheory(method="MP2", basis="sto-3g")
STEP = 1e-3


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    use_threads(1)


def water(shift: np.ndarray | None = None) -> Molecule:
    positions = np.array([[0.0, 0.0, 0.0], [0.98, 0.0, 0.1], [-0.24, 0.93, 0.0]]) / ANGSTROM
    return Molecule(("O", "H", "H"), positions if shift is None else positions + shift, 0, "water")


def slope(level: LevelOfTheory, direction: np.ndarray) -> float:
    """Central difference of the energy along a direction."""
    up, down = (GroundState(water(sign * STEP * direction), level).energy for sign in (1.0, -1.0))
    return (up - down) / (2.0 * STEP)


def geometries() -> GeometrySet:
    return GeometrySet(water(), water().positions[None], ("md",), np.full(1, 300.0), ("train",))


def test_names_are_taken_apart() -> None:
    assert split_dispersion("B3LYP-D3BJ") == ("b3lyp", "d3bj")
    assert split_dispersion("cam-b3lyp-d4") == ("cam-b3lyp", "d4")
    assert split_dispersion("m06-l") == ("m06-l", "")
    assert mean_field_functional("mp2") == "hf"
    assert LevelOfTheory(method="pbe0-d4").functional == "pbe0"
    assert not MP2_LEVEL.density_fit


def test_mp2_is_that_of_pyscf_and_its_forces_are_its_slope() -> None:
    label = label_geometry(water(), MP2_LEVEL, "none")
    mole: Any = pyscf.gto.M(
        atom=[("O", (0, 0, 0)), ("H", (0.98, 0, 0.1)), ("H", (-0.24, 0.93, 0))], basis="sto-3g", verbose=0
    )
    reference = pyscf.mp.MP2(pyscf.scf.RHF(mole).run(conv_tol=1e-11)).run().e_tot
    assert label.energy == pytest.approx(reference, abs=1e-8)
    direction = np.random.default_rng(1).normal(size=(3, 3))
    assert -float(np.vdot(label.forces, direction)) == pytest.approx(slope(MP2_LEVEL, direction), abs=2e-6)
    np.testing.assert_allclose(label.forces.sum(axis=0), 0.0, atol=1e-9)
    assert np.isnan(label.atomic_energies).all()


def test_mp2_data_name_their_level(tmp_path: Path) -> None:
    data = Campaign(geometries(), MP2_LEVEL, "none", tmp_path / "labels").run()
    assert (data.metadata["method"], data.metadata["density_fit"]) == ("mp2", "none")
    assert data.isolated_energies == {}  # those of Hartree-Fock would be wrong
    assert level_of(data.metadata) == MP2_LEVEL
    with pytest.raises(InputError, match="'mp2'"):
        compute_isolated_atoms(["O"], MP2_LEVEL)


@pytest.mark.parametrize("method", ["mp2", "b3lyp-d3bj", "pbe0-d4", "cam-b3lyp-d3bj"])
def test_atomic_energies_are_refused_before_anything_is_computed(method: str, tmp_path: Path) -> None:
    level = LevelOfTheory(method=method, basis="sto-3g")
    with pytest.raises(InputError, match="not divided here; use --partition none"):
        Campaign(geometries(), level, "hirshfeld", tmp_path / "labels").run()
    assert not (tmp_path / "labels").exists()
    with pytest.raises(InputError, match="not divided here; use --partition none"):
        label_geometry(water(), level, "hirshfeld")


def test_missing_package_is_named_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("dftd3", "dftd3.interface"):  # as if it were not installed
        monkeypatch.setitem(sys.modules, module, None)
    level = LevelOfTheory(method="b3lyp-d3bj", basis="sto-3g")
    with pytest.raises(MissingDependencyError, match=r"the package dftd3.*pip install 'fflux_py\[dispersion\]'"):
        check_level(water(), level)
    with pytest.raises(MissingDependencyError):
        Campaign(geometries(), level, "none", tmp_path / "labels").run()
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize(("kind", "package"), [("d3bj", "dftd3"), ("d4", "dftd4")])
def test_dispersion_is_added_to_energy_and_forces(kind: str, package: str) -> None:
    pytest.importorskip(package, reason=f"needs {package}")
    level = LevelOfTheory(method=f"b3lyp-{kind}", basis="sto-3g")
    plain, label = (
        label_geometry(water(), LevelOfTheory(basis="sto-3g"), "none"),
        label_geometry(water(), level, "none"),
    )
    assert -1e-3 < label.energy - plain.energy < -1e-4
    assert package in label.versions
    assert package not in plain.versions
    direction = np.random.default_rng(1).normal(size=(3, 3))
    assert -float(np.vdot(label.forces, direction)) == pytest.approx(slope(level, direction), abs=2e-6)
    check_level(water(), level)
    with pytest.raises(InputError, match="has parameters, found 'svwn'"):
        check_level(water(), LevelOfTheory(method=f"svwn-{kind}", basis="sto-3g"))
    (atom,), (plain_atom,) = (
        compute_isolated_atoms(["H"], each).values() for each in (level, LevelOfTheory(basis="sto-3g"))
    )
    assert atom == pytest.approx(plain_atom, abs=1e-10)  # last bits change with the number of threads


def test_gfn2_for_dry_runs(tmp_path: Path) -> None:
    pytest.importorskip("tblite", reason="needs tblite")
    write_molecule(tmp_path / "water.xyz", water())
    output = tmp_path / "data.extxyz"
    answer = fflux("label", tmp_path / "water.xyz", "-o", output, "--level", "gfn2-xtb", "--json")
    assert answer.code == 0, answer.err
    data = Dataset.read(output)
    assert (data.metadata["method"], data.metadata["partition"]) == ("gfn2-xtb", "gfn2-xtb")
    assert data.energies[0] == pytest.approx(-5.07, abs=0.02)
    assert answer.json["n_labelled"] == 1
    answer = fflux("label", tmp_path / "water.xyz", "-o", output, "--method", "gfn2-xtb", "--partition", "none")
    assert answer.code == 0, answer.err
    assert not Dataset.read(output).has_atomic_energies.any()
    arguments = ("label", tmp_path / "water.xyz", "-o", output)
    assert "--partition: expected gfn2-xtb" in refused(*arguments, "--level", "gfn2-xtb", "--partition", "qtaim")
    assert "--level: expected METHOD/BASIS" in refused(*arguments, "--level", "pbe0")
    assert "leave one out" in refused(*arguments, "--level", "pbe0/sto-3g", "--method", "pbe")
    assert "not divided here" in refused(*arguments, "--level", "mp2/sto-3g", "--partition", "hirshfeld")

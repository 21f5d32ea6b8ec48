"""A level of theory that cannot be computed is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyscf")

from fflux_py.errors import InputError
from fflux_py.iqa import campaign
from fflux_py.iqa.campaign import label
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.iqa.scf.preflight import check_level
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM


def halide(symbol: str, distance: float) -> Molecule:
    return Molecule((symbol, "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]]) / ANGSTROM, name="halide")


@pytest.mark.parametrize(
    ("symbol", "basis", "message"),
    [
        ("Br", "6-31+g(d,p)", r"'6-31\+g\(d,p\)', without Br; choose another basis, for example 6-311\+\+g\*\*"),
        ("I", "cc-pvdz", "'cc-pvdz', without I; choose another basis, for example 6-311"),
        ("I", "def2-svp", "all-electron basis for I"),
    ],
)
def test_elements_without_a_basis(symbol: str, basis: str, message: str, tmp_path: Path) -> None:
    molecule, level = halide(symbol, 1.5), LevelOfTheory(basis=basis)
    with pytest.raises(InputError, match=message):
        check_level(molecule, level)
    geometries = GeometrySet(molecule, molecule.positions[None], ("a",), np.full(1, np.nan), ("train",))
    with pytest.raises(InputError, match=message):
        label(geometries, level, "none", tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


def test_elements_without_fitting_functions() -> None:
    level = LevelOfTheory(auxiliary_basis="cc-pvdz-jkfit", basis="6-311g**")
    with pytest.raises(InputError, match=r"auxiliary_basis.*without I"):
        check_level(halide("I", 1.6), level)


def test_bromine_passes_with_a_basis_that_has_it() -> None:
    assert check_level(halide("Br", 1.41), LevelOfTheory(basis="def2-svp")) == "b3lyp/def2-svp, 37 spherical functions"


def test_free_atoms_never_block_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise InputError("element H", "one that is supported", "H")

    monkeypatch.setattr(campaign, "compute_isolated_atoms", refuse)
    water = Molecule(("O", "H", "H"), np.array([[0, 0, 0], [1.8, 0, 0], [-0.5, 1.7, 0]]), name="water")
    geometries = GeometrySet(water, water.positions[None], ("a",), np.full(1, np.nan), ("train",))
    data = label(geometries, LevelOfTheory(basis="sto-3g", grid_level=0), "none", tmp_path / "labels")
    assert len(data) == 1
    assert dict(data.isolated_energies) == {}

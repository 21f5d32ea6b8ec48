"""Functionals by name: a closed list without arithmetic; range-separated hybrids have forces, no atomic energies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyscf")

from fflux_py.errors import InputError
from fflux_py.iqa.campaign import label
from fflux_py.iqa.labelling import label_geometry
from fflux_py.iqa.scf._pyscf import check_functional
from fflux_py.iqa.scf.electronic_structure import GroundState, use_threads
from fflux_py.iqa.scf.functionals import FUNCTIONALS, RANGE_SEPARATED
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.molecule import Molecule

WATER = Molecule(("O", "H", "H"), np.array([[0.1, -0.2, 0.3], [1.9, 0.2, -0.1], [-0.6, 1.5, 0.9]]), name="water")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    use_threads(1)


@pytest.mark.parametrize("method", [*FUNCTIONALS, *RANGE_SEPARATED, "M062X", "camb3lyp", "PBE0"])
def test_names_of_the_list_are_known(method: str) -> None:
    check_functional(method)


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        ("pbe0-2", "the nearest names are pbe0, "),  # to PySCF PBE0 minus another functional
        ("b97-d", "the nearest names are "),  # to PySCF B97-D without its dispersion
        ("b3lyp+pbe", "the nearest names are b3lyp, "),
        ("0.5*hf+pbe", "use for example b3lyp"),
    ],
)
def test_names_outside_of_the_list_are_refused(method: str, remedy: str) -> None:
    with pytest.raises(InputError, match=f"in the list .*{remedy}"):
        check_functional(method)


@pytest.mark.parametrize("density_fit", [True, False])
@pytest.mark.parametrize("method", ["cam-b3lyp", "wb97x"])
def test_forces_of_range_separated_hybrids(method: str, density_fit: bool) -> None:
    level = LevelOfTheory(
        method=method, basis="6-31g(d)", grid_level=1, density_fit=density_fit, convergence=1e-11,
        gradient_convergence=1e-7,
    )  # fmt: skip
    found = label_geometry(WATER, level, "none")
    direction, step = np.random.default_rng(3).normal(size=(3, 3)), 2e-3
    energies = [
        GroundState(WATER.with_positions(WATER.positions + k * step * direction), level).energy for k in (-2, -1, 1, 2)
    ]
    slope = np.dot([1.0, -8.0, 8.0, -1.0], energies) / (12.0 * step)
    assert slope == pytest.approx(-np.vdot(found.forces, direction), abs=1e-6)
    assert np.abs(found.forces.sum(axis=0)).max() < 1e-7


def test_range_separated_hybrids_have_no_atomic_energies(tmp_path: Path) -> None:
    level = LevelOfTheory(method="cam-b3lyp", basis="sto-3g", grid_level=0)
    geometries = GeometrySet(WATER, WATER.positions[None], ("a",), np.full(1, np.nan), ("train",))
    with pytest.raises(InputError, match=r"range-separated; .*--partition none"):
        label(geometries, level, "hirshfeld", tmp_path / "labels")
    assert not (tmp_path / "labels").exists()
    with pytest.raises(InputError, match="range-separated"):
        GroundState(WATER, level).analytic_energies()
    assert np.isnan(label(geometries, level, "none", tmp_path / "labels").atomic_energies).all()

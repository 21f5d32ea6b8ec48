"""The page of public benchmarks says what the file of results says, and the readers of public data keep their units."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from fflux_py.units import ANGSTROM, EV
from tests.support.paths import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"


def _module(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # what the benchmarks set is undone
    specification = importlib.util.spec_from_file_location(f"league_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for name in [name for name in sys.modules if name == "support" or name.startswith("support.")]:
        monkeypatch.delitem(sys.modules, name)
    return module


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _module(BENCHMARKS / "league" / "page.py", monkeypatch)


@pytest.fixture
def public_sets(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _module(BENCHMARKS / "support" / "public_sets.py", monkeypatch)


def test_tables_of_the_page_are_those_of_the_results(page: ModuleType) -> None:
    """If this fails: python benchmarks/league page."""
    text = (REPOSITORY / "docs" / "league.md").read_text(encoding="utf-8")
    assert page.filled(text) == text


def test_a_changed_figure_changes_the_page(page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "league.md").read_text(encoding="utf-8")
    results = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    run = next(run for run in results["runs"] if run["benchmark"] == "rmd17" and run["method"] == "powers")
    run["errors"]["test"]["force_mae_mev_angstrom"] += 100.0
    changed = tmp_path / "league.json"
    changed.write_text(json.dumps(results), encoding="utf-8")
    monkeypatch.setattr(page, "RESULTS", changed)
    assert page.filled(text) != text


def test_published_figures_have_a_source_and_two_numbers(page: ModuleType) -> None:
    for table in json.loads(page.PUBLISHED.read_text(encoding="utf-8"))["tables"]:
        assert table["source"]
        for figures in table["methods"].values():
            if table["set"] == "rmd17":
                assert set(figures) == set(page.MOLECULES)
            assert all(len(pair) == 2 and min(pair) > 0.0 for pair in figures.values())


def _frame(x: float, forces: bool = True) -> Atoms:
    frame = Atoms("OHH", [[0.0, 0.0, x], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
    known = {"forces": np.full((3, 3), 2.0 * x)} if forces else {}
    frame.calc = SinglePointCalculator(frame, energy=-10.0 * EV + x, **known)
    return frame


def test_frames_in_electron_volts_become_atomic_units(public_sets: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "train_300K.xyz", [_frame(0.1), _frame(0.2)], format="extxyz")
    for name in ("MD_300K", "MD_600K"):
        write(tmp_path / f"test_{name}.xyz", [_frame(0.3)], format="extxyz")
    write(tmp_path / "test_dihedral.xyz", [_frame(0.4, forces=False)], format="extxyz")
    found = public_sets.acac(tmp_path, 1, n_held_out=1)
    assert list(found) == ["train", "300 K", "600 K", "dihedral scan", public_sets.VALIDATION]
    for (name, part), x in zip(found.items(), [0.1, 0.3, 0.3, 0.4, 0.2], strict=True):
        assert part.energies[0] * EV == pytest.approx(-10.0 * EV + x, abs=1e-6)
        assert part.positions[0, 0, 2] * ANGSTROM == pytest.approx(x, abs=1e-7)
        assert part.geometries.split == ("train" if name == "train" else "test",)
        if name != "dihedral scan":
            np.testing.assert_allclose(part.forces * EV / ANGSTROM, 2.0 * x, rtol=1e-6)
    assert np.isnan(found["dihedral scan"].forces).all()
    assert public_sets.VALIDATION not in public_sets.acac(tmp_path, 2, n_held_out=1)  # all frames train


def test_frames_that_train_are_not_judged_by(public_sets: ModuleType) -> None:
    kept = public_sets.without_copies([_frame(0.1), _frame(0.2), _frame(0.3)], [_frame(0.2)])
    assert [frame.positions[0, 2] for frame in kept] == [0.1, 0.3]

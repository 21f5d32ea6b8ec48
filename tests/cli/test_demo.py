"""The demo, on a small molecule instead of the shipped one: every stage, the verdict, the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.analysis import energy_conservation
from fflux_py.analysis.visited import energy_above_minimum
from fflux_py.cli.commands import _demo_stages
from fflux_py.molecules import shipped_data
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.extended_xyz import read_molecule, write_molecule
from fflux_py.optimization.search import optimize
from fflux_py.units import EV_ANGSTROM, KCAL_MOL
from tests.support.cli_support import fflux, methanol_data, refused
from tests.support.synthetic import MethanolPotential, fitted, label, methanol

PLAN = _demo_stages.Plan(n_train=24, timestep=0.5, runs=((300.0, 0.3, 5), (1000.0, 0.2, 5)))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as that of a shipped molecule, and a short plan."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    methanol_data().write(folder / shipped_data.DATA)
    molecule = methanol()
    write_molecule(folder / shipped_data.START, molecule.with_positions(molecule.positions * 1.02))
    minimum = optimize(MethanolPotential(), molecule, 1e-6).molecule
    write_molecule(folder / _demo_stages.MINIMUM_FILE, minimum)
    monkeypatch.setattr(shipped_data, "path", lambda molecule: folder)
    monkeypatch.setattr(_demo_stages, "QUICK", PLAN)
    monkeypatch.chdir(tmp_path)
    return folder


def _files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_demo(shipped: Path, tmp_path: Path) -> None:
    pytest.importorskip("gpytorch")
    answer = fflux("demo", "--quick", "-o", tmp_path / "out", "--threads", 1, "--json")
    assert answer.code == 0, answer.err
    out, figures = tmp_path / "out", answer.json
    assert _files(out) == ["minimum.xyz", "model.npz", "nvt-1000K", "nvt-300K", "report.html"]
    page = Path(figures["report"]).read_text()
    for words in ("What can be trusted", "Data set", "Predictions against reference labels", "Optimised structure",
                  "NVT 300 K", "NVT 1000 K", "S-curve", "Provenance"):  # fmt: skip
        assert words in page
    assert figures["n_train"] == 24
    assert figures["validation"]["n_frames"] == 40
    assert [run["status"] for run in figures["runs"]] == ["completed", "completed"]
    assert figures["n_criteria_met"] == sum(c["passed"] for c in figures["criteria"])
    names = [c["name"] for c in figures["criteria"]]
    assert sum("Mean potential energy above the minimum" in name for name in names) == 2
    assert sum(any(name.endswith(one) for one in energy_conservation.CRITERIA) for name in names) == 4
    (close,) = [c for c in figures["criteria"] if "RMSD" in c["name"]]
    # Model and reference come from the same potential.
    assert close["value"] < 0.05
    assert close["passed"]
    assert set(figures["stage_wall_time_s"]) == {
        "reading", "training", "validation", "optimisation", "dynamics at 300 K", "dynamics at 1000 K",
        "constant energy",
    }  # fmt: skip
    assert len(answer.err.splitlines()) == 7
    minimum = read_molecule(out / "minimum.xyz")
    _, forces = model_file.load(out / "model.npz").energy_and_forces(minimum.positions)
    assert np.linalg.norm(forces, axis=1).max() * EV_ANGSTROM < _demo_stages.FMAX_EV_ANGSTROM


def test_demo_goes_on_when_a_guard_stops_a_run(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gpytorch")
    monkeypatch.setattr(_demo_stages, "QUICK", replace(PLAN, runs=((300.0, 0.2, 5), (60000.0, 5.0, 5))))
    answer = fflux("demo", "--quick", "-o", tmp_path / "out", "--threads", 1)
    assert answer.code == 0, answer.err
    assert "stopped" in answer.out
    assert "Do not trust NVT 60000 K" in answer.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Do not trust NVT 60000 K" in page
    assert "✗ not met" in page


def test_demo_takes_the_first_free_folder(shipped: Path, tmp_path: Path) -> None:
    from fflux_py.cli.commands.demo import _free_folder

    assert _free_folder() == Path("fflux-demo")
    (tmp_path / "fflux-demo").mkdir()
    assert _free_folder() == Path("fflux-demo")
    (tmp_path / "fflux-demo" / "report.html").write_text("old")
    assert _free_folder() == Path("fflux-demo-2")


def test_demo_refuses_a_folder_that_is_not_empty(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert "found thesis.txt in it" in refused("demo", "-o", tmp_path / "out")
    assert _files(tmp_path / "out") == ["thesis.txt"]


def test_demo_without_its_data_says_so(shipped: Path, tmp_path: Path) -> None:
    (shipped / _demo_stages.MINIMUM_FILE).unlink()
    answer = fflux("demo", "-o", tmp_path / "out")
    assert answer.code == 2
    assert _demo_stages.MINIMUM_FILE in answer.err
    assert not (tmp_path / "out" / "model.npz").exists()


def test_run_in_a_well_that_does_not_exist_is_no_success(tmp_path: Path) -> None:
    """A run whose mean potential energy lies below the minimum must be told, whatever its bonds do."""
    model, start = fitted(), methanol()
    plan = _demo_stages.Plan(n_train=0, timestep=0.5, runs=((300.0, 0.2, 5),))
    run = _demo_stages.simulate(model, start, plan, 0, tmp_path, 1, lambda done, total: None)
    minimum = optimize(model, start, 1e-4)
    sound = energy_above_minimum(run, minimum.energy)
    assert sound.passed
    # 12 vibrations of kT/2 each: 3.6 kcal/mol at 300 K; a short run from the minimum is somewhat below or above.
    assert 0.3 < sound.value < 8.0
    deep = replace(minimum, energy=minimum.energy + 0.1)
    assert not energy_above_minimum(run, deep.energy).passed


def test_stage_keeps_the_run_that_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = _demo_stages.Plan(n_train=0, timestep=0.5, runs=((60000.0, 5.0, 1),))
    run = _demo_stages.simulate(fitted(), methanol(), plan, 0, tmp_path, 1, lambda done, total: None)
    assert run.status == "stopped"
    assert run.steps_done < 10000
    assert "60000 K: step" in capsys.readouterr().err


def test_visited_frames_are_labelled_again(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the potential itself as the reference, and once more with one that is wrong by 5 kcal/mol."""
    pytest.importorskip("pyscf")
    pytest.importorskip("gpytorch")
    from fflux_py.iqa import campaign

    shift = 0.0
    taken: list[GeometrySet] = []

    def label_exactly(geometries: GeometrySet, *rest: Any, **more: Any) -> Dataset:
        taken.append(geometries)
        data = label(geometries.positions, "visited", "test", 300.0)
        return replace(data, geometries=geometries, energies=data.energies + shift / KCAL_MOL)

    monkeypatch.setattr(campaign, "label", label_exactly)
    monkeypatch.setattr(_demo_stages, "_level", lambda dataset: None)
    monkeypatch.setattr(_demo_stages, "QUICK", replace(PLAN, n_train=80, relabelled=4))
    right = fflux("demo", "--quick", "-o", tmp_path / "right", "--threads", 1, "--json").json
    shift = -5.0
    trained = (tmp_path / "right" / "model.npz").read_bytes()

    def train_again(shipped: Any, plan: Any, output: Path, *rest: Any) -> Any:  # the same model, in no time
        (output / "model.npz").write_bytes(trained)
        return model_file.load(output / "model.npz")

    monkeypatch.setattr(_demo_stages, "train", train_again)
    wrong = fflux("demo", "--quick", "-o", tmp_path / "wrong", "--threads", 1, "--json").json
    assert [len(geometries) for geometries in taken] == [8, 8]
    assert list(taken[0].temperature) == [300.0] * 4 + [1000.0] * 4
    for content, passed in ((right, True), (wrong, False)):
        lines = [c for c in content["criteria"] if "Energy MAE, visited frames" in c["name"]]
        assert [c["passed"] for c in lines] == [passed, passed]
    # The runs themselves are the same ones and look flawless: only the labels tell.
    assert any("Energy MAE, visited frames".lower() in s for s in wrong["what_can_be_trusted"])
    assert "Visited frames, labelled again" in (tmp_path / "right" / "report.html").read_text()
    assert len(Dataset.read(tmp_path / "right" / "relabelled.extxyz")) == 8


def test_level_of_theory_is_that_of_the_data() -> None:
    pytest.importorskip("pyscf")
    header = {"method": "hf", "basis": "sto-3g", "partition": "none", "basis_functions": "spherical",
              "density_fit": "none", "grid": "pyscf level 3"}  # fmt: skip
    level = _demo_stages._level(replace(methanol_data(), metadata=header))
    assert (level.method, level.basis, level.cartesian, level.density_fit, level.grid_level) == (
        "hf",
        "sto-3g",
        False,
        False,
        3,
    )

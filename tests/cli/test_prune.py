"""``fflux prune``: smaller models, what they cost, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig
from fflux_py.training.joint import train_jointly
from fflux_py.training.pruning import choose_evenly
from fflux_py.training.refit import refit, training_rows
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM
from tests.support.cli_support import Files, fflux, methanol_data, refused
from tests.support.synthetic import fitted

N_TRAIN = 30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Methanol with a joint fit to thirty geometries, calibrated once."""
    files = Files.make(tmp_path_factory.mktemp("files"))
    data = Dataset.read(files.data)
    rows = np.flatnonzero([split == "train" for split in data.geometries.split])[:N_TRAIN]
    field = train_jointly(data, rows, TrainingConfig(symmetry="none", subset=12, max_iterations=3))
    metadata = {**data.metadata, "n_train": N_TRAIN, "symmetry": "none", "calibration_trajectories": "nvt-300K-s3"}
    calibration = {"atomic": 1.1, "total": 1.2, "neighbours": 8.0}
    model_file.save(replace(field, metadata=metadata, calibration=calibration), files.model)
    return files


@pytest.fixture(scope="module")
def pruned(files: Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A model of twelve geometries without the x components, and what the command said."""
    out = tmp_path_factory.mktemp("pruned") / "small.npz"
    answer = fflux("prune", files.model, files.data, "-o", out, "--points", 12, "--leave-out", "x", "--json")
    assert answer.code == 0, answer.err
    return out, answer.json


def force_mae(model: ForceField, data: Dataset) -> float:
    _, forces = model.unmatched.compute(data.positions)
    assert forces is not None
    return float(np.abs(forces - data.forces).mean() * KCAL_MOL_ANGSTROM)


def test_figures_are_those_of_the_two_models(files: Files, pruned: tuple[Path, dict[str, Any]]) -> None:
    out, figures = pruned
    test = Dataset.read(files.data).with_split("test")
    for name, path, sizes in (("before", files.model, (N_TRAIN, 180, 15)), ("after", out, (12, 72, 12))):
        model, entry = model_file.load(path), figures[name]
        assert (entry["n_geometries"], entry["n_points"], entry["n_features_per_atom"]) == sizes
        energy = np.abs(model.unmatched.compute(test.positions)[0] - test.energies).mean() * KCAL_MOL
        assert entry["energy_mae_kcal_mol"] == pytest.approx(energy, rel=1e-6)
        assert entry["force_mae_kcal_mol_angstrom"] == pytest.approx(force_mae(model, test), rel=1e-6)
        assert entry["step_time_ms"] > 0.0
    before, after = figures["before"], figures["after"]
    assert figures["speed"] == pytest.approx(before["step_time_ms"] / after["step_time_ms"])
    growth = after["force_mae_kcal_mol_angstrom"] / before["force_mae_kcal_mol_angstrom"] - 1.0
    assert figures["force_error_growth"] == pytest.approx(growth)
    assert growth > 0.1  # 30 geometries know more than 12
    assert (figures["features_left_out"], figures["n_held_out"]) == (["x"], 40)


def test_the_model_is_the_fit_to_the_geometries_that_stay(files: Files, pruned: tuple[Path, dict[str, Any]]) -> None:
    source, data, small = model_file.load(files.model), Dataset.read(files.data), model_file.load(pruned[0])
    rows = choose_evenly(training_rows(source, data), 12)
    expected = refit(source, data, ("x",), rows)
    assert small.joint is not None
    np.testing.assert_array_equal(small.joint.positions, data.positions[rows])
    test = data.with_split("test").positions
    np.testing.assert_allclose(small.unmatched.compute(test)[1], expected.unmatched.compute(test)[1], atol=1e-9)


def test_metadata_say_where_it_comes_from(files: Files, pruned: tuple[Path, dict[str, Any]]) -> None:
    small = model_file.load(pruned[0])
    digest = model_file.file_digest(files.model)
    assert (small.metadata["pruned_from"], small.metadata["pruned_from_digest"]) == ("model.npz", digest)
    assert small.metadata["pruning_criterion"] == pruned[1]["criterion"] == "points and features given"
    assert (small.metadata["n_train"], small.metadata["features_left_out"]) == (12, "x")
    assert small.metadata["method"] == "analytic"
    # factors found for another model mean nothing here
    assert small.calibration == {}
    assert not any(key.startswith("calibration") for key in small.metadata)


def test_other_commands_take_the_model(files: Files, pruned: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    small, figures = pruned
    validated = fflux("validate", small, files.data, "--json")
    assert validated.code == 0, validated.err
    assert validated.json["n_train"] == 12
    assert validated.json["uncertainty"]["calibrated"] is False
    for name in ("energy_mae_kcal_mol", "force_mae_kcal_mol_angstrom"):
        assert validated.json[name] == pytest.approx(figures["after"][name], rel=1e-6)
    assert fflux("optimize", small, files.start, "-o", tmp_path / "minimum.xyz").code == 0
    assert fflux("md", small, tmp_path / "minimum.xyz", "--steps", 20, "-o", tmp_path / "run").code == 0
    assert fflux("convert", small, tmp_path / "other.npz", "--prior-mean", "MF5").code == 0
    assert model_file.load(tmp_path / "other.npz").metadata["pruned_from"] == "model.npz"
    again = fflux("prune", small, files.data, "-o", tmp_path / "smaller.npz", "--points", 8, "--leave-out", "chi")
    assert again.code == 0, again.err
    assert model_file.load(tmp_path / "smaller.npz").metadata["features_left_out"] == "chi, x"


def test_as_few_geometries_as_the_growth_allows(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "small.npz"
    answer = fflux("prune", files.model, files.data, "-o", out, "--growth", 0.5, "--json")
    assert answer.code == 0, answer.err
    figures, data = answer.json, Dataset.read(files.data)
    assert 4 <= figures["after"]["n_geometries"] < N_TRAIN
    assert figures["n_held_out_apart"] == 20
    # One test trajectory chose, at 300 K, the other one had no part in it.
    before, after = model_file.load(files.model), model_file.load(out)
    source = np.array(data.geometries.source)
    chose, apart = (data.select(np.flatnonzero(source == name)) for name in ("nvt-300K-s3", "nvt-1000K-s4"))
    assert force_mae(after, chose) <= 1.5 * force_mae(before, chose)
    for model, name in ((before, "before"), (after, "after")):
        told = figures[f"force_mae_apart_{name}_kcal_mol_angstrom"]
        assert told == pytest.approx(force_mae(model, apart), rel=1e-6)
    assert after.metadata["pruning_criterion"] == (
        "growth of the force error by 0.5 at most, features without influence (0.02), judged by nvt-300K-s3"
    )
    # A larger growth allows no more geometries.
    wide = fflux("prune", files.model, files.data, "-o", out, "--growth", 3, "--leave-out", "none", "--json").json
    assert wide["after"]["n_geometries"] < figures["after"]["n_geometries"]
    assert wide["features_left_out"] == []


def test_one_test_trajectory_and_the_table(files: Files, tmp_path: Path) -> None:
    data = methanol_data()
    one = data.select(np.flatnonzero(np.array(data.geometries.source) != "nvt-1000K-s4"))
    one.write(tmp_path / "one.extxyz")
    out = tmp_path / "small.npz"
    answer = fflux("prune", files.model, tmp_path / "one.extxyz", "-o", out, "--growth", 1, "--leave-out", "none")
    assert (answer.code, answer.err) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in answer.out.splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["before", "after"]
    assert rows[0][1:4] == ["30", "180", "15"]
    assert int(rows[1][1]) == model_file.load(out).metadata["n_train"]
    assert "Features without influence on any atom: none." in answer.out
    assert "no part in the choice" not in answer.out
    assert "not calibrated any more" in answer.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--points", 31], "--points: expected at most the 30 training geometries"),
        (["--points", 30, "--leave-out", "none"], "nothing else is left out"),
        (["--points", 12, "--growth", 0.1], "--growth: expected either --growth or --points"),
        (["--leave-out", "radius"], "'none', or some of first bond, second bond, chi, distance, x, y, z, found 'rad"),
        (["--leave-out", "x", "--small-fit", 10], "--small-fit: expected features to be found"),
        (["--small-fit", 30], "--small-fit: expected fewer than the 30"),
        (["--growth", 0, "--leave-out", "none"], "something to leave out at a growth of the force error by 0 at most"),
        (
            ["--growth", 0.02, "--leave-out", "first bond"],
            "more than that without first bond; allow more with --growth",
        ),
        (["--growth", "nan"], "--growth"),
        (["--memory", 0], "memory: expected a positive number of gigabytes"),
    ],
)
def test_refused_options(files: Files, tmp_path: Path, options: list[object], said: str) -> None:
    assert said in refused("prune", files.model, files.data, "-o", tmp_path / "small.npz", *options)
    assert not (tmp_path / "small.npz").exists()


def test_refused_files(files: Files, tmp_path: Path) -> None:
    out, data = tmp_path / "small.npz", Dataset.read(files.data)
    energies_only = tmp_path / "energies.npz"
    model_file.save(fitted(), energies_only)
    line = refused("prune", energies_only, files.data, "-o", out)
    assert f"{energies_only}, model: expected a joint fit of energies and forces" in line
    assert "on fewer geometries" in line
    assert "the input" in refused("prune", files.model, files.data, "-o", files.model)
    others = tmp_path / "others.extxyz"
    data.with_split("test").write(others)
    assert f"{others}, data set: expected the training data of the model" in refused(
        "prune", files.model, others, "-o", out
    )
    data.with_split("train").write(others)
    assert "geometries marked 'test'" in refused("prune", files.model, others, "-o", out)
    replace(data, metadata={**data.metadata, "basis": "other"}).write(others)
    assert "key basis: expected none as in the model, found other" in refused("prune", files.model, others, "-o", out)
    replace(data, forces=np.full_like(data.forces, np.nan)).write(others)
    assert "found no forces" in refused("prune", files.model, others, "-o", out)

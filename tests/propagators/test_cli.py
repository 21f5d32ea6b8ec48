"""fflux trajectories, train-propagator and propagate, from a model to a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fflux_py.dynamics.dcd import read_dcd
from fflux_py.molecules.extended_xyz import read_frames
from tests.support.cli_support import Files, fflux, refused

pytest.importorskip("torch")
pytest.importorskip("e3nn")
pytest.importorskip("pytorch_optimizer")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("propagators"))


@pytest.fixture(scope="module")
def trajectories(files: Files) -> Path:
    path = files.folder / "trajectories.npz"
    answer = fflux(
        "trajectories", files.model, files.start, "-o", path, "--temperatures", "100,200", "--number", 4,
        "--length", 6, "--interval", 1, "--decorrelation", 10, "--replicas", 4, "--json",
    )  # fmt: skip
    assert answer.json["trajectories"] == 8
    assert answer.json["frames"] == 7
    assert answer.json["trajectories_test"] == 2
    return path


@pytest.fixture(scope="module")
def model(files: Files, trajectories: Path) -> Path:
    path = files.folder / "direct.safetensors"
    answer = fflux(
        "train-propagator", trajectories, "--kind", "direct", "--step", 2, "-o", path, "--updates", 2, "--width", 8,
        "--layers", 1, "--batch", 4, "--json",
    )  # fmt: skip
    assert answer.json["updates"] == 2
    assert answer.json["step_fs"] == 2.0
    assert answer.json["velocity_relative"] < 2.0
    assert path.with_name("direct.safetensors.checkpoint").exists()
    return path


def test_run_writes_what_it_says(files: Files, model: Path) -> None:
    folder = files.folder / "run"
    answer = fflux(
        "propagate", model, files.start, "--steps", 6, "-o", folder, "--replicas", 2, "--report-every", 2,
        "--temperature", 50, "--correct-momentum", "--json",
    )  # fmt: skip
    figures = answer.json
    assert figures["command"] == "propagate"
    assert figures["ensemble"] == "langevin"
    assert set(figures["temperatures_k"]) == {"C", "O", "H"}
    assert figures["corrections"]["energy"] == 0.0
    assert figures["corrections"]["momentum"] < 1e-6
    frames = read_dcd(folder / "trajectory-001.dcd").positions
    assert frames.shape == (4, 6, 3)
    assert np.isfinite(frames).all()
    lines = (folder / "energies.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 2
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["correct_momentum"] is True
    assert record["config"]["correct_energy"] is False


def test_a_run_is_in_the_order_and_hand_of_its_start(files: Files, model: Path, tmp_path: Path) -> None:
    """The same run as of the start in the model's order, but for its order of atoms."""
    lines = files.start.read_text().splitlines()
    order = [1, 0, 2, 3, 4, 5]
    other = tmp_path / "other.xyz"
    other.write_text("\n".join([*lines[:2], *(lines[2 + k] for k in order)]) + "\n")
    frames = []
    for start, folder in ((files.start, tmp_path / "one"), (other, tmp_path / "other")):
        answer = fflux("propagate", model, start, "--steps", 2, "-o", folder, "--temperature", 50)
        assert answer.code == 0, answer.err
        told = "atoms 1 and 2 exchanged to fit the model; results are in the order and hand given"
        assert (told in " ".join(answer.err.split())) == (start == other)
        frames.append(read_dcd(folder / "trajectory-000.dcd").positions)
    np.testing.assert_array_equal(frames[1], frames[0][:, order])
    assert read_frames(tmp_path / "other" / "start.extxyz")[0].symbols[:2] == ("O", "C")
    isomer = tmp_path / "isomer.xyz"
    isomer.write_text(
        "\n".join([*lines[:2], lines[2].replace("C", "O"), lines[3].replace("O", "C"), *lines[4:]]) + "\n"
    )
    assert "the bonds of" in refused("propagate", model, isomer, "--steps", 1, "-o", tmp_path / "none")


def test_frames_between_the_steps_of_a_continuous_model(files: Files, trajectories: Path) -> None:
    model, folder = files.folder / "continuous.safetensors", files.folder / "filled"
    answer = fflux("train-propagator", trajectories, "--kind", "continuous", "--step", 4, "-o", model, "--updates", 2,
                   "--width", 4, "--layers", 1, "--hidden", 8, "--batch", 4)  # fmt: skip
    assert answer.code == 0, answer.err
    answer = fflux("propagate", model, files.start, "--steps", 3, "-o", folder, "--temperature", 20, "--fill-in", 4,
                   "--ensemble", "nve", "--json")  # fmt: skip
    assert answer.code == 0, answer.err
    assert len(read_dcd(folder / "trajectory-000.dcd").positions) == 13
    times = [float(line.split(",")[0]) for line in (folder / "energies.csv").read_text().splitlines()[1:]]
    assert times == [float(k) for k in range(13)]
    assert json.loads((folder / "run.json").read_text())["config"]["fill_in"] == 4


def test_what_does_not_fit_is_one_line(files: Files, model: Path, trajectories: Path) -> None:
    out = files.folder / "never"
    assert "continuous" in refused("propagate", model, files.start, "--steps", 1, "-o", out, "--fill-in", 2)
    assert "2 fs" in refused("propagate", model, files.start, "--steps", 1, "-o", out, "--step", 1)
    assert "--forcefield" in refused(
        "propagate", model, files.start, "--steps", 1, "-o", out, "--ensemble", "nve", "--correct-energy"
    )
    assert "train-propagator" in refused("propagate", files.model, files.start, "--steps", 1, "-o", out)
    assert "multiple of 1 fs" in refused(
        "train-propagator", trajectories, "--kind", "direct", "--step", 2.5, "-o", out, "--updates", 1
    )
    assert "continuous" in refused(
        "train-propagator", trajectories, "--kind", "other", "--step", 2, "-o", out, "--updates", 1
    )
    assert not out.exists()

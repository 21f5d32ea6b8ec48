"""A training that is interrupted goes on from where it was, and ends with the same model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.errors import FileFormatError, InputError
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, joint, length_scales, train
from fflux_py.typing import FloatArray
from tests.support.cli_support import fflux, refused
from tests.support.synthetic import label, sample

CONFIG = TrainingConfig(max_iterations=4, subset=6, symmetry="rotors")

_KILLED = """
import os, signal, sys
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train

calls = 0
def stop(done, total):
    global calls
    calls += 1
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)

config = TrainingConfig(max_iterations=4, subset=6, symmetry="rotors")
train(Dataset.read(sys.argv[1]), config, stop, checkpoint=sys.argv[2])
"""


def _dataset(n: int = 10) -> Dataset:
    return label(sample(n, 600.0))


def _energies(forcefield: ForceField) -> FloatArray:
    return forcefield.atomic_energies(sample(40, 600.0)[30:])


def _interrupted(path: Path, dataset: Dataset, after: int = 2) -> None:
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, CONFIG, stop, checkpoint=path)
    assert path.exists()


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The calls of the likelihood from now on."""
    calls: list[int] = []
    original = length_scales.likelihood_and_gradient

    def count(*arguments: object) -> tuple[float, FloatArray, FloatArray]:
        calls.append(1)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(length_scales, "likelihood_and_gradient", count)
    return calls


def test_search_goes_the_same_way_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, path = _dataset(), tmp_path / "model.npz.partial"
    calls = _counted(monkeypatch)
    whole = train(dataset, CONFIG)
    n_whole = len(calls)
    _interrupted(path, dataset)
    n_before = len(calls) - n_whole
    assert 0 < n_before < n_whole
    calls.clear()
    resumed = train(dataset, CONFIG, checkpoint=path)
    assert n_before + len(calls) == n_whole
    assert np.abs(_energies(resumed) - _energies(whole)).max() < 1e-10
    for a, b in zip(resumed.atoms, whole.atoms, strict=True):
        np.testing.assert_array_equal(a.covariance.theta, b.covariance.theta)
    calls.clear()
    train(dataset, CONFIG, checkpoint=path)
    assert not calls


def test_killed_process_leaves_a_whole_file(tmp_path: Path) -> None:
    """SIGKILL leaves no chance to clean up."""
    dataset, path = _dataset(), tmp_path / "model.npz.partial"
    dataset.write(tmp_path / "data.extxyz")
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "data.extxyz"), str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.extxyz", "model.npz.partial"]
    stored = Dataset.read(tmp_path / "data.extxyz")
    resumed = train(stored, CONFIG, checkpoint=path)
    assert np.abs(_energies(resumed) - _energies(train(stored, CONFIG))).max() < 1e-10


def test_another_training_is_refused(tmp_path: Path) -> None:
    dataset, path = _dataset(), tmp_path / "model.npz.partial"
    _interrupted(path, dataset)
    with pytest.raises(InputError, match=r"interrupted training of these data.*another one; remove"):
        train(_dataset(9), CONFIG, checkpoint=path)
    with pytest.raises(InputError, match="another one"):
        train(dataset, TrainingConfig(max_iterations=4, subset=5, symmetry="rotors"), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileFormatError, match="damaged"):
        train(dataset, CONFIG, checkpoint=path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(FileFormatError, match="remove the file"):
        train(dataset, CONFIG, checkpoint=tmp_path / "array.npy")


def test_command_goes_on_and_clears_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out, partial = tmp_path / "data.extxyz", tmp_path / "model.npz", tmp_path / "model.npz.partial"
    _dataset().write(data)
    options = ("train", data, "-o", out, "--threads", 1, "--json")

    def fail(*_: object, **__: object) -> ForceField:
        raise KeyboardInterrupt

    monkeypatch.setattr(joint, "solve_system", fail)
    answer = fflux(*options)
    assert answer.code == 130
    assert "goes on" in answer.err
    assert partial.exists()
    assert not out.exists()
    assert "another one" in refused("train", data, "-o", out, "--threads", 1, "--symmetry", "none")
    monkeypatch.undo()
    answer = fflux(*options)
    assert answer.code == 0
    assert "going on" in answer.err
    assert not partial.exists()
    assert model_file.load(out).metadata["n_train"] == 10

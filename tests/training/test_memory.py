"""Memory that a joint fit may take: what the settings say, or a share of what is free."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.training import TrainingConfig, _memory, joint_solver, train
from fflux_py.training.config import SolverSettings
from fflux_py.training.joint_solver import allowed_memory
from tests.support.synthetic import label, sample

SMALL = TrainingConfig(max_iterations=1, subset=4, symmetry="none")


def test_three_fifths_of_what_is_free_unless_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_solver, "free_memory", lambda: 5e9)
    assert allowed_memory(SolverSettings()) == pytest.approx(3.0)
    assert allowed_memory(SolverSettings(memory=7.5)) == 7.5
    assert allowed_memory(TrainingConfig(memory=2.0).solver_settings) == 2.0


def test_free_memory_of_this_machine() -> None:
    assert 1e6 < _memory.free_memory() < 1e15


def test_available_memory_is_that_of_the_system(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       32000 kB\nMemFree:         1000 kB\nMemAvailable:    2000 kB\n")
    assert _memory._available(meminfo) == 2000 * 1024
    assert _memory._available(tmp_path / "none") is None


def test_limits_of_control_groups(tmp_path: Path) -> None:
    """A limit of the group itself, or of one around it; pages of files can be dropped."""
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    inner = root / "batch" / "job"
    inner.mkdir(parents=True)
    groups.write_text("0::/batch/job\n")
    assert _memory._left_in_groups(groups, root) == []
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text("700\n")
    assert _memory._left_in_groups(groups, root) == []
    (inner.parent / "memory.max").write_text("1000\n")
    (inner.parent / "memory.current").write_text("900\n")
    (inner.parent / "memory.stat").write_text("anon 500\ninactive_file 250\n")
    assert _memory._left_in_groups(groups, root) == [350.0]
    old = root / "memory" / "slurm"
    old.mkdir(parents=True)
    groups.write_text("5:cpu:/slurm\n4:memory:/slurm\n")
    (old / "memory.limit_in_bytes").write_text("5000\n")
    (old / "memory.usage_in_bytes").write_text("6000\n")
    (old / "memory.stat").write_text("total_inactive_file 100\n")
    assert _memory._left_in_groups(groups, root) == [0.0]
    assert _memory._left_in_groups(tmp_path / "none", root) == []


def test_a_system_that_does_not_tell_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(_memory.os, "sysconf_names", {})
    with pytest.raises(InputError, match="memory: expected a number of gigabytes"):
        _memory.free_memory()


def test_the_memory_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the log of the module: a warning only where conjugate gradients are taken because memory is short."""
    dataset = label(sample(6, 600.0))
    caplog.set_level(logging.INFO, logger=joint_solver.__name__)
    monkeypatch.setattr(joint_solver, "free_memory", lambda: 5e9)
    direct = train(dataset, SMALL)
    monkeypatch.setattr(joint_solver, "free_memory", lambda: 5e6)
    iterated = train(dataset, SMALL)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "WARNING"]
    first, second = (record.getMessage() for record in caplog.records)
    assert "solved directly" in first
    assert "3 GB may be taken" in first
    assert "by conjugate gradients" in second
    assert "0.003 GB may be taken" in second
    unseen = sample(3, 600.0, seed=9)
    np.testing.assert_allclose(iterated.unmatched.compute(unseen)[0], direct.unmatched.compute(unseen)[0], atol=2e-6)
    monkeypatch.setattr(joint_solver, "_MOST_ITERATIONS", 1)
    with pytest.raises(ConvergenceError, match=r"0\.003 GB could be taken \(--memory\)"):
        train(dataset, SMALL)

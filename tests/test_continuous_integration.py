"""``.ci/check``, with stand-ins for the tools: it runs them all, shows all outputs, and fails if one of them fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

TOOLS = ("python", "fflux", "ruff", "mypy", "lint-imports", "pytest", "sphinx-build", "coverage")
# Prints two lines, and fails where its name and arguments hold what $FAILS holds.
STAND_IN = """#!/bin/bash
call="$(basename "$0")${*:+ $*}"
echo "begin of $call, jit ${NUMBA_DISABLE_JIT:-on}"
sleep 0.1
echo "end of $call"
[[ -z $FAILS || $call != *"$FAILS"* ]]
"""


def run(folder: Path, fails: str = "") -> subprocess.CompletedProcess[str]:
    (folder / ".ci").mkdir()
    (folder / ".ci" / "check").write_bytes((REPOSITORY / ".ci" / "check").read_bytes())
    (folder / "environment" / "bin").mkdir(parents=True)
    for tool in TOOLS:
        path = folder / "environment" / "bin" / tool
        path.write_text(STAND_IN, encoding="utf-8")
        path.chmod(0o755)
    environment = {**os.environ, "FAILS": fails, "PYTEST_WORKERS": "2"}
    return subprocess.run(
        ["bash", ".ci/check", "environment"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_all_checks_run_and_their_outputs_are_whole_and_the_tests_are_last(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not result.stderr
    lines = result.stdout.splitlines()
    blocks = [number for number, line in enumerate(lines) if line.startswith("== ") and ": " in line]
    for number in blocks:
        command = lines[number].split(": ", 1)[1]
        assert lines[number + 1].startswith(f"begin of {command}, jit ")
        assert lines[number + 2] == f"end of {command}"
    assert len(blocks) == 12
    assert {lines[number].split(": ", 1)[1].split()[0] for number in blocks} == {*TOOLS} - {"python"}
    assert lines[blocks[-1]].startswith("== tests: pytest -n 2 ")
    assert lines[-1] == "== all checks passed"
    without = [line for line in lines if line.endswith("jit 1")]
    assert len(without) == 1
    assert "core and not slow" in without[0]


@pytest.mark.parametrize(
    ("fails", "name"),
    [
        ("ruff format", "format"),
        ("lint-imports", "layers"),
        ("core and not slow", "tests without the compiler"),
        ("fflux warmup", "compilation"),
        ("sphinx-build", "documentation"),
        ("fflux_py/bias", "coverage of bias"),
        ("pytest -n", "tests"),
    ],
)
def test_one_check_that_fails_is_named_and_the_others_run(tmp_path: Path, fails: str, name: str) -> None:
    result = run(tmp_path, fails)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == f"== failed: {name}"
    assert result.stdout.count("\n-- ") + 1 == result.stdout.count("end of ") == 12


def test_no_folder_with_outputs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    (tmp_path / "repository").mkdir()
    assert run(tmp_path / "repository", "mypy").returncode == 1
    assert not list(scratch.iterdir())

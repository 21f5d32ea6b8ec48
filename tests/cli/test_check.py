"""``fflux check``: all checks of a molecule at once, before anything is paid for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pyscf")

from tests.support.cli_support import fflux

DIMER = """6
water dimer
O -1.551007 -0.114520 0.000000
H -1.934259 0.762503 0.000000
H -0.599677 0.040712 0.000000
O 1.350625 0.111469 0.000000
H 1.680398 -0.373741 -0.758561
H 1.680398 -0.373741 0.758561
"""
METHYL = "4\nmethyl radical\nC 0 0 0\nH 1.08 0 0\nH -0.54 0.935307 0\nH -0.54 -0.935307 0\n"
WATER = "3\nwater\nO 0.0 0.0 0.119262\nH 0.0 0.763239 -0.477047\nH 0.0 -0.763239 -0.477047\n"


def results(folder: Path, text: str, *options: str) -> tuple[int, dict[str, bool]]:
    file = folder / "start.xyz"
    file.write_text(text)
    answer = fflux("check", file, "--json", *options)
    figures = json.loads(answer.out)
    assert figures["passed"] == (answer.code == 0)
    return answer.code, {name: check["passed"] for name, check in figures["checks"].items()}


def test_sound_molecule(tmp_path: Path) -> None:
    code, checks = results(tmp_path, WATER)
    assert code == 0
    assert list(checks) == ["elements", "electrons", "one piece", "local frames", "symmetry", "level of theory"]


def test_every_check_that_fails_is_named(tmp_path: Path) -> None:
    code, checks = results(tmp_path, DIMER, "--basis", "no-such-basis")
    assert code != 0
    assert [name for name, passed in checks.items() if not passed] == ["one piece", "level of theory"]


def test_the_charge_makes_the_difference(tmp_path: Path) -> None:
    assert not results(tmp_path, METHYL)[1]["electrons"]
    assert results(tmp_path, METHYL, "--charge", "1")[0] == 0


@pytest.mark.parametrize("text", [DIMER, METHYL])
def test_sampling_refuses_the_same(text: str, tmp_path: Path) -> None:
    file = tmp_path / "start.xyz"
    file.write_text(text)
    answer = fflux("sample", file, "-o", tmp_path / "geometries.extxyz")
    assert answer.code != 0
    assert "one piece" in answer.err or "even number" in answer.err
    assert not (tmp_path / "geometries.extxyz").exists()

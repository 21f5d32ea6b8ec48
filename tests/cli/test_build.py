"""``fflux build``: the plan, and what is refused before anything is labelled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tblite")
pytest.importorskip("rdkit")

from fflux_py.molecules.extended_xyz import write_molecule
from tests.support.cli_support import fflux, refused
from tests.support.gfn2_models import labelled


def test_the_plan_of_a_molecule_and_of_labels(tmp_path: Path) -> None:
    answer = fflux("build", "CCO", "-o", tmp_path / "a", "--method", "gfn2-xtb", "--dry-run", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["molecule"], answer.json["reference"]) == ("CCO", "gfn2-xtb")
    assert (answer.json["labels"], answer.json["sampled"], answer.json["certificate_frames"]) == (2000, 80, 100)
    assert 0.0 < answer.json["seconds_per_label"] < 1.0
    assert answer.json["label_hours"] == pytest.approx(2000 * answer.json["seconds_per_label"] / 3600)
    assert "80 of them for a sampled pilot" in answer.err
    # The time of a label is measured once.
    again = fflux("build", "CCO", "-o", tmp_path / "a", "--method", "gfn2-xtb", "--dry-run", "--json")
    assert again.json["seconds_per_label"] == answer.json["seconds_per_label"]

    labelled(24).write(tmp_path / "data.extxyz")
    arguments = ["build", tmp_path / "data.extxyz", "-o", tmp_path / "b", "--labels", 150, "--pilot", 20, "--dry-run"]
    answer = fflux(*arguments, "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["labels"], answer.json["sampled"], answer.json["reference"]) == (150, 0, "gfn2-xtb")
    assert json.loads((tmp_path / "b" / "plan.json").read_text())["labels"] == 150


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["C1CC"], "SMILES"),
        (["no-such.xyz"], "no-such.xyz"),
        (["CCO", "--method", "gfn2-xtb", "--basis", "def2-svp"], "--basis"),
        (["CCO", "--method", "gfn2-xtb", "--partition", "qtaim"], "--partition"),
        (["CCO", "--method", "no-functional"], "no-functional"),
        (["CCO", "--temperatures", "-3"], "temperature"),
        (["CCO", "--charge", "1"], "--charge"),
        (["CCO", "--labels", "90", "--method", "gfn2-xtb"], "104 labels at least"),
        (["DATA", "--method", "pbe0"], "--method"),
        (["DATA", "--charge", "1"], "--charge"),
        (["FAR", "--method", "gfn2-xtb"], "far.xyz"),
    ],
)
def test_what_cannot_be_built_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    data, far, out = tmp_path / "data.extxyz", tmp_path / "far.xyz", tmp_path / "out"
    labelled(24).write(data)
    molecule = labelled(24).molecule
    write_molecule(far, molecule.with_positions(4.0 * molecule.positions))
    words = [str({"DATA": data, "FAR": far}.get(word, word)) for word in words]
    assert message in refused("build", *words, "-o", out)
    assert not (out / "geometries.extxyz").exists()

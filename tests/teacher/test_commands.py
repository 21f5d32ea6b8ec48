"""``fflux teach`` and ``fflux train --teacher``, from one file to the next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.molecules.extended_xyz import write_molecule
from fflux_py.teacher.teacher_file import OWN_FORCE_ERROR, load_teacher, save_teacher
from tests.support.cli_support import fflux
from tests.teacher.test_teaching import WATER, labelled, teacher

pytest.importorskip("torch")
pytest.importorskip("tblite")


def test_from_a_molecule_to_a_model(tmp_path: Path) -> None:
    start, made, data = tmp_path / "water.xyz", tmp_path / "teacher.npz", tmp_path / "data.extxyz"
    write_molecule(start, WATER)
    answer = fflux(
        "teach", start, "-o", made, "--minutes", "0.04", "--labels", "100", "--rounds", "0", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    figures = json.loads(answer.out)
    assert figures["labels"] >= 100
    assert figures["level"] == "GFN2-xTB"
    assert OWN_FORCE_ERROR in figures
    assert load_teacher(made).molecule.symbols == WATER.symbols

    save_teacher(teacher(), made)
    labelled().write(data)
    model = tmp_path / "model.npz"
    answer = fflux("train", data, "-o", model, "--teacher", made, "--symmetry", "none", "--threads", "1")
    assert answer.code == 0, answer.err
    assert "difference to GFN2-xTB" in answer.out
    loaded = model_file.load(model)
    assert loaded.taught_mean is not None
    assert np.isfinite(loaded.compute(labelled().positions)[0]).all()

    refused = fflux("train", data, "-o", model, "--teacher", made, "--no-forces")
    assert refused.code == 2
    assert "energies and forces" in refused.err
    for options in ((), ("--dl-fflux",)):
        converted = fflux("convert", model, tmp_path / "ferebus", *options)
        assert converted.code == 2
        assert "taught by GFN2-xTB" in converted.err

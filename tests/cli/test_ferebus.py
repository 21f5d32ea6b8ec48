"""``fflux train``, ``validate`` and ``convert`` on files of FEREBUS, ICHOR and DL_FFLUX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.exchange.ferebus.forcefield import model_texts
from fflux_py.exchange.ferebus.model_text import Mean, format_model, parse_model
from fflux_py.exchange.ferebus.tables import FeatureTable, write_training_csv
from fflux_py.molecules.extended_xyz import write_molecule
from fflux_py.units import KJ_MOL
from tests.support.cli_support import Files, fflux, refused
from tests.support.ferebus_data import STAYING, data
from tests.support.synthetic import fit, label, methanol, sample


def write_table(path: Path, n: int, seed: int) -> Path:
    x, y = data(STAYING, n, seed)
    write_training_csv(path, FeatureTable(tuple(f"f{k + 1}" for k in range(12)), x, y))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of an atom, and a model with spherical features as .npz and as .model files."""
    path = tmp_path_factory.mktemp("ferebus")
    write_table(path / "METHANOL_C1_TRAINING_SET.csv", 160, 1)
    write_table(path / "METHANOL_C1_VALIDATION_SET.csv", 60, 3)
    model_file.save(fit(label(sample(80)), "spherical", mean="MF2", noise=1e-8), path / "model.npz")
    answer = fflux("convert", path / "model.npz", path / "models")
    assert answer.code == 0, answer.err
    assert "6 .model files" in answer.out
    return path


def test_train_and_validate_one_atom(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("gpytorch")
    training, validation = (folder / f"METHANOL_C1_{kind}_SET.csv" for kind in ("TRAINING", "VALIDATION"))
    out = tmp_path / "METHANOL_iqa_C1.model"
    answer = fflux("train", training, "-o", out, "--alf", "1,2,3", "--prior-mean", "MF4", "--threads", 1, "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["alf"], answer.json["alf_from"], answer.json["n_train"]) == ([1, 2, 3], "--alf", 160)
    text = parse_model(out.read_text(), str(out))
    assert (text.system, text.atom, text.frame) == ("METHANOL", "C1", (0, 1, 2))
    y = data(STAYING, 160, 1)[1]
    assert text.mean.value == pytest.approx(y.max() + 5.0 * np.ptp(y), rel=1e-12)
    answer = fflux("validate", out, validation, "--json")
    assert answer.code == 0, answer.err
    figures = answer.json
    assert figures["notes"] == []
    y = data(STAYING, 60, 3)[1]
    spread = y.std() * KJ_MOL
    assert figures["spread_kj_mol"] == pytest.approx(spread)
    assert figures["rmse_kj_mol"] < 0.5 * spread, "the model knows more than the mean does"
    assert figures["mae_kj_mol"] <= figures["rmse_kj_mol"] <= figures["max_kj_mol"]
    assert figures["s_curve_percent"][-1] == 100.0
    assert figures["s_curve_error_kj_mol"][-1] == figures["max_kj_mol"]
    assert figures["share_within_2_sigma"] >= 0.6
    text_answer = fflux("validate", out, validation)
    assert "METHANOL C1 iqa: 60 geometries, errors in kJ/mol" in text_answer.out


def test_frame_comes_from_what_lies_beside_the_table(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("gpytorch")
    table = write_table(tmp_path / "METHANOL_C1_TRAINING_SET.csv", 20, 1)
    out = tmp_path / "METHANOL_iqa_C1.model"
    answer = fflux("train", table, "-o", out, "--threads", 1)
    assert "was assumed, ALF 1 2 3" in answer.out
    (tmp_path / "ferebus.toml").write_text('[system]\natoms = [{name = "C1", alf = [1, 2, 4]}]\n')
    assert fflux("train", table, "-o", out, "--threads", 1, "--json").json["alf"] == [1, 2, 4]
    ichor = table.rename(tmp_path / "C1_processed_data_alf_1_2_6.csv")
    assert fflux("train", ichor, "-o", out, "--threads", 1, "--n-train", 10, "--json").json["alf"] == [1, 2, 6]
    for wrong in ("1,2", "1,2,2", "1,2,9", "2,1,3", "a,b,c"):
        assert "--alf" in refused("train", ichor, "-o", out, "--alf", wrong, "--threads", 1)
    (tmp_path / "ferebus.toml").write_text("[system\n")
    assert "ferebus.toml" in refused("train", write_table(table, 20, 1), "-o", out, "--threads", 1)


def test_validate_says_what_was_repaired(folder: Path, tmp_path: Path) -> None:
    path = folder / "models" / "METHANOL_iqa_C1.model"
    text = parse_model(path.read_text(), str(path))
    wrong = tmp_path / "wrong.model"
    wrong.write_text(format_model(replace(text, mean=Mean("constant", text.mean.value + 0.05))))
    table = folder / "METHANOL_C1_VALIDATION_SET.csv"
    right, repaired = (fflux("validate", model, table, "--json").json for model in (path, wrong))
    assert repaired["rmse_kj_mol"] == pytest.approx(right["rmse_kj_mol"], rel=1e-3)
    assert "the mean was corrected" in repaired["notes"][0]
    assert "note: the weights belong to another constant" in fflux("validate", wrong, table).out
    wrong.write_text(format_model(replace(text, weights=text.weights[::-1])))
    assert "wrong.model: expected weights that reproduce" in refused("validate", wrong, table)


def test_convert_both_ways(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "back.npz"
    start = tmp_path / "start.xyz"
    write_molecule(start, methanol())
    answer = fflux("convert", folder / "models", out, "--start", start, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["n_train"] == [80] * 6
    before, after = model_file.load(folder / "model.npz"), model_file.load(out)
    positions = sample(20, seed=9)
    np.testing.assert_allclose(after.compute(positions)[0], before.compute(positions)[0], rtol=0, atol=1e-10)
    assert answer.json["energy_hartree"] == pytest.approx(before.energy_and_forces(methanol().positions)[0], abs=1e-8)
    assert fflux("convert", out, tmp_path / "mf1.npz", "--prior-mean", "MF1").code == 0
    answer = fflux("convert", folder / "models", tmp_path / "without_start.npz")
    assert "METHANOL (CH4O): 6 models became one force field" in answer.out


def test_convert_to_dl_fflux_and_back(folder: Path, tmp_path: Path) -> None:
    answer = fflux("convert", folder / "model.npz", tmp_path / "run", "--dl-fflux", "--json")
    assert answer.code == 0, answer.err
    assert len(answer.json["files"]) == 9
    assert (tmp_path / "run" / "model_krig" / "METHANOL_iqa_O2.model").is_file()
    assert fflux("convert", tmp_path / "run", tmp_path / "back.npz").code == 0


def test_conversions_that_make_no_sense_are_refused(folder: Path, tmp_path: Path) -> None:
    models, out = folder / "models", tmp_path / "out"
    unit = Files.make(tmp_path)
    assert "train with 'fflux train --no-forces --features spherical'" in refused("convert", unit.model, out)
    assert "a folder with the .model files" in refused("convert", models / "METHANOL_iqa_C1.model", out)
    assert "--prior-mean" in refused("convert", folder / "model.npz", tmp_path / "out.npz")
    assert "a new or empty folder" in refused("convert", folder / "model.npz", models)
    assert "names that end in .model" in refused("convert", tmp_path, tmp_path / "out.npz")
    both = ["--prior-mean", "MF1", "--dl-fflux"]
    assert "no --prior-mean" in refused("convert", folder / "model.npz", out, *both)
    assert "to write" in refused("convert", models, out, "--dl-fflux")
    assert not out.exists()


def test_wrong_tables_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.model"
    table = write_table(tmp_path / "table.csv", 20, 1)
    assert "the name of the atom" in refused("train", table, "-o", out)
    assert "a name that ends in .model" in refused("train", table, "-o", tmp_path / "model.npz")
    named = tmp_path / "METHANOL_C1_TRAINING_SET.csv"
    assert "at least 50 rows" in refused("train", table.rename(named), "-o", out, "--n-train", 50)
    assert "prior mean" in refused("train", named, "-o", out, "--prior-mean", "MF9")
    lines = named.read_text().splitlines()
    named.write_text("\n".join([*lines[:5], lines[5].replace(".", "x"), *lines[6:]]))
    assert "METHANOL_C1_TRAINING_SET.csv:6" in refused("train", named, "-o", out)
    named.write_text("f1,f2,iqa\n1,2,3\n1,2,4\n")
    assert "3N-6 features" in refused("train", named, "-o", out)
    model = folder / "models" / "METHANOL_iqa_C1.model"
    assert "12 features" in refused("validate", model, named)
    assert "--plots" in refused("validate", model, named, "--plots", tmp_path / "plots")
    assert not out.exists()


def test_files_of_the_commands_are_those_of_the_library(folder: Path) -> None:
    texts = model_texts(model_file.load(folder / "model.npz"))
    for text in texts:
        assert (folder / "models" / f"METHANOL_iqa_{text.atom}.model").read_text() == format_model(text)

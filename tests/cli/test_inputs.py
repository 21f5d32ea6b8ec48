"""Bad input: one line that says what and where, exit code 2, nothing half-written."""

from __future__ import annotations

import builtins
import errno
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fflux_py.molecules.extended_xyz import read_molecule, write_molecule
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM
from tests.support.cli_support import Files, fflux, refused
from tests.support.synthetic import methanol


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("files"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output path in a folder that must stay empty."""
    folder = tmp_path / "output"
    folder.mkdir()
    return folder / "out"


def _edited(source: Path, target: Path, edit: Callable[[list[str]], list[str]]) -> Path:
    target.write_text("\n".join(edit(source.read_text().split("\n"))))
    return target


def _replaced(old: str, new: str) -> Callable[[list[str]], list[str]]:
    def edit(lines: list[str]) -> list[str]:
        text = "\n".join(lines)
        assert old in text
        return text.replace(old, new, 1).split("\n")

    return edit


def _substituted(pattern: str, new: str) -> Callable[[list[str]], list[str]]:
    def edit(lines: list[str]) -> list[str]:
        text, count = re.subn(pattern, new, "\n".join(lines), count=1)
        assert count == 1
        return text.split("\n")

    return edit


START_EDITS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "empty": (lambda lines: [""], "found an empty file"),
    "not an XYZ file": (lambda lines: ["hello", *lines[1:]], ":1: expected the number of atoms, found 'hello'"),
    "too few atoms": (lambda lines: ["60", *lines[1:]], "60 atom lines"),
    "unknown element": (lambda lines: [*lines[:2], lines[2].replace("C ", "Qq", 1), *lines[3:]], "'Qq'"),
    "a number that is none": (lambda lines: [*lines[:3], "O one two three", *lines[4:]], ":4"),
    "NaN": (lambda lines: [*lines[:3], "O nan 0 0", *lines[4:]], "NaN"),
    "two atoms on one spot": (lambda lines: [*lines[:7], lines[6], *lines[8:]], "two atoms stand on one spot"),
    "another molecule": (lambda lines: ["5", *lines[1:7]], "this model is for another molecule"),
    "an isomer": (
        lambda lines: [*lines[:2], lines[2].replace("C ", "O ", 1), lines[3].replace("O ", "C ", 1), *lines[4:]],
        "an isomer is another molecule",
    ),
    "another charge": (
        lambda lines: [lines[0], lines[1].replace("total_charge=0", "total_charge=1"), *lines[2:]],
        "charge",
    ),
    "a charge that is none": (
        lambda lines: [lines[0], lines[1].replace("total_charge=0", "total_charge=some"), *lines[2:]],
        "total_charge",
    ),
}


@pytest.mark.parametrize("name", START_EDITS)
@pytest.mark.parametrize("command", ["optimize", "md"])
def test_bad_start_geometry(command: str, name: str, files: Files, out: Path, tmp_path: Path) -> None:
    edit, said = START_EDITS[name]
    start = _edited(files.start, tmp_path / "bad.xyz", edit)
    more = ["--steps", 10] if command == "md" else []
    line = refused(command, files.model, start, "-o", out, *more)
    assert said in line
    assert "bad.xyz" in line
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("command", ["optimize", "md"])
def test_linear_frame(command: str, files: Files, out: Path, tmp_path: Path) -> None:
    """The carbon's frame is C-O-H: with the hydroxyl on the C-O axis it has no plane."""
    molecule = methanol()
    positions = np.array(molecule.positions)
    axis = positions[1] - positions[0]
    positions[5] = positions[1] + 1.8 * axis / np.linalg.norm(axis)
    write_molecule(tmp_path / "linear.xyz", molecule.with_positions(positions))
    more = ["--steps", 10] if command == "md" else []
    line = refused(command, files.model, tmp_path / "linear.xyz", "-o", out, *more)
    assert "line" in line
    assert list(out.parent.iterdir()) == []


DATA_EDITS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "empty": (lambda lines: [""], "found an empty file"),
    "without units": (_replaced(' units="eV, angstrom, e, K"', ""), "units"),
    "other units": (_replaced("eV, angstrom, e, K", "hartree, bohr"), "units"),
    "without schema": (_replaced(' schema="fflux-dataset-1"', ""), "schema"),
    "without energy": (_substituted(r" REF_energy=\S+", ""), "REF_energy"),
    "energy that is none": (_replaced(" REF_energy=", " REF_energy=x"), "REF_energy"),
    "without forces": (_replaced(":REF_forces:R:3", ":other_forces:R:3"), "REF_forces"),
    "wrong atom count": (lambda lines: ["7", *lines[1:]], "data.extxyz"),
    "a line too few": (lambda lines: [*lines[:5], *lines[6:]], "data.extxyz"),
    "a frame of another molecule": (
        lambda lines: [*lines[:8], "1", lines[9], *lines[10:11]],
        "6 atoms as in the first",
    ),
    "NaN in the positions": (lambda lines: [*lines[:3], _with_word(lines[3], 1, "nan"), *lines[4:]], "NaN"),
    "NaN in the forces": (lambda lines: [*lines[:3], _with_word(lines[3], 4, "nan"), *lines[4:]], "NaN"),
    "NaN in the energy": (_substituted(r"REF_energy=\S+", "REF_energy=nan"), "REF_energy"),
    "a trajectory in both splits": (_replaced('split="train"', 'split="test"'), "split"),
    "an unknown split": (_replaced('split="train"', 'split="other"'), "split"),
    "binary": (lambda lines: ["\udcff\udcfe"], "UTF-8"),
}


def _with_word(line: str, number: int, word: str) -> str:
    words = line.split()
    words[number] = word
    return " ".join(words)


@pytest.mark.parametrize("name", DATA_EDITS)
@pytest.mark.parametrize("command", ["train", "validate"])
def test_bad_data_set(command: str, name: str, files: Files, out: Path, tmp_path: Path) -> None:
    edit, said = DATA_EDITS[name]
    lines = files.data.read_text().split("\n")
    data = tmp_path / "data.extxyz"
    data.write_bytes("\n".join(edit(lines)).encode(errors="surrogateescape"))
    arguments: dict[str, list[object]] = {
        "train": [data, "-o", out],
        "validate": [files.model, data, "--plots", out],
    }
    line = refused(command, *arguments[command])
    assert said in line
    assert "data.extxyz" in line
    assert list(out.parent.iterdir()) == []


def test_a_start_in_another_order_is_matched_and_told(files: Files, tmp_path: Path) -> None:
    lines = files.start.read_text().split("\n")
    (tmp_path / "swapped.xyz").write_text("\n".join([*lines[:2], lines[3], lines[2], *lines[4:]]))
    minima = []
    for start in (files.start, tmp_path / "swapped.xyz"):
        answer = fflux("optimize", files.model, start, "-o", tmp_path / "minimum.xyz", "--json")
        assert answer.code == 0, answer.err
        assert ("atoms 1 and 2 exchanged to fit the model" in " ".join(answer.err.split())) == (start != files.start)
        minima.append(read_molecule(tmp_path / "minimum.xyz"))
        (tmp_path / "minimum.xyz").unlink()
    order = [1, 0, 2, 3, 4, 5]
    assert minima[0].symbols == tuple(minima[1].symbols[k] for k in order)
    assert np.abs(minima[0].positions - minima[1].positions[order]).max() < 1e-9


def test_data_set_in_another_order_is_matched_and_told(files: Files, tmp_path: Path) -> None:
    lines = files.data.read_text().split("\n")
    swapped = [lines[first + k] for first in range(0, len(lines) - 1, 8) for k in (0, 1, 3, 2, 4, 5, 6, 7)]
    reference = '"' + " ".join(f"{x:.15g}" for x in (methanol().positions[[1, 0, 2, 3, 4, 5]] * ANGSTROM).ravel()) + '"'
    text = "\n".join(swapped) + "\n"
    old = text.split('reference="')[1].split('"')[0]
    data = tmp_path / "data.extxyz"
    data.write_text(text.replace(f'"{old}"', reference))
    figures = []
    for each in (files.data, data):
        answer = fflux("validate", files.model, each, "--json")
        assert answer.code == 0, answer.err
        told = "atoms 1 and 2 exchanged to fit the model; all is in the model's order" in " ".join(answer.err.split())
        assert told == (each == data)
        figures.append(
            [answer.json[f"{what}_mae_kcal_mol{per}"] for what, per in (("energy", ""), ("force", "_angstrom"))]
        )
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


def test_data_set_of_another_molecule(files: Files, tmp_path: Path) -> None:
    """The same atoms with other bonds: the model must not be evaluated on them."""
    data = tmp_path / "data.extxyz"
    data.write_text(files.data.read_text().replace("\nO ", "\nS "))
    assert "atom 2: expected O as in the model, found S" in refused("validate", files.model, data)


def test_missing_package_is_not_the_fault_of_a_file(files: Files, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fflux_py import training
    from fflux_py.errors import MissingDependencyError

    def missing(*arguments: Any, **options: Any) -> None:
        raise MissingDependencyError(
            "training", "gpytorch and torch", "no module 'torch'", "pip install 'fflux_py[train]'"
        )

    monkeypatch.setattr(training, "train", missing)
    line = refused("train", files.data, "-o", out)
    assert line == (
        "fflux train: training: expected gpytorch and torch, found no module 'torch'; pip install 'fflux_py[train]'"
    )


def test_training_asks_for_what_is_not_there(files: Files, out: Path) -> None:
    line = refused("train", files.data, "-o", out, "--n-train", 100000)
    assert "at least 100000 geometries marked 'train'" in line
    # Options are refused before the data are read.
    assert "unit-vector" in refused("train", "no-such-data", "-o", out, "--features", "cartesian")
    assert "MF1" in refused("train", "no-such-data", "-o", out, "--prior-mean", "MF9")
    assert list(out.parent.iterdir()) == []


MODEL_EDITS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "another kind of file": lambda content: b"6\nmethanol\nC 0 0 0\n",
    "altered": lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
}


@pytest.mark.parametrize("name", MODEL_EDITS)
def test_bad_model(name: str, files: Files, out: Path, tmp_path: Path) -> None:
    model = tmp_path / "bad.npz"
    model.write_bytes(MODEL_EDITS[name](files.model.read_bytes()))
    for arguments in (
        ["convert", model, out, "--prior-mean", "MF1"],
        ["md", model, files.start, "--steps", 10, "-o", out],
        ["optimize", model, files.start, "-o", out],
        ["validate", model, files.data],
    ):
        assert "bad.npz" in refused(*arguments)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("value", ["-3", "0", "nan", "inf"])
def test_bad_temperature(value: str, files: Files, out: Path) -> None:
    assert "temperature" in refused("md", files.model, files.start, "--steps", 5, "-o", out, "--temperature", value)
    assert "temperature" in refused("sample", files.start, "-o", out, "--temperature", value)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("option", ["--timestep", "--report-every", "--seed", "--replicas"])
def test_bad_settings_of_a_run(option: str, files: Files, out: Path) -> None:
    line = refused("md", files.model, files.start, "--steps", 5, "-o", out, option, "-1")
    assert option.strip("-").replace("-every", "") in line
    assert list(out.parent.iterdir()) == []


def test_run_refuses_a_folder_that_is_not_empty(files: Files, out: Path) -> None:
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    line = refused("md", files.model, files.start, "--steps", 5, "-o", out)
    assert "expected a new or empty folder, found precious.txt in it" in line
    assert [entry.name for entry in out.iterdir()] == ["precious.txt"]
    assert (out / "precious.txt").read_text() == "mine"


def test_bad_force_threshold(files: Files, out: Path) -> None:
    for value in ("0", "-1", "nan"):
        assert "--fmax" in refused("optimize", files.model, files.start, "-o", out, "--fmax", value)


def test_start_of_sampling(files: Files, out: Path, tmp_path: Path) -> None:
    assert "expected an XYZ file or --smiles, found neither" in refused("sample", "-o", out)
    assert "found both" in refused("sample", files.start, "--smiles", "CO", "-o", out)
    assert "'torsions' or 'none'" in refused("sample", files.start, "-o", out, "--bias", "strong")
    line = refused("sample", files.start, "-o", out, "--temperature", 300, "--temperature", 300)
    assert "different temperatures" in line
    bad = _edited(files.start, tmp_path / "bad.xyz", START_EDITS["unknown element"][0])
    assert "bad.xyz:3" in refused("sample", bad, "-o", out)
    assert list(out.parent.iterdir()) == []


def test_smiles(out: Path) -> None:
    pytest.importorskip("rdkit")
    assert "a valid SMILES string" in refused("sample", "--smiles", "this is none", "-o", out)
    assert "expected 0 as in the SMILES string, found 1" in refused(
        "sample", "--smiles", "CO", "--charge", 1, "-o", out
    )


def test_bias_without_a_torsion(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Springs:
        """A molecule held by springs at its start geometry."""

        def __init__(self, molecule: Molecule) -> None:
            self.start = molecule.positions

        def energy_and_forces(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
            return 0.5 * float(((positions - self.start) ** 2).sum()), self.start - positions

    monkeypatch.setattr(importlib.import_module("fflux_py.sampling.sampler"), "_gfn2", Springs)
    water = Molecule(("O", "H", "H"), np.array([[0, 0, 0.2], [0, 1.43, -0.9], [0, -1.43, -0.9]]), name="water")
    write_molecule(tmp_path / "water.xyz", water)
    assert "use 'none'" in refused("sample", tmp_path / "water.xyz", "-o", out, "--bias", "torsions")


@pytest.mark.parametrize("value", ["1", "2/2", "-1/2", "a/b", "1/2/3", ""])
def test_bad_share_of_a_job_array(value: str, files: Files, out: Path) -> None:
    assert "I/N with 0 <= I < N" in refused("label", files.start, "-o", out, "--array", value)


def test_bad_level_of_theory(files: Files, out: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    for option, value in (("--partition", "voronoi"), ("--method", "")):
        line = refused("label", files.start, "-o", out, "--folder", tmp_path / "labels", option, value)
        assert option.strip("-") in line
    assert list(out.parent.iterdir()) == []


def test_folder_of_a_report(tmp_path: Path) -> None:
    assert "found nothing of that name" in refused("report", tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    assert "found a file" in refused("report", tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "run.json" in refused("report", tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def _no_space(*arguments: Any, **more: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("command", ["convert", "optimize", "md", "validate"])
def test_full_disk(command: str, files: Files, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stood in the place of the output stays; no part of the new one is left."""
    arguments: dict[str, list[object]] = {
        "convert": [files.model, out, "--prior-mean", "MF1"],
        "optimize": [files.model, files.start, "-o", out],
        "md": [files.model, files.start, "--steps", 20, "-o", out],
        "validate": [files.model, files.data, "--plots", out],
    }
    if command in ("convert", "optimize"):
        out.write_text("old")
    monkeypatch.setattr(os, "fsync", _no_space)
    line = refused(command, *arguments[command])
    assert "No space left on device" in line
    left = [path for path in out.parent.rglob("*") if path.is_file()]
    if command in ("convert", "optimize"):
        assert left == [out]
        assert out.read_text() == "old"
    else:
        assert not [path for path in left if path.suffix == ".part"]


def test_file_that_may_not_be_read(files: Files, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = builtins.open

    def denied(path: Any, *arguments: Any, **more: Any) -> Any:
        if path == files.data:  # a mode would not do: whoever runs the tests may read all files
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(builtins, "open", denied)
    assert "Permission denied" in refused("train", files.data, "-o", out)


def test_optimised_geometry_is_written_only_if_converged(files: Files, out: Path, tmp_path: Path) -> None:
    molecule = read_molecule(files.start)
    write_molecule(tmp_path / "far.xyz", molecule.with_positions(molecule.positions * 1.03))
    answer = fflux("optimize", files.model, tmp_path / "far.xyz", "-o", out, "--fmax", 1e-6, "--max-steps", 1)
    assert answer.code == 3
    assert answer.out == ""
    assert "expected forces below 1e-06 eV/angstrom within 1 steps" in answer.err
    assert answer.err.count("\n") == 1
    assert list(out.parent.iterdir()) == []

"""``fflux minima``: a file of minima, the lowest first, and their order by the reference method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fflux_py import Molecule, certification
from fflux_py.certification import GFN2Labeller
from fflux_py.molecules.extended_xyz import read_frames
from fflux_py.sampling.gfn2 import GFN2
from fflux_py.units import ANGSTROM, EV, KCAL_MOL
from tests.support.cli_support import Files, fflux, refused
from tests.support.synthetic import fitted, methanol


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("methanol"))


def test_the_minimum_of_methanol(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "minima.extxyz"
    answer = fflux("minima", files.model, files.start, "-o", out, "--searches", 3, "--json")
    assert answer.code == 0, answer.err
    (frame,) = read_frames(out)
    energy, forces = fitted().energy_and_forces(frame.positions / ANGSTROM)
    assert np.abs(forces).max() < 1e-4
    assert frame.info["model_energy_ev"] == pytest.approx(energy * EV, abs=1e-9)
    assert frame.info["above_lowest_kcal_mol"] == 0.0
    (row,) = answer.json["minima"]
    assert row["times_found"] + answer.json["n_outside_training"] + answer.json["n_failed"] == 4
    assert row["lowest_wavenumber_per_cm"] > 0.0
    assert frame.info["lowest_wavenumber_per_cm"] == pytest.approx(row["lowest_wavenumber_per_cm"], rel=1e-12)
    assert "kendall_tau" not in answer.json


def test_minima_are_labelled_by_the_reference_method(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tblite")
    monkeypatch.setattr(certification, "labeller_of", lambda *_: GFN2Labeller())  # springs have no program
    out = tmp_path / "minima.extxyz"
    answer = fflux("minima", files.model, files.start, "-o", out, "--searches", 1, "--check", 5)
    assert answer.code == 0, answer.err
    assert "gfn2-xtb" in answer.out
    assert "Kendall's tau nan" in answer.out  # one minimum has no order
    (frame,) = read_frames(out)
    molecule = Molecule(methanol().symbols, frame.positions / ANGSTROM)
    expected, _ = GFN2(molecule).energy_and_forces(molecule.positions)
    assert frame.info["reference_energy_ev"] / EV == pytest.approx(expected, abs=1e-3 / KCAL_MOL)


def test_bad_options_are_refused(files: Files, tmp_path: Path) -> None:
    arguments = ["minima", files.model, files.start, "-o", tmp_path / "out.extxyz"]
    assert "--window" in refused(*arguments, "--window", "0")
    assert "--window" in refused(*arguments, "--window", "nan")
    assert not (tmp_path / "out.extxyz").exists()

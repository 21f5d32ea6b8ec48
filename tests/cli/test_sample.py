"""``fflux sample``: torsions by name, PLUMED input files, distortions."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from fflux_py.bias import CollectiveVariable, Grid
from fflux_py.bias.free_energy import free_energy_of_hills, reweighting_offset
from fflux_py.bias.plumed_files import PlumedUnits, read_colvar, read_hills
from fflux_py.cli.commands.sample import parse_torsions
from fflux_py.errors import InputError
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.extended_xyz import write_molecule
from fflux_py.sampling import molecule_from_smiles
from fflux_py.units import ANGSTROM, KCAL_MOL
from tests.support.cli_support import fflux
from tests.support.sampling_models import Springs, hydrogen_peroxide
from tests.support.synthetic import malondialdehyde

PHI = CollectiveVariable("torsion", (0, 1, 2, 3), "phi")
FAR = CollectiveVariable("distance", (0, 3), "d")
UNITS = PlumedUnits(ANGSTROM, KCAL_MOL, 1e-3 * 0.02418884326585747)
PLUMED = """UNITS LENGTH=A ENERGY=kcal/mol
phi: TORSION ATOMS=1,2,3,4
d: DISTANCE ATOMS=1,4
METAD ARG=phi SIGMA=0.3 HEIGHT=0.5 PACE=40 BIASFACTOR=8 TEMP=350 GRID_MIN=-pi GRID_MAX=pi LABEL=metad
PRINT ARG=phi,d,metad.bias,metad.rct,metad.rbias STRIDE=60 FILE=COLVAR
"""


@pytest.fixture(autouse=True)
def springs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not GFN2 here: springs, whose runs take no time."""
    module = importlib.import_module("fflux_py.sampling.sampler")
    monkeypatch.setattr(module, "_gfn2", lambda molecule: Springs(molecule, 8e-3, 4e-3, 0.05))


@pytest.fixture
def peroxide(tmp_path: Path) -> Path:
    path = tmp_path / "peroxide.xyz"
    write_molecule(path, hydrogen_peroxide())
    return path


def run(tmp_path: Path, start: Path, *arguments: object) -> tuple[GeometrySet, dict[str, object]]:
    out = tmp_path / "out" / "geometries.extxyz"
    out.parent.mkdir(exist_ok=True)
    answer = fflux("sample", start, "-o", out, "--test-frames", 0, *arguments, "--json")
    assert answer.code == 0, answer.err
    return GeometrySet.read(out), answer.json


def test_plumed_file_biases_and_leaves_its_files(tmp_path: Path, peroxide: Path) -> None:
    plumed = tmp_path / "plumed.dat"
    plumed.write_text(PLUMED)
    frames, answer = run(tmp_path, peroxide, "--bias", plumed, "--frames", 6, "--temperature", 300)
    assert answer["trajectory_kinds"] == {"nvt-300K": {"train": 3, "test": 0}, "wtmetad-350K": {"train": 3, "test": 0}}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "COLVAR.wtmetad-350K-s3", "HILLS.wtmetad-350K-s3", "geometries.extxyz"]  # fmt: skip
    hills = read_hills(tmp_path / "out" / "HILLS.wtmetad-350K-s3", (PHI,), UNITS)
    # 1 ps of 0.5 fs steps, a hill every 40 steps; the first one has its full height.
    assert len(hills) == 50
    assert hills.heights[0] * KCAL_MOL == pytest.approx(0.5, rel=1e-9)
    assert (np.diff(hills.times) > 0.0).all()
    names = ["metad.bias", "metad.rct", "metad.rbias"]
    times, values, energies = read_colvar(tmp_path / "out" / "COLVAR.wtmetad-350K-s3", (PHI, FAR), names, UNITS)
    assert len(times) == 2000 // 60
    # The bias of every row is the sum of the hills that were there before it.
    for t, (phi, _), bias in zip(times, values, energies["metad.bias"], strict=True):
        expected = hills.at(np.array([phi]))[hills.times < t - 1e-3].sum()
        assert bias == pytest.approx(expected, abs=1e-8)
    np.testing.assert_allclose(energies["metad.bias"] - energies["metad.rct"], energies["metad.rbias"], atol=1e-10)
    before = (hills.times[:, None] < times - 1e-3).sum(axis=0)
    offsets = reweighting_offset(hills, 350.0, Grid((PHI,), (-np.pi,), (np.pi,), (360,)))
    np.testing.assert_allclose(energies["metad.rct"], offsets[before], atol=1e-7)
    # H...H of a chain of soft bonds and angles, 1.7 angstrom at cis, 2.6 at trans.
    assert 1.4 < values[:, 1].min() * ANGSTROM < values[:, 1].max() * ANGSTROM < 4.0
    surface = free_energy_of_hills(hills, Grid((PHI,), (-np.pi,), (np.pi,), (60,)))
    assert np.ptp(surface.values) * KCAL_MOL > 1.0
    assert frames.metadata["sampling_variables"] == "1-2-3-4"


def test_plumed_file_of_a_parallel_bias(tmp_path: Path, peroxide: Path) -> None:
    plumed = tmp_path / "plumed.dat"
    plumed.write_text(
        "phi: TORSION ATOMS=1,2,3,4\nd: DISTANCE ATOMS=1,4\n"
        "PBMETAD ARG=phi,d SIGMA=0.3,0.02 HEIGHT=2 PACE=40 BIASFACTOR=8 FILE=H1,H2 LABEL=pb\n"
        "PRINT ARG=d,pb.bias STRIDE=20 FILE=C\n"
    )
    run(tmp_path, peroxide, "--bias", plumed, "--frames", 6, "--temperature", 400)
    found = [read_hills(tmp_path / "out" / f"H{k}.wtmetad-400K-s3", (v,)) for k, v in ((1, PHI), (2, FAR))]
    # Of the first round both get half.
    assert [h.heights[0] * KCAL_MOL * 4.184 for h in found] == pytest.approx([1.0, 1.0], rel=1e-6)
    _, values, energies = read_colvar(tmp_path / "out" / "C.wtmetad-400K-s3", (FAR,), ["pb.bias"])
    assert len(values) == 100
    assert energies["pb.bias"][0] == pytest.approx(0.0, abs=1e-9)
    assert energies["pb.bias"].max() > 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ATOMS=1,4", "ATOMS=1,5"), "distance d: expected atoms from 1 to 4, found 5"),
        (("STRIDE=60", "STRIDE=50"), "PRINT FILE=COLVAR, STRIDE: expected a multiple of 20"),
        (("METAD ARG", "OPES_METAD ARG"), "plumed.dat:4: expected one of the actions .* found OPES_METAD"),
        (("ARG=phi SIGMA=0.3", "ARG=d SIGMA=0.3"), "plumed.dat:4.*"),
    ],
)
def test_bad_plumed_files_end_with_one_line(
    tmp_path: Path, peroxide: Path, change: tuple[str, str], message: str
) -> None:
    plumed = tmp_path / "plumed.dat"
    text = PLUMED.replace(*change)
    if change[1].startswith("ARG=d"):
        text = text.replace("GRID_MIN=-pi", "GRID_MIN=5")
    plumed.write_text(text)
    answer = fflux("sample", peroxide, "-o", tmp_path / "o.extxyz", "--bias", plumed)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert re.search(message, answer.err), answer.err
    assert not (tmp_path / "o.extxyz").exists()


def test_ct_of_a_distance_needs_limits(tmp_path: Path, peroxide: Path) -> None:
    plumed = tmp_path / "plumed.dat"
    plumed.write_text("d: DISTANCE ATOMS=1,4\nMETAD ARG=d SIGMA=0.02 HEIGHT=1 PACE=20\nPRINT ARG=metad.rct STRIDE=20\n")
    answer = fflux("sample", peroxide, "-o", tmp_path / "o.extxyz", "--bias", plumed)
    assert answer.code == 2
    assert "GRID_MIN and GRID_MAX" in answer.err


def test_distortions_and_minima_are_counted(tmp_path: Path) -> None:
    start = tmp_path / "start.xyz"
    write_molecule(start, malondialdehyde())
    options = ("--bias", "none", "--temperature", 300, "--frames", 3, "--distortions", 40, "--minima")
    frames, answer = run(tmp_path, start, *options)
    kinds = answer["trajectory_kinds"]
    assert isinstance(kinds, dict)
    assert kinds["nvt-300K"] == {"train": 3, "test": 0}
    assert kinds["distorted"] == {"train": 40, "test": 0}
    assert kinds["minimum"]["train"] >= 1
    assert len(frames) == 43 + kinds["minimum"]["train"]


def test_named_torsions_are_biased(tmp_path: Path) -> None:
    start = tmp_path / "start.xyz"
    write_molecule(start, malondialdehyde())
    options = ("--temperature", 300, "--frames", 6)
    frames, _ = run(tmp_path, start, *options, "--torsions", "2-3-4-5")
    assert frames.metadata["sampling_torsions"] == "2-3-4-5"
    frames, _ = run(tmp_path, start, *options, "--parallel")
    assert frames.metadata["sampling_torsions"] == "1-2-3-4, 2-3-4-5 (one bias each)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--torsions", "1-2-3"), "--torsions: expected torsions such as"),
        (("--torsions", "backbone"), "--torsions backbone: expected a peptide"),
        (("--torsions", "1-2-4-3"), "no bond O2-H4"),
        (("--torsions", "1-2-3-4", "--bias", "none"), "--torsions: expected --bias torsions, found --bias none"),
        (("--bias", "plumed.dat", "--joint"), "expected METAD or PBMETAD in the PLUMED file, found both"),
        (("--bias", "walls"), "--bias: expected 'torsions' or 'none' or a PLUMED input file, found 'walls'"),
    ],
)
def test_wrong_choices_end_with_one_line(
    tmp_path: Path, peroxide: Path, options: tuple[str, ...], message: str
) -> None:
    answer = fflux("sample", peroxide, "-o", tmp_path / "o.extxyz", *options)
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_torsions_are_parsed_from_one() -> None:
    molecule = malondialdehyde()
    assert parse_torsions("1-2-3-4, 2-3-4-5", molecule) == ((0, 1, 2, 3), (1, 2, 3, 4))
    for text in ("", "1-2-3-4;", "1-2-3-4-5", "a-b-c-d"):
        with pytest.raises(InputError, match="--torsions"):
            parse_torsions(text, molecule)


def test_backbone_of_alanine_dipeptide() -> None:
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    molecule = molecule_from_smiles("CC(=O)N[C@@H](C)C(=O)NC")
    assert parse_torsions("backbone", molecule) == ((1, 3, 4, 6), (3, 4, 6, 8))

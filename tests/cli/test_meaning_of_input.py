"""What a file says besides its geometry, told or refused by the commands in one line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.io.extxyz import write_extxyz

from fflux_py.cli._command import warnings_as_lines
from fflux_py.errors import InputError, InputWarning, ReorderedAtomsWarning
from fflux_py.molecules.molecule import Molecule
from fflux_py.sampling import sample
from fflux_py.units import ANGSTROM
from tests.support.cli_support import Files, fflux
from tests.support.synthetic import methanol

HYDROGEN_CATION = "2\n{}\nH 0 0 0\nH 0 0 0.9\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("files"))


def test_starts_of_ase_are_told_or_refused(files: Files, tmp_path: Path) -> None:
    atoms = Atoms(methanol().symbols, methanol().positions * ANGSTROM)
    moving, heavy, crystal, charged = (atoms.copy() for _ in range(4))
    moving.set_velocities(np.full((6, 3), 0.01))
    ase.io.write(tmp_path / "moving.extxyz", moving)
    heavy.set_masses([12.011, 15.999, 2.014, 2.014, 2.014, 1.008])
    write_extxyz(tmp_path / "heavy.extxyz", heavy, columns=["symbols", "positions", "masses"])
    crystal.set_cell([6, 6, 6])
    crystal.pbc = True
    ase.io.write(tmp_path / "crystal.extxyz", crystal)
    charged.info["charge"] = 1
    ase.io.write(tmp_path / "charged.extxyz", charged)
    for name, code, message in (
        ("moving", 0, "moving.extxyz:2: velocities (momenta) are not used"),
        ("heavy", 2, "isotopes are not supported"),
        ("crystal", 2, "no periodic boundaries"),
        ("charged", 2, "charge 0, found 1"),
    ):
        start, out = tmp_path / f"{name}.extxyz", tmp_path / f"run-{name}"
        answer = fflux("md", files.model, start, "--steps", 20, "-o", out, "--json")
        assert answer.code == code, answer.err
        assert message in answer.err
        assert answer.err.count("\n") == 1
        assert (out / "trajectory.dcd").exists() == (code == 0)
        if name == "moving":
            assert ["momenta" in line for line in json.loads(answer.out)["warnings"]] == [True]


def test_every_warning_of_the_package_is_one_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> list[str]:
        with warnings_as_lines("md") as told:
            for _ in range(2):
                warnings.warn("velocities are\n not used", InputWarning, stacklevel=1)
            warnings.warn("atoms 2 and 3 exchanged", ReorderedAtomsWarning, stacklevel=1)
            warnings.warn("of somebody else", DeprecationWarning, stacklevel=1)
        return told

    with pytest.warns(DeprecationWarning, match="of somebody else"):
        told = work()
    assert capsys.readouterr().err == (
        "fflux md: warning: velocities are not used\nfflux md: warning: atoms 2 and 3 exchanged\n"
    )
    assert told == ["velocities are not used", "atoms 2 and 3 exchanged"]


@pytest.mark.parametrize(
    ("comment", "options", "code", "said"),
    [
        ("charge=1", [], 2, "1 electrons at charge 1"),
        ("h2", ["--charge", 1], 2, "1 electrons at charge 1"),
        ("charge=1", ["--charge", 0], 0, ""),
        ("multiplicity=3", [], 2, "a closed shell"),
    ],
)
def test_label_takes_the_charge_of_the_file_or_of_the_option(
    tmp_path: Path, comment: str, options: list[object], code: int, said: str
) -> None:
    pytest.importorskip("pyscf")
    (tmp_path / "h2.xyz").write_text(HYDROGEN_CATION.format(comment))
    out = tmp_path / "data.extxyz"
    level = ["--basis", "sto-3g", "--partition", "none"]
    answer = fflux("label", tmp_path / "h2.xyz", "-o", out, *level, *options)
    assert answer.code == code, answer.err
    assert said in answer.err
    if code == 0:
        assert "total_charge=0" in out.read_text()


def test_sampling_refuses_an_odd_number_of_electrons(tmp_path: Path) -> None:
    methyl = Molecule(
        ("C", "H", "H", "H"), np.array([[0, 0, 0], [2.0, 0, 0], [-1.0, 1.8, 0], [-1.0, -1.8, 0]]), 0, "CH3"
    )
    with pytest.raises(InputError, match=r"even number of electrons .*9 electrons at charge 0"):
        sample(methyl)
    rows = "\n".join(
        f"{s} {x:.4f} {y:.4f} {z:.4f}" for s, (x, y, z) in zip("CHHH", methyl.positions / 1.9, strict=True)
    )
    (tmp_path / "ch3.xyz").write_text(f"4\nmethyl radical\n{rows}\n")
    answer = fflux("sample", tmp_path / "ch3.xyz", "-o", tmp_path / "g.extxyz")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "9 electrons at charge 0" in answer.err

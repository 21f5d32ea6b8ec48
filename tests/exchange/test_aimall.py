"""Labels of other programs: files as AIMAll and Gaussian write them, read, checked, refused where they are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fflux_py.errors import FileFormatError, InputError
from fflux_py.exchange.aimall import read_int, read_sum
from fflux_py.exchange.labels import read_aimall
from fflux_py.exchange.npz_archive import ArchiveOrigin, read_npz
from fflux_py.molecules.dataset import Dataset
from fflux_py.units import ANGSTROM, KCAL_MOL
from tests.support.cli_support import fflux, refused

SYMBOLS = ("O", "H", "H")
NUMBERS = {"O": 8, "H": 1}
RULE = "-" * 80


class Water:
    """One geometry with energies that sum to the molecule's up to ``residual`` (hartree)."""

    def __init__(self, seed: int, residual: float = 2e-6) -> None:
        rng = np.random.default_rng(seed)
        base = np.array([[0.0, 0.0, 0.2], [1.4, 0.0, -0.9], [-1.5, 0.1, -0.8]])
        self.positions = np.round(base + 0.05 * rng.normal(size=(3, 3)), 8)
        self.iqa = np.array([-75.4467147, -0.4888009, -0.4861922]) + 0.001 * rng.normal(size=3)
        self.energy = self.iqa.sum() - residual
        self.charges = np.array([-1.0519212, 0.5510728, 0.5008530])
        self.lagrangians = np.array([-2.9e-5, 1.9e-5, 1.7e-5])
        self.forces = 0.05 * rng.normal(size=(3, 3))

    def sum_file(self) -> str:
        """A ``.sum`` file: the parts that are read, with others between them."""
        e = "{:18.10E}".format
        nuclei = [
            f"{s}{k + 1}         {NUMBERS[s]}.0   " + "  ".join(e(x) for x in self.positions[k])
            for k, s in enumerate(SYMBOLS)
        ]
        return "\n".join(
            [
                "AIMSum (Version 19.10.12, Professional)", "", "Wfn Title:   WATER", "",
                "Atomic units (a.u.) used throughout, except where stated otherwise", "",
                "Model:  Restricted B3LYP", "",
                "Nuclear Charges and Cartesian Coordinates:", RULE,
                "Atom      Charge                X                  Y                  Z", RULE, *nuclei, "",
                "Some Atomic Properties:", "----------------------", "  q(A) = Net Charge of Atom A",
                *self._table({"q(A)": self.charges, "L(A)": self.lagrangians, "K(A)": -self.iqa}), "",
                f"Molecular charge q(Mol) from the wfn file: {e(0.0)}",
                f"Molecular energy E(Mol) from the wfn file: {e(self.energy)}", "",
                "IQA Atomic Energy Components:", "----------------------------", "  E_IQA(A) = T(A) + ...",
                *self._table({"E_IQA(A)": self.iqa, "T(A)": -self.iqa}), "",
                "More IQA Atomic Energy Components:", *self._table({"V_IQA(A)": 2 * self.iqa}),
            ]
        ) + "\n"  # fmt: skip

    def _table(self, columns: dict[str, np.ndarray]) -> list[str]:
        rows = [
            f"{s}{k + 1}       " + " ".join(f"{column[k]:.10E}" for column in columns.values())
            for k, s in enumerate(SYMBOLS)
        ]
        total = "Total    " + " ".join(f"{column.sum():.10E}" for column in columns.values())
        return [RULE, "Atom A          " + "     ".join(columns), RULE, *rows, RULE, total]

    def gaussian_output(self, positions: np.ndarray | None = None) -> str:
        """The tables of a Gaussian output with ``force nosymm``."""
        place = (self.positions if positions is None else positions) * ANGSTROM
        coordinates = [
            f"{k + 1:7d}{NUMBERS[s]:11d}           0    " + "".join(f"{x:12.6f}" for x in place[k])
            for k, s in enumerate(SYMBOLS)
        ]
        forces = [
            f"{k + 1:7d}{NUMBERS[s]:9d}       " + "".join(f"{x:15.9f}" for x in self.forces[k])
            for k, s in enumerate(SYMBOLS)
        ]
        return "\n".join(
            [
                " #p b3lyp/6-31+G(d,p) nosymm output=wfn force", " --------",
                "                          Input orientation:", RULE,
                " Center     Atomic      Atomic             Coordinates (Angstroms)",
                " Number     Number       Type             X           Y           Z", RULE, *coordinates, RULE,
                " Center     Atomic                   Forces (Hartrees/Bohr)",
                " Number     Number              X              Y              Z", RULE, *forces, RULE,
                " Normal termination of Gaussian 16",
            ]
        ) + "\n"  # fmt: skip

    def wavefunction(self) -> str:
        """The first and last lines of a ``.wfn`` file."""
        nuclei = [
            f"{s:<2}{k + 1:6d}    (CENTRE{k + 1:3d}) "
            + "".join(f"{x:12.8f}" for x in self.positions[k])
            + f"  CHARGE ={NUMBERS[s]:4.1f}"
            for k, s in enumerate(SYMBOLS)
        ]
        head = "GAUSSIAN              5 MOL ORBITALS     46 PRIMITIVES        3 NUCLEI"
        end = f" TOTAL ENERGY =      {self.energy:.12f} THE VIRIAL(-V/T)=   2.01177209"
        return "\n".join([" WATER", head, *nuclei, "END DATA", end]) + "\n"

    def int_file(self, atom: int) -> str:
        """The ``.int`` file of one atom."""
        return "\n".join(
            [
                " AIMInt (Version 19.10.12, Professional)", "",
                f" The molecular energy from the wfn file = {self.energy:.10E}", "Model:  Restricted B3LYP",
                f" Integration is over atom {SYMBOLS[atom]}{atom + 1}", " Results of the basin integration:",
                f"          N =  1.0E+00   q = {self.charges[atom]:.10E} = Net Charge",
                f"          L = {self.lagrangians[atom]:.10E}",
                'IQA Energy Components (see "2EDM Note"):',
                f"E_IQA0(A)                         = {self.iqa[atom] + 1:.10E}",
                f"E_IQA(A)                          = {self.iqa[atom]:.10E}",
                f"E_IQA_Intra(A)                    = {self.iqa[atom] + 2:.10E}", " Total time =       33 sec", "",
                " AIMInt is Done.",
            ]
        ) + "\n"  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four geometries, each in a folder of its own, as the field keeps them."""
    for k in range(4):
        point = tmp_path / "WATER" / f"WATER{k:04d}"
        point.mkdir(parents=True)
        (point / f"W{k}.sum").write_text(Water(k).sum_file())
        (point / f"W{k}.gaussianoutput").write_text(Water(k).gaussian_output())
    return tmp_path / "WATER"


def test_sum_files_become_a_data_set(folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    data, left_out = read_aimall(folder, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(k, 4) for k in (1, 2, 3, 4)]
    assert not left_out
    assert data.molecule.symbols == SYMBOLS
    for k in range(4):
        water = Water(k)
        np.testing.assert_allclose(data.positions[k], water.positions, atol=1e-10)
        np.testing.assert_allclose(data.forces[k], water.forces, atol=1e-9)
        assert data.energies[k] == pytest.approx(water.energy, abs=1e-8)
        np.testing.assert_allclose(data.atomic_energies[k], water.iqa, atol=3e-6)
        np.testing.assert_allclose(data.charges[k], water.charges, atol=1e-9)
        assert data.atomic_errors[k].sum() == pytest.approx(2e-6, abs=2e-8)
    # The atoms sum to the molecule; what AIMAll's integration missed is kept.
    np.testing.assert_allclose(data.atomic_energies.sum(axis=1), data.energies, rtol=0, atol=1e-12)
    assert data.metadata["method"] == "b3lyp"
    assert data.metadata["basis"] == "6-31+g(d,p)"
    assert data.metadata["partition"] == "qtaim"
    assert data.metadata["programs"] == "AIMAll 19.10.12"
    assert data.metadata["largest_raw_residual_hartree"] == pytest.approx(2e-6, abs=2e-8)
    data.write(tmp_path / "data.extxyz")
    assert Dataset.read(tmp_path / "data.extxyz").digest() == data.digest()


def test_int_files_say_the_same_as_the_sum_file(tmp_path: Path) -> None:
    water = Water(5)
    atoms = tmp_path / "W_atomicfiles"
    atoms.mkdir()
    (tmp_path / "W.wfn").write_text(water.wavefunction())
    for k, symbol in enumerate(SYMBOLS):
        (atoms / f"{symbol.lower()}{k + 1}.int").write_text(water.int_file(k))
    (tmp_path / "W.sum").write_text(water.sum_file())
    one, other = read_int(atoms, tmp_path / "W.wfn"), read_sum(tmp_path / "W.sum")
    for name in ("positions", "atomic_energies", "charges", "lagrangians"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=1e-9, err_msg=name)
    assert (one.symbols, one.charge, one.model) == (other.symbols, other.charge, other.model)
    assert one.energy == pytest.approx(other.energy, abs=1e-8)
    (tmp_path / "W.sum").unlink()
    data, _ = read_aimall(tmp_path, basis="6-31+g(d,p)")
    np.testing.assert_allclose(data.atomic_energies[0], water.iqa, atol=3e-6)
    assert not data.has_forces
    (atoms / "h3.int").write_text(water.int_file(2).replace(" AIMInt is Done.", ""))
    with pytest.raises(FileFormatError, match=r"h3\.int:15: expected the line 'AIMInt is Done\.'"):
        read_int(atoms, tmp_path / "W.wfn")
    (atoms / "h3.int").write_text(Water(6).int_file(2))
    with pytest.raises(FileFormatError, match=r"h3\.int:3: expected -7.* hartree as in"):
        read_int(atoms, tmp_path / "W.wfn")
    (atoms / "h2.int").unlink()
    with pytest.raises(FileFormatError, match=r"h2\.int: expected the results of atom H2, found no file"):
        read_int(atoms, tmp_path / "W.wfn")


def test_data_without_forces_is_kept_and_not_trained_on_forces(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("gpytorch")
    from fflux_py.training.config import TrainingConfig
    from fflux_py.training.trainer import train

    for path in folder.rglob("*.gaussianoutput"):
        path.unlink()
    with pytest.raises(InputError, match="basis: expected the name of the basis set"):
        read_aimall(folder)
    data, _ = read_aimall(folder, basis="6-31+g(d,p)")
    data.write(tmp_path / "data.extxyz")
    again = Dataset.read(tmp_path / "data.extxyz")
    assert not again.has_forces
    assert "REF_forces" not in (tmp_path / "data.extxyz").read_text()
    assert again.digest() == data.digest()
    with pytest.raises(InputError, match="forces of the geometries, found a data set without forces"):
        train(again, TrainingConfig(forces=True))


def test_badly_integrated_geometries_are_named_and_left_out(folder: Path) -> None:
    (folder / "WATER0001" / "W1.sum").write_text(Water(1, residual=2.0 / KCAL_MOL).sum_file())
    noisy = Water(2)
    noisy.lagrangians = np.array([2e-3, 0.0, 0.0])
    (folder / "WATER0002" / "W2.sum").write_text(noisy.sum_file())
    leaky = Water(3)
    leaky.charges = leaky.charges + 0.01
    (folder / "WATER0003" / "W3.sum").write_text(leaky.sum_file())
    data, left_out = read_aimall(folder)
    assert len(data) == 1
    assert data.metadata["left_out_geometries"] == 3
    assert [Path(entry.path).name for entry in left_out] == ["W1.sum", "W2.sum", "W3.sum"]
    assert "miss the energy by 2.00 kcal/mol" in left_out[0].reason
    assert "2.0e-03 hartree on atom O1" in left_out[1].reason
    assert "miss the charge by 0.0300 e" in left_out[2].reason
    (folder / "WATER0000" / "W0.sum").write_text(Water(0, residual=0.5).sum_file())
    with pytest.raises(InputError, match=r"none of 4 \(the atomic energies miss the energy .*LSDA"):
        read_aimall(folder)


EDITS: dict[str, tuple[Callable[[str], str], str]] = {
    "other units": (lambda t: t.replace("Atomic units (a.u.)", "Angstroms"), "W2.sum: expected the line 'Atomic units"),
    "no nuclei": (lambda t: t.replace("Nuclear Charges", "Charges"), r"W2\.sum:\d+: expected the table of nuclear"),
    "core potential": (lambda t: t.replace("O1         8.0", "O1         6.0"), r"W2\.sum:13: .*nuclear charge 8 of O"),
    "ghost": (lambda t: t.replace("H2         1.0", "X2         1.0"), r"W2\.sum:14: expected an element symbol"),
    "no IQA": (lambda t: t.replace("E_IQA(A)", "E(A)"), r"W2\.sum:\d+: .*column E_IQA\(A\).*-encomp"),
    "no charges": (lambda t: t.replace("q(A)   ", "p(A)   "), r"W2\.sum:\d+: .*column q\(A\)"),
    "not a number": (lambda t: t.replace("q(A)", "q(A)").replace("5.5107280000E-01", "******"), r"W2\.sum:24: .*a num"),
    "cut": (lambda t: t[: t.rindex("H3", 0, t.index("More IQA"))], r"W2\.sum:39: expected 2 numbers of atom H3"),
    "no energy": (lambda t: t.replace("Molecular energy", "energy"), r"W2\.sum:\d+: .*'Molecular energy E\(Mol\)"),
    "other molecule": (
        lambda t: t.replace("H3 ", "F3 ").replace("F3         1.0", "F3         9.0"),
        "W2.sum.*the elem",
    ),
    "other method": (lambda t: t.replace("B3LYP", "HF"), r"W2\.sum: expected the model Restricted B3LYP of .*W0\.sum"),
    "open shell": (lambda t: t.replace("Restricted", "Unrestricted"), r"W2\.sum: expected a restricted wavefunction"),
}


@pytest.mark.parametrize("name", EDITS)
def test_wrong_sum_files_are_refused_with_their_line(name: str, folder: Path) -> None:
    edit, message = EDITS[name]
    path = folder / "WATER0002" / "W2.sum"
    before = path.read_text()
    path.write_text(edit(before))
    assert path.read_text() != before
    with pytest.raises(FileFormatError, match=message) as caught:
        read_aimall(folder)
    assert "\n" not in str(caught.value)


def test_non_nuclear_attractors_are_refused(folder: Path) -> None:
    path = folder / "WATER0002" / "W2.sum"
    lines = path.read_text().splitlines()
    place = next(k for k, line in enumerate(lines) if line.startswith("H3") and k > 20)
    path.write_text("\n".join([*lines[: place + 1], "NNA4  -1.0E-1 0.0 0.0", *lines[place + 1 :]]))
    with pytest.raises(FileFormatError, match=r"W2\.sum:26: .*'NNA4'.*non-nuclear attractor"):
        read_aimall(folder)


def test_gaussian_outputs_must_belong_to_the_results(folder: Path) -> None:
    path = folder / "WATER0002" / "W2.gaussianoutput"
    water = Water(2)
    path.write_text(water.gaussian_output(water.positions @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])))
    with pytest.raises(FileFormatError, match=r"gaussianoutput:3: expected the geometry of .*W2\.sum.*nosymm"):
        read_aimall(folder)
    path.write_text(water.gaussian_output().replace("Forces (Hartrees", "Forces (other"))
    with pytest.raises(FileFormatError, match=r"gaussianoutput:\d+: expected the table 'Forces"):
        read_aimall(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"W2\.sum: expected the Gaussian output beside it"):
        read_aimall(folder)


def test_published_water_of_aimall(reference_dir: Path, tmp_path: Path) -> None:
    """The figures of real runs, through files of our making, come back as they are."""
    for entry in json.loads((reference_dir / "aimall_water" / "aimall_water.json").read_text()):
        water = Water(0)
        water.positions, water.iqa = np.array(entry["xyz_wfn_bohr"]), np.array(entry["E_IQA"])
        water.energy, water.charges = entry["E_total"], np.array(entry["q"])
        water.lagrangians, water.forces = np.array(entry["L"]), np.array(entry["gaussian_forces_Ha_bohr"])
        (tmp_path / f"{entry['name']}.sum").write_text(water.sum_file())
        (tmp_path / f"{entry['name']}.log").write_text(water.gaussian_output())
    data, left_out = read_aimall(tmp_path)
    assert not left_out
    assert len(data) == 2
    assert data.metadata["largest_raw_residual_hartree"] == pytest.approx(3.48e-6, abs=1e-8)


def archive(path: Path, **changes: object) -> Path:
    waters = [Water(k) for k in range(3)]
    entries: dict[str, object] = {
        "R": np.array([w.positions for w in waters]) * ANGSTROM,
        "z": np.array([8, 1, 1]),
        "E": np.array([w.energy for w in waters]) * KCAL_MOL,
        "F": np.array([w.forces for w in waters]) * KCAL_MOL / ANGSTROM,
        "E_IQA": np.array([w.iqa for w in waters]) * KCAL_MOL,
        "q": np.array([w.charges for w in waters]),
        "r_unit": "Ang",
        "e_unit": "kcal/mol",
    }
    entries.update(changes)
    np.savez(path, **{k: v for k, v in entries.items() if v is not None})  # type: ignore[arg-type]
    return path


ORIGIN = ArchiveOrigin("b3lyp", "6-31+g(d,p)", "qtaim")


def test_archive_becomes_a_data_set(tmp_path: Path) -> None:
    data = read_npz(archive(tmp_path / "water.npz"), ORIGIN)
    for k in range(3):
        water = Water(k)
        np.testing.assert_allclose(data.positions[k], water.positions, atol=1e-12)
        np.testing.assert_allclose(data.forces[k], water.forces, atol=1e-12)
        np.testing.assert_allclose(data.atomic_energies[k], water.iqa, atol=3e-6)
        assert data.energies[k] == pytest.approx(water.energy, abs=1e-11)
    assert data.molecule.symbols == SYMBOLS
    bare = archive(tmp_path / "bare.npz", F=None, q=None, r_unit=None, e_unit=None, z=np.array([[8, 1, 1]] * 3))
    with pytest.raises(InputError, match="entry r_unit: expected a unit"):
        read_npz(bare, ORIGIN)
    same = read_npz(bare, ArchiveOrigin("b3lyp", "6-31+g(d,p)", "qtaim", "angstrom", "kcal/mol"))
    assert not same.has_forces
    assert np.isnan(same.charges).all()
    np.testing.assert_array_equal(same.atomic_energies, data.atomic_energies)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"E": None}, "expected the energies as one of E, energy, energies, found the entries E_IQA, F"),
        ({"E_IQA": None}, "expected the atomic energies as one of E_IQA"),
        ({"e_unit": "furlong"}, "entry e_unit: expected one of hartree"),
        ({"E": np.full(3, -76.0)}, r"E_IQA\[0\]: expected atomic energies that sum to"),
        ({"R": np.zeros((3, 3))}, "entry R: expected real numbers of shape"),
        ({"R": np.zeros((3, 3, 3))}, "expected a distance of at least"),
        ({"q": np.full((3, 3), np.nan)}, r"q\[0, 0\]: expected a finite number"),
        ({"z": np.array([8, 1])}, "entry z: expected 3 atomic numbers"),
        ({"z": np.array([8, 1, 0])}, "entry z: expected 3 atomic numbers"),
        ({"F": np.zeros((3, 2, 3))}, "entry F: expected real numbers of shape"),
    ],
)
def test_wrong_archives_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "water.npz", **changes)
    with pytest.raises((FileFormatError, InputError), match=message) as caught:
        read_npz(path, ORIGIN)
    assert str(path) in str(caught.value)


def test_files_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "water.npz"
    np.savez(path, R=np.array([{"a": 1}], dtype=object))
    for content in (path.read_bytes(), b"", b"text", archive(path).read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="archive"):
            read_npz(path, ORIGIN)


def test_reading_needs_no_quantum_chemistry() -> None:
    program = "import sys, fflux_py.exchange.labels, fflux_py.exchange.npz_archive; print('pyscf' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_convert_makes_data_sets_of_labels(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "data.extxyz"
    (folder / "WATER0003" / "W3.sum").write_text(Water(3, residual=0.01).sum_file())
    answer = fflux("convert", folder, output, "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["n_geometries"], answer.json["n_left_out"], answer.json["forces"]) == (3, 1, True)
    assert answer.json["left_out"][0]["file"].endswith("W3.sum")
    assert answer.json["largest_raw_residual_kcal_mol"] == pytest.approx(2e-6 * KCAL_MOL, rel=0.01)
    assert len(Dataset.read(output)) == 3
    text = fflux("convert", folder, output)
    assert text.code == 0
    assert "3 geometries at b3lyp/6-31+g(d,p), partition qtaim" in text.out
    source = archive(tmp_path / "water.npz")
    answer = fflux("convert", source, output, "--method", "b3lyp", "--basis", "6-31+g(d,p)", "--json")
    assert answer.code == 0, answer.err
    assert Dataset.read(output).digest() == read_npz(source, ORIGIN).digest()


def test_convert_refuses_what_is_no_label(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "data.extxyz"
    assert "--method: expected the level" in refused("convert", archive(tmp_path / "a.npz"), output)
    assert "no such option for AIMAll results" in refused("convert", folder, output, "--method", "hf")
    assert "expected a folder of AIMAll results or" in refused("convert", write_text(tmp_path / "a.csv"), output)
    assert "expected AIMAll results (.sum" in refused("convert", tmp_path / "W_atoms", output)
    assert "OUT: expected a model, with --prior-mean" in refused("convert", folder, output, "--prior-mean", "MF1")
    assert "OUT: expected a data set" in refused("convert", folder, tmp_path / "model.npz", "--basis", "sto-3g")
    (folder / "WATER0001" / "W1.sum").write_text("nothing\n")
    assert "W1.sum: expected the line 'Atomic units" in refused("convert", folder, output)
    assert not output.exists()


def write_text(path: Path) -> Path:
    path.write_text("a,b\n")
    (path.parent / "W_atoms").mkdir()
    return path

"""Charge, spin, masses, velocities, cells, units and constraints in the files of other programs."""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.io.extxyz import write_extxyz
from hypothesis import given, settings
from hypothesis import strategies as st

from fflux_py.errors import FileFormatError, InputError, InputWarning
from fflux_py.molecules import shipped_data
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.extended_xyz import read_frames, read_molecule, write_frames
from fflux_py.molecules.frame_meaning import bears_meaning, interpret
from tests.support.synthetic import label, sample

pytestmark = pytest.mark.core

OXALATE = (
    "C 0.79 0.0 0.0\nC -0.79 0.0 0.0\nO 1.37 1.1 0.0\nO 1.37 -1.1 0.0\nO -1.37 1.1 0.0\nO -1.37 -1.1 0.0\n"  # C2O4
)
WATER = "O 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n"
PROPERTIES = "Properties=species:S:1:pos:R:3 "


def _file(folder: Path, comment: str, atoms: str = OXALATE, name: str = "start.xyz") -> Path:
    path = folder / name
    path.write_text(f"{atoms.count(chr(10))}\n{comment}\n{atoms}")
    return path


def _water(folder: Path, column: str, values: str, comment: str = "") -> Path:
    """Water with one more column, a word of ``values`` (or several, joined by commas) for each atom."""
    rows = zip(WATER.splitlines(), values.split(), strict=True)
    atoms = "".join(f"{row} {value.replace(',', ' ')}\n" for row, value in rows)
    return _file(folder, f"Properties=species:S:1:pos:R:3:{column} {comment}", atoms)


@pytest.mark.parametrize(
    "comment",
    [
        "total_charge=-2",
        "charge=-2",
        "charge=-2.0",
        'charge="-2"',
        'charge="2-"',
        "net_charge=-2",
        "tot_charge=-2",
        "molecular_charge=-2",
        "Charge=-2",
        "TotalCharge=-2",
        "formal_charge=-2 total_charge=-2 multiplicity=1",
        "charge=-2 spin=0 pbc=F",
    ],
)
@pytest.mark.parametrize("extended", [True, False])
def test_a_charge_is_read_under_all_its_names(tmp_path: Path, comment: str, extended: bool) -> None:
    path = _file(tmp_path, PROPERTIES * extended + comment)
    assert read_molecule(path).charge == -2
    assert GeometrySet.read(path).molecule.charge == -2
    assert (read_molecule(path, 0).charge, GeometrySet.read(path, 0).molecule.charge) == (0, 0)


@pytest.mark.parametrize(
    "comment",
    ["oxalate, charge: -2", "Oxalate dianion charge = -2, multiplicity = 1", "charge -2", "net charge: -2; b3lyp"],
)
def test_a_charge_is_read_in_a_free_comment(tmp_path: Path, comment: str) -> None:
    assert read_molecule(_file(tmp_path, comment)).charge == -2


def test_two_integers_alone_are_charge_and_multiplicity_with_a_word(tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match=r"start\.xyz:2: .*charge -2 and multiplicity 1"):
        assert read_molecule(_file(tmp_path, "-2 1")).charge == -2
    assert read_molecule(_file(tmp_path, "0 1")).charge == 0


def test_atomic_charges_of_ase_sum_to_the_charge(tmp_path: Path) -> None:
    atoms = Atoms("OH", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.97]])
    atoms.set_initial_charges([-1.1, 0.1])
    ase.io.write(tmp_path / "a.extxyz", atoms)
    assert read_molecule(tmp_path / "a.extxyz").charge == -1
    atoms.set_initial_charges([-0.6, 0.2])
    ase.io.write(tmp_path / "a.extxyz", atoms)
    with pytest.warns(InputWarning, match=r"initial_charges is not used: its sum, -0\.4"):
        assert read_molecule(tmp_path / "a.extxyz").charge == 0
    path = _water(tmp_path, "initial_charges:R:1", "1 0 0", "charge=-1")
    with pytest.raises(FileFormatError, match="one charge, found charge=-1 and the sum of initial_charges=1"):
        read_molecule(path)


@pytest.mark.parametrize(
    "comment", ["units=angstrom", "units=Angstrom", 'units="eV, Angstrom"', "positions{angstrom} Step: 0", "unit: Ang"]
)
def test_the_angstrom_is_read_under_its_names(tmp_path: Path, comment: str) -> None:
    assert read_molecule(_file(tmp_path, comment)).n_atoms == 6


@pytest.mark.parametrize(
    "comment",
    ["units=bohr", "units: bohr", "length_unit=au", "coordinates in Bohr", "units=nm", "# positions{atomic_unit}"],
)
def test_another_unit_of_length_is_refused_also_in_a_free_comment(tmp_path: Path, comment: str) -> None:
    for read in (read_molecule, GeometrySet.read):
        with pytest.raises(FileFormatError, match=r"start\.xyz:2.*units with angstrom"):
            read(_file(tmp_path, comment))


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("charge=-2 total_charge=0", "one charge, found charge=-2 and total_charge=0"),
        ("charge=nan", "key charge: .*a whole number.*nan"),
        ("charge=inf", "key charge: .*a whole number.*inf"),
        ("total_charge=0.5", "key total_charge: .*a whole number"),
        ("charge=T", "key charge: .*a whole number"),
        ("charge=1e300", "key charge: .*a whole number"),
        ("charge=" + "9" * 5000, "key charge: .*a whole number"),
        ("charge=99", "charge of at most 44"),
        ("multiplicity=3", "closed shell.*multiplicity=3"),
        ("spin_multiplicity=3", "closed shell"),
        ("mult=2", "closed shell"),
        ("spin=2", "closed shell.*spin=2"),
        ("total_spin=3", "closed shell"),
        ("spin=0.5", "closed shell"),
        ("spin=1/2", "closed shell"),
        ("uhf=2", "closed shell"),
        ("multiplicity=triplet", "closed shell"),
        ("multiplicity=3 spin=0", "spins that agree"),
        ("multiplicity=1 charge=-1", "go together.*45 electrons"),
        ("spin=up", "key spin: .*a whole number"),
        ('pbc="T T T"', "no periodic boundaries"),
        ("pbc=T", "no periodic boundaries"),
        ('pbc="F F T" Lattice="9 0 0 0 9 0 0 0 9"', "no periodic boundaries"),
        ("fixed_atoms=1", "all free to move"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, comment: str, message: str) -> None:
    for text in (PROPERTIES + comment, comment):
        for read in (read_molecule, GeometrySet.read):
            with pytest.raises(FileFormatError, match=r"start\.xyz:2.*" + message) as error:
                read(_file(tmp_path, text))
            assert len(str(error.value)) < 400
    if "T T T" in comment:
        with pytest.raises(FileFormatError, match="no periodic"):
            read_molecule(_file(tmp_path, "pbc=F F T"))


def test_spin_one_of_an_even_number_of_electrons_is_a_closed_shell_with_a_word(tmp_path: Path) -> None:
    with pytest.warns(InputWarning, match="spin=1 is read as the multiplicity 1"):
        assert read_molecule(_file(tmp_path, PROPERTIES + 'charge=-2 spin=1 pbc="F F F"')).charge == -2
    read_molecule(_file(tmp_path, "multiplicity=1 spin=1"))  # nothing left to choose


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("masses:R:1", "15.999 2.014 1.008", "atom 2: .*standard mass of H, 1.008 Da, found 2.014; isotopes"),
        ("mass:R:1", "17.999 1.008 1.008", "atom 1: .*standard mass of O"),
        ("masses:R:1", "15.999 nan 1.008", "atom 2: .*standard mass"),
        ("isotope:I:1", "16 1 2", "atom 3: .*standard mass"),
        ("move_mask:L:1", "T F T", "column move_mask: .*free to move, found atom 2 fixed"),
        ("move_mask:L:3", "T,T,T T,T,T T,F,T", "found atom 3 fixed"),
        ("move_mask:I:1", "1 0 1", "found atom 2 fixed"),
        ("fixed:L:1", "T F F", "found atom 1 fixed"),
        ("frozen:I:1", "0 0 1", "found atom 3 fixed"),
        ("initial_magmoms:R:1", "2 0 0", "closed shell.*initial_magmoms of 2"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(tmp_path: Path, column: str, values: str, message: str) -> None:
    for read in (read_molecule, GeometrySet.read):
        with pytest.raises(FileFormatError, match=message):
            read(_water(tmp_path, column, values))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("masses:R:1", "15.999 1.008 1.008"),
        ("isotope:I:1", "16 1 0"),
        ("move_mask:L:1", "T T T"),
        ("fixed:L:3", "F,F,F F,F,F F,F,F"),
        ("momenta:R:3", "0,0,0 0,0,0 0,0,0"),
        ("tag:I:1", "1 2 3"),
    ],
)
def test_columns_that_say_nothing_new_pass_without_a_word(tmp_path: Path, column: str, values: str) -> None:
    path = _water(tmp_path, column, values)
    assert (read_molecule(path).n_atoms, len(GeometrySet.read(path))) == (3, 1)


def test_deuterium_is_refused_as_an_isotope(tmp_path: Path) -> None:
    for symbol in "DT":
        with pytest.raises(FileFormatError, match=rf"start\.xyz:4: .*'{symbol}'; isotopes are not supported.*write H"):
            read_molecule(_file(tmp_path, "heavy water", WATER.replace("H 0.0 0.763", f"{symbol} 0.0 0.763")))


def test_velocities_a_cell_and_light_masses_are_told_in_one_line_each(tmp_path: Path) -> None:
    for column in ("momenta", "velocities", "vel"):
        with pytest.warns(InputWarning, match=rf"start\.xyz:2: velocities \({column}\) are not used") as told:
            read_molecule(_water(tmp_path, f"{column}:R:3", "0,0,0 0,0,1 0,0,0"))
        assert len(told) == 1
        assert len(GeometrySet.read(tmp_path / "start.xyz")) == 1  # labels do not depend on velocities
    with pytest.warns(InputWarning, match="the cell in Lattice is not used"):
        read_molecule(_file(tmp_path, 'Lattice="9 0 0 0 9 0 0 0 9"'))
    with pytest.warns(InputWarning, match="masses is not used: the standard masses are taken"):
        read_molecule(_water(tmp_path, "masses:R:1", "15.995 1.008 1.008"))
    with pytest.warns(InputWarning, match="the key reference_charge_model is not used"):
        read_molecule(_file(tmp_path, PROPERTIES + "reference_charge_model=resp"))


@pytest.mark.parametrize("comment", ["a step of a run", PROPERTIES.strip()])
def test_columns_without_a_name_are_told_once_and_not_kept(tmp_path: Path, comment: str) -> None:
    """Velocities, masses or charges, as many programs write them behind the coordinates."""
    path = _file(tmp_path, comment, WATER.replace("\n", " 0.1 0.2 -0.3\n"))
    path.write_text(path.read_text() * 3)
    for read in (read_molecule, GeometrySet.read):
        with pytest.warns(InputWarning, match=r"\(3 columns without a name\) is not used") as told:
            read(path)
        assert len(told) == 1
    with pytest.warns(InputWarning):
        GeometrySet.read(path).write(tmp_path / "again.xyz")
    assert "unnamed" not in (tmp_path / "again.xyz").read_text()
    assert GeometrySet.read(tmp_path / "again.xyz").molecule.symbols == ("O", "H", "H")


def test_a_word_is_said_once_for_a_file_of_many_frames(tmp_path: Path) -> None:
    path = _water(tmp_path, "masses:R:1", "15.995 1.008 1.008")
    path.write_text(path.read_text() * 5)
    with pytest.warns(InputWarning) as told:
        assert len(GeometrySet.read(path)) == 5
    assert len(told) == 1


def test_charges_that_differ_frame_by_frame_are_refused(tmp_path: Path) -> None:
    frames = [_file(tmp_path, PROPERTIES + text).read_text() for text in ("charge=-2", "charge=-2", "", "charge=0")]
    path = tmp_path / "frames.xyz"
    path.write_text(frames[0] + frames[1])
    assert GeometrySet.read(path).molecule.charge == -2
    for k, other in enumerate(frames[2:]):
        path.write_text(frames[0] + other)
        with pytest.raises(
            FileFormatError, match=r"frames\.xyz:10, charge: expected -2 as in the first frame, found 0"
        ):
            GeometrySet.read(path)
        assert GeometrySet.read(path, -2).molecule.charge == -2, k
    path.write_text(frames[2] + frames[3])
    assert GeometrySet.read(path).molecule.charge == 0


def test_start_files_as_ase_writes_them(tmp_path: Path) -> None:
    atoms = Atoms("OH2", [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])
    path = tmp_path / "start.extxyz"
    moving = atoms.copy()
    moving.set_velocities(np.full((3, 3), 0.01))
    ase.io.write(path, moving)
    with pytest.warns(InputWarning, match=r"velocities \(momenta\) are not used"):
        read_molecule(path)
    heavy = atoms.copy()
    heavy.set_masses([15.999, 2.014, 2.014])
    write_extxyz(path, heavy, columns=["symbols", "positions", "masses"])
    with pytest.raises(FileFormatError, match="isotopes"):
        read_molecule(path)
    crystal = atoms.copy()
    crystal.set_cell([6, 6, 6])
    ase.io.write(path, crystal)
    assert read_molecule(path).n_atoms == 3  # pbc="F F F"
    crystal.pbc = True
    ase.io.write(path, crystal)
    with pytest.raises(FileFormatError, match="periodic"):
        read_molecule(path)
    for constraint in (FixAtoms([1]), FixCartesian(1, [True, False, False])):
        fixed = atoms.copy()
        fixed.set_constraint(constraint)
        ase.io.write(path, fixed)
        assert ":L:" in path.read_text()
        with pytest.raises(FileFormatError, match=r"column move_mask: .*atom 2 fixed"):
            read_molecule(path)
    noted = atoms.copy()
    noted.info.update(bare=None, numbers=np.arange(3), table=np.eye(2), words=["a", "b"], charge=np.int64(-2))
    noted.info["two words"] = 3
    ase.io.write(path, noted)
    assert read_molecule(path).charge == -2
    assert GeometrySet.read(path).molecule.charge == -2


def test_bare_keys_lists_and_logical_columns_are_read_and_written(tmp_path: Path) -> None:
    path = _water(tmp_path, "flag:L:1", "T False T", "converged a=[1, 2, 3] b={x y} c='two words' d=[[1,2], [3,4]] e=1")
    (frame,) = read_frames(path)
    expected = {"converged": True, "a": "[1, 2, 3]", "b": "{x y}", "c": "two words", "d": "[[1,2], [3,4]]", "e": 1}
    assert dict(frame.info) == expected
    np.testing.assert_array_equal(frame.columns["flag"], [True, False, True])
    write_frames(tmp_path / "a.xyz", [frame])
    (again,) = read_frames(tmp_path / "a.xyz")
    assert dict(again.info) == expected
    np.testing.assert_array_equal(again.columns["flag"], frame.columns["flag"])
    assert ase.io.read(tmp_path / "a.xyz", format="extxyz").arrays["flag"].tolist() == [True, False, True]
    with pytest.raises(FileFormatError, match="column flag: expected T or F, found 'X'"):
        read_frames(_water(tmp_path, "flag:L:1", "T X F"))


def test_a_data_set_survives_the_way_through_ase(tmp_path: Path) -> None:
    path = shipped_data.path("malondialdehyde") / shipped_data.DATA
    data = Dataset.read(path).select(range(5))
    data.write(tmp_path / "a.extxyz")
    ase.io.write(tmp_path / "b.extxyz", ase.io.read(tmp_path / "a.extxyz", ":"), format="extxyz")
    read = Dataset.read(tmp_path / "b.extxyz")
    for name in ("energies", "forces", "atomic_energies", "atomic_errors", "charges", "positions"):
        # ASE writes columns with eight decimals
        np.testing.assert_allclose(getattr(read, name), getattr(data, name), rtol=0, atol=1e-8, err_msg=name)
    assert read.molecule.symbols == data.molecule.symbols
    assert (read.molecule.name, read.molecule.charge) == (data.molecule.name, data.molecule.charge)
    np.testing.assert_array_equal(read.molecule.positions, data.molecule.positions)
    assert read.isolated_energies == data.isolated_energies
    assert (read.geometries.source, read.geometries.split) == (data.geometries.source, data.geometries.split)
    # ASE takes text that looks like a number for one
    assert {k: str(v) for k, v in read.metadata.items()} == {k: str(v) for k, v in data.metadata.items()}
    assert len(GeometrySet.read(tmp_path / "b.extxyz")) == 5


def test_a_data_set_of_another_charge_or_with_isotopes_is_read_the_same_way(tmp_path: Path) -> None:
    text = label(sample(2)).to_text()
    path = tmp_path / "data.extxyz"
    path.write_text(text.replace("total_charge=0", "total_charge=0 charge=2"))
    with pytest.raises(FileFormatError, match="one charge, found total_charge=0 and charge=2"):
        Dataset.read(path)
    path.write_text(text.replace("total_charge=0", "total_charge=0 charge=0 multiplicity=1"))
    data = Dataset.read(path)
    assert data.to_text() == text
    path.write_text(text.replace("total_charge=0", "multiplicity=3"))
    with pytest.raises(FileFormatError, match="closed shell"):
        Dataset.read(path)


def test_metadata_under_a_key_that_bears_a_meaning_is_refused() -> None:
    data = label(sample(2))
    assert bears_meaning("Net_Charge")
    assert not bears_meaning("basis")
    for key in ("charge", "multiplicity", "Lattice"):
        with pytest.raises(InputError, match=key):
            type(data.geometries)(
                data.molecule, data.positions, data.geometries.source, data.geometries.temperature,
                data.geometries.split, {key: 1},
            )  # fmt: skip


_keys = st.sampled_from(["charge", "q", "spin", "multiplicity", "uhf", "pbc", "Lattice", "units", "fixed", "a"])
_words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_keys, st.sampled_from("=: "), _words | st.floats().map(str)), max_size=4), st.booleans())
def test_any_comment_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str, str]], extended: bool
) -> None:
    text = " ".join("".join(pair) for pair in pairs)
    path = _file(tmp_path_factory.mktemp("comment"), PROPERTIES * extended + text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        message = ""
        try:
            assert abs(read_molecule(path).charge) <= 44
        except FileFormatError as error:
            message = str(error)
    assert "\n" not in message


def test_a_frame_that_says_nothing() -> None:
    meaning = interpret(("He",), {"energy": -79.0}, {}, "here")
    assert (meaning.charge, meaning.notes) == (None, ())

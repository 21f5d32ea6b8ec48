"""Extended XYZ: exact round trips, what ASE makes of the files, and one line for every bad input."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fflux_py.errors import FFLUXError, FileFormatError, InputError, InputWarning
from fflux_py.molecules.extended_xyz import (
    Frame,
    format_frame,
    format_info,
    format_number,
    parse_info,
    read_frames,
    read_molecule,
    write_frames,
    write_molecule,
)
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM
from tests.support.synthetic import methanol

pytestmark = pytest.mark.core

_keys = st.text(string.ascii_letters + string.digits + "_-.", min_size=1, max_size=12)
_texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=30)
_reals = st.floats(allow_nan=False, allow_infinity=False).map(lambda x: float(f"{x:.15g}"))
_values = st.one_of(st.booleans(), st.integers(-(10**18), 10**18), _reals, _texts)


def _frame(**changes: object) -> Frame:
    parts: dict[str, object] = {
        "symbols": ("O", "H", "H"),
        "positions": np.array([[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]),
        "columns": {"REF_forces": np.arange(9.0).reshape(3, 3) / 7.0, "tag": np.array([1, -2, 3])},
        "info": {"REF_energy": -2080.123456789, "source": "nvt 300 K", "seed": 5, "converged": True},
    }
    return Frame(**{**parts, **changes})  # type: ignore[arg-type]


def _refusal(call: Callable[[], object]) -> str | None:
    """The message with which a call is refused; anything but a proper refusal comes through."""
    try:
        call()
    except FFLUXError as error:
        return str(error)
    return None


@settings(deadline=None)
@given(_reals)
def test_fifteen_digits_are_a_grid_that_survives_reading_and_writing(value: float) -> None:
    assert float(format_number(value)) == value
    assert format_number(float(format_number(value))) == format_number(value)


@settings(deadline=None)
@given(st.floats(1e-12, 1e12), st.sampled_from([ANGSTROM, EV, EV_ANGSTROM]))
def test_fifteen_digits_survive_a_change_of_unit_there_and_back(value: float, unit: float) -> None:
    text = format_number(value)
    assert format_number(float(text) / unit * unit) == text


@settings(deadline=None)
@given(st.dictionaries(_keys, _values, max_size=6))
def test_comment_line_round_trip(info: dict[str, object]) -> None:
    text = format_info(info)  # type: ignore[arg-type]
    parsed = parse_info(text, "here")
    assert parsed == info
    assert [type(v) for v in parsed.values()] == [type(v) for v in info.values()]
    assert list(parsed) == list(info)
    assert "\n" not in text
    assert format_info(parsed) == text


@settings(deadline=None)
@given(st.text(max_size=60))
def test_comment_parser_reads_or_refuses_any_text(text: str) -> None:
    message = _refusal(lambda: parse_info(text, "file:2"))
    assert message is None or (message.startswith("file:2: ") and "\n" not in message)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(_reals, _reals, _reals), min_size=3, max_size=3),
    st.lists(st.integers(-(2**62), 2**62), min_size=3, max_size=3),
    st.dictionaries(_keys.filter(lambda key: key != "Properties"), _values, max_size=4),
)
def test_frames_round_trip_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object], tags: list[int], info: dict[str, object]
) -> None:
    frame = _frame(columns={"REF_forces": np.array(rows), "tag": np.array(tags, dtype=np.int64)}, info=info)
    path = tmp_path_factory.mktemp("xyz") / "a.xyz"
    write_frames(path, [frame, frame])
    first = path.read_bytes()
    read = read_frames(path)
    assert [f.line for f in read] == [2, 7]
    np.testing.assert_array_equal(read[1].columns["REF_forces"], np.array(rows))
    np.testing.assert_array_equal(read[1].columns["tag"], tags)
    assert dict(read[0].info) == info
    write_frames(path, read)
    assert path.read_bytes() == first


def test_awkward_numbers_keep_their_kind() -> None:
    info = {"a": 1.0, "b": -0.0, "c": 1e22, "d": 5e-324, "e": 10**20, "f": "12", "g": "T", "h": True, "i": "", "j": 0.1}
    text = format_info(info)
    assert text == 'a=1.0 b=-0.0 c=1e+22 d=4.94065645841247e-324 e=100000000000000000000 f="12" g="T" h=T i="" j=0.1'
    parsed = parse_info(text, "here")
    assert parsed == info
    assert np.signbit(parsed["b"])
    assert format_info({"n": np.int64(3), "x": np.float64(0.5), "y": np.bool_(False)}) == "n=3 x=0.5 y=F"
    assert parse_info("a=1_000 b=0x10 c=1.5e-3 d=-.5 e=nan", "here")["a"] == "1_000"


def test_ase_reads_every_value_and_swallows_none(tmp_path: Path) -> None:
    frame = _frame()
    path = tmp_path / "a.extxyz"
    write_frames(path, [frame, _frame(info={**frame.info, "source": 'a "quoted" \\ one'})])
    atoms, other = ase.io.read(path, ":")
    assert atoms.calc is None  # an energy or forces would have gone into a calculator
    assert atoms.get_chemical_symbols() == ["O", "H", "H"]
    assert not atoms.pbc.any()
    np.testing.assert_array_equal(atoms.positions, frame.positions)
    np.testing.assert_allclose(atoms.arrays["REF_forces"], frame.columns["REF_forces"], rtol=1e-14)
    np.testing.assert_array_equal(atoms.arrays["tag"], [1, -2, 3])
    assert atoms.info == dict(frame.info)
    assert other.info["source"] == 'a "quoted" \\ one'


def test_we_read_what_ase_writes(tmp_path: Path) -> None:
    atoms = ase.Atoms("OH2", _frame().positions, info={"label": "two words", "n": 3, "x": 0.25, "yes": True})
    ase.io.write(tmp_path / "a.xyz", [atoms, atoms], format="extxyz")
    frames = read_frames(tmp_path / "a.xyz")
    assert len(frames) == 2
    assert frames[0].info == {"label": "two words", "n": 3, "x": 0.25, "yes": True, "pbc": "F F F"}
    np.testing.assert_allclose(frames[0].positions, atoms.positions, atol=1e-8)


def test_plain_xyz_with_any_comment_and_spare_columns(tmp_path: Path) -> None:
    path = tmp_path / "plain.xyz"
    path.write_text('3\nwater = "good\nO 0 0 0.119 8\nH 0 0.763 -0.477 1\nH 0 -0.763 -0.477 1\n\n')
    with pytest.warns(InputWarning, match=r"after the coordinates \(1 columns without a name\)"):
        molecule = read_molecule(path)
    assert molecule.symbols == ("O", "H", "H")
    assert (molecule.name, molecule.charge) == ("plain", 0)
    assert molecule.positions[1, 1] == pytest.approx(0.763 / 0.529177210903)


def test_molecule_round_trip_keeps_name_and_charge(tmp_path: Path) -> None:
    molecule = methanol()
    path = tmp_path / "start.xyz"
    write_molecule(path, type(molecule)(molecule.symbols, molecule.positions, -1, "methanol anion"), {"seed": 1})
    read = read_molecule(path)
    assert (read.name, read.charge) == ("methanol anion", -1)
    np.testing.assert_allclose(read.positions, molecule.positions, rtol=0, atol=1e-14)
    assert read_molecule(path, charge=1).charge == 1
    first = path.read_bytes()
    write_molecule(path, read, {"seed": 1})
    assert path.read_bytes() == first


_GOOD = ["3", "Properties=species:S:1:pos:R:3:q:R:1 a=1", "O 0 0 0.1 -1", "H 0 0.8 -0.5 0.5", "H 0 -0.8 -0.5 0.5"]

_BAD = {
    "empty": ("", r"bad\.xyz: .*an empty file"),
    "blank lines": ("\n \n\n", r"bad\.xyz: .*an empty file"),
    "no count": ("O 0 0 0\n", r"bad\.xyz:1: .*the number of atoms.*'O 0 0 0'"),
    "no atoms": ("0\n\n", r"bad\.xyz:1: .*at least one atom"),
    "count too large": ("\n".join(["4", *_GOOD[1:]]), r"bad\.xyz:1: .*4 atom lines.*3 before the end"),
    "count too large, two frames": ("\n".join(["4", *_GOOD[1:], *_GOOD]), r"bad\.xyz:6: .*5 columns, found 1"),
    "count too small": ("\n".join(["2", *_GOOD[1:]]), r"bad\.xyz:5: .*the number of atoms"),
    "missing column": ("\n".join([*_GOOD[:3], "H 0 0.8 -0.5", _GOOD[4]]), r"bad\.xyz:4: .*5 columns, found 4"),
    "spare column": ("\n".join([*_GOOD[:4], _GOOD[4] + " 7"]), r"bad\.xyz:5: .*5 columns, found 6"),
    "unknown element": ("\n".join([*_GOOD[:4], "Hx 0 -0.8 -0.5 0.5"]), r"bad\.xyz:5: .*an element symbol.*'Hx'"),
    "placeholder element": ("\n".join([*_GOOD[:4], "X 0 -0.8 -0.5 0.5"]), r"bad\.xyz:5: .*an element symbol.*'X'"),
    "no number": ("\n".join([*_GOOD[:4], "H 0 -0.8 o.5 0.5"]), r"bad\.xyz:5, column pos: .*real numbers.*'0 -0.8 o.5'"),
    "no number in a column": ("\n".join([*_GOOD[:4], "H 0 -0.8 0.5 x"]), r"bad\.xyz:5, column q: .*real numbers.*'x'"),
    "not a number": ("\n".join([*_GOOD[:3], "H 0 nan -0.5 0.5", _GOOD[4]]), r"bad\.xyz:4: .*finite coordinates.*NaN"),
    "infinity": ("\n".join([*_GOOD[:4], "H 0 -0.8 -inf 0.5"]), r"bad\.xyz:5: .*finite coordinates"),
    "atoms on one spot": (
        "\n".join([*_GOOD[:4], "H 0 0.8 -0.5 0.5"]),
        r"bad\.xyz:2, atoms 2 and 3: .*0\.0000 angstrom",
    ),
    "key twice": ("\n".join([_GOOD[0], _GOOD[1] + " a=2", *_GOOD[2:]]), r"bad\.xyz:2: .*the key a once"),
    "open quote": ("\n".join([_GOOD[0], _GOOD[1] + ' b="x', *_GOOD[2:]]), r"bad\.xyz:2: .*key=value"),
    "no pos": ("\n".join([_GOOD[0], "Properties=species:S:1:q:R:4", *_GOOD[2:]]), r"bad\.xyz:2: .*species:S:1:pos:R:3"),
    "broken layout": ("\n".join([_GOOD[0], "Properties=species:S:1:pos:R", *_GOOD[2:]]), r"bad\.xyz:2: .*Properties"),
    "huge integer": (
        "1\nProperties=species:S:1:pos:R:3:n:I:1\nH 0 0 0 99999999999999999999\n",
        r"bad\.xyz:3, column n: .*integers",
    ),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_files_end_with_one_line_that_names_file_and_line(tmp_path: Path, case: str) -> None:
    text, message = _BAD[case]
    (tmp_path / "bad.xyz").write_text(text)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_frames(tmp_path / "bad.xyz")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_second_frame_is_named_by_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "bad.xyz").write_text("\n".join([*_GOOD, *_GOOD[:4], "Q 0 -0.8 -0.5 0.5"]))
    with pytest.raises(FileFormatError, match=r"bad\.xyz:10: "):
        read_frames(tmp_path / "bad.xyz")


def test_binary_missing_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "bad.xyz").write_bytes(bytes(range(256)))
    for path, text in ((tmp_path / "bad.xyz", "UTF-8"), (tmp_path / "no.xyz", "No such file"), (tmp_path, "directory")):
        with pytest.raises(FileFormatError, match=text):
            read_frames(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(string.printable, max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.xyz"
    path.write_bytes(data)
    assert "\n" not in (_refusal(lambda: read_frames(path)) or "")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ('units="bohr"', "units with angstrom.*'bohr'"),
        ("total_charge=0.5", "key total_charge: .*a whole number"),
        ("total_charge=minus", "key total_charge: .*a whole number"),
    ],
)
def test_start_geometry_in_another_unit_or_with_half_a_charge(tmp_path: Path, info: str, message: str) -> None:
    (tmp_path / "start.xyz").write_text(f"1\nProperties=species:S:1:pos:R:3 {info}\nHe 0 0 0\n")
    with pytest.raises(FileFormatError, match=r"start\.xyz:2.*" + message):
        read_molecule(tmp_path / "start.xyz")


def test_what_cannot_stand_in_a_comment_line_is_refused() -> None:
    for info in ({"a b": 1}, {"": 1}, {'a"': 1}, {"a=": 1}, {"a": "two\nlines"}, {"a": "two\u2028lines"}):
        with pytest.raises(InputError):
            format_info(info)


def test_nothing_half_written_when_a_frame_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("old")
    with pytest.raises(InputError):
        write_frames(path, [_frame(), _frame(info={"a": "two\nlines"})])
    assert path.read_text() == "old"
    assert format_frame(_frame()).count("\n") == 5

"""Units against independent figures, one-line errors, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import io
import lzma
import os
import pickle
import zipfile
from pathlib import Path

import ase.units
import numpy as np
import pytest

from fflux_py import errors, units
from fflux_py.files import (
    decompress,
    parse_npz,
    read_json_object,
    read_text,
    remove_leftovers,
    sha256,
    stem,
    stored_path,
    write_atomically,
)

pytestmark = pytest.mark.core


def test_units_agree_with_an_independent_table() -> None:
    # ASE's default table is CODATA 2014, which agrees with CODATA 2018 to about 1e-8
    table = {
        "ANGSTROM": ase.units.Bohr,
        "EV": ase.units.Hartree,
        "KCAL_MOL": ase.units.Hartree / (ase.units.kcal / ase.units.mol),
        "KJ_MOL": ase.units.Hartree / (ase.units.kJ / ase.units.mol),
        "DALTON": ase.units._me / ase.units._amu,
        "FEMTOSECOND": 1e15 * ase.units._hbar / (ase.units.Hartree * ase.units._e),
        "BOLTZMANN": ase.units.kB / ase.units.Hartree,
        "WAVENUMBER": ase.units.Hartree / ase.units.invcm,
        "EV_ANGSTROM": ase.units.Hartree / ase.units.Bohr,
    }
    for name, value in table.items():
        assert getattr(units, name) == pytest.approx(value, rel=1e-6), name
    assert units.KCAL_MOL_ANGSTROM == pytest.approx(627.5094740631 / 0.529177210903, rel=1e-12)


def test_errors_are_one_line_with_place_expectation_finding_and_remedy() -> None:
    error = errors.FileFormatError("a.xyz:3", "a number", "'x\ny'", "correct it")
    assert str(error) == "a.xyz:3: expected a number, found 'x y'; correct it"
    assert str(errors.InputError("t", "more", "less")) == "t: expected more, found less"
    assert errors.SimulationStopped("a", "b", "c").exit_code == 4
    assert errors.ConvergenceError("a", "b", "c").exit_code == 3
    assert errors.InputError("a", "b", "c").exit_code == 2


def test_a_file_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "first\n")
    write_atomically(path, b"second\n")
    assert read_text(path) == "second\n"
    assert os.listdir(tmp_path) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, existing: bool
) -> None:
    path = tmp_path / "model.npz"
    if existing:
        path.write_text("the old one")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(errors.InputError, match=r"model\.npz.*No space left on device") as caught:
        write_atomically(path, "x" * 100_000)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == (["model.npz"] if existing else [])
    if existing:
        assert path.read_text() == "the old one"


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", "text")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_and_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(errors.InputError, match="No such file or directory"):
        write_atomically(tmp_path / "no" / "a.txt", "text")
    with pytest.raises(errors.InputError, match="directory"):
        write_atomically(tmp_path, "text")
    assert os.listdir(tmp_path) == []


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"PK\x03\x04\xff\xfe")
    for name, text in (("missing", "No such file"), (".", "directory"), ("binary", "UTF-8")):
        with pytest.raises(errors.FileFormatError, match=text) as caught:
            read_text(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


def test_a_compressed_text_is_read_under_both_names(tmp_path: Path) -> None:
    path, text = tmp_path / "data.extxyz", "2\nångström\n" * 1000
    compressed = tmp_path / "data.extxyz.xz"
    write_atomically(compressed, text)
    assert os.listdir(tmp_path) == ["data.extxyz.xz"]
    assert compressed.stat().st_size < len(text) / 20
    assert lzma.decompress(compressed.read_bytes()).decode() == read_text(path) == read_text(compressed) == text
    assert (stem(path), stem(compressed), stem("a.b.xyz")) == ("data", "data", "a.b")
    # The plain file comes first where both are there.
    write_atomically(path, "plain")
    assert (read_text(path), read_text(compressed)) == ("plain", text)
    assert stored_path(path) == path
    assert stored_path(tmp_path / "missing") == tmp_path / "missing"


@pytest.mark.parametrize("damage", ["cut", "changed", "other", "empty"])
def test_a_damaged_compressed_text_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "data.extxyz.xz"
    write_atomically(path, "".join(f"{k}\n" for k in range(1000)))
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut": content[:middle],
            "changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "other": b"2\nwater\n",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(errors.FileFormatError, match="a whole file that xz has compressed") as caught:
        read_text(tmp_path / "data.extxyz")
    assert caught.value.where == str(path)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    write_atomically(tmp_path / "whole.json", "{}")
    (tmp_path / ".whole.json.ab12cd34.part").write_text("{")
    (tmp_path / "not-ours.part").write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["not-ours.part", "whole.json"]


def test_sha256_of_the_empty_text() -> None:
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_errors_survive_the_way_between_processes() -> None:
    """Worker processes hand their errors over as pickles; type, parts and text must arrive."""
    error = errors.GeometryError("frame of atom 2", "a bent frame", "a linear one", "choose another")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.GeometryError
    assert (str(copy), copy.remedy, copy.exit_code) == (str(error), "choose another", 2)


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.txt").write_text("old")
    link, dangling = tmp_path / "a.txt", tmp_path / "b.txt"
    link.symlink_to("disk/a.txt")
    dangling.symlink_to(tmp_path / "disk" / "b.txt")
    for path in (link, dangling):
        write_atomically(path, "new")
        assert path.is_symlink()
        assert (tmp_path / "disk" / path.name).read_text() == "new"
    assert sorted(os.listdir(tmp_path / "disk")) == ["a.txt", "b.txt"]
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(errors.InputError, match="circle: expected"):
        write_atomically(circle, "new")


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "null"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for path in (pipe, link, Path("/dev/null")):
        with pytest.raises(errors.InputError, match=r"a device, pipe or socket"):
            write_atomically(path, "text")
    assert (pipe.is_fifo(), link.is_symlink(), Path("/dev/null").is_char_device()) == (True, True, True)
    with pytest.raises(errors.InputError, match="a directory"):
        write_atomically(tmp_path, "text")


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def test_an_archive_is_read_as_numpy_reads_it() -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "c": rng.normal(size=(3, 4)),
        "fortran": np.asfortranarray(rng.normal(size=(2, 3, 4))),
        "text": np.array("ångström"),
        "empty": np.zeros((0, 3)),
        "flags": np.array([True, False]),
        "big-endian": np.arange(3, dtype=">i4"),
        "complex": np.array([1 + 2j]),
    }
    data = _npz(**arrays)
    read, expected = parse_npz(data), np.load(io.BytesIO(data))
    assert read.keys() == arrays.keys()
    for name, array in read.items():
        assert array.dtype == expected[name].dtype
        assert np.array_equal(array, arrays[name])
        assert array.flags.f_contiguous == expected[name].flags.f_contiguous
        assert array.flags.writeable


def _archive(entry: bytes, **settings: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **settings) as archive:
        archive.writestr("a.npy", entry)
    return stream.getvalue()


def _npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(16)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no whole archive"),
        (b"PK\x03\x04", "no whole archive"),
        (_archive(b"text"), "no array"),
        (_archive(_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }")), "16 bytes for"),
        (_archive(_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 9999999999, 2)}")), "16 bytes"),
        (_archive(_npy("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }")), "no array of numbers"),
        (_archive(_npy("{'descr': '<f3', 'fortran_order': False, 'shape': (2,), }")), "unknown type <f3"),
        (_archive(_npy("{'descr': ")), "no array of numbers"),
        (_archive(_npy(""), compression=zipfile.ZIP_BZIP2), "a compression that NumPy does not write"),
    ],
)  # fmt: skip
def test_what_is_no_archive_of_arrays_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_npz(data)


def test_archives_that_grow_beyond_bounds_are_refused_before_they_are_read() -> None:
    zeros = _npz(a=np.zeros(2**26, dtype=np.uint8))
    assert parse_npz(zeros)["a"].shape == (2**26,)
    # the same archive whose directory says 5 GB
    entry = zeros.rindex(b"PK\x01\x02")
    size = (5 * 10**9 % 2**32) | 2**31
    with pytest.raises(ValueError, match="grows to more than 268435456 bytes"):
        parse_npz(zeros[: entry + 24] + size.to_bytes(4, "little") + zeros[entry + 28 :])
    bomb = lzma.compress(bytes(2**28 + 1), preset=0)
    assert len(bomb) < 2**20
    with pytest.raises(ValueError, match="more than 268435456 bytes"):
        decompress(bomb)
    assert decompress(lzma.compress(b"a") + lzma.compress(b"b")) == b"ab"


@pytest.mark.parametrize("text", [b"\xff", b"{", b"[1]", b"3", b"[" * 100_000])
def test_a_header_that_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json_object(np.frombuffer(text, dtype=np.uint8))

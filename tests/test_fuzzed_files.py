"""Readers of damaged files: they give what the file says or an error of this package, and nothing else.

Valid files are changed at random: bytes replaced, removed, doubled, or words put in that mean something to a reader.
"""

from __future__ import annotations

import contextlib
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fflux_py import files, model_file
from fflux_py.errors import FFLUXError, FileFormatError
from fflux_py.files import parse_npz, read_text
from fflux_py.iqa.result_archive import read_archive
from tests import fuzz
from tests.support.damaged_files import (
    KINDS,
    WORDS,
    bomb_npz,
    bomb_xz,
    damage_within,
    make_files,
    make_propagators,
)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Up to three changes, their places as shares of the length."""
    changes = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(WORDS)), max_size=3))
    end = draw(st.none() | st.floats(0, 1))

    def damage(data: bytes) -> bytes:
        for share, length, word in changes:
            begin = int(share * len(data))
            data = data[:begin] + word + data[begin + length :]
        return data if end is None else data[: int(end * len(data))]

    return damage


_SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one valid file of every kind."""
    folder = tmp_path_factory.mktemp("valid")
    make_files(folder)
    return folder


def copied(kind: str, valid: Path, folder: Path) -> tuple[bytes, Path]:
    """The content of a valid file, and its place in a copy of its folder."""
    name = KINDS[kind].name
    if kind == "propagator":
        torch = pytest.importorskip("torch")
        pytest.importorskip("e3nn")
        pytest.importorskip("safetensors")
        torch.manual_seed(0)
        make_propagators(valid)
    source = valid / name
    if valid in source.parent.parents:
        shutil.copytree(source.parent, folder / source.parent.name)
        return source.read_bytes(), folder / source.parent.name / source.name
    return source.read_bytes(), folder / source.name


@pytest.mark.filterwarnings("ignore::fflux_py.errors.FFLUXWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused(kind: str, valid: Path, tmp_path: Path) -> None:
    original, path = copied(kind, valid, tmp_path)

    @_SETTINGS
    @given(damages())
    def check(damage: Callable[[bytes], bytes]) -> None:
        path.write_bytes(damage(original))
        with contextlib.suppress(FFLUXError):  # its text is one line: errors see to that themselves
            KINDS[kind].read(path)

    path.write_bytes(original)
    KINDS[kind].read(path)
    check()


@pytest.mark.filterwarnings("ignore::fflux_py.errors.FFLUXWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_damaged_from_within_is_read_or_refused(kind: str, valid: Path, tmp_path: Path) -> None:
    """With a checksum that fits; ``python -m tests.fuzz`` tries more of them."""
    original, path = copied(kind, valid, tmp_path)
    for number in range(30):
        path.write_bytes(damage_within(Random(number), original, KINDS[kind].seal))
        with contextlib.suppress(FFLUXError):
            KINDS[kind].read(path)


def test_the_command_sees_a_reader_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> object:
        return path.read_bytes()[10**6]

    monkeypatch.setitem(KINDS, "molecule", KINDS["molecule"]._replace(read=read))
    said = fuzz.read_damaged("molecule", b"1\n\nH 0 0 0\n", tmp_path / "start.xyz", Random(1))
    assert said is not None
    assert "IndexError" in said


@pytest.mark.parametrize("said", [8_000_128, 1000], ids=["true", "understated"])
def test_an_archive_takes_no_more_memory_than_its_directory_says(said: int, tmp_path: Path) -> None:
    """An array of 8 MB in 8 kB: read if the directory says so, and refused, without unpacking it, if it says less."""
    data = bomb_npz(8_000_000, said)
    tracemalloc.start()
    try:
        if said == 1000:
            with pytest.raises(ValueError, match=r"archive|bytes"):
                parse_npz(data)
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        else:
            assert parse_npz(data)["energies"].size == 1_000_000
    finally:
        tracemalloc.stop()


def test_what_grows_without_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound of a megabyte instead of 256: the true one would take seconds."""
    monkeypatch.setattr(files, "_LARGEST_SIZE", 2**20)
    path = tmp_path / "data.extxyz.xz"
    path.write_bytes(bomb_xz(2**24))
    assert path.stat().st_size < 5000
    archive = bomb_npz(2**24, 2**24 + 128)
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match="more than 1048576 bytes"):
            read_text(path)
        path = path.rename(tmp_path / "labels.npz.xz")
        with pytest.raises(FileFormatError, match="more than 1048576 bytes"):
            read_archive(path)
        path.write_bytes(archive)
        with pytest.raises(FileFormatError, match=r"more than \d+ bytes"):
            model_file.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_an_array_larger_than_any_memory_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
    entry = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("positions.npy", entry)
    with pytest.raises(FileFormatError, match=r"0 bytes for an array of shape \(10000000000000,\)"):
        model_file.load(path)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
@pytest.mark.parametrize("kind", ["frames", "model", "dcd", "labels", "plumed", "training", "trajectories"])
def test_a_device_is_no_file(device: str, kind: str) -> None:
    with pytest.raises(FFLUXError, match="found a device"):
        KINDS[kind].read(Path(device))


def test_a_propagator_is_not_built_larger_than_its_tensors(valid: Path, tmp_path: Path) -> None:
    data, path = copied("propagator", valid, tmp_path)
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'\\"width\\": 8', b'\\"width\\": 400000')
    assert header != data[8 : 8 + size]
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    with pytest.raises(FileFormatError, match="width: expected a size of at most 256, found 400000"):
        KINDS["propagator"].read(path)

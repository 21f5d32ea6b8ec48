"""Files are written whole or not at all; a text whose name ends in ``.xz`` is compressed.

Data sets are mostly digits and repeated headers: xz, which every system and ``ase.io.read`` know, makes them five times
smaller.  ``data.extxyz`` stands for ``data.extxyz.xz`` too, where only that is there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import lzma
import math
import os
import re
import stat
import struct
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fflux_py.errors import FileFormatError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPRESSED: Final = ".xz"
"""Ending of the names of compressed files."""

# What compressed files may grow to: this many times their size, and in any case this many bytes.
_LARGEST_RATIO: Final = 100
_LARGEST_SIZE: Final = 2**28

_NPY_HEADER: Final = re.compile(
    r"\{\s*'descr':\s*'([<>|=]?[biufcSU]\d{1,9})',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(([\d,\s]*)\),?\s*\}\s*"
)
# No number of a model is as large; squares of such numbers are still numbers.
_LARGEST_NUMBER: Final = 1e60
_NPY_LENGTHS: Final = {b"\x93NUMPY\x01\x00": "<H", b"\x93NUMPY\x02\x00": "<I", b"\x93NUMPY\x03\x00": "<I"}


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write ``content`` to ``path`` through a temporary file in the same folder, fsync and rename.

    A text for a path that ends in ``.xz`` is compressed; bytes are written as they are.  A reader sees the old file or
    the new one, never a part.  A symbolic link stays, and the file that it points to is written.  Whatever else is
    neither a file nor missing (a device, a pipe, a folder) is refused.  On any failure (a full disk, a missing folder)
    the temporary file is removed and :class:`~fflux_py.errors.InputError` names the path and the system's reason.
    """
    target = _file_to_write(path)
    data = content if isinstance(content, bytes) else content.encode("utf-8")
    if isinstance(content, str) and Path(path).suffix == COMPRESSED:
        data = lzma.compress(data, preset=lzma.PRESET_EXTREME | lzma.PRESET_DEFAULT)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, target)
        except BaseException:  # also Ctrl-C must not leave the temporary file behind
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(
            str(target), "a place to write", error.strerror or str(error), "free space or choose another path"
        ) from error


def _file_to_write(path: str | os.PathLike[str]) -> Path:
    """The file that ``path`` names, links followed."""
    remedy = "free space or choose another path"
    try:
        target = Path(path).resolve() if os.path.islink(path) else Path(path)
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle; ValueError: a zero byte
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(str(path), "a place to write", reason, remedy) from error
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise InputError(str(path), "a file, or nothing yet", kind, remedy)
    return target


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove what a process killed in :func:`write_atomically` left in ``folder``, where nobody else may write."""
    for leftover in Path(folder).glob(".*.part"):
        leftover.unlink(missing_ok=True)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file or a pipe.

    Raises
    ------
    OSError
        What the system says; a device, which may never end, is refused too.
    """
    with open(path, "rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.ENODEV, "a device", os.fspath(path))
        return stream.read()


def read_json(path: str | os.PathLike[str], remedy: str = "") -> dict[str, Any]:
    """Return the JSON object in a text file.

    Parameters
    ----------
    path
        The file.
    remedy
        What the user can do if it holds something else.

    Raises
    ------
    FileFormatError
        With the line, where one can be named.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileFormatError(f"{path}:{error.lineno}", "JSON", error.msg, remedy) from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of more than 4300 digits
        found = "one that is nested too deeply" if isinstance(error, RecursionError) else "a number that is too long"
        raise FileFormatError(str(path), "a JSON object of this package", found, remedy) from error
    if not isinstance(content, dict):
        raise FileFormatError(str(path), "a JSON object", type(content).__name__, remedy)
    return content


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the table in a TOML file.

    Raises
    ------
    FileFormatError
        With the place in the file, where one can be named.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4300 digits
        found = "tables that are nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FileFormatError(str(path), "TOML", found) from error


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of ``path``; a missing, unreadable or binary file is an error with one line.

    A file whose name ends in ``.xz`` is decompressed; it is read, too, if ``path`` leaves ``.xz`` out and only it is
    there.
    """
    source = stored_path(path)
    try:
        data = read_bytes(source)
        text = (decompress(data) if source.suffix == COMPRESSED else data).decode("utf-8")
    except OSError as error:
        raise FileFormatError(str(path), "a readable file", error.strerror or str(error), "check the path") from error
    except UnicodeDecodeError as error:
        raise FileFormatError(
            str(path), "a text file in UTF-8", f"byte {error.start} that is not", "check that it is the right file"
        ) from error
    except ValueError as error:
        raise FileFormatError(
            str(source), "a whole file that xz has compressed", str(error), "take the file from its source again"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decompress(data: bytes) -> bytes:
    """What xz has compressed to ``data``.

    Raises
    ------
    ValueError
        Not whole, something else, or much larger than files of this package can be.
    """
    largest = max(_LARGEST_SIZE, _LARGEST_RATIO * len(data))
    parts, size = [], 0
    try:
        while data:
            decompressor = lzma.LZMADecompressor()
            parts.append(decompressor.decompress(data, largest - size + 1))
            size += len(parts[-1])
            if size > largest:
                raise ValueError(f"more than {largest} bytes in it")
            if not decompressor.eof:
                raise ValueError("Compressed data ended before the end-of-stream marker was reached")
            data = decompressor.unused_data
    except lzma.LZMAError as error:
        raise ValueError(str(error)) from error
    if not parts:
        raise ValueError("an empty file")
    return b"".join(parts)


def parse_npz(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` archive: numbers and texts, never Python objects.

    Sizes are checked before anything is read or allocated: an archive may not grow to much more than files of this
    package do, and every array has to have the bytes that its shape says.

    Raises
    ------
    ValueError
        Something else, damaged, or too large; the text is the reason.
    """
    largest = max(_LARGEST_SIZE, _LARGEST_RATIO * len(data))
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > largest:
                raise ValueError(f"an archive that grows to more than {largest} bytes")
            if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
                raise ValueError("a compression that NumPy does not write")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"two arrays of the name {name}")
                with archive.open(entry) as stream:
                    # no more than the entry says: its compressed bytes may grow to anything
                    arrays[name] = _read_npy(stream.read(entry.file_size))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, struct.error, OverflowError) as error:
        # RuntimeError: altered bits that mean encryption or a later version of the archive format
        raise ValueError("no whole archive") from error
    return arrays


def _read_npy(data: bytes) -> NDArray[Any]:
    import numpy as np  # not above: the command line reads and writes files without it

    length = _NPY_LENGTHS.get(data[:8])
    if length is None or len(data) < 12:
        raise ValueError("an entry that is no array")
    begin = 8 + struct.calcsize(length)
    end = begin + struct.unpack_from(length, data, 8)[0]
    header = _NPY_HEADER.fullmatch(data[begin:end].decode("latin-1"))
    if header is None:
        raise ValueError("an entry that is no array of numbers")
    try:
        kind = np.dtype(header[1])
    except TypeError as error:
        raise ValueError(f"an array of the unknown type {header[1]}") from error
    shape = tuple(int(word) for word in header[3].split(",") if word.strip())
    if len(shape) > 32 or kind.itemsize == 0 or math.prod(shape) * kind.itemsize != len(data) - end:
        raise ValueError(f"{len(data) - end} bytes for an array of shape ({header[3]})")
    values = np.frombuffer(data, dtype=kind, offset=end).copy()
    return values.reshape(shape[::-1]).T if header[2] == "True" else values.reshape(shape)


def json_array(text: str) -> NDArray[Any]:
    """The UTF-8 bytes of a text as an array: a header among arrays (:func:`read_json_object` reads it)."""
    import numpy as np  # not above: the command line reads and writes files without it

    return np.frombuffer(text.encode(), dtype=np.uint8)


def sealed_npz(arrays: Mapping[str, NDArray[Any]], *, compressed: bool = False) -> bytes:
    """The bytes of an ``.npz`` file of arrays and of their checksum (:func:`arrays_sha256`), the entry ``sha256``."""
    import numpy as np  # not above: the command line reads and writes files without it

    stream = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(stream, **arrays, sha256=np.array(arrays_sha256(arrays)))  # type: ignore[arg-type]
    return stream.getvalue()


Checksum = Callable[[dict[str, "NDArray[Any]"]], str]
"""A checksum of all entries of an archive but its own; ValueError: they do not allow one."""


class Sealed(NamedTuple):
    """What :func:`sealed_npz` keeps together.

    Parameters
    ----------
    header
        The JSON object of the entry ``header``.
    arrays
        All other arrays by name.
    sha256
        The checksum over all of them.
    """

    header: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    sha256: str


def read_sealed(path: str | os.PathLike[str], expected: str, remedy: str, checksum: Checksum | None = None) -> Sealed:
    """Read a file that :func:`sealed_npz` has made; parameters and errors as in :func:`unseal`."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise FileFormatError(str(path), expected, error.strerror or str(error), "check the path") from error
    return unseal(data, str(path), expected, remedy, checksum)


def unseal(data: bytes, where: str, expected: str, remedy: str, checksum: Checksum | None = None) -> Sealed:
    """Header and arrays of the bytes of an archive with a checksum.

    Parameters
    ----------
    data
        The bytes.
    where, expected, remedy
        For messages: the file, what it should be, what the user can do about a damaged one.
    checksum
        How the checksum was made; :func:`arrays_sha256` if not given.

    Raises
    ------
    FileFormatError
        Another kind of file, a truncated or altered one, or one whose header is no JSON object.
    """
    try:
        arrays = parse_npz(data)
    except ValueError as error:
        found = f"a truncated or altered file, or another kind of file ({error})"
        raise FileFormatError(where, expected, found, remedy) from error
    if not {"header", "sha256"} <= arrays.keys():
        raise FileFormatError(where, expected, "an archive without header and checksum", remedy)
    stored = str(arrays.pop("sha256"))
    try:
        if stored != (checksum or arrays_sha256)(arrays):
            raise FileFormatError(where, f"the checksum {stored[:12]}...", "another: the file was altered", remedy)
        header = read_json_object(arrays.pop("header"))
    except ValueError as error:
        raise FileFormatError(f"{where}, header", "JSON", str(error), remedy) from error
    return Sealed(header, arrays, stored)


def check_numbers(
    arrays: Mapping[str, NDArray[Any]], where: str, remedy: str, may_be_missing: Callable[[str], bool] | None = None
) -> None:
    """Refuse arrays with anything but finite numbers of a size that squares allow.

    Parameters
    ----------
    arrays
        By name.
    where, remedy
        The file, and what the user can do, for messages.
    may_be_missing
        Whether an array of this name may have entries that are not a number.

    Raises
    ------
    FileFormatError
        Naming the array.
    """
    import numpy as np  # not above: the command line reads and writes files without it

    for name, array in arrays.items():
        kind = array.dtype.kind
        if kind in "iuf":
            sound = np.abs(np.float64(array)) < _LARGEST_NUMBER
            if kind == "f" and may_be_missing is not None and may_be_missing(name):
                sound |= np.isnan(array)
        if kind != "b" and (kind not in "iuf" or not sound.all()):
            raise FileFormatError(f"{where}, {name}", "finite numbers", f"others, {array.dtype}", remedy)


def read_json_object(array: NDArray[Any]) -> dict[str, Any]:
    """The JSON object whose UTF-8 bytes are the elements of an array.

    Raises
    ------
    ValueError
        Not JSON, or no object.
    """
    try:
        content = json.loads(array.tobytes().decode())
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("JSON that is no object")
    return content


def stored_path(path: str | os.PathLike[str]) -> Path:
    """The file that ``path`` names: itself, or ``path.xz`` if only that is there."""
    plain = Path(path)
    compressed = plain.with_name(plain.name + COMPRESSED) if plain.name else plain
    return compressed if not plain.exists() and compressed.is_file() else plain


def stem(path: str | os.PathLike[str]) -> str:
    """Name of ``path`` without folder, without ``.xz`` and without the ending before it."""
    return Path(os.fspath(path).removesuffix(COMPRESSED)).stem


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def arrays_sha256(arrays: Mapping[str, NDArray[Any]], before: bytes = b"") -> str:
    """Hexadecimal SHA-256 of ``before``, then of names, types, shapes and bytes of arrays in the order of the names."""
    import numpy as np  # not above: the command line reads and writes files without it

    state = hashlib.sha256(before)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        state.update(array.tobytes())
    return state.hexdigest()

"""All results of a closed campaign in one compressed file, from which every label comes back to the last bit.

An archive is NumPy's ``.npz`` in xz (``xz -d`` leaves an ``.npz`` that ``numpy.load`` opens without pickle), schema
``fflux-label-archive-1``.  Results that differ in nothing but numbers form a group.  The numbers of a group stand in
arrays, results along the first axis; the rest stands once in the JSON ``header``, with ``{"array": NAME}`` for numbers.
``sha256`` is the digest of header and arrays, and the header holds the digest of every single result.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import (
    decompress,
    json_array,
    read_bytes,
    sealed_npz,
    sha256,
    unseal,
    write_atomically,
)
from fflux_py.typing import FloatArray

SCHEMA: Final = "fflux-label-archive-1"
Result = dict[str, Any]
"""One result: what JSON can hold, NaN and infinity excepted."""

# Numbers of eight bytes: the position within a number tells more about a byte than the bytes before it.
_FILTERS: Final = [
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**24, "lc": 1, "lp": 3, "pb": 3}
]
_ARRAY: Final = "array"


@dataclass(frozen=True)
class ResultArchive:
    """Results by name, as they stand in an archive.

    Parameters
    ----------
    path
        The file, for messages.
    groups
        Of every group ``names``, ``sha256`` and ``content`` (what its results share).
    arrays
        Numbers by name, shape ``(n_results_of_the_group, ...)``.
    """

    path: Path
    groups: tuple[Mapping[str, Any], ...]
    arrays: Mapping[str, FloatArray]

    @cached_property
    def _rows(self) -> dict[str, tuple[int, int]]:
        """Group, and row in its arrays, of every result."""
        return {name: (g, k) for g, group in enumerate(self.groups) for k, name in enumerate(group["names"])}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all results, in alphabetical order."""
        return tuple(sorted(self._rows))

    def result(self, name: str) -> Result | None:
        """Return the result of this name, or None if there is none.

        Raises
        ------
        FileFormatError
            The result does not have its checksum.
        """
        if name not in self._rows:
            return None
        group, row = self._rows[name]
        result: Result = _with_numbers(self.groups[group]["content"], self.arrays, row)
        try:
            digest = sha256(canonical(result))
        except ValueError:  # not-a-number, which no result has
            digest = ""
        if digest != self.groups[group]["sha256"][row]:
            raise FileFormatError(
                f"{self.path}, result {name}", "a result with its checksum", "another one", "restore the archive"
            )
        return result


def canonical(result: Mapping[str, Any]) -> bytes:
    """The text of which a result's checksum is taken: JSON with sorted keys and all digits of every number."""
    return json.dumps(result, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_archive(path: Path, results: Mapping[str, Result]) -> None:
    """Write all ``results`` (by name) whole or not at all, after every one has come back from the bytes to be written.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    groups: dict[str, dict[str, list[Any]]] = {}
    for name in sorted(results):
        numbers: dict[str, FloatArray] = {}
        content = _without_numbers(results[name], "", numbers)
        shapes = {key: array.shape for key, array in numbers.items()}
        group = groups.setdefault(
            json.dumps([content, shapes], sort_keys=True), {"rows": [], "names": [], "sha256": []}
        )
        group["names"].append(name)
        group["sha256"].append(sha256(canonical(results[name])))
        group["rows"].append(numbers)
    arrays: dict[str, np.ndarray] = {}
    header: list[dict[str, Any]] = []
    for index, (key, group) in enumerate(groups.items()):
        content = _renamed(json.loads(key)[0], f"{index:03d}")
        header.append({"names": group["names"], "sha256": group["sha256"], "content": content})
        for name in group["rows"][0]:
            arrays[f"{index:03d}{name}"] = np.array([row[name] for row in group["rows"]])
    text = json.dumps({"schema": SCHEMA, "units": "as in the results", "groups": header}, sort_keys=True)
    arrays["header"] = json_array(text)
    data = lzma.compress(sealed_npz(arrays), format=lzma.FORMAT_XZ, filters=_FILTERS)
    archive = _parse(path, data)
    for name, result in results.items():
        if archive.result(name) != result:  # cannot be, and would lose a label
            raise InputError(f"result {name}", "a result that an archive keeps to the last bit", "one that it changes")
    write_atomically(path, data)


def read_archive(path: Path) -> ResultArchive:
    """Read an archive.

    Raises
    ------
    FileFormatError
        A file that is missing, cut off, changed, or something else; the reason is in the message.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise FileFormatError(str(path), "a readable file", error.strerror or str(error), "check the path") from error
    return _parse(path, data)


def _parse(path: Path, data: bytes) -> ResultArchive:
    remedy = "restore the archive"
    expected = "an archive of labels"
    try:
        content = decompress(data)
    except ValueError as error:
        raise FileFormatError(str(path), expected, str(error), remedy) from error
    header, arrays, _ = unseal(content, str(path), expected, remedy)
    if header.get("schema") != SCHEMA:
        found = repr(header.get("schema"))
        raise FileFormatError(f"{path}, header", f"schema {SCHEMA!r}", found, "read it with a later version")
    try:
        groups = tuple(dict(group) for group in header["groups"])
        for group in groups:
            names, digests = group["names"], group["sha256"]
            words = (names, digests)
            listed = all(isinstance(part, list) and all(isinstance(word, str) for word in part) for part in words)
            if not listed or len(names) != len(digests):
                raise ValueError("names without checksums")
            _check_arrays(group["content"], arrays, len(names))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}, header", "groups of results", f"others ({error})", remedy) from error
    return ResultArchive(path, groups, arrays)


def _check_arrays(content: Any, arrays: Mapping[str, FloatArray], rows: int) -> None:
    """Refuse names of arrays that are not there, or do not have one row of real numbers for each result."""
    if not isinstance(content, dict):
        return
    if content.keys() != {_ARRAY}:
        for entry in content.values():
            _check_arrays(entry, arrays, rows)
        return
    array = arrays[content[_ARRAY]]
    if array.ndim == 0 or len(array) != rows or array.dtype.kind != "f":
        raise ValueError(f"{content[_ARRAY]} of type {array.dtype} and shape {array.shape}")


def _without_numbers(value: Any, name: str, numbers: dict[str, FloatArray]) -> Any:
    """Put real numbers and rectangular lists of them into ``numbers``; return the rest with their names instead."""
    if isinstance(value, dict):
        return {key: _without_numbers(entry, f"{name}/{key}", numbers) for key, entry in value.items()}
    if _is_real(value):
        try:
            array = np.array(value)
        except ValueError:  # lists of different lengths
            return value
        if array.dtype == np.float64:
            numbers[name] = array
            return {_ARRAY: name}
    return value


def _is_real(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_real, value))
    return isinstance(value, float)


def _renamed(content: Any, group: str) -> Any:
    """``content`` with the names of its arrays as they stand in the file."""
    if not isinstance(content, dict):
        return content
    if content.keys() == {_ARRAY}:
        return {_ARRAY: group + content[_ARRAY]}
    return {key: _renamed(entry, group) for key, entry in content.items()}


def _with_numbers(content: Any, arrays: Mapping[str, FloatArray], row: int) -> Any:
    if not isinstance(content, dict):
        return content
    if content.keys() == {_ARRAY}:
        return arrays[content[_ARRAY]][row].tolist()
    return {key: _with_numbers(entry, arrays, row) for key, entry in content.items()}

"""What a training leaves behind when it is interrupted, so that the same training goes on from there."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import parse_npz, read_bytes, write_atomically

_SCHEMA = 1


class Checkpoint:
    """Named arrays in an ``.npz`` without pickle, written whole or not at all.

    Parameters
    ----------
    path
        The file; None: nothing is kept.
    key
        Digest of the data and the settings.

    Raises
    ------
    InputError
        The file is of another training.
    FileFormatError
        The file is no such file, or damaged.
    """

    def __init__(self, path: str | os.PathLike[str] | None, key: str) -> None:
        self._path = None if path is None else Path(path)
        self._key = key
        self._arrays: dict[str, np.ndarray] = {}
        if self._path is not None and self._path.exists():
            self._arrays = _read(self._path)
            if str(self._arrays.pop("key")) != key:
                raise InputError(
                    str(self._path), "an interrupted training of these data with these settings", "another one",
                    "remove the file, or write the model elsewhere",
                )  # fmt: skip

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def update(self, **arrays: np.ndarray | float | int) -> None:
        """Add or replace arrays, and write the file."""
        self._arrays.update({name: np.asarray(array) for name, array in arrays.items()})
        if self._path is None:
            return
        stream = io.BytesIO()
        content = {**self._arrays, "key": np.array(self._key), "schema": np.array(_SCHEMA)}
        np.savez(stream, **content)  # type: ignore[arg-type]
        write_atomically(self._path, stream.getvalue())


def _read(path: Path) -> dict[str, np.ndarray]:
    remedy = "remove the file; the training then begins anew"
    try:
        arrays = parse_npz(read_bytes(path))
    except OSError as error:
        raise FileFormatError(str(path), "a readable file", error.strerror or str(error)) from error
    except ValueError as error:
        raise FileFormatError(str(path), "an interrupted training", "a damaged file or another kind", remedy) from error
    schema, key = arrays.pop("schema", np.zeros(0)), arrays.get("key", np.zeros(0))
    if schema.shape != () or schema.dtype.kind != "i" or schema != _SCHEMA or key.dtype.kind != "U" or key.shape != ():
        raise FileFormatError(str(path), f"an interrupted training of schema {_SCHEMA}", "another file", remedy)
    return arrays

"""Frames of a data set's file: what they have in common, and columns and keys that must be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np

from fflux_py.errors import FileFormatError, InputError
from fflux_py.molecules.extended_xyz import Frame, Value
from fflux_py.molecules.frame_meaning import FrameMeaning, bears_meaning, interpret_all, tell
from fflux_py.molecules.frame_order import in_one_order
from fflux_py.typing import BoolArray, FloatArray, IntArray

Indices: TypeAlias = Sequence[int] | Sequence[bool] | IntArray | BoolArray
"""Indices, or a mask of everything."""
FRAME_KEYS: Final = ("source", "temperature", "split", "REF_energy")
"""Keys that differ from frame to frame."""
_FOREIGN: Final = "is this a data set written by 'fflux label'? 'fflux convert' makes one of labels of other programs"


def interpreted(frames: list[Frame], path: str, charge: int | None = None) -> tuple[list[Frame], FrameMeaning]:
    """The frames without the keys whose meaning was read (but ``units``), and that meaning, told."""
    meaning = interpret_all(((f.symbols, f.info, f.columns, f.line) for f in frames), path, charge)
    tell(path, meaning)
    info = [{k: v for k, v in f.info.items() if k == "units" or not bears_meaning(k)} for f in frames]
    return in_one_order([replace(f, info=i) for f, i in zip(frames, info, strict=True)], path), meaning


def common_header(frames: list[Frame], path: str) -> dict[str, Value]:
    """Keys of the whole set; they and the elements must agree in all frames."""
    first = frames[0]
    header = {k: v for k, v in first.info.items() if k not in FRAME_KEYS}
    for frame in frames[1:]:
        where = f"{path}:{frame.line}"
        if len(frame.symbols) != len(first.symbols):
            raise FileFormatError(where, f"{len(first.symbols)} atoms as in the first frame", str(len(frame.symbols)))
        if frame.symbols != first.symbols:
            k = next(i for i, (a, b) in enumerate(zip(frame.symbols, first.symbols, strict=True)) if a != b)
            raise FileFormatError(
                f"{where}, atom {k + 1}", f"{first.symbols[k]} as in the first frame", frame.symbols[k]
            )
        other = {k: v for k, v in frame.info.items() if k not in FRAME_KEYS}
        if other != header:
            key = sorted(k for k in {*header, *other} if header.get(k) != other.get(k))[0]
            raise FileFormatError(
                where, f"{key}={header.get(key)!r} as in the first frame", repr(other.get(key)), "do not mix data sets"
            )
    return header


def real_column(frame: Frame, name: str, shape: tuple[int, ...], where: str) -> FloatArray:
    """A column of finite real numbers of this shape."""
    if name not in frame.columns:
        raise FileFormatError(f"{where}, column {name}", "this column", f"the columns {sorted(frame.columns)}")
    column = frame.columns[name]
    if column.dtype.kind != "f" or column.shape != shape:
        expected = f"real numbers of shape {shape}"
        raise FileFormatError(f"{where}, column {name}", expected, f"{column.dtype.name} of shape {column.shape}")
    values = np.asarray(column, dtype=np.float64)
    if not np.isfinite(values).all():
        raise FileFormatError(f"{where}, column {name}", "finite numbers", "NaN or infinity")
    return values


def expect(header: dict[str, Value], key: str, value: str, where: str) -> None:
    entry = header.pop(key, None)
    if entry != value:
        what = f"{key}={entry!r}" if entry is not None else f"no key {key!r}"
        raise FileFormatError(where, f'{key}="{value}"', what, _FOREIGN)


def as_indices(chosen: Indices, n: int) -> IntArray:
    """Indices, from themselves or from a mask of all ``n`` geometries."""
    array = np.asarray(chosen)
    if array.dtype != np.bool_:
        return array.astype(np.int64)
    if array.shape != (n,):
        raise InputError("indices", f"a mask of all {n} geometries", f"one of shape {array.shape}")
    return np.flatnonzero(array)

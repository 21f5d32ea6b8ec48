"""Training and validation sets of FEREBUS: comma-separated tables of features and properties of one atom.

``X_TRAINING_SET.csv`` has a header line; the columns ``f1`` to ``fn`` are the features, in bohr and radian, every other
column is a property of the atom (``iqa`` in hartree, multipole moments ``q00``, ``q10``, ... in its local frame).  A
name may carry its unit after a slash (``f1/bohr``, ``iqa/Ha``).  The first column, if it is no feature, counts the rows
and is passed over, and so are ``point_id``, ``point_name`` and ``-dE/df1`` of ICHOR, which also appends the feature's
atom to its name (``f4_H5``).
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fflux_py.errors import FileFormatError, InputError
from fflux_py.exchange._words import table
from fflux_py.files import read_text, write_atomically
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KJ_MOL

ENERGY: Final = "iqa"
"""The property that is an energy."""

_FEATURE: Final = re.compile(r"f(?P<number>[1-9]\d{0,8})(?:_[A-Za-z]+\d+)?")
_PASSED_OVER: Final = ("point_id", "point_name")
_DERIVATIVE: Final = "-dE/d"
_FEATURE_UNITS: Final = {
    "bohr": 1.0, "a0": 1.0, "radians": 1.0, "radian": 1.0, "rad": 1.0, "angstrom": 1.0 / ANGSTROM,
    "degrees": np.pi / 180.0,
}  # fmt: skip
_ENERGY_UNITS: Final = {"ha": 1.0, "hartree": 1.0, "kj/mol": 1.0 / KJ_MOL}


@dataclass(frozen=True)
class FeatureTable:
    """Features and properties of one atom at a number of geometries.

    Parameters
    ----------
    names
        Names of the features in the file, in their order.
    features
        Bohr and radian, shape ``(n, d)``.
    energies
        The column ``iqa`` in hartree (or the one asked for), shape ``(n,)``.
    outputs
        The other properties as they stand in the file, by name, each of shape ``(n,)``.
    energy_name
        Name of the column behind ``energies``.
    """

    names: tuple[str, ...]
    features: FloatArray
    energies: FloatArray
    outputs: Mapping[str, FloatArray] = field(default_factory=dict)
    energy_name: str = ENERGY

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "features", read_only(self.features))
        object.__setattr__(self, "energies", read_only(self.energies))
        object.__setattr__(self, "outputs", {name: read_only(column) for name, column in self.outputs.items()})
        n, d = len(self.energies), len(self.names)
        if self.features.shape != (n, d):
            raise InputError("features", f"shape {(n, d)}", f"shape {self.features.shape}")
        for name, column in {"energies": self.energies, **self.outputs}.items():
            if column.shape != (n,):
                raise InputError(name, f"{n} numbers", f"shape {column.shape}")
        if self.energy_name in self.outputs:
            raise InputError("outputs", f"columns other than {self.energy_name!r}", "the same column twice")

    def __len__(self) -> int:
        return len(self.energies)


def read_training_csv(path: str | os.PathLike[str], energy: str = ENERGY) -> FeatureTable:
    """Read a training or validation set of FEREBUS, or a processed table of ICHOR.

    Parameters
    ----------
    path
        The file.
    energy
        Name of the column for :attr:`FeatureTable.energies`.

    Raises
    ------
    FileFormatError
        With the number of the line: no features or not all of f1 to fn, a row with too few or too many entries, an
        entry that is no finite number, a unit that is not known, or no column of the name asked for.
    """
    rows, lines = _rows(read_text(path), str(path))
    where = f"{path}:{lines[0]}"
    header = [word.strip() for word in rows[0]]
    names = [word if word.startswith(_DERIVATIVE) else word.partition("/")[0].strip() for word in header]
    units = [word.partition("/")[2].strip().lower() for word in header]
    columns = _feature_columns(names, where)
    outputs = [k for k, name in enumerate(names) if k and k not in columns and not _passed_over(name)]
    for k in outputs:
        if not names[k] or names.count(names[k]) > 1:
            raise FileFormatError(f"{where}, column {k + 1}", "a name of its own", repr(names[k]))
    if energy not in [names[k] for k in outputs]:
        properties = ", ".join(names[k] for k in outputs) or "no property at all"
        raise FileFormatError(where, f"the column {energy!r}", properties, "name the column that is to be learnt")
    used = [*columns, *outputs]
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(names):
            raise FileFormatError(f"{path}:{line}", f"{len(names)} entries", str(len(row)), "a truncated line?")
    body = [[row[k].strip() for k in used] for row in rows[1:]]
    values = table(body, lines[1:], len(used), str(path))
    if not len(values):
        raise FileFormatError(where, "at least one row of numbers", "the header alone")
    d = len(columns)
    scale = [_unit(_FEATURE_UNITS, units[k], f"{where}, column {names[k]}") for k in columns]
    by_name = {names[k]: values[:, d + i] for i, k in enumerate(outputs)}
    energies = by_name.pop(energy)
    energies = energies * _unit(
        _ENERGY_UNITS, units[names.index(energy)], f"{where}, column {energy}", energy == ENERGY
    )
    return FeatureTable(tuple(names[k] for k in columns), values[:, :d] * scale, energies, by_name, energy)


def write_training_csv(path: str | os.PathLike[str], data: FeatureTable, index: bool = True) -> None:
    """Write a training or validation set that FEREBUS reads: bohr, radian and hartree, with all digits.

    Parameters
    ----------
    path
        The file, for example ``WATER_O1_TRAINING_SET.csv``.
    data
        What to write.  Features become ``f1`` to ``fn`` whatever their names.
    index
        Whether the rows are counted in a first column without name.
    """
    properties = {data.energy_name: data.energies, **data.outputs}
    for name in properties:
        if not name or name != name.strip() or any(c in name for c in ',"\n\r/') or _FEATURE.fullmatch(name):
            raise InputError(
                "name of a property", "a word without comma, slash and quotes, and no feature's", repr(name)
            )
    names = [f"f{k + 1}" for k in range(len(data.names))]
    columns = np.column_stack([data.features, *properties.values()])
    text = [",".join([""] * index + names + list(properties))]
    for k, row in enumerate(columns.tolist()):
        text.append(",".join([str(k)] * index + [repr(value) for value in row]))
    write_atomically(path, "\n".join(text) + "\n")


def _rows(text: str, path: str) -> tuple[list[list[str]], list[int]]:
    """The entries of all lines that are not blank, and the numbers of the lines."""
    reader = csv.reader(text.removeprefix("\ufeff").splitlines(), strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if any(entry.strip() for entry in row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise FileFormatError(f"{path}:{reader.line_num}", "comma-separated entries", str(error)) from None
    if not rows:
        raise FileFormatError(path, "a header line and rows of numbers", "an empty file", "check the path")
    return rows, lines


def _passed_over(name: str) -> bool:
    return name in _PASSED_OVER or name.startswith(_DERIVATIVE)


def _feature_columns(names: Sequence[str], where: str) -> list[int]:
    """Columns of f1, f2, ... in the order of their numbers."""
    numbered: dict[int, int] = {}
    for k, name in enumerate(names):
        match = _FEATURE.fullmatch(name)
        if match is None:
            continue
        number = int(match["number"])
        if number in numbered:
            raise FileFormatError(f"{where}, column {k + 1}", "every feature once", f"{name!r} again")
        numbered[number] = k
    if sorted(numbered) != list(range(1, len(numbered) + 1)) or not numbered:
        present = ", ".join(f"f{n}" for n in sorted(numbered)[:6]) or f"the columns {', '.join(names[:6])}"
        raise FileFormatError(where, "the features f1, f2, ... without a gap", present, "is this a table of features?")
    return [numbered[n] for n in sorted(numbered)]


def _unit(known: Mapping[str, float], unit: str, where: str, convert: bool = True) -> float:
    if not unit or not convert:
        return 1.0
    if unit not in known:
        raise FileFormatError(where, f"a unit among {', '.join(known)}", repr(unit), "convert the column")
    return known[unit]

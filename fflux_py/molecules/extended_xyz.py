"""Extended XYZ, exactly: every number that was read is written back as the same text.

Numbers are written with 15 significant digits.  That is the grid on which a decimal number survives the way through a
double unchanged, also through a change of unit there and back, so that read -> write gives the same bytes.  The files
are those that ``ase.io.read`` reads; our own reader exists because errors must name the line and the column.

The dialect: quoted values are text, unquoted ones are integers, reals or ``T``/``F``; columns are ``S`` (text),
``R`` (real), ``I`` (integer) and ``L`` (``T``/``F``).  Read are also what ASE and others write: keys without a value
(true), single quotes, lists in brackets or braces without quotes (text).  What charge, cell, masses and the like mean
is decided in :mod:`fflux_py.molecules.frame_meaning`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fflux_py.errors import FileFormatError, GeometryError, InputError
from fflux_py.files import read_text, stem, write_atomically
from fflux_py.molecules.frame_meaning import UNNAMED_COLUMNS, interpret, isotope_remedy, read_plain_comment, tell
from fflux_py.molecules.molecule import Molecule, check_positions, is_element
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM

Value = str | int | float | bool

_TOKEN = re.compile(
    r"""\s*(?P<key>[^\s="]+|"[^"]+")"""
    r"""(?:\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|'(?P<single>[^'"]*)'|(?P<list>\[[^"]*?\]+|\{[^"{}]*\})"""
    r"""|(?P<plain>[^\s"]+))(?=\s|$)|(?=\s+[^\s=]|\s*$))"""
)
_KEY = re.compile(r"""[^\s="\\]+""")
_KINDS = ("S", "R", "I", "L")
_LOGICAL = {"T": True, "F": False, "True": True, "False": False, "true": True, "false": False}
_MOST_DIGITS = 400
"""More digits than any number has: such a word is text."""
_INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
_REAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """One frame of an extended XYZ file: a geometry with its columns and its comment line.

    A frame is one geometry of a series, here and everywhere; the axes of an atom are its local frame
    (:mod:`fflux_py.molecules.local_frame`).

    Parameters
    ----------
    symbols
        Element symbols.
    positions
        Positions in angstrom, shape ``(n_atoms, 3)``.
    columns
        Further per-atom columns, shape ``(n_atoms,)`` or ``(n_atoms, k)``, in the file's unit.
    info
        Values of the comment line (without ``Properties``).
    line
        Line of the file, counted from 1, at which the frame's comment stands.
    """

    symbols: tuple[str, ...]
    positions: FloatArray
    columns: Mapping[str, NDArray[np.generic]]
    info: Mapping[str, Value]
    line: int = 0


def format_number(value: float) -> str:
    """Fifteen significant digits, the exact decimal grid of a double."""
    return f"{value:.15g}"


def format_info(info: Mapping[str, Value]) -> str:
    """The comment line's ``key=value`` pairs; text is always quoted."""
    parts = []
    for key, value in info.items():
        if not _KEY.fullmatch(key):
            raise InputError(f"key {key!r}", "a key without blanks, quotes, '=' and backslash", repr(key))
        if isinstance(value, (bool, np.bool_)):
            text = "T" if value else "F"
        elif isinstance(value, str):
            if any(c in value for c in "\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"):
                raise InputError(f"value of {key}", "one line of text", repr(value))
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            text = f'"{escaped}"'
        elif isinstance(value, (int, np.integer)):
            text = str(value)
        else:
            text = format_number(value)
            if _INTEGER.fullmatch(text):
                text += ".0"
        parts.append(f"{key}={text}")
    return " ".join(parts)


def parse_info(comment: str, where: str) -> dict[str, Value]:
    """Inverse of :func:`format_info`; ``where`` is ``file:line`` for the message."""
    info: dict[str, Value] = {}
    position = 0
    comment = comment.strip()
    while position < len(comment):
        match = _TOKEN.match(comment, position)
        if match is None:
            raise FileFormatError(where, "key=value pairs", repr(comment[position : position + 40]))
        key = match["key"].strip('"')
        if key in info:
            raise FileFormatError(where, f"the key {key} once", "it twice", "remove one of them")
        if match["quoted"] is not None:
            info[key] = re.sub(r"\\(.)", r"\1", match["quoted"])
        elif match["single"] is not None or match["list"] is not None:
            info[key] = match["list"] if match["single"] is None else match["single"]
        elif match["plain"] is None:
            info[key] = True
        else:
            info[key] = _plain_value(match["plain"])
        position = match.end()
    return info


def _plain_value(text: str) -> Value:
    if text in ("T", "F"):
        return text == "T"
    if len(text) > _MOST_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _REAL.fullmatch(text) else text


def write_frames(path: str | os.PathLike[str], frames: Sequence[Frame]) -> None:
    """Write frames whole or not at all."""
    write_atomically(path, "".join(format_frame(frame) for frame in frames))


def format_frame(frame: Frame) -> str:
    """The text of one frame, with the closing newline."""
    properties = ["species:S:1:pos:R:3"]
    texts: list[list[str]] = [[format_number(x) for x in row] for row in frame.positions]
    for name, column in frame.columns.items():
        table = np.asarray(column).reshape(len(frame.symbols), -1)
        if table.dtype.kind == "f":
            letter, rows = "R", [[format_number(x) for x in row] for row in table]
        elif table.dtype.kind in "iu":
            letter, rows = "I", [[str(x) for x in row] for row in table]
        elif table.dtype.kind == "b":
            letter, rows = "L", [["T" if x else "F" for x in row] for row in table]
        else:
            letter, rows = "S", [[str(x) for x in row] for row in table]
        properties.append(f"{name}:{letter}:{table.shape[1]}")
        for text, row in zip(texts, rows, strict=True):
            text.extend(row)
    comment = " ".join(filter(None, ["Properties=" + ":".join(properties), format_info(frame.info)]))
    lines = [str(len(frame.symbols)), comment]
    lines += [f"{s:<2} " + " ".join(text) for s, text in zip(frame.symbols, texts, strict=True)]
    return "\n".join(lines) + "\n"


def read_frames(path: str | os.PathLike[str]) -> list[Frame]:
    """Read every frame of an (extended) XYZ file.

    Raises
    ------
    FileFormatError
        With ``file:line``: an empty file, a count that does not match, a missing column, a number that is none, NaN, an
        unknown element, two atoms on one spot.
    """
    lines = _lines_of(path)
    frames = []
    start = 0
    while start < len(lines):
        frame, start = _read_frame(lines, start, str(path))
        frames.append(frame)
    return frames


def read_first_frame(path: str | os.PathLike[str]) -> Frame:
    """Read the first frame alone, to see what a file is; errors as in :func:`read_frames`."""
    return _read_frame(_lines_of(path), 0, str(path))[0]


def _lines_of(path: str | os.PathLike[str]) -> list[str]:
    """Lines of an XYZ file, without empty ones at the end."""
    if str(path).endswith(".npz"):
        remedy = "'fflux convert ARCHIVE.npz data.extxyz' makes a data set of an archive of labels"
        raise FileFormatError(str(path), "an XYZ file", "a NumPy archive", remedy)
    lines = read_text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise FileFormatError(str(path), "at least one XYZ frame", "an empty file", "check the path")
    return lines


def _read_frame(lines: list[str], start: int, path: str) -> tuple[Frame, int]:
    where = f"{path}:{start + 1}"
    try:
        count = int(lines[start])
    except ValueError:
        raise FileFormatError(where, "the number of atoms", repr(lines[start][:40]), "is this an XYZ file?") from None
    if count < 1:
        raise FileFormatError(where, "at least one atom", str(count))
    end = start + 2 + count
    if end > len(lines):
        raise FileFormatError(where, f"{count} atom lines", f"{max(len(lines) - start - 2, 0)} before the end of file")
    comment, where_comment = lines[start + 1], f"{path}:{start + 2}"
    extended = "Properties=" in comment
    info: dict[str, Value] = {}
    info.update(parse_info(comment, where_comment) if extended else read_plain_comment(comment, where_comment))
    layout = _layout(str(info.pop("Properties", "species:S:1:pos:R:3")), where_comment)
    rows = [line.split() for line in lines[start + 2 : end]]
    n_fields = sum(n for _, _, n in layout)
    exact = (extended and bool(info)) or len(layout) > 2
    for k, row in enumerate(rows):
        if len(row) < n_fields or (exact and len(row) > n_fields):
            raise FileFormatError(
                f"{path}:{start + 3 + k}", f"{n_fields} columns", f"{len(row)}", "is the number of atoms right?"
            )
    if (unnamed := max(len(row) for row in rows) - n_fields) > 0:
        info[UNNAMED_COLUMNS] = unnamed
    columns: dict[str, NDArray[np.generic]] = {}
    first = 0
    for name, letter, n in layout:
        columns[name] = _column([row[first : first + n] for row in rows], letter, f"column {name}", path, start + 3)
        first += n
    symbols = tuple(str(s) for s in columns.pop("species"))
    positions = np.asarray(columns.pop("pos"), dtype=np.float64)
    for k, symbol in enumerate(symbols):
        line = f"{path}:{start + 3 + k}"
        if not is_element(symbol):
            raise FileFormatError(line, "an element symbol", repr(symbol), isotope_remedy(symbol))
        if not np.isfinite(positions[k]).all():
            raise FileFormatError(line, "finite coordinates", "NaN or infinity", "correct the file")
    try:
        check_positions(positions / ANGSTROM, where_comment)
    except GeometryError as error:
        raise FileFormatError(error.where, error.expected, error.found, error.remedy) from None
    return Frame(symbols, positions, columns, info, start + 2), end


def _layout(text: str, where: str) -> list[tuple[str, str, int]]:
    parts = text.split(":")
    fields = list(zip(parts[0::3], parts[1::3], parts[2::3], strict=False))
    well_formed = len(parts) % 3 == 0 and all(
        kind in _KINDS and _INTEGER.fullmatch(n) and len(n) < 10 for _, kind, n in fields
    )
    layout = [(name, kind, int(n)) for name, kind, n in fields] if well_formed else []
    names = [name for name, _, _ in layout]
    if (
        len(set(names)) != len(names)
        or any(n < 1 for _, _, n in layout)
        or ("species", "S", 1) not in layout
        or ("pos", "R", 3) not in layout
    ):
        raise FileFormatError(where, "Properties=species:S:1:pos:R:3[:name:kind:count...]", repr(text[:80]))
    return layout


def _column(rows: list[list[str]], letter: str, what: str, path: str, first_line: int) -> NDArray[np.generic]:
    if letter == "S":
        table = np.array(rows)
        return table[:, 0] if table.shape[1] == 1 else table
    if letter == "L":
        return _logical_column(rows, what, path, first_line)
    numbers = np.empty((len(rows), len(rows[0])), dtype=np.float64 if letter == "R" else np.int64)
    for k, row in enumerate(rows):
        try:
            numbers[k] = [float(text) if letter == "R" else int(text) for text in row]
        except (ValueError, OverflowError):
            expected = "real numbers" if letter == "R" else "integers of 64 bits"
            raise FileFormatError(f"{path}:{first_line + k}, {what}", expected, repr(" ".join(row))) from None
    return numbers[:, 0] if numbers.shape[1] == 1 else numbers


def _logical_column(rows: list[list[str]], what: str, path: str, first_line: int) -> NDArray[np.generic]:
    for k, row in enumerate(rows):
        if not all(text in _LOGICAL for text in row):
            raise FileFormatError(f"{path}:{first_line + k}, {what}", "T or F", repr(" ".join(row)))
    flags = np.array([[_LOGICAL[text] for text in row] for row in rows], dtype=np.bool_)
    return flags[:, 0] if flags.shape[1] == 1 else flags


def real_number(info: Mapping[str, Value], key: str, where: str, default: float | None = None) -> float:
    """The key's value as a real number; ``default`` if it is not there."""
    value = info.get(key, default)
    if value is None or isinstance(value, (str, bool)):
        raise FileFormatError(f"{where}, key {key}", "a real number", "none" if value is None else repr(value))
    try:
        return float(value)
    except OverflowError:
        raise FileFormatError(f"{where}, key {key}", "a real number", "one beyond 1e308") from None


def read_molecule(path: str | os.PathLike[str], charge: int | None = None) -> Molecule:
    """Read a start geometry: the first frame of an (extended) XYZ file, in angstrom.

    Parameters
    ----------
    charge
        Net charge; by default that of the comment line or the columns, under the names that programs give it
        (``total_charge``, ``charge``, ...), or zero.

    Raises
    ------
    FileFormatError
        A file that cannot be read; what :func:`~fflux_py.molecules.frame_meaning.interpret` refuses.

    Warns
    -----
    InputWarning
        Of what stands in the file and is not used, such as velocities.
    """
    frame = read_frames(path)[0]
    meaning = interpret(frame.symbols, frame.info, frame.columns, f"{path}:{frame.line}", charge)
    tell(f"{path}:{frame.line}", meaning, start=True)
    name = str(frame.info.get("name", stem(path)))
    return Molecule(frame.symbols, frame.positions / ANGSTROM, meaning.charge or 0, name)


def write_molecule(path: str | os.PathLike[str], molecule: Molecule, info: Mapping[str, Value] | None = None) -> None:
    """Write one geometry in angstrom with its name, charge and ``info``."""
    keys: dict[str, Value] = {"name": molecule.name, "total_charge": molecule.charge, "units": "angstrom"}
    write_frames(path, [Frame(molecule.symbols, molecule.positions * ANGSTROM, {}, {**keys, **(info or {})})])

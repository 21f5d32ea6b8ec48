"""Sections of ``.model`` files: headings in brackets, keys with words, blocks of numbers that end at a blank line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fflux_py.errors import FileFormatError
from fflux_py.exchange._words import integer, real
from fflux_py.typing import FloatArray, IntArray

_HEADING: Final = re.compile(r"\[([\w.]+)\]")
_BLOCKS: Final = ("training_data.x", "training_data.y", "weights")
# Sections whose keys are remarks on the training, like the commented lines of older files.
_REMARKS: Final = ("metadata", "regression.details")


@dataclass
class Section:
    """One section while it is read.

    Parameters
    ----------
    name, path, line
        Its heading, and where that stands.
    entries
        For every key the number of its line and the rest of that line.
    rows
        Of a block of numbers: the number of each line and its words.
    """

    name: str
    path: str
    line: int
    entries: dict[str, tuple[int, str]] = field(default_factory=dict)
    rows: list[tuple[int, list[str]]] = field(default_factory=list)
    closed: bool = False

    @property
    def where(self) -> str:
        """File, line and heading, for messages."""
        return f"{self.path}:{self.line}, [{self.name}]"

    def has(self, *keys: str) -> bool:
        """Whether any of the keys is there."""
        return any(key in self.entries for key in keys)

    def spelling(self, *keys: str) -> str:
        """The first of the keys that is there (the first at all if none is)."""
        return next((key for key in keys if key in self.entries), keys[0])

    def line_of(self, key: str) -> str:
        """File and line of a key, for messages."""
        return f"{self.path}:{self.entries[key][0]}, {key}" if key in self.entries else self.where

    def text(self, key: str) -> str:
        """The rest of the key's line."""
        if key not in self.entries or not self.entries[key][1]:
            raise FileFormatError(self.line_of(key), f"a line '{key} ...'", "none", "is the file whole?")
        return self.entries[key][1]

    def words(self, key: str) -> list[str]:
        """The words after a key."""
        return self.text(key).split()

    def _word(self, key: str) -> str:
        words = self.words(key)
        if len(words) != 1:
            raise FileFormatError(self.line_of(key), "one number", f"{len(words)} words")
        return words[0]

    def real(self, key: str) -> float:
        """The finite real number after a key."""
        return real(self._word(key), self.line_of(key))

    def reals(self, key: str) -> FloatArray:
        """The finite real numbers after a key."""
        return np.array([real(word, self.line_of(key)) for word in self.words(key)])

    def integer(self, key: str) -> int:
        """The whole number after a key."""
        return integer(self._word(key), self.line_of(key))

    def integers(self, key: str) -> IntArray:
        """The whole numbers after a key."""
        return np.array([integer(word, self.line_of(key)) for word in self.words(key)], dtype=np.int64)


def read_sections(text: str, path: str) -> tuple[dict[str, tuple[int, str]], dict[str, Section]]:
    """Divide the text of a ``.model`` file into its sections.

    Returns
    -------
    Remarks (commented lines, and the sections that hold remarks) with the numbers of their lines, and the sections.
    """
    remarks: dict[str, tuple[int, str]] = {}
    by_name: dict[str, Section] = {}
    current: Section | None = None
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if line.startswith("#"):
            _remark(remarks, line[1:], number)
            continue
        heading = _HEADING.fullmatch(line)
        if heading is not None:
            if heading[1] in by_name:
                raise FileFormatError(f"{path}:{number}", "every section once", f"[{heading[1]}] again")
            current = by_name[heading[1]] = Section(heading[1], path, number)
        elif not line:
            if current is not None and current.rows:
                current.closed = True
        elif current is None:
            raise FileFormatError(f"{path}:{number}", "a .model file, which begins with a section", repr(line[:40]))
        elif current.name in _REMARKS:
            _remark(remarks, line, number)
        elif current.name in _BLOCKS:
            if current.closed:
                raise FileFormatError(f"{path}:{number}", f"the end of [{current.name}]", repr(line[:40]))
            current.rows.append((number, line.split()))
        else:
            key, *rest = line.split(None, 1)
            if key in current.entries:
                raise FileFormatError(f"{path}:{number}, [{current.name}]", "every key once", f"{key!r} again")
            current.entries[key] = (number, rest[0] if rest else "")
    return remarks, by_name


def _remark(remarks: dict[str, tuple[int, str]], line: str, number: int) -> None:
    """Keep ``key value`` or ``key = value``; the heading of the remarks is none."""
    key, *rest = line.split(None, 1) or [""]
    value = rest[0].removeprefix("=").strip() if rest else ""
    if key and value and key not in remarks:
        remarks[key] = (number, value)

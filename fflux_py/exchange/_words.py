"""Words and numbers of other programs' text files; every error names the file and the line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from fflux_py.errors import FileFormatError
from fflux_py.typing import FloatArray

# Fortran writes .16E-01 and may write 1.5D+00; a decimal point may stand first or last.
_REAL: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?")
# No number in a file has more digits than 64 bits hold; Python refuses those of thousands.
_INTEGER: Final = re.compile(r"[-+]?\d{1,18}(?:\.0*)?")
_COUNT: Final = re.compile(r"\d{1,18}", re.ASCII)


def real(word: str, where: str) -> float:
    """A finite real number, in Fortran's or in C's spelling."""
    value = float(word.replace("D", "E").replace("d", "e")) if _REAL.fullmatch(word) else float("nan")
    if not np.isfinite(value):
        raise FileFormatError(where, "a finite number", repr(word[:40]), "correct the line")
    return value


def integer(word: str, where: str) -> int:
    """A whole number; some programs write ``3.0``."""
    if not _INTEGER.fullmatch(word):
        raise FileFormatError(where, "a whole number", repr(word[:40]), "correct the line")
    return int(word.split(".")[0])


def is_count(word: str) -> bool:
    """Whether a word is a whole number without a sign."""
    return _COUNT.fullmatch(word) is not None


def table(rows: Sequence[Sequence[str]], lines: Sequence[int], n_columns: int, path: str) -> FloatArray:
    """Rows of words as finite real numbers, shape ``(n_rows, n_columns)``.

    Parameters
    ----------
    rows, lines
        The words of each row, and the number of the line in which it stands.
    n_columns
        Words that every row must have.
    path
        Name of the file, for messages.
    """
    for row, line in zip(rows, lines, strict=True):
        if len(row) != n_columns:
            raise FileFormatError(f"{path}:{line}", f"{n_columns} numbers", str(len(row)), "a truncated line?")
    if not rows:
        return np.zeros((0, n_columns))
    try:
        values = np.array(rows, dtype=np.float64)
        plain = bool(np.isfinite(values).all()) and not any("_" in word for row in rows for word in row)
    except ValueError:
        plain = False
    if plain:
        return values
    # Slow and exact, to accept Fortran's exponents and to name the first line that is wrong.
    return np.array([[real(w, f"{path}:{k}") for w in row] for row, k in zip(rows, lines, strict=True)])

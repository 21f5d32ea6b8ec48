"""The atom of a feature table: its name, its molecule and its local frame, which the table itself does not hold.

A table of FEREBUS or ICHOR is one of numbers.  The name of the atom stands in the name of the file.  The local frame
stands in the name of an ICHOR table or in a file ``ferebus.toml`` beside it; else it is assumed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fflux_py.errors import FileFormatError, InputError
from fflux_py.exchange._words import is_count
from fflux_py.exchange.ferebus.model_text import names_of
from fflux_py.exchange.ferebus.tables import FeatureTable
from fflux_py.files import read_toml

SETTINGS_FILE: Final = "ferebus.toml"
"""The settings of FEREBUS beside a table; ``system.atoms`` holds names and local frames."""

ASSUMED: Final = "assumed: sequence of the atoms"
"""Source of a local frame that no file states."""

_CSV_NAME: Final = re.compile(r"(?P<system>.+)_(?P<atom>[A-Z][a-z]?\d+)_[A-Z_]*SET\.csv")
_ICHOR_NAME: Final = re.compile(r"(?P<atom>[A-Z][a-z]?\d+)_processed_data.*\.csv")
_ICHOR_FRAME: Final = re.compile(r"_alf_(\d+)_(\d+)_(\d+)")
_MODEL_NAME: Final = re.compile(r"(?P<system>.+)_[a-z]\w*_(?P<atom>[A-Z][a-z]?\d+)\.model")

Frame = tuple[int, int, int | None]
"""Atom, x-axis atom, xy-plane atom, from 0; the last one is None in a diatomic."""


@dataclass(frozen=True)
class TableAtom:
    """The atom of a feature table.

    Parameters
    ----------
    system, atom
        Name of the molecule and of the atom, for example ``"WATER"`` and ``"O1"``.
    n_atoms
        Atoms of the molecule.
    frame
        Its local frame: atom, x-axis atom, xy-plane atom, from 0; the last one is None in a diatomic.
    frame_source
        Where the local frame comes from, in words; :data:`ASSUMED` if no file states it.
    """

    system: str
    atom: str
    n_atoms: int
    frame: Frame
    frame_source: str

    @property
    def frame_is_assumed(self) -> bool:
        """Whether no file states the local frame."""
        return self.frame_source == ASSUMED

    @property
    def alf(self) -> list[int | None]:
        """The local frame with atoms counted from 1, as FEREBUS and ICHOR write it (ALF)."""
        return [None if k is None else k + 1 for k in self.frame]


def identify_atom(
    table: FeatureTable, path: Path, model_path: Path, alf: str | None = None, alf_name: str = "alf"
) -> TableAtom:
    """Find out whose features a table holds.

    Parameters
    ----------
    table, path
        The table and its file.  The name of the atom is taken from ``SYSTEM_O1_TRAINING_SET.csv`` or from
        ``O1_processed_data....csv``; the latter belongs to the system that its folder is named after.
    model_path
        The model file to be written; ``SYSTEM_iqa_O1.model`` names system and atom, too.
    alf
        The local frame, atoms counted from 1 and separated by commas or blanks.  Without it: from the name of the
        table (``_alf_1_2_3``), from :data:`SETTINGS_FILE` in the table's folder, or assumed by the sequence of atoms.
    alf_name
        What ``alf`` is called in messages.

    Raises
    ------
    InputError
        No file names the atom, or the local frame is not one of that atom.
    FileFormatError
        A number of features that no molecule has, or a settings file that cannot be read.
    """
    system, atom = _atom_name(path, model_path)
    n_atoms = _count_atoms(table, path)
    index = names_of(atom)[1] - 1
    if alf is not None:
        words = alf.replace(",", " ").replace("_", " ").split()
        return TableAtom(system, atom, n_atoms, _parse_frame(words, index, n_atoms, alf_name), alf_name)
    frame, source = _find_frame(path, atom, index, n_atoms)
    return TableAtom(system, atom, n_atoms, frame, source)


def _atom_name(path: Path, model_path: Path) -> tuple[str, str]:
    """Names of system and atom from those of the files."""
    for pattern, name in ((_CSV_NAME, path.name), (_MODEL_NAME, model_path.name), (_ICHOR_NAME, path.name)):
        match = pattern.fullmatch(name)
        if match is not None:
            return match.groupdict().get("system") or path.absolute().parent.name, match["atom"]
    raise InputError(
        str(path),
        "the name of the atom in the name of a file",
        "none",
        "name the table SYSTEM_O1_TRAINING_SET.csv, or the output SYSTEM_iqa_O1.model",
    )


def _count_atoms(table: FeatureTable, path: Path) -> int:
    """Number of atoms from that of the features."""
    d = len(table.names)
    if d == 1:
        return 2
    if d % 3:
        raise FileFormatError(str(path), "3N-6 features (or one)", str(d), "features other than spherical ones?")
    return (d + 6) // 3


def _find_frame(path: Path, atom: str, index: int, n_atoms: int) -> tuple[Frame, str]:
    """The local frame of the atom, and where it comes from."""
    match = _ICHOR_FRAME.search(path.name)
    if match is not None:
        return _parse_frame(list(match.groups()), index, n_atoms, str(path)), "name of the table"
    settings = path.absolute().parent / SETTINGS_FILE
    if settings.is_file():
        words = _frame_in_settings(settings, atom)
        if words is not None:
            return _parse_frame(words, index, n_atoms, str(settings)), settings.name
    if n_atoms == 2:
        return (index, 1 - index, None), "the only other atom"
    last = n_atoms - 1
    others = (1, 2) if index == 0 else (last - 2, last - 1) if index == last else (index - 1, index + 1)
    return _parse_frame([str(k + 1) for k in (index, *others)], index, n_atoms, str(path)), ASSUMED


def _frame_in_settings(path: Path, atom: str) -> list[str] | None:
    """The local frame of an atom in the settings of FEREBUS; None if they do not name the atom."""
    content = read_toml(path)
    try:
        atoms = content.get("system", {}).get("atoms", [])
        for entry in atoms:
            if entry["name"] == atom:
                return [str(k) for k in entry["alf"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise FileFormatError(str(path), "system.atoms with name and alf", str(error), "or give --alf") from None
    return None


def _parse_frame(words: Sequence[str], index: int, n_atoms: int, where: str) -> Frame:
    """A local frame of the atom ``index`` from the numbers of its atoms, counted from 1."""
    numbers = [int(word) - 1 for word in words if is_count(word)]
    whole = len(numbers) == len(words) == (2 if n_atoms == 2 else 3)
    if not whole or len(set(numbers)) < len(numbers) or not all(0 <= k < n_atoms for k in numbers):
        raise InputError(where, f"the numbers of three different atoms up to {n_atoms}", " ".join(words) or "none")
    if numbers[0] != index:
        raise InputError(where, f"atom {index + 1} first", " ".join(words), "the frame of another atom?")
    return numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else None

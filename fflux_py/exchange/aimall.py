"""Results of AIMAll: one geometry from a ``.sum`` file, or from the ``.int`` files of its atoms and its ``.wfn`` file.

What is read, and how it is written there (AIMAll 19; atomic units throughout, which the files say themselves):

- ``.sum``: the table of nuclear charges and coordinates; tables with the header ``Atom A`` and one row for each atom,
  of which the columns ``q(A)``, ``L(A)``, ``E_IQA(A)`` are taken; the energy E(Mol) and charge of the wavefunction.
- ``.int``: one atom's ``q``, ``L`` and ``E_IQA(A)``; its file says the molecular energy, and not where the nuclei are.

Only reading happens here: no other program is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from ase.data import atomic_numbers

from fflux_py.errors import FileFormatError
from fflux_py.files import read_text
from fflux_py.molecules.molecule import is_element, read_only
from fflux_py.typing import FloatArray

_COLUMNS: Final = ("q(A)", "L(A)", "E_IQA(A)")
# Lines with one number, as regular expressions, with what is said where one is missing.
_ENERGY: Final = (r"Molecular energy E\(Mol\) from the wfn file:\s*(\S+)", "Molecular energy E(Mol) from the wfn file:")
_CHARGE: Final = (r"Molecular charge q\(Mol\) from the wfn file:\s*(\S+)", "Molecular charge q(Mol) from the wfn file:")
_INT_ENERGY: Final = (r"The molecular energy from the wfn file =\s*(\S+)", "The molecular energy from the wfn file =")
_INT_CHARGE: Final = (r"N =\s*\S+\s+q =\s*(\S+) = Net Charge", "N = ... q = ... = Net Charge")
_INT_LAGRANGIAN: Final = (r"L =\s*(\S+)", "L =")
_INT_IQA: Final = (r"E_IQA\(A\)\s*=\s*(\S+)", "E_IQA(A) =")
_TOTAL_ENERGY: Final = (r"TOTAL ENERGY =\s*(\S+)", "TOTAL ENERGY =")
_UNITS: Final = "Atomic units (a.u.) used throughout"
_AGREEMENT: Final = 1e-8
_LABEL: Final = re.compile(r"([A-Z][a-z]?)(\d{1,9})")
_NUCLEUS: Final = re.compile(
    r"\s*([A-Za-z]+)\s*(\d{1,9})\s+\(CENTRE\s*\d+\) (.{12})(.{12})(.{12})\s*CHARGE\s*=\s*(\S+)"
)


@dataclass(frozen=True)
class AIMAllResult:
    """Energies of the topological atoms at one geometry, as AIMAll found them.

    Parameters
    ----------
    path
        Where it was read.
    symbols, positions
        Elements, and positions in bohr, ``(n_atoms, 3)``.
    charge
        Charge of the molecule.
    energy
        Energy of the wavefunction, hartree.
    atomic_energies
        E_IQA(A), hartree, ``(n_atoms,)``; their sum differs from ``energy`` by the integration error.
    charges
        Net charges, e, ``(n_atoms,)``.
    lagrangians
        L(A) = K(A) - G(A), hartree, ``(n_atoms,)``: zero for an exact basin.
    model
        AIMAll's name of the method, for example ``Restricted B3LYP``.
    version
        AIMAll's version.
    """

    path: Path
    symbols: tuple[str, ...]
    positions: FloatArray
    charge: int
    energy: float
    atomic_energies: FloatArray
    charges: FloatArray
    lagrangians: FloatArray
    model: str
    version: str

    def __post_init__(self) -> None:
        for name in ("positions", "atomic_energies", "charges", "lagrangians"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def residual(self) -> float:
        """Sum of the atomic energies minus the energy, hartree."""
        return float(self.atomic_energies.sum() - self.energy)


def read_sum(path: Path) -> AIMAllResult:
    """Read a ``.sum`` file.

    Raises
    ------
    FileFormatError
        With ``file:line``: not such a file, other units, a table or an atom that is missing, a number that is none, a
        non-nuclear attractor, an effective core potential.
    """
    text = _Lines(path)
    if text.find(_UNITS) is None:
        raise FileFormatError(str(path), f"the line {_UNITS!r}", "none", "is this a .sum file of AIMAll?")
    symbols, positions = _nuclei(text)
    labels = [f"{s}{k + 1}" for k, s in enumerate(symbols)]
    columns = _atom_tables(text, labels)
    for name in _COLUMNS:
        if name not in columns:
            remedy = "run AIMAll with -encomp=3 or higher" if name.startswith("E_IQA") else "run AIMAll again"
            raise FileFormatError(f"{path}:{len(text)}", f"a table with the column {name}", "none", remedy)
    return AIMAllResult(
        path=path,
        symbols=symbols,
        positions=positions,
        charge=_whole(*text.number(_CHARGE)),
        energy=text.number(_ENERGY)[0],
        charges=columns["q(A)"],
        lagrangians=columns["L(A)"],
        atomic_energies=columns["E_IQA(A)"],
        model=text.after("Model:"),
        version=text.version(),
    )


def read_int(folder: Path, wavefunction: Path) -> AIMAllResult:
    """Read the ``.int`` files in ``folder``, one for each atom, and the nuclei in the file ``wavefunction`` (``.wfn``).

    Raises
    ------
    FileFormatError
        With ``file:line``: an atom without a file, a file that is cut off, energies of different wavefunctions.
    """
    symbols, positions, energy = _read_wavefunction(wavefunction)
    rows, models, versions = [], set(), set()
    for k, symbol in enumerate(symbols):
        path = folder / f"{symbol.lower()}{k + 1}.int"
        if not path.is_file():
            raise FileFormatError(str(path), f"the results of atom {symbol}{k + 1}", "no file", "run AIMAll again")
        text = _Lines(path)
        atom = text.after("Integration is over atom")
        if atom != f"{symbol}{k + 1}":
            raise FileFormatError(text.where("Integration is over atom"), f"atom {symbol}{k + 1}", atom)
        if text.find("AIMInt is Done.") is None:
            raise FileFormatError(f"{path}:{len(text)}", "the line 'AIMInt is Done.'", "the end of the file")
        molecular_energy, where = text.number(_INT_ENERGY)
        if abs(molecular_energy - energy) > _AGREEMENT * abs(energy):
            raise FileFormatError(where, f"{energy:.8f} hartree as in {wavefunction}", f"{molecular_energy:.8f}")
        rows.append([text.number(line)[0] for line in (_INT_CHARGE, _INT_LAGRANGIAN, _INT_IQA)])
        models.add(text.after("Model:"))
        versions.add(text.version())
    if len(models) > 1:
        raise FileFormatError(str(folder), "one model for all atoms", ", ".join(sorted(models)), "do not mix results")
    charges, lagrangians, energies = np.array(rows).T
    # The charge stands in no file; basins leave out less than a hundredth of an electron.
    charge = round(float(charges.sum()))
    return AIMAllResult(
        wavefunction, symbols, positions, charge, energy, energies, charges, lagrangians, models.pop(), max(versions)
    )


class _Lines:
    """The lines of a file, and where in them things stand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = read_text(path).splitlines()

    def __len__(self) -> int:
        return len(self.lines)

    def find(self, text: str, start: int = 0) -> int | None:
        """Index of the first line from ``start`` on that begins with ``text``, blanks aside."""
        return next((k for k in range(start, len(self.lines)) if self.lines[k].lstrip().startswith(text)), None)

    def where(self, text: str) -> str:
        """``file:line`` of the line that begins with ``text``; of the last one if there is none."""
        index = self.find(text)
        return f"{self.path}:{len(self.lines) if index is None else index + 1}"

    def after(self, text: str) -> str:
        """What follows ``text`` in its line."""
        index = self.find(text)
        if index is None:
            raise FileFormatError(self.where(text), f"the line {text!r}", "none", "is the file whole?")
        return self.lines[index].lstrip()[len(text) :].strip()

    def number(self, line: tuple[str, str]) -> tuple[float, str]:
        """The number in the first line that matches, and ``file:line``."""
        expression, words = re.compile(r"\s*" + line[0]), line[1]
        for k, candidate in enumerate(self.lines):
            match = expression.match(candidate)
            if match is not None:
                where = f"{self.path}:{k + 1}"
                return _number(match[1], where), where
        raise FileFormatError(f"{self.path}:{len(self)}", f"the line {words!r}", "none", "is the file whole?")

    def version(self) -> str:
        """AIMAll's version, in the first line."""
        match = re.search(r"AIM\w+ \(Version ([\d.]+)", self.lines[0] if self.lines else "")
        return match[1] if match else "unknown"


def _nuclei(text: _Lines) -> tuple[tuple[str, ...], FloatArray]:
    title = text.find("Nuclear Charges and Cartesian Coordinates:")
    if title is None:
        raise FileFormatError(f"{text.path}:{len(text)}", "the table of nuclear coordinates", "none")
    symbols: list[str] = []
    rows: list[list[float]] = []
    for k in range(title + 4, len(text)):
        words = text.lines[k].split()
        if not words:
            break
        where = f"{text.path}:{k + 1}"
        if len(words) != 5:
            raise FileFormatError(where, "a label, a charge and three coordinates", repr(text.lines[k].strip()))
        symbols.append(_element(words[0], len(symbols) + 1, _number(words[1], where), where))
        rows.append([_number(word, where) for word in words[2:]])
    if not rows:
        raise FileFormatError(f"{text.path}:{title + 1}", "nuclei", "none")
    return tuple(symbols), np.array(rows)


def _element(label: str, number: int, charge: float, where: str) -> str:
    match = _LABEL.fullmatch(label)
    if match is None or not is_element(match[1]) or int(match[2]) != number:
        raise FileFormatError(where, f"an element symbol with the number {number}", repr(label))
    if charge != atomic_numbers[match[1]]:
        unusual = f"{charge:g} (an effective core potential or a ghost atom)"
        raise FileFormatError(where, f"the nuclear charge {atomic_numbers[match[1]]} of {match[1]}", unusual)
    return match[1]


def _atom_tables(text: _Lines, labels: Sequence[str]) -> dict[str, FloatArray]:
    """All columns of all tables that have one row for each atom; of equal names the first one counts."""
    columns: dict[str, FloatArray] = {}
    for k, line in enumerate(text.lines[:-2]):
        names = line.split()[2:]
        if line.split()[:2] != ["Atom", "A"] or not set(names) & set(_COLUMNS) - set(columns):
            continue
        if not text.lines[k + 1].startswith("---"):
            continue
        values = np.empty((len(labels), len(names)))
        for row, label in enumerate(labels):
            index = k + 2 + row
            words = text.lines[index].split() if index < len(text) else []
            where = f"{text.path}:{min(index + 1, len(text))}"
            if words[:1] != [label] or len(words) != len(names) + 1:
                actual = repr(words[0]) if words and not words[0].startswith("--") else "the end of the table"
                raise FileFormatError(where, f"{len(names)} numbers of atom {label}", actual, "run AIMAll again")
            values[row] = [_number(word, where) for word in words[1:]]
        after = text.lines[k + 2 + len(labels)].split() if k + 2 + len(labels) < len(text) else []
        if after and not after[0].startswith("---"):
            remedy = (
                "the molecule has a non-nuclear attractor: its energy belongs to no nucleus, leave the geometry out"
            )
            raise FileFormatError(f"{text.path}:{k + 3 + len(labels)}", "the end of the table", repr(after[0]), remedy)
        columns.update({name: values[:, j] for j, name in enumerate(names) if name not in columns})
    return columns


def _read_wavefunction(path: Path) -> tuple[tuple[str, ...], FloatArray, float]:
    """Elements, positions (bohr) and energy (hartree) in an AIMPAC wavefunction file."""
    text = _Lines(path)
    symbols: list[str] = []
    rows: list[list[float]] = []
    for k, line in enumerate(text.lines):
        match = _NUCLEUS.match(line)
        if match is not None:
            where = f"{path}:{k + 1}"
            label = f"{match[1].capitalize()}{match[2]}"
            symbols.append(_element(label, len(symbols) + 1, _number(match[6], where), where))
            rows.append([_number(match[j].strip(), where) for j in (3, 4, 5)])
    if not rows:
        raise FileFormatError(str(path), "nuclei, as in 'O 1 (CENTRE 1) x y z CHARGE = 8.0'", "none")
    return tuple(symbols), np.array(rows), text.number(_TOTAL_ENERGY)[0]


def _number(word: str, where: str) -> float:
    try:
        value = float(word.replace("D", "E"))
    except ValueError:
        raise FileFormatError(where, "a number", repr(word)) from None
    if not np.isfinite(value):
        raise FileFormatError(where, "a finite number", word)
    return value


def _whole(charge: float, where: str) -> int:
    if abs(charge - round(charge)) > 1e-3:
        raise FileFormatError(where, "a whole molecular charge", f"{charge:g}")
    return round(charge)

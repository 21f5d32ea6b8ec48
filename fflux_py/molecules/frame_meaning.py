"""What a frame says besides elements and positions: charge, spin, masses, velocities, cell, units, constraints.

Programs write these under many names, into the comment line or into columns of an XYZ file, and into ``info`` and
``arrays`` of ASE's atoms.  Here is the one reading of them for every way in.  What bears a meaning is used (the
charge), refused with the reason (an open shell, isotopes, a periodic cell, another unit, fixed atoms), or told in one
line, as an :class:`~fflux_py.errors.InputWarning`, that it is not used (velocities).
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from ase.data import atomic_masses, atomic_numbers

from fflux_py.errors import FileFormatError, InputWarning

_CHARGE: Final = frozenset(
    "totalcharge charge netcharge totcharge molecularcharge moleculecharge molcharge systemcharge formalcharge "
    "totalformalcharge overallcharge chargetotal ioncharge chrg chg q qtot "
    "chargeoftwointegers".split()
)
_MULTIPLICITY: Final = frozenset(
    "multiplicity spinmultiplicity mult spinmult multip molecularmultiplicity moleculemultiplicity "
    "totalmultiplicity".split()
)
_SPIN: Final = frozenset("spin totalspin totspin netspin spinstate molecularspin".split())
_UNPAIRED: Final = frozenset(
    "uhf unpaired nunpaired unpairedelectrons nunpairedelectrons numunpairedelectrons 2s".split()
)
_PERIODICITY: Final = frozenset("pbc periodic periodicity".split())
_CELL: Final = frozenset("lattice cell unitcell box".split())
_UNITS: Final = frozenset(
    "units unit lengthunit lengthunits runit positionunit positionunits positionsunit positionsunits posunit "
    "coordinateunit coordinateunits coordinatesunit coordsunit coordunit".split()
)
_CONSTRAINTS: Final = frozenset("constraint constraints fixedatoms frozenatoms fixatoms frozen fixed".split())
UNNAMED_COLUMNS: Final = "unnamed_columns"
"""Key of a frame's ``info``: how many columns without a name its file has after the coordinates."""
_KEYS: Final = (
    _CHARGE | _MULTIPLICITY | _SPIN | _UNPAIRED | _PERIODICITY | _CELL | _UNITS | _CONSTRAINTS | {"unnamedcolumns"}
)

_CHARGE_COLUMNS: Final = frozenset("initialcharges initialcharge charges charge formalcharges formalcharge".split())
_MOMENT_COLUMNS: Final = frozenset("initialmagmoms initialmagmom magmoms magmom spins spin".split())
_MASS_COLUMNS: Final = frozenset("mass masses atomicmass atomicmasses isotope isotopes massnumber massnumbers".split())
_MOTION_COLUMNS: Final = frozenset("momenta momentum velocities velocity velo vel vels".split())
_MOVABLE_COLUMNS: Final = frozenset("movemask movable moveable mobile selectivedynamics".split())
_FIXED_COLUMNS: Final = frozenset("fixed fix isfixed frozen constraint constraints fixmask".split())

_ANGSTROM_NAMES: Final = frozenset("angstrom angstroms ang angs å metal real".split())
_MULTIPLICITY_NAMES: Final = {"singlet": 1, "doublet": 2, "triplet": 3, "quartet": 4, "quintet": 5}
_WHOLE: Final = re.compile(r"(?P<sign>[-+]?)(?P<size>\d{1,9})(\.0*)?|(?P<size2>\d{1,9})(?P<sign2>[-+])", re.ASCII)
_FALSE_WORDS: Final = frozenset("f false 0 none no off".split())
_MASS_TOLERANCE: Final = 5e-3
"""Relative; the most abundant isotope of carbon, nitrogen, oxygen, sulfur is within it of the standard mass."""
_CHARGE_TOLERANCE: Final = 0.05
"""How far, in e, a sum of atomic charges may be from the whole number that it stands for."""

_BARE_CHARGE: Final = "charge_of_two_integers"
_PAIR: Final = re.compile(
    r"""(?P<key>[A-Za-z][\w.-]*)\s*[=:]\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>[^\s"',;|]+))"""
)
_WORDS: Final = re.compile(r"(?<![\w.-])(?P<key>charge|multiplicity|mult|spin)\s+(?P<value>[-+]?\d+)(?![\w.])", re.I)
_PBC: Final = re.compile(r"\bpbc\s*[=:]\s*[\"'\[]?\s*(?P<value>(?:(?:T|F|0|1|True|False)\b[\s,]*){1,3})", re.I)
_IPI_UNIT: Final = re.compile(r"positions\{(?P<unit>\w+)\}")
_TWO_INTEGERS: Final = re.compile(r"\s*(?P<charge>[-+]?\d)\s+(?P<multiplicity>[1-9])\s*", re.ASCII)
_OTHER_LENGTHS: Final = re.compile(
    r"\b(bohrs?|a\.u\.|atomic[ _]units?|nanomet(?:er|re)s?|picomet(?:er|re)s?)(?!\w)", re.I
)


@dataclass(frozen=True)
class FrameMeaning:
    """What a frame, or all frames of a file, say about the molecule.

    Parameters
    ----------
    charge
        Net charge in e; None where nothing is said.
    notes
        What is there and is not used, or is used by a choice that is worth a word; one line each.
    velocities
        Columns that hold velocities or momenta, not all zero.  A start is told that they are not used; labels do not
        depend on them.
    """

    charge: int | None
    notes: tuple[str, ...] = ()
    velocities: tuple[str, ...] = ()


def bears_meaning(key: str) -> bool:
    """Whether a key of a comment line is one of those that :func:`interpret` reads."""
    return _plain_name(key) in _KEYS


def isotope_remedy(symbol: str) -> str:
    """What to do about a symbol that is no element; of D and T, why they are refused."""
    if symbol in ("D", "T"):
        return "isotopes are not supported, all masses are the standard ones: write H"
    return "correct the symbol"


def read_plain_comment(comment: str, where: str) -> dict[str, str | int]:
    """Those ``key=value`` pairs of a free comment line that bear a meaning; all other text is left alone.

    ``key: value`` counts too, as do ``charge -1`` in words, the comment ``charge multiplicity`` of two integers, i-PI's
    ``positions{unit}``, and another unit of length by its name.

    Raises
    ------
    FileFormatError
        A key twice with two values.
    """
    info: dict[str, str | int] = {}

    def add(key: str, text: str) -> None:
        value = int(text) if re.fullmatch(r"[-+]?\d{1,9}", text, re.ASCII) else text
        if info.setdefault(key, value) != value:
            raise FileFormatError(where, f"the key {key} once", f"{info[key]!r} and {value!r}", "remove one of them")

    for match in _PBC.finditer(comment):
        add("pbc", " ".join(match["value"].replace(",", " ").split()))
    for match in _PAIR.finditer(comment):
        if bears_meaning(match["key"]) and _plain_name(match["key"]) != "pbc":
            add(match["key"], next(match[name] for name in ("double", "single", "plain") if match[name] is not None))
    for match in _WORDS.finditer(comment):
        add(match["key"], match["value"])
    for match in _IPI_UNIT.finditer(comment):
        add("units", match["unit"])
    if not info and (numbers := _TWO_INTEGERS.fullmatch(comment)):
        info = {_BARE_CHARGE: int(numbers["charge"]), "multiplicity": int(numbers["multiplicity"])}
    units_named = any(_plain_name(key) in _UNITS for key in info)
    if not units_named and (other := _OTHER_LENGTHS.search(comment)) and "angstrom" not in comment.lower():
        info["units"] = other[1]
    return info


def interpret(
    symbols: Sequence[str],
    info: Mapping[str, object],
    columns: Mapping[str, np.ndarray],
    where: str,
    charge: int | None = None,
    default_charge: int = 0,
) -> FrameMeaning:
    """Read the meaning of one frame.

    Parameters
    ----------
    symbols
        Element symbols.
    info
        Values of the comment line, or ``info`` of ASE's atoms.
    columns
        Per-atom columns besides symbols and positions, ``(n_atoms,)`` or ``(n_atoms, k)``.
    where
        ``file:line``, or what else holds the frame, for messages.
    charge
        Net charge that is given otherwise, as an argument, and counts in place of what the frame says.
    default_charge
        Net charge of the molecule where neither says one.

    Raises
    ------
    FileFormatError
        Two charges, a charge that is no whole number, an open shell, masses other than the standard ones, a periodic
        cell, another unit of length than the angstrom, atoms that are fixed.
    """
    notes: list[str] = []
    check_length_unit(info, where)
    _check_constraints(info, columns, where)
    notes += _check_cell(info, where)
    notes += _check_masses(symbols, info, columns, where)
    stated = _charge(symbols, info, columns, where, notes) if charge is None else charge
    if charge is None and info.get(_BARE_CHARGE):
        notes.append(f"the comment line is read as charge {stated} and multiplicity {info['multiplicity']}")
    if info.get(UNNAMED_COLUMNS):
        notes.append(
            f"what stands after the coordinates ({info[UNNAMED_COLUMNS]} columns without a name) is not used: masses, "
            "charges and velocities are known by their names in Properties=..."
        )
    electrons = sum(atomic_numbers.get(s, 0) for s in symbols) - (default_charge if stated is None else stated)
    notes += _check_spin(info, columns, electrons, where)
    velocities = [k for k, column in columns.items() if _plain_name(k) in _MOTION_COLUMNS and _is_nonzero(column)]
    if "schema" not in info:
        notes += [
            f"the key {key} is not used"
            for key in info
            if re.search("charge|multiplicity|spin", key, re.I) and not bears_meaning(key)
        ]
    return FrameMeaning(stated, tuple(notes), tuple(velocities))


def interpret_all(
    frames: Iterable[tuple[Sequence[str], Mapping[str, object], Mapping[str, np.ndarray], int]],
    path: str,
    charge: int | None = None,
) -> FrameMeaning:
    """Read the meaning of all frames of a file, ``(symbols, info, columns, line)``; their charges must agree.

    Raises
    ------
    FileFormatError
        As :func:`interpret`; a charge that differs from that of the first frame.
    """
    first: FrameMeaning | None = None
    notes: dict[str, None] = {}
    for symbols, info, columns, line in frames:
        meaning = interpret(symbols, info, columns, f"{path}:{line}", charge)
        notes.update(dict.fromkeys(meaning.notes))
        if first is None:
            first = meaning
        elif (meaning.charge or 0) != (first.charge or 0):
            raise FileFormatError(
                f"{path}:{line}, charge", f"{first.charge or 0} as in the first frame", str(meaning.charge or 0),
                "make one file of each charge",
            )  # fmt: skip
    return FrameMeaning(first.charge if first else None, tuple(notes))


def tell(where: str, meaning: FrameMeaning, start: bool = False) -> None:
    """Warn of everything that is noted, once each; of velocities too if the frame is the start of something."""
    notes = list(meaning.notes)
    if start and meaning.velocities:
        names = " and ".join(meaning.velocities)
        notes.append(f"velocities ({names}) are not used: they are drawn anew where there is a temperature")
    for note in notes:
        warnings.warn(f"{where}: {note}", InputWarning, stacklevel=4)


def check_length_unit(info: Mapping[str, object], where: str) -> None:
    """Refuse a frame whose key ``units``, if there is one, does not name the angstrom."""
    for key, value in info.items():
        if _plain_name(key) in _UNITS:
            words = set(re.split(r"[\s,;]+", str(value).lower()))
            if not words & _ANGSTROM_NAMES and str(value) != "A":
                raise FileFormatError(where, "units with angstrom", f"{key}={value!r}", "convert the file to angstrom")


@functools.lru_cache(maxsize=1024)
def _plain_name(key: str) -> str:
    return re.sub(r"[\s_.-]+", "", key).lower()


def _whole_number(value: object, key: str, where: str) -> int:
    value = _scalar(value)
    if isinstance(value, str) and (match := _WHOLE.fullmatch(value.strip().replace("\N{MINUS SIGN}", "-"))):
        return int((match["sign"] or match["sign2"] or "") + (match["size"] or match["size2"]))
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 and value == int(value):
        return int(value)
    found = repr(value)
    raise FileFormatError(f"{where}, key {key}", "a whole number", found if len(found) < 60 else found[:57] + "...")


def _scalar(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray) and value.size == 1:
        return value.item()
    return value


def _charge(
    symbols: Sequence[str],
    info: Mapping[str, object],
    columns: Mapping[str, np.ndarray],
    where: str,
    notes: list[str],
) -> int | None:
    """The charge under all its names, which must agree; None if there is none."""
    stated = {key: _whole_number(value, key, where) for key, value in info.items() if _plain_name(key) in _CHARGE}
    for name, column in columns.items():
        if _plain_name(name) in _CHARGE_COLUMNS and column.dtype.kind in "fiu" and _is_nonzero(column):
            total = float(column.sum())
            if np.isfinite(total) and abs(total - round(total)) <= _CHARGE_TOLERANCE:
                stated[f"the sum of {name}"] = round(total)
            else:
                notes.append(f"the column {name} is not used: its sum, {total:g}, is no whole number")
    if len(set(stated.values())) > 1:
        found = " and ".join(f"{key}={value}" for key, value in stated.items())
        raise FileFormatError(f"{where}, charge", "one charge", found, "remove all but one")
    for key, value in stated.items():
        largest = sum(atomic_numbers.get(s, 0) for s in symbols)
        if abs(value) > largest:
            raise FileFormatError(f"{where}, key {key}", f"a charge of at most {largest}", str(value), "correct it")
        return value
    return None


def _check_spin(info: Mapping[str, object], columns: Mapping[str, np.ndarray], electrons: int, where: str) -> list[str]:
    """Refuse everything but closed shells; a note where ``spin=1`` is read as the multiplicity 1."""
    options: dict[str, set[int]] = {}
    for key, value in info.items():
        name = _plain_name(key)
        if name in _MULTIPLICITY:
            word = str(value).strip().lower()
            known = _MULTIPLICITY_NAMES.get(word)
            options[f"{key}={value}"] = {known if known is not None else _whole_number(value, key, where)}
        elif name in _UNPAIRED:
            options[f"{key}={value}"] = {abs(_whole_number(value, key, where)) + 1}
        elif name in _SPIN:
            options[f"{key}={value}"] = _multiplicities(value, key, where)
    for name, column in columns.items():
        if _plain_name(name) in _MOMENT_COLUMNS and column.dtype.kind in "fiu" and _is_nonzero(column):
            options[f"a sum of {name} of {column.sum():g}"] = {round(abs(float(np.nan_to_num(column).sum()))) + 1}
    if not options:
        return []
    possible = set.intersection(*options.values())
    text = " and ".join(options)
    if not possible:
        raise FileFormatError(f"{where}, spin", "spins that agree", text, "remove all but one")
    if 1 not in possible:
        raise FileFormatError(
            f"{where}, spin", "a closed shell (multiplicity 1)", text,
            "open shells are not supported; if this means something else, remove it",
        )  # fmt: skip
    if electrons % 2:
        raise FileFormatError(
            f"{where}, spin", "a charge and a multiplicity that go together",
            f"{text} with {electrons} electrons", "correct the charge, or the multiplicity",
        )  # fmt: skip
    if possible != {1}:
        return [f"{text} is read as the multiplicity 1, a closed shell (write multiplicity=1)"]
    return []


def _multiplicities(value: object, key: str, where: str) -> set[int]:
    """What a number called spin can mean: S, 2 S, or 2 S + 1."""
    value = _scalar(value)
    if isinstance(value, bool):
        return {1} if not value else {2, 3}
    if str(value).strip().lower() in _MULTIPLICITY_NAMES:
        return {_MULTIPLICITY_NAMES[str(value).strip().lower()]}
    text = str(value).strip()
    if half := re.fullmatch(r"(\d{1,3})/2", text, re.ASCII):
        return {int(half[1]) + 1}
    if re.fullmatch(r"\d{1,3}\.5", text, re.ASCII):
        return {round(2 * float(text)) + 1}
    number = abs(_whole_number(value, key, where))
    return {1} if number == 0 else {number, number + 1, 2 * number + 1}


def _check_cell(info: Mapping[str, object], where: str) -> list[str]:
    """Refuse periodic boundaries; a note on a cell without a word on them."""
    stated = False
    for key, value in info.items():
        if _plain_name(key) in _PERIODICITY:
            stated = True
            if _is_true(value):
                raise FileFormatError(
                    f"{where}, key {key}", "no periodic boundaries (one isolated molecule)", f"{key}={value!r}",
                    'make the molecule whole, then write pbc="F F F"',
                )  # fmt: skip
    cells = [key for key, value in info.items() if _plain_name(key) in _CELL and re.search("[1-9]", str(value))]
    if stated:
        return []
    return [f"the cell in {key} is not used: the molecule is taken to be isolated and whole" for key in cells]


def _check_masses(
    symbols: Sequence[str], info: Mapping[str, object], columns: Mapping[str, np.ndarray], where: str
) -> list[str]:
    """Refuse isotopes; a note on masses that only differ a little from the standard ones."""
    notes = []
    for name, column in columns.items():
        if _plain_name(name) not in _MASS_COLUMNS:
            continue
        if "hydrogen_mass" in info:
            notes.append(f"the column {name} of a run with heavier hydrogens is not used: give the hydrogen mass again")
            continue
        standard = np.array([atomic_masses[atomic_numbers[s]] for s in symbols])
        given = np.asarray(column)
        if given.dtype.kind not in "fiu" or given.shape != standard.shape:
            raise FileFormatError(f"{where}, column {name}", "one mass for each atom", f"shape {given.shape}")
        whole = "number" in _plain_name(name) or "isotope" in _plain_name(name)
        unset = (given == 0) if whole else np.zeros(len(given), dtype=bool)
        limit = np.where(whole, np.maximum(0.6, _MASS_TOLERANCE * standard), _MASS_TOLERANCE * standard)
        wrong = ~unset & ~(np.abs(given - standard) <= limit)
        if wrong.any():
            k = int(np.flatnonzero(wrong)[0])
            raise FileFormatError(
                f"{where}, column {name}, atom {k + 1}", f"the standard mass of {symbols[k]}, {standard[k]:g} Da",
                f"{given[k]:g}", "isotopes are not supported: remove the column to use the standard masses",
            )  # fmt: skip
        if not whole and (np.abs(given - standard) > 1e-4 * standard).any():
            notes.append(f"the column {name} is not used: the standard masses are taken")
    return notes


def _check_constraints(info: Mapping[str, object], columns: Mapping[str, np.ndarray], where: str) -> None:
    """Refuse a frame in which something is fixed."""
    for name, column in columns.items():
        kind = _plain_name(name)
        if kind in _MOVABLE_COLUMNS | _FIXED_COLUMNS:
            flags = np.array([_is_true(value) for value in np.asarray(column).ravel().tolist()])
            fixed = ~flags if kind in _MOVABLE_COLUMNS else flags
            if fixed.any():
                atom = int(np.flatnonzero(fixed)[0]) // max(1, len(fixed) // len(column)) + 1
                raise _fixed(f"{where}, column {name}", f"atom {atom} fixed", "column")
    for key, value in info.items():
        if _plain_name(key) in _CONSTRAINTS and _is_true(value):
            raise _fixed(f"{where}, key {key}", f"{key}={value!r}", "key")


def _fixed(where: str, found: str, what: str) -> FileFormatError:
    remedy = f"constraints are not supported: remove the {what} to let all atoms move"
    return FileFormatError(where, "atoms that are all free to move", found, remedy)


def _is_true(value: object) -> bool:
    """Whether a flag, or any of a list of them, is set; every word that does not deny is taken as a yes."""
    words = re.split(r"[\s,\[\]{}()]+", str(value).strip().lower())
    return any(word not in _FALSE_WORDS for word in words if word)


def _is_nonzero(column: np.ndarray) -> bool:
    return bool(np.asarray(column).dtype.kind in "fiub" and np.any(np.asarray(column) != 0))

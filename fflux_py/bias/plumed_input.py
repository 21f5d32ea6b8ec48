"""PLUMED input files: the part of the language that describes a metadynamics on torsions, angles and distances.

Actions: ``UNITS``, ``TORSION``, ``ANGLE``, ``DISTANCE``, one ``METAD`` or ``PBMETAD``, and ``PRINT``; labels (``phi:
TORSION`` or ``LABEL=phi``), comments, lines continued with ``...``, ``pi`` in numbers, and units as in PLUMED (nm,
kJ/mol, ps).  Everything else is refused by its name: a bias that is not quite what the file says would be worse than
none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.bias.collective_variables import CollectiveVariable, VariableKind
from fflux_py.bias.grid import MOST_POINTS, Grid
from fflux_py.bias.metadynamics import BiasSettings, HillParameters
from fflux_py.bias.plumed_files import PlumedUnits, number
from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import read_text
from fflux_py.units import ANGSTROM, EV, FEMTOSECOND, KCAL_MOL, KJ_MOL

_VARIABLES: Final[dict[str, VariableKind]] = {"TORSION": "torsion", "ANGLE": "angle", "DISTANCE": "distance"}
_BIASES: Final = ("METAD", "PBMETAD")
_KEYWORDS: Final = {
    **dict.fromkeys(_VARIABLES, ("ATOMS",)),
    **dict.fromkeys(_BIASES, ("ARG", "SIGMA", "HEIGHT", "PACE", "BIASFACTOR", "TEMP", "FILE", "GRID_MIN", "GRID_MAX",
                              "GRID_BIN", "GRID_SPACING")),
    "UNITS": ("LENGTH", "ENERGY", "TIME"),
    "PRINT": ("ARG", "STRIDE", "FILE"),
}  # fmt: skip
# The molecule is free, so that NOPBC changes nothing; c(t) is always at hand.
_WALKERS: Final = {"METAD": "WALKERS_MPI", "PBMETAD": "MULTIPLE_WALKERS"}
_FLAGS: Final = {
    **dict.fromkeys(_VARIABLES, ("NOPBC",)),
    "METAD": ("CALC_RCT", _WALKERS["METAD"]),
    "PBMETAD": (_WALKERS["PBMETAD"],),
}
_LENGTHS: Final = {"nm": 0.1 * ANGSTROM, "A": ANGSTROM, "um": 1e-4 * ANGSTROM, "Bohr": 1.0}
_ENERGIES: Final = {"kj/mol": KJ_MOL, "j/mol": 1e3 * KJ_MOL, "kcal/mol": KCAL_MOL, "eV": EV, "Ha": 1.0}
_TIMES: Final = {"ps": 1e-3 * FEMTOSECOND, "fs": FEMTOSECOND, "ns": 1e-6 * FEMTOSECOND, "atomic": 1.0}
# PLUMED's base units, in which a number after UNITS counts.
_BASE: Final = {"LENGTH": 0.1 * ANGSTROM, "ENERGY": KJ_MOL, "TIME": 1e-3 * FEMTOSECOND}


@dataclass(frozen=True)
class Print:
    """A ``PRINT`` action: which columns, every how many steps, into which file."""

    columns: tuple[str, ...]
    stride: int
    file: str


@dataclass(frozen=True)
class PlumedInput:
    """What a PLUMED input file says.

    Parameters
    ----------
    bias
        Variables, hills, grid.
    variables
        All variables of the file, biased or not.
    label
        Label of the bias, as in ``metad.bias``.
    temperature
        ``TEMP`` in kelvin, or None.
    files
        Names of the HILLS files: one, or one for each variable of a parallel bias.
    prints
        ``PRINT`` actions.
    units
        Units of the input and of all files.
    walkers
        Whether all replicas of a run share one bias (``WALKERS_MPI``, ``MULTIPLE_WALKERS``).
    text
        The file itself, from which :func:`parse_plumed_input` makes the same again, bit for bit.
    """

    bias: BiasSettings
    variables: tuple[CollectiveVariable, ...]
    label: str
    temperature: float | None
    files: tuple[str, ...]
    prints: tuple[Print, ...]
    units: PlumedUnits
    walkers: bool = False
    text: str = ""


@dataclass(frozen=True)
class _Action:
    """One action of the file and where it stands."""

    name: str
    label: str
    keywords: Mapping[str, str]
    where: str
    flags: frozenset[str] = frozenset()

    def text(self, key: str) -> str:
        if key not in self.keywords:
            raise FileFormatError(f"{self.where}, {self.name}", f"the keyword {key}", "none")
        return self.keywords[key]

    def words(self, key: str, count: int | None = None) -> list[str]:
        words = [word for word in self.text(key).strip("{}").split(",") if word]
        if not words or (count is not None and len(words) != count):
            expected = f"{count} values" if count else "values"
            raise FileFormatError(f"{self.where}, {key}", expected, repr(self.text(key)))
        return words

    def numbers(self, key: str, count: int) -> list[float]:
        try:
            return [number(word) for word in self.words(key, count)]
        except InputError as error:
            raise FileFormatError(f"{self.where}, {key}", error.expected, error.found) from None

    def integers(self, key: str, count: int | None = None) -> list[int]:
        words = self.words(key, count)
        if not all(re.fullmatch(r"\d{1,18}", word, re.ASCII) for word in words):
            raise FileFormatError(f"{self.where}, {key}", "whole numbers", repr(self.text(key)))
        return [int(word) for word in words]


def read_plumed_input(path: str | os.PathLike[str]) -> PlumedInput:
    """Read a PLUMED input file: :func:`parse_plumed_input` of its text."""
    return parse_plumed_input(read_text(path), str(path))


def parse_plumed_input(text: str, path: str) -> PlumedInput:
    """What a PLUMED input says.

    Parameters
    ----------
    text
        The input.
    path
        Its name, for errors.

    Raises
    ------
    FileFormatError
        With ``file:line``: an action or a keyword that is not in the list above, an unknown label, a missing keyword, a
        wrong number; no bias, or more than one.
    """
    units, variables = PlumedUnits(), dict[str, CollectiveVariable]()
    bias: _Action | None = None
    prints: list[_Action] = []
    for count, action in enumerate(_actions(text, path)):
        if action.name == "UNITS":
            if count:
                raise FileFormatError(f"{action.where}, UNITS", "UNITS before all other actions", "it after others")
            units = _units(action)
        elif action.name in _VARIABLES:
            if action.label in variables:
                raise FileFormatError(action.where, "different labels", f"{action.label!r} twice")
            variables[action.label] = _variable(action)
        elif action.name == "PRINT":
            prints.append(action)
        elif bias is None:
            bias = action
        else:
            raise FileFormatError(action.where, "one METAD or PBMETAD", f"{action.name} after {bias.name}")
    if bias is None:
        raise FileFormatError(path, "an action METAD or PBMETAD", "none")
    settings, files = _settings(bias, variables, units)
    temperature = bias.numbers("TEMP", 1)[0] if "TEMP" in bias.keywords else None
    if temperature is not None and not temperature > 0.0:
        raise FileFormatError(f"{bias.where}, TEMP", "a positive number of kelvin", f"{temperature:g}")
    # PLUMED names actions without a label @ and their number; metad is what everybody calls the bias.
    label = bias.label or "metad"
    energies = [f"{label}.bias"] if settings.parallel else [f"{label}.bias", f"{label}.rct", f"{label}.rbias"]
    return PlumedInput(
        settings,
        tuple(variables.values()),
        label,
        temperature,
        files,
        tuple(_print(p, [*variables], energies) for p in prints),
        units,
        _WALKERS[bias.name] in bias.flags,
        text,
    )


def _actions(text: str, path: str) -> Iterator[_Action]:
    words: list[str] = []
    begin, open_action = 0, False
    for line_number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}:{line_number}"
        parts = line.split("#", 1)[0].split()
        if not parts:
            continue
        if parts[0] == "ENDPLUMED":
            break
        if open_action:
            if parts[0] == "...":
                if len(parts) > 1 and parts[1] not in words[:2]:
                    raise FileFormatError(where, f"the end of {words[0]}", " ".join(parts))
                open_action = False
            else:
                words += parts
        else:
            begin, open_action = line_number, parts[-1] == "..."
            words = parts[:-1] if open_action else parts
        if not open_action:
            yield _action(words, f"{path}:{begin}")
    if open_action:
        raise FileFormatError(f"{path}:{begin}", "a line '...' that ends the action", "the end of the file")


def _action(words: list[str], where: str) -> _Action:
    label = ""
    if words and words[0].endswith(":"):
        label, words = words[0][:-1], words[1:]
    if not words:
        raise FileFormatError(where, "an action after the label", "nothing")
    name, rest = words[0], words[1:]
    if name not in _KEYWORDS:
        raise FileFormatError(where, f"one of the actions {', '.join(_KEYWORDS)}", name,
                              "this action is not supported")  # fmt: skip
    keywords: dict[str, str] = {}
    flags: set[str] = set()
    for word in rest:
        key, equals, value = word.partition("=")
        if key == "LABEL" and equals:
            label = value
        elif not equals and key in _FLAGS.get(name, ()):
            flags.add(key)
        elif not equals or key not in _KEYWORDS[name]:
            known = ", ".join((*_KEYWORDS[name], *_FLAGS.get(name, ())))
            raise FileFormatError(f"{where}, {name}", f"one of the keywords {known}", word,
                                  "this keyword is not supported")  # fmt: skip
        elif key in keywords:
            raise FileFormatError(f"{where}, {name}", f"{key} once", "it twice")
        else:
            keywords[key] = value
    return _Action(name, label, keywords, where, frozenset(flags))


def _units(action: _Action) -> PlumedUnits:
    factors: dict[str, float] = {}
    for key, names in (("LENGTH", _LENGTHS), ("ENERGY", _ENERGIES), ("TIME", _TIMES)):
        if key not in action.keywords:
            continue
        word = action.text(key)
        if word in names:
            factors[key.lower()] = names[word]
            continue
        try:
            value = float(word)
        except ValueError:
            value = np.nan
        if not (np.isfinite(value) and value > 0.0):
            raise FileFormatError(f"{action.where}, {key}", f"a number or one of {', '.join(names)}", repr(word))
        factors[key.lower()] = _BASE[key] / value
    return PlumedUnits(**factors)


def _variable(action: _Action) -> CollectiveVariable:
    if not action.label:
        raise FileFormatError(f"{action.where}, {action.name}", "a label", "none", f"write 'name: {action.name} ...'")
    atoms = [atom - 1 for atom in action.integers("ATOMS")]
    try:
        return CollectiveVariable(_VARIABLES[action.name], tuple(atoms), action.label)
    except InputError as error:
        raise FileFormatError(f"{action.where}, {action.name} {action.label}", error.expected, error.found) from None


def _settings(
    action: _Action, defined: Mapping[str, CollectiveVariable], units: PlumedUnits
) -> tuple[BiasSettings, tuple[str, ...]]:
    labels = action.words("ARG")
    for label in labels:
        if label not in defined:
            raise FileFormatError(f"{action.where}, ARG", f"one of {', '.join(defined) or 'no variables'}", label)
    variables = tuple(defined[label] for label in labels)
    factors = [units.of(v) for v in variables]
    sigmas = [s / f for s, f in zip(action.numbers("SIGMA", len(variables)), factors, strict=True)]
    parallel = action.name == "PBMETAD"
    names = [f"HILLS.{label}" for label in labels] if parallel else ["HILLS"]
    files = action.words("FILE", len(names)) if "FILE" in action.keywords else names
    factor = action.keywords.get("BIASFACTOR")
    gamma = np.inf if factor is None or factor == "inf" else action.numbers("BIASFACTOR", 1)[0]
    height = action.numbers("HEIGHT", 1)[0] / units.energy
    try:
        hills = HillParameters(height, tuple(sigmas), gamma, action.integers("PACE", 1)[0])
        return BiasSettings(variables, hills, parallel, _grid(action, variables, units)), tuple(files)
    except InputError as error:
        raise FileFormatError(f"{action.where}, {action.name}, {error.where}", error.expected, error.found,
                              error.remedy) from None  # fmt: skip


def _grid(action: _Action, variables: tuple[CollectiveVariable, ...], units: PlumedUnits) -> Grid | None:
    """The grid; without bins or spacing a fifth of sigma, and of bins and spacing the finer, as in PLUMED."""
    given = [key for key in ("GRID_MIN", "GRID_MAX", "GRID_BIN", "GRID_SPACING") if key in action.keywords]
    if not given:
        return None
    k = len(variables)
    low, high = action.numbers("GRID_MIN", k), action.numbers("GRID_MAX", k)
    if "GRID_SPACING" in given or "GRID_BIN" not in given:
        key, scale = ("GRID_SPACING", 1.0) if "GRID_SPACING" in given else ("SIGMA", 0.2)
        steps = [scale * x for x in action.numbers(key, k)]
        bins = [
            int(min((b - a) / step, MOST_POINTS)) + 1 if step > 0.0 else 0
            for a, b, step in zip(low, high, steps, strict=True)
        ]
    else:
        bins = [0] * k
    if "GRID_BIN" in given:
        bins = [max(a, b) for a, b in zip(bins, action.integers("GRID_BIN", k), strict=True)]
    factors = [units.of(v) for v in variables]
    minima = tuple(a / f for a, f in zip(low, factors, strict=True))
    maxima = tuple(b / f for b, f in zip(high, factors, strict=True))
    return Grid(variables, minima, maxima, tuple(bins))


def _print(action: _Action, labels: list[str], energies: list[str]) -> Print:
    names: list[str] = []
    for name in action.words("ARG"):
        names += energies if name == energies[0].replace(".bias", ".*") else labels if name == "*" else [name]
    for name in names:
        if name not in (*labels, *energies):
            raise FileFormatError(f"{action.where}, ARG", f"one of {', '.join((*labels, *energies))}", name)
    stride = action.integers("STRIDE", 1)[0] if "STRIDE" in action.keywords else 1
    if stride < 1:
        raise FileFormatError(f"{action.where}, STRIDE", "at least 1", str(stride))
    return Print(tuple(names), stride, action.keywords.get("FILE", "COLVAR"))

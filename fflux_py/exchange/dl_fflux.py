"""Folders of DL_FFLUX: ``CONFIG``, ``CONTROL``, ``FIELD`` and ``model_krig`` with a ``.model`` file for each atom.

DL_FFLUX is DL_POLY 4 with Gaussian processes in place of bonded terms.  An atom of ``CONFIG`` carries, after its
element and number, the label ``SYSTEM_O1`` that names its model; a molecule is a run of labels counting from 1.
Positions are in angstrom, with DL_FFLUX' own value of the bohr.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py.errors import FFLUXError, FileFormatError, InputError, ReorderedAtomsWarning
from fflux_py.exchange._words import integer, real, table
from fflux_py.exchange.ferebus.folder import DL_FFLUX_FOLDER, read_models, write_models
from fflux_py.exchange.ferebus.forcefield import model_texts, to_forcefield
from fflux_py.files import read_text, write_atomically
from fflux_py.forcefield import ForceField
from fflux_py.molecules.molecule import Molecule, read_only
from fflux_py.typing import FloatArray
from fflux_py.units import DALTON, FEMTOSECOND

BOHR: Final = 0.52917721067
"""One bohr in angstrom as DL_FFLUX has it (CODATA 2014)."""

_LONGEST_TITLE: Final = 72
_LABEL: Final = re.compile(r"(?P<system>.+)_(?P<element>[A-Za-z]{1,2})(?P<number>\d{1,9})")


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run of DL_FFLUX on one molecule at constant temperature.

    Parameters
    ----------
    temperature
        Kelvin; Nose-Hoover.
    relaxation_time
        Of the thermostat, atomic units of time.
    timestep
        Atomic units of time.
    n_steps
        Number of steps.
    print_every
        Steps between two outputs.
    cell
        Edge of the cubic cell in bohr.  It must exceed twice the cutoff of 8 angstrom.
    """

    temperature: float = 300.0
    relaxation_time: float = 25.0 / FEMTOSECOND
    timestep: float = 0.5 / FEMTOSECOND
    n_steps: int = 10_000
    print_every: int = 1
    cell: float = 50.0 / BOHR

    def __post_init__(self) -> None:
        for name in ("temperature", "relaxation_time", "timestep"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0.0):
                raise InputError(name, "a positive number", str(getattr(self, name)))
        for name in ("n_steps", "print_every"):
            if getattr(self, name) < 1:
                raise InputError(name, "a positive number", str(getattr(self, name)))
        if not self.cell * BOHR > 2.0 * _CUTOFF:
            raise InputError("cell", f"more than {2.0 * _CUTOFF:g} angstrom", f"{self.cell * BOHR:g} angstrom")


_CUTOFF: Final = 8.0


@dataclass(frozen=True)
class Species:
    """All molecules of one kind in a box.

    Parameters
    ----------
    name
        The system's name in labels and file names.
    forcefield
        Its models.
    positions
        Bohr, shape ``(n_molecules, n_atoms, 3)``; molecules are whole, whatever the periodic boundaries.
    """

    name: str
    forcefield: ForceField
    positions: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", read_only(self.positions))


@dataclass(frozen=True)
class Config:
    """What stands in a ``CONFIG`` file.

    Parameters
    ----------
    title
        Its first line.
    symbols, labels
        Elements and labels (``SYSTEM_ATOM``) of all atoms.
    positions
        Bohr, shape ``(n_atoms, 3)``.
    cell
        The cell's vectors as rows, bohr, shape ``(3, 3)``; None if there is none.
    """

    title: str
    symbols: tuple[str, ...]
    labels: tuple[str, ...]
    positions: FloatArray
    cell: FloatArray | None = field(default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", read_only(self.positions))
        if self.cell is not None:
            object.__setattr__(self, "cell", read_only(self.cell))


def write_dl_fflux(
    folder: str | os.PathLike[str],
    forcefield: ForceField,
    molecule: Molecule | None = None,
    settings: RunSettings | None = None,
) -> tuple[Path, ...]:
    """Write what DL_FFLUX needs to run one molecule, without electrostatics between molecules; return the paths.

    Parameters
    ----------
    folder
        A folder, made if it is not there.
    forcefield
        Its models must be ones that a ``.model`` file can represent, and must wrap azimuths.
    molecule
        The geometry to start from, in any order of atoms; that of the force field if not given.
    settings
        Of the run.

    Raises
    ------
    InputError
        A model that DL_FFLUX cannot evaluate, with what to train instead.
    """
    settings = settings or RunSettings()
    start = molecule or forcefield.molecule
    matching = forcefield.match_or_keep(start)
    if not matching.identity:
        text = f"{start.name}: {matching.describe()} to fit the models; the files are in their order"
        warnings.warn(text, ReorderedAtomsWarning, stacklevel=2)
    start = matching.reorder(start)
    if forcefield.molecule.n_atoms > 3 and forcefield.atoms[0].covariance.azimuth == "rbf":
        raise InputError(
            "model",
            "azimuths with a period",
            "a kernel that does not wrap them",
            "DL_FFLUX wraps them in every rbf: train with the periodic kernel",
        )
    texts = model_texts(forcefield)
    target, name = Path(folder), texts[0].system
    target.mkdir(exist_ok=True)
    paths = list(write_models(target / DL_FFLUX_FOLDER, texts))
    labels = tuple(f"{name}_{s}{k + 1}" for k, s in enumerate(start.symbols))
    centred = start.positions - start.positions.mean(0)
    config = Config(name, start.symbols, labels, centred, settings.cell * np.eye(3))
    for file, text in (
        ("CONFIG", format_config(config)),
        ("CONTROL", _control(name, settings)),
        ("FIELD", _field(name, start)),
    ):
        write_atomically(target / file, text)
        paths.append(target / file)
    return tuple(paths)


def read_dl_fflux(folder: str | os.PathLike[str]) -> tuple[Species, ...]:
    """Read the molecules of ``CONFIG`` with the models of ``model_krig``.

    Returns
    -------
    One entry for every kind of molecule, in the order in which they appear; atoms in the order of the models.

    Raises
    ------
    FileFormatError
        A file that is not there or not whole, labels that are not runs of whole molecules, or atoms without models.
    """
    where = Path(folder) / "CONFIG"
    config = parse_config(read_text(where), str(where))
    by_system: dict[str, list[FloatArray]] = {}
    elements: dict[str, tuple[str, ...]] = {}
    for system, atoms in _molecules(config, str(where)):
        symbols = tuple(config.symbols[k] for k in atoms)
        if elements.setdefault(system, symbols) != symbols:
            first = f"{system} as {' '.join(elements[system])}"
            raise FileFormatError(f"{where}, atom {atoms[0] + 1}", first, " ".join(symbols))
        by_system.setdefault(system, []).append(_whole(config.positions[atoms], config.cell))
    models = Path(folder) / DL_FFLUX_FOLDER
    species = []
    for system, positions in by_system.items():
        molecule = Molecule(elements[system], positions[0], 0, system)
        try:
            forcefield = to_forcefield(read_models(models, system), molecule)
            order = [forcefield.match_or_keep(molecule.with_positions(geometry)) for geometry in positions]
        except FFLUXError as error:
            if str(models) in error.where:
                raise
            raise type(error)(f"{models}, {error.where}", error.expected, error.found, error.remedy) from None
        in_order = [matching.to_reference(geometry) for matching, geometry in zip(order, positions, strict=True)]
        species.append(Species(system, forcefield, np.array(in_order)))
    return tuple(species)


def parse_config(text: str, path: str) -> Config:
    """Read the text of a ``CONFIG`` file (levels 0 to 2, any cell given by vectors).

    Parameters
    ----------
    text, path
        The text, and the name of the file for messages.

    Raises
    ------
    FileFormatError
        With the number of the line.
    """
    lines = text.splitlines()
    if len(lines) < 2:
        raise FileFormatError(path, "a title and a line of numbers", f"{len(lines)} lines", "is this a CONFIG file?")
    head = lines[1].split()
    if len(head) < 2:
        raise FileFormatError(f"{path}:2", "the level and the kind of the cell", " ".join(head) or "nothing")
    level, kind = integer(head[0], f"{path}:2"), integer(head[1], f"{path}:2")
    if level not in (0, 1, 2) or kind not in (0, 1, 2, 3):
        raise FileFormatError(f"{path}:2", "a level of 0 to 2 and a cell of kind 0 to 3", f"{level} and {kind}")
    first = 2
    cell = None
    if kind:
        rows, first = [line.split()[:3] for line in lines[2:5]], 5
        if len(rows) < 3:
            raise FileFormatError(path, "three vectors of the cell", f"{len(rows)} lines", "is the file whole?")
        cell = table(rows, [3, 4, 5], 3, path) / BOHR
        if abs(np.linalg.det(cell)) < 1e-6:
            raise FileFormatError(f"{path}:3", "three vectors that span a cell", "a flat one")
    symbols, labels, positions = [], [], []
    body = [(k, line.split()) for k, line in enumerate(lines[first:], start=first + 1) if line.strip()]
    block = 2 + level
    for begin in range(0, len(body), block):
        number, words = body[begin]
        if len(body) < begin + block:
            raise FileFormatError(f"{path}:{number}", f"{block} lines for each atom", "fewer", "is the file whole?")
        if len(words) < 3:
            raise FileFormatError(f"{path}:{number}", "element, number and label of an atom", " ".join(words))
        integer(words[1], f"{path}:{number}")
        number, numbers = body[begin + 1]
        if len(numbers) != 3:
            raise FileFormatError(f"{path}:{number}", "three coordinates", f"{len(numbers)} words")
        symbols.append(words[0])
        labels.append(words[2])
        positions.append([real(word, f"{path}:{number}") / BOHR for word in numbers])
    if not symbols:
        raise FileFormatError(path, "at least one atom", "none", "is the file whole?")
    if len(head) > 2 and integer(head[2], f"{path}:2") != len(symbols):
        raise FileFormatError(f"{path}:2", f"{head[2]} atoms", str(len(symbols)), "is the file whole?")
    return Config(lines[0].strip(), tuple(symbols), tuple(labels), np.array(positions), cell)


def format_config(config: Config) -> str:
    """The text of a ``CONFIG`` file without velocities."""
    n = len(config.symbols)
    lines = [config.title[:_LONGEST_TITLE], f"{0:10d}{1 if config.cell is not None else 0:10d}{n:10d}"]
    if config.cell is not None:
        if not np.allclose(config.cell, config.cell[0, 0] * np.eye(3)):
            lines[1] = f"{0:10d}{3:10d}{n:10d}"
        lines += ["".join(f"{x * BOHR:20.12f}" for x in row) for row in config.cell]
    for k, (symbol, label, position) in enumerate(zip(config.symbols, config.labels, config.positions, strict=True)):
        lines.append(f"{symbol}  {k + 1}  {label}")
        lines.append("".join(f"{x * BOHR:24.14f}" for x in position))
    return "\n".join(lines) + "\n"


def _control(name: str, settings: RunSettings) -> str:
    picoseconds = FEMTOSECOND * 1e-3
    return f"""Title: {name}
ensemble nvt hoover {settings.relaxation_time * picoseconds:g}
temperature {settings.temperature:g}
timestep {settings.timestep * picoseconds:g}
steps {settings.n_steps}
cutoff {_CUTOFF:g}
rvdw {_CUTOFF:g}
vdw direct
vdw shift
fflux cluster L1
fflux print 0 1
dump 1000
traj 0 {settings.print_every} 0
print every {settings.print_every}
stats every {settings.print_every}
job time 10000000
close time 20000
finish
"""


def _field(name: str, molecule: Molecule) -> str:
    """Every pair of atoms is a bond of no strength, which takes it out of all other interactions.

    Angles and dihedrals of no strength would do it too, but are not defined where atoms stand on a line.
    """
    n = molecule.n_atoms
    pairs = [(i, j) for i in range(1, n + 1) for j in range(i + 1, n + 1)]
    lines = [f"FIELD of {name}", "Units kJ", "Molecular types 1", name, "nummols 1", f"atoms {n}"]
    masses = molecule.masses * DALTON
    lines += [f"{symbol}  {mass:.7f}  0.0  1  0" for symbol, mass in zip(molecule.symbols, masses, strict=True)]
    lines += [f"BONDS {len(pairs)}", *(f"harm {i} {j} 0.0 0.0" for i, j in pairs), "finish", "close"]
    return "\n".join(lines) + "\n"


def _molecules(config: Config, where: str) -> list[tuple[str, list[int]]]:
    """Runs of labels that count from 1: the system's name, and the indices of the atoms."""
    runs: list[tuple[str, list[int]]] = []
    for k, (symbol, label) in enumerate(zip(config.symbols, config.labels, strict=True)):
        match = _LABEL.fullmatch(label)
        if match is None or match["element"].upper() != symbol.upper():
            raise FileFormatError(f"{where}, atom {k + 1}", f"a label such as WATER_{symbol}1", repr(label))
        system, number = match["system"], int(match["number"])
        if number == 1:
            runs.append((system, []))
        if not runs or runs[-1][0] != system or len(runs[-1][1]) != number - 1:
            raise FileFormatError(f"{where}, atom {k + 1}", "labels that count each molecule's atoms", repr(label))
        runs[-1][1].append(k)
    sizes: dict[str, int] = {}
    for system, atoms in runs:
        if sizes.setdefault(system, len(atoms)) != len(atoms):
            expected = f"{sizes[system]} atoms in each molecule of {system}"
            raise FileFormatError(f"{where}, atom {atoms[0] + 1}", expected, str(len(atoms)))
    return runs


def _whole(positions: FloatArray, cell: FloatArray | None) -> FloatArray:
    """A molecule in one piece: every atom as close to the first as the cell's translations allow."""
    if cell is None:
        return positions
    relative = (positions - positions[0]) @ np.linalg.inv(cell)
    return np.asarray(positions[0] + (relative - np.round(relative)) @ cell)


def total(species: Sequence[Species]) -> float:
    """Sum of the energies of all molecules, hartree: DL_FFLUX' ``E_IQA``."""
    return float(sum(s.forcefield.unmatched.compute(s.positions, 0)[0].sum() for s in species))

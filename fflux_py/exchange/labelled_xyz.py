"""Labelled geometries of one molecule in extended XYZ files of other programs, as a data set.

Energies stand in the comment line and forces in columns, under the names that ASE, MACE, NequIP and others give them;
units are eV and angstrom, ASE's, unless others are given.  Frames of one atom are the isolated atoms.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py.errors import FFLUXError, FileFormatError, InputError
from fflux_py.exchange.npz_archive import ENERGY_UNITS, LENGTH_UNITS, NO_PARTITION, ArchiveOrigin, force_unit
from fflux_py.files import stem
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.extended_xyz import Frame, read_frames, real_number
from fflux_py.molecules.frame_meaning import interpret_all, tell
from fflux_py.molecules.frame_order import in_one_order
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM

ENERGY_KEYS: Final = ("REF_energy", "energy", "Energy", "energies", "dft_energy", "DFT_energy", "E")
"""Keys under which the total energy may stand; the first that is there counts."""
FORCE_COLUMNS: Final = ("REF_forces", "forces", "Forces", "force", "dft_forces", "DFT_forces", "F")
"""Columns under which the forces may stand; the first that is there counts."""


def read_labelled_xyz(path: Path, origin: ArchiveOrigin) -> Dataset:
    """Read energies and forces.

    Parameters
    ----------
    path
        The file; geometries of one molecule, and isolated atoms.
    origin
        Level of theory; units and charge where they are not ASE's and the file's.

    Returns
    -------
    All geometries, marked ``train``, without atomic energies.

    Raises
    ------
    FileFormatError
        With ``file:line``: what :func:`fflux_py.molecules.extended_xyz.read_frames` and
        :func:`fflux_py.molecules.frame_meaning.interpret` refuse; no energy, forces of some frames only, other atoms
        than in the frames before.
    InputError
        An unknown unit; a partition, for which there are no atomic energies.
    """
    if origin.partition not in (None, NO_PARTITION):
        raise InputError("partition", "'none': such files hold no atomic energies", repr(origin.partition))
    length = _factor("length unit", origin.length_unit or "angstrom", LENGTH_UNITS)
    energy = _factor("energy unit", origin.energy_unit or "eV", ENERGY_UNITS)
    force = energy / length if origin.force_unit is None else force_unit(origin.force_unit)
    frames = read_frames(path)
    if "schema" in frames[0].info:
        found = f"schema={frames[0].info['schema']!r}"
        raise FileFormatError(f"{path}:{frames[0].line}", "labels of another program", found, "use the file as it is")
    single = [frame for frame in frames if len(frame.symbols) == 1]
    frames = [frame for frame in frames if len(frame.symbols) > 1]
    if not frames:
        raise FileFormatError(str(path), "geometries of a molecule", "single atoms only")
    meaning = interpret_all(((f.symbols, f.info, f.columns, f.line) for f in frames), str(path), origin.charge)
    tell(str(path), meaning)
    frames = in_one_order([_checked(frame, frames[0], path, length) for frame in frames], str(path))
    positions = np.array([frame.positions for frame in frames]) / ANGSTROM
    name, count = stem(path), len(frames)
    try:
        return Dataset(
            geometries=GeometrySet(
                Molecule(frames[0].symbols, positions[0], meaning.charge or 0, name),
                positions,
                (name,) * count,
                np.full(count, np.nan),
                ("train",) * count,
            ),
            energies=np.array([_energy(frame, path) for frame in frames]) / energy,
            forces=_forces(frames, path) / force,
            **{key: np.full(positions.shape[:2], np.nan) for key in ("atomic_energies", "atomic_errors", "charges")},
            metadata={
                "method": origin.method,
                "basis": origin.basis,
                "partition": NO_PARTITION,
                "imported_from": path.name,
            },
            isolated_energies={f.symbols[0]: _energy(f, path) / energy for f in single},
        )
    except FFLUXError as error:
        where = error.where if error.where.startswith(str(path)) else f"{path}, {error.where}"
        raise FileFormatError(where, error.expected, error.found, error.remedy) from None


def _factor(what: str, text: str, known: dict[str, float]) -> float:
    if text.lower() not in known:
        raise InputError(what, f"one of {', '.join(known)}", repr(text), "convert the file")
    return known[text.lower()]


def _checked(frame: Frame, first: Frame, path: Path, length: float) -> Frame:
    """The frame in angstrom, if it has the atoms of the first one in some order."""
    if sorted(frame.symbols) != sorted(first.symbols):
        raise FileFormatError(
            f"{path}:{frame.line}", f"the atoms of the first frame, {''.join(first.symbols)}", "".join(frame.symbols),
            "make one file of each molecule",
        )  # fmt: skip
    positions = frame.positions if length == ANGSTROM else frame.positions * (ANGSTROM / length)
    return replace(frame, positions=positions, info={k: v for k, v in frame.info.items() if k != "reference"})


def _energy(frame: Frame, path: Path) -> float:
    where = f"{path}:{frame.line}"
    key = next((key for key in ENERGY_KEYS if key in frame.info), None)
    if key is None:
        found = f"the keys {', '.join(sorted(frame.info)) or 'none'}"
        raise FileFormatError(where, f"the energy as one of {', '.join(ENERGY_KEYS)}", found, "rename the key")
    value = real_number(frame.info, key, where)
    if not np.isfinite(value):
        raise FileFormatError(f"{where}, key {key}", "a finite number", str(value))
    return value


def _forces(frames: list[Frame], path: Path) -> FloatArray:
    """Forces of all frames in the file's unit, ``(m, n, 3)``; NaN if no frame has any."""
    key = next((key for key in FORCE_COLUMNS if key in frames[0].columns), None)
    shape = (len(frames[0].symbols), 3)
    if key is None:
        if any(set(FORCE_COLUMNS) & set(frame.columns) for frame in frames):
            raise FileFormatError(f"{path}:{frames[0].line}", "forces as in other frames", "none")
        return np.full((len(frames), *shape), np.nan)
    rows = []
    for frame in frames:
        column = frame.columns.get(key)
        if column is None or column.dtype.kind != "f" or column.shape != shape or not np.isfinite(column).all():
            kinds = "none" if column is None else f"{column.dtype.name} of shape {column.shape}, or NaN"
            raise FileFormatError(f"{path}:{frame.line}, column {key}", "finite forces of all atoms", kinds)
        rows.append(column)
    return np.array(rows, dtype=np.float64)

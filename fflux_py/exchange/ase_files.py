"""Labelled geometries in whatever ASE reads: its databases and trajectories, outputs of Gaussian, ORCA and others.

ASE turns such a file into atoms with energies and forces in eV and angstrom.  They are written as extended XYZ and read
as every file of that kind, so that charge, cells, masses and constraints mean the same from every door.
"""

from __future__ import annotations

import sqlite3
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any, Final

from fflux_py.errors import FFLUXError, FileFormatError
from fflux_py.exchange.labelled_xyz import read_labelled_xyz
from fflux_py.exchange.npz_archive import ArchiveOrigin
from fflux_py.files import stem
from fflux_py.molecules.dataset import Dataset

SUFFIXES: Final = (".db", ".traj", ".log", ".out", ".gms", ".castep", ".vasprun", ".xml", ".json")
"""Endings of files that are given to ASE, which finds out what they are."""

# What the parsers of ASE end with on a file that is not what it seems; UnknownFileTypeError is ASE's own.
_PARSER_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
    sqlite3.Error,
    struct.error,
    zlib.error,
)


def read_ase(path: Path, origin: ArchiveOrigin) -> Dataset:
    """Read energies and forces through ASE.

    Parameters
    ----------
    path
        A file of one molecule.
    origin
        Level of theory, and the charge if the file does not say it.  Units are ASE's.

    Returns
    -------
    All geometries that have an energy, marked ``train``, without atomic energies.

    Raises
    ------
    FileFormatError
        ASE does not read the file, no geometry in it has an energy, or what
        :func:`fflux_py.exchange.labelled_xyz.read_labelled_xyz` refuses.
    """
    labelled = [atoms for atoms in _images(path) if _energy(atoms) is not None]
    if not labelled:
        raise FileFormatError(
            str(path), "geometries with energies", "none with one", "give the output of energies and forces"
        )
    import ase.io

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"{stem(path)}.extxyz"
        ase.io.write(copy, labelled, format="extxyz")
        try:
            return read_labelled_xyz(copy, origin)
        except FFLUXError as error:
            where = error.where.replace(str(copy), str(path))
            raise FileFormatError(where, error.expected, error.found, error.remedy) from None


def _images(path: Path) -> list[Any]:
    import ase.io
    from ase.io.formats import UnknownFileTypeError

    if not path.is_file():
        raise FileFormatError(str(path), "a file", "none", "check the path")
    try:
        images = ase.io.read(path, index=":")
    except (UnknownFileTypeError, *_PARSER_ERRORS) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FileFormatError(
            str(path), "a file that ASE reads", reason, "convert it to extended XYZ with energies and forces"
        ) from error
    return list(images) if isinstance(images, list) else [images]


def _energy(atoms: Any) -> float | None:
    """The energy that a program has given (eV); None if there is none."""
    calculator = atoms.calc
    value = None if calculator is None else getattr(calculator, "results", {}).get("energy")
    return None if value is None else float(value)

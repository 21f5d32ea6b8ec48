"""The file of a teacher: a taught mean and the molecule that it is of, in one ``.npz`` without pickle.

Schema 1.  Entries: ``header`` (UTF-8 JSON as bytes), ``sha256`` (hexadecimal, over header and arrays in the order of
their names), ``positions`` (bohr, the relaxed start) and the arrays of the mean
(:class:`fflux_py.gp.taught_mean.TaughtMean`) under ``mean/``, in hartree and bohr.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from fflux_py.errors import FFLUXError, FileFormatError, InputError, ModelMismatchError
from fflux_py.files import check_numbers, json_array, read_sealed, sealed_npz, write_atomically
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.molecules.molecule import Molecule, check_same_molecule

SCHEMA: Final = 1
OWN_FORCE_ERROR: Final = "own_force_mae_kcal_mol_angstrom_1000K"
"""Key of the metadata: mean absolute force error on frames of the mean's own dynamics at 1000 K."""
_FORMAT: Final = "fflux_py teacher"
_MEAN: Final = "mean/"


@dataclass(frozen=True)
class Teacher:
    """A taught mean, and what it is of.

    Parameters
    ----------
    molecule
        The molecule at the relaxed geometry.
    mean
        The mean.
    metadata
        Where it comes from: level of theory, numbers of labels, errors on frames of its own dynamics, seed, versions.

    Raises
    ------
    InputError
        A mean of another number of atoms.
    """

    molecule: Molecule
    mean: TaughtMean
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mean.n_atoms != self.molecule.n_atoms:
            raise InputError("mean", f"a mean of {self.molecule.n_atoms} atoms", f"one of {self.mean.n_atoms}")

    def check(self, molecule: Molecule) -> None:
        """Refuse another molecule, another order of atoms, or other bonds.

        Raises
        ------
        ModelMismatchError
            Naming what differs.
        """
        check_same_molecule(self.molecule, molecule)
        different = set(self.molecule.bonds) ^ set(molecule.bonds)
        if different:
            i, j = sorted(different)[0]
            has = "a bond" if (i, j) in self.molecule.bonds else "no bond"
            raise ModelMismatchError(
                f"molecule {molecule.name!r}, atoms {i + 1} and {j + 1}", f"{has} as in the teacher's molecule",
                "none" if has == "a bond" else "one", "teach with a geometry of this molecule",
            )  # fmt: skip


def save_teacher(teacher: Teacher, path: str | os.PathLike[str]) -> None:
    """Write a teacher, whole or not at all."""
    molecule = teacher.molecule
    header = {
        "format": _FORMAT,
        "schema": SCHEMA,
        "units": {"positions": "bohr", "mean": "hartree, bohr"},
        "name": molecule.name,
        "symbols": list(molecule.symbols),
        "charge": molecule.charge,
        "level": teacher.mean.level,
        "metadata": dict(teacher.metadata),
    }
    arrays = {"positions": np.asarray(molecule.positions)}
    arrays |= {f"{_MEAN}{name}": array for name, array in teacher.mean.entries().items()}
    arrays["header"] = json_array(json.dumps(header, indent=1))
    write_atomically(path, sealed_npz(arrays, compressed=True))


def load_teacher(path: str | os.PathLike[str]) -> Teacher:
    """Read a teacher.

    Raises
    ------
    FileFormatError
        Not such a file, truncated, altered (checksum), or of a newer schema.
    """
    where, expected, remedy = str(path), "a teacher written by 'fflux teach' (.npz)", "teach or copy it again"
    header, arrays, _ = read_sealed(path, expected, remedy)
    if header.get("format") != _FORMAT:
        raise FileFormatError(where, expected, repr(header.get("format")), remedy)
    if header.get("schema") != SCHEMA:
        raise FileFormatError(where, f"schema {SCHEMA}", str(header.get("schema")), "use a matching fflux_py")
    check_numbers(arrays, where, remedy)
    try:
        molecule = Molecule(tuple(header["symbols"]), arrays["positions"], int(header["charge"]), str(header["name"]))
        entries = {name.removeprefix(_MEAN): a for name, a in arrays.items() if name.startswith(_MEAN)}
        return Teacher(molecule, TaughtMean.from_entries(entries, str(header["level"])), dict(header["metadata"]))
    except FFLUXError as error:
        raise FileFormatError(f"{where}, {error.where}", error.expected, error.found, error.remedy) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise FileFormatError(where, "the entries of a teacher", f"others ({error})", "teach again") from error

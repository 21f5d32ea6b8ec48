"""Files of occupied orbitals, so that a geometry's ground state is solved once and partitioned as often as one likes.

A file belongs to (elements, positions, charge, level of theory, version of PySCF); their SHA-256 names it.  From the
orbitals, energy, forces and densities follow with one Fock matrix and no SCF iteration, bit for bit as they did at the
end of the SCF.  A file that is damaged or not there is no error: the SCF is run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import json_array, read_bytes, sealed_npz, unseal, write_atomically
from fflux_py.iqa.scf.electronic_structure import OccupiedOrbitals, program_versions
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.molecule import Molecule

SCHEMA: Final = "fflux-orbitals-1"
_DECIMALS: Final = 9
_ARRAYS: Final = ("coefficients", "energies")


@dataclass(frozen=True)
class OrbitalFile:
    """Where the orbitals of one geometry at one level are, or will be.

    Parameters
    ----------
    molecule
        The geometry; its name does not matter.
    level
        Level of theory.
    folder
        Folder of the files.
    """

    molecule: Molecule
    level: LevelOfTheory
    folder: Path

    @property
    def key(self) -> str:
        """Name of the content; positions count to 1e-9 bohr."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.key}.orbitals.npz"

    def _content(self) -> dict[str, Any]:
        positions = np.round(self.molecule.positions, _DECIMALS) + 0.0
        return {
            "schema": SCHEMA,
            "units": "bohr, hartree",
            "symbols": list(self.molecule.symbols),
            "positions": [[f"{x:.{_DECIMALS}f}" for x in row] for row in positions.tolist()],
            "charge": self.molecule.charge,
            "level": self.level.as_dict(),
            "pyscf": program_versions()["pyscf"],
        }

    def write(self, orbitals: OccupiedOrbitals) -> None:
        """Write ``orbitals`` whole or not at all.

        Raises
        ------
        InputError
            The folder cannot be written to.
        """
        arrays: dict[str, np.ndarray] = {"header": json_array(json.dumps(self._content(), sort_keys=True))}
        arrays.update({name: np.asarray(getattr(orbitals, name)) for name in _ARRAYS})
        write_atomically(self.path, sealed_npz(arrays))

    def read(self) -> OccupiedOrbitals | None:
        """Return the orbitals, or None if there is no file or it is damaged.

        Raises
        ------
        InputError
            The file is there and cannot be read for a reason of the system.
        """
        try:
            data = read_bytes(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(str(self.path), "a readable file", error.strerror or str(error)) from error
        try:
            header, arrays, _ = unseal(data, str(self.path), "orbitals", "")
        except FileFormatError:
            return None
        whole = set(arrays) == set(_ARRAYS) and all(array.dtype.kind == "f" for array in arrays.values())
        if not (whole and header == self._content()):
            return None
        return OccupiedOrbitals(arrays["coefficients"], arrays["energies"])

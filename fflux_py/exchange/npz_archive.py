"""Labelled geometries of one molecule in a NumPy archive (``.npz``), as labs share them, as a data set.

An archive holds one array for each quantity, with the geometries as first axis (the layout of sGDML's data sets, with
atomic energies added).  The units are those that its entries ``r_unit`` and ``e_unit`` name, or that are given; none is
guessed.  That the atomic energies sum to the energies shows wrong units of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from ase.data import chemical_symbols

from fflux_py.errors import FFLUXError, FileFormatError, InputError
from fflux_py.exchange.labels import LARGEST_RESIDUAL, spread_residuals
from fflux_py.files import parse_npz, read_bytes
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM, EV, KCAL_MOL, KJ_MOL

KEYS: Final = {
    "positions": ("R", "coordinates", "positions"),
    "numbers": ("z", "Z", "numbers", "atomic_numbers"),
    "energies": ("E", "energy", "energies"),
    "forces": ("F", "forces"),
    "atomic_energies": ("E_IQA", "e_iqa", "iqa", "iqa_energies", "atomic_energies"),
    "charges": ("q", "Q", "charges"),
}
"""Entries under which a quantity may stand; the first that is there counts."""

_LENGTH_UNITS: Final = {"ang": ANGSTROM, "angstrom": ANGSTROM, "bohr": 1.0}
_ENERGY_UNITS: Final = {"hartree": 1.0, "ha": 1.0, "ev": EV, "kcal/mol": KCAL_MOL, "kj/mol": KJ_MOL}


@dataclass(frozen=True)
class ArchiveOrigin:
    """What an archive does not say about its labels.

    Parameters
    ----------
    method, basis, partition
        Level of theory, and the kind of atoms (``qtaim``, ``hirshfeld``, ``becke``).
    length_unit, energy_unit
        ``angstrom`` or ``bohr``; ``hartree``, ``eV``, ``kcal/mol`` or ``kJ/mol``.  Needed where the archive has no
        entries ``r_unit`` and ``e_unit``.
    charge
        Charge of the molecule.
    """

    method: str
    basis: str
    partition: str
    length_unit: str | None = None
    energy_unit: str | None = None
    charge: int = 0


def read_npz(path: Path, origin: ArchiveOrigin) -> Dataset:
    """Read an archive.

    Positions ``(m, n, 3)``, atomic numbers ``(n,)`` or the same in every row of ``(m, n)``, energies ``(m,)`` and
    atomic energies ``(m, n)`` must be there; forces ``(m, n, 3)`` and charges ``(m, n)`` may.  Names: :data:`KEYS`.

    Raises
    ------
    FileFormatError
        Not such a file; an entry that is missing, of the wrong shape, or holds NaN; atomic energies that miss the
        energies by more than 1 kcal/mol.
    InputError
        Units that are neither in the archive nor given, or unknown.
    """
    entries = _entries(path)
    length = _unit(path, entries, "r_unit", origin.length_unit, _LENGTH_UNITS)
    energy = _unit(path, entries, "e_unit", origin.energy_unit, _ENERGY_UNITS)
    positions = _array(path, entries, "positions", (None, None, 3)) / length
    m, n = positions.shape[:2]
    energies = _array(path, entries, "energies", (m,)) / energy
    raw = _array(path, entries, "atomic_energies", (m, n)) / energy
    forces = np.full((m, n, 3), np.nan)
    if _key(entries, "forces") is not None:
        forces = _array(path, entries, "forces", (m, n, 3)) * (length / energy)
    charges = np.full((m, n), np.nan)
    if _key(entries, "charges") is not None:
        charges = _array(path, entries, "charges", (m, n))
    residual = raw.sum(axis=1) - energies
    worst = int(np.abs(residual).argmax())
    if abs(residual[worst]) > LARGEST_RESIDUAL:
        raise FileFormatError(
            f"{path}, {_key(entries, 'atomic_energies')}[{worst}]",
            f"atomic energies that sum to {energies[worst]:.6f} hartree within 1 kcal/mol",
            f"{raw[worst].sum():.6f} hartree",
            "are the units right, and are these the energies of all atoms?",
        )
    atomic, errors = spread_residuals(raw, energies)
    symbols = tuple(chemical_symbols[z] for z in _numbers(path, entries, m, n))
    try:
        return Dataset(
            geometries=GeometrySet(
                Molecule(symbols, positions[0], origin.charge, path.stem),
                positions,
                (path.stem,) * m,
                np.full(m, np.nan),
                ("train",) * m,
            ),
            energies=energies,
            forces=forces,
            atomic_energies=atomic,
            atomic_errors=errors,
            charges=charges,
            metadata={
                "method": origin.method,
                "basis": origin.basis,
                "partition": origin.partition,
                "imported_from": path.name,
                "largest_raw_residual_hartree": float(np.abs(residual).max()),
            },
        )
    except FFLUXError as error:
        raise FileFormatError(f"{path}, {error.where}", error.expected, error.found, error.remedy) from None


def _entries(path: Path) -> dict[str, np.ndarray]:
    try:
        data = read_bytes(path)
    except OSError as error:
        raise FileFormatError(str(path), "a readable file", error.strerror or str(error), "check the path") from error
    try:
        return parse_npz(data)
    except ValueError as error:
        reason = f"a truncated file, another kind of file, or one with Python objects in it ({error})"
        raise FileFormatError(str(path), "an archive of plain arrays (.npz)", reason) from error


def _key(entries: dict[str, np.ndarray], quantity: str) -> str | None:
    return next((name for name in KEYS[quantity] if name in entries), None)


def _array(path: Path, entries: dict[str, np.ndarray], quantity: str, shape: tuple[int | None, ...]) -> FloatArray:
    key = _key(entries, quantity)
    if key is None:
        expected = f"the {quantity.replace('_', ' ')} as one of {', '.join(KEYS[quantity])}"
        raise FileFormatError(str(path), expected, f"the entries {', '.join(sorted(entries))}")
    array = entries[key]
    if quantity == "energies" and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    fits = array.ndim == len(shape) and all(s is None or s == a for s, a in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind not in "fiu" or 0 in array.shape:
        expected = ", ".join("any" if s is None else str(s) for s in shape)
        actual = f"{array.dtype.name} of shape {array.shape}"
        raise FileFormatError(f"{path}, entry {key}", f"real numbers of shape ({expected})", actual)
    values = np.asarray(array, dtype=np.float64)
    if not np.isfinite(values).all():
        index = ", ".join(str(k) for k in np.argwhere(~np.isfinite(values))[0])
        raise FileFormatError(f"{path}, {key}[{index}]", "a finite number", "NaN or infinity")
    return values


def _numbers(path: Path, entries: dict[str, np.ndarray], m: int, n: int) -> IntArray:
    key = _key(entries, "numbers")
    if key is None:
        raise FileFormatError(str(path), f"atomic numbers as one of {', '.join(KEYS['numbers'])}", "none")
    array = entries[key]
    if array.shape == (m, n) and (array == array[0]).all():
        array = array[0]
    if array.shape != (n,) or array.dtype.kind not in "iu" or array.min() < 1 or array.max() >= len(chemical_symbols):
        expected = f"{n} atomic numbers, the same for all geometries"
        raise FileFormatError(f"{path}, entry {key}", expected, f"{array.dtype.name} of shape {array.shape}")
    return np.asarray(array, dtype=np.int64)


def _unit(path: Path, entries: dict[str, np.ndarray], key: str, given: str | None, known: dict[str, float]) -> float:
    """One atomic unit in the unit that the archive, or else the caller, names."""
    stored = entries.get(key)
    text = str(stored.item()) if stored is not None and stored.size == 1 else given
    if isinstance(text, str) and stored is not None and stored.dtype.kind == "S":
        text = stored.item().decode()
    if text is None:
        raise InputError(f"{path}, entry {key}", f"a unit, one of {', '.join(known)}", "none", "name the unit")
    if text.lower() not in known:
        raise InputError(f"{path}, entry {key}", f"one of {', '.join(known)}", repr(text), "convert the archive")
    return known[text.lower()]

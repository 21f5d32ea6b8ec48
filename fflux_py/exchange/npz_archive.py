"""Labelled geometries of one molecule in a NumPy archive (``.npz``), as labs share them, as a data set.

An archive holds one array for each quantity, with the geometries as first axis: the layout of sGDML's and MD17's data
sets, with the names of rMD17's too, and with atomic energies where there are some.  ``train_`` and ``test_`` before a
name are two parts of one set.  The units are those that the entries ``r_unit`` and ``e_unit`` or the ends of the names
(``E_kcal_mol``) say, or that are given; none is guessed.
"""

from __future__ import annotations

import re
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
    "positions": ("R", "coords", "coordinates", "positions"),
    "numbers": ("z", "Z", "numbers", "atomic_numbers", "nuclear_charges"),
    "energies": ("E", "energy", "energies"),
    "forces": ("F", "forces"),
    "atomic_energies": ("E_IQA", "e_iqa", "iqa", "iqa_energies", "atomic_energies"),
    "charges": ("q", "Q", "charges"),
}
"""Entries under which a quantity may stand; the first that is there counts."""

NO_PARTITION: Final = "none"
LENGTH_UNITS: Final = {"ang": ANGSTROM, "angstrom": ANGSTROM, "bohr": 1.0}
"""One bohr in the units of length."""
ENERGY_UNITS: Final = {"hartree": 1.0, "ha": 1.0, "ev": EV, "kcal/mol": KCAL_MOL, "kj/mol": KJ_MOL}
"""One hartree in the units of energy."""
_NAME: Final = re.compile(
    r"(?:(?P<split>train|test)_)?(?P<key>.+?)"
    r"(?:_(?P<unit>(?:(?:hartree|ha|ev|kcal_mol|kj_mol)(?:_(?:angstrom|ang|bohr))?)|angstrom|ang|bohr))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ArchiveOrigin:
    """What the files do not say about their labels.

    Parameters
    ----------
    method, basis
        Level of theory.
    partition
        Kind of atoms (``qtaim``, ``hirshfeld``, ``becke``).  None: ``qtaim`` if there are atomic energies, else
        ``none``.
    length_unit, energy_unit
        ``angstrom`` or ``bohr``; ``hartree``, ``eV``, ``kcal/mol`` or ``kJ/mol``.  Needed where an archive has no
        entries ``r_unit`` and ``e_unit``.
    force_unit
        Such as ``hartree/bohr``; by default the unit of energy by the unit of length.
    charge
        Charge of the molecule; by default what the file says, or zero.
    """

    method: str
    basis: str
    partition: str | None = None
    length_unit: str | None = None
    energy_unit: str | None = None
    force_unit: str | None = None
    charge: int | None = None


def read_npz(path: Path, origin: ArchiveOrigin) -> Dataset:
    """Read an archive.

    Positions ``(m, n, 3)``, atomic numbers ``(n,)`` or the same in every row of ``(m, n)`` and energies ``(m,)`` must
    be there; atomic energies ``(m, n)``, forces ``(m, n, 3)`` and charges ``(m, n)`` may.  Names: :data:`KEYS`.

    Raises
    ------
    FileFormatError
        Not such a file; an entry that is missing, of the wrong shape, or holds NaN; atomic energies that miss the
        energies by more than 1 kcal/mol.
    InputError
        Units that are neither in the archive nor given, or unknown.
    """
    entries, named_units = _plain_names(path, _entries(path))
    parts = sorted(entries, key=("", "train", "test").index)
    if len(parts) > 1:
        entries = {part: {**entries.get("", {}), **entries[part]} for part in parts if part}
    blocks = [_read_part(path, entries[part], named_units, origin) for part in entries]
    symbols = blocks[0].symbols
    if any(block.symbols != symbols for block in blocks):
        raise FileFormatError(str(path), "the same atoms in both parts", "others")
    splits = [part or "train" for part, block in zip(entries, blocks, strict=True) for _ in block.energies]
    energies, raw = np.concatenate([b.energies for b in blocks]), np.concatenate([b.atomic_energies for b in blocks])
    partitioned = not np.isnan(raw).any()
    atomic, errors = spread_residuals(raw, energies) if partitioned else (raw, raw)
    positions = np.concatenate([block.positions for block in blocks])
    residual = float(np.abs(raw.sum(axis=1) - energies).max()) if partitioned else 0.0
    try:
        return Dataset(
            geometries=GeometrySet(
                Molecule(symbols, positions[0], blocks[0].charge, path.stem),
                positions,
                tuple(path.stem if split == "train" else f"{path.stem} {split}" for split in splits),
                np.full(len(positions), np.nan),
                tuple(splits),
            ),
            energies=energies,
            forces=np.concatenate([block.forces for block in blocks]),
            atomic_energies=atomic,
            atomic_errors=errors,
            charges=np.concatenate([block.charges for block in blocks]),
            metadata={
                "method": origin.method,
                "basis": origin.basis,
                "partition": origin.partition or ("qtaim" if partitioned else NO_PARTITION),
                "imported_from": path.name,
                **({"largest_raw_residual_hartree": residual} if partitioned else {}),
            },
        )
    except FFLUXError as error:
        raise FileFormatError(f"{path}, {error.where}", error.expected, error.found, error.remedy) from None


@dataclass(frozen=True)
class _Part:
    """The arrays of an archive, or of its part for training or testing, in atomic units; NaN for what is not there."""

    symbols: tuple[str, ...]
    charge: int
    positions: FloatArray
    energies: FloatArray
    forces: FloatArray
    atomic_energies: FloatArray
    charges: FloatArray


def _read_part(path: Path, entries: dict[str, np.ndarray], named_units: dict[str, str], origin: ArchiveOrigin) -> _Part:
    length = _unit(path, entries, "r_unit", named_units.get("positions", origin.length_unit), LENGTH_UNITS)
    energy = _unit(path, entries, "e_unit", named_units.get("energies", origin.energy_unit), ENERGY_UNITS)
    positions = _array(path, entries, "positions", (None, None, 3)) / length
    m, n = positions.shape[:2]
    energies = _array(path, entries, "energies", (m,)) / energy
    raw = np.full((m, n), np.nan)
    if _key(entries, "atomic_energies") is not None or origin.partition not in (None, NO_PARTITION):
        raw = _array(path, entries, "atomic_energies", (m, n)) / energy
        _check_sums(path, entries, raw, energies)
    forces = np.full((m, n, 3), np.nan)
    if _key(entries, "forces") is not None:
        given = origin.force_unit or named_units.get("forces")
        factor = length / energy if given is None else 1.0 / force_unit(given)
        forces = _array(path, entries, "forces", (m, n, 3)) * factor
    charges, key, total = np.full((m, n), np.nan), _key(entries, "charges"), 0
    if key is not None and entries[key].shape in ((m,), (m, 1), ()) and (m, 1) != (m, n):
        total = _total_charge(path, key, entries[key])
    elif key is not None:
        charges = _array(path, entries, "charges", (m, n))
    symbols = tuple(chemical_symbols[z] for z in _numbers(path, entries, m, n))
    return _Part(symbols, total if origin.charge is None else origin.charge, positions, energies, forces, raw, charges)


def force_unit(text: str) -> float:
    """One hartree/bohr in a unit of force, such as ``kcal/mol/angstrom``.

    Raises
    ------
    InputError
        An unknown unit.
    """
    energy, _, length = text.lower().rpartition("/")
    if energy not in ENERGY_UNITS or length not in LENGTH_UNITS:
        expected = f"ENERGY/LENGTH of {', '.join(ENERGY_UNITS)} and {', '.join(LENGTH_UNITS)}"
        raise InputError("force unit", expected, repr(text), "write for example hartree/bohr")
    return ENERGY_UNITS[energy] / LENGTH_UNITS[length]


def _check_sums(path: Path, entries: dict[str, np.ndarray], raw: FloatArray, energies: FloatArray) -> None:
    """Refuse atomic energies that miss the energies."""
    residual = raw.sum(axis=1) - energies
    worst = int(np.abs(residual).argmax())
    if abs(residual[worst]) > LARGEST_RESIDUAL:
        raise FileFormatError(
            f"{path}, {_key(entries, 'atomic_energies')}[{worst}]",
            f"atomic energies that sum to {energies[worst]:.6f} hartree within 1 kcal/mol",
            f"{raw[worst].sum():.6f} hartree",
            "are the units right, and are these the energies of all atoms?",
        )


def _plain_names(path: Path, entries: dict[str, np.ndarray]) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Entries by part (``""``, ``train``, ``test``) without prefixes and units, and units of quantities by name."""
    quantities = {name: quantity for quantity, names in KEYS.items() for name in names}
    parts: dict[str, dict[str, np.ndarray]] = {}
    units: dict[str, str] = {}
    for name, array in entries.items():
        match = None if name in quantities else _NAME.fullmatch(name)
        part, key, unit = (match["split"] or "", match["key"], match["unit"]) if match else ("", name, None)
        if key not in quantities:
            part, key, unit = "", name, None
        parts.setdefault(part.lower(), {})[key] = array
        if unit is not None:
            text = unit.lower().replace("kcal_mol", "kcal/mol").replace("kj_mol", "kj/mol").replace("_", "/")
            if units.setdefault(quantities[key], text) != text:
                raise FileFormatError(f"{path}, entry {name}", f"the unit {units[quantities[key]]}", text)
    if not parts:
        raise FileFormatError(str(path), "entries", "none")
    return parts, units


def _total_charge(path: Path, key: str, array: np.ndarray) -> int:
    """The charge of the molecule, from one number for each geometry."""
    values = np.unique(array)
    if len(values) != 1 or array.dtype.kind not in "fiu" or values[0] != round(float(values[0])):
        expected = "atomic charges (m, n), or one whole charge of the molecule for all geometries"
        raise FileFormatError(f"{path}, entry {key}", expected, f"shape {array.shape}")
    return int(values[0])


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

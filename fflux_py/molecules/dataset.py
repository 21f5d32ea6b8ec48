"""Geometries and labelled geometries of one molecule, as extended XYZ files.

In the file: positions in angstrom, energies in eV, forces in eV/angstrom, charges in e; in memory: atomic units.
Keys that describe the whole set stand in every frame and must agree.  A file that was read is written back with the
same bytes (:mod:`fflux_py.molecules.extended_xyz`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, overload

import numpy as np

from fflux_py.errors import FileFormatError, GeometryError, InputError
from fflux_py.files import sha256, stem, write_atomically
from fflux_py.molecules._dataset_frames import (
    FRAME_KEYS,
    Indices,
    as_indices,
    common_header,
    expect,
    interpreted,
    real_column,
)
from fflux_py.molecules.extended_xyz import Frame, Value, format_frame, read_frames, real_number, write_frames
from fflux_py.molecules.frame_meaning import bears_meaning
from fflux_py.molecules.label_checks import check_labels
from fflux_py.molecules.molecule import Molecule, check_positions, read_only
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM

if TYPE_CHECKING:
    from ase import Atoms

GEOMETRIES_SCHEMA: Final = "fflux-geometries-1"
DATASET_SCHEMA: Final = "fflux-dataset-1"
_GEOMETRY_UNITS: Final = "angstrom, K"
_DATASET_UNITS: Final = "eV, angstrom, e, K"
_LABEL_KEYS: Final = ("method", "basis", "partition")
_SPLITS: Final = ("train", "test")
_ISOLATED: Final = "isolated_energy_"
_MOLECULE_KEYS: Final = ("schema", "units", "name", "total_charge", "reference")
_TAKEN_BY_ASE: Final = (
    "Properties", "Lattice", "pbc", "energy", "free_energy", "stress", "dipole", "magmom", "dielectric_tensor",
    "polarization", "born_effective_charges",
)  # fmt: skip
_RESERVED: Final = frozenset({*FRAME_KEYS, *_MOLECULE_KEYS, *_TAKEN_BY_ASE})


@dataclass(frozen=True)
class GeometrySet:
    """Geometries of one molecule, each marked with the trajectory that it comes from.

    Parameters
    ----------
    molecule
        The molecule; its geometry is the reference (start) geometry.
    positions
        Positions in bohr, shape ``(m, n_atoms, 3)``.
    source
        Name of the trajectory of every geometry.
    temperature
        Thermostat temperature in kelvin, shape ``(m,)``; NaN where there was none.
    split
        ``"train"`` or ``"test"`` for every geometry.  A trajectory is one or the other.
    metadata
        What describes the whole set: sampling method, seed, program versions.
    """

    molecule: Molecule
    positions: FloatArray
    source: tuple[str, ...]
    temperature: FloatArray
    split: tuple[str, ...]
    metadata: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", read_only(self.positions))
        object.__setattr__(self, "temperature", read_only(self.temperature))
        object.__setattr__(self, "source", tuple(self.source))
        object.__setattr__(self, "split", tuple(self.split))
        object.__setattr__(self, "metadata", dict(self.metadata))
        m = len(self.positions)
        if self.positions.shape != (m, self.molecule.n_atoms, 3):
            raise InputError("positions", f"shape (m, {self.molecule.n_atoms}, 3)", f"shape {self.positions.shape}")
        for name, value in (("source", self.source), ("temperature", self.temperature), ("split", self.split)):
            if len(value) != m:
                raise InputError(name, f"{m} entries, one for each geometry", str(len(value)))
        if not np.isfinite(self.positions).all():
            raise InputError("positions", "finite numbers", "NaN or infinity")
        _check_keys(self.metadata)
        role: dict[str, str] = {}
        for source, split in zip(self.source, self.split, strict=True):
            if split not in _SPLITS:
                raise InputError("split", "'train' or 'test'", repr(split))
            if role.setdefault(source, split) != split:
                raise InputError(f"trajectory {source!r}", "one split for all its frames", "both 'train' and 'test'")

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        return f"GeometrySet({_in_short(self)})"

    @overload
    def __getitem__(self, index: int) -> Molecule: ...
    @overload
    def __getitem__(self, index: slice | Indices) -> GeometrySet: ...

    def __getitem__(self, index: int | slice | Indices) -> Molecule | GeometrySet:
        """One geometry as a molecule; or a part, by a slice, indices or a mask."""
        if isinstance(index, int | np.integer):
            return self.molecule.with_positions(self.positions[index])
        return self.select(np.arange(len(self))[index] if isinstance(index, slice) else index)

    def to_ase(self) -> list[Atoms]:
        """The geometries as atoms of ASE (angstrom), with their marks in ``info``."""
        from fflux_py.molecules.ase_atoms import atoms_of_geometries

        return atoms_of_geometries(self)

    def select(self, indices: Indices) -> GeometrySet:
        """The geometries with these indices, in this order; or those that a mask of all of them marks."""
        chosen = as_indices(indices, len(self))
        return replace(
            self,
            positions=self.positions[chosen],
            source=tuple(self.source[i] for i in chosen),
            temperature=self.temperature[chosen],
            split=tuple(self.split[i] for i in chosen),
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the geometries as extended XYZ (angstrom)."""
        header = {"schema": GEOMETRIES_SCHEMA, "units": _GEOMETRY_UNITS, **_molecule_header(self)}
        write_frames(path, [_geometry_frame(self, k, {}, header) for k in range(len(self))])

    @classmethod
    def read(cls, path: str | os.PathLike[str], charge: int | None = None) -> GeometrySet:
        """Read geometries; any XYZ trajectory of one molecule will do, marks are optional.

        Reading a labelled data set gives its geometries.

        Parameters
        ----------
        path
            The file.
        charge
            Net charge; by default that of the comment lines or the columns, under the names that programs give it
            (``total_charge``, ``charge``, ...), or zero.

        Raises
        ------
        FileFormatError
            A file that cannot be read; charges that differ from frame to frame, and what else
            :func:`~fflux_py.molecules.frame_meaning.interpret` refuses.

        Warns
        -----
        InputWarning
            Of what stands in the file and is not used, such as velocities.
        """
        frames, meaning = interpreted(read_frames(path), str(path), charge)
        where = f"{path}:{frames[0].line}"
        if "schema" not in frames[0].info:  # somebody else's file: its other keys mean nothing to us
            known = (*FRAME_KEYS, *_MOLECULE_KEYS)
            frames = [replace(f, info={k: v for k, v in f.info.items() if k in known}) for f in frames]
        header = common_header(frames, str(path))
        schema = header.pop("schema", GEOMETRIES_SCHEMA)
        if schema not in (GEOMETRIES_SCHEMA, DATASET_SCHEMA):
            raise FileFormatError(where, f"schema={GEOMETRIES_SCHEMA!r} or {DATASET_SCHEMA!r}", f"schema={schema!r}")
        header.pop("units", None)
        for key in [k for k in header if k.startswith(_ISOLATED)]:
            del header[key]
        return _geometries(frames, header, str(path), meaning.charge or 0)


class LabelledGeometry(NamedTuple):
    """One entry of a :class:`Dataset`: hartree and hartree/bohr, NaN for what is not known."""

    molecule: Molecule
    energy: float
    forces: FloatArray
    atomic_energies: FloatArray


@dataclass(frozen=True)
class Dataset:
    """Labelled geometries of one molecule.

    Parameters
    ----------
    geometries
        The geometries and their marks.
    energies
        Total energies in hartree, shape ``(m,)``.
    forces
        Forces in hartree/bohr, shape ``(m, n_atoms, 3)``; all NaN in a data set that has none.
    atomic_energies
        Atomic (IQA) energies in hartree, shape ``(m, n_atoms)``; NaN in the rows that carry none.
    atomic_errors
        The share of the raw integration residual that was redistributed to each atom, hartree, same shape.
    charges
        Atomic charges in e, same shape.
    metadata
        ``method``, ``basis``, ``partition`` and everything else that describes the labels.
    isolated_energies
        Energy of the isolated atom of each element at the same level, hartree; empty where not computed.
    """

    geometries: GeometrySet
    energies: FloatArray
    forces: FloatArray
    atomic_energies: FloatArray
    atomic_errors: FloatArray
    charges: FloatArray
    metadata: Mapping[str, Value]
    isolated_energies: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        m, n = len(self.geometries), self.geometries.molecule.n_atoms
        shapes = {"energies": (m,), "forces": (m, n, 3), "atomic_energies": (m, n), "atomic_errors": (m, n)}
        for name, shape in {**shapes, "charges": (m, n)}.items():
            array = read_only(getattr(self, name))
            if array.shape != shape:
                raise InputError(name, f"shape {shape}", f"shape {array.shape}")
            object.__setattr__(self, name, array)
        if not np.isfinite(self.energies).all():
            raise InputError("energies", "finite numbers", "NaN or infinity")
        if not (np.isfinite(self.forces).all() or np.isnan(self.forces).all()):
            raise InputError("forces", "finite numbers, or NaN throughout", "NaN or infinity in a part of them")
        for name in _ATOMIC_COLUMNS:
            column = getattr(self, name)
            if not (np.isfinite(column).all(axis=1) | np.isnan(column).all(axis=1)).all():
                raise InputError(name, "finite numbers for all atoms of a geometry, or NaN for all", "a part of them")
        object.__setattr__(self, "metadata", dict(self.metadata))
        object.__setattr__(self, "isolated_energies", dict(self.isolated_energies))
        _check_keys(self.metadata)
        for key in _LABEL_KEYS:
            if key not in self.metadata:
                raise InputError("metadata", f"the key {key!r}", f"only {sorted(self.metadata)}")

    def __len__(self) -> int:
        return len(self.geometries)

    def __repr__(self) -> str:
        level = f"{self.metadata['method']}/{self.metadata['basis']}, partition {self.metadata['partition']}"
        return f"Dataset({_in_short(self.geometries)}, {level}{'' if self.has_forces else ', no forces'})"

    @overload
    def __getitem__(self, index: int) -> LabelledGeometry: ...
    @overload
    def __getitem__(self, index: slice | Indices) -> Dataset: ...

    def __getitem__(self, index: int | slice | Indices) -> LabelledGeometry | Dataset:
        """One labelled geometry; or a part, by a slice, indices or a mask."""
        if isinstance(index, int | np.integer):
            energy, forces, atomic = (x[index] for x in (self.energies, self.forces, self.atomic_energies))
            return LabelledGeometry(self.geometries[index], float(energy), forces, atomic)
        return self.select(np.arange(len(self))[index] if isinstance(index, slice) else index)

    def to_ase(self) -> list[Atoms]:
        """The geometries as atoms of ASE (angstrom) with energies and forces (eV, eV/angstrom) of the labels."""
        from fflux_py.molecules.ase_atoms import atoms_of_dataset

        return atoms_of_dataset(self)

    @property
    def molecule(self) -> Molecule:
        """The molecule, at the reference geometry."""
        return self.geometries.molecule

    @property
    def positions(self) -> FloatArray:
        """Positions in bohr, shape ``(m, n_atoms, 3)``."""
        return self.geometries.positions

    @property
    def has_forces(self) -> bool:
        """Whether the geometries carry forces; labels of other programs may have none."""
        return bool(np.isfinite(self.forces).all())

    @property
    def has_atomic_energies(self) -> np.ndarray:
        """Which geometries carry atomic energies, shape ``(m,)``, bool."""
        return np.asarray(~np.isnan(self.atomic_energies).any(axis=1))

    def select(self, indices: Indices) -> Dataset:
        """The labelled geometries with these indices, in this order; or those that a mask of all of them marks."""
        chosen = as_indices(indices, len(self))
        return replace(
            self,
            geometries=self.geometries.select(chosen),
            **{k: getattr(self, k)[chosen] for k in ("energies", "forces", *_ATOMIC_COLUMNS)},
        )

    def with_split(self, split: str) -> Dataset:
        """The geometries marked ``"train"`` or ``"test"``, in their order."""
        return self.select([s == split for s in self.geometries.split])

    def digest(self) -> str:
        """SHA-256 of the text that :meth:`write` writes: the parent mark of a model."""
        return sha256(self.to_text().encode())

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the data set as extended XYZ (eV, angstrom)."""
        write_atomically(path, self.to_text())

    def to_text(self) -> str:
        """The data set as extended XYZ (eV, angstrom, e)."""
        header: dict[str, Value] = {"schema": DATASET_SCHEMA, "units": _DATASET_UNITS}
        header.update(_molecule_header(self.geometries))
        header.update(self.metadata)
        header.update({_ISOLATED + s: e * EV for s, e in sorted(self.isolated_energies.items())})
        frames = []
        for k in range(len(self)):
            columns = {"REF_forces": self.forces[k] * EV_ANGSTROM} if self.has_forces else {}
            for name, (column, unit) in _ATOMIC_COLUMNS.items():
                if not np.isnan(getattr(self, name)[k]).any():
                    columns[column] = getattr(self, name)[k] * unit
            frames.append(_geometry_frame(self.geometries, k, columns, header, self.energies[k] * EV))
        return "".join(format_frame(frame) for frame in frames)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Dataset:
        """Read a data set, whole, whose labels agree (:func:`fflux_py.molecules.label_checks.check_labels`)."""
        frames = read_frames(path)
        expect(dict(frames[0].info), "schema", DATASET_SCHEMA, f"{path}:{frames[0].line}")
        frames, meaning = interpreted(frames, str(path))
        header = common_header(frames, str(path))
        expect(header, "schema", DATASET_SCHEMA, f"{path}:{frames[0].line}")
        expect(header, "units", _DATASET_UNITS, f"{path}:{frames[0].line}")
        for key in _LABEL_KEYS:
            if key not in header:
                raise FileFormatError(f"{path}:{frames[0].line}", f"the key {key}", "none", "label again")
        isolated = {}
        for key in [k for k in header if k.startswith(_ISOLATED)]:
            isolated[key[len(_ISOLATED) :]] = real_number(header, key, f"{path}:{frames[0].line}") / EV
            del header[key]
        geometry_header: dict[str, Value] = {k: header.pop(k) for k in ("name", "reference") if k in header}
        n_atoms = len(frames[0].symbols)
        has_forces = any("REF_forces" in frame.columns for frame in frames)
        energies, forces = [], []
        atomic: dict[str, list[FloatArray]] = {name: [] for name in _ATOMIC_COLUMNS}
        for frame in frames:
            where = f"{path}:{frame.line}"
            energies.append(real_number(frame.info, "REF_energy", where))
            if not np.isfinite(energies[-1]):
                raise FileFormatError(f"{where}, key REF_energy", "a finite number", str(energies[-1]))
            missing = np.full((n_atoms, 3), np.nan)
            forces.append(real_column(frame, "REF_forces", (n_atoms, 3), where) if has_forces else missing)
            for name, (column, unit) in _ATOMIC_COLUMNS.items():
                present = column in frame.columns
                values = real_column(frame, column, (n_atoms,), where) if present else np.full(n_atoms, np.nan)
                atomic[name].append(values / unit)
        try:
            data = cls(
                geometries=_geometries(frames, geometry_header, str(path), meaning.charge or 0),
                energies=np.array(energies) / EV,
                forces=np.array(forces) / EV_ANGSTROM,
                metadata=header,
                isolated_energies=isolated,
                **{name: np.array(rows) for name, rows in atomic.items()},
            )
            check_labels(data, str(path))
        except InputError as error:
            where = error.where if error.where.startswith(str(path)) else f"{path}, {error.where}"
            raise FileFormatError(where, error.expected, error.found, error.remedy) from None
        return data


_ATOMIC_COLUMNS: Final[dict[str, tuple[str, float]]] = {
    "atomic_energies": ("iqa_energies", EV),
    "atomic_errors": ("iqa_error", EV),
    "charges": ("atomic_charges", 1.0),
}


def _check_keys(metadata: Mapping[str, Value]) -> None:
    """Refuse metadata under keys that the file format, or ASE's reader, uses for something else."""
    for key, value in metadata.items():
        if key in _RESERVED or key.startswith(_ISOLATED) or bears_meaning(key):
            raise InputError(f"metadata key {key!r}", "a key that the file format does not use itself", repr(key))
        if isinstance(value, float) and np.isnan(value):
            raise InputError(f"metadata key {key!r}", "a number or text", "NaN")


def _in_short(geometries: GeometrySet) -> str:
    molecule, n_test = geometries.molecule, geometries.split.count("test")
    return f"{molecule.name}, {molecule.formula}, {len(geometries)} geometries, {n_test} of them for testing"


def _molecule_header(geometries: GeometrySet) -> dict[str, Value]:
    """Name, charge, the reference geometry (angstrom, as one text) and the set's metadata."""
    reference = " ".join(f"{x:.15g}" for x in (geometries.molecule.positions * ANGSTROM).ravel())
    molecule = geometries.molecule
    return {"name": molecule.name, "total_charge": molecule.charge, "reference": reference, **geometries.metadata}


def _geometry_frame(
    geometries: GeometrySet,
    k: int,
    columns: Mapping[str, np.ndarray],
    header: Mapping[str, Value],
    energy: float | None = None,
) -> Frame:
    info: dict[str, Value] = {"source": geometries.source[k], "temperature": float(geometries.temperature[k])}
    info["split"] = geometries.split[k]
    if energy is not None:
        info["REF_energy"] = float(energy)
    return Frame(geometries.molecule.symbols, geometries.positions[k] * ANGSTROM, columns, {**info, **header})


def _geometries(frames: list[Frame], header: dict[str, Value], path: str, charge: int) -> GeometrySet:
    header = dict(header)
    n, where = len(frames[0].symbols), f"{path}:{frames[0].line}"
    positions = np.array([frame.positions for frame in frames]) / ANGSTROM
    reference = positions[0]
    if "reference" in header:
        words = str(header.pop("reference")).split()
        try:
            reference = np.array(words, dtype=np.float64).reshape(n, 3) / ANGSTROM
            check_positions(reference, f"{where}, key reference")
        except ValueError:
            raise FileFormatError(f"{where}, key reference", f"{3 * n} numbers", f"{len(words)} words") from None
        except GeometryError as error:
            raise FileFormatError(error.where, error.expected, error.found, error.remedy) from None
    name = str(header.pop("name", stem(path)))
    split = []
    for frame in frames:
        split.append(str(frame.info.get("split", "train")))
        if split[-1] not in _SPLITS:
            raise FileFormatError(f"{path}:{frame.line}, key split", "'train' or 'test'", repr(split[-1]))
    try:
        return GeometrySet(
            molecule=Molecule(frames[0].symbols, reference, charge, name),
            positions=positions,
            source=tuple(str(f.info.get("source", stem(path))) for f in frames),
            temperature=np.array([real_number(f.info, "temperature", f"{path}:{f.line}", np.nan) for f in frames]),
            split=tuple(split),
            metadata=header,
        )
    except InputError as error:
        raise FileFormatError(f"{path}, {error.where}", error.expected, error.found, error.remedy) from None

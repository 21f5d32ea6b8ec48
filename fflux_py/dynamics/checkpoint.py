"""Checkpoints: one file that holds all that the rest of a run depends on.

A checkpoint is an ``.npz`` archive without pickle: a JSON header, arrays in atomic units, and a SHA-256 over both.  It
is written to a temporary file, synced to the disk and renamed; the one before is kept as ``checkpoint-previous.npz``.
The outputs are synced before, so that a checkpoint never speaks of bytes that are not on the disk.  The generator of
random numbers has no state (:mod:`fflux_py.dynamics._random`): the step and the seed are all of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fflux_py.dynamics._integrator import Events
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.guards import new_events
from fflux_py.dynamics.trajectory import EVENTS_FILE, THERMO_FILE, TRAJECTORY_FILE
from fflux_py.errors import FFLUXError, FileFormatError, InputError, ModelMismatchError
from fflux_py.files import json_array, read_sealed, sealed_npz, write_atomically
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray, IntArray

CHECKPOINT_FILE: Final = "checkpoint.npz"
PREVIOUS_FILE: Final = "checkpoint-previous.npz"
FRESH_FILE: Final = "checkpoint-fresh.npz"
"""A whole new checkpoint, between two renamings."""

SCHEMA: Final = "fflux-checkpoint-1"
STATE_ARRAYS: Final = ("positions", "velocities", "forces", "chain_positions", "chain_velocities", "potential", "heat",
                       "reference", "kinetic", "active")  # fmt: skip
"""Names of the arrays of the integrator's state that are kept."""

_ARRAYS: Final = (*STATE_ARRAYS, "first_conserved")
_BIAS_ARRAYS: Final = ("counts", "centres", "heights", "energies")


@dataclass(frozen=True)
class ReplicaRecord:
    """What a checkpoint knows of one replica besides its state.

    Parameters
    ----------
    number
        Number of its stream of random numbers.
    folder
        Its folder, relative to that of the checkpoint.
    sizes
        Bytes of every output file.
    events
        Events of the guards so far, by kind.
    flagged
        Frames in ``flagged.extxyz``.
    """

    number: int
    folder: str
    sizes: Mapping[str, int]
    events: Mapping[str, int]
    flagged: int


@dataclass(frozen=True)
class BiasRecord:
    """What a checkpoint knows of the biases of a run.

    Parameters
    ----------
    text
        The PLUMED input.
    sizes
        Bytes of every HILLS and COLVAR file, by its path relative to the folder of the run.
    counts
        Hills of every bias, ``(b,)``.
    centres, heights
        All hills, those of the first bias first: radian or bohr ``(n, k)``, hartree ``(n, groups)``.
    energies
        Bias energies of the replicas, hartree, ``(g,)``.
    """

    text: str
    sizes: Mapping[str, int]
    counts: IntArray
    centres: FloatArray
    heights: FloatArray
    energies: FloatArray


@dataclass(frozen=True)
class Checkpoint:
    """A run at one step; arrays have the replicas as their first axis and are in atomic units.

    Parameters
    ----------
    step
        Steps done.
    config
        The settings.
    molecule
        The start geometry.
    model_sha256, model
        Digest of the potential, and the path of its file (empty if it has none).
    replicas
        Their outputs, in the order of the arrays.
    positions, velocities, forces, chain_positions, chain_velocities, potential, heat, reference, kinetic, active
        As in ``State``: everything that the next step depends on.
    first_conserved
        Conserved quantities at the first report, which the thermo log counts from.
    memory
        What the potential itself had changed, as it is; None if it changes nothing.
    bias
        Hills and files of the metadynamics; None without one.
    events
        What the guards saw in a block of steps that the end of the run cut short; a longer run goes on with it, and
        ``replicas`` is from before.  None between two blocks.
    """

    step: int
    config: MDConfig
    molecule: Molecule
    model_sha256: str
    model: str
    replicas: tuple[ReplicaRecord, ...]
    positions: FloatArray
    velocities: FloatArray
    forces: FloatArray
    chain_positions: FloatArray
    chain_velocities: FloatArray
    potential: FloatArray
    heat: FloatArray
    reference: FloatArray
    kinetic: FloatArray
    first_conserved: FloatArray
    active: IntArray
    memory: NDArray[Any] | None = None
    bias: BiasRecord | None = None
    events: Events | None = None

    def check_model(self, digest: str, where: str) -> None:
        """Refuse a potential that is not that of the run."""
        if digest != self.model_sha256:
            raise ModelMismatchError(
                where,
                f"the model of this run (SHA-256 {self.model_sha256[:12]}...)",
                f"another ({digest[:12]}...)",
                "give the model that the run was started with",
            )

    def write(self, folder: Path) -> None:
        """Write into ``folder``; the checkpoint before becomes the previous one.

        Raises
        ------
        InputError
            A full disk; both older files are then as they were.
        """
        data = self._to_bytes()
        current, fresh = folder / CHECKPOINT_FILE, folder / FRESH_FILE
        write_atomically(fresh, data)
        try:
            if current.exists():
                os.replace(current, folder / PREVIOUS_FILE)
            os.replace(fresh, current)
            sync_folder(folder)
        except OSError as error:
            raise InputError(str(current), "a place to write", error.strerror or str(error), "free space") from error

    def _to_bytes(self) -> bytes:
        header = {
            "schema": SCHEMA,
            "units": "atomic units; configuration in femtosecond and kelvin",
            "step": self.step,
            "config": asdict(self.config),
            "molecule": {
                "symbols": list(self.molecule.symbols),
                "charge": self.molecule.charge,
                "name": self.molecule.name,
            },
            "model_sha256": self.model_sha256,
            "model": self.model,
            "replicas": [asdict(record) for record in self.replicas],
            "bias": None if self.bias is None else {"text": self.bias.text, "sizes": dict(self.bias.sizes)},
        }
        arrays = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        arrays["start"] = np.asarray(self.molecule.positions)
        if self.memory is not None:
            arrays["memory"] = np.asarray(self.memory)
        if self.bias is not None:
            arrays.update({f"bias_{name}": np.asarray(getattr(self.bias, name)) for name in _BIAS_ARRAYS})
        if self.events is not None:
            arrays.update({f"events_{name}": np.asarray(getattr(self.events, name)) for name in Events._fields})
        arrays["header"] = json_array(json.dumps(header))
        return sealed_npz(arrays)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read one checkpoint file.

        Raises
        ------
        FileFormatError
            Missing, truncated, altered, or of another schema.
        """
        header, arrays, _ = read_sealed(path, "a checkpoint", "")
        if header.get("schema") != SCHEMA:
            raise FileFormatError(
                str(path), f"schema {SCHEMA}", str(header.get("schema")), "use a matching version of fflux_py"
            )
        try:
            parts, bias = header["molecule"], header.get("bias")
            checkpoint = cls(
                step=int(header["step"]),
                config=MDConfig.of(header["config"]),
                molecule=Molecule(tuple(parts["symbols"]), arrays["start"], int(parts["charge"]), parts["name"]),
                model_sha256=header["model_sha256"],
                model=header["model"],
                replicas=tuple(ReplicaRecord(**record) for record in header["replicas"]),
                memory=arrays.get("memory"),
                bias=None if bias is None else _bias_record(bias, arrays),
                events=_events(arrays),
                **{name: arrays[name] for name in _ARRAYS},
            )
            checkpoint._check(path)
        except FFLUXError as error:
            raise FileFormatError(f"{path}, {error.where}", error.expected, error.found, "it was altered") from error
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise FileFormatError(str(path), "a checkpoint of this version", f"{error}") from error
        return checkpoint

    def _check(self, path: Path) -> None:
        """Refuse shapes that do not fit together, and files outside of the folder that the checkpoint is in."""
        n, atoms = len(self.replicas), self.molecule.n_atoms
        links = self.chain_positions.shape[-1:]
        shapes = {"positions": (atoms, 3), "velocities": (atoms, 3), "forces": (atoms, 3), "chain_positions": links,
                  "chain_velocities": links}  # fmt: skip
        for name in _ARRAYS:
            array, shape = getattr(self, name), (n, *shapes.get(name, ()))
            if array.shape != shape or array.dtype.kind not in "fi":
                raise InputError(name, f"numbers of shape {shape}", f"{array.dtype} of shape {array.shape}")
        if self.events is not None:
            expected = new_events(n, atoms)
            for name, one, other in zip(Events._fields, self.events, expected, strict=True):
                if one.shape != other.shape or one.dtype.kind != other.dtype.kind:
                    raise InputError(f"events_{name}", f"shape {other.shape}", f"{one.dtype} of shape {one.shape}")
        sizes = {f"{record.folder}/{name}": size for record in self.replicas for name, size in record.sizes.items()}
        sizes.update({} if self.bias is None else self.bias.sizes)
        for record in self.replicas:
            if type(record.number) is not int or not isinstance(record.folder, str):
                raise InputError("replicas", "a number and a folder", f"{record.number!r}, {record.folder!r}")
            if not {TRAJECTORY_FILE, THERMO_FILE, EVENTS_FILE} <= record.sizes.keys():
                raise InputError("replicas", "the sizes of trajectory and logs", ", ".join(record.sizes))
        for name, size in sizes.items():
            # Files are cut to these sizes: a name from elsewhere must not reach beyond the run.
            if os.path.isabs(name) or ".." in Path(name).parts or "\0" in name:
                raise InputError("replicas", "files in the folder of the run", repr(name))
            if type(size) is not int or size < 0:
                raise InputError(name, "a size in bytes", repr(size))
        if n == 0 or self.step < 0:
            raise InputError("replicas, step", "at least one, and at least 0", f"{n}, {self.step}")


def read_newest_checkpoint(folder: Path) -> tuple[Checkpoint, str]:
    """Read the newest checkpoint that is whole and whose outputs are there.

    Returns
    -------
    The checkpoint, and one line that says why if it is not the newest of all; else an empty string.

    Raises
    ------
    FileFormatError
        Neither file can be used; both reasons are named.  Or a link in the folder leads out of it.
    """
    reasons: list[str] = []
    _check_links(folder)
    for name in (CHECKPOINT_FILE, FRESH_FILE, PREVIOUS_FILE):
        try:
            checkpoint = Checkpoint.read(folder / name)
            _check_outputs(folder, checkpoint)
        except FFLUXError as error:
            if name != FRESH_FILE:
                reasons.append(str(error))
            continue
        notice = f"{reasons[0]}; going on from {name}, step {checkpoint.step}" if reasons else ""
        return checkpoint, notice
    raise FileFormatError(str(folder), "a checkpoint", f"none that can be used ({'; '.join(reasons)})", "run again")


def _check_links(folder: Path) -> None:
    """Refuse links that lead out of the folder of a run: what they point to would be cut and written to."""
    inside = os.path.realpath(folder)
    for path in folder.rglob("*"):
        target = Path(os.path.realpath(path))
        if path.is_symlink() and not target.is_relative_to(inside):
            raise FileFormatError(str(path), "a file of the run", f"a link to {target}",
                                  "put the file itself there, or move the whole folder and link to that")  # fmt: skip


def _check_outputs(folder: Path, checkpoint: Checkpoint) -> None:
    expected = {Path(r.folder) / name: size for r in checkpoint.replicas for name, size in r.sizes.items()}
    if checkpoint.bias is not None:
        expected.update({Path(name): size for name, size in checkpoint.bias.sizes.items()})
    for name, size in expected.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found < size:
            raise FileFormatError(str(path), f"at least {size} bytes, as in the checkpoint", f"{found}")


def _bias_record(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> BiasRecord:
    counts, centres, heights, energies = (arrays[f"bias_{name}"] for name in _BIAS_ARRAYS)
    return BiasRecord(header["text"], header["sizes"], counts, centres, heights, energies)


def _events(arrays: Mapping[str, NDArray[Any]]) -> Events | None:
    if "events_counts" not in arrays:
        return None
    return Events(**{name: arrays[f"events_{name}"] for name in Events._fields})


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

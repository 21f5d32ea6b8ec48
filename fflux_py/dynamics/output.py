"""The files of a run, streamed while it goes.

After every report all files are whole: a run that is killed leaves what a reader takes, up to its last report.  A run
that is taken up again cuts them to what they were at the checkpoint and goes on from there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py.dynamics import trajectory as names
from fflux_py.dynamics.checkpoint import CHECKPOINT_FILE, ReplicaRecord
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.dcd import DCDWriter
from fflux_py.dynamics.guards import GuardEvent
from fflux_py.dynamics.line_file import LineFile
from fflux_py.dynamics.reports import Report
from fflux_py.dynamics.topology import topology_pdb
from fflux_py.errors import FFLUXError, FileFormatError, InputError
from fflux_py.files import read_json, remove_leftovers, write_atomically
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.extended_xyz import Frame, Value, write_frames, write_molecule
from fflux_py.molecules.molecule import Molecule, check_positions
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, DALTON, EV, FEMTOSECOND, KCAL_MOL

SCHEMA: Final = "fflux-run-1"
MOST_FLAGGED: Final = 1000
"""Frames of one replica that are saved for labelling at most."""

_UNITS: Final = {
    "trajectory.dcd": "angstrom",
    "velocities.dcd": "angstrom/fs",
    "normal_modes.npz": "bohr; cm^-1; mass-weighted, without unit",
    "*.extxyz": "angstrom; velocities in angstrom/fs; momenta in (eV Da)^(1/2); masses in Da",
    "thermo.csv": "as its column names say",
    "config.temperature": "K",
    "config.timestep": "fs",
    "config.relaxation_time": "fs",
    "config.hydrogen_mass": "Da",
    "config.guards": "angstrom; kcal/mol; shares",
}
_STREAMS: Final = (names.TRAJECTORY_FILE, names.THERMO_FILE, names.EVENTS_FILE, names.VELOCITIES_FILE)


class RunFolder:
    """Thermo log, trajectory, events, start, end and description of one replica.

    Parameters
    ----------
    folder
        New or without the files of another run; on resuming, that of the run.
    start
        Start geometry.
    config, replica
        The run.
    description
        What else ``run.json`` says: digest of the model, degrees of freedom, limits of the guards.
    continuation
        Of a run that is resumed: what the checkpoint knows of this replica, the conserved quantity at the first report,
        and the step; None for a new run.
    """

    def __init__(
        self,
        folder: Path,
        start: Molecule,
        config: MDConfig,
        replica: int,
        description: Mapping[str, object],
        continuation: tuple[ReplicaRecord, float, int] | None = None,
    ) -> None:
        self.folder = folder
        self._first_conserved = np.nan
        self._start, self._config, self._replica = start, config, replica
        self._source = (
            f"{'nvt' if config.thermostat != 'none' else 'nve'}-{config.temperature:g}K-s{config.seed}-r{replica}"
        )
        self._record: dict[str, object] = {
            "schema": SCHEMA,
            "status": "running",
            "steps_done": 0,
            "config": asdict(config),
            "replica": replica,
            "units": _UNITS,
            "molecule": {"name": start.name, "symbols": list(start.symbols), "charge": start.charge},
            **description,
            "versions": _versions(),
        }
        self._counts: dict[str, int] = {}
        self._flagged: GeometrySet | None = None
        layout = (start.n_atoms, config.report_every, config.timestep / FEMTOSECOND, f"fflux_py {self._source}")
        if continuation is None:
            self._begin(start, layout)
        else:
            self._continue(layout, *continuation)

    def _begin(self, start: Molecule, layout: tuple[int, int, float, str]) -> None:
        """Make new files."""
        folder = self.folder
        _prepare(folder)
        write_molecule(folder / names.START_FILE, start)
        write_atomically(folder / names.TOPOLOGY_FILE, topology_pdb(start))
        self._write_record()
        self._frames = DCDWriter(folder / names.TRAJECTORY_FILE, *layout)
        _lock(self._frames, folder)
        self._velocities: DCDWriter | None = DCDWriter(folder / names.VELOCITIES_FILE, *layout)
        self._log = LineFile(folder / names.THERMO_FILE)
        self._events = LineFile(folder / names.EVENTS_FILE)
        self._log.write(",".join(names.COLUMNS))
        self._events.write(",".join(names.EVENT_COLUMNS))

    def _continue(
        self, layout: tuple[int, int, float, str], record: ReplicaRecord, first_conserved: float, step: int
    ) -> None:
        """Open the files of the run and cut them to the checkpoint, unless another process is writing to them."""
        folder = self.folder
        sizes = record.sizes
        frames, log, events = (sizes[name] for name in (names.TRAJECTORY_FILE, names.THERMO_FILE, names.EVENTS_FILE))
        velocities = sizes.get(names.VELOCITIES_FILE)
        self._frames = DCDWriter(folder / names.TRAJECTORY_FILE, *layout, size=frames)
        _lock(self._frames, folder)
        remove_leftovers(folder)
        self._frames.truncate()
        # a run that an earlier version began has no velocities
        self._velocities = None
        if velocities is not None:
            self._velocities = DCDWriter(folder / names.VELOCITIES_FILE, *layout, size=velocities)
            self._velocities.truncate()
        self._log = LineFile(folder / names.THERMO_FILE, log)
        self._events = LineFile(folder / names.EVENTS_FILE, events)
        self._first_conserved = first_conserved
        self._counts = dict(record.events)
        self._cut_flagged(record.flagged)
        for name in (names.FINAL_FILE, names.STOPPED_FILE, names.ASE_FILE):
            (folder / name).unlink(missing_ok=True)
        self._record["resumed_at_steps"] = [*_resumed_before(folder), step]
        self._write_record()

    def write_report(self, report: Report, positions: FloatArray, velocities: FloatArray) -> None:
        """One frame, with its velocities, and one line (atomic units, kelvin)."""
        step, potential, kinetic, conserved, temperature = report
        if step == 0:
            self._first_conserved = conserved
        drift = (conserved - self._first_conserved) * KCAL_MOL
        numbers = (step * self._config.timestep, temperature, potential, kinetic, conserved, drift)
        self._frames.write(positions)
        if self._velocities is not None:
            self._velocities.write(velocities / FEMTOSECOND)
        self._log.write(f"{step}," + ",".join(repr(float(x)) for x in numbers))

    def write_event(self, event: GuardEvent) -> None:
        """One line for an event of a guard; its frame too, if it is to be saved."""
        self._counts[event.kind] = self._counts.get(event.kind, 0) + event.count
        words = f'"{event.place}","{event.expected}","{event.found}"'
        self._events.write(f"{event.step},{event.time_fs!r},{event.kind},{event.action},{event.count},{words}")
        if event.action == "save":
            self._flag(event)

    def write_state(
        self, name: str, positions: FloatArray, velocities: FloatArray, masses: FloatArray, step: int
    ) -> Path:
        """One geometry with its velocities (atomic units), marked so that it can be labelled as it stands.

        The column ``momenta`` is what ASE reads velocities from, in its unit, (eV Da)^(1/2); of a run with heavier
        hydrogens (``masses``, in electron masses) ASE needs the column ``masses``, in dalton, too.
        """
        path = self.folder / name
        info: dict[str, Value] = {
            "name": self._start.name,
            "total_charge": self._start.charge,
            "units": "angstrom, angstrom/fs, K",
            "source": self._source,
            "temperature": self._config.temperature,
            "step": step,
            "time_fs": step * self._config.timestep,
        }
        columns = {"velocities": velocities * (ANGSTROM / FEMTOSECOND)}
        columns["momenta"] = masses[:, None] * velocities * np.sqrt(EV * DALTON)
        if self._config.hydrogen_mass is not None:
            info["hydrogen_mass"] = self._config.hydrogen_mass
            columns["masses"] = masses * DALTON
        write_frames(path, [Frame(self._start.symbols, positions * ANGSTROM, columns, info)])
        return path

    def sync(self) -> None:
        """Bring everything that was written to the disk."""
        for stream in self._streams().values():
            stream.sync()

    def record(self, base: Path) -> ReplicaRecord:
        """What a checkpoint in ``base`` has to know."""
        sizes = {name: stream.size for name, stream in self._streams().items()}
        flagged = 0 if self._flagged is None else len(self._flagged)
        subfolder = os.path.relpath(self.folder, base)
        return ReplicaRecord(self._replica, subfolder, sizes, dict(self._counts), flagged)

    def close(self, status: str, steps_done: int, message: str = "") -> None:
        """Close the files and write how the run ended."""
        for stream in self._streams().values():
            stream.close()
        self._record.update(status=status, steps_done=steps_done, guard_events=dict(self._counts))
        if message:
            self._record["message"] = message
        self._write_record()

    def _streams(self) -> dict[str, DCDWriter | LineFile]:
        """The open files by their names."""
        streams: dict[str, DCDWriter | LineFile] = {
            names.TRAJECTORY_FILE: self._frames, names.THERMO_FILE: self._log, names.EVENTS_FILE: self._events,
        }  # fmt: skip
        return streams if self._velocities is None else {**streams, names.VELOCITIES_FILE: self._velocities}

    def _flag(self, event: GuardEvent) -> None:
        """Add a frame to those to be labelled; one on which no label exists (atoms on one spot) is left out."""
        flagged = self._flagged
        if flagged is not None and len(flagged) >= MOST_FLAGGED:
            return
        try:
            check_positions(event.positions, "frame")
        except FFLUXError:
            return
        source = f"{self._source}-{event.kind}"
        old = np.empty((0, *event.positions.shape)) if flagged is None else flagged.positions
        sources = () if flagged is None else flagged.source
        count = len(old) + 1
        self._flagged = GeometrySet(
            molecule=self._start,
            positions=np.concatenate([old, event.positions[None]]),
            source=(*sources, source),
            temperature=np.full(count, self._config.temperature),
            split=("train",) * count,
            metadata={"sampling": "flagged by a guard of molecular dynamics; the source ends with the guard's name"},
        )
        self._flagged.write(self.folder / names.FLAGGED_FILE)

    def _cut_flagged(self, count: int) -> None:
        path = self.folder / names.FLAGGED_FILE
        if count:
            self._flagged = GeometrySet.read(path).select(range(count))
            self._flagged.write(path)
        else:
            path.unlink(missing_ok=True)

    def _write_record(self) -> None:
        write_atomically(self.folder / names.RUN_FILE, json.dumps(self._record, indent=2) + "\n")


def _lock(frames: DCDWriter, folder: Path) -> None:
    """Refuse a folder that a run is writing to; the lock ends with the process, however that ends."""
    try:
        fcntl.flock(frames.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        frames.close()
        raise InputError(
            str(folder), "a run that has ended", "one that is still going", "wait for it, or end it"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system without locks
            raise


def _prepare(folder: Path) -> None:
    """Make the folder; refuse one that holds another run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(folder), "a folder to write to", error.strerror or str(error), "choose another") from error
    for name in (
        names.RUN_FILE, *_STREAMS, names.FINAL_FILE, names.STOPPED_FILE, names.FLAGGED_FILE, CHECKPOINT_FILE
    ):  # fmt: skip
        if (folder / name).exists():
            raise InputError(
                str(folder),
                "a new or empty folder",
                f"{name} of another run",
                "choose another folder or remove that run",
            )


def _resumed_before(folder: Path) -> list[int]:
    """Steps at which the run was taken up before, as its description says."""
    path = folder / names.RUN_FILE
    steps = read_json(path, "the file was altered").get("resumed_at_steps", [])
    if not isinstance(steps, list) or any(type(step) is not int for step in steps):
        raise FileFormatError(f"{path}, key resumed_at_steps", "numbers of steps", repr(steps), "the file was altered")
    return steps


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("fflux_py", "numpy", "numba"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed (run from its source)"
    return versions

"""The files of a run, streamed while it goes.

After every report all files are whole: a run that is killed leaves what a reader takes, up to its last report.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py.dynamics import trajectory as names
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.dcd import DCDWriter
from fflux_py.errors import InputError
from fflux_py.extended_xyz import Frame, Value, write_frames, write_molecule
from fflux_py.files import write_atomically
from fflux_py.molecule import Molecule
from fflux_py.potential import FloatArray
from fflux_py.units import ANGSTROM, FEMTOSECOND, KCAL_MOL

SCHEMA: Final = "fflux-run-1"
_UNITS: Final = {
    "trajectory.dcd": "angstrom",
    "*.extxyz": "angstrom; velocities in angstrom/fs",
    "thermo.csv": "as its column names say",
    "config.temperature": "K",
    "config.timestep": "fs",
    "config.relaxation_time": "fs",
}


class RunFolder:
    """Thermo log, trajectory, start, end and description of one run.

    Parameters
    ----------
    folder
        New or without the files of another run.
    start
        Start geometry.
    config, replica
        The run.
    description
        What else ``run.json`` says: digest of the model, degrees of freedom, limits of the guards.
    """

    def __init__(
        self, folder: Path, start: Molecule, config: MDConfig, replica: int, description: Mapping[str, object]
    ) -> None:
        self.folder = folder
        self._config = config
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
        _prepare(folder)
        write_molecule(folder / names.START_FILE, start)
        self._write_record()
        timestep = config.timestep / FEMTOSECOND
        self._frames = DCDWriter(
            folder / names.TRAJECTORY_FILE, start.n_atoms, config.report_every, timestep, f"fflux_py {self._source}"
        )
        self._log = _LineFile(folder / names.THERMO_FILE)
        self._log.write(",".join(names.COLUMNS))
        self._first_conserved = np.nan

    def report(
        self, step: int, positions: FloatArray, potential: float, kinetic: float, conserved: float, temperature: float
    ) -> None:
        """One frame and one line (atomic units, kelvin)."""
        if step == 0:
            self._first_conserved = conserved
        drift = (conserved - self._first_conserved) * KCAL_MOL
        numbers = (step * self._config.timestep, temperature, potential, kinetic, conserved, drift)
        self._frames.write(positions)
        self._log.write(f"{step}," + ",".join(repr(float(x)) for x in numbers))

    def write_state(
        self, name: str, molecule: Molecule, positions: FloatArray, velocities: FloatArray, step: int
    ) -> Path:
        """One geometry with its velocities, marked so that it can be labelled as it stands."""
        path = self.folder / name
        info: dict[str, Value] = {
            "name": molecule.name,
            "total_charge": molecule.charge,
            "units": "angstrom, angstrom/fs, K",
            "source": self._source,
            "temperature": self._config.temperature,
            "step": step,
            "time_fs": step * self._config.timestep,
        }
        columns = {"velocities": velocities * (ANGSTROM / FEMTOSECOND)}
        write_frames(path, [Frame(molecule.symbols, positions * ANGSTROM, columns, info)])
        return path

    def close(self, status: str, steps_done: int, message: str = "") -> None:
        """Close the files and write how the run ended."""
        self._frames.close()
        self._log.close()
        self._record.update(status=status, steps_done=steps_done)
        if message:
            self._record["message"] = message
        self._write_record()

    def _write_record(self) -> None:
        write_atomically(self.folder / names.RUN_FILE, json.dumps(self._record, indent=2) + "\n")


class _LineFile:
    """A new text file, one write for each line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._stream = open(path, "xb", buffering=0)
        except OSError as error:
            raise InputError(str(path), "a new file", error.strerror or str(error), "choose another folder") from error

    def write(self, line: str) -> None:
        try:
            self._stream.write(line.encode() + b"\n")
        except OSError as error:
            raise InputError(
                str(self._path), "room for the thermo log", error.strerror or str(error), "free space and run again"
            ) from error

    def close(self) -> None:
        self._stream.close()


def _prepare(folder: Path) -> None:
    """Make the folder; refuse one that holds another run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(folder), "a folder to write to", error.strerror or str(error), "choose another") from error
    for name in (names.RUN_FILE, names.TRAJECTORY_FILE, names.THERMO_FILE, names.FINAL_FILE, names.STOPPED_FILE):
        if (folder / name).exists():
            raise InputError(
                str(folder),
                "a new or empty folder",
                f"{name} of another run",
                "choose another folder or remove that run",
            )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("fflux_py", "numpy", "numba"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed (run from its source)"
    return found

"""The result of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fflux_py.dynamics.dcd import read_dcd
from fflux_py.errors import FileFormatError
from fflux_py.extended_xyz import read_molecule
from fflux_py.files import read_text
from fflux_py.molecule import Molecule, read_only
from fflux_py.potential import FloatArray

START_FILE = "start.extxyz"
THERMO_FILE = "thermo.csv"
TRAJECTORY_FILE = "trajectory.dcd"
RUN_FILE = "run.json"
FINAL_FILE = "final.extxyz"
STOPPED_FILE = "stopped.extxyz"

COLUMNS = (
    "step",
    "time_fs",
    "temperature_k",
    "potential_hartree",
    "kinetic_hartree",
    "conserved_hartree",
    "conserved_drift_kcal_mol",
)
"""Columns of the thermo log; the drift is against its first line."""


@dataclass(frozen=True)
class Trajectory:
    """Equally spaced reports of one run, that of the start first.

    Parameters
    ----------
    molecule
        The molecule at the start geometry.
    times_fs
        Times in femtosecond, shape ``(m,)``.
    positions
        Bohr, shape ``(m, n_atoms, 3)``.
    potential, kinetic
        Energies in hartree, shape ``(m,)``.
    conserved
        Conserved quantity in hartree, shape ``(m,)``: total energy, with a thermostat that of the extended system.
    temperature
        Instantaneous temperature 2 K / (f k_B) in kelvin, shape ``(m,)``.
    seed, replica
        Seed of the run and the number of the replica, which together fix the initial velocities.
    folder
        Where the files of the run are, if there are any.
    """

    molecule: Molecule
    times_fs: FloatArray
    positions: FloatArray
    potential: FloatArray
    kinetic: FloatArray
    conserved: FloatArray
    temperature: FloatArray
    seed: int
    replica: int = 0
    folder: Path | None = None

    def __post_init__(self) -> None:
        for name in ("times_fs", "positions", "potential", "kinetic", "conserved", "temperature"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.times_fs)

    @classmethod
    def read(cls, folder: str | os.PathLike[str], seed: int = 0, replica: int = 0) -> Trajectory:
        """Read start, trajectory and thermo log of a run's folder, also of one that was killed.

        Positions have the trajectory file's single precision.
        """
        base = Path(folder)
        molecule = read_molecule(base / START_FILE)
        frames = read_dcd(base / TRAJECTORY_FILE)
        if frames.positions.shape[1] != molecule.n_atoms:
            raise FileFormatError(
                str(base / TRAJECTORY_FILE),
                f"{molecule.n_atoms} atoms as in {START_FILE}",
                f"{frames.positions.shape[1]}",
            )
        table = read_thermo(base / THERMO_FILE)
        m = min(len(frames.positions), len(table["step"]))
        return cls(
            molecule=molecule,
            times_fs=table["time_fs"][:m],
            positions=frames.positions[:m],
            potential=table["potential_hartree"][:m],
            kinetic=table["kinetic_hartree"][:m],
            conserved=table["conserved_hartree"][:m],
            temperature=table["temperature_k"][:m],
            seed=seed,
            replica=replica,
            folder=base,
        )


def read_thermo(path: str | os.PathLike[str]) -> dict[str, FloatArray]:
    """Columns of a thermo log by name; a line that was cut off at the end is left out."""
    lines = read_text(path).split("\n")[:-1]
    if not lines or tuple(lines[0].split(",")) != COLUMNS:
        raise FileFormatError(f"{path}:1", ",".join(COLUMNS), repr(lines[0] if lines else ""), "is it a thermo log?")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split(",")
        try:
            rows.append([float(field) for field in fields])
        except ValueError:
            raise FileFormatError(f"{path}:{number}", "numbers", repr(line)) from None
        if len(fields) != len(COLUMNS):
            raise FileFormatError(f"{path}:{number}", f"{len(COLUMNS)} columns", str(len(fields)))
    table = np.array(rows, dtype=np.float64).reshape(-1, len(COLUMNS))
    return {name: np.ascontiguousarray(table[:, k]) for k, name in enumerate(COLUMNS)}

"""The result of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory as AseTrajectory

from fflux_py.dynamics.dcd import read_dcd
from fflux_py.errors import FileFormatError
from fflux_py.files import read_text
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.molecule import Molecule, read_only
from fflux_py.molecules.normal_modes import NormalModes, read_modes
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, EV, FEMTOSECOND

START_FILE = "start.extxyz"
THERMO_FILE = "thermo.csv"
TRAJECTORY_FILE = "trajectory.dcd"
VELOCITIES_FILE = "velocities.dcd"
MODES_FILE = "normal_modes.npz"
RUN_FILE = "run.json"
FINAL_FILE = "final.extxyz"
STOPPED_FILE = "stopped.extxyz"
FLAGGED_FILE = "flagged.extxyz"
EVENTS_FILE = "events.csv"
TOPOLOGY_FILE = "topology.pdb"
ASE_FILE = "trajectory.traj"

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

EVENT_COLUMNS = ("step", "time_fs", "guard", "action", "steps_in_block", "place", "expected", "found")
"""Columns of the log of the guards; ``step`` is the first of ``steps_in_block`` steps between two reports."""


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
        Energies in hartree, shape ``(m,)``; in Langevin dynamics the kinetic energy is that of the middle of the step,
        which is free of the error of the time step (so that ``conserved`` is not their sum plus a heat).
    conserved
        Conserved quantity in hartree, shape ``(m,)``: total energy, with a thermostat that of the extended system.
    temperature
        Instantaneous temperature 2 K / (f k_B) in kelvin, shape ``(m,)``.
    seed, replica
        Seed of the run and the number of the replica, which together fix the initial velocities.
    folder
        Where the files of the run are, if there are any.
    velocities
        Atomic units, shape ``(m, n_atoms, 3)``: those that ``kinetic`` is of, in Langevin dynamics from the middle of
        the step; None for a run of an earlier version.
    modes
        Normal modes at the start geometry, with the masses of the run; None if they were not kept (a run in memory).
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
    velocities: FloatArray | None = None
    modes: NormalModes | None = None

    def __post_init__(self) -> None:
        for name in ("times_fs", "positions", "potential", "kinetic", "conserved", "temperature"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        if self.velocities is not None:
            object.__setattr__(self, "velocities", read_only(self.velocities))

    def __len__(self) -> int:
        return len(self.times_fs)

    def __repr__(self) -> str:
        name, end = self.molecule.name, self.times_fs[-1] / 1000.0 if len(self) else 0.0
        return (
            f"Trajectory({name}, {len(self)} reports to {end:g} ps, mean temperature {self.temperature.mean():.0f} K)"
        )

    @overload
    def __getitem__(self, index: int) -> Molecule: ...
    @overload
    def __getitem__(self, index: slice) -> Trajectory: ...

    def __getitem__(self, index: int | slice) -> Molecule | Trajectory:
        """The geometry at one report as a molecule; or a part, by a slice."""
        if isinstance(index, int | np.integer):
            return self.molecule.with_positions(self.positions[index])
        names = ("times_fs", "positions", "potential", "kinetic", "conserved", "temperature")
        part = {name: getattr(self, name)[index] for name in names}
        return replace(self, **part, velocities=None if self.velocities is None else self.velocities[index])

    def to_ase(self) -> list[Atoms]:
        """The reports as atoms of ASE: positions and potential energies (angstrom, eV), ``time_fs`` in ``info``."""
        info = {"name": self.molecule.name, "total_charge": self.molecule.charge, "seed": self.seed}
        images = []
        for time, positions, energy in zip(self.times_fs, self.positions, self.potential, strict=True):
            atoms = Atoms(self.molecule.symbols, positions * ANGSTROM, info={**info, "time_fs": float(time)})
            atoms.calc = SinglePointCalculator(atoms, energy=float(energy) * EV)  # type: ignore[no-untyped-call]
            images.append(atoms)
        return images

    def write_ase(self, path: str | os.PathLike[str]) -> None:
        """Write a trajectory of the Atomic Simulation Environment: positions and potential energies (angstrom, eV)."""
        with AseTrajectory(os.fspath(path), "w") as stream:  # type: ignore[no-untyped-call]
            for atoms in self.to_ase():
                stream.write(atoms)

    @classmethod
    def read(cls, folder: str | os.PathLike[str], seed: int = 0, replica: int = 0) -> Trajectory:
        """Read start, trajectory, velocities and thermo log of a run's folder, also of one that was killed.

        Positions and velocities have the single precision of their files.
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
        velocities = None
        if (base / VELOCITIES_FILE).exists():
            # angstrom/fs in the file, which its reader takes for angstrom
            velocities = read_dcd(base / VELOCITIES_FILE).positions * FEMTOSECOND
            if velocities.shape[1] != molecule.n_atoms:
                raise FileFormatError(
                    str(base / VELOCITIES_FILE), f"{molecule.n_atoms} atoms as in {START_FILE}",
                    f"{velocities.shape[1]}",
                )  # fmt: skip
            m = min(m, len(velocities))
        modes = read_modes(base / MODES_FILE) if (base / MODES_FILE).exists() else None
        if modes is not None and modes.positions.shape[0] != molecule.n_atoms:
            raise FileFormatError(
                str(base / MODES_FILE), f"{molecule.n_atoms} atoms as in {START_FILE}", f"{modes.positions.shape[0]}"
            )
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
            velocities=None if velocities is None else velocities[:m],
            modes=modes,
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

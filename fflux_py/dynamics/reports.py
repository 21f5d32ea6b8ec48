"""Reports of a run, and where they are kept if no files are written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.trajectory import Trajectory
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray


class Report(NamedTuple):
    """What is known at a report, in atomic units and kelvin."""

    step: int
    potential: float
    kinetic: float
    conserved: float
    temperature: float


class ReportsInMemory:
    """Reports of a run that writes no files."""

    def __init__(self, config: MDConfig, n_atoms: int) -> None:
        # pages of memory are taken only as reports fill them
        self._positions: FloatArray = np.empty((config.n_reports, n_atoms, 3))
        self._velocities: FloatArray = np.empty((config.n_reports, n_atoms, 3))
        self._table: FloatArray = np.empty((config.n_reports, len(Report._fields)))
        self._n = 0

    def add(self, report: Report, positions: FloatArray, velocities: FloatArray) -> None:
        """Keep one report."""
        self._positions[self._n] = positions
        self._velocities[self._n] = velocities
        self._table[self._n] = report
        self._n += 1

    def trajectory(self, start: Molecule, config: MDConfig, replica: int) -> Trajectory:
        """All reports so far."""
        step, potential, kinetic, conserved, temperature = self._table[: self._n].T
        return Trajectory(
            molecule=start,
            times_fs=step * config.timestep,
            positions=self._positions[: self._n],
            potential=potential,
            kinetic=kinetic,
            conserved=conserved,
            temperature=temperature,
            seed=config.seed,
            replica=replica,
            velocities=self._velocities[: self._n],
        )

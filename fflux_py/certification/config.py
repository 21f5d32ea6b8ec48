"""What a certification runs and what it asks for; where and how the work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fflux_py.dynamics.config import GuardConfig, MDConfig
from fflux_py.dynamics.thermostats import DEFAULT_THERMOSTAT
from fflux_py.errors import InputError
from fflux_py.typing import Stage, silent

FULL_SEEDS: Final = 3
"""Fewest seeds of the definition."""

FULL_FRAMES: Final = 100
"""Fewest labelled frames for each temperature."""


@dataclass(frozen=True)
class Execution:
    """Where and how the work is done; no result depends on it.

    Parameters
    ----------
    folder
        Where everything goes; made if missing.
    label_folder
        Results of single labels; ``labels`` in the folder if not given.
    threads
        Runs side by side, and threads of the linear algebra.
    stage
        Opens a stage of the work and gives its progress callback.
    """

    folder: Path
    label_folder: Path | None = None
    threads: int = 1
    stage: Stage = silent

    @property
    def labels_in(self) -> Path:
        """Folder of the results of single labels."""
        return self.folder / "labels" if self.label_folder is None else self.label_folder


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What every temperature is held against; the defaults are the definition of a stable run.

    Parameters
    ----------
    energy_mae_kcal_mol
        Mean absolute error of the total energy on visited frames.
    force_mae_kcal_mol_angstrom
        The same of force components; None: told, not judged.
    mean_energy_kcal_mol
        Difference of the mean energies of model and reference over the visited frames.
    drift_kcal_mol_100ps
        Drift of the conserved quantity.
    jump_kcal_mol
        Change of the conserved quantity between two reports that counts as a jump.
    """

    energy_mae_kcal_mol: float = 1.0
    force_mae_kcal_mol_angstrom: float | None = None
    mean_energy_kcal_mol: float = 1.0
    drift_kcal_mol_100ps: float = 1.0
    jump_kcal_mol: float = 5.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise InputError(f"limits.{name}", "a positive number", str(value))


@dataclass(frozen=True, kw_only=True)
class CertificationConfig:
    """Settings of a certification.

    Parameters
    ----------
    temperatures
        Kelvin.
    seeds
        Independent runs at every temperature.
    picoseconds
        Length of every run.
    timestep
        Femtosecond.
    hydrogen_mass
        As in :class:`~fflux_py.dynamics.MDConfig`.
    frames
        Visited frames that are labelled at every temperature, equally spaced over all its runs.
    report_fs
        Time between two frames, femtosecond; the nearest number of steps is taken.
    thermostat
        As in :class:`~fflux_py.dynamics.MDConfig`.
    seed
        Seed of all random numbers.
    limits
        What is asked for.
    """

    temperatures: tuple[float, ...] = (300.0, 500.0, 700.0, 1000.0)
    seeds: int = FULL_SEEDS
    picoseconds: float = 1000.0
    timestep: float = 0.5
    hydrogen_mass: float | None = None
    frames: int = FULL_FRAMES
    report_fs: float = 20.0
    thermostat: str = DEFAULT_THERMOSTAT
    seed: int = 0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        temperatures = tuple(float(t) for t in self.temperatures)
        if not temperatures or len(set(temperatures)) < len(temperatures):
            raise InputError("temperatures", "one or more different ones", str(self.temperatures))
        object.__setattr__(self, "temperatures", temperatures)
        for name in ("seeds", "frames"):
            if getattr(self, name) < 1:
                raise InputError(name, "at least 1", str(getattr(self, name)))
        for name in ("picoseconds", "timestep", "report_fs"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise InputError(name, "a positive number", str(value))
        for temperature in temperatures:
            self.md_config(temperature)

    def md_config(self, temperature: float) -> MDConfig:
        """Settings of the runs at one temperature."""
        return MDConfig(
            steps=max(1, round(1000.0 * self.picoseconds / self.timestep)),
            temperature=temperature,
            timestep=self.timestep,
            thermostat=self.thermostat,
            hydrogen_mass=self.hydrogen_mass,
            report_every=max(1, round(self.report_fs / self.timestep)),
            checkpoint_every=20_000,
            seed=self.seed,
            replicas=self.seeds,
            guards=GuardConfig(conserved="warn", conserved_jump=self.limits.jump_kcal_mol),
        )

    @property
    def is_full(self) -> bool:
        """Whether seeds and frames are as many as the definition asks for."""
        return self.seeds >= FULL_SEEDS and self.frames >= FULL_FRAMES

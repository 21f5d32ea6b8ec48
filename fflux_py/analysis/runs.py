"""Molecular dynamics runs: read from their folders, analysed, and compared with the criteria of a stable run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from fflux_py.analysis.criteria import Criterion, with_error
from fflux_py.analysis.equipartition import Equipartition, equipartition
from fflux_py.analysis.geometry import bond_lengths, shortest_distances
from fflux_py.analysis.spectrum import FEWEST, PowerSpectrum, power_spectrum
from fflux_py.analysis.statistics import LinearDrift, SeriesMean, autocorrelation_time, block_average, linear_drift
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.guards import CONTACT, LONGEST, SHORTEST
from fflux_py.dynamics.thermostats import THERMOSTATS
from fflux_py.dynamics.trajectory import RUN_FILE, Trajectory
from fflux_py.errors import FFLUXError, FileFormatError, InputError
from fflux_py.files import read_json
from fflux_py.molecules.mechanics import degrees_of_freedom, masses
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, KCAL_MOL

LARGEST_DEVIATION: Final = 0.5 / ANGSTROM
"""Largest deviation of a bond from its reference, bohr (X. Fu et al., arXiv:2210.07237)."""

EQUILIBRATION: Final = 0.1
"""Share of a run that is left out of its averages, at the start."""

LARGEST_HEATING: Final = 0.005
"""Share of the temperature by which a run of Langevin dynamics may be heated."""

DRIFT_TIME_PS: Final = 100.0
"""Runs of this length and more are held against the drift of their conserved quantity."""

MINIMUM_REPORTS: Final = 20
"""A run with fewer reports has no figures."""

_SCHEMA: Final = "fflux-run-1"


@dataclass(frozen=True)
class Run:
    """One run and what is known of how it was made.

    Parameters
    ----------
    trajectory
        The reports.
    config
        The settings.
    status
        ``"completed"``, ``"stopped"`` (a guard tripped) or ``"running"`` (also: killed).
    message
        Why it stopped; empty otherwise.
    record
        The content of ``run.json``; empty for a run that was never written.
    """

    trajectory: Trajectory
    config: MDConfig
    status: str
    message: str
    record: Mapping[str, Any]

    @property
    def label(self) -> str:
        """A short name for legends: ``"NVT 300 K, seed 1, replica 0"``."""
        ensemble = "NVT" if self.config.thermostat != "none" else "NVE"
        text = f"{ensemble} {self.config.temperature:g} K, seed {self.trajectory.seed}"
        return f"{text}, replica {self.trajectory.replica}" if self.config.replicas > 1 else text

    @property
    def thermostat(self) -> str:
        """The thermostat in words."""
        config = self.config
        words = THERMOSTATS[config.thermostat].description.format(
            chain_length=config.chain_length, relaxation_time=config.relaxation_time
        )
        return words if config.hydrogen_mass is None else f"{words}, hydrogen of {config.hydrogen_mass:g} Da"

    @property
    def times_ps(self) -> FloatArray:
        """Times of the reports in picosecond, shape ``(m,)``."""
        return np.asarray(self.trajectory.times_fs / 1000.0)

    @property
    def length_ps(self) -> float:
        """Simulated time in picosecond."""
        return float(self.times_ps[-1]) if len(self.trajectory) else 0.0

    @property
    def steps_done(self) -> int:
        """Steps until the end, or until the last report of a run that has no record of its end."""
        last = round(self.trajectory.times_fs[-1] / self.config.timestep) if len(self.trajectory) else 0
        return max(int(self.record.get("steps_done", 0)), last)

    @property
    def conserved_kcal_mol(self) -> FloatArray:
        """Conserved quantity minus its first value, kcal/mol, shape ``(m,)``."""
        conserved = self.trajectory.conserved
        return np.asarray((conserved - conserved[0]) * KCAL_MOL)


@dataclass(frozen=True)
class RunAnalysis:
    """Figures of one run.

    Averages leave out the first tenth of the run (the start at a minimum holds no potential energy, which the
    thermostat has to bring in first); everything else is over the whole run.

    Parameters
    ----------
    run
        The run.
    temperature_k
        Mean of the instantaneous temperature.
    potential_kcal_mol
        Mean of the potential energy above the first report, kcal/mol.
    temperature_autocorrelation_time_fs
        Integrated autocorrelation time of the temperature.
    temperature_deviation_k, expected_temperature_deviation_k
        Standard deviation of the instantaneous temperature, and that of the canonical ensemble, T sqrt(2/f).
    conserved_deviation_kcal_mol
        Largest deviation of the conserved quantity from its first value.
    conserved_drift_kcal_mol_100ps
        Its linear drift per 100 ps.
    conserved_jump_kcal_mol
        Its largest change between two successive reports.
    largest_bond_deviation
        Largest deviation of a bond from its reference, bohr.
    worst_bond
        The bond ``(i, j)`` with this deviation.
    smallest_bond_ratio, largest_bond_ratio
        Extremes of bond length / reference length.
    closest_contact
        Shortest distance of two atoms, bohr.
    degrees_of_freedom
        f of the kinetic energy.
    equipartition
        Temperatures by mode and element; None where nothing can be said (:mod:`fflux_py.analysis.equipartition`).
    """

    run: Run
    temperature_k: SeriesMean
    potential_kcal_mol: SeriesMean
    temperature_autocorrelation_time_fs: float
    temperature_deviation_k: float
    expected_temperature_deviation_k: float
    conserved_deviation_kcal_mol: float
    conserved_drift_kcal_mol_100ps: LinearDrift
    conserved_jump_kcal_mol: float
    largest_bond_deviation: float
    worst_bond: tuple[int, int]
    smallest_bond_ratio: float
    largest_bond_ratio: float
    closest_contact: float
    degrees_of_freedom: int
    equipartition: Equipartition | None

    @property
    def heating_k(self) -> float:
        """By how much energy that comes from nowhere heats a run of Langevin dynamics, kelvin.

        A power P that the integrator or forces without a potential bring in stands against the friction 1 / tau: in the
        stationary state the temperature is too high by P tau / (f k_B).  P is the slope of the conserved quantity.
        """
        relaxation = self.run.config.relaxation_time
        assert relaxation is not None
        power = self.conserved_drift_kcal_mol_100ps.slope / KCAL_MOL / (1000.0 * DRIFT_TIME_PS)
        return power * relaxation / (self.degrees_of_freedom * BOLTZMANN)

    @property
    def bonds_kept(self) -> bool:
        """Whether all reports keep the bonds, and no two atoms meet."""
        return (
            self.smallest_bond_ratio >= SHORTEST
            and self.largest_bond_ratio <= LONGEST
            and self.largest_bond_deviation <= LARGEST_DEVIATION
            and self.closest_contact >= CONTACT
        )

    def criteria(self) -> tuple[Criterion, ...]:
        """Completed, bonds kept, temperature right, in every mode too, energy conserved.

        The drift per 100 ps is a criterion for runs of at least that length only: a slope that is extrapolated from a
        short run says nothing.  In Langevin dynamics the conserved quantity is total energy less the heat of friction
        and noise; that book-keeping has an error of the time step of its own, with the best of models.  So it is held
        against what it would do to the temperature (:attr:`heating_k`).  Whether the model conserves energy is what
        runs at constant energy are for (:mod:`fflux_py.analysis.energy_conservation`).
        """
        run, group = self.run, self.run.label
        length = run.message or f"{run.length_ps:g} ps at {run.config.timestep:g} fs per step."
        lines = [
            Criterion("Steps completed", float(run.steps_done), "", float(run.config.steps), "=", length, group),
            Criterion("Largest deviation of a bond", self.largest_bond_deviation * ANGSTROM, "Å",
                      LARGEST_DEVIATION * ANGSTROM, "<", "From the reference geometry's length; all reports.", group),
            Criterion("Closest pair of atoms", self.closest_contact * ANGSTROM, "Å", CONTACT * ANGSTROM, ">",
                      "All pairs, all reports.", group),
        ]  # fmt: skip
        if run.config.thermostat != "none":
            mean, target = self.temperature_k, run.config.temperature
            note = (
                f"⟨T⟩ = {with_error(mean.mean, mean.standard_error)} K; three standard errors hold in 99 of 100 runs."
            )
            lines.append(
                Criterion("Mean temperature, distance from the thermostat", abs(mean.mean - target), "K",
                          3.0 * mean.standard_error, "<", note, group)
            )  # fmt: skip
        if self.equipartition is not None:
            lines += self.equipartition.criteria(group)
        if run.config.thermostat == "langevin":
            lines.append(
                Criterion("Heating by integrator and forces", abs(self.heating_k), "K",
                          LARGEST_HEATING * run.config.temperature, "<",
                          "Slope of the conserved quantity against the friction, absolute value.", group)
            )  # fmt: skip
            return tuple(lines)
        lines.append(
            Criterion("Conserved quantity, largest deviation", self.conserved_deviation_kcal_mol, "kcal/mol", 1.0, "<",
                      "From its first value; all reports.", group)
        )  # fmt: skip
        if run.length_ps >= DRIFT_TIME_PS:
            slope = self.conserved_drift_kcal_mol_100ps.slope
            lines.append(
                Criterion("Conserved quantity, drift in 100 ps", abs(slope), "kcal/mol", 1.0, "<",
                          "Slope of the least-squares line, absolute value.", group)
            )  # fmt: skip
        return tuple(lines)

    def as_dict(self) -> dict[str, object]:
        """For JSON: units in the key names."""
        run = self.run
        return {
            "label": run.label,
            "status": run.status,
            "time_ps": run.length_ps,
            "n_frames": len(run.trajectory),
            "thermostat_temperature_k": run.config.temperature,
            "temperature_mean_k": self.temperature_k.mean,
            "temperature_standard_error_k": self.temperature_k.standard_error,
            "temperature_deviation_k": self.temperature_deviation_k,
            "expected_temperature_deviation_k": self.expected_temperature_deviation_k,
            "temperature_autocorrelation_time_fs": self.temperature_autocorrelation_time_fs,
            "potential_mean_kcal_mol": self.potential_kcal_mol.mean,
            "potential_standard_error_kcal_mol": self.potential_kcal_mol.standard_error,
            "conserved_deviation_kcal_mol": self.conserved_deviation_kcal_mol,
            "conserved_drift_kcal_mol_100ps": self.conserved_drift_kcal_mol_100ps.slope,
            "conserved_jump_kcal_mol": self.conserved_jump_kcal_mol,
            "equipartition": None if self.equipartition is None else self.equipartition.as_dict(),
            "largest_bond_deviation_angstrom": self.largest_bond_deviation * ANGSTROM,
            "closest_contact_angstrom": self.closest_contact * ANGSTROM,
            "bonds_kept": self.bonds_kept,
            "criteria": [criterion.as_dict() for criterion in self.criteria()],
        }


def analyse_run(run: Run, reference: Molecule | None = None) -> RunAnalysis:
    """Compute the figures of a run.

    Parameters
    ----------
    run
        At least 20 reports.
    reference
        Geometry that the bond lengths are held against, for example that of the model; the start geometry if not
        given.
    """
    trajectory = run.trajectory
    if len(trajectory) < MINIMUM_REPORTS:
        raise InputError(
            f"run {run.label!r}", f"at least {MINIMUM_REPORTS} reports", str(len(trajectory)),
            "run longer or report more often",
        )  # fmt: skip
    molecule = trajectory.molecule if reference is None else reference
    if not molecule.bonds:
        raise InputError(f"run {run.label!r}", "a molecule with bonds", "none")
    first = int(EQUILIBRATION * len(trajectory))
    lengths, normal = (
        bond_lengths(trajectory.positions, molecule.bonds),
        bond_lengths(molecule.positions, molecule.bonds),
    )
    deviation = np.abs(lengths - normal).max(axis=0)
    freedom = degrees_of_freedom(molecule.n_atoms)
    temperature = trajectory.temperature[first:]
    interval = float(trajectory.times_fs[1] - trajectory.times_fs[0])
    return RunAnalysis(
        run=run,
        temperature_k=block_average(temperature),
        potential_kcal_mol=block_average((trajectory.potential[first:] - trajectory.potential[0]) * KCAL_MOL),
        temperature_autocorrelation_time_fs=autocorrelation_time(temperature) * interval,
        temperature_deviation_k=float(temperature.std(ddof=1)),
        expected_temperature_deviation_k=run.config.temperature * float(np.sqrt(2.0 / freedom)),
        conserved_deviation_kcal_mol=float(np.abs(run.conserved_kcal_mol).max()),
        conserved_drift_kcal_mol_100ps=linear_drift(run.times_ps / 100.0, run.conserved_kcal_mol),
        conserved_jump_kcal_mol=float(np.abs(np.diff(run.conserved_kcal_mol)).max()),
        largest_bond_deviation=float(deviation.max()),
        worst_bond=molecule.bonds[int(deviation.argmax())],
        smallest_bond_ratio=float((lengths / normal).min()),
        largest_bond_ratio=float((lengths / normal).max()),
        closest_contact=float(shortest_distances(trajectory.positions).min()),
        degrees_of_freedom=freedom,
        equipartition=equipartition((trajectory,), run.config),
    )


def run_spectrum(run: Run) -> PowerSpectrum | None:
    """Power spectrum of a run, its first tenth left out; None for a run that is too short for one."""
    trajectory = run.trajectory
    first = int(EQUILIBRATION * len(trajectory))
    if len(trajectory) - first <= FEWEST:
        return None
    return power_spectrum(
        trajectory.positions[first:],
        float(trajectory.times_fs[1] - trajectory.times_fs[0]),
        masses(trajectory.molecule, run.config.hydrogen_mass),
        float(trajectory.temperature[first:].mean()),
    )


def completed_run(trajectory: Trajectory, config: MDConfig) -> Run:
    """A completed run that is in memory."""
    return Run(trajectory, config, "completed", "", {})


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read one run: ``run.json``, start, thermo log and trajectory.

    Raises
    ------
    FileFormatError
        If a file is missing or not what it should be.
    """
    path = Path(folder) / RUN_FILE
    record = read_json(path, "is it a run's folder?")
    if record.get("schema") != _SCHEMA:
        raise FileFormatError(str(path), f"schema {_SCHEMA}", str(record.get("schema")), "is it a run of 'fflux md'?")
    try:
        config = MDConfig.of(record["config"])
        replica = int(record["replica"])
    except FFLUXError as error:
        raise FileFormatError(f"{path}, key config, {error.where}", error.expected, error.found, "run again") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FileFormatError(f"{path}, key config", "the settings of a run", str(error), "run again") from error
    trajectory = Trajectory.read(folder, seed=config.seed, replica=replica)
    return Run(trajectory, config, str(record.get("status", "running")), str(record.get("message", "")), record)


def read_runs(folder: str | os.PathLike[str]) -> tuple[Run, ...]:
    """All runs in a folder: the folder itself, or every folder below it that holds a ``run.json``.

    Sorted by temperature, then by name of the folder.
    """
    base = Path(folder)
    if (base / RUN_FILE).is_file():
        return (read_run(base),)
    folders = sorted(path.parent for path in base.glob(f"**/{RUN_FILE}"))
    if not folders:
        raise FileFormatError(str(base), f"a folder with {RUN_FILE}", "none", "give the folder that 'fflux md' wrote")
    return tuple(sorted((read_run(folder) for folder in folders), key=lambda run: run.config.temperature))

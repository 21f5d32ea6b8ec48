"""Figures of the runs at one temperature and of the labels of what they visited, and the verdict on them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.energy_conservation import (
    LARGEST_DRIFT,
    drift_criterion,
    energy_fluctuations,
    fluctuation_criterion,
    piece_drift,
)
from fflux_py.analysis.equipartition import Equipartition, equipartition
from fflux_py.analysis.geometry import bond_lengths, shortest_distances
from fflux_py.analysis.runs import DRIFT_TIME_PS, EQUILIBRATION, LARGEST_DEVIATION, Run
from fflux_py.analysis.statistics import linear_drift
from fflux_py.certification.config import Limits
from fflux_py.dynamics.guards import CONTACT, LONGEST, SHORTEST, label
from fflux_py.dynamics.trajectory import EVENTS_FILE
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, KCAL_MOL, KCAL_MOL_ANGSTROM

_FEWEST_FOR_DRIFT = 16


@dataclass(frozen=True)
class RunFigures:
    """Figures of one run: whether the molecule stayed whole, and whether its energy was conserved.

    Parameters
    ----------
    replica
        Its number.
    completed
        Whether no guard stopped it.
    length_ps
        Simulated time, picosecond.
    shortest_bond_ratio, longest_bond_ratio
        Extremes of bond length over that of the reference geometry.
    largest_bond_deviation_angstrom, worst_bond
        Largest deviation of a bond from its reference length, and which bond.
    closest_contact_angstrom
        Closest pair of atoms.
    drift_kcal_mol_100ps
        Slope of the conserved quantity; of a run shorter than 100 ps the drift over the run.
    jumps
        Blocks between two reports in which the conserved quantity jumped.
    mean_temperature_k
        Mean of the instantaneous temperature, the first tenth left out.
    """

    replica: int
    completed: bool
    length_ps: float
    shortest_bond_ratio: float
    longest_bond_ratio: float
    largest_bond_deviation_angstrom: float
    worst_bond: str
    closest_contact_angstrom: float
    drift_kcal_mol_100ps: float
    jumps: int
    mean_temperature_k: float

    @property
    def survived(self) -> bool:
        """Completed, with all bonds and no contact."""
        return (
            self.completed
            and self.shortest_bond_ratio > SHORTEST
            and self.longest_bond_ratio < LONGEST
            and self.largest_bond_deviation_angstrom < LARGEST_DEVIATION * ANGSTROM
            and self.closest_contact_angstrom > CONTACT * ANGSTROM
        )


@dataclass(frozen=True)
class TemperatureFigures:
    """All runs at one temperature; energies of the model against the reference on the visited frames.

    Parameters
    ----------
    temperature_k
        Of the thermostat.
    runs
        Figures of the runs.
    n_frames, n_failed
        Visited frames with a label, and those that the reference method could not label.
    energy_mae_kcal_mol, energy_largest_error_kcal_mol, force_mae_kcal_mol_angstrom
        Errors on these frames, without any shift.
    mean_energy_difference_kcal_mol
        Mean of model minus reference.
    mean_energy_above_minimum_kcal_mol
        Mean energy of the model over the frames of all runs, above the *reference* energy of the minimum.
    lowest_energy_above_minimum_kcal_mol
        Lowest energy of the model at any report, above the same.
    equipartition
        Temperatures by mode and element; None where nothing can be said (:mod:`fflux_py.analysis.equipartition`).
    pieces
        Runs at constant energy that tell whether energy is conserved; None: the runs themselves tell.
    fluctuations_kcal_mol
        Standard deviations of the energy with full and half time step
        (:func:`~fflux_py.analysis.energy_conservation.energy_fluctuations`); None without pieces.
    """

    temperature_k: float
    runs: tuple[RunFigures, ...]
    n_frames: int
    n_failed: int
    energy_mae_kcal_mol: float
    energy_largest_error_kcal_mol: float
    force_mae_kcal_mol_angstrom: float
    mean_energy_difference_kcal_mol: float
    mean_energy_above_minimum_kcal_mol: float
    lowest_energy_above_minimum_kcal_mol: float
    equipartition: Equipartition | None = None
    pieces: tuple[Run, ...] | None = None
    fluctuations_kcal_mol: tuple[float, float] | None = None

    @property
    def n_survived(self) -> int:
        """Runs that kept the molecule to their end."""
        return sum(run.survived for run in self.runs)

    @property
    def drift_kcal_mol_100ps(self) -> float:
        """Largest drift of the pieces at constant energy, or if there are none of the runs, absolute value."""
        if self.pieces is not None:
            return self._drift_of_pieces().value
        return float(np.max([abs(run.drift_kcal_mol_100ps) for run in self.runs]))

    def _drift_of_pieces(self, limit: float = LARGEST_DRIFT, group: str = "") -> Criterion:
        pieces = self.pieces or ()
        length = min((piece.length_ps for piece in pieces), default=0.0)
        return drift_criterion([piece_drift(piece) for piece in pieces], length, limit, group)

    @property
    def worst(self) -> RunFigures:
        """The run with the largest deviation of a bond from its reference."""
        return max(self.runs, key=lambda run: run.largest_bond_deviation_angstrom)

    def criteria(self, limits: Limits, frames: int) -> tuple[Criterion, ...]:
        """The verdict; ``frames`` is how many labels were asked for."""
        group, worst = f"{self.temperature_k:g} K", self.worst
        length = sum(run.length_ps for run in self.runs)
        short = min(run.length_ps for run in self.runs) < DRIFT_TIME_PS
        drift = "Least-squares slope" + (" over the run, which is shorter than 100 ps." if short else ".")
        note = f"Bonds, contacts and energy kept to the end; {length:g} ps in all."
        n_expected = min(frames, self.n_frames + self.n_failed)
        visited = f"Model minus reference on {self.n_frames} visited frames, no shift."
        lines = [
            Criterion("Runs that survived", self.n_survived, "", float(len(self.runs)), "=", note, group),
            Criterion("Shortest bond over its reference", min(r.shortest_bond_ratio for r in self.runs), "", SHORTEST,
                      ">", "All bonds, all reports.", group),
            Criterion("Longest bond over its reference", max(r.longest_bond_ratio for r in self.runs), "", LONGEST,
                      "<", "All bonds, all reports.", group),
            Criterion("Largest deviation of a bond", worst.largest_bond_deviation_angstrom, "Å",
                      LARGEST_DEVIATION * ANGSTROM, "<", f"{worst.worst_bond}, run {worst.replica}.", group),
            Criterion("Closest pair of atoms", min(r.closest_contact_angstrom for r in self.runs), "Å",
                      CONTACT * ANGSTROM, ">", "All pairs, all reports.", group),
            Criterion("Drift of the conserved quantity in 100 ps", self.drift_kcal_mol_100ps, "kcal/mol",
                      limits.drift_kcal_mol_100ps, "<", drift, group)
            if self.pieces is None else self._drift_of_pieces(limits.drift_kcal_mol_100ps, group),
            Criterion("Jumps of the conserved quantity", sum(r.jumps for r in self.runs), "", 0.0, "=",
                      f"Changes by more than {limits.jump_kcal_mol:g} kcal/mol since the last report; every step.",
                      group),
            Criterion("Visited frames labelled", self.n_frames, "", float(n_expected), "=",
                      "Equally spaced over all runs.", group),
            Criterion("Energy MAE", self.energy_mae_kcal_mol, "kcal/mol", limits.energy_mae_kcal_mol, "<", visited,
                      group),
            Criterion("Mean energy, model against reference", abs(self.mean_energy_difference_kcal_mol), "kcal/mol",
                      limits.mean_energy_kcal_mol, "<", visited, group),
            Criterion("Mean energy above the minimum", self.mean_energy_above_minimum_kcal_mol, "kcal/mol", 0.0, ">",
                      "All reports of the model, against the reference energy of the minimum.", group),
        ]  # fmt: skip
        if self.fluctuations_kcal_mol is not None:
            lines.append(fluctuation_criterion(*self.fluctuations_kcal_mol, group))
        if self.equipartition is not None:
            lines += self.equipartition.criteria(group)
        if limits.force_mae_kcal_mol_angstrom is not None:
            lines.append(
                Criterion("Force MAE", self.force_mae_kcal_mol_angstrom, "kcal/mol/Å",
                          limits.force_mae_kcal_mol_angstrom, "<", visited, group)
            )  # fmt: skip
        return tuple(lines)

    def as_dict(self) -> dict[str, object]:
        """For JSON: units in the key names."""
        apart = ("runs", "equipartition", "pieces")
        figures = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        runs = [{**{f.name: getattr(run, f.name) for f in fields(run)}, "survived": run.survived} for run in self.runs]
        return {
            **figures,
            "n_runs": len(runs),
            "n_survived": self.n_survived,
            "drift_kcal_mol_100ps": self.drift_kcal_mol_100ps,
            "jumps": sum(run.jumps for run in self.runs),
            "worst_bond": self.worst.worst_bond,
            "largest_bond_deviation_angstrom": self.worst.largest_bond_deviation_angstrom,
            "closest_contact_angstrom": min(run.closest_contact_angstrom for run in self.runs),
            "equipartition": None if self.equipartition is None else self.equipartition.as_dict(),
            "constant_energy_drifts_kcal_mol": (
                None if self.pieces is None else [piece_drift(piece) for piece in self.pieces]
            ),
            "constant_energy_ps": None if self.pieces is None else [piece.length_ps for piece in self.pieces],
            "runs": runs,
        }


def run_figures(run: Run, reference: Molecule) -> RunFigures:
    """Figures of one run; bonds are held against those of ``reference``."""
    trajectory = run.trajectory
    lengths = bond_lengths(trajectory.positions, reference.bonds)
    normal = bond_lengths(reference.positions, reference.bonds)
    deviation = np.abs(lengths - normal).max(axis=0)
    slope = np.nan
    if len(trajectory) >= _FEWEST_FOR_DRIFT:
        slope = linear_drift(run.times_ps, run.conserved_kcal_mol).slope * min(run.length_ps, DRIFT_TIME_PS)
    settled = trajectory.temperature[int(EQUILIBRATION * len(trajectory)) :]
    return RunFigures(
        replica=trajectory.replica,
        completed=run.status == "completed",
        length_ps=run.length_ps,
        shortest_bond_ratio=float((lengths / normal).min()),
        longest_bond_ratio=float((lengths / normal).max()),
        largest_bond_deviation_angstrom=float(deviation.max() * ANGSTROM),
        worst_bond=label(reference, *reference.bonds[int(deviation.argmax())]),
        closest_contact_angstrom=float(shortest_distances(trajectory.positions).min() * ANGSTROM),
        drift_kcal_mol_100ps=float(slope),
        jumps=_count_jumps(run),
        mean_temperature_k=float(settled.mean()),
    )


def assess(
    forcefield: ForceField,
    runs: Sequence[Run],
    labels: Dataset | None,
    n_failed: int,
    minimum: float,
    pieces: tuple[Run, ...] | None = None,
) -> TemperatureFigures:
    """Assess the runs at one temperature.

    Parameters
    ----------
    forcefield
        The model.
    runs
        Its runs.
    labels
        Labels of frames that they visited; None if none could be labelled.
    n_failed
        Frames that could not.
    minimum
        Reference energy of the minimum, hartree.
    pieces
        Runs at constant energy (:func:`fflux_py.certification.replicas.run_pieces`).

    Returns
    -------
    TemperatureFigures
        Errors are NaN if there are no labels.
    """
    energy_errors, force_errors = np.full(1, np.nan), np.full(1, np.nan)
    if labels is not None:
        energies, forces = forcefield.unmatched.compute(labels.positions)
        assert forces is not None
        energy_errors = (energies - labels.energies) * KCAL_MOL
        force_errors = np.abs(forces - labels.forces) * KCAL_MOL_ANGSTROM
    above = [
        (run.trajectory.potential[int(EQUILIBRATION * len(run.trajectory)) :] - minimum) * KCAL_MOL for run in runs
    ]
    completed = [run for run in runs if run.status == "completed"]
    lowest = min(float((run.trajectory.potential - minimum).min()) * KCAL_MOL for run in runs)
    return TemperatureFigures(
        temperature_k=runs[0].config.temperature,
        runs=tuple(run_figures(run, forcefield.molecule) for run in runs),
        n_frames=0 if labels is None else len(labels),
        n_failed=n_failed,
        energy_mae_kcal_mol=float(np.abs(energy_errors).mean()),
        energy_largest_error_kcal_mol=float(np.abs(energy_errors).max()),
        force_mae_kcal_mol_angstrom=float(force_errors.mean()),
        mean_energy_difference_kcal_mol=float(energy_errors.mean()),
        mean_energy_above_minimum_kcal_mol=float(np.concatenate(above).mean()),
        lowest_energy_above_minimum_kcal_mol=lowest,
        equipartition=equipartition([run.trajectory for run in runs], runs[0].config),
        pieces=pieces,
        fluctuations_kcal_mol=energy_fluctuations(forcefield, completed[0]) if pieces and completed else None,
    )


def _count_jumps(run: Run) -> int:
    """Events of the guard of the conserved quantity in the run's folder."""
    folder = run.trajectory.folder
    if folder is None or not (folder / EVENTS_FILE).exists():
        return 0
    with open(folder / EVENTS_FILE, encoding="utf-8", newline="") as stream:
        return sum(row["guard"] == "conserved" for row in csv.DictReader(stream))

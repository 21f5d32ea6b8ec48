"""A force field against the held-out part of a data set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.analysis.calibration import Reliability, independent, reliability
from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.prediction_errors import ALL, ROOM, ErrorTable, prediction_errors
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.dataset_order import reorder_dataset
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray

CHEMICAL_ACCURACY: Final = 1.0
"""One kcal/mol, the usual line."""


@dataclass(frozen=True)
class Validation:
    """Predictions for labelled geometries and their errors.

    Parameters
    ----------
    dataset
        The geometries that were predicted, with their labels.
    energies
        Predicted total energies in hartree, shape ``(m,)``.
    forces
        Predicted forces in hartree/bohr, shape ``(m, n_atoms, 3)``.
    atomic_energies
        Predicted atomic energies in hartree, shape ``(m, n_atoms)``.
    deviations
        Predictive standard deviations of the total energies, hartree, shape ``(m,)``.
    atomic_deviations
        Predictive standard deviations of the atomic energies, hartree, shape ``(m, n_atoms)``.
    calibrated
        Whether the deviations were calibrated.
    independent
        Which geometries are of trajectories that the model was not calibrated on, bool, shape ``(m,)``.
    errors
        Error table against the labels.
    evaluation_time_ms
        Wall time of energy and forces of one geometry, milliseconds, mean over a batch.
    deviation_time_ms
        Wall time of all deviations of one geometry, milliseconds, mean.
    """

    dataset: Dataset
    energies: FloatArray
    forces: FloatArray
    atomic_energies: FloatArray
    deviations: FloatArray
    atomic_deviations: FloatArray
    calibrated: bool
    independent: np.ndarray
    errors: ErrorTable
    evaluation_time_ms: float
    deviation_time_ms: float

    def __post_init__(self) -> None:
        for name in ("energies", "forces", "atomic_energies", "deviations", "atomic_deviations"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        object.__setattr__(self, "independent", read_only(self.independent, np.bool_))

    def criteria(self, energy_mae_kcal_mol: float = CHEMICAL_ACCURACY) -> tuple[Criterion, ...]:
        """Whether the energies are good enough.

        Held against ``energy_mae_kcal_mol`` are the frames at 300-500 K, or all frames where there are none.
        """
        group = ROOM if ROOM in self.errors.groups else ALL
        figures = self.errors.groups[group]
        which = "at 300-500 K" if group == ROOM else "of all temperatures"
        note = f"Mean absolute error of the total energy, no shift; {figures.n_frames} frames {which}."
        return (Criterion("Energy MAE", figures.energy_mae_kcal_mol, "kcal/mol", energy_mae_kcal_mol, "<", note),)

    def reliability(self) -> dict[str, Reliability]:
        """Reliability of the total energy's deviations by group, on the independent geometries; groups may be empty."""
        chosen = {name: self.errors.frames(name) & self.independent for name in self.errors.groups}
        error, sigma = self.errors.energy_errors, self.deviations
        return {name: reliability(error[rows], sigma[rows]) for name, rows in chosen.items() if rows.any()}

    def atomic_reliability(self) -> dict[str, Reliability]:
        """The same of all atomic energies; empty if no geometry carries any."""
        known = self.independent & self.dataset.has_atomic_energies
        chosen = {name: self.errors.frames(name) & known for name in self.errors.groups}
        error, sigma = self.errors.atomic_energy_errors, self.atomic_deviations
        return {name: reliability(error[rows], sigma[rows]) for name, rows in chosen.items() if rows.any()}

    def as_dict(self) -> dict[str, object]:
        """For JSON: units in the key names."""
        return {
            "n_frames": len(self.dataset),
            **{k: v for k, v in self.errors.groups[ALL].as_dict().items() if k != "n_frames"},
            "groups": self.errors.as_dict(),
            "criteria": [criterion.as_dict() for criterion in self.criteria()],
            "evaluation_time_ms": self.evaluation_time_ms,
            "uncertainty": {
                "calibrated": self.calibrated,
                "n_frames": int(self.independent.sum()),
                "total_energy": {name: value.as_dict() for name, value in self.reliability().items()},
                "atomic_energies": {name: value.as_dict() for name, value in self.atomic_reliability().items()},
                "deviation_time_ms": self.deviation_time_ms,
            },
        }


def validate(
    forcefield: ForceField,
    dataset: Dataset,
    split: str | None = "test",
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Predict labelled geometries and compare.

    Parameters
    ----------
    forcefield
        The model.
    dataset
        Labelled geometries of the model's molecule, in the model's order of atoms.
    split
        ``"test"`` (trajectories that training never saw), ``"train"``, or None for all.
    progress
        Called with (frames done, frames in total).

    Raises
    ------
    ModelMismatchError
        If the data are of another molecule.
    InputError
        If no frame carries the mark.
    """
    dataset = reorder_dataset(dataset, forcefield.match_or_keep(dataset.molecule))
    chosen = dataset if split is None else dataset.with_split(split)
    m = len(chosen)
    if m == 0:
        raise InputError(
            "data set", f"geometries marked {split!r}", f"none of {len(dataset)}", "sample trajectories for testing"
        )
    return _predict(forcefield, chosen, progress)


def _predict(forcefield: ForceField, chosen: Dataset, progress: Callable[[int, int], None] | None) -> Validation:
    """Predict energies, forces and deviations, geometry by geometry."""
    m, forcefield = len(chosen), forcefield.unmatched
    energies, forces = np.empty(m), np.empty(chosen.forces.shape)
    sigma, atomic_sigma = np.empty(m), np.empty(chosen.atomic_energies.shape)
    # The first calls may compile; they must not count.
    forcefield.energy_and_forces(chosen.positions[0])
    forcefield.deviations(chosen.positions[0])
    elapsed = elapsed_deviations = 0.0
    for k, geometry in enumerate(chosen.positions):
        begin = time.perf_counter()
        energies[k], forces[k] = forcefield.energy_and_forces(geometry)
        middle = time.perf_counter()
        sigma[k], atomic_sigma[k] = forcefield.predictive_deviations(geometry)
        elapsed += middle - begin
        elapsed_deviations += time.perf_counter() - middle
        if progress is not None:
            progress(k + 1, m)
    atomic = forcefield.atomic_energies(chosen.positions)
    return Validation(
        dataset=chosen,
        energies=energies,
        forces=forces,
        atomic_energies=atomic,
        deviations=sigma,
        atomic_deviations=atomic_sigma,
        calibrated="total" in forcefield.calibration,
        independent=independent(forcefield, chosen),
        errors=prediction_errors(chosen, energies, forces, atomic),
        evaluation_time_ms=1000.0 * elapsed / m,
        deviation_time_ms=1000.0 * elapsed_deviations / m,
    )

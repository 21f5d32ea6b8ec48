"""A force field against the held-out part of a data set."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.errors import ALL, ROOM, ErrorTable, prediction_errors
from fflux_py.dataset import Dataset
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.molecule import read_only
from fflux_py.potential import FloatArray

CHEMICAL_ACCURACY: Final = 1.0
"""One kcal/mol, the usual line."""

_BATCH: Final = 64


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
    atomic_deviations
        Predictive standard deviations of the atomic energies, hartree, same shape.
    errors
        Error table against the labels.
    evaluation_time_ms
        Wall time of energy and forces of one geometry, milliseconds, mean over a batch.
    """

    dataset: Dataset
    energies: FloatArray
    forces: FloatArray
    atomic_energies: FloatArray
    atomic_deviations: FloatArray
    errors: ErrorTable
    evaluation_time_ms: float

    def __post_init__(self) -> None:
        for name in ("energies", "forces", "atomic_energies", "atomic_deviations"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def criteria(self, energy_mae_kcal_mol: float = CHEMICAL_ACCURACY) -> tuple[Criterion, ...]:
        """Whether the energies are good enough.

        Held against ``energy_mae_kcal_mol`` are the frames at 300-500 K, or all frames where there are none.
        """
        group = ROOM if ROOM in self.errors.groups else ALL
        figures = self.errors.groups[group]
        which = "at 300-500 K" if group == ROOM else "of all temperatures"
        note = f"Mean absolute error of the total energy, no shift; {figures.n_frames} frames {which}."
        return (Criterion("Energy MAE", figures.energy_mae_kcal_mol, "kcal/mol", energy_mae_kcal_mol, "<", note),)

    def as_dict(self) -> dict[str, object]:
        """For JSON: units in the key names."""
        return {
            "n_frames": len(self.dataset),
            **{k: v for k, v in self.errors.groups[ALL].as_dict().items() if k != "n_frames"},
            "groups": self.errors.as_dict(),
            "criteria": [criterion.as_dict() for criterion in self.criteria()],
            "evaluation_time_ms": self.evaluation_time_ms,
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
    forcefield.check_molecule(dataset.molecule)
    chosen = dataset if split is None else dataset.with_split(split)
    m = len(chosen)
    if m == 0:
        raise InputError(
            "data set", f"geometries marked {split!r}", f"none of {len(dataset)}", "sample trajectories for testing"
        )
    energies, forces = np.empty(m), np.empty(chosen.forces.shape)
    atomic, deviations = np.empty(chosen.atomic_energies.shape), np.empty(chosen.atomic_energies.shape)
    # The first call may compile; it must not count.
    forcefield.energy_and_forces(chosen.positions[0])
    elapsed = 0.0
    for first in range(0, m, _BATCH):
        part = slice(first, min(first + _BATCH, m))
        positions = chosen.positions[part]
        begin = time.perf_counter()
        for offset, geometry in enumerate(positions):
            energies[first + offset], forces[first + offset] = forcefield.energy_and_forces(geometry)
        elapsed += time.perf_counter() - begin
        atomic[part] = forcefield.atomic_energies(positions)
        deviations[part] = forcefield.atomic_deviations(positions)
        if progress is not None:
            progress(part.stop, m)
    table = prediction_errors(chosen, energies, forces, atomic)
    return Validation(chosen, energies, forces, atomic, deviations, table, 1000.0 * elapsed / m)

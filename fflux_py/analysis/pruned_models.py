"""A pruned model beside the one that it was made from: size, errors on held-out geometries, and time of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fflux_py.analysis.calibration import calibration_halves
from fflux_py.analysis.prediction_errors import ALL, prediction_errors
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.threads import processor_times
from fflux_py.training.pruning import force_error, trajectories
from fflux_py.typing import IntArray
from fflux_py.units import KCAL_MOL_ANGSTROM


@dataclass(frozen=True)
class HeldOut:
    """Rows of a data set that no model was trained on.

    Parameters
    ----------
    judges
        Those that the number of training geometries is chosen by: every second trajectory.
    others
        Those that have no part in the choice; none if there is only one trajectory.
    """

    judges: IntArray
    others: IntArray


def split_held_out(dataset: Dataset) -> HeldOut:
    """Split the geometries marked ``test`` by their trajectories (:func:`calibration_halves`).

    Raises
    ------
    InputError
        No geometry is marked ``test``.
    """
    held_out = np.flatnonzero([split == "test" for split in dataset.geometries.split])
    if not len(held_out):
        count = f"none of {len(dataset)}"
        raise InputError("data set", "geometries marked 'test', to measure errors by", count, "sample and label some")
    if len(trajectories(dataset, held_out)) < 2:
        return HeldOut(held_out, held_out[:0])
    first, second = calibration_halves(dataset.geometries.select(held_out))
    return HeldOut(held_out[first], held_out[second])


@dataclass(frozen=True)
class ModelFigures:
    """Size, errors and time of a joint fit.

    Parameters
    ----------
    n_geometries, n_points, n_features_per_atom
        Training geometries, training points of all frames, and features of an atom that have an influence.
    energy_mae_kcal_mol, energy_rmse_kcal_mol, force_mae_kcal_mol_angstrom, force_rmse_kcal_mol_angstrom
        Errors on the geometries marked ``test``: mean absolute and root mean square, total energies and components of
        forces.
    step_time_ms
        Milliseconds of one step of molecular dynamics without its integrator, one replica and one thread.
    """

    n_geometries: int
    n_points: int
    n_features_per_atom: int
    energy_mae_kcal_mol: float
    energy_rmse_kcal_mol: float
    force_mae_kcal_mol_angstrom: float
    force_rmse_kcal_mol_angstrom: float
    step_time_ms: float


@dataclass(frozen=True)
class PruningFigures:
    """A model before and after pruning.

    Parameters
    ----------
    before, after
        Figures of the two models.
    n_held_out, n_others
        Geometries of their errors, and those that had no part in the choice of the number of training geometries.
    others_before, others_after
        Mean absolute errors of a force component on the latter, kcal/mol/angstrom; None if there are none.
    """

    before: ModelFigures
    after: ModelFigures
    n_held_out: int
    n_others: int
    others_before: float | None
    others_after: float | None

    @property
    def force_error_growth(self) -> float:
        """Growth of the mean absolute force error, relative."""
        return self.after.force_mae_kcal_mol_angstrom / self.before.force_mae_kcal_mol_angstrom - 1.0

    @property
    def speed(self) -> float:
        """How many times as fast a step is."""
        return self.before.step_time_ms / self.after.step_time_ms


def compare_pruned(before: ForceField, after: ForceField, dataset: Dataset, others: IntArray) -> PruningFigures:
    """Measure a model and the smaller one that was made of it.

    Parameters
    ----------
    before, after
        Two joint fits of one molecule.
    dataset
        A data set with geometries marked ``test``.
    others
        Rows of ``dataset`` on which the force error is told apart.
    """
    held_out = dataset.with_split("test")
    times = _step_times(before, after)
    was, now = (_figures(model, held_out, time) for model, time in zip((before, after), times, strict=True))
    errors = [force_error(model, dataset, others) * KCAL_MOL_ANGSTROM if len(others) else None
              for model in (before, after)]  # fmt: skip
    return PruningFigures(was, now, len(held_out), len(others), *errors)


def _step_times(*models: ForceField) -> tuple[float, ...]:
    """Milliseconds of one step of molecular dynamics without its integrator, one replica and one thread.

    The models run in turns; the least processor time counts, so that a busy machine does not matter.
    """
    positions = np.array(models[0].molecule.positions)
    steps = [CompiledPotential.of(model) for model in models]
    seconds = processor_times(*(lambda step=step: step.force_function(positions, step.arrays) for step in steps))
    return tuple(1e3 * time for time in seconds)


def _figures(model: ForceField, held_out: Dataset, step_time: float) -> ModelFigures:
    energies, forces = model.unmatched.compute(held_out.positions)
    assert forces is not None
    assert model.joint is not None
    errors = prediction_errors(held_out, energies, forces).groups[ALL]
    return ModelFigures(
        n_geometries=len(model.joint.positions),
        n_points=sum(len(atom.points) for atom in model.atoms),
        n_features_per_atom=int((model.atoms[0].covariance.theta > 0.0).sum()),
        energy_mae_kcal_mol=errors.energy_mae_kcal_mol,
        energy_rmse_kcal_mol=errors.energy_rmse_kcal_mol,
        force_mae_kcal_mol_angstrom=errors.force_mae_kcal_mol_angstrom,
        force_rmse_kcal_mol_angstrom=errors.force_rmse_kcal_mol_angstrom,
        step_time_ms=step_time,
    )

"""From a labelled data set to a force field: energies and forces jointly, or each atom by its energies alone.

Here the way to train is chosen, and the metadata are written.  The joint fit is :mod:`fflux_py.training.joint`, the fit
by energies alone :mod:`fflux_py.training.energies`.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor
from dataclasses import replace
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.prior_mean import needs_isolated, prior_mean
from fflux_py.gp.taught_mean import check_beside_taught_mean
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.label_checks import check_labels
from fflux_py.teacher.teacher_file import OWN_FORCE_ERROR, Teacher
from fflux_py.training.config import TrainingConfig
from fflux_py.training.energies import train_by_energies
from fflux_py.training.hyperparameters import program_versions
from fflux_py.training.joint import train_jointly
from fflux_py.typing import Progress
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

_LEVEL_OF_THEORY: Final = ("method", "basis", "partition", "basis_functions", "density_fit", "grid", "scf_convergence")
_CRITERIA: Final = {
    "likelihood": "marginal likelihood of the centred data",
    "holdout": "root mean square error of held-out energies",
}


def training_indices(dataset: Dataset, n_train: int | None, forces: bool = True) -> np.ndarray:
    """Indices of the training geometries: the first ``n_train`` marked ``train``.

    The order of a data set made by ``fflux sample`` is shuffled over its trajectories, so the first N represent all.
    Without ``forces`` only geometries with atomic energies count.

    Raises
    ------
    InputError
        Fewer than two, or fewer than asked for.
    """
    if forces and not dataset.has_forces:
        remedy = "train on the atomic energies alone, --no-forces on the command line"
        raise InputError("training set", "forces of the geometries", "a data set without forces", remedy)
    marked = np.array([s == "train" for s in dataset.geometries.split])
    usable = np.flatnonzero(marked if forces else marked & dataset.has_atomic_energies)
    count = len(usable) if n_train is None else n_train
    if len(usable) < max(count, 2):
        what = "geometries marked 'train'" + ("" if forces else " with atomic energies")
        raise InputError(
            "training set",
            f"at least {max(count, 2)} {what}",
            f"{len(usable)} (of {int(marked.sum())} marked 'train')",
            "label more geometries, or ask for fewer",
        )
    return usable[:count]


def train(
    dataset: Dataset,
    config: TrainingConfig | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    teacher: Teacher | None = None,
) -> ForceField:
    """Train a force field.

    Hyperparameters maximise the marginal likelihood of the mean-centred data; the weights for the data and for unit
    means follow, and the prior mean is chosen last.

    Parameters
    ----------
    dataset
        Labelled geometries; without ``config.forces`` they need atomic energies.
    config
        Settings; the defaults are those of :class:`TrainingConfig`.
    progress
        Called with the number of steps done (atoms, or iterations of the search) and their total.
    executor
        Where the atoms' jobs run; by default ``config.workers`` spawned processes (in this process for one).
    checkpoint
        File in which an interrupted joint fit is kept, and from which the same fit goes on; the caller removes it when
        the model is safe.
    teacher
        What taught a mean for this molecule (:func:`fflux_py.teacher.teacher_file.load_teacher`): learned is the
        difference between the labels and its level of theory, and the model holds the mean.

    Raises
    ------
    InputError
        Too few geometries; MF5 without isolated-atom energies; labels that contradict each other
        (:func:`fflux_py.molecules.label_checks.check_labels`); a teacher for a fit by atomic energies alone, or beside
        a prior mean that is no function of the data.
    ModelMismatchError
        A teacher of another molecule.
    GeometryError
        A training geometry with a linear local frame.
    """
    config = config or TrainingConfig()
    check_labels(dataset)
    if teacher is not None:
        _check_teacher(teacher, dataset, config)
    marks: dict[str, str | int | float | bool] = {}
    if config.seed is not None:
        # The parent is the data set as it stands in its file, whatever the order in which its geometries were taken.
        marks = {"data_digest": dataset.digest(), "selection_seed": config.seed}
        dataset = dataset.select(np.random.default_rng(config.seed).permutation(len(dataset)))
    indices = training_indices(dataset, config.n_train, config.forces)
    if needs_isolated(config.prior_mean):
        for symbol in dict.fromkeys(dataset.molecule.symbols):
            prior_mean(config.prior_mean, np.zeros(1), dataset.isolated_energies.get(symbol))
    if config.forces:
        mean = None if teacher is None else teacher.mean
        forcefield = train_jointly(dataset, indices, config, progress, checkpoint, mean)
    else:
        forcefield = train_by_energies(dataset, indices, config, progress, executor)
    if teacher is not None and forcefield.joint is not None:
        marks |= _teacher_metadata(teacher, forcefield.joint.noises)
    return replace(forcefield, metadata={**_metadata(dataset, config, forcefield, len(indices)), **marks})


def _check_teacher(teacher: Teacher, dataset: Dataset, config: TrainingConfig) -> None:
    """Refuse a teacher of another molecule, and settings that it does not go together with."""
    if not config.forces:
        raise InputError("teacher", "a fit of energies and forces", "one of atomic energies alone", "train with forces")
    check_beside_taught_mean(config.prior_mean)
    teacher.check(dataset.molecule)


def _teacher_metadata(teacher: Teacher, noises: tuple[float, float, float]) -> dict[str, str | int | float | bool]:
    """Where a taught mean comes from, and the noises that were chosen for the difference."""
    marks: dict[str, str | int | float | bool] = {
        "teacher": str(teacher.metadata.get("program", teacher.mean.level)),
        "teacher_digest": teacher.mean.digest(),
        "noise_total_kcal_mol": round(noises[1] * KCAL_MOL, 6),
        "noise_force_kcal_mol_angstrom": round(noises[2] * KCAL_MOL_ANGSTROM, 6),
    }
    error = teacher.metadata.get(OWN_FORCE_ERROR)
    return marks if error is None else {**marks, f"teacher_{OWN_FORCE_ERROR}": float(error)}


def _metadata(
    dataset: Dataset, config: TrainingConfig, forcefield: ForceField, n_train: int
) -> dict[str, str | int | float | bool]:
    """Where a model comes from."""
    joint = forcefield.joint
    labels = {k: v for k, v in dataset.metadata.items() if k in _LEVEL_OF_THEORY}
    return {
        **labels,
        "data_digest": dataset.digest(),
        "n_train": n_train,
        "fit": "atomic energies, total energies and forces" if config.forces else "atomic energies",
        "hyperparameters": _CRITERIA["likelihood" if config.forces else config.criterion],
        "symmetry": joint.operations.describe() if joint else "none",
        "largest_jitter": max(m.jitter for m in forcefield.atoms),
        **program_versions(config.forces),
    }

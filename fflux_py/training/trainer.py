"""From a labelled data set to a force field: energies and forces jointly, or each atom by its energies alone."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.files import sha256
from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.joint_fit import JointFit
from fflux_py.gp.prior_mean import needs_isolated, prior_mean
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.local_frame import cip_frames
from fflux_py.training._checkpoint import Checkpoint
from fflux_py.training.config import TrainingConfig
from fflux_py.training.energies import fit_atoms, run_jobs
from fflux_py.training.hyperparameters import program_versions
from fflux_py.training.joint import train_jointly
from fflux_py.training.joint_solver import SolverSettings

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
    wanted = len(usable) if n_train is None else n_train
    if len(usable) < max(wanted, 2):
        what = "geometries marked 'train'" + ("" if forces else " with atomic energies")
        raise InputError(
            "training set",
            f"at least {max(wanted, 2)} {what}",
            f"{len(usable)} (of {int(marked.sum())} marked 'train')",
            "label more geometries, or ask for fewer",
        )
    return usable[:wanted]


def train(
    dataset: Dataset,
    config: TrainingConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
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

    Raises
    ------
    InputError
        Too few geometries, or MF5 without isolated-atom energies.
    GeometryError
        A training geometry with a linear local frame.
    """
    config = config or TrainingConfig()
    indices = training_indices(dataset, config.n_train, config.forces)
    positions = dataset.positions[indices]
    frames = cip_frames(dataset.molecule)
    if needs_isolated(config.prior_mean):
        for symbol in dict.fromkeys(dataset.molecule.symbols):
            prior_mean(config.prior_mean, np.zeros(1), dataset.isolated_energies.get(symbol))
    if config.forces:
        forcefield = train_jointly(
            dataset, indices, config.symmetry, config.features, config.kernel, config.azimuth, config.prior_mean,
            config.subset, config.max_iterations, progress,
            SolverSettings(config.solver, config.memory, config.threads_per_worker),
            Checkpoint(checkpoint, _training_key(dataset, config, indices)),
        )  # fmt: skip
        return replace(forcefield, metadata=_metadata(dataset, config, indices, forcefield.atoms, forcefield.joint))
    isolated = [dataset.isolated_energies.get(s) for s in dataset.molecule.symbols]
    energies, errors = dataset.atomic_energies[indices], dataset.atomic_errors[indices]
    if executor is None and config.workers == 1:
        fitted = fit_atoms(frames, positions, energies, config, errors, progress)
    else:
        groups = np.array_split(np.arange(len(frames)), len(frames) if executor else min(config.workers, len(frames)))
        jobs = [
            (tuple(frames[a] for a in group), positions, energies[:, group], config, errors[:, group])
            for group in groups
        ]
        if executor is None:
            with ProcessPoolExecutor(len(jobs), mp_context=multiprocessing.get_context("spawn")) as pool:
                fitted = run_jobs(pool, jobs, progress)
        else:
            fitted = run_jobs(executor, jobs, progress)
    atoms = tuple(
        model.with_prior_mean(config.prior_mean, energy) for model, energy in zip(fitted, isolated, strict=True)
    )
    return ForceField(dataset.molecule, atoms, dataset.isolated_energies, _metadata(dataset, config, indices, atoms))


def _training_key(dataset: Dataset, config: TrainingConfig, indices: np.ndarray) -> str:
    """Digest of the data and of all settings that change the course of a joint fit.

    The prior mean is chosen last; threads, memory and solver change how the same numbers are found.
    """
    settings = [
        f"{name}={value}"
        for name, value in (
            ("features", config.features), ("shape", config.kernel), ("azimuth", config.azimuth),
            ("max_iterations", config.max_iterations), ("subset", config.subset), ("symmetry", config.symmetry),
        )
    ]  # fmt: skip
    return sha256(" ".join([dataset.digest(), *settings, *map(str, indices.tolist())]).encode())


def _metadata(
    dataset: Dataset,
    config: TrainingConfig,
    indices: np.ndarray,
    atoms: tuple[AtomicModel, ...],
    joint: JointFit | None = None,
) -> dict[str, str | int | float | bool]:
    labels = {k: v for k, v in dataset.metadata.items() if k in _LEVEL_OF_THEORY}
    return {
        **labels,
        "data_digest": dataset.digest(),
        "n_train": len(indices),
        "fit": "atomic energies, total energies and forces" if config.forces else "atomic energies",
        "hyperparameters": _CRITERIA["likelihood" if config.forces else config.criterion],
        "symmetry": joint.operations.describe() if joint else "none",
        "largest_jitter": max(m.jitter for m in atoms),
        **program_versions(config.forces),
    }

"""From a labelled data set to a force field: energies and forces jointly, or each atom by its energies alone."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fflux_py.atomic_model import AtomicModel, fit_weights
from fflux_py.covariance import AZIMUTHS, SHAPES, Azimuth, Covariance, Shape
from fflux_py.dataset import Dataset
from fflux_py.errors import InputError
from fflux_py.files import sha256
from fflux_py.forcefield import ForceField
from fflux_py.joint_fit import JointFit
from fflux_py.local_frame import FeatureKind, LocalFrame, check_kind, cip_frames, features, phi_features
from fflux_py.potential import FloatArray
from fflux_py.prior_mean import POLYNOMIALS, check_name, prior_mean
from fflux_py.training._checkpoint import Checkpoint
from fflux_py.training.hyperparameters import Criterion, check_criterion, fit_hyperparameters, program_versions
from fflux_py.training.joint_solution import Solver, SolverSettings
from fflux_py.training.joint_training import SymmetryChoice, check_symmetry_choice, train_jointly

_LEVEL_OF_THEORY: Final = ("method", "basis", "partition", "basis_functions", "density_fit", "grid", "scf_convergence")
_SMALLEST_SPREAD: Final = 1e-6
_AZIMUTH_SPREAD: Final = 0.7
_CRITERIA: Final = {
    "likelihood": "marginal likelihood of the centred data",
    "holdout": "root mean square error of held-out energies",
}


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training.

    Parameters
    ----------
    n_train
        Number of training geometries, the first of the set's ``train`` part; None: all of them.
    forces
        Fit atomic energies, total energies and forces jointly (derivative basis); False: atomic energies only, as the
        published models.
    features
        One of :data:`fflux_py.local_frame.FEATURE_KINDS`.
    prior_mean
        Name of the prior mean (:mod:`fflux_py.prior_mean`).
    shape, azimuth
        Kernel (:class:`fflux_py.covariance.Covariance`).
    criterion
        What the hyperparameters of an energy-only fit are chosen by: ``"likelihood"``, or ``"holdout"``, the field's
        root mean square error on an internal validation set (:mod:`fflux_py.training.hyperparameters`).
    max_iterations
        Most evaluations of the criterion of one atom (energies only), or most iterations of the
        search for class length scales (joint fit).
    subset
        Geometries on which the class length scales of the joint fit are found.
    symmetry
        Permutations of equivalent atoms in the joint fit: ``"auto"``, ``"full"``, ``"rotors"`` or ``"none"``
        (:func:`fflux_py.training.chosen_symmetry`).
    workers
        Processes, each with a part of the atoms (energies only).  The joint fit uses the threads of the linear algebra.
    threads_per_worker
        Threads of each.
    solver
        Of the joint fit's linear system: ``"direct"``, ``"cg"`` (preconditioned conjugate gradients), or ``"auto"``:
        direct where it fits into ``memory``.
    memory
        Gigabytes (1e9 bytes) that the solution of the joint fit may take.
    """

    n_train: int | None = None
    forces: bool = True
    features: FeatureKind = "unit-vector"
    prior_mean: str = "MF2"
    shape: Shape = "squared-exponential"
    azimuth: Azimuth = "periodic"
    criterion: Criterion = "likelihood"
    max_iterations: int = 60
    subset: int = 40
    symmetry: SymmetryChoice = "auto"
    workers: int = 1
    threads_per_worker: int = 1
    solver: Solver = "auto"
    memory: float = 14.0

    def __post_init__(self) -> None:
        check_kind(self.features)
        check_name(self.prior_mean)
        if self.forces and self.prior_mean in POLYNOMIALS:
            prior_mean(self.prior_mean, np.zeros(1))
        check_criterion(self.criterion)
        check_symmetry_choice(self.symmetry)
        SolverSettings(self.solver, self.memory)
        for name, value, known in (("shape", self.shape, SHAPES), ("azimuth", self.azimuth, AZIMUTHS)):
            if value not in known:
                raise InputError(name, f"one of {', '.join(known)}", repr(value))
        if self.azimuth == "rbf-cyclic":
            raise InputError(
                "azimuth", "'periodic' or 'rbf'", "'rbf-cyclic'", "it is not positive semidefinite: for old models only"
            )
        for name in ("n_train", "max_iterations", "subset", "workers", "threads_per_worker"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(name, "a positive number", str(count))


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
    if config.prior_mean == "MF5":
        for symbol in dict.fromkeys(dataset.molecule.symbols):
            prior_mean("MF5", np.zeros(1), dataset.isolated_energies.get(symbol))
    if config.forces:
        forcefield = train_jointly(
            dataset, indices, config.symmetry, config.features, config.shape, config.azimuth, config.prior_mean,
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
                fitted = _run(pool, jobs, progress)
        else:
            fitted = _run(executor, jobs, progress)
    atoms = tuple(
        model.with_prior_mean(config.prior_mean, energy) for model, energy in zip(fitted, isolated, strict=True)
    )
    return ForceField(dataset.molecule, atoms, dataset.isolated_energies, _metadata(dataset, config, indices, atoms))


def _training_key(dataset: Dataset, config: TrainingConfig, indices: np.ndarray) -> str:
    """Digest of the data and of all settings that change the course of a joint fit.

    The prior mean is chosen last; threads, memory and solver change how the same numbers are found.
    """
    names = ("features", "shape", "azimuth", "max_iterations", "subset", "symmetry")
    settings = [f"{name}={getattr(config, name)}" for name in names]
    return sha256(" ".join([dataset.digest(), *settings, *map(str, indices.tolist())]).encode())


_Job = tuple[tuple[LocalFrame, ...], FloatArray, FloatArray, TrainingConfig, FloatArray]


def _run(executor: Executor, jobs: list[_Job], progress: Callable[[int, int], None] | None) -> list[AtomicModel]:
    """Fit groups of atoms elsewhere; progress counts the atoms."""
    total = sum(len(job[0]) for job in jobs)
    futures = {executor.submit(fit_atoms, *job): k for k, job in enumerate(jobs)}
    groups: dict[int, list[AtomicModel]] = {}
    done = 0
    for future in as_completed(futures):
        group = groups[futures[future]] = future.result()
        for _ in group:
            done += 1
            if progress is not None:
                progress(done, total)
    return [model for k in range(len(jobs)) for model in groups[k]]


def fit_atom(frame: LocalFrame, positions: FloatArray, energies: FloatArray, config: TrainingConfig) -> AtomicModel:
    """Fit one atom, whose energies in hartree have the shape ``(n_train,)``: :func:`fit_atoms` for a group of one."""
    return fit_atoms((frame,), positions, energies[:, None], config)[0]


def fit_atoms(
    frames: Sequence[LocalFrame],
    positions: FloatArray,
    energies: FloatArray,
    config: TrainingConfig,
    errors: FloatArray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[AtomicModel]:
    r"""Fit atoms by their energies: hyperparameters, then weights; the prior mean is MF2 and is chosen by the caller.

    The integration error of a label is taken as the standard deviation of its noise: its square is added to the noise
    variance that the fit finds.  Zero or NaN is an unknown error and adds nothing.  The ``noise`` of a model is the
    mean over its points.  The hold-out criterion, which is for replication, takes no notice of the errors.

    Parameters
    ----------
    frames
        Local frames of the atoms.
    positions, energies
        Training geometries in bohr, shape ``(n_train, n_atoms, 3)``, and energies in hartree, ``(n_train, n_frames)``.
    config
        Settings.
    errors
        Integration errors of the energies in hartree, same shape as these; None: unknown.
    progress
        Called with the number of atoms that are done and of all.
    """
    points = np.array([features(positions, frame, config.features) for frame in frames])
    azimuths = phi_features(positions.shape[1], config.features)
    starts = [Covariance(starting_theta(x, azimuths), azimuths, config.shape, config.azimuth) for x in points]
    known = None
    if errors is not None and config.criterion == "likelihood":
        known = np.nan_to_num(errors.T) ** 2
    best = fit_hyperparameters(
        starts, points, np.ascontiguousarray(energies.T), config.max_iterations, config.threads_per_worker, known,
        config.criterion, progress,
    )  # fmt: skip
    models = []
    for k, (frame, found) in enumerate(zip(frames, best, strict=True)):
        covariance = replace(starts[k], theta=found.theta)
        noise = found.noise + (0.0 if known is None else known[k] / found.variance)
        w_y, w_1, jitter = fit_weights(covariance, points[k], energies[:, k], noise)
        models.append(
            AtomicModel(
                frame=frame,
                feature_kind=config.features,
                covariance=covariance,
                points=points[k],
                energies=energies[:, k],
                w_y=w_y,
                w_1=w_1,
                mean_name="MF2",
                mean=float(energies[:, k].mean()),
                variance=found.variance,
                noise=float(np.mean(noise)) + jitter,
                jitter=jitter,
            )
        )
    return models


def starting_theta(points: FloatArray, azimuths: np.ndarray) -> FloatArray:
    """Start of the search: every feature alike, its length its spread times the root of the number of features."""
    spread = np.maximum(points.std(axis=0), _SMALLEST_SPREAD)
    spread[azimuths] = np.minimum(spread[azimuths], _AZIMUTH_SPREAD)
    return np.asarray(0.5 / (spread**2 * points.shape[1]))


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

"""From a labelled data set to a force field: energies and forces jointly, or each atom by its energies alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fflux_py.atomic_model import AtomicModel, fit_weights
from fflux_py.covariance import AZIMUTHS, SHAPES, Azimuth, Covariance, Shape
from fflux_py.dataset import Dataset
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField, joint_atoms
from fflux_py.local_frame import FeatureKind, LocalFrame, check_kind, cip_frames, features, phi_features
from fflux_py.potential import FloatArray
from fflux_py.prior_mean import check_name, prior_mean
from fflux_py.training import joint
from fflux_py.training.hyperparameters import maximise_likelihood, program_versions

_SMALLEST_SPREAD: Final = 1e-6
_AZIMUTH_SPREAD: Final = 0.7


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
        ``"unit-vector"`` or ``"spherical"``.
    prior_mean
        Name of the prior mean (:mod:`fflux_py.prior_mean`).
    shape, azimuth
        Kernel (:class:`fflux_py.covariance.Covariance`).
    max_iterations
        Most evaluations of the marginal likelihood of one atom (energies only), or most iterations of the search for
        class length scales (joint fit).
    subset
        Geometries on which the class length scales of the joint fit are found.
    workers
        Processes; without forces the atoms are independent.  The joint fit uses the threads of the linear algebra.
    threads_per_worker
        Threads of each.
    """

    n_train: int | None = None
    forces: bool = True
    features: FeatureKind = "unit-vector"
    prior_mean: str = "MF2"
    shape: Shape = "squared-exponential"
    azimuth: Azimuth = "periodic"
    max_iterations: int = 60
    subset: int = 40
    workers: int = 1
    threads_per_worker: int = 1

    def __post_init__(self) -> None:
        check_kind(self.features)
        check_name(self.prior_mean)
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
        forcefield = _train_jointly(dataset, config, indices, frames, progress)
        return replace(forcefield, metadata=_metadata(dataset, config, indices, forcefield.atoms))
    jobs = [(frame, positions, np.array(dataset.atomic_energies[indices, frame.atom]), config) for frame in frames]
    isolated = [dataset.isolated_energies.get(s) for s in dataset.molecule.symbols]
    if executor is None and config.workers > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(config.workers, len(jobs)), mp_context=context) as pool:
            fitted = _run(pool, jobs, progress)
    else:
        fitted = _run(executor, jobs, progress)
    atoms = tuple(
        model.with_prior_mean(config.prior_mean, energy) for model, energy in zip(fitted, isolated, strict=True)
    )
    return ForceField(dataset.molecule, atoms, dataset.isolated_energies, _metadata(dataset, config, indices, atoms))


def _train_jointly(
    dataset: Dataset,
    config: TrainingConfig,
    indices: np.ndarray,
    frames: tuple[LocalFrame, ...],
    progress: Callable[[int, int], None] | None,
) -> ForceField:
    data = joint.JointData(
        *(np.array(a[indices]) for a in (dataset.positions, dataset.energies, dataset.forces, dataset.atomic_energies))
    )
    noises = (joint.NOISE_ATOMIC, joint.NOISE_TOTAL, joint.NOISE_FORCE)
    spreads = joint.feature_variances(data.positions, frames, config.features)
    factors, variance = joint.class_length_scales(
        data.subset(np.arange(min(config.subset, len(indices)))),
        frames,
        config.features,
        config.shape,
        config.azimuth,
        noises,
        config.max_iterations,
        progress,
        spreads=spreads,
    )
    kernels = joint.class_covariances(spreads, config.features, factors, config.shape, config.azimuth)
    variances = np.full(len(frames), variance)
    local = joint.local_features(data.positions, frames, config.features)
    solution = joint.solve(data, local, kernels, variances, noises)
    unset = np.zeros(len(indices))
    # Without any partition each atom's energies are taken as their equal share, so that MF2 is the centre of the fit.
    shares = np.broadcast_to(solution.centres, data.atomic_energies.shape)
    own_energies = data.atomic_energies if data.partitioned.any() else shares
    templates = [
        AtomicModel(
            frame=frame,
            feature_kind=config.features,
            covariance=kernel,
            points=features(data.positions, frame, config.features),
            energies=own_energies[:, frame.atom],
            w_y=unset,
            w_1=unset,
            mean_name="MF2",
            mean=0.0,
            variance=variance,
            noise=noises[0] ** 2 / variance,
            centre=0.0,
        )
        for frame, kernel in zip(frames, kernels, strict=True)
    ]
    isolated = [dataset.isolated_energies.get(s) for s in dataset.molecule.symbols]
    atoms = joint_atoms(solution, templates, config.prior_mean, isolated)
    return ForceField(dataset.molecule, atoms, dataset.isolated_energies, {}, solution)


_Job = tuple[LocalFrame, FloatArray, FloatArray, TrainingConfig]


def _run(executor: Executor | None, jobs: list[_Job], progress: Callable[[int, int], None] | None) -> list[AtomicModel]:
    report = progress or (lambda done, total: None)
    models: dict[int, AtomicModel] = {}
    if executor is None:
        for k, job in enumerate(jobs):
            models[k] = fit_atom(*job)
            report(len(models), len(jobs))
    else:
        futures = {executor.submit(fit_atom, *job): k for k, job in enumerate(jobs)}
        for future in as_completed(futures):
            models[futures[future]] = future.result()
            report(len(models), len(jobs))
    return [models[k] for k in range(len(jobs))]


def fit_atom(frame: LocalFrame, positions: FloatArray, energies: FloatArray, config: TrainingConfig) -> AtomicModel:
    """Fit one atom: hyperparameters, then weights; the prior mean is MF2 and is chosen by the caller.

    Parameters
    ----------
    frame
        The atom's local frame.
    positions, energies
        Training geometries in bohr, shape ``(n_train, n_atoms, 3)``, and the atom's energies in hartree.
    """
    points = features(positions, frame, config.features)
    azimuths = phi_features(positions.shape[1], config.features)
    start = Covariance(starting_theta(points, azimuths), azimuths, config.shape, config.azimuth)
    best = maximise_likelihood(start, points, energies, config.max_iterations, config.threads_per_worker)
    covariance = Covariance(best.theta, azimuths, config.shape, config.azimuth)
    w_y, w_1, jitter = fit_weights(covariance, points, energies, best.noise)
    return AtomicModel(
        frame=frame,
        feature_kind=config.features,
        covariance=covariance,
        points=points,
        energies=energies,
        w_y=w_y,
        w_1=w_1,
        mean_name="MF2",
        mean=float(energies.mean()),
        variance=best.variance,
        noise=best.noise + jitter,
        jitter=jitter,
    )


def starting_theta(points: FloatArray, azimuths: np.ndarray) -> FloatArray:
    """Start of the search: every feature alike, its length its spread times the root of the number of features."""
    spread = np.maximum(points.std(axis=0), _SMALLEST_SPREAD)
    spread[azimuths] = np.minimum(spread[azimuths], _AZIMUTH_SPREAD)
    return np.asarray(0.5 / (spread**2 * points.shape[1]))


def _metadata(
    dataset: Dataset, config: TrainingConfig, indices: np.ndarray, atoms: tuple[AtomicModel, ...]
) -> dict[str, str | int | float | bool]:
    labels = {k: v for k, v in dataset.metadata.items() if k in ("method", "basis", "partition")}
    return {
        **labels,
        "data_digest": dataset.digest(),
        "n_train": len(indices),
        "fit": "atomic energies, total energies and forces" if config.forces else "atomic energies",
        "hyperparameters": "marginal likelihood of the centred data",
        "largest_jitter": max(m.jitter for m in atoms),
        **program_versions(config.forces),
    }

"""Training by atomic energies alone: of every atom the hyperparameters, then the weights."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import Final

import numpy as np

from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel, fit_weights
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureSet, features
from fflux_py.gp.radial_kernel import radial_kernel
from fflux_py.gp.weights import PlainWeights
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.local_frame import LocalFrame, cip_local_frames
from fflux_py.training.config import TrainingConfig
from fflux_py.training.hyperparameters import fit_hyperparameters
from fflux_py.typing import FloatArray, Progress

_SMALLEST_SPREAD: Final = 1e-6
_AZIMUTH_SPREAD: Final = 0.7


def train_by_energies(
    dataset: Dataset,
    indices: np.ndarray,
    config: TrainingConfig,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> ForceField:
    """Fit every atom by its own energies of the geometries ``indices``.

    Parameters
    ----------
    dataset, indices
        A labelled data set, and the geometries that are learnt; they need atomic energies.
    config
        Settings of the training.
    progress
        Called with the number of atoms that are done and of all.
    executor
        Where the atoms' jobs run; by default ``config.workers`` spawned processes (in this process for one).

    Returns
    -------
    ForceField
        Without metadata, which are the caller's.

    Raises
    ------
    GeometryError
        A training geometry with a linear local frame.
    ConvergenceError
        The criterion cannot be computed at the start of an atom (data that are not finite).
    """
    frames, positions = cip_local_frames(dataset.molecule), dataset.positions[indices]
    energies, errors = dataset.atomic_energies[indices], dataset.atomic_errors[indices]
    if executor is None and config.workers == 1:
        fitted = fit_atoms(frames, positions, energies, config, errors, progress)
    else:
        groups = np.array_split(np.arange(len(frames)), len(frames) if executor else min(config.workers, len(frames)))
        jobs: list[Job] = [
            (tuple(frames[a] for a in group), positions, energies[:, group], config, errors[:, group])
            for group in groups
        ]
        if executor is None:
            with ProcessPoolExecutor(len(jobs), mp_context=multiprocessing.get_context("spawn")) as pool:
                fitted = run_jobs(pool, jobs, progress)
        else:
            fitted = run_jobs(executor, jobs, progress)
    isolated = [dataset.isolated_energies.get(symbol) for symbol in dataset.molecule.symbols]
    atoms = tuple(
        model.with_prior_mean(config.prior_mean, energy) for model, energy in zip(fitted, isolated, strict=True)
    )
    return ForceField(dataset.molecule, atoms, dataset.isolated_energies, {})


Job = tuple[tuple[LocalFrame, ...], FloatArray, FloatArray, TrainingConfig, FloatArray]
"""Arguments of :func:`fit_atoms` for a group of atoms."""


def run_jobs(executor: Executor, jobs: list[Job], progress: Progress | None) -> list[AtomicModel]:
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
    progress: Progress | None = None,
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
    azimuths = FeatureSet(config.features, positions.shape[1]).azimuths
    kernel = radial_kernel(config.kernel)
    starts = [Covariance(starting_theta(x, azimuths), azimuths, kernel, config.azimuth) for x in points]
    label_noise = None
    if errors is not None and config.criterion == "likelihood":
        label_noise = np.nan_to_num(errors.T) ** 2
    by_atom = np.ascontiguousarray(energies.T)
    best = fit_hyperparameters(starts, points, by_atom, config, label_noise, progress)
    models = []
    for k, (frame, optimum) in enumerate(zip(frames, best, strict=True)):
        covariance = replace(starts[k], theta=optimum.theta)
        noise = optimum.noise + (0.0 if label_noise is None else label_noise[k] / optimum.variance)
        w_y, w_1, jitter = fit_weights(covariance, points[k], energies[:, k], noise)
        mean = float(energies[:, k].mean())
        models.append(
            AtomicModel(
                frame=frame,
                feature_kind=config.features,
                covariance=covariance,
                points=points[k],
                energies=energies[:, k],
                weights=PlainWeights(w_y, w_1, mean),
                mean_name="MF2",
                mean=mean,
                variance=optimum.variance,
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

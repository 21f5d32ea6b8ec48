"""Each atom by its energies alone: hyperparameters, then weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from typing import Final

import numpy as np

from fflux_py.gp.atomic_model import AtomicModel, fit_weights
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import features, phi_features
from fflux_py.gp.weights import PlainWeights
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.training.config import TrainingConfig
from fflux_py.training.hyperparameters import fit_hyperparameters
from fflux_py.typing import FloatArray

_SMALLEST_SPREAD: Final = 1e-6
_AZIMUTH_SPREAD: Final = 0.7


Job = tuple[tuple[LocalFrame, ...], FloatArray, FloatArray, TrainingConfig, FloatArray]


def run_jobs(executor: Executor, jobs: list[Job], progress: Callable[[int, int], None] | None) -> list[AtomicModel]:
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

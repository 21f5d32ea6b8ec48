r"""Hyperparameters of the joint fit of energies and forces.

The class length scales of the features are found by the likelihood of energies *and* forces on a subset: one factor for
each class of features, shared by all atoms, :math:`\theta_h = c_{class(h)} / variance(h)`, and one prior variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from scipy.optimize import minimize

from fflux_py.errors import ConvergenceError
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureSet
from fflux_py.gp.joint_covariance import (
    FramePoints,
    JointData,
    JointModel,
    add_noise,
    cholesky_in_place,
    covariance_matrix,
    frame_points,
    solve_factored,
)
from fflux_py.gp.joint_fit import frame_basis, rotor_features
from fflux_py.training._checkpoint import Checkpoint
from fflux_py.training.config import TrainingConfig
from fflux_py.typing import FloatArray, Progress

_SMALLEST_SPREAD: Final = 1e-5
_BOUNDS: Final = (-14.0, 1.0)
_VARIANCE_BOUNDS: Final = (-2.0, 16.0)


def feature_variances(model: JointModel, positions: FloatArray) -> FloatArray:
    """Variance of every feature over geometries and images, shape ``(n_frames, n_features)``.

    Circular for azimuths; alike for the atoms of a rotor.
    """
    plain = model.unscaled(positions.shape[1])
    azimuths = plain.azimuths
    rows = []
    for frame in model.frames:
        values = frame_basis(model.symmetry, positions, frame, model.kind, plain).features()
        variance = values.var(axis=0)
        if len(azimuths):
            variance[azimuths] = 1.0 - np.abs(np.exp(1j * values[:, azimuths]).mean(axis=0)) ** 2
        for columns in rotor_features(model.symmetry, frame, model.kind, plain):
            of_rotors = values[:, columns]
            variance[columns] = of_rotors.reshape(-1, columns.shape[1]).var(axis=0)
        rows.append(np.maximum(variance, _SMALLEST_SPREAD))
    return np.array(rows)


def class_covariances(
    variances: FloatArray, n_atoms: int, model: JointModel, log_factors: FloatArray
) -> list[Covariance]:
    """Kernels of all frames.

    Parameters
    ----------
    variances
        Variances of the features, shape ``(n_frames, n_features)``.
    n_atoms, model
        Number of atoms, and the model.
    log_factors
        Natural logarithms of the factors of the classes (:data:`fflux_py.gp.features.CLASSES`), shape ``(5,)``.
    """
    columns = FeatureSet(model.kind, n_atoms)
    factors = np.exp(log_factors)[columns.classes]
    return [Covariance(factors / variance, columns.azimuths, model.kernel, model.azimuth) for variance in variances]


def log_likelihood(
    data: JointData,
    model: JointModel,
    kernels: Sequence[Covariance],
    variance: float,
    points: Sequence[FramePoints] | None = None,
) -> float:
    """Log marginal likelihood of the centred atomic energies, total energies and forces."""
    matrix = covariance_matrix(data, model, kernels, variance, points)
    add_noise(matrix, data, model.noises)
    cholesky_in_place(matrix)
    y = data.right_hand_sides(model.symmetry)[:, :1]
    fit = float((y * solve_factored(matrix, y)).sum())
    return -0.5 * fit - float(np.log(np.diag(matrix)).sum()) - 0.5 * len(y) * float(np.log(2.0 * np.pi))


class _Evaluations:
    """The evaluations of a search, by their parameters, kept in a checkpoint."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint = checkpoint
        self._values: dict[bytes, tuple[FloatArray, float]] = {}
        if checkpoint is not None and "parameters" in checkpoint:
            for parameters, value in zip(checkpoint["parameters"], checkpoint["values"], strict=True):
                self._values[parameters.tobytes()] = parameters, float(value)
        self._n_kept = len(self._values)

    def value(self, parameters: FloatArray, evaluate: Callable[[FloatArray], float]) -> float:
        """The value at these parameters, evaluated unless that was done before."""
        key = parameters.tobytes()
        if key not in self._values:
            copy = parameters.copy()
            self._values[key] = copy, evaluate(copy)
        return self._values[key][1]

    def keep(self) -> None:
        """Write what is new."""
        if self._checkpoint is not None and len(self._values) > self._n_kept:
            parameters, values = zip(*self._values.values(), strict=True)
            self._checkpoint.update(parameters=np.array(parameters), values=np.array(values))
            self._n_kept = len(self._values)


def class_length_scales(
    data: JointData,
    model: JointModel,
    config: TrainingConfig,
    progress: Progress | None = None,
    spreads: FloatArray | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[FloatArray, float]:
    """Class factors (their logarithms, ``(5,)``) and the prior variance (hartree^2) by the joint likelihood.

    Parameters
    ----------
    data
        A subset of the training data (40 to 60 geometries).
    model
        What is modelled.
    config
        Its most iterations of L-BFGS-B, each of seven evaluations.
    progress
        Called with the number of iterations done and the most.
    spreads
        Variances of the features over the whole training set, shape ``(n_frames, n_features)``; of the subset if not
        given.
    checkpoint
        Where the evaluations of an interrupted search are found and kept: the search goes the same way again.
    """
    n_atoms = data.positions.shape[1]
    evaluations = _Evaluations(checkpoint)
    points = [frame_points(model, frame, data.positions) for frame in model.frames]
    spreads = feature_variances(model, data.positions) if spreads is None else spreads
    spread = float(np.var(data.energies)) / n_atoms

    def cost(parameters: FloatArray) -> float:
        return evaluations.value(parameters, evaluate)

    def evaluate(parameters: FloatArray) -> float:
        kernels = class_covariances(spreads, n_atoms, model, parameters[:5])
        try:
            value = log_likelihood(data, model, kernels, spread * float(np.exp(parameters[5])), points)
        except ConvergenceError:
            return 1e6
        return -value / len(data.energies)

    start = np.array([-5.0, -6.0, -6.0, -6.0, -7.0, 5.0])
    steps = 0

    def report(_: FloatArray) -> None:
        nonlocal steps
        steps += 1
        evaluations.keep()
        if progress is not None:
            progress(steps, config.max_iterations)

    best = minimize(
        cost,
        start,
        method="L-BFGS-B",
        bounds=[_BOUNDS] * 5 + [_VARIANCE_BOUNDS],
        callback=report,
        options={"maxiter": config.max_iterations, "eps": 1e-3, "ftol": 1e-6},
    )
    return np.asarray(best.x[:5]), spread * float(np.exp(best.x[5]))

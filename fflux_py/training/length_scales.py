r"""Hyperparameters of the joint fit of energies and forces.

They are found by the likelihood of energies *and* forces on a subset.  What they mean, a law of length scales says
(:mod:`fflux_py.training.length_scale_law`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from fflux_py.training._checkpoint import Checkpoint
from fflux_py.training.config import TrainingConfig
from fflux_py.training.length_scale_law import LengthScaleLaw
from fflux_py.typing import FloatArray, Progress


def class_covariances(
    variances: FloatArray, n_atoms: int, model: JointModel, log_factors: FloatArray
) -> list[Covariance]:
    r"""Kernels of all frames with :math:`\theta_h = c_{class(h)} / variance(h)`.

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


def search_hyperparameters(
    data: JointData,
    law: LengthScaleLaw,
    config: TrainingConfig,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> FloatArray:
    """Hyperparameters of a law of length scales by the joint likelihood, shape ``(n_hyperparameters,)``.

    Parameters
    ----------
    data
        A subset of the training data (40 to 60 geometries).
    law
        What the hyperparameters mean.
    config
        Its most iterations of L-BFGS-B, each of as many evaluations as there are hyperparameters, and one.
    progress
        Called with the number of iterations done and the most.
    checkpoint
        Where the evaluations of an interrupted search are found and kept: the search goes the same way again.
    """
    evaluations = _Evaluations(checkpoint)
    points = [frame_points(law.model, frame, data.positions) for frame in law.model.frames]

    def cost(parameters: FloatArray) -> float:
        return evaluations.value(parameters, evaluate)

    def evaluate(parameters: FloatArray) -> float:
        try:
            value = log_likelihood(data, law.model, law.kernels(parameters), law.variance(parameters), points)
        except ConvergenceError:
            return 1e6
        return -value / len(data.energies)

    steps = 0

    def report(_: FloatArray) -> None:
        nonlocal steps
        steps += 1
        evaluations.keep()
        if progress is not None:
            progress(steps, config.max_iterations)

    best = minimize(
        cost,
        law.start,
        method="L-BFGS-B",
        bounds=law.bounds,
        callback=report,
        options={"maxiter": config.max_iterations, "eps": 1e-3, "ftol": 1e-6},
    )
    return np.asarray(best.x)

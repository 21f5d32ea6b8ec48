r"""Hyperparameters of the joint fit of energies and forces.

They are found by the likelihood of energies *and* forces on a subset.  What they mean, a law of length scales says
(:mod:`fflux_py.training.length_scale_law`).
"""

from __future__ import annotations

import logging
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
from fflux_py.training._checkpoint import Checkpoint
from fflux_py.training._likelihood_gradient import likelihood_and_gradient
from fflux_py.training.config import TrainingConfig
from fflux_py.training.length_scale_law import LengthScaleLaw
from fflux_py.typing import FloatArray, Progress

_LOG: Final = logging.getLogger(__name__)
# A search ends where an iteration gains less than this part, or where all slopes are smaller: of minus the logarithm
# of the posterior, over the number of observations.
_TOLERANCE: Final = 2e-5
_FLATNESS: Final = 1e-3
_IMPOSSIBLE: Final = 1e6


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
    variance: float | FloatArray,
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
    """The evaluations of a search and their gradients, by their parameters, kept in a checkpoint."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint = checkpoint
        self._values: dict[bytes, tuple[FloatArray, float, FloatArray]] = {}
        if checkpoint is not None and "parameters" in checkpoint:
            rows = checkpoint["parameters"], checkpoint["values"], checkpoint["gradients"]
            for parameters, value, gradient in zip(*rows, strict=True):
                self._values[parameters.tobytes()] = parameters, float(value), gradient
        self._n_kept = len(self._values)

    def value(
        self, parameters: FloatArray, evaluate: Callable[[FloatArray], tuple[float, FloatArray]]
    ) -> tuple[float, FloatArray]:
        """Value and gradient at these parameters, evaluated unless that was done before."""
        key = parameters.tobytes()
        if key not in self._values:
            copy = parameters.copy()
            self._values[key] = copy, *evaluate(copy)
        return self._values[key][1:]

    def __len__(self) -> int:
        return len(self._values)

    def keep(self) -> None:
        """Write what is new."""
        if self._checkpoint is not None and len(self._values) > self._n_kept:
            parameters, values, gradients = zip(*self._values.values(), strict=True)
            self._checkpoint.update(
                parameters=np.array(parameters), values=np.array(values), gradients=np.array(gradients)
            )
            self._n_kept = len(self._values)


def search_hyperparameters(
    data: JointData,
    law: LengthScaleLaw,
    config: TrainingConfig,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> FloatArray:
    """Hyperparameters of a law of length scales, shape ``(n_hyperparameters,)``.

    They maximise the joint likelihood times the law's prior, from the prior's mean on, by L-BFGS-B with the analytic
    gradient.

    Parameters
    ----------
    data
        A subset of the training data (40 to 60 geometries).
    law
        What the hyperparameters mean, and their prior.
    config
        Its most iterations, each of one evaluation or a few.
    progress
        Called with the number of iterations done and the most.
    checkpoint
        Where the evaluations of an interrupted search are found and kept: the search goes the same way again.
    """
    evaluations = _Evaluations(checkpoint)
    of_frames = {frame: frame_points(law.model, frame, data.positions) for frame in dict.fromkeys(law.model.frames)}
    points = [of_frames[frame] for frame in law.model.frames]

    def cost(parameters: FloatArray) -> tuple[float, FloatArray]:
        return evaluations.value(parameters, evaluate)

    def evaluate(parameters: FloatArray) -> tuple[float, FloatArray]:
        kernels, variances = law.kernels(parameters), law.variances(parameters)
        try:
            value, *derivatives = likelihood_and_gradient(data, law.model, kernels, variances, points)
        except ConvergenceError:
            return _IMPOSSIBLE, np.zeros_like(parameters)
        log_prior, slope = law.log_prior(parameters)
        n = data.observations.count
        return -(value + log_prior) / n, -(law.gradient(*derivatives) + slope) / n

    steps = 0

    def report(_: FloatArray) -> None:
        nonlocal steps
        steps += 1
        evaluations.keep()
        if progress is not None:
            progress(steps, config.max_iterations)

    best = minimize(
        cost,
        law.means,
        jac=True,
        method="L-BFGS-B",
        callback=report,
        options={"maxiter": config.max_iterations, "ftol": _TOLERANCE, "gtol": _FLATNESS},
    )
    _LOG.info("length scales: %d evaluations, cost %.4f an observation, %s", len(evaluations), best.fun, best.x)
    return np.asarray(best.x)

r"""Objectives of the search for hyperparameters and their gradients, with one factorisation and no large tensors.

With z the scaled, embedded features, :math:`K_{ij} = \sigma^2 k(|z_i - z_j|^2) + \nu_i \delta_{ij}`,
:math:`\alpha = K^{-1} y` and :math:`W = K^{-1} - \alpha\alpha^T`, the log marginal likelihood has

.. math:: \frac{\partial L}{\partial z_i} = -2 \sigma^2 \sum_j W_{ij} k'_{ij} (z_i - z_j)
          = -2 \sigma^2 \Big[ z_i \sum_j P_{ij} - \sum_j P_{ij} z_j \Big], \qquad P = W \circ k'

(Rasmussen and Williams 2006, eq. 5.9): one product of an N x N with an N x d matrix gives the derivatives by all
coordinates, and so by all length scales.  The large arrays are kept between evaluations, because fresh memory costs as
much as the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from fflux_py.gp.covariance import Covariance
from fflux_py.typing import FloatArray


@dataclass
class Objective:
    """Value of an objective and its derivatives; minus infinity where the matrix is not positive definite.

    Parameters
    ----------
    value
        What is to be maximised.
    by_points
        Derivative by the scaled, embedded points, shape ``(n, d)``.
    by_variance
        Derivative by the prior variance.
    by_noise
        Derivative by the noise variance of every point, shape ``(n,)``.
    """

    value: float
    by_points: FloatArray
    by_variance: float
    by_noise: FloatArray

    @classmethod
    def impossible(cls, points: FloatArray) -> Objective:
        """The objective where it cannot be computed."""
        return cls(-np.inf, np.zeros_like(points), 0.0, np.zeros(len(points)))


class Workspace:
    """The two large arrays of one size, used again at every evaluation."""

    def __init__(self) -> None:
        self._first = np.empty((0, 0))
        self._second = np.empty((0, 0))

    def arrays(self, n: int) -> tuple[FloatArray, FloatArray]:
        """Two uninitialised arrays of shape ``(n, n)``."""
        if len(self._first) != n:
            self._first, self._second = np.empty((n, n)), np.empty((n, n))
        return self._first, self._second


def log_marginal_likelihood(
    covariance: Covariance, z: FloatArray, y: FloatArray, variance: float, noise: FloatArray, space: Workspace
) -> Objective:
    """Log marginal likelihood of data of zero mean, with all its derivatives.

    Parameters
    ----------
    covariance
        Its radial kernel is used; its theta is already in the points.
    z, y
        Scaled, embedded points, shape ``(n, d)``, and data, shape ``(n,)``.
    variance, noise
        Prior variance, and noise variance of every point, shape ``(n,)``.
    space
        Memory to compute in.
    """
    n = len(y)
    kernel, matrix = space.arrays(n)
    slope = _kernel_and_slope(covariance, z, z, kernel)
    np.multiply(kernel, variance, out=matrix)
    matrix.ravel()[:: n + 1] += noise
    potrf, potrs, potri = get_lapack_funcs(("potrf", "potrs", "potri"), (matrix,))
    # The transpose of a row-major array is column-major: LAPACK works in place, without a copy.
    factor, info = potrf(matrix.T, lower=False, overwrite_a=True, clean=True)
    if info != 0:
        return Objective.impossible(z)
    alpha, _ = potrs(factor, y, lower=False)
    value = -0.5 * float(y @ alpha) - float(np.log(factor.diagonal()).sum()) - 0.5 * n * float(np.log(2.0 * np.pi))
    inverse, info = potri(factor, lower=False, overwrite_c=True)
    if info != 0 or not np.isfinite(value):
        return Objective.impossible(z)
    (syr,) = get_blas_funcs(("syr",), (matrix,))
    weights = syr(-1.0, alpha, lower=False, a=inverse, overwrite_a=True).T  # W, its lower triangle only
    by_noise = -0.5 * weights.diagonal()
    weights.ravel()[:: n + 1] *= 0.5
    by_variance = 0.0 if slope is None else -float(np.einsum("ij,ij->", weights, kernel))
    products = np.multiply(weights, kernel if slope is None else slope, out=weights)
    if slope is None:  # squared exponential: the slope is minus the kernel
        by_variance = -float(products.sum())
        np.negative(products, out=products)
    total = products.sum(axis=0) + products.sum(axis=1)
    by_points = -2.0 * variance * (total[:, None] * z - products @ z - products.T @ z)
    return Objective(value, by_points, by_variance, by_noise)


def holdout_score(
    covariance: Covariance, z: FloatArray, y: FloatArray, held: np.ndarray, noise: FloatArray, space: Workspace
) -> Objective:
    r"""Minus the number of held-out points times the logarithm of their root mean square error.

    The weights come from the other points.  The scale is that of a likelihood: it is the log likelihood of the
    residuals as normal variables of the best common variance, but for a constant.

    Parameters
    ----------
    covariance, z, y
        As in :func:`log_marginal_likelihood`.
    held
        Which points are held out, shape ``(n,)``, bool.
    noise
        Noise over the prior variance, shape ``(n,)``.
    space
        Memory to compute in.
    """
    kernel, _ = space.arrays(len(y))
    slope = _kernel_and_slope(covariance, z, z, kernel)
    fitted = ~held
    matrix = kernel[np.ix_(fitted, fitted)]
    matrix.ravel()[:: len(matrix) + 1] += noise[fitted]
    potrf, potrs = get_lapack_funcs(("potrf", "potrs"), (matrix,))
    factor, info = potrf(matrix.T, lower=False, overwrite_a=True, clean=False)
    if info != 0:
        return Objective.impossible(z)
    alpha, _ = potrs(factor, y[fitted], lower=False)
    across = kernel[np.ix_(held, fitted)]
    residuals = y[held] - across @ alpha
    square = float(residuals @ residuals)
    by_prediction = len(residuals) * residuals / square
    by_energy, _ = potrs(factor, across.T @ by_prediction, lower=False)
    left, right = np.empty(len(y)), np.zeros(len(y))
    left[held], left[fitted], right[fitted] = by_prediction, -by_energy, alpha
    if slope is None:
        slope = np.negative(kernel, out=kernel)
    by_points = left[:, None] * (z * (slope @ right)[:, None] - slope @ (right[:, None] * z))
    by_points += right[:, None] * (z * (slope @ left)[:, None] - slope @ (left[:, None] * z))
    return Objective(-0.5 * len(residuals) * float(np.log(square / len(residuals))), 2.0 * by_points, 0.0, left * right)


def _kernel_and_slope(covariance: Covariance, x: FloatArray, y: FloatArray, out: FloatArray) -> FloatArray | None:
    """Write the kernel to ``out``; return its slope, or None where the slope is minus the kernel."""
    # One product gives minus the squared distance: [2 x, -x.x, -1] . [y, 1, y.y].
    ones = np.ones((len(x), 1))
    left = np.hstack([2.0 * x, -(x * x).sum(1, keepdims=True), -ones])
    right = np.hstack([y, np.ones((len(y), 1)), (y * y).sum(1, keepdims=True)])
    np.dot(left, right.T, out=out)
    np.minimum(out, 0.0, out=out)
    if covariance.kernel.factorises:
        np.exp(out, out=out)
        return None
    np.negative(out, out=out)
    slope = covariance.slope(out)
    out[:] = covariance.value(out)
    return slope

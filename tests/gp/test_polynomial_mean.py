"""Linear and quadratic prior means: what they reproduce, their gradient, and what generalised least squares means."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py.errors import InputError
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.polynomial_mean import DEGREES, Degree, PolynomialMean, basis, fit
from fflux_py.typing import FloatArray

pytestmark = pytest.mark.core

_NONE = np.zeros(0, dtype=np.int64)


def _process(
    theta: float = 0.3, n: int = 40, d: int = 3, noise: float = 1e-6
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Embedded points, the matrix K + nu I and its lower factor."""
    z = Covariance(np.full(d, theta), _NONE).embed(np.random.default_rng(3).uniform(-1.0, 1.0, (n, d)))
    unit = Covariance(np.ones(d), _NONE)
    matrix = unit.matrix(z, z) + noise * np.eye(n)
    return z, matrix, np.linalg.cholesky(matrix)


@pytest.mark.parametrize("degree", DEGREES.values())
def test_a_polynomial_is_found_exactly_everywhere(degree: Degree) -> None:
    """Energies of the form of the mean leave nothing to the process, so the model is right far outside too."""
    z, _, factor = _process()
    slope, bend = np.array([0.3, -0.2, 0.1]), np.array([0.05, 0.02, -0.04]) * (degree - 1)

    def truth(x: FloatArray) -> FloatArray:
        return -75.4 + x @ slope + x**2 @ bend

    mean, weights = fit(degree, z, truth(z), factor)
    far = np.array([[5.0, -4.0, 3.0]])
    np.testing.assert_allclose(mean.value(far), truth(far), atol=1e-9)
    np.testing.assert_allclose(mean.gradient(far), slope + 2.0 * bend * far, atol=1e-9)
    assert np.abs(weights).max() < 1e-6


@pytest.mark.parametrize("degree", DEGREES.values())
def test_coefficients_are_those_of_generalised_least_squares(degree: Degree) -> None:
    z, matrix, factor = _process()
    y = -37.0 + np.sin(2.0 * z).sum(axis=1)
    mean, weights = fit(degree, z, y, factor)
    columns = basis(z, degree, mean.centre, mean.scale)
    inverse = np.linalg.inv(matrix)
    expected = np.linalg.solve(columns.T @ inverse @ columns, columns.T @ inverse @ y)
    np.testing.assert_allclose(columns @ mean.coefficients, columns @ expected, atol=1e-7)
    np.testing.assert_allclose(matrix @ weights, y - columns @ mean.coefficients, atol=1e-9)
    # The weights are orthogonal to the basis: the mean has taken all that it can.
    np.testing.assert_allclose(columns.T @ weights, 0.0, atol=1e-6 * np.abs(weights).max())


@pytest.mark.parametrize("degree", DEGREES.values())
def test_it_is_the_limit_of_a_wide_prior_on_the_coefficients(degree: Degree) -> None:
    """Universal kriging is the process with the covariance K + b H H^T for b to infinity."""
    z, matrix, factor = _process(noise=1e-4)
    y = np.sin(3.0 * z).sum(axis=1)
    mean, weights = fit(degree, z, y, factor)
    unit = Covariance(np.ones(3), _NONE)
    unseen = z[:5] + 0.3
    wide = 1e4
    old, new = (basis(x, degree, mean.centre, mean.scale) for x in (z, unseen))
    explicit = (unit.matrix(unseen, z) + wide * new @ old.T) @ np.linalg.solve(matrix + wide * old @ old.T, y)
    np.testing.assert_allclose(mean.value(unseen) + unit.matrix(unseen, z) @ weights, explicit, atol=2e-4)


@pytest.mark.parametrize("degree", DEGREES.values())
def test_gradient_by_finite_differences(degree: Degree) -> None:
    z, _, factor = _process()
    mean, _ = fit(degree, z, np.cos(2.0 * z).sum(axis=1), factor)
    at, step = z[:4], 1e-5
    for h in range(3):
        shift = step * np.eye(3)[h]
        numeric = (mean.value(at + shift) - mean.value(at - shift)) / (2.0 * step)
        np.testing.assert_allclose(mean.gradient(at)[:, h], numeric, rtol=1e-7, atol=1e-9)


def test_columns_that_the_data_do_not_tell_apart() -> None:
    """Squares of a unit vector add up to one, and one coordinate never moves: values stay finite and exact."""
    rng = np.random.default_rng(5)
    units = rng.normal(size=(60, 3))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    z = np.hstack([units, np.full((60, 1), 0.7)])
    matrix = Covariance(np.ones(4), _NONE).matrix(z, z) + 1e-8 * np.eye(60)
    y = 2.0 + units @ np.array([0.1, 0.2, 0.3]) + units**2 @ np.array([0.3, 0.1, 0.0])
    mean, _ = fit(2, z, y, np.linalg.cholesky(matrix))
    assert mean.scale[3] == 0.0
    np.testing.assert_allclose(mean.value(z), y, atol=1e-8)
    assert np.abs(mean.coefficients).max() < 10.0


def test_what_cannot_be_fitted_is_said() -> None:
    z, matrix, _ = _process(n=4)
    with pytest.raises(InputError, match="more training points than coefficients"):
        fit(1, z, np.zeros(4), np.linalg.cholesky(matrix))
    with pytest.raises(InputError, match="3 scales and 4 coefficients"):
        PolynomialMean(1, np.zeros(3), np.ones(3), np.zeros(5))

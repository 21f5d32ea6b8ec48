"""One atom's Gaussian process: exact limits, the sum rule of prior means, deviations, gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.gp.atomic_model import AtomicModel, fit_weights
from fflux_py.gp.covariance import AZIMUTHS, Azimuth, Covariance
from fflux_py.gp.features import FeatureKind, features
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.gp.weights import DerivativeWeights, PlainWeights
from fflux_py.typing import FloatArray
from tests.support.synthetic import MethanolPotential, fit, label, methanol, sample

pytestmark = pytest.mark.core

MEANS = ("MF1", "MF2", "MF3", "MF4", "MF5", "max", "mean+2*range", "gls", "constant:-40.0")
N_TRAIN = 25


def _model(
    kind: FeatureKind = "spherical",
    kernel: str = "squared-exponential",
    azimuth: Azimuth = "periodic",
    mean: str = "MF2",
    noise: float = 1e-12,
) -> AtomicModel:
    """The carbon of methanol, with a kernel short enough to be far from singular."""
    return fit(label(sample(N_TRAIN)), kind, kernel, azimuth, mean, noise, inverse_width=0.05).atoms[0]


def _kernel(model: AtomicModel) -> FloatArray:
    return np.asarray(model.covariance.matrix(model.points, model.points) + model.noise * np.eye(len(model.points)))


@pytest.mark.parametrize("mean", MEANS)
def test_the_data_are_reproduced_and_the_sum_rule_is_one(mean: str) -> None:
    for kind in ("spherical", "unit-vector"):
        model = _model(kind, mean=mean)
        positions = sample(N_TRAIN)
        np.testing.assert_allclose(
            model.energy(positions), MethanolPotential().atomic_energies(positions)[:, 0], atol=1e-8
        )
        np.testing.assert_allclose(model.coverage(positions), 1.0, atol=1e-9)
        assert model.deviation(positions).max() < 1e-5 * np.sqrt(model.variance)
        assert model.jitter == 0.0


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("kernel", ["squared-exponential", "matern52"])
def test_far_from_the_data_only_the_prior_is_left(mean: str, kernel: str) -> None:
    model = _model(kernel=kernel, mean=mean)
    far = 40.0 * methanol().positions[None]
    assert model.energy(far)[0] == pytest.approx(model.mean, abs=1e-12)
    assert model.deviation(far)[0] == pytest.approx(np.sqrt(model.variance), rel=1e-12)
    assert model.coverage(far)[0] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(model.gradient(far), 0.0, atol=1e-12)


def test_the_rational_quadratic_reaches_far_beyond_the_data() -> None:
    """Distances twice as large are s four times as large, and k falls as its square."""
    model = _model(kernel="rational-quadratic")
    near, far = model.coverage(np.array([400.0, 800.0])[:, None, None] * methanol().positions)
    assert 0.0 < abs(near) < 1e-6
    assert near / far == pytest.approx(16.0, rel=0.05)
    assert model.deviation(400.0 * methanol().positions[None])[0] == pytest.approx(np.sqrt(model.variance), rel=1e-6)


@pytest.mark.parametrize("mean", MEANS)
def test_a_mean_chosen_afterwards_is_the_mean_trained_with(mean: str) -> None:
    model = _model().with_prior_mean(mean, isolated=-37.8)
    positions = sample(10, 1000.0, seed=5)
    x = features(positions, model.frame, model.feature_kind)
    # training with the mean: (K + nu) w = y - mu, solved afresh and by another method
    w = np.linalg.solve(_kernel(model), model.energies - model.mean)
    trained = model.mean + model.covariance.matrix(x, model.points) @ w
    assert model.mean_name == mean
    np.testing.assert_allclose(model.point_weights, w, rtol=1e-7, atol=1e-9 * np.abs(w).max())
    np.testing.assert_allclose(model.energy(positions), trained, rtol=0, atol=1e-10)


@pytest.mark.parametrize("basis", ["plain", "derivative"])
def test_sum_rule_of_a_shifted_mean(basis: str) -> None:
    # E_mu = E_mean + (mu - mean)(1 - s)
    model = _model() if basis == "plain" else _with_slopes(_model())
    positions = sample(10, 1000.0, seed=5)
    shifted = model.with_prior_mean("constant:-30.0")
    expected = model.energy(positions) + (-30.0 - model.mean) * (1.0 - model.coverage(positions))
    np.testing.assert_allclose(shifted.energy(positions), expected, rtol=0, atol=1e-10)
    assert np.abs(shifted.energy(positions) - model.energy(positions)).max() > 1e-3


def test_deviation_is_the_posterior_deviation() -> None:
    model = _model(noise=1e-6)
    positions = sample(10, 1000.0, seed=5)
    x = features(positions, model.frame, model.feature_kind)
    k = model.covariance.matrix(x, model.points)
    expected = np.sqrt(model.variance * (1.0 - np.einsum("ij,jk,ik->i", k, np.linalg.inv(_kernel(model)), k)))
    np.testing.assert_allclose(model.deviation(positions), expected, rtol=1e-8)
    assert (expected > 0).all()
    assert (expected < np.sqrt(model.variance)).all()


@pytest.mark.parametrize("kind", ["spherical", "unit-vector"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("basis", ["plain", "derivative"])
def test_gradient_is_the_derivative_of_the_energy(kind: FeatureKind, kernel: str, basis: str) -> None:
    model = _model(kind, kernel, noise=1e-8)
    if basis == "derivative":
        model = _with_slopes(model)
    positions = sample(1, 1000.0, seed=6)[0]
    step = 1e-3
    shifts = step * np.eye(18).reshape(18, 6, 3)
    e = [model.energy(positions + n * shifts) for n in (-2, -1, 1, 2)]
    numerical = ((e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * step)).reshape(6, 3)
    exact = model.gradient(positions[None])[0]
    np.testing.assert_allclose(exact, numerical, atol=1e-7 * np.abs(exact).max())


def _with_slopes(model: AtomicModel) -> AtomicModel:
    """The model with random slopes of the size of its weights."""
    rng = np.random.default_rng(3)
    shape = (len(model.points), model.covariance.n_embedded)
    size = np.abs(model.point_weights).max()
    u_y, u_1 = size * rng.standard_normal(shape), rng.standard_normal(shape)
    return replace(
        model, weights=DerivativeWeights(model.weights.w_y, model.weights.w_1, model.weights.centre, u_y, u_1)
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("azimuth", AZIMUTHS)
def test_slopes_multiply_the_derivative_of_the_kernel_by_its_second_point(kernel: str, azimuth: Azimuth) -> None:
    model = _model(kernel=kernel, azimuth=azimuth, noise=1e-6)
    # slopes that follow the derivative of the embedding by one feature (an azimuth) act as d/df' of the kernel
    h, step = 5, 1e-3
    rng = np.random.default_rng(2)
    u = rng.standard_normal(len(model.points))
    points = model.points
    shift = step * np.eye(points.shape[1])[h]
    z = [model.covariance.embed(points + n * shift) for n in (-2, -1, 1, 2)]
    by_h = (z[0] - 8 * z[1] + 8 * z[2] - z[3]) / (12 * step)
    none = np.zeros(len(points))
    sloped = replace(model, weights=DerivativeWeights(none, none, model.weights.centre, u[:, None] * by_h, 0 * by_h))
    positions = sample(5, 1000.0, seed=5)
    x = features(positions, model.frame, model.feature_kind)
    k = [model.covariance.matrix(x, points + n * shift) for n in (-2, -1, 1, 2)]
    expected = ((k[0] - 8 * k[1] + 8 * k[2] - k[3]) / (12 * step)) @ u
    np.testing.assert_allclose(sloped.energy(positions) - model.mean, expected, atol=1e-8)
    assert np.abs(expected).max() > 1e-3


def test_jitter_is_added_only_where_it_is_needed_and_reported() -> None:
    model = _model(noise=0.0)
    assert fit_weights(model.covariance, model.points, model.energies, 0.0)[2] == 0.0
    doubled = np.concatenate([model.points, model.points[:1]])
    energies = np.append(model.energies, model.energies[0])
    w_y, w_1, jitter = fit_weights(model.covariance, doubled, energies, 0.0)
    assert 1e-12 <= jitter <= 1e-10
    k = model.covariance.matrix(doubled, doubled)
    np.testing.assert_allclose(k @ w_y + energies.mean(), energies, atol=1e-6)
    np.testing.assert_allclose(k @ w_1, 1.0, atol=1e-6)
    assert fit_weights(model.covariance, doubled, energies, 1e-8)[2] == 0.0


def test_weights_solve_the_equations() -> None:
    model = _model(noise=1e-4)
    w_y, w_1, _ = fit_weights(model.covariance, model.points, model.energies, 1e-4)
    k = model.covariance.matrix(model.points, model.points) + 1e-4 * np.eye(N_TRAIN)
    np.testing.assert_allclose(k @ w_y, model.energies - model.energies.mean(), atol=1e-13)
    np.testing.assert_allclose(k @ w_1, 1.0, atol=1e-11)


def test_a_kernel_that_is_not_positive_ends_with_one_line() -> None:
    phi = np.linspace(-np.pi, np.pi, 60, endpoint=False)[:, None]
    kernel = Covariance(np.array([0.1]), np.array([0]), azimuth="rbf-cyclic")
    with pytest.raises(ConvergenceError, match=r"kernel matrix: .*positive definite.*periodic kernel") as caught:
        fit_weights(kernel, phi, np.cos(phi[:, 0]), 1e-10)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    periodic = Covariance(np.array([0.1]), np.array([0]))
    assert fit_weights(periodic, phi, np.cos(phi[:, 0]), 1e-10)[2] == 0.0


def test_parts_that_do_not_fit_together_are_refused() -> None:
    model = _model()
    w_y, w_1 = model.weights.w_y, model.weights.w_1
    for changes in (
        {"energies": model.energies[:-1]},
        {"weights": PlainWeights(w_y[:-1], w_1[:-1], 0.0)},
        {"points": model.points[:, :-1]},
        {"weights": DerivativeWeights(w_y, w_1, 0.0, np.zeros((N_TRAIN, 2)), np.zeros((N_TRAIN, 2)))},
    ):
        with pytest.raises(InputError, match="atomic model"):
            replace(model, **changes)
    with pytest.raises(InputError, match="atomic model, weights w_1: expected 25 rows"):
        PlainWeights(w_y, w_1[:-1], 0.0)
    slopes = np.zeros((N_TRAIN, model.covariance.n_embedded))
    with pytest.raises(InputError, match="atomic model, slopes u_y and u_1: expected one shape"):
        DerivativeWeights(w_y, w_1, 0.0, slopes, slopes[:, :-1])
    with pytest.raises(ValueError, match="read-only"):
        model.points[0, 0] = 1.0

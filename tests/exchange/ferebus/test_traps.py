"""What a ``.model`` file does not say is decided from its training energies; wrong files are refused."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from fflux_py.errors import ConvergenceError, FileFormatError
from fflux_py.exchange.ferebus.consistency import FerebusWarning, interpret, read_model
from fflux_py.exchange.ferebus.kernel import Composition, Kernel, Reading
from fflux_py.exchange.ferebus.model import FerebusModel
from fflux_py.exchange.ferebus.model_text import Mean, format_model
from fflux_py.units import KJ_MOL
from tests.support.ferebus_data import STAYING, data, predicted, product, single, solved

UNSEEN = data(n=40, seed=7)[0]


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_factor_of_the_periodic_kernel(factor: float) -> None:
    text = solved(product(data()[0]), Reading(factor))
    model = interpret(text, "C1.model")
    assert model.reading.periodic_factor == factor
    np.testing.assert_allclose(model.energies(UNSEEN), predicted(text, Reading(factor), UNSEEN), rtol=0, atol=1e-10)
    wrong = predicted(text, Reading(6.0 - factor), UNSEEN) - model.energies(UNSEEN)
    assert np.abs(wrong).max() * KJ_MOL > 1.0, "the other factor would be wrong, or nothing was tested"
    assert any("factor 2" in note for note in model.notes) == (factor == 2.0)


@pytest.mark.parametrize("wrapped", [True, False])
def test_azimuths_of_an_rbf(wrapped: bool) -> None:
    reading = Reading(wrap_rbf=wrapped)
    text = solved(single(data()[0]), reading)
    model = interpret(text, "C1.model")
    assert model.reading.wrap_rbf is wrapped
    np.testing.assert_allclose(model.energies(UNSEEN), predicted(text, reading, UNSEEN), rtol=0, atol=1e-10)
    wrong = predicted(text, Reading(wrap_rbf=not wrapped), UNSEEN) - model.energies(UNSEEN)
    assert np.abs(wrong).max() * KJ_MOL > 1.0


def test_azimuths_of_an_rbf_that_the_data_do_not_decide_wrap() -> None:
    """Then the energy does not jump where an azimuth passes 180 degrees, and on the data nothing changes."""
    x = data(STAYING)[0]
    assert np.ptp(x[:, [5, 8, 11]], axis=0).max() < np.pi
    text = solved(single(x), Reading(wrap_rbf=False), frame=STAYING)
    model = interpret(text, "C1.model")
    assert model.reading.wrap_rbf
    assert model.training_error() < 1e-5
    across = np.repeat(x[:1], 2, axis=0)
    across[:, 5] = np.pi - 1e-9, -np.pi + 1e-9
    first, second = model.energies(across)
    assert abs(first - second) < 1e-9
    jump = np.diff(predicted(text, Reading(wrap_rbf=False), across))[0]
    assert abs(jump) > 1e-6


def test_nugget_of_the_weights_and_not_that_of_the_header() -> None:
    """Weights with gpytorch's output scale contain the noise over that scale."""
    text = solved(product(data()[0]), Reading(), nugget=1.5e-6, metadata={"program": "gpytorch", "noise": "1e-08"})
    model = interpret(text, "C1.model")
    assert model.nugget == pytest.approx(1.5e-6, rel=1e-4)
    assert any("1.5e-06, not 1e-08" in note for note in model.notes)
    told = interpret(replace(text, metadata={"noise": "1.5e-06"}), "C1.model")
    assert told.nugget == 1.5e-6
    assert told.notes == ()
    assert interpret(replace(text, metadata={}), "C1.model").nugget == pytest.approx(1.5e-6, rel=1e-4)


@pytest.mark.parametrize("known", [True, False])
def test_mean_that_does_not_belong_to_the_weights(known: bool, tmp_path: Path) -> None:
    """As where the mean of the data was written beside weights of the generalised least-squares mean."""
    x, y = data()
    kernels = product(x)
    matrix = kernels.matrix(x, x, Reading()) + 1e-8 * np.eye(len(x))
    ones = np.linalg.solve(matrix, np.ones(len(x)))
    gls = float(ones @ y / ones.sum())
    assert abs(gls - y.mean()) > 1e-4
    right = solved(kernels, Reading(), mean=Mean("constant", gls), metadata={"nugget": "1e-08"} if known else {})
    text = replace(right, mean=Mean("constant", float(y.mean())))
    path = tmp_path / "METHANOL_iqa_C1.model"
    path.write_text(format_model(text))
    with pytest.warns(FerebusWarning, match="generalised least-squares mean"):
        model = read_model(path)
    assert model.text.mean.value == pytest.approx(gls, abs=1e-8)
    np.testing.assert_allclose(model.energies(UNSEEN), predicted(right, Reading(), UNSEEN), rtol=0, atol=1e-8)


def test_another_constant_in_the_mean() -> None:
    right = solved(product(data()[0]), Reading())
    text = replace(right, mean=Mean("constant", right.mean.value - 0.0568))
    model = interpret(text, "C1.model")
    assert model.text.mean.value == pytest.approx(right.mean.value, abs=1e-9)
    assert "another constant" in model.notes[0]
    assert f"{0.0568 * KJ_MOL:.4g} kJ/mol off" in model.notes[0]


@pytest.mark.parametrize("what", ["weight", "energy", "order", "theta", "sign", "zero"])
def test_files_that_do_not_reproduce_their_training_energies_are_refused(what: str) -> None:
    text = solved(product(data()[0]), Reading(), metadata={"nugget": "1e-08"})
    weights, y, kernels = text.weights.copy(), text.y.copy(), text.kernels
    if what == "weight":
        weights[3] += 0.5
    elif what == "energy":
        y[3] += 0.1
    elif what == "order":
        weights = weights[::-1]
    elif what == "sign":
        weights = -weights
    elif what == "zero":
        weights = 0.0 * weights
    else:
        first, second = kernels.kernels
        kernels = replace(kernels, kernels=(replace(first, theta=first.theta * 1.3), second))
    with pytest.raises(FileFormatError, match=r"C1\.model: expected weights that reproduce the training energies"):
        interpret(replace(text, weights=weights, y=y, kernels=kernels), "C1.model")


@pytest.mark.parametrize("known", [True, False])
def test_weights_with_few_digits(known: bool) -> None:
    """Solved again if the nugget is known, else kept, in both cases with a note."""
    right = solved(product(data()[0]), Reading(), metadata={"nugget": "1e-08"} if known else {})
    scale = np.abs(right.weights).max()
    rounding = 0.01 * right.y.std() / scale / 20.0
    rounded = np.round(right.weights / scale / rounding) * scale * rounding
    model = interpret(replace(right, weights=rounded), "C1.model")
    assert len(model.notes) == 1
    error = np.abs(model.energies(UNSEEN) - predicted(right, Reading(), UNSEEN)).max()
    if known:
        assert error < 1e-9
        assert "solved for again" in model.notes[0]
    else:
        np.testing.assert_array_equal(model.text.weights, rounded)
        assert "kept" in model.notes[0]


def test_negative_nugget_is_taken_as_it_is() -> None:
    text = solved(product(data()[0]), Reading(), nugget=-2.5e-8, metadata={"version": "10.0.0", "nugget": "-2.5e-08"})
    model = interpret(text, "C1.model")
    assert model.nugget == -2.5e-8
    np.testing.assert_allclose(model.energies(UNSEEN), predicted(text, Reading(), UNSEEN), rtol=0, atol=1e-12)


def test_a_sound_file_is_read_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "METHANOL_iqa_C1.model"
    path.write_text(format_model(solved(product(data()[0]), Reading(), metadata={"nugget": "1e-08"})))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_model(path).notes == ()


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
def test_means_that_depend_on_the_features(kind: str) -> None:
    x, y = data()
    lowest = int(y.argmin())
    rise = (x - x[lowest]) ** (1 if kind == "linear" else 2)
    beta = np.linalg.lstsq(rise, y - y[lowest], rcond=None)[0]
    mean = Mean("linear" if kind == "linear" else "quadratic", float(y[lowest]), beta, x[lowest])
    text = solved(product(x), Reading(), mean=mean)
    model = interpret(text, "C1.model")
    np.testing.assert_allclose(mean.at(x), y[lowest] + rise @ beta)
    np.testing.assert_allclose(model.energies(UNSEEN), predicted(text, Reading(), UNSEEN), rtol=0, atol=1e-12)


def test_sums_and_prefactors() -> None:
    x = data()[0]
    parts = (*product(x).kernels, Kernel("k3", "constant", np.zeros(0, dtype=np.int64), np.zeros(0), 0.5))
    kernels = Composition(parts, "k3*(k1+k2)", 1.7)
    first, second = (kernel.matrix(x, x, Reading()) for kernel in parts[:2])
    np.testing.assert_allclose(kernels.matrix(x, x, Reading()), 1.7 * 0.5 * (first + second))
    assert kernels.diagonal() == pytest.approx(1.7)
    model = interpret(solved(kernels, Reading(), nugget=1e-6), "C1.model")
    assert model.training_error() < 1e-2
    assert model.nugget == pytest.approx(1e-6, rel=1e-3)


def test_variances_are_those_of_the_conditional_distribution() -> None:
    """Variance of one value of a joint normal distribution, given the others, by its inverse covariance."""
    text = solved(product(data()[0]), Reading(), nugget=1e-3)
    model = FerebusModel(text, Reading(), 1e-3)
    for row in range(5):
        every = np.concatenate([UNSEEN[row : row + 1], text.x])
        joint = text.kernels.matrix(every, every, Reading()) + np.diag([0.0] + [1e-3] * len(text.x))
        expected = 1.0 / np.linalg.inv(joint)[0, 0]
        assert model.variances(UNSEEN[row : row + 1])[0] == pytest.approx(expected, rel=1e-6)
    far = UNSEEN[:1] + 100.0
    assert model.variances(far)[0] == pytest.approx(1.0, abs=1e-3)
    assert model.variances(text.x, nugget=1e-8).max() < 1e-7 < model.variances(text.x).max()


def test_likelihoods_are_those_of_the_normal_distribution() -> None:
    text = solved(product(data()[0]), Reading(), nugget=1e-3)
    model, n = FerebusModel(text, Reading(), 1e-3), len(text.y)
    covariance = text.kernels.matrix(text.x, text.x, Reading()) + 1e-3 * np.eye(n)
    ones = np.ones(n)
    expected = multivariate_normal(text.mean.at(text.x), covariance).logpdf(text.y)
    assert model.log_likelihood() == pytest.approx(expected, rel=1e-10)
    # The concentrated one is the maximum over mean and prior variance, up to constants.
    inverse = np.linalg.inv(covariance)
    best = float(ones @ inverse @ text.y / (ones @ inverse @ ones))
    scale = float((text.y - best) @ inverse @ (text.y - best) / n)
    constants = 0.5 * n * (np.log(2.0 * np.pi) + 1.0)
    top = multivariate_normal(best * ones, scale * covariance).logpdf(text.y)
    assert model.concentrated_log_likelihood() == pytest.approx(top + constants, rel=1e-9)
    for mean, factor in ((best + 0.01, 1.0), (best - 0.01, 1.0), (best, 1.1), (best, 0.9)):
        assert multivariate_normal(mean * ones, factor * scale * covariance).logpdf(text.y) < top


def test_kernel_that_is_no_covariance_has_energies_but_no_variances() -> None:
    text = solved(product(data()[0]), Reading(), nugget=-0.5)
    model = interpret(replace(text, metadata={"nugget": "-0.5"}), "C1.model")
    assert model.training_error() < 10.0
    with pytest.raises(ConvergenceError, match="its variances cannot"):
        model.variances(UNSEEN)
    np.testing.assert_allclose(model.solve(text.y - text.mean.value), text.weights, rtol=1e-6, atol=1e-9)

"""Standard errors, autocorrelation times and drifts against series whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from fflux_py.analysis.statistics import (
    autocorrelation,
    autocorrelation_time,
    block_average,
    linear_drift,
    running_mean,
)
from fflux_py.errors import InputError


def ar1(n: int, memory: float, rng: np.random.Generator, mean: float = 0.0) -> np.ndarray:
    """x_t = memory x_{t-1} + noise, stationary, unit variance: tau = (1 + memory) / (2 (1 - memory))."""
    noise = rng.standard_normal(n) * np.sqrt(1.0 - memory**2)
    noise[0] = rng.standard_normal()
    return mean + lfilter([1.0], [1.0, -memory], noise)


def exact_standard_error(n: int, memory: float) -> float:
    lag = np.arange(1, n)
    return float(np.sqrt((1.0 + 2.0 * np.sum((1.0 - lag / n) * memory**lag)) / n))


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, -0.5])
def test_block_average_finds_the_standard_error_of_an_ar1_series(memory):
    rng = np.random.default_rng(7)
    n, repeats = 8192, 60
    found = [block_average(ar1(n, memory, rng, mean=3.0)) for _ in range(repeats)]
    exact = exact_standard_error(n, memory)
    # The spread of one estimate is about 10 %, that of their mean 1.5 %; the method itself is 4 % low at most.
    assert np.mean([f.standard_error for f in found]) == pytest.approx(exact, rel=0.08)
    # and the means do scatter as the error says
    assert np.std([f.mean - 3.0 for f in found]) == pytest.approx(exact, rel=0.3)
    assert all(f.converged for f in found)
    assert all(f.standard_error_uncertainty < 0.35 * f.standard_error for f in found)


def test_naive_error_would_be_far_too_small():
    series = ar1(8192, 0.95, np.random.default_rng(1))
    assert block_average(series).standard_error > 4.0 * series.std() / np.sqrt(len(series))


def test_block_average_says_when_the_series_is_too_short():
    slow = ar1(128, 0.99, np.random.default_rng(3))
    assert not block_average(slow).converged


def test_mean_runs_over_all_samples_also_of_odd_lengths():
    series = np.arange(37.0)
    assert block_average(series).mean == 18.0


def test_constant_series_has_no_error_and_no_correlation():
    result = block_average(np.full(100, -2.5))
    assert (result.mean, result.standard_error, result.converged) == (-2.5, 0.0, True)
    assert autocorrelation_time(np.full(100, -2.5)) == 0.5


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_autocorrelation_time_of_an_ar1_series(memory):
    rng = np.random.default_rng(11)
    found = np.mean([autocorrelation_time(ar1(20000, memory, rng)) for _ in range(10)])
    assert found == pytest.approx((1.0 + memory) / (2.0 * (1.0 - memory)), rel=0.06)


def test_autocorrelation_function_is_that_of_the_definition():
    series = ar1(400, 0.8, np.random.default_rng(5))
    deviation = series - series.mean()
    direct = [deviation[: 400 - k] @ deviation[k:] / (deviation @ deviation) for k in range(400)]
    np.testing.assert_allclose(autocorrelation(series), direct, atol=1e-13)


def test_drift_and_its_error():
    rng = np.random.default_rng(13)
    time = np.linspace(0.0, 2.0, 4000)
    slopes, errors = [], []
    for _ in range(40):
        fit = linear_drift(time, 5.0 - 0.3 * time + 0.2 * ar1(4000, 0.9, rng))
        slopes.append(fit.slope)
        errors.append(fit.slope_standard_error)
        assert fit.intercept == pytest.approx(5.0, abs=0.15)
    assert np.mean(slopes) == pytest.approx(-0.3, abs=3.0 * np.std(slopes) / np.sqrt(40))
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.35)


def test_drift_of_a_line_is_exact():
    time = np.arange(100.0)
    fit = linear_drift(time, 1.5 + 0.25 * time)
    assert (fit.slope, fit.intercept) == (pytest.approx(0.25, abs=1e-14), pytest.approx(1.5, abs=1e-12))
    assert fit.slope_standard_error < 1e-14


def test_running_mean():
    np.testing.assert_array_equal(running_mean(np.array([2.0, 4.0, 9.0])), [2.0, 3.0, 5.0])


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((20, 2)), np.array([0.0] * 20 + [np.nan])])
def test_series_that_cannot_be_averaged_are_refused(bad):
    with pytest.raises(InputError):
        block_average(bad)

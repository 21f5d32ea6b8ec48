"""Statistics of correlated time series: standard errors, autocorrelation times, drifts.

Successive frames of a trajectory resemble each other, so that the naive standard error s/sqrt(n) is too small, often
by a factor of ten.  Everything here works on equidistant series of real numbers and keeps their unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.typing import FloatArray

_MINIMUM: Final = 16
_WINDOW: Final = 5.0
_FEWEST_BLOCKS: Final = 4


@dataclass(frozen=True)
class SeriesMean:
    """Mean of a correlated series.

    Parameters
    ----------
    mean
        Arithmetic mean of the whole series.
    standard_error
        Standard error of the mean, correlation included.
    standard_error_uncertainty
        Statistical uncertainty of ``standard_error`` itself, standard_error / sqrt(2 (n_blocks - 1)).
    block_length
        Samples in one block at the level that was chosen.
    n_blocks
        Blocks at that level.
    converged
        Whether blocks of that length are long enough; if not, the series is too short for its correlation and
        ``standard_error`` is a lower bound.
    """

    mean: float
    standard_error: float
    standard_error_uncertainty: float
    block_length: int
    n_blocks: int
    converged: bool


@dataclass(frozen=True)
class LinearDrift:
    """Straight line through a series, ``value = intercept + slope * time``.

    Parameters
    ----------
    slope
        Unit of the series per unit of time.
    slope_standard_error
        Standard error of ``slope``, widened for the autocorrelation of the residuals.
    intercept
        Value at time zero.
    """

    slope: float
    slope_standard_error: float
    intercept: float


def block_average(series: FloatArray) -> SeriesMean:
    """Mean and standard error by blocking, with the block length chosen by a rule.

    Neighbours are averaged pairwise, level by level, until the blocks are uncorrelated and the standard error from
    their spread stops growing (H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461 (1989)).  Longer blocks leave
    less bias but fewer blocks; the best length B obeys B^3 = 2 n (e_B / e_1)^4 with the naive standard error e_1 and
    that of the blocks e_B (R. M. Lee et al., Phys. Rev. E 83, 066706 (2011)), and the first level beyond it is taken.
    An odd block is left out at its level, which costs nothing of the mean: that one is over the whole series.

    Parameters
    ----------
    series
        At least 16 finite, equidistant samples.

    Raises
    ------
    InputError
        If the series is shorter or not finite.
    """
    values = _check_series(series, "series")
    mean = float(values.mean())
    blocks = values - mean
    levels: list[tuple[int, float]] = []
    while len(blocks) >= _FEWEST_BLOCKS:
        levels.append((len(blocks), float(blocks.std(ddof=1)) / float(np.sqrt(len(blocks)))))
        even = blocks[: len(blocks) - len(blocks) % 2]
        blocks = 0.5 * (even[0::2] + even[1::2])
    naive = levels[0][1]
    chosen = [k for k, (_, e) in enumerate(levels) if 8.0**k * naive**4 > 2.0 * len(values) * e**4]
    # Too short for its correlation: the largest estimate is the least wrong.  A constant series has no error at all.
    level = chosen[0] if chosen else int(np.argmax([e for _, e in levels]))
    n_blocks, error = levels[level]
    return SeriesMean(
        mean=mean,
        standard_error=error,
        standard_error_uncertainty=error / float(np.sqrt(2.0 * (n_blocks - 1))),
        block_length=2**level,
        n_blocks=n_blocks,
        converged=bool(chosen) or naive == 0.0,
    )


def autocorrelation(series: FloatArray) -> FloatArray:
    """Normalised autocorrelation function, lags 0 to n-1 (biased estimator, by FFT); all zero past lag 0 if constant.

    Parameters
    ----------
    series
        At least 16 finite, equidistant samples.
    """
    values = _check_series(series, "series")
    n = len(values)
    deviation = values - values.mean()
    spectrum = np.fft.rfft(deviation, 2 * n)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum), 2 * n)[:n]
    if covariance[0] <= 0.0:
        return np.asarray(np.arange(n) == 0, dtype=np.float64)
    return np.asarray(covariance / covariance[0], dtype=np.float64)


def autocorrelation_time(series: FloatArray) -> float:
    """Integrated autocorrelation time tau = 1/2 + sum of the autocorrelation over lags >= 1, in samples.

    The variance of the mean is 2 tau variance/n; 1/2 means uncorrelated.  The sum ends at the first lag t >= 5 tau(t)
    (A. Sokal, in Functional Integration, Plenum 1997, sec. 3), where the noise of the far tail would take over.

    Parameters
    ----------
    series
        At least 16 finite, equidistant samples.
    """
    rho = autocorrelation(series)
    tau = np.cumsum(rho) - 0.5
    window = np.flatnonzero(np.arange(len(tau)) >= _WINDOW * tau)
    return max(0.5, float(tau[window[0]] if len(window) else tau[-1]))


def linear_drift(time: FloatArray, series: FloatArray) -> LinearDrift:
    """Least-squares line through a series, and how uncertain its slope is.

    Parameters
    ----------
    time
        Equidistant, ascending times, shape ``(n,)``; any unit.
    series
        Values at these times, shape ``(n,)``, n >= 16.
    """
    values, times = _check_series(series, "series"), _check_series(time, "time")
    if len(values) != len(times):
        raise InputError("time", f"{len(values)} times, one for each value", str(len(times)))
    centred = times - times.mean()
    spread = float(centred @ centred)
    if spread == 0.0:
        raise InputError("time", "times that differ", "one and the same time")
    slope = float(centred @ (values - values.mean())) / spread
    intercept = float(values.mean() - slope * times.mean())
    residuals = values - intercept - slope * times
    variance = float(residuals @ residuals) / (len(values) - 2)
    # A residual at rounding level has no meaningful correlation; its variance is then zero for every purpose.
    widening = 2.0 * autocorrelation_time(residuals)
    return LinearDrift(slope, float(np.sqrt(widening * variance / spread)), intercept)


def running_mean(series: FloatArray) -> FloatArray:
    """Mean of the series up to and including every sample, shape ``(n,)``."""
    values = np.asarray(series, dtype=np.float64)
    return np.asarray(np.cumsum(values) / np.arange(1, len(values) + 1))


def _check_series(series: FloatArray, where: str) -> FloatArray:
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or len(values) < _MINIMUM:
        raise InputError(where, f"a series of at least {_MINIMUM} samples", f"shape {values.shape}", "run longer")
    if not np.isfinite(values).all():
        raise InputError(f"{where}, sample {int(np.argmin(np.isfinite(values)))}", "finite numbers", "NaN or infinity")
    return values

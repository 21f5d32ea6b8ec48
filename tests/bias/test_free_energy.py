"""Free energies from hills and from reweighted frames, against quadrature; error bars against their own statistics."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba import njit

from fflux_py.bias import BiasSettings, CollectiveVariable, Grid, HillParameters, Hills, Metadynamics, _compiled
from fflux_py.bias.free_energy import (
    bias_of_frames,
    frame_weights,
    free_energy_of_hills,
    reweighting_offset,
    weighted_free_energy,
)
from fflux_py.bias.grid import grid_around
from fflux_py.errors import InputError
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN

TEMPERATURE = 300.0
KT = BOLTZMANN * TEMPERATURE
PHI = CollectiveVariable("torsion", (0, 1, 2, 3), "phi")
FAR = CollectiveVariable("distance", (0, 1), "r")
FINE = Grid((PHI,), (-np.pi,), (np.pi,), (120,))
COARSE = Grid((PHI,), (-np.pi,), (np.pi,), (36,))


@njit(cache=True)
def overdamped(arrays: Any, noise: Any, thermal: Any, pace: Any, stride: Any, frames: Any) -> None:
    """Particle on a circle with a stiff coordinate whose frequency depends on the angle, under a growing bias.

    U/kT = 3 (1 - cos s) + k(s) y^2 / 2 with k(s) = 2 (1 + 0.8 cos s); Euler-Maruyama with a step of 0.02.  The whole
    loop, hills included, is compiled, as in dynamics.
    """
    s, y = 0.0, 0.0
    values, slopes = np.empty(1), np.empty(1)
    for k in range(noise.shape[0]):
        values[0] = s
        if k % pace == 0:
            _compiled.deposit_at(values, arrays)
        _compiled.group_bias(values, arrays, 0, slopes)
        force = -3.0 * np.sin(s) + 0.8 * np.sin(s) * y * y - slopes[0] / thermal
        y += -0.04 * (1.0 + 0.8 * np.cos(s)) * y + noise[k, 1]
        s += 0.02 * force + noise[k, 0]
        if (k + 1) % stride == 0:
            frames[(k + 1) // stride - 1, 0] = s
            frames[(k + 1) // stride - 1, 1] = y


class Run(NamedTuple):
    """Hills, frames (s, y) and the number of hills at each frame."""

    bias: Metadynamics
    hills: Hills
    frames: FloatArray
    counts: np.ndarray


@cache
def run(seed: int, n_steps: int = 400_000) -> Run:
    hills = HillParameters(height=0.2 * KT, sigma=0.25, bias_factor=5.0, pace=100)
    bias = BiasSettings((PHI,), hills, grid=grid_around((PHI,), (0.25,))).build(TEMPERATURE)
    noise = np.random.default_rng(seed).standard_normal((n_steps, 2)) * np.sqrt(0.04)
    frames = np.empty((n_steps // 50, 2))
    overdamped(bias.arrays(n_steps // 100), noise, KT, 100, 50, frames)
    return Run(bias, bias.hills(1.0)[0], frames, (np.arange(1, len(frames) + 1) * 50 - 1) // 100 + 1)


def exact(points: FloatArray) -> FloatArray:
    """Free energy of s by quadrature over y, kT, lowest at zero."""
    y = np.linspace(-12.0, 12.0, 1201)
    energy = 3.0 * (1.0 - np.cos(points))[:, None] + (1.0 + 0.8 * np.cos(points))[:, None] * y**2
    free = -np.log(np.trapezoid(np.exp(-energy), y, axis=1))
    return np.asarray(free - free.min())


def deviation(values: FloatArray, reference: FloatArray, chosen: FloatArray | slice = slice(None)) -> float:
    """Standard deviation of the difference: free energies have no zero."""
    return float(np.std((values - reference)[chosen]))


def test_hills_give_the_free_energy_of_the_model() -> None:
    surface = free_energy_of_hills(run(1).hills, FINE)
    reference = exact(FINE.points(0))
    assert np.ptp(reference) > 4.0
    # Eight seeds gave 0.09 to 0.12; without gamma/(gamma-1) it is 0.35 to 0.40.
    assert deviation(surface.values / KT, reference) < 0.2
    assert deviation(0.8 * surface.values / KT, reference) > 0.25
    # The gradients are those of the values.
    finer = Grid((PHI,), (-np.pi,), (np.pi,), (1200,))
    steep = free_energy_of_hills(run(1).hills, finer)
    numerical = np.gradient(np.tile(steep.values, 3), finer.spacings[0])[1200:2400]
    assert steep.gradients is not None
    np.testing.assert_allclose(steep.gradients[0], numerical, atol=3e-4 * np.abs(numerical).max())
    # What the grid of the run holds is what its hills sum to.
    on_grid = [run(1).bias.bias(np.array([s]))[0] for s in FINE.points(0)]
    np.testing.assert_allclose(-np.array(on_grid) * 1.25, surface.values, atol=3e-5 * np.ptp(surface.values))


def test_reweighted_frames_give_the_same_and_another_variable_too() -> None:
    made = run(2)
    offsets = reweighting_offset(made.hills, TEMPERATURE, FINE)
    bias = bias_of_frames(made.hills, made.frames[:, :1], made.counts)
    start = len(made.frames) // 10
    weights = frame_weights(bias[start:], offsets[made.counts[start:]], TEMPERATURE)
    surface = weighted_free_energy(made.frames[start:, :1], weights, COARSE, TEMPERATURE, 20)
    reference = exact(COARSE.points(0))
    # Eight seeds gave 0.08 to 0.11; unweighted frames are off by 1.4.
    assert deviation(surface.values / KT, reference) < 0.15
    unweighted = weighted_free_energy(made.frames[start:, :1], np.ones(len(weights)), COARSE, TEMPERATURE, 20)
    assert deviation(unweighted.values / KT, reference) > 0.5
    # c(t) matters: the bias alone weighs late frames too much, and c(t) makes frames of all times equal.
    third = len(weights) // 3
    parts = [weights[k * third : (k + 1) * third].mean() for k in range(3)]
    assert max(parts) / min(parts) < 1.3
    plain = frame_weights(bias[start:], 0.0, TEMPERATURE)
    assert plain[2 * third :].mean() / plain[:third].mean() > 1.5
    # <y^2> over the unbiased ensemble, from frames of the biased one.
    s = np.linspace(-np.pi, np.pi, 721)
    boltzmann = np.exp(-exact(s))
    square = np.trapezoid(boltzmann / (2.0 * (1.0 + 0.8 * np.cos(s))), s) / np.trapezoid(boltzmann, s)
    y2 = made.frames[start:, 1] ** 2
    # Euler-Maruyama widens y by 1/(1 - k dt/2), at most 4 %.
    assert float(weights @ y2 / weights.sum()) == pytest.approx(square, rel=0.06)


def test_error_bars_cover_the_error() -> None:
    """Over seeds, the deviation from quadrature in units of the error bar has the spread of a standard normal."""
    reference = exact(COARSE.points(0))
    scores = []
    for seed in range(3, 9):
        made = run(seed)
        start = len(made.frames) // 5
        offsets = reweighting_offset(made.hills, TEMPERATURE, COARSE)
        bias = bias_of_frames(made.hills, made.frames[start:, :1], made.counts[start:])
        weights = frame_weights(bias, offsets[made.counts[start:]], TEMPERATURE)
        surface = weighted_free_energy(made.frames[start:, :1], weights, COARSE, TEMPERATURE, 20)
        assert surface.errors is not None
        # The zero of both is their error-weighted mean over the well.
        well = reference < 3.0
        gap = (surface.values / KT - reference)[well]
        error = surface.errors[well] / KT
        gap -= np.average(gap, weights=error**-2)
        scores.append(np.sqrt(np.mean((gap / error) ** 2)))
        assert np.median(error) < 0.25
    assert 0.5 < np.mean(scores) < 1.6


def test_block_errors_are_those_of_independent_frames() -> None:
    """Frames without memory: the error of a bin of probability p is kT sqrt((1 - p) / (p m))."""
    rng = np.random.default_rng(1)
    m, trials = 4000, 60
    grid = Grid((PHI,), (-np.pi,), (np.pi,), (6,))
    p = np.array([0.02, 0.08, 0.15, 0.2, 0.25, 0.3])
    errors = []
    for _ in range(trials):
        values = grid.points(0)[rng.choice(6, size=m, p=p)][:, None]
        surface = weighted_free_energy(values, np.ones(m), grid, TEMPERATURE, 20)
        assert surface.errors is not None
        errors.append(surface.errors**2)
    expected = KT * np.sqrt((1.0 - p) / (p * m))
    np.testing.assert_allclose(np.sqrt(np.mean(errors, axis=0)), expected, rtol=0.12)


def test_errors_grow_with_the_memory_of_the_frames() -> None:
    rng = np.random.default_rng(2)
    grid = Grid((PHI,), (-np.pi,), (np.pi,), (4,))
    fresh = grid.points(0)[rng.integers(4, size=20_000)][:, None]
    repeated = np.repeat(fresh[:200], 100, axis=0)
    medians = [np.median(weighted_free_energy(x, np.ones(len(x)), grid, 300.0, 20).errors) for x in (fresh, repeated)]  # type: ignore[arg-type, call-overload]
    assert medians[1] / medians[0] == pytest.approx(10.0, rel=0.35)


def test_histogram_finds_known_probabilities_in_two_variables() -> None:
    """A torsion times a distance: the torsion closes on itself, bins at the limits of a distance are half as wide."""
    grid = Grid((PHI, FAR), (-np.pi, 2.0), (np.pi, 3.0), (8, 5))
    # No frame stands on the edge of a bin.
    middle = np.arange(1000) + 0.5
    s, r = np.meshgrid(-np.pi + 2.0 * np.pi * middle[:800] / 800, 1.5 + 2.0 * middle / 1000, indexing="ij")
    frames = np.stack([s.ravel(), r.ravel()], axis=1)
    weights = np.exp(np.cos(s) + 0.5 * r).ravel()
    surface = weighted_free_energy(frames, weights, grid, TEMPERATURE, 2)
    # Averages of the density over the bins, which are 45 degrees and 0.2 bohr wide, and 0.1 at both limits.
    turns = np.linspace(-0.5, 0.5, 401) * grid.spacings[0]
    angular = np.trapezoid(np.exp(np.cos(grid.points(0)[:, None] + turns)), dx=1.0 / 400.0, axis=1)
    edges = np.array([2.0, 2.1, 2.3, 2.5, 2.7, 2.9, 3.0])
    radial = np.diff(2.0 * np.exp(0.5 * edges)) / np.diff(edges)
    expected = -KT * np.log(angular[:, None] * radial)
    expected -= expected.min()
    np.testing.assert_allclose(surface.values, expected, atol=1e-4 * KT)
    seam = weighted_free_energy(frames + np.array([2.0 * np.pi, 0.0]), weights, grid, TEMPERATURE, 2)
    np.testing.assert_allclose(seam.values, surface.values, atol=1e-9 * KT)


def test_a_bin_that_was_never_seen_is_infinite() -> None:
    grid = Grid((PHI,), (-np.pi,), (np.pi,), (4,))
    surface = weighted_free_energy(np.zeros((50, 1)), np.ones(50), grid, TEMPERATURE, 5)
    assert np.isinf(surface.values).tolist() == [True, True, False, True]
    assert surface.errors is not None
    assert np.isinf(surface.errors).tolist() == [True, True, False, True]
    assert surface.values[2] == 0.0


def test_offset_in_its_limits() -> None:
    """A flat bias V counts fully, c = V; one narrow hill on a large circle hardly counts; no hill, no offset."""
    n = 400
    centres = np.linspace(-np.pi, np.pi, n, endpoint=False)[:, None]
    flat = Hills((PHI,), np.zeros(n), centres, np.full((n, 1), 0.3), np.full(n, KT / 50.0), 6.0)
    height = free_energy_of_hills(flat, FINE).values.mean() / -1.2
    offsets = reweighting_offset(flat, TEMPERATURE, FINE)
    assert offsets[0] == 0.0
    assert offsets[-1] == pytest.approx(height, rel=1e-6)
    assert (np.diff(offsets) > 0.0).all()
    one = Hills((PHI,), np.zeros(1), np.zeros((1, 1)), np.full((1, 1), 0.01), np.full(1, KT), 6.0)
    assert 0.0 < reweighting_offset(one, TEMPERATURE, Grid((PHI,), (-np.pi,), (np.pi,), (5000,)))[1] < 0.01 * KT
    # By quadrature, also without tempering, where the second integral is that of 1.
    some = Hills(
        (PHI,), np.zeros(3), np.array([[0.1], [0.5], [3.0]]), np.full((3, 1), 0.4), np.full(3, 2.0 * KT), np.inf
    )
    bias = some.at(FINE.points(0)[:, None]).sum(axis=1) / KT
    expected = KT * np.log(np.exp(bias).mean())
    assert reweighting_offset(some, TEMPERATURE, FINE)[-1] == pytest.approx(expected, rel=1e-9)


def test_bias_of_frames_counts_hills_in_place() -> None:
    made = run(1)
    values = np.array([[0.1], [0.1], [2.0]])
    counts = np.array([0, 1, 5])
    first, fifth = (made.hills.at(np.array([x]))[:k].sum() for x, k in ((0.1, 1), (2.0, 5)))
    np.testing.assert_allclose(bias_of_frames(made.hills, values, counts), [0.0, first, fifth], rtol=1e-13)


def test_stretched_hills_are_continuous_and_their_gradient_is_right() -> None:
    hill = Hills((FAR,), np.zeros(1), np.array([[5.0]]), np.array([[0.5]]), np.array([2.0]), 4.0, "stretched-gaussian")
    edge = 5.0 + 0.5 * np.sqrt(2.0 * 6.25)
    inside, outside, top = (float(hill.at(np.array([x]))[0]) for x in (edge - 1e-9, edge + 1e-9, 5.0))
    assert (inside, outside, top) == (pytest.approx(0.0, abs=1e-8), 0.0, pytest.approx(2.0, rel=1e-14))
    grid = Grid((FAR,), (3.0,), (7.0,), (4000,))
    surface = free_energy_of_hills(hill, grid)
    assert surface.gradients is not None
    numerical = np.gradient(surface.values, grid.spacings[0])
    near = np.abs(np.abs(grid.points(0) - 5.0) - (edge - 5.0)) < 2.0 * grid.spacings[0]
    np.testing.assert_allclose(surface.gradients[0][~near][1:-1], numerical[~near][1:-1], atol=1e-5)


@pytest.mark.parametrize(
    ("values", "weights", "blocks", "message"),
    [
        (np.zeros((9, 2)), np.ones(9), 3, r"shape \(9, 1\)"),
        (np.zeros((9, 1)), np.ones(9), 1, "from 2 to 9"),
        (np.zeros((9, 1)), np.ones(9), 10, "from 2 to 9"),
    ],
)
def test_impossible_histograms_are_refused(values: FloatArray, weights: FloatArray, blocks: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        weighted_free_energy(values, weights, COARSE, TEMPERATURE, blocks)


def test_grid_of_other_variables_is_refused() -> None:
    with pytest.raises(InputError, match="the variables phi, found r"):
        free_energy_of_hills(run(1).hills, Grid((FAR,), (1.0,), (2.0,), (5,)))

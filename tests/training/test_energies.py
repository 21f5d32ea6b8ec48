"""Energy-only training with gpytorch: the likelihood and its optimum, weights, jitter, parallel jobs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.linalg import cho_factor, cho_solve

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel, fit_weights
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FEATURE_KINDS, FeatureKind
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.local_frame import cip_local_frames
from fflux_py.training import TrainingConfig, train
from fflux_py.training.energies import fit_atom
from fflux_py.typing import FloatArray
from fflux_py.units import KCAL_MOL
from tests.support.synthetic import ISOLATED, label, methanol, sample

pytest.importorskip("gpytorch")


@cache
def _dataset(n: int = 40, temperature: float = 600.0, seed: int = 1) -> Dataset:
    return label(sample(n, temperature, seed=seed))


@cache
def _trained(kind: FeatureKind = "unit-vector") -> ForceField:
    return train(_dataset(), TrainingConfig(forces=False, features=kind, max_iterations=40))


def _log_likelihood(model: AtomicModel, log_theta: FloatArray, log_variance: float, log_noise: float) -> float:
    """Independent of gpytorch: the textbook formula on the centred energies (Rasmussen and Williams, eq. 2.30)."""
    covariance = replace(model.covariance, theta=np.exp(log_theta))
    matrix = np.exp(log_variance) * covariance.matrix(model.points, model.points)
    matrix[np.diag_indices_from(matrix)] += np.exp(log_noise)
    factor = cho_factor(matrix, lower=True)
    y = model.energies - model.energies.mean()
    log_det = 2.0 * np.log(np.diag(factor[0])).sum()
    return float(-0.5 * y @ cho_solve(factor, y) - 0.5 * log_det - 0.5 * len(y) * np.log(2.0 * np.pi))


@pytest.mark.parametrize("kind", FEATURE_KINDS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_optimum_of_the_marginal_likelihood(kind: FeatureKind, kernel: str) -> None:
    """No hyperparameter can be moved by 20 % with a gain worth speaking of, by our own formula of the likelihood."""
    dataset = _dataset()
    config = TrainingConfig(forces=False, features=kind, kernel=kernel, max_iterations=150)
    frame = cip_local_frames(methanol())[1]
    model = fit_atom(frame, dataset.positions, np.array(dataset.atomic_energies[:, 1]), config)
    assert model.jitter == 0.0
    at = (np.log(model.covariance.theta), np.log(model.variance), np.log(model.variance * model.noise))
    best = _log_likelihood(model, *at)
    gains = []
    for step in (0.2, -0.2):
        for h in range(len(at[0])):
            moved = at[0].copy()
            moved[h] += step
            gains.append(_log_likelihood(model, moved, at[1], at[2]) - best)
        gains.append(_log_likelihood(model, at[0], at[1] + step, at[2] + step) - best)
    assert max(gains) < 0.3
    assert min(gains) < -1e-3


def test_likelihood_of_a_known_process_finds_its_lengths() -> None:
    """Energies drawn from a Gaussian process with two active features: they, and no others, get short lengths."""
    from fflux_py.training.hyperparameters import maximise_likelihood

    rng = np.random.default_rng(4)
    x = rng.uniform(-1.0, 1.0, (150, 4))
    truth = Covariance(np.array([2.0, 0.5, 0.0, 0.0]), np.zeros(0, dtype=np.int64))
    matrix = truth.matrix(x, x) + 1e-8 * np.eye(len(x))
    y = 0.01 * np.linalg.cholesky(matrix) @ rng.standard_normal(len(x))
    start = Covariance(np.full(4, 0.2), np.zeros(0, dtype=np.int64))
    found = maximise_likelihood(start, x, y, 200)
    assert found.theta[0] == pytest.approx(2.0, rel=0.35)
    assert found.theta[1] == pytest.approx(0.5, rel=0.35)
    assert max(found.theta[2:]) < 0.02
    assert found.variance**0.5 == pytest.approx(0.01, rel=0.8)


def test_weights_solve_the_centred_system() -> None:
    for model in _trained().atoms:
        matrix = model.covariance.matrix(model.points, model.points)
        matrix[np.diag_indices_from(matrix)] += model.noise
        np.testing.assert_allclose(matrix @ model.weights.w_1, 1.0, atol=1e-8)
        np.testing.assert_allclose(matrix @ model.weights.w_y, model.energies - model.energies.mean(), atol=1e-10)


@pytest.mark.parametrize("kind", FEATURE_KINDS)
def test_unseen_geometries(kind: FeatureKind) -> None:
    """The error on unseen geometries is a small part of the spread of the energies."""
    unseen = _dataset(60, 600.0, 9)
    config = TrainingConfig(forces=False, features=kind, max_iterations=25)
    forcefield = train(_dataset(120), config)
    error = np.abs(forcefield.atomic_energies(unseen.positions) - unseen.atomic_energies).mean(axis=0)
    assert (error < 0.6 * unseen.atomic_energies.std(axis=0)).all()
    assert error.mean() * KCAL_MOL < 0.5


def test_shift_of_the_energies_does_not_move_the_hyperparameters() -> None:
    dataset = _dataset()
    frame = cip_local_frames(methanol())[0]
    config = TrainingConfig(forces=False, max_iterations=30)
    energies = np.array(dataset.atomic_energies[:, 0])
    a = fit_atom(frame, dataset.positions, energies, config)
    b = fit_atom(frame, dataset.positions, energies + 30.0, config)
    np.testing.assert_allclose(b.covariance.theta, a.covariance.theta, rtol=0.05)


def test_jitter_is_reported() -> None:
    """A kernel matrix of doubled points is singular: some jitter is needed, and said."""
    x = np.repeat(np.linspace(0.0, 1.0, 6)[:, None], 2, axis=0)
    covariance = Covariance(np.array([0.5]), np.zeros(0, dtype=np.int64))
    y = np.sin(x[:, 0])
    w_y, _, jitter = fit_weights(covariance, x, y, 0.0)
    assert 0.0 < jitter <= 1e-4
    np.testing.assert_allclose(covariance.matrix(x, x) @ w_y + y.mean(), y, atol=1e-4)
    assert fit_weights(covariance, x[::2], y[::2], 1e-10)[2] == 0.0


@pytest.mark.slow
def test_parallel_jobs_give_the_same_model() -> None:
    config = TrainingConfig(forces=False, max_iterations=3)
    one = train(_dataset(), config)
    two = train(_dataset(), replace(config, workers=2))
    for a, b in zip(one.atoms, two.atoms, strict=True):
        np.testing.assert_allclose(b.covariance.theta, a.covariance.theta, rtol=1e-6)


def test_progress_counts_the_atoms() -> None:
    calls: list[tuple[int, int]] = []
    train(_dataset(), TrainingConfig(forces=False, max_iterations=2), progress=lambda *a: calls.append(a))
    assert calls == [(k, 6) for k in range(1, 7)]


def test_what_cannot_be_trained_is_said() -> None:
    with pytest.raises(InputError, match="isolated-atom energies"):
        train(replace(_dataset(), isolated_energies={}), TrainingConfig(forces=False, prior_mean="MF5"))
    nothing = replace(_dataset(), atomic_energies=np.full((40, 6), np.nan))
    with pytest.raises(InputError, match="with atomic energies"):
        train(nothing, TrainingConfig(forces=False))
    five = train(_dataset(), TrainingConfig(forces=False, prior_mean="MF5", max_iterations=2))
    assert [m.mean for m in five.atoms] == [ISOLATED[s] for s in methanol().symbols]

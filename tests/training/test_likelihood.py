"""The objectives of the search for hyperparameters against gpytorch and finite differences, and the search itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fflux_py.errors import InputError
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureSet, features
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.molecules.local_frame import cip_local_frames
from fflux_py.training import TrainingConfig
from fflux_py.training._likelihood import Objective, Workspace, holdout_score, log_marginal_likelihood
from fflux_py.training._maximise import maximise
from fflux_py.training.energies import fit_atoms, starting_theta
from fflux_py.typing import FloatArray
from tests.support.synthetic import label, sample

gpytorch = pytest.importorskip("gpytorch")

_NONE = np.zeros(0, dtype=np.int64)


def _objective(name: str, kernel: str) -> Any:
    """The objective as a function of points, prior variance and noise, and a place to look at it."""
    rng = np.random.default_rng(0)
    z, y, noise = 0.5 * rng.normal(size=(25, 3)), rng.normal(size=25), rng.uniform(0.01, 0.1, 25)
    unit, held = Covariance(np.ones(3), _NONE, KERNELS[kernel]), np.arange(25) % 5 == 4

    def evaluate(z: FloatArray, variance: float, noise: FloatArray) -> Objective:
        if name == "likelihood":
            return log_marginal_likelihood(unit, z, y, variance, noise, Workspace())
        return holdout_score(unit, z, y, held, noise, Workspace())

    return evaluate, z, noise, (unit, y, held)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["likelihood", "holdout"])
def test_derivatives_by_finite_differences(name: str, kernel: str) -> None:
    evaluate, z, noise, _ = _objective(name, kernel)
    at, step = evaluate(z, 1.7, noise), 1e-5
    for i, h in ((0, 0), (4, 1), (13, 2), (24, 0)):
        shift = np.zeros_like(z)
        shift[i, h] = step
        numeric = (evaluate(z + shift, 1.7, noise).value - evaluate(z - shift, 1.7, noise).value) / (2.0 * step)
        assert at.by_points[i, h] == pytest.approx(numeric, rel=1e-6, abs=1e-6)
    for i in (0, 4, 13):
        shift = step * np.eye(25)[i]
        numeric = (evaluate(z, 1.7, noise + shift).value - evaluate(z, 1.7, noise - shift).value) / (2.0 * step)
        assert at.by_noise[i] == pytest.approx(numeric, rel=1e-5, abs=1e-6)
    numeric = (evaluate(z, 1.7 + step, noise).value - evaluate(z, 1.7 - step, noise).value) / (2.0 * step)
    assert at.by_variance == pytest.approx(numeric, rel=1e-6, abs=1e-8)


def test_holdout_score_is_the_error_of_unseen_points() -> None:
    evaluate, z, noise, (unit, y, held) = _objective("holdout", "matern52")
    fitted = ~held
    matrix = unit.matrix(z[fitted], z[fitted]) + np.diag(noise[fitted])
    error = y[held] - unit.matrix(z[held], z[fitted]) @ np.linalg.solve(matrix, y[fitted])
    expected = -held.sum() * np.log(np.sqrt(np.mean(error**2)))
    assert evaluate(z, 1.0, noise).value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("held_out", [False, True])
def test_batch_of_processes_against_gpytorch(kernel: str, held_out: bool) -> None:
    """Our factorisation inside gpytorch's batched model equals gpytorch's own likelihood, and its gradients."""
    from fflux_py.training._exact_gp import AtomicProcesses

    rng = np.random.default_rng(1)
    points, energies = rng.normal(size=(2, 30, 4)), rng.normal(size=(2, 30))
    covariance = Covariance(np.ones(4), np.array([3]), KERNELS[kernel])
    held = np.arange(30) % 5 == 0 if held_out else None
    known = rng.uniform(0.0, 0.1, (2, 30))
    model = AtomicProcesses(covariance, rng.uniform(1.0, 2.0, (2, 4)), points, energies, known, held)
    at = model.parameters_of_rows
    values, gradients = model.objective(at, np.array([0, 1]))
    alone, gradient_alone = model.objective(at, np.array([1]))
    np.testing.assert_array_equal(alone, values[1:])
    np.testing.assert_array_equal(gradient_alone, gradients[1:])
    if held_out:
        for k in range(at.shape[1]):
            shift = 1e-5 * np.eye(at.shape[1])[k]
            high, low = (model.objective(at + s, np.array([0, 1]))[0] for s in (shift, -shift))
            np.testing.assert_allclose(gradients[:, k], (high - low) / 2e-5, rtol=1e-5, atol=1e-7)
        return
    model.parameters_of_rows = at
    model.train()
    likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    with gpytorch.settings.fast_computations(covar_root_decomposition=False, log_prob=False, solves=False):
        oracle = 30 * likelihood(model(*model.train_inputs), model.train_targets)
        model.zero_grad()
        oracle.sum().backward()
    np.testing.assert_allclose(values, oracle.detach().numpy(), rtol=1e-12)
    slots = (
        model.covar_module.base_kernel.raw_lengthscale,
        model.covar_module.raw_outputscale,
        model.likelihood.second_noise_covar.raw_noise,
    )
    expected = np.hstack([slot.grad.numpy().reshape(2, -1) for slot in slots])
    np.testing.assert_allclose(gradients, expected, rtol=1e-9, atol=1e-10)


def test_search_of_independent_functions() -> None:
    """Rosenbrock's valley, a quadratic, and a logarithm that ends at a wall: each finds its own top."""

    def evaluate(x: FloatArray, rows: np.ndarray) -> tuple[FloatArray, FloatArray]:
        values, gradients = [], []
        for row in rows:
            a, b = x[row]
            if row == 0:
                values.append(-((1.0 - a) ** 2) - 100.0 * (b - a * a) ** 2)
                gradients.append([2.0 * (1.0 - a) + 400.0 * a * (b - a * a), -200.0 * (b - a * a)])
            elif row == 1:
                values.append(5.0 - (a - 3.0) ** 2 - 4.0 * (b + 1.0) ** 2)
                gradients.append([-2.0 * (a - 3.0), -8.0 * (b + 1.0)])
            else:
                inside = 1.0 - a * a - b * b
                values.append(np.log(inside) + a if inside > 0.0 else -np.inf)
                gradients.append([-2.0 * a / inside + 1.0, -2.0 * b / inside] if inside > 0.0 else [0.0, 0.0])
        return np.array(values), np.array(gradients)

    start = np.array([[-1.2, 1.0], [0.0, 0.0], [-0.9, 0.1]])
    ended: list[int] = []
    found = maximise(evaluate, start, 1e-12, 200, ended.append)
    np.testing.assert_allclose(found.parameters[0], [1.0, 1.0], atol=1e-4)
    np.testing.assert_allclose(found.parameters[1], [3.0, -1.0], atol=1e-5)
    np.testing.assert_allclose(found.parameters[2], [np.sqrt(2.0) - 1.0, 0.0], atol=1e-5)
    assert found.evaluations.max() < 100
    assert ended[-1] == 3
    assert ended == sorted(ended)
    few = maximise(evaluate, start, 1e-12, 7)
    assert (few.evaluations <= 7).all()


def _data() -> tuple[FloatArray, FloatArray, FloatArray]:
    dataset = label(sample(60, 600.0, seed=1))
    return dataset.positions, np.array(dataset.atomic_energies), np.array(dataset.atomic_errors)


def test_atoms_side_by_side_are_as_one_by_one() -> None:
    positions, energies, _ = _data()
    frames = cip_local_frames(label(positions[:2]).molecule)
    config = TrainingConfig(forces=False, features="spherical", max_iterations=25)
    together = fit_atoms(frames, positions, energies, config)
    for a, frame in enumerate(frames):
        (alone,) = fit_atoms([frame], positions, energies[:, a : a + 1], config)
        np.testing.assert_array_equal(alone.covariance.theta, together[a].covariance.theta)
        np.testing.assert_array_equal(alone.weights.w_y, together[a].weights.w_y)


def test_known_noise_of_single_labels_is_believed() -> None:
    """A third of the labels is spoilt.  Told so, the fit is as good as without them; not told, it is much worse."""
    dataset, unseen = label(sample(150, 300.0, seed=1)), label(sample(40, 300.0, seed=7))
    positions, energies = dataset.positions, np.array(dataset.atomic_energies[:, 0])
    frame = cip_local_frames(dataset.molecule)[0]
    rng = np.random.default_rng(2)
    errors = np.where(np.arange(150) % 3 == 0, 2.0 * energies.std(), 0.0)
    spoilt = energies + errors * rng.standard_normal(150)
    config = TrainingConfig(forces=False, max_iterations=60)

    def rmse(chosen: np.ndarray, known: FloatArray | None) -> float:
        stated = None if known is None else known[chosen, None]
        (model,) = fit_atoms([frame], positions[chosen], spoilt[chosen, None], config, stated)
        return float(np.sqrt(np.mean((model.energy(unseen.positions) - unseen.atomic_energies[:, 0]) ** 2)))

    everything, good = np.full(150, True), errors == 0.0
    told, untold = rmse(everything, errors), rmse(everything, None)
    assert told < 1.2 * rmse(good, None)
    assert told < 0.6 * untold
    # Zero and not-a-number both mean that nothing is known.
    assert rmse(everything, np.full(150, np.nan)) == rmse(everything, np.zeros(150)) == untold


def test_holdout_criterion_finds_a_lower_error() -> None:
    positions, energies, _ = _data()
    frame = cip_local_frames(label(positions[:2]).molecule)[0]
    config = TrainingConfig(forces=False, features="spherical", criterion="holdout", max_iterations=60)
    (model,) = fit_atoms([frame], positions, energies[:, :1], config)
    x, y = features(positions, frame, "spherical"), energies[:, 0] - energies[:, 0].mean()
    held = np.zeros(60, dtype=bool)
    held[np.random.default_rng(0).permutation(60)[::5]] = True

    def error(covariance: Covariance, noise: float) -> float:
        matrix = covariance.matrix(x[~held], x[~held]) + noise * np.eye(48)
        left = y[held] - covariance.matrix(x[held], x[~held]) @ np.linalg.solve(matrix, y[~held])
        return float(np.sqrt(np.mean(left**2)))

    azimuths = FeatureSet("spherical", 6).azimuths
    start = Covariance(starting_theta(x, azimuths), azimuths)
    assert error(model.covariance, model.noise) < 0.5 * error(start, 1e-3)
    assert 0.0 < model.variance < np.inf
    likeliest = y @ np.linalg.solve(model.covariance.matrix(x, x) + model.noise * np.eye(60), y) / 60
    assert model.variance == pytest.approx(likeliest, rel=1e-3)


def test_unknown_criterion_is_refused() -> None:
    with pytest.raises(InputError, match="likelihood, holdout"):
        TrainingConfig(criterion="rmse")  # type: ignore[arg-type]

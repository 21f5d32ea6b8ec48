"""The joint fit of energies and forces: its covariances, its solution, and what it must not depend on."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from _synthetic import ISOLATED, MethanolPotential, label, methanol, sample
from scipy.stats import multivariate_normal

from fflux_py import model_file
from fflux_py.covariance import Covariance, Shape
from fflux_py.dataset import Dataset
from fflux_py.errors import ConvergenceError, InputError
from fflux_py.forcefield import ForceField
from fflux_py.local_frame import FeatureKind, cip_frames, features
from fflux_py.potential import FloatArray
from fflux_py.training import TrainingConfig, joint, train
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

LOG_FACTORS = np.array([-4.0, -4.5, -5.0, -5.5, -6.0])
NOISES = (joint.NOISE_ATOMIC, joint.NOISE_TOTAL, joint.NOISE_FORCE)
KINDS = [
    (cast(FeatureKind, kind), cast(Shape, shape))
    for kind in ("unit-vector", "spherical")
    for shape in ("squared-exponential", "matern52")
]


def _data(dataset: Dataset) -> joint.JointData:
    return joint.JointData(dataset.positions, dataset.energies, dataset.forces, dataset.atomic_energies)


def _kernels(
    positions: FloatArray,
    kind: FeatureKind = "unit-vector",
    shape: Shape = "squared-exponential",
    log_factors: FloatArray = LOG_FACTORS,
) -> list[Covariance]:
    spreads = joint.feature_variances(positions, cip_frames(methanol()), kind)
    return joint.class_covariances(spreads, kind, log_factors, shape, "periodic")


@cache
def _dataset(n: int = 30, temperature: float = 600.0, seed: int = 1) -> Dataset:
    return label(sample(n, temperature, seed=seed))


@cache
def _trained(prior_mean: str = "MF2") -> ForceField:
    return train(_dataset(), TrainingConfig(prior_mean=prior_mean, max_iterations=3, subset=12))


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_covariances_are_derivatives_of_the_energies_covariance(kind: FeatureKind, shape: Shape) -> None:
    """cov(F, E') and cov(F, F') against finite differences of cov(E, E') by the positions: sign, factor, order."""
    data = _data(_dataset(3))
    frames = cip_frames(methanol())
    kernels = _kernels(_dataset().positions, kind, shape)
    variances = np.linspace(0.5, 2.0, 6)
    lower = joint.covariance_matrix(data, joint.local_features(data.positions, frames, kind), kernels, variances)
    full = np.tril(lower) + np.tril(lower, -1).T
    totals = 3 * 6

    def total_covariance(x: FloatArray, y: FloatArray) -> float:
        value = 0.0
        for frame, kernel, variance in zip(frames, kernels, variances, strict=True):
            fx, fy = features(x[None], frame, kind), features(y[None], frame, kind)
            value += variance * float(kernel.matrix(fx, fy)[0, 0])
        return value

    h = 4e-4
    step = np.zeros((18, 6, 3))
    for c in range(18):
        step[c, c // 3, c % 3] = h
    for i, j in ((0, 1), (2, 1), (1, 2)):
        x, y = data.positions[i], data.positions[j]
        assert full[totals + i, totals + j] == pytest.approx(total_covariance(x, y), rel=1e-12)
        for c in (0, 4, 11, 17):
            numeric = -(total_covariance(x + step[c], y) - total_covariance(x - step[c], y)) / (2 * h)
            assert full[totals + 3 + 18 * i + c, totals + j] == pytest.approx(numeric, rel=1e-5, abs=1e-7)
            for d in (1, 5, 9):
                corners = [total_covariance(x + p * step[c], y + q * step[d]) * p * q for p in (1, -1) for q in (1, -1)]
                found = full[totals + 3 + 18 * i + c, totals + 3 + 18 * j + d]
                assert found == pytest.approx(sum(corners) / (4 * h * h), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_covariance_is_positive_definite(kind: FeatureKind, shape: Shape) -> None:
    data = _data(_dataset(8))
    local = joint.local_features(data.positions, cip_frames(methanol()), kind)
    lower = joint.covariance_matrix(data, local, _kernels(data.positions, kind, shape), np.ones(6))
    full = np.tril(lower) + np.tril(lower, -1).T
    assert np.linalg.eigvalsh(full).min() > -1e-9 * np.trace(full)


def test_likelihood_against_scipy() -> None:
    data = _data(_dataset(5))
    local = joint.local_features(data.positions, cip_frames(methanol()), "unit-vector")
    kernels = _kernels(data.positions)
    variances = np.full(6, 0.01)
    noises = (1e-3, 1e-3, 1e-2)
    matrix = joint.covariance_matrix(data, local, kernels, variances)
    joint.add_noise(matrix, data, noises)
    full = np.tril(matrix) + np.tril(matrix, -1).T
    y = data.right_hand_sides()[:, 0]
    expected = multivariate_normal(np.zeros(len(y)), full).logpdf(y)
    found = joint.log_likelihood(data, local, kernels, variances, noises)
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_solution_predicts_its_own_training_data() -> None:
    """Within a few of the noises that were assumed for energies and forces."""
    dataset, forcefield = _dataset(), _trained()
    energies, forces = forcefield.compute(dataset.positions)
    assert forces is not None
    assert np.abs(energies - dataset.energies).max() < 5 * joint.NOISE_TOTAL
    assert np.abs(forces - dataset.forces).max() < 6 * joint.NOISE_FORCE
    assert np.abs(forcefield.atomic_energies(dataset.positions) - dataset.atomic_energies).mean() < joint.NOISE_ATOMIC


def test_forces_in_the_fit_beat_energies_alone() -> None:
    """On geometries that no fit has seen, at equal training geometries."""
    unseen = _dataset(40, 600.0, 9)
    alone = train(_dataset(), TrainingConfig(forces=False, max_iterations=20)) if _has_torch() else None
    energies, forces = _trained().compute(unseen.positions)
    assert forces is not None
    joint_error = np.abs(forces - unseen.forces).mean() * KCAL_MOL_ANGSTROM
    assert np.abs(energies - unseen.energies).mean() * KCAL_MOL < 0.5
    assert joint_error < 3.0
    if alone is not None:
        plain = alone.compute(unseen.positions)[1]
        assert plain is not None
        assert np.abs(plain - unseen.forces).mean() * KCAL_MOL_ANGSTROM > 3.0 * joint_error


def _has_torch() -> bool:
    try:
        import gpytorch  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("name", ["MF1", "MF3", "MF4", "MF5", "max", "constant:-20.0", "gls"])
def test_prior_mean_after_training_equals_training_with_it(name: str) -> None:
    after = _trained().with_prior_mean(name)
    during = _trained(name)
    positions = sample(4, 1000.0, seed=5)
    assert [m.mean for m in after.atoms] == [m.mean for m in during.atoms]
    assert np.abs(after.atomic_energies(positions) - during.atomic_energies(positions)).max() < 1e-10
    back = after.with_prior_mean("MF2")
    assert np.abs(back.atomic_energies(positions) - _trained().atomic_energies(positions)).max() < 1e-10


def test_coverage_is_one_inside_and_zero_far_away() -> None:
    """s = dE_A/dmu_A at fixed data, complement: inside, a shift of all means changes nothing."""
    forcefield = _trained()
    inside = _dataset().positions[:5]
    shifted = forcefield.with_prior_mean("max")
    change = np.abs(shifted.atomic_energies(inside) - forcefield.atomic_energies(inside)).max()
    assert change < 0.05 * max(m.mean - o.mean for m, o in zip(shifted.atoms, forcefield.atoms, strict=True))
    far = methanol().positions * 6.0
    assert forcefield.atomic_energies(far) == pytest.approx(forcefield.atomic_energies(far), abs=0.0)
    np.testing.assert_allclose(forcefield.coverage(inside), 1.0, atol=0.05)


def test_geometries_without_partition_enter_with_energy_and_forces() -> None:
    dataset = _dataset()
    atomic = dataset.atomic_energies.copy()
    atomic[::2] = np.nan
    half = replace(dataset, atomic_energies=atomic)
    unseen = _dataset(40, 600.0, 9)
    forcefield = train(half, TrainingConfig(max_iterations=3, subset=12))
    _, forces = forcefield.compute(unseen.positions)
    assert forces is not None
    assert np.abs(forces - unseen.forces).mean() * KCAL_MOL_ANGSTROM < 3.0
    # atomic energies stay meaningful: half the labels pin the partition
    assert np.abs(forcefield.atomic_energies(unseen.positions) - unseen.atomic_energies).mean() * KCAL_MOL < 2.0
    none = replace(dataset, atomic_energies=np.full_like(atomic, np.nan))
    totals_only = train(none, TrainingConfig(max_iterations=3, subset=12))
    assert np.abs(totals_only.compute(unseen.positions)[0] - unseen.energies).mean() * KCAL_MOL < 0.5


def test_constant_shift_of_all_energies_changes_nothing_but_the_mean() -> None:
    """Hyperparameters and weights see centred data only."""
    dataset = _dataset()
    shift = 3.0
    moved = replace(dataset, energies=dataset.energies + 6 * shift, atomic_energies=dataset.atomic_energies + shift)
    config = TrainingConfig(max_iterations=2, subset=10)
    a, b = train(dataset, config), train(moved, config)
    positions = sample(3, 600.0, seed=8)
    np.testing.assert_allclose(b.atoms[0].covariance.theta, a.atoms[0].covariance.theta, rtol=1e-3)
    assert np.abs(b.atomic_energies(positions) - a.atomic_energies(positions) - shift).max() < 1e-5


def test_search_improves_the_likelihood() -> None:
    data = _data(_dataset(12))
    frames = cip_frames(methanol())
    local = joint.local_features(data.positions, frames, "unit-vector")

    def likelihood(factors: FloatArray, variance: float) -> float:
        kernels = _kernels(data.positions, log_factors=factors)
        return joint.log_likelihood(data, local, kernels, np.full(6, variance), NOISES)

    settings = (frames, "unit-vector", "squared-exponential", "periodic", NOISES)
    one = joint.class_length_scales(data, *settings, max_iterations=1)
    five = joint.class_length_scales(data, *settings, max_iterations=5)
    assert likelihood(*five) > likelihood(*one) > -np.inf


def test_not_a_number_is_an_error_and_not_a_model() -> None:
    data = _data(_dataset(3))
    local = joint.local_features(data.positions, cip_frames(methanol()), "unit-vector")
    kernels = _kernels(data.positions)
    with pytest.raises(ConvergenceError, match="positive definite"):
        joint.solve(data, local, kernels, -np.ones(6), NOISES)


def test_model_file_round_trip(tmp_path: Path) -> None:
    forcefield = _trained("MF5")
    assert {s: ISOLATED[s] for s in ("C", "H", "O")} == dict(forcefield.isolated_energies)
    model_file.save(forcefield, tmp_path / "model.npz")
    loaded = model_file.load(tmp_path / "model.npz")
    positions = sample(3, 600.0, seed=8)
    assert np.array_equal(loaded.compute(positions)[0], forcefield.compute(positions)[0])
    assert loaded.with_prior_mean("max").atoms[0].mean == forcefield.with_prior_mean("max").atoms[0].mean


def test_optimum_is_that_of_the_potential() -> None:
    """The minimum of the fitted surface, by plain gradient descent on it, has vanishing true forces."""
    forcefield, potential = _trained(), MethanolPotential()
    x = methanol().positions.copy()
    for _ in range(400):
        x = x + 0.5 * forcefield.energy_and_forces(x)[1]
    assert np.abs(forcefield.energy_and_forces(x)[1]).max() < 1e-4
    assert np.abs(potential.energy_and_forces(x)[1]).max() * KCAL_MOL_ANGSTROM < 3.0


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="n_train"):
        TrainingConfig(n_train=0)
    with pytest.raises(InputError, match="prior mean"):
        TrainingConfig(prior_mean="MF6")
    with pytest.raises(InputError, match="rbf-cyclic"):
        TrainingConfig(azimuth="rbf-cyclic")
    with pytest.raises(InputError, match="at least 31 geometries marked 'train'"):
        train(_dataset(), TrainingConfig(n_train=31))

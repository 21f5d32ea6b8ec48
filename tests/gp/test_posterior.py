"""Predictive variances of joint fits: the dense Gaussian process, bounds, limits and invariances."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import FeatureKind
from fflux_py.gp.joint_covariance import JointData, JointModel, add_noise, covariance_matrix
from fflux_py.gp.posterior import NEIGHBOURS, Posterior
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train
from fflux_py.training.config import SymmetryChoice
from fflux_py.typing import FloatArray
from tests.support.synthetic import fitted, label, methanol, sample

N_TRAIN = 6
CASES: list[tuple[SymmetryChoice, FeatureKind, str]] = [
    ("none", "unit-vector", "squared-exponential"),
    ("none", "spherical", "matern52"),
    ("full", "unit-vector", "squared-exponential"),  # a factorised rotor and the mirror image
    ("full", "unit-vector", "matern52"),  # the rotor's permutations are listed
    ("full", "unit-vector", "rational-quadratic"),
    ("none", "spherical", "rational-quadratic"),
]


@cache
def _dataset() -> Dataset:
    """Six geometries, two of them without atomic energies."""
    dataset = label(sample(N_TRAIN, 1000.0))
    atomic, errors = dataset.atomic_energies.copy(), dataset.atomic_errors.copy()
    atomic[[1, 4]], errors[[1, 4]] = np.nan, np.nan
    return replace(dataset, atomic_energies=atomic, atomic_errors=errors)


@cache
def _trained(
    symmetry: SymmetryChoice = "full",
    kind: FeatureKind = "unit-vector",
    kernel: str = "squared-exponential",
) -> ForceField:
    config = TrainingConfig(symmetry=symmetry, features=kind, kernel=kernel, max_iterations=1, subset=3)
    return train(_dataset(), config)


def _posterior(forcefield: ForceField) -> Posterior:
    assert forcefield.joint is not None
    return Posterior(forcefield.joint, forcefield.atoms)


def _dense(forcefield: ForceField, geometry: FloatArray) -> tuple[float, FloatArray]:
    """Total and atomic variances from the whole covariance, in which the geometry stands as one that is observed."""
    joint, covariance = forcefield.joint, forcefield.atoms[0].covariance
    assert joint is not None
    n, count = joint.positions.shape[1], len(joint.positions)
    model = JointModel(
        tuple(m.frame for m in forcefield.atoms), forcefield.atoms[0].feature_kind, covariance.kernel,
        covariance.azimuth, joint.operations, joint.noises,
    )  # fmt: skip

    def data(positions: FloatArray, partitioned: np.ndarray) -> JointData:
        atomic = np.where(partitioned[:, None], np.zeros((len(positions), n)), np.nan)
        return JointData(positions, np.zeros(len(positions)), np.zeros_like(positions), atomic, 0.0 * atomic)

    kernels = [m.covariance for m in forcefield.atoms]
    both = data(np.concatenate([joint.positions, geometry[None]]), np.append(joint.partitioned, True))
    lower = covariance_matrix(both, model, kernels, float(joint.variances[0]))
    whole = np.tril(lower) + np.tril(lower, -1).T
    # The new geometry's atomic energies, and the places of all old observations.
    n_old = int(joint.partitioned.sum())
    own = np.arange(n) * (n_old + 1) + n_old
    places = np.setdiff1d(np.arange(len(whole) - 3 * n), [*own, n * (n_old + 1) + count])
    noisy = whole[np.ix_(places, places)].copy()
    add_noise(noisy, data(joint.positions, joint.partitioned), joint.noises)
    cross = whole[np.ix_(own, places)]
    posterior = whole[np.ix_(own, own)] - cross @ np.linalg.solve(noisy, cross.T)
    return float(posterior.sum()), np.diag(posterior)


@pytest.mark.parametrize(("symmetry", "kind", "kernel"), CASES)
def test_all_neighbours_give_the_dense_posterior(symmetry: SymmetryChoice, kind: FeatureKind, kernel: str) -> None:
    forcefield = _trained(symmetry, kind, kernel)
    for geometry in (*sample(2, 1000.0, seed=7), _dataset().positions[2]):
        total, atomic = _posterior(forcefield).variances(geometry[None], N_TRAIN)
        dense_total, dense_atomic = _dense(forcefield, geometry)
        assert forcefield.joint is not None
        scale = forcefield.joint.variances[0]
        np.testing.assert_allclose(total[0], dense_total, rtol=1e-6, atol=1e-10 * scale)
        np.testing.assert_allclose(atomic[0], dense_atomic, rtol=1e-6, atol=1e-10 * scale)


@pytest.mark.core
def test_forces_are_taken_notice_of_as_a_dense_process_with_numerical_forces_does() -> None:
    """The oracle knows no Jacobian: forces are finite differences of energies, the atoms' prior variances differ."""
    from fflux_py.gp.features import features
    from tests.gp.test_joint_fit import VARIANCES, _dataset, _displaced, _operators, _solved

    forcefield, covariance, _, operators = _solved()
    positions = sample(1, 1000.0, seed=6)
    values, _ = _operators(1)
    rows = []
    for model, operator, variance in zip(forcefield.atoms, operators, VARIANCES, strict=True):
        x = features(_displaced(positions), model.frame, model.feature_kind)
        y = features(_displaced(_dataset().positions), model.frame, model.feature_kind)
        rows.append((variance * values @ model.covariance.matrix(x, y) @ operator.T)[0])
    cross = np.array(rows)
    expected = np.diag(VARIANCES) - cross @ np.linalg.solve(covariance, cross.T)
    total, atomic = _posterior(forcefield).variances(positions, 3)
    np.testing.assert_allclose(atomic[0], np.diag(expected), rtol=1e-3)
    np.testing.assert_allclose(total[0], expected.sum(), rtol=1e-3)
    # Without the forces the dense process knows less.
    energies = slice(0, len(covariance) - 3 * 18)
    less = cross[:, energies] @ np.linalg.solve(covariance[energies, energies], cross[:, energies].T)
    assert (np.diag(VARIANCES) - less).sum() > 1.1 * total[0]


@pytest.mark.parametrize("symmetry", ["none", "full"])
def test_more_neighbours_never_know_less(symmetry: SymmetryChoice) -> None:
    """Every bound holds, and the last is the whole posterior."""
    posterior = _posterior(_trained(symmetry))
    for geometry in sample(3, 1000.0, seed=7):
        variances = [posterior.variances(geometry[None], m) for m in range(1, N_TRAIN + 1)]
        totals, atomic = np.array([t[0] for t, _ in variances]), np.array([a[0] for _, a in variances])
        assert (np.diff(totals) <= 1e-9 * totals[0]).all()
        assert (np.diff(atomic, axis=0) <= 1e-9 * atomic[0]).all()
        assert 0.0 < totals[-1] < 0.9 * totals[0]
        more = posterior.variances(geometry[None], N_TRAIN + 5)
        np.testing.assert_array_equal(more[0][0], totals[-1])


def test_an_observed_energy_is_known_to_its_noise() -> None:
    forcefield = _trained()
    joint, posterior = forcefield.joint, _posterior(forcefield)
    assert joint is not None
    rounding = 4e-15 * joint.variances.sum()  # of the prior variance, a part of 3e-8 of which is left
    for k, geometry in enumerate(joint.positions):
        total, atomic = posterior.variances(geometry[None], 1)
        assert total[0] <= joint.noises[1] ** 2 + rounding
        if joint.partitioned[k]:
            assert (atomic[0] <= joint.noises[0] ** 2).all()


def test_far_from_all_data_the_variance_is_the_prior_one() -> None:
    """There no training geometry says anything; with symmetry an energy is the sum over the atom's frames."""
    far = methanol().positions * 8.0
    for symmetry in ("none", "full"):
        forcefield = _trained(symmetry)
        assert forcefield.joint is not None
        thetas = [replace(m.covariance, theta=50.0 * m.covariance.theta) for m in forcefield.atoms]
        atoms = [replace(m, covariance=theta) for m, theta in zip(forcefield.atoms, thetas, strict=True)]
        total, atomic = Posterior(forcefield.joint, atoms).variances(far[None], 4)
        frames = np.bincount([m.frame.atom for m in atoms])
        assert (atomic[0] >= 0.999 * frames * forcefield.joint.variances[0]).all()
        if symmetry == "none":
            np.testing.assert_allclose(atomic[0], forcefield.joint.variances, rtol=1e-6)
            np.testing.assert_allclose(total[0], forcefield.joint.variances.sum(), rtol=1e-6)


def test_turned_moved_and_permuted_geometries_have_the_same_deviations() -> None:
    forcefield = _trained()
    assert forcefield.joint is not None
    geometry = sample(1, 1000.0, seed=8)[0]
    total, atomic = forcefield.predictive_deviations(geometry)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    turned = forcefield.predictive_deviations(geometry @ turn.T + 3.0)
    np.testing.assert_allclose(turned[0], total, rtol=1e-6)
    np.testing.assert_allclose(turned[1], atomic, rtol=1e-6)
    operations = list(forcefield.joint.operations.all_operations())
    assert len(operations) == 6
    for permutation, mirror in operations:
        image = forcefield.joint.operations.apply(geometry, permutation, mirror)
        of_image = forcefield.predictive_deviations(image)
        np.testing.assert_allclose(of_image[0], total, rtol=1e-6)
        np.testing.assert_allclose(of_image[1], atomic[permutation], rtol=1e-6)


def test_the_nearest_geometry_is_the_geometry_itself_or_its_image() -> None:
    forcefield = _trained()
    assert forcefield.joint is not None
    posterior, operations = _posterior(forcefield), forcefield.joint.operations
    for k, geometry in enumerate(forcefield.joint.positions):
        for permutation, mirror in operations.all_operations():
            image = operations.apply(geometry, permutation, mirror)
            assert posterior.nearest(image[None], 1)[0] == k


def test_calibration_multiplies_and_is_stored(tmp_path: Path) -> None:
    plain = replace(_trained(), calibration={"neighbours": 3})
    both = replace(plain, calibration={"total": 2.0, "atomic": 0.5, "neighbours": 3})
    positions = sample(2, 1000.0, seed=8)
    total, atomic = plain.predictive_deviations(positions)
    np.testing.assert_allclose(both.deviations(positions), 2.0 * total, rtol=1e-12)
    np.testing.assert_allclose(both.atomic_deviations(positions), 0.5 * atomic, rtol=1e-12)
    model_file.save(both, tmp_path / "model.npz")
    loaded = model_file.load(tmp_path / "model.npz")
    assert dict(loaded.calibration) == dict(both.calibration)
    np.testing.assert_array_equal(loaded.deviations(positions), both.deviations(positions))
    # The number of neighbours belongs to the factors: another one gives other deviations.
    assert (replace(plain, calibration={}).deviations(positions) < total).all()
    assert NEIGHBOURS > N_TRAIN


def test_shapes() -> None:
    forcefield, positions = _trained(), sample(4, 1000.0, seed=8)
    total, atomic = forcefield.predictive_deviations(positions.reshape(2, 2, 6, 3))
    assert total.shape == (2, 2)
    assert atomic.shape == (2, 2, 6)
    assert forcefield.deviations(positions[0]).shape == ()
    assert forcefield.deviations(positions[:0]).shape == (0,)


def test_atoms_of_an_energy_only_model_are_independent() -> None:
    total, atomic = fitted().predictive_deviations(sample(3, 1000.0, seed=8))
    np.testing.assert_allclose(total**2, (atomic**2).sum(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(atomic[:, 2], fitted().atoms[2].deviation(sample(3, 1000.0, seed=8)))


def test_misuse_is_refused() -> None:
    with pytest.raises(InputError, match="joint fit"):
        _trained().atoms[0].deviation(sample(1))
    with pytest.raises(InputError, match="neighbours"):
        _posterior(_trained()).variances(sample(1), 0)

"""The joint fit of energies and forces: its covariances, its solution, and what it must not depend on."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from fflux_py import model_file
from fflux_py.errors import ConvergenceError, InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureKind, features
from fflux_py.gp.joint_covariance import (
    NOISE_ATOMIC,
    NOISE_FORCE,
    NOISE_TOTAL,
    JointData,
    JointModel,
    add_noise,
    covariance_matrix,
    noise_variances,
    solve,
)
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.symmetry import find_symmetry, no_symmetry, symmetric_local_frames
from fflux_py.training import TrainingConfig, train
from fflux_py.training import length_scales as joint
from fflux_py.training.config import LOCALITIES, Locality, SymmetryChoice
from fflux_py.training.feature_statistics import feature_statistics, feature_variances
from fflux_py.training.length_scale_law import length_scale_law
from fflux_py.typing import FloatArray
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM
from tests.support.synthetic import ISOLATED, MethanolPotential, label, methanol, sample

with warnings.catch_warnings():  # gpytorch uses what torch has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    HAS_TORCH = importlib.util.find_spec("gpytorch") is not None and bool(importlib.import_module("gpytorch"))

LOG_FACTORS = np.array([-4.0, -4.5, -5.0, -5.5, -6.0])
KINDS = [(cast(FeatureKind, kind), kernel) for kind in ("unit-vector", "spherical") for kernel in KERNELS]
VARIANCE = 0.7


def _data(dataset: Dataset) -> JointData:
    errors = np.full_like(dataset.atomic_energies, np.nan)
    return JointData(dataset.positions, dataset.energies, dataset.forces, dataset.atomic_energies, errors)


def _model(
    kind: FeatureKind = "unit-vector",
    kernel: str = "squared-exponential",
    symmetric: bool = False,
    noises: tuple[float, float, float] | None = None,
) -> JointModel:
    molecule = methanol()
    symmetry = find_symmetry(molecule) if symmetric else no_symmetry(6)
    frames = symmetric_local_frames(molecule, symmetry)
    model = JointModel(frames, kind, KERNELS[kernel], "periodic", symmetry)
    return model if noises is None else replace(model, noises=noises)


def _kernels(model: JointModel, positions: FloatArray, log_factors: FloatArray = LOG_FACTORS) -> list[Covariance]:
    return joint.class_covariances(feature_variances(model, positions), 6, model, log_factors)


@cache
def _dataset(n: int = 30, temperature: float = 600.0, seed: int = 1) -> Dataset:
    return label(sample(n, temperature, seed=seed))


@cache
def _trained(prior_mean: str = "MF2") -> ForceField:
    return train(_dataset(), TrainingConfig(prior_mean=prior_mean, max_iterations=3, subset=12))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("kind", "kernel"), KINDS)
def test_covariances_are_derivatives_of_the_energies_covariance(
    kind: FeatureKind, kernel: str, symmetric: bool
) -> None:
    """cov(F, E') and cov(F, F') against finite differences of cov(E, E') by the positions: sign, factor, order.

    The oracle sums the plain kernel over every operation of the group, without images or factorised rotors.
    """
    data = _data(_dataset(3))
    model = _model(kind, kernel, symmetric)
    kernels = _kernels(model, _dataset().positions)
    lower = covariance_matrix(data, model, kernels, VARIANCE)
    full = np.tril(lower) + np.tril(lower, -1).T
    totals = 3 * 6
    operations = list(model.symmetry.all_operations())
    assert len(operations) == (6 if symmetric else 1)

    def total_covariance(x: FloatArray, y: FloatArray) -> float:
        value = 0.0
        for frame, kernel in zip(model.frames, kernels, strict=True):
            fx = features(x[None], frame, kind)
            for permutation, mirror in operations:
                fy = features(model.symmetry.apply(y, permutation, mirror)[None], frame, kind)
                value += VARIANCE * float(kernel.matrix(fx, fy)[0, 0])
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
            assert full[totals + 3 + 18 * i + c, totals + j] == pytest.approx(numeric, rel=1e-5, abs=5e-7)
            for d in (1, 5, 9):
                corners = [total_covariance(x + p * step[c], y + q * step[d]) * p * q for p in (1, -1) for q in (1, -1)]
                found = full[totals + 3 + 18 * i + c, totals + 3 + 18 * j + d]
                assert found == pytest.approx(sum(corners) / (4 * h * h), rel=1e-5, abs=2e-6)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("kind", "kernel"), KINDS)
def test_covariance_is_positive_definite(kind: FeatureKind, kernel: str, symmetric: bool) -> None:
    data = _data(_dataset(8))
    model = _model(kind, kernel, symmetric)
    lower = covariance_matrix(data, model, _kernels(model, data.positions), 1.0)
    full = np.tril(lower) + np.tril(lower, -1).T
    assert np.linalg.eigvalsh(full).min() > -1e-9 * np.trace(full)


def test_covariance_does_not_know_the_numbering_of_equivalent_atoms() -> None:
    """An image of a geometry has the same covariances, its atoms' energies and forces permuted."""
    model, data = _model(symmetric=True), _data(_dataset(2))
    kernels = _kernels(model, _dataset().positions)
    matrix = covariance_matrix(data, model, kernels, VARIANCE)
    for permutation, mirror in model.symmetry.all_operations():
        sign = -1.0 if mirror else 1.0
        images = model.symmetry.apply(data.positions, permutation, mirror)
        turned = replace(data, positions=np.array([data.positions[0], images[1]]))
        found = covariance_matrix(turned, model, kernels, VARIANCE)
        atoms = np.arange(6)
        # rows of geometry 1 with columns of geometry 0: atomic energies, total energy, forces
        assert found[13, 12] == pytest.approx(matrix[13, 12], rel=1e-12)
        np.testing.assert_allclose(found[13, 2 * atoms], matrix[13, 2 * atoms], rtol=1e-11)
        np.testing.assert_allclose(
            found[np.ix_(2 * atoms + 1, 2 * atoms)], matrix[np.ix_(2 * permutation + 1, 2 * atoms)], rtol=1e-11
        )
        before = matrix[14 + 18 :, 14 : 14 + 18].reshape(6, 3, 18)
        after = found[14 + 18 :, 14 : 14 + 18].reshape(6, 3, 18)
        np.testing.assert_allclose(after, sign * before[permutation], atol=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_likelihood_against_scipy(symmetric: bool) -> None:
    data = _data(_dataset(5))
    model = _model(symmetric=symmetric, noises=(1e-3, 1e-3, 1e-2))
    kernels = _kernels(model, data.positions)
    matrix = covariance_matrix(data, model, kernels, 0.01)
    add_noise(matrix, data, model.noises)
    full = np.tril(matrix) + np.tril(matrix, -1).T
    y = data.right_hand_sides(model.symmetry)[:, 0]
    expected = multivariate_normal(np.zeros(len(y)), full).logpdf(y)
    assert joint.log_likelihood(data, model, kernels, 0.01) == pytest.approx(float(expected), rel=1e-9)


def test_integration_errors_of_the_labels_are_noise() -> None:
    data = _data(_dataset(3))
    errors = np.full((3, 6), np.nan)
    errors[1] = 0.01
    before, after = np.zeros((75, 75)), np.zeros((75, 75))
    add_noise(before, data, (0.02, 0.1, 0.2))
    add_noise(after, replace(data, atomic_errors=errors), (0.02, 0.1, 0.2))
    change = np.diag(after - before)
    assert np.flatnonzero(change).tolist() == list(range(1, 18, 3))
    np.testing.assert_allclose(change[change > 0], 1e-4)


def test_every_observation_has_the_noise_of_its_kind() -> None:
    """Standard deviations: of atomic energies, of totals, of forces, in that order; the matrix gets their squares."""
    data = _data(_dataset(3))
    variances = noise_variances(data, (0.02, 0.1, 0.2))
    observations = data.observations
    expected = np.full(3 * (6 + 1 + 18), np.nan)
    expected[observations.atoms], expected[observations.totals] = 0.02**2, 0.1**2
    expected[np.isnan(expected)] = 0.2**2
    assert (expected == 0.2**2).sum() == 3 * 18
    np.testing.assert_allclose(variances, expected, rtol=1e-14)
    matrix = np.ones((75, 75))
    add_noise(matrix, data, (0.02, 0.1, 0.2))
    np.testing.assert_allclose(matrix - 1.0, np.diag(expected), atol=1e-15)


def test_default_noises_are_what_the_labels_scatter_by() -> None:
    """1 kcal/mol for atoms, 0.02 for totals, 0.03 kcal/mol/angstrom for forces: SCF energies and forces are exact."""
    found = np.array(_model().noises) * [KCAL_MOL, KCAL_MOL, KCAL_MOL_ANGSTROM]
    np.testing.assert_allclose(found, [1.0, 0.02, 0.03], rtol=1e-12)
    dataset, forcefield = _dataset(), _trained()
    assert forcefield.joint is not None
    assert forcefield.joint.noises == _model().noises
    forces = forcefield.compute(dataset.positions)[1]
    assert forces is not None
    # Forces of the training set come back more closely than the noise (0.008); with ten times the noise, 0.11.
    assert np.sqrt(np.mean(np.square(forces - dataset.forces))) * KCAL_MOL_ANGSTROM < 0.03


def test_solution_predicts_its_own_training_data() -> None:
    """Within a few of the noises that were assumed for energies and forces."""
    dataset, forcefield = _dataset(), _trained()
    energies, forces = forcefield.compute(dataset.positions)
    assert forces is not None
    assert np.abs(energies - dataset.energies).max() < 5 * NOISE_TOTAL
    assert np.abs(forces - dataset.forces).max() < 6 * NOISE_FORCE
    assert np.abs(forcefield.atomic_energies(dataset.positions) - dataset.atomic_energies).mean() < NOISE_ATOMIC


def test_forces_in_the_fit_beat_energies_alone() -> None:
    """On geometries that no fit has seen, at equal training geometries."""
    unseen = _dataset(40, 600.0, 9)
    alone = train(_dataset(), TrainingConfig(forces=False, max_iterations=20)) if HAS_TORCH else None
    energies, forces = _trained().compute(unseen.positions)
    assert forces is not None
    joint_error = np.abs(forces - unseen.forces).mean() * KCAL_MOL_ANGSTROM
    assert np.abs(energies - unseen.energies).mean() * KCAL_MOL < 0.5
    assert joint_error < 3.0
    if alone is not None:
        plain = alone.compute(unseen.positions)[1]
        assert plain is not None
        assert np.abs(plain - unseen.forces).mean() * KCAL_MOL_ANGSTROM > 3.0 * joint_error


@pytest.mark.parametrize("name", ["MF1", "MF3", "MF4", "MF5", "max", "constant:-20.0", "gls"])
def test_prior_mean_after_training_equals_training_with_it(name: str) -> None:
    after = _trained().with_prior_mean(name)
    during = _trained(name)
    positions = sample(4, 1000.0, seed=5)
    assert [m.mean for m in after.atoms] == [m.mean for m in during.atoms]
    assert np.abs(after.atomic_energies(positions) - during.atomic_energies(positions)).max() < 1e-10
    back = after.with_prior_mean("MF2")
    assert np.abs(back.atomic_energies(positions) - _trained().atomic_energies(positions)).max() < 1e-10


def test_coverage_is_one_inside_and_less_far_away() -> None:
    """s = dE_A/dmu_A at fixed data: inside, a shift of all means changes nothing."""
    forcefield = _trained()
    inside = _dataset().positions[:5]
    shifted = forcefield.with_prior_mean("max")
    change = np.abs(shifted.atomic_energies(inside) - forcefield.atomic_energies(inside)).max()
    assert change < 0.05 * max(m.mean - o.mean for m, o in zip(shifted.atoms, forcefield.atoms, strict=True))
    far = methanol().positions[None] * 1e4  # directions stay as they are
    assert forcefield.unmatched.coverage(far).max() < 0.8
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


@pytest.mark.parametrize("locality", LOCALITIES)
def test_search_improves_the_likelihood(locality: Locality) -> None:
    data, model = _data(_dataset(12)), _model()

    law = length_scale_law(model, feature_statistics(model, data.positions), methanol(), VARIANCE, locality)

    def likelihood(hyperparameters: FloatArray) -> float:
        return joint.log_likelihood(data, law.model, law.kernels(hyperparameters), law.variances(hyperparameters))

    one = joint.search_hyperparameters(data, law, TrainingConfig(max_iterations=1))
    five = joint.search_hyperparameters(data, law, TrainingConfig(max_iterations=5))
    assert likelihood(five) > likelihood(one) > likelihood(law.means)


def test_not_a_number_is_an_error_and_not_a_model() -> None:
    data, model = _data(_dataset(3)), _model()
    with pytest.raises(ConvergenceError, match="positive definite"):
        solve(data, model, _kernels(model, data.positions), -1.0)


@cache
def _with_symmetry(choice: SymmetryChoice) -> ForceField:
    return train(_dataset(), TrainingConfig(symmetry=choice, max_iterations=3, subset=12)).unmatched


@pytest.mark.parametrize("choice", ["full", "rotors"])
def test_symmetric_models_are_invariant(choice: SymmetryChoice) -> None:
    """Energies, atomic energies and forces follow every operation; without symmetry they do not."""
    forcefield = _with_symmetry(choice)
    assert forcefield.joint is not None
    symmetry = forcefield.joint.operations
    assert symmetry.order == (6 if choice == "full" else 3)
    positions = sample(3, 1500.0, seed=4)
    energies, forces = forcefield.atomic_energies_and_forces(positions)
    largest = 0.0
    for permutation, mirror in symmetry.all_operations():
        images = symmetry.apply(positions, permutation, mirror)
        image_energies, image_forces = forcefield.atomic_energies_and_forces(images)
        np.testing.assert_allclose(image_energies, energies[:, permutation], atol=1e-10)
        np.testing.assert_allclose(image_forces, symmetry.apply(forces, permutation, mirror), atol=1e-10)
        plain = _trained_without().compute(images)[0] - _trained_without().compute(positions)[0]
        largest = max(largest, float(np.abs(plain).max()))
    assert largest > 1e-4


@cache
def _trained_without() -> ForceField:
    return _with_symmetry("none")


def test_symmetry_learns_from_equivalent_geometries() -> None:
    unseen = _dataset(40, 1000.0, 9)

    def error(forcefield: ForceField) -> float:
        forces = forcefield.compute(unseen.positions)[1]
        assert forces is not None
        return float(np.abs(forces - unseen.forces).mean())

    assert error(_with_symmetry("full")) < 0.8 * error(_with_symmetry("none"))
    assert error(_with_symmetry("rotors")) < error(_with_symmetry("none"))


@pytest.mark.parametrize("choice", ["full", "rotors"])
def test_compiled_rotors_against_all_permutations(choice: SymmetryChoice) -> None:
    """The compiled kernel with factorised rotors against plain NumPy on explicitly permuted training points."""
    forcefield = _with_symmetry(choice)
    positions = sample(2, 1500.0, seed=11)
    energies, forces = forcefield.atomic_energies_and_forces(positions)
    slow, gradient = np.zeros_like(energies), np.zeros_like(forces)
    for model in forcefield.atoms:
        slow[:, model.frame.atom] += model.energy(positions)
        gradient += model.gradient(positions)
    assert any(len(model.rotors) for model in forcefield.atoms)
    np.testing.assert_allclose(energies, slow, atol=1e-9)
    np.testing.assert_allclose(forces, -gradient, atol=1e-9)
    s = np.stack([model.coverage(positions) for model in forcefield.atoms], axis=-1)
    np.testing.assert_allclose(forcefield.coverage(positions), s, atol=1e-9)


@pytest.mark.parametrize("name", ["MF1", "MF5", "gls", "max"])
def test_symmetric_models_change_their_prior_mean_and_survive_a_file(name: str, tmp_path: Path) -> None:
    forcefield = _with_symmetry("full").with_prior_mean(name)
    during = train(_dataset(), TrainingConfig(symmetry="full", max_iterations=3, subset=12, prior_mean=name))
    positions = sample(3, 1500.0, seed=5)
    np.testing.assert_allclose(during.atomic_energies(positions), forcefield.atomic_energies(positions), atol=1e-10)
    hydrogens = [forcefield.atoms[k].mean for k in (2, 3, 4)]
    assert np.ptp(hydrogens) < 1e-12
    model_file.save(forcefield, tmp_path / "model.npz")
    loaded = model_file.load(tmp_path / "model.npz")
    assert np.array_equal(loaded.compute(positions)[0], forcefield.compute(positions)[0])
    assert np.array_equal(loaded.with_prior_mean("MF2").compute(positions)[0],
                          forcefield.with_prior_mean("MF2").compute(positions)[0])  # fmt: skip


def test_far_away_rotors_do_not_overflow() -> None:
    """Where every permutation's term underflows, the energy is the prior mean, the force zero, nothing NaN."""
    far = methanol().positions.copy()
    far[2:5] *= 40.0
    energies, forces = _with_symmetry("full").atomic_energies_and_forces(far)
    assert np.isfinite(energies).all()
    assert np.isfinite(forces).all()


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

"""Two kernels for every frame, the second of the near atoms alone: in covariances, models, files and runs."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.analysis.label_residuals import label_residuals
from fflux_py.errors import InputError
from fflux_py.exchange.ferebus.forcefield import model_texts
from fflux_py.files import parse_npz
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import features
from fflux_py.gp.joint_covariance import JointData, JointModel, atoms_variances, covariance_matrix
from fflux_py.gp.joint_fit import rotor_features
from fflux_py.gp.posterior import Posterior
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.symmetry import find_symmetry, no_symmetry, symmetric_local_frames
from fflux_py.training import TrainingConfig, train
from fflux_py.training._joint_operator import JointOperator
from fflux_py.training.config import SolverSettings, SymmetryChoice
from fflux_py.training.feature_statistics import feature_statistics
from fflux_py.training.joint_system import JointSystem
from fflux_py.training.length_scale_law import LengthScaleLaw, length_scale_law
from fflux_py.training.refit import refit
from fflux_py.typing import FloatArray
from fflux_py.units import KCAL_MOL
from tests.support.synthetic import label, malondialdehyde, methanol, sample

CHOICES: tuple[SymmetryChoice, ...] = ("full", "none")
H_OF_OXYGEN = 5


@cache
def _dataset() -> Dataset:
    return label(sample(14, 600.0, seed=1))


@cache
def _trained(choice: SymmetryChoice = "full") -> ForceField:
    return train(_dataset(), TrainingConfig(symmetry=choice, locality="near", max_iterations=3, subset=8)).unmatched


def _law(symmetric: bool, kernel: str = "squared-exponential") -> LengthScaleLaw:
    symmetry = find_symmetry(methanol()) if symmetric else no_symmetry(6)
    model = JointModel(
        symmetric_local_frames(methanol(), symmetry), "unit-vector", KERNELS[kernel], "periodic", symmetry
    )
    return length_scale_law(model, feature_statistics(model, _dataset().positions), methanol(), 0.01, "near")


def _data(n: int) -> JointData:
    chosen = _dataset().select(list(range(n)))
    atomic = np.array(chosen.atomic_energies)
    atomic[1] = np.nan
    return JointData(chosen.positions, chosen.energies, chosen.forces, atomic, np.full_like(atomic, np.nan))


def test_near_atoms_are_at_most_two_bonds_away() -> None:
    """O=CH-CH2-CH=O: from an oxygen the hydrogens of CH2 are three bonds away, from the middle carbon none is far."""
    between = malondialdehyde().bonds_between
    assert between[0].tolist() == [0, 1, 2, 3, 4, 2, 3, 3, 4]
    assert between[2].max() == 2
    np.testing.assert_array_equal(between, between.T)
    scales = np.where(np.arange(6) == H_OF_OXYGEN, 9.0, 1.0)
    apart = replace(methanol(), positions=methanol().positions * scales[:, None])
    assert apart.bonds_between[0].tolist() == [0, 1, 1, 1, 1, 6]
    law = _law(symmetric=False)
    every, near = law.kernels(law.means)[2 * H_OF_OXYGEN :]
    assert (every.theta > 0.0).all()
    # in the frame are O and C; the three hydrogens of the methyl group are three bonds away
    assert (near.theta > 0.0).tolist() == [True] * 3 + [False] * 12
    assert law.variances(law.means)[:2] == pytest.approx(0.01 * np.exp(law.means[[0, 9]]))
    assert len(law.means) == 16


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kernel", ["squared-exponential", "matern52"])
def test_covariance_of_energies_is_the_sum_of_both_kernels(symmetric: bool, kernel: str) -> None:
    """Against the plain kernels over every operation; rotors without influence are not summed over."""
    law, data = _law(symmetric, kernel), _data(3)
    kernels, variances = law.kernels(law.means), law.variances(law.means)
    totals = slice(12, 15)
    matrix = covariance_matrix(data, law.model, kernels, variances)[totals, totals]
    operations, expected = list(law.model.symmetry.all_operations()), np.zeros((3, 3))
    plain = law.model.unscaled(6)
    for frame, covariance, variance in zip(law.model.frames, kernels, variances, strict=True):
        n_rotors = len(rotor_features(law.model.symmetry, frame, "unit-vector", plain))
        left_out = n_rotors - len(rotor_features(law.model.symmetry, frame, "unit-vector", covariance))
        x = features(data.positions, frame, "unit-vector")
        for permutation, mirror in operations:
            y = features(law.model.symmetry.apply(data.positions, permutation, mirror), frame, "unit-vector")
            expected += variance / 3.0**left_out * covariance.matrix(x, y)
        near = covariance.theta[-1] == 0.0
        if frame.atom == H_OF_OXYGEN and near and n_rotors:
            assert left_out == 1
    np.testing.assert_allclose(matrix, expected, rtol=1e-12)
    assert atoms_variances(law.model, variances) == pytest.approx(np.full(6, variances[:2].sum()))


def test_products_are_those_of_the_matrix() -> None:
    law, data = _law(symmetric=True), _data(3)
    system = JointSystem(data, law.model, law.kernels(law.means), law.variances(law.means))
    lower = covariance_matrix(data, law.model, system.kernels, system.variance)
    vectors = np.random.default_rng(1).standard_normal((len(lower), 2))
    whole = np.tril(lower) + np.tril(lower, -1).T
    np.testing.assert_allclose(JointOperator(system)(vectors), whole @ vectors, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("choice", CHOICES)
def test_forces_are_slopes_and_compiled_code_is_the_plain_one(choice: SymmetryChoice) -> None:
    forcefield = _trained(choice)
    assert len(forcefield.atoms) == 2 * len({model.frame for model in forcefield.atoms})
    positions = sample(2, 1500.0, seed=11)
    energies, forces = forcefield.atomic_energies_and_forces(positions)
    slow, gradient = np.zeros_like(energies), np.zeros_like(forces)
    for model in forcefield.atoms:
        slow[:, model.frame.atom] += model.energy(positions)
        gradient += model.gradient(positions)
    np.testing.assert_allclose(energies, slow, atol=1e-9)
    np.testing.assert_allclose(forces, -gradient, atol=1e-9)
    step = np.zeros((6, 3))
    step[3, 1] = 1e-4
    difference = (forcefield.energy(positions[0] + step) - forcefield.energy(positions[0] - step)) / 2e-4
    assert forces[0, 3, 1] == pytest.approx(-difference, rel=1e-6, abs=1e-8)
    assert forcefield.images_per_atom == (1.0 if choice == "none" else pytest.approx(_images()))


def _images() -> float:
    return train(_dataset(), TrainingConfig(max_iterations=1, subset=4, symmetry="full")).images_per_atom


def test_symmetric_model_is_invariant() -> None:
    forcefield = _trained()
    assert forcefield.joint is not None
    symmetry, positions = forcefield.joint.operations, sample(3, 1500.0, seed=4)
    energies, forces = forcefield.atomic_energies_and_forces(positions)
    for permutation, mirror in symmetry.all_operations():
        there = forcefield.atomic_energies_and_forces(symmetry.apply(positions, permutation, mirror))
        np.testing.assert_allclose(there[0], energies[:, permutation], atol=1e-10)
        np.testing.assert_allclose(there[1], symmetry.apply(forces, permutation, mirror), atol=1e-10)


@pytest.mark.parametrize("choice", CHOICES)
def test_training_energies_are_learnt_and_the_prior_means_may_change(choice: SymmetryChoice) -> None:
    forcefield, dataset = _trained(choice), _dataset()
    energies, _ = forcefield.compute(dataset.positions)
    assert np.abs(energies - dataset.energies).max() < 1e-4
    config = TrainingConfig(symmetry=choice, locality="near", prior_mean="gls", max_iterations=3, subset=8)
    during, after = train(dataset, config), forcefield.with_prior_mean("gls")
    np.testing.assert_allclose(after.prior_means, during.prior_means, rtol=1e-10)
    far = 1.15 * sample(2, 900.0, seed=3)
    np.testing.assert_allclose(after.atomic_energies(far), during.atomic_energies(far), atol=1e-8)
    assert np.abs(after.atomic_energies(far) - forcefield.atomic_energies(far)).max() > 1e-6


def test_model_survives_a_file_of_schema_3(tmp_path: Path) -> None:
    """A model of one kernel is still written as schema 2, which earlier versions read."""
    forcefield, positions = _trained(), sample(3, 900.0, seed=5)
    model_file.save(forcefield, tmp_path / "near.npz")
    read = model_file.load(tmp_path / "near.npz")
    for one, other in zip(read.compute(positions), forcefield.compute(positions), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(read.deviations(positions), forcefield.deviations(positions))
    assert _schema(tmp_path / "near.npz") == 3
    plain = train(_dataset(), TrainingConfig(locality="powers", max_iterations=1, subset=4, symmetry="none"))
    model_file.save(plain, tmp_path / "one.npz")
    assert _schema(tmp_path / "one.npz") == 2


def _schema(path: Path) -> int:
    return int(json.loads(parse_npz(path.read_bytes())["header"].tobytes())["schema"])


def test_deviations_are_those_of_the_whole_posterior() -> None:
    """All geometries as neighbours, against the dense covariance with the new energy among the observations."""
    forcefield = _trained()
    joint = forcefield.joint
    assert joint is not None
    geometry = sample(1, 1000.0, seed=7)
    first = forcefield.atoms[0]
    model = JointModel(
        tuple(m.frame for m in forcefield.atoms), "unit-vector", first.covariance.kernel, "periodic", joint.operations
    )
    kernels = [m.covariance for m in forcefield.atoms]
    variances = np.array([m.variance for m in forcefield.atoms])
    everything = np.concatenate([joint.positions, geometry])
    unknown = np.full(everything.shape[:2], np.nan)
    data = JointData(everything, np.zeros(len(everything)), np.zeros_like(everything), unknown, unknown)
    lower = covariance_matrix(data, model, kernels, variances)
    whole = np.tril(lower) + np.tril(lower, -1).T
    n = len(joint.positions)
    old = np.setdiff1d(np.arange(len(whole)), [n, *range(len(whole) - 18, len(whole))])
    noise = np.concatenate([np.full(n, joint.noises[1] ** 2), np.full(len(old) - n, joint.noises[2] ** 2)])
    known = whole[np.ix_(old, old)] + np.diag(noise)
    expected = whole[n, n] - whole[n, old] @ np.linalg.solve(known, whole[old, n])
    without_atoms = replace(
        joint,
        partitioned=np.zeros(n, dtype=np.bool_),
        coefficients=joint.coefficients[joint.observations.totals.start :],
    )
    total, _ = Posterior(without_atoms, forcefield.atoms).variances(geometry, n)
    assert total[0] == pytest.approx(expected, rel=1e-5)


def test_refit_is_the_fit_and_exports_are_refused() -> None:
    forcefield, positions = _trained(), sample(3, 700.0, seed=8)
    again = refit(forcefield, _dataset(), (), settings=SolverSettings("direct"))
    for one, other in zip(again.compute(positions), forcefield.compute(positions), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    iterated = refit(forcefield, _dataset(), (), settings=SolverSettings("cg", memory=1.0))
    np.testing.assert_allclose(iterated.compute(positions)[0], forcefield.compute(positions)[0], atol=2e-6)
    with pytest.raises(InputError, match=r"one model of atomic energies for each atom.*a joint fit"):
        model_texts(forcefield)


def test_a_wrong_label_is_found() -> None:
    energies = np.array(_dataset().energies)
    energies[3] += 5.0 / KCAL_MOL
    residuals = label_residuals(_trained(), replace(_dataset(), energies=energies))
    assert residuals[0].index == 3
    assert residuals[0].energy_error == pytest.approx(5.0 / KCAL_MOL, rel=0.2)


def test_errors_are_smaller_than_without() -> None:
    """Of the same data, both with the hyperparameters that the likelihood finds."""
    unseen = label(sample(30, 400.0, seed=9))

    def error(locality: str) -> float:
        config = TrainingConfig(locality=locality, symmetry="none", max_iterations=10)  # type: ignore[arg-type]
        forces: FloatArray | None = train(_dataset(), config).compute(unseen.positions)[1]
        assert forces is not None
        return float(np.abs(forces - unseen.forces).mean())

    assert error("near") < error("none")

"""The joint fit of energies and forces against a dense Gaussian process whose force covariances are numerical.

The oracle knows nothing of Jacobians, slopes or embeddings: it evaluates the kernel between displaced geometries, turns
displacements into forces by central differences on both sides, and solves the whole system.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import features
from fflux_py.gp.joint_atoms import JointFrame, joint_atoms
from fflux_py.gp.joint_fit import JointFit
from fflux_py.gp.observations import Observations
from fflux_py.molecules.dataset import Dataset
from fflux_py.typing import FloatArray
from tests.support.synthetic import ISOLATED, fit, label, methanol, sample

pytestmark = pytest.mark.core

STEP = 1e-3
PARTITIONED = np.array([True, True, False])  # the last geometry has a total energy and forces only
VARIANCES = np.array([0.02, 0.03, 0.01, 0.015, 0.012, 0.01])
NOISES = (1e-3, 1e-3, 1e-3)
_WEIGHTS = {0: 0.0, -2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}  # of the fourth-order first derivative


@cache
def _dataset() -> Dataset:
    return label(sample(3, 1000.0))


def _displaced(positions: FloatArray) -> FloatArray:
    """Every geometry, then its 72 displaced ones (-2, -1, 1, 2 steps along every coordinate)."""
    n = positions.shape[1]
    shifts = STEP * np.eye(3 * n).reshape(3 * n, n, 3)
    steps = np.concatenate([np.zeros((1, n, 3)), *(k * shifts for k in (-2, -1, 1, 2))])
    return np.asarray((positions[:, None] + steps).reshape(-1, n, 3))


def _operators(count: int) -> tuple[FloatArray, FloatArray]:
    """Matrices that make energies, and forces, out of energies at the displaced geometries."""
    block = 73
    values, forces = np.zeros((count, count * block)), np.zeros((count * 18, count * block))
    for j in range(count):
        values[j, j * block] = 1.0
        for c in range(18):
            for place, k in enumerate((-2, -1, 1, 2)):
                forces[j * 18 + c, j * block + 1 + place * 18 + c] = -_WEIGHTS[k] / STEP
    return values, forces


def _observations(positions: FloatArray, partitioned: np.ndarray) -> list[FloatArray]:
    """For every atom the matrix from its energies at displaced geometries to its share of every observation."""
    values, forces = _operators(len(positions))
    n_partitioned = int(partitioned.sum())
    operators = []
    for a in range(6):
        rows = np.zeros((Observations(partitioned, 6).count, values.shape[1]))
        rows[a * n_partitioned : (a + 1) * n_partitioned] = values[partitioned]
        rows[6 * n_partitioned : 6 * n_partitioned + len(positions)] = values
        rows[6 * n_partitioned + len(positions) :] = forces
        operators.append(rows)
    return operators


@cache
def _solved() -> tuple[ForceField, FloatArray, FloatArray, list[FloatArray]]:
    """The force field, the noisy covariance of the observations, the observed values, the operators."""
    dataset = _dataset()
    template = fit(dataset, noise=1e-8, inverse_width=0.02)
    displaced = _displaced(dataset.positions)
    operators = _observations(dataset.positions, PARTITIONED)
    covariance = np.diag(np.repeat(np.square(NOISES), [12, 3, 54]))
    for model, operator, variance in zip(template.atoms, operators, VARIANCES, strict=True):
        x = features(displaced, model.frame, model.feature_kind)
        covariance += variance * operator @ model.covariance.matrix(x, x) @ operator.T
    observed = np.concatenate(
        [dataset.atomic_energies[PARTITIONED].T.ravel(), dataset.energies, dataset.forces.ravel()]
    )
    centres = dataset.atomic_energies[PARTITIONED].mean(axis=0)
    units = np.stack([_constant(np.eye(6)[b]) for b in range(6)], axis=1)
    right = np.column_stack([observed - _constant(centres), units])
    joint = JointFit(dataset.positions, PARTITIONED, centres, VARIANCES, np.linalg.solve(covariance, right), NOISES)
    frames = [replace(JointFrame.of(m), variance=v) for m, v in zip(template.atoms, VARIANCES, strict=True)]
    atoms = joint_atoms(joint, frames, "MF2", [ISOLATED[s] for s in methanol().symbols])
    return replace(template, atoms=atoms, joint=joint).unmatched, covariance, observed, operators


def _constant(means: FloatArray) -> FloatArray:
    """What is observed if every atom's energy is a constant."""
    return np.concatenate([np.repeat(means, 2), np.full(3, means.sum()), np.zeros(54)])


def _predicted(means: FloatArray, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Atomic energies ``(m, 6)`` and forces ``(m, 6, 3)`` of the dense process with these prior means."""
    forcefield, covariance, observed, operators = _solved()
    solution = np.linalg.solve(covariance, observed - _constant(means))
    values, slopes = _operators(len(positions))
    at, energies, forces = _displaced(positions), [], np.zeros(len(positions) * 18)
    for model, operator, variance, mean in zip(forcefield.atoms, operators, VARIANCES, means, strict=True):
        x = features(at, model.frame, model.feature_kind)
        y = features(_displaced(_dataset().positions), model.frame, model.feature_kind)
        posterior = variance * model.covariance.matrix(x, y) @ operator.T @ solution
        energies.append(mean + values @ posterior)
        forces += slopes @ posterior
    return np.stack(energies, axis=-1), forces.reshape(-1, 6, 3)


@pytest.mark.parametrize("mean", ["MF1", "MF2", "MF5", "constant:-20.0"])
def test_energies_and_forces_are_those_of_the_dense_process(mean: str) -> None:
    forcefield = _solved()[0].with_prior_mean(mean)
    positions = sample(2, 1000.0, seed=6)
    energies, forces = _predicted(np.array([model.mean for model in forcefield.atoms]), positions)
    np.testing.assert_allclose(forcefield.atomic_energies(positions), energies, atol=1e-6)
    np.testing.assert_allclose(forcefield.compute(positions)[1], forces, atol=1e-6)
    assert np.abs(forces).max() > 0.01


def test_generalised_least_squares_means_solve_their_normal_equations() -> None:
    forcefield, covariance, observed, _ = _solved()
    assert forcefield.joint is not None
    units = np.stack([_constant(np.eye(6)[b]) for b in range(6)], axis=1)
    normal = units.T @ np.linalg.solve(covariance, units)
    expected = np.linalg.solve(normal, units.T @ np.linalg.solve(covariance, observed))
    np.testing.assert_allclose(forcefield.joint.gls_means(), expected, atol=1e-7)


def test_all_observations_are_reproduced_within_their_noise() -> None:
    forcefield, dataset = _solved()[0], _dataset()
    energies, forces = forcefield.compute(dataset.positions)
    np.testing.assert_allclose(energies, dataset.energies, atol=NOISES[1])
    np.testing.assert_allclose(forces, dataset.forces, atol=5 * NOISES[2])
    atomic = forcefield.atomic_energies(dataset.positions)
    np.testing.assert_allclose(atomic[PARTITIONED], dataset.atomic_energies[PARTITIONED], atol=NOISES[0])


def test_coefficients_of_another_size_are_refused() -> None:
    joint = _solved()[0].joint
    assert joint is not None
    with pytest.raises(InputError, match="joint fit"):
        replace(joint, coefficients=joint.coefficients[:-1])
    with pytest.raises(InputError, match="joint fit"):
        replace(joint, partitioned=np.array([True, True, True]))

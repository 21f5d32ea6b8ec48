"""Solvers of the joint fit: products without the matrix against the matrix, iterations against the factorisation."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.gp import joint_covariance
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureKind
from fflux_py.gp.joint_covariance import JointData, JointModel, covariance_matrix, noise_variances, solve
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.molecules.symmetry import find_symmetry, no_symmetry, symmetric_local_frames
from fflux_py.training import TrainingConfig, joint_solver, train
from fflux_py.training import length_scales as joint
from fflux_py.training._checkpoint import Checkpoint
from fflux_py.training._conjugate_gradients import Iterates, conjugate_gradients
from fflux_py.training._joint_operator import JointOperator
from fflux_py.training._preconditioner import Preconditioner
from fflux_py.training._stages import stages
from fflux_py.training.config import SolverSettings
from fflux_py.training.feature_statistics import feature_variances
from fflux_py.training.joint_solver import chosen_solver, direct_memory, solve_system
from fflux_py.training.joint_system import JointSystem
from fflux_py.typing import FloatArray
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM
from tests.support.synthetic import label, methanol, sample

LOG_FACTORS = np.array([-4.0, -4.5, -5.0, -5.5, -6.0])
VARIANCE = 0.02
KINDS = [(cast(FeatureKind, kind), kernel) for kind in ("unit-vector", "spherical") for kernel in KERNELS]


@cache
def _data(n: int = 12) -> JointData:
    """Every third geometry is without atomic energies."""
    data = label(sample(n, 600.0))
    atomic = data.atomic_energies.copy()
    atomic[::3] = np.nan
    errors = np.full_like(atomic, np.nan)
    errors[:, 2] = 1e-4
    return JointData(data.positions, data.energies, data.forces, atomic, errors)


def _model(
    kind: FeatureKind = "unit-vector", kernel: str = "squared-exponential", symmetric: bool = True
) -> JointModel:
    symmetry = find_symmetry(methanol()) if symmetric else no_symmetry(6)
    return JointModel(symmetric_local_frames(methanol(), symmetry), kind, KERNELS[kernel], "periodic", symmetry)


def _kernels(model: JointModel) -> list[Covariance]:
    return joint.class_covariances(feature_variances(model, _data(30).positions), 6, model, LOG_FACTORS)


def _system(data: JointData, model: JointModel) -> JointSystem:
    return JointSystem(data, model, _kernels(model), VARIANCE)


def _dense(data: JointData, model: JointModel) -> FloatArray:
    lower = covariance_matrix(data, model, _kernels(model), VARIANCE)
    return np.asarray(np.tril(lower) + np.tril(lower, -1).T)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("kind", "kernel"), KINDS)
def test_products_are_those_of_the_matrix(kind: FeatureKind, kernel: str, symmetric: bool) -> None:
    """Rotors, mirror images, several images: on partitioned geometries and others."""
    data, model = _data(), _model(kind, kernel, symmetric)
    dense = _dense(data, model)
    operator = JointOperator(_system(data, model))
    vectors = np.random.default_rng(1).standard_normal((len(dense), 3))
    expected = dense @ vectors
    np.testing.assert_allclose(operator(vectors), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    rows, columns = np.array([1, 3, 8]), np.array([0, 3, 4])
    here, there = operator.observations.of_geometries(rows), operator.observations.of_geometries(columns)
    part = dense[np.ix_(here, there)]
    np.testing.assert_allclose(
        operator.products(rows, columns, np.eye(len(there))), part, rtol=0, atol=1e-12 * np.abs(dense).max()
    )


def test_products_depend_neither_on_threads_nor_on_what_is_kept() -> None:
    data, model = _data(), _model()
    vectors = np.random.default_rng(1).standard_normal((len(noise_variances(data, model.noises)), 2))
    system = _system(data, model)
    one = JointOperator(system)(vectors)
    for threads, memory in ((2, 4e9), (1, 0.0), (3, 0.0)):
        assert np.array_equal(JointOperator(system, threads, memory)(vectors), one)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_preconditioner_is_definite_and_exact_where_all_observations_are_drawn(share: float) -> None:
    data, model = _data(), _model()
    noise = noise_variances(data, model.noises)
    inverse = Preconditioner(JointOperator(_system(data, model)), noise, max(1, int(share * len(noise))))
    dense = inverse(np.eye(len(noise)))
    scale = np.sqrt(noise)
    scaled = dense * np.outer(scale, scale)
    np.testing.assert_allclose(scaled, scaled.T, rtol=0, atol=1e-5)
    assert np.linalg.eigvalsh(0.5 * (scaled + scaled.T)).min() > 0.0
    values = np.linalg.eigvals(dense @ (_dense(data, model) + np.diag(noise))).real
    if share == 1.0:
        np.testing.assert_allclose(values, 1.0, atol=0.01)
    else:
        assert values.max() < 1e-3 / noise.min() * VARIANCE


def test_iterations_solve_a_system_and_resume() -> None:
    rng = np.random.default_rng(3)
    root = rng.standard_normal((40, 40))
    matrix, right = root @ root.T + 0.1 * np.eye(40), rng.standard_normal((40, 3))
    scale = np.diag(matrix)[:, None]
    states: list[Iterates] = []

    def solved(iterates: Iterates | None = None, most: int = 400) -> FloatArray:
        def report(state: Iterates, _: float) -> None:
            states.append(Iterates(state.solution, state.residual, state.direction, state.iteration))

        return conjugate_gradients(
            lambda x: matrix @ x, lambda x: x / scale, right, lambda r: float(np.abs(r).max() / 1e-10), most, iterates,
            report,
        )  # fmt: skip

    whole = solved()
    np.testing.assert_allclose(matrix @ whole, right, atol=1e-9)
    n = len(states)
    resumed = solved(states[10])
    assert len(states) - n == n - 11
    np.testing.assert_array_equal(resumed, whole)
    with pytest.raises(ConvergenceError, match="after 5 iterations"):
        solved(most=5)


def test_iterations_agree_with_the_factorisation() -> None:
    """Predictions of the data's fit, and of means one hartree higher, to a small part of 1e-3 kcal/mol."""
    data, model = _data(18), _model()
    kernels = _kernels(model)
    direct = solve(data, model, kernels, VARIANCE)
    calls: list[tuple[int, int]] = []
    found = solve_system(_system(data, model), SolverSettings("cg"), lambda *pair: calls.append(pair))
    assert found.coefficients.shape == direct.coefficients.shape
    assert {total for _, total in calls} == {1000}
    unseen = JointData(*(np.concatenate([a, b]) for a, b in zip(_parts(data), _parts(_unseen()), strict=True)))
    dense = _dense(unseen, model)
    operator = JointOperator(JointSystem(unseen, model, kernels, VARIANCE))
    old, new = (operator.observations.of_geometries(np.arange(*ends)) for ends in ((0, 18), (18, 28)))
    across = dense[np.ix_(new, old)]
    for means in (direct.centres, direct.centres + 1.0, direct.gls_means()):
        difference = across @ (found.shifted(means) - direct.shifted(means))
        first_force = _unseen().observations.forces.start
        assert np.abs(difference[:first_force]).max() * KCAL_MOL < 1e-3
        assert np.abs(difference[first_force:]).max() * KCAL_MOL_ANGSTROM < 1e-3
    np.testing.assert_allclose(found.gls_means(), direct.gls_means(), atol=1e-5)
    np.testing.assert_allclose(across @ (found.unit_mean(4) - direct.unit_mean(4)), 0.0, atol=1e-5)


def _unseen() -> JointData:
    return _data(40).subset(np.arange(30, 40))


def _parts(data: JointData) -> tuple[FloatArray, ...]:
    return data.positions, data.energies, data.forces, data.atomic_energies, data.atomic_errors


def test_interrupted_iterations_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_solver, "_SECONDS_BETWEEN_WRITES", -1.0)
    data, model = _data(9), _model(symmetric=False)
    system, settings, path = _system(data, model), SolverSettings("cg"), tmp_path / "model.npz.partial"
    counted: list[int] = []
    whole = solve_system(system, settings)
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += done > 300
        if calls == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve_system(system, settings, stop, Checkpoint(path, "k"))
    left = int(Checkpoint(path, "k")["iteration"])
    assert left >= 7
    monkeypatch.setattr(joint_solver, "_keep", lambda _, state: counted.append(state.iteration))
    again = solve_system(system, settings, None, Checkpoint(path, "k"))
    assert counted[0] == left + 1
    np.testing.assert_allclose(again.coefficients, whole.coefficients, rtol=1e-6, atol=1e-9)


def test_blocks_of_the_factorisation_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = _data(), _model()
    matrix = _dense(data, model) + np.diag(noise_variances(data, model.noises))
    expected = np.linalg.cholesky(matrix)
    for block, rows in ((1024, 4096), (37, 50), (1, 3)):
        monkeypatch.setattr(joint_covariance, "_BLOCK", block)
        monkeypatch.setattr(joint_covariance, "_ROWS", rows)
        calls: list[tuple[int, int]] = []
        lower = np.tril(matrix) + np.triu(np.full_like(matrix, np.nan), 1)
        joint_covariance.cholesky_in_place(lower, lambda *pair, seen=calls: seen.append(pair))
        np.testing.assert_allclose(np.tril(lower), expected, atol=1e-9 * np.abs(expected).max())
        assert calls[-1] == (len(matrix), len(matrix))
    broken = matrix.copy()
    broken[100, 100] = -1.0
    with pytest.raises(ConvergenceError, match="pivot 101 "):
        joint_covariance.cholesky_in_place(broken)


def test_solver_is_chosen_by_memory() -> None:
    data, model = _data(30), _model()
    needed = direct_memory(data, model) / 1e9
    assert needed > 8e-9 * len(noise_variances(data, model.noises)) ** 2
    assert chosen_solver(data, model, SolverSettings(memory=1.01 * needed)) == "direct"
    assert chosen_solver(data, model, SolverSettings(memory=0.99 * needed)) == "cg"
    assert chosen_solver(data, model, SolverSettings("cg", memory=10.0)) == "cg"
    assert chosen_solver(data, model, SolverSettings("direct", memory=1e-9)) == "direct"
    for n, memory in ((1000, 1e6), (10_000, 1e9)):
        rank = joint_solver.preconditioner_rank(n, memory)
        assert rank == int(n / 3.0) or 8 * (rank * n + 2 * rank**2) <= memory < 8 * (
            (rank + 1) * n + 2 * (rank + 1) ** 2
        )
    for wrong in ({"solver": "qr"}, {"memory": 0.0}, {"memory": np.nan}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TrainingConfig(**wrong)  # type: ignore[arg-type]


def test_model_does_not_depend_on_the_solver() -> None:
    dataset = label(sample(12, 600.0))
    settings = {"max_iterations": 2, "subset": 6, "symmetry": "rotors"}
    direct, iterated = (
        train(dataset, TrainingConfig(**settings, solver=solver))  # type: ignore[arg-type]
        for solver in ("direct", "cg")
    )
    unseen = sample(40, 600.0)[30:]
    for name in ("MF2", "MF5", "gls"):
        a, b = direct.with_prior_mean(name), iterated.with_prior_mean(name)
        assert np.abs(a.atomic_energies(unseen) - b.atomic_energies(unseen)).max() * KCAL_MOL < 1e-3


def test_progress_of_stages_never_goes_back() -> None:
    calls: list[tuple[int, int]] = []
    first, second = stages(lambda *pair: calls.append(pair), (1.0, 3.0))
    first(1, 10)
    first(1, 1)
    first(1, 2)
    second(0, 5)
    second(3, 6)
    second(7, 6)
    assert calls == [(25, 1000), (250, 1000), (625, 1000), (1000, 1000)]

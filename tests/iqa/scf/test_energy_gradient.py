"""SCF on two grids and the contracted gradient: against PySCF's own, finite differences and what symmetry demands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyscf")

from fflux_py.errors import ConvergenceError
from fflux_py.iqa.scf._becke_cells import cell_shifts, cell_weights, weighted_gradient
from fflux_py.iqa.scf.electronic_structure import (
    GroundState,
    build_mean_field,
    build_mole,
    converge,
    use_threads,
)
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.molecule import Molecule

TIGHT = LevelOfTheory(basis="6-31g(d)", grid_level=1, convergence=1e-12, gradient_convergence=1e-7)
FORMAMIDE = Molecule(
    ("C", "O", "N", "H", "H", "H"),
    np.array(
        [[-0.3, 0.8, 0.1], [-2.3, -0.3, 0.0], [1.9, -0.5, 0.0], [-0.2, 2.9, -0.3], [3.5, 0.4, 0.3], [1.9, -2.4, -0.2]]
    ),
    name="formamide",
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    use_threads(1)


def pyscf_state(level: LevelOfTheory) -> Any:
    mean_field = build_mean_field(build_mole(FORMAMIDE, level), level)
    mean_field.grids.level = level.grid_level
    mean_field.conv_tol, mean_field.conv_tol_grad = level.convergence, level.gradient_convergence
    mean_field.kernel()
    assert mean_field.converged
    return mean_field


@pytest.mark.parametrize(
    "level",
    [
        TIGHT,
        replace(TIGHT, basis_functions="spherical", method="pbe"),
        replace(TIGHT, method="svwn"),
        replace(TIGHT, method="tpssh"),
        replace(TIGHT, method="hf"),
        replace(TIGHT, grid_level=0),
        replace(TIGHT, density_fit=False),
    ],
    ids=lambda level: f"{level.method}-{level.density_fit}-{level.grid_level}",
)
def test_energy_and_forces_are_those_of_pyscf(level: LevelOfTheory) -> None:
    state, reference = GroundState(FORMAMIDE, level), pyscf_state(level)
    assert state.energy == pytest.approx(reference.e_tot, abs=2e-10)
    gradient = reference.nuc_grad_method()
    gradient.grid_response = True
    forces = state.forces()
    np.testing.assert_allclose(forces, -gradient.kernel(), atol=3e-7)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-8 if level.density_fit else 1e-6)


def test_default_thresholds_leave_no_more_than_they_say() -> None:
    level = replace(LevelOfTheory(), basis="6-31g(d)")
    loose = GroundState(FORMAMIDE, level)
    tight = GroundState(FORMAMIDE, replace(level, convergence=1e-12, gradient_convergence=1e-7))
    assert 0.0 <= loose.energy - tight.energy < level.convergence
    np.testing.assert_allclose(loose.forces(), tight.forces(), atol=level.gradient_convergence)


def test_final_grid_is_asked_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    mean_field = build_mean_field(build_mole(FORMAMIDE, LevelOfTheory()), LevelOfTheory())
    levels: list[int] = []
    potential = mean_field.get_veff

    def counted(*arguments: Any, **options: Any) -> Any:
        levels.append(mean_field.grids.level)
        return potential(*arguments, **options)

    monkeypatch.setattr(mean_field, "get_veff", counted)
    converge(mean_field, LevelOfTheory(), "formamide")
    assert 2 <= levels.count(LevelOfTheory().grid_level) <= 4 < levels.count(0)
    assert levels[-1] == LevelOfTheory().grid_level


def test_too_few_cycles_are_an_error() -> None:
    with pytest.raises(ConvergenceError, match=r"SCF of 'formamide' .* within 5 iterations"):
        GroundState(FORMAMIDE, replace(TIGHT, max_cycle=5))


@pytest.mark.parametrize("radii", [np.ones(6), np.array([0.7, 0.6, 0.65, 0.25, 0.25, 0.3])], ids=["equal", "unequal"])
@pytest.mark.parametrize("owner", [0, 4])
def test_derivative_of_becke_weights_is_that_of_the_weights(radii: np.ndarray[Any, Any], owner: int) -> None:
    rng = np.random.default_rng(7)
    offsets = rng.normal(size=(150, 3)) * rng.uniform(0.1, 4.0, size=(150, 1))
    values, shifts = rng.normal(size=150), cell_shifts(radii)
    centres = np.array(FORMAMIDE.positions)

    def total(positions: np.ndarray[Any, Any]) -> float:
        return float(values @ cell_weights(positions[owner] + offsets, positions, shifts)[owner])

    found = weighted_gradient(centres[owner] + offsets, values, owner, centres, shifts)
    step = 1e-3
    for atom, axis in np.ndindex(6, 3):
        moved = np.zeros_like(centres)
        moved[atom, axis] = step
        samples = [total(centres + k * moved) for k in (-2, -1, 1, 2)]
        slope = np.dot([1.0, -8.0, 8.0, -1.0], samples) / (12.0 * step)
        assert found[atom, axis] == pytest.approx(slope, abs=1e-8)
    np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-12)


def test_points_on_nuclei_have_a_derivative() -> None:
    centres = np.array(FORMAMIDE.positions)
    shifts = cell_shifts(np.array([0.7, 0.6, 0.65, 0.25, 0.25, 0.3]))
    found = weighted_gradient(centres, np.ones(6), 2, centres, shifts)
    assert np.isfinite(found).all()


def test_one_atom_has_no_force() -> None:
    neon = Molecule(("Ne",), np.zeros((1, 3)))
    np.testing.assert_allclose(GroundState(neon, replace(TIGHT, basis="sto-3g")).forces(), 0.0, atol=1e-8)

"""The compiled bias: variables, lookup on a grid and deposit, against the plain sum of hills."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py.bias import BiasSettings, CollectiveVariable, Grid, HillParameters, Metadynamics, _compiled
from fflux_py.bias.collective_variables import values_and_gradients
from fflux_py.bias.grid import grid_around
from fflux_py.errors import GeometryError, InputError
from tests.support.sampling_models import numerical_forces

pytestmark = pytest.mark.core

PHI = CollectiveVariable("torsion", (0, 1, 2, 3), "phi")
PSI = CollectiveVariable("torsion", (1, 2, 3, 4), "psi")
BEND = CollectiveVariable("angle", (0, 1, 3), "bend")
STRETCH = CollectiveVariable("distance", (4, 0), "stretch")
LIMITS = {PHI: None, PSI: None, BEND: (0.0, np.pi), STRETCH: (2.0, 20.0)}
SIGMAS = {PHI: 0.35, PSI: 0.5, BEND: 0.2, STRETCH: 1.0}
TEMPERATURE = 400.0


def chain(seed: int) -> np.ndarray:
    """Five atoms on a zigzag, displaced at random (bohr)."""
    zigzag = np.array([[2.3 * k, 0.8 * (-1) ** k, 0.3 * k] for k in range(5)])
    return zigzag + np.random.default_rng(seed).normal(scale=0.5, size=(5, 3))


def settings(variables: tuple[CollectiveVariable, ...], parallel: bool, grid: bool, fine: float = 5.0) -> BiasSettings:
    sigmas = tuple(SIGMAS[v] for v in variables)
    around = grid_around(variables, sigmas, [LIMITS[v] for v in variables], fine) if grid else None
    return BiasSettings(variables, HillParameters(2e-3, sigmas, 8.0, 10), parallel, around)


CASES = [
    ((PHI,), False),
    ((BEND,), False),
    ((STRETCH,), False),
    ((PHI, PSI), False),
    ((PHI, STRETCH), False),
    ((PHI, PSI, BEND, STRETCH), True),
]


def filled(bias: Metadynamics, n: int = 40) -> Metadynamics:
    for seed in range(n):
        bias.deposit(chain(seed))
    return bias


@pytest.mark.parametrize("variable", [PHI, PSI, BEND, STRETCH], ids=lambda v: v.label)
def test_compiled_variables_are_the_plain_ones(variable: CollectiveVariable) -> None:
    arrays = settings((variable,), False, True).build(TEMPERATURE).arrays()
    for seed in range(20):
        x, gradient = chain(seed), np.zeros((4, 3))
        value = _compiled.variable(x, arrays.kinds[0], arrays.atoms[0], gradient)
        expected, slopes = variable.value_and_gradient(x)
        assert value == pytest.approx(expected, abs=1e-13)
        np.testing.assert_allclose(gradient[: len(variable.atoms)], slopes, atol=1e-12)


@pytest.mark.parametrize(("variables", "parallel"), CASES)
def test_grid_is_the_sum_of_hills(variables: tuple[CollectiveVariable, ...], parallel: bool) -> None:
    """Energy and forces between the points; halving the spacing divides the error by sixteen."""
    if len(variables) == 2:
        n_hills, factors = 12, (3.0, 6.0)
    else:
        n_hills, factors = 40, (4.0, 8.0)
    exact = filled(settings(variables, parallel, False).build(TEMPERATURE), n_hills)
    error, slope_error = [], []
    for fine in factors:
        grid = settings(variables, parallel, True, fine).build(TEMPERATURE)
        grid.restore(exact.centres, exact.heights)
        places = [chain(seed) for seed in range(100, 130)]
        pairs = [(grid.energy_and_forces(x), exact.energy_and_forces(x)) for x in places]
        error.append(max(abs(a[0] - b[0]) for a, b in pairs))
        slope_error.append(max(np.abs(a[1] - b[1]).max() for a, b in pairs))
    largest = max(exact.energy_and_forces(x)[0] for x in places)
    assert largest > 2e-3
    assert error[0] < 1e-3 * largest
    assert error[1] < error[0] / 10.0
    assert slope_error[1] < slope_error[0] / 5.0


@pytest.mark.parametrize(("variables", "parallel"), CASES)
@pytest.mark.parametrize("grid", [False, True])
def test_forces_are_the_derivative(variables: tuple[CollectiveVariable, ...], parallel: bool, grid: bool) -> None:
    """Also on the grid exactly: a force that is not the gradient would heat the system."""
    bias = filled(settings(variables, parallel, grid, 2.0).build(TEMPERATURE), 15)
    for seed in (201, 202):
        x = chain(seed)
        forces = bias.energy_and_forces(x)[1]
        # Small steps, so that a step does not cross a cell's edge, where the third derivative jumps.
        reference = numerical_forces(lambda y: bias.energy_and_forces(y)[0], x, 2e-4)
        assert np.abs(forces).max() > 1e-5
        np.testing.assert_allclose(forces, reference, atol=2e-8)
        np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-15)
        np.testing.assert_allclose(np.cross(x, forces).sum(axis=0), 0.0, atol=1e-14)


@pytest.mark.parametrize(("variables", "parallel"), CASES)
def test_compiled_deposit_and_forces_are_those_of_the_object(
    variables: tuple[CollectiveVariable, ...], parallel: bool
) -> None:
    python = filled(settings(variables, parallel, True).build(TEMPERATURE), 10)
    compiled = settings(variables, parallel, True).build(TEMPERATURE)
    arrays = compiled.arrays(room=10)
    for seed in range(10):
        assert _compiled.deposit(chain(seed), arrays) == seed + 1
    assert compiled.n_hills == 10
    np.testing.assert_allclose(compiled.heights, python.heights, rtol=1e-12)
    np.testing.assert_allclose(compiled.centres, python.centres, atol=1e-12)
    x = chain(77)
    energy, forces = _compiled.energy_and_forces(x, arrays)
    assert energy == pytest.approx(python.energy_and_forces(x)[0], rel=1e-12)
    np.testing.assert_allclose(forces, python.energy_and_forces(x)[1], atol=1e-14)
    # Reading deposits nothing.
    assert _compiled.energy_and_forces(x, arrays)[0] == energy
    assert compiled.n_hills == 10


def test_compiled_deposit_says_when_there_is_no_room() -> None:
    bias = settings((PHI,), False, True).build(TEMPERATURE)
    arrays = bias.arrays(room=3)
    room = len(arrays.centres)
    for seed in range(room):
        assert _compiled.deposit(chain(seed), arrays) == seed + 1
    before = arrays.table.copy()
    assert _compiled.deposit(chain(0), arrays) == -1
    np.testing.assert_array_equal(arrays.table, before)
    assert len(bias.arrays(room=1).centres) > room
    assert bias.n_hills == room


def test_outside_the_grid_is_an_error_and_leaves_no_hill() -> None:
    grid = Grid((STRETCH,), (4.0,), (6.0,), (50,))
    bias = Metadynamics((STRETCH,), HillParameters(1e-3, 0.2, 5.0, 10), TEMPERATURE, grid=grid)
    bias.deposit_at(np.array([5.9]))
    with pytest.raises(GeometryError, match=r"stretch = 6.1; widen GRID_MIN and GRID_MAX"):
        bias.bias(np.array([6.1]))
    with pytest.raises(GeometryError, match="inside the grid"):
        bias.deposit_at(np.array([3.9]))
    assert _compiled.deposit_at(np.array([3.9]), bias.arrays(1)) == -2
    assert bias.n_hills == 1
    # The limits themselves are inside.
    assert bias.bias(np.array([6.0]))[0] == pytest.approx(1e-3 * np.exp(-0.125), rel=1e-6)
    assert bias.bias(np.array([4.0]))[0] == pytest.approx(0.0, abs=1e-12)


def test_grid_has_no_seam() -> None:
    bias = settings((PHI, PSI), False, True).build(TEMPERATURE)
    for s in (np.pi - 0.1, -np.pi + 0.05, np.pi):
        bias.deposit_at(np.array([s, 0.3]))
    here, there = np.array([np.pi - 1e-9, 0.3]), np.array([-np.pi + 1e-9, 0.3])
    assert bias.bias(here)[0] == pytest.approx(bias.bias(there)[0], rel=1e-7)
    np.testing.assert_allclose(bias.bias(here)[1], bias.bias(there)[1], atol=1e-7)
    around = [bias.bias(np.array([s, 0.3 + 2.0 * np.pi]))[0] for s in (-np.pi, np.pi, 3.0 * np.pi)]
    assert around == pytest.approx([around[0]] * 3, rel=1e-12)


def test_variables_on_a_line_are_named() -> None:
    line = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 4.0], [0.0, 0.0, 6.0], [0.0, 0.0, 0.0]])
    with pytest.raises(GeometryError, match="torsion of atoms 1, 2, 3, 4"):
        values_and_gradients(line, (PHI,))
    with pytest.raises(GeometryError, match="angle of atoms 1, 2, 4"):
        values_and_gradients(line, (BEND,))
    with pytest.raises(GeometryError, match="distance of atoms 5, 1"):
        values_and_gradients(line, (STRETCH,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CollectiveVariable("torsion", (0, 1, 2)), "4 different atoms"),
        (lambda: CollectiveVariable("angle", (0, 1, 1)), "3 different atoms"),
        (lambda: CollectiveVariable("improper", (0, 1, 2, 3)), "one of torsion, angle, distance"),  # type: ignore[arg-type]
        (lambda: CollectiveVariable("distance", (0, 1), "a b"), "without blanks"),
        (lambda: Grid((PHI,), (-np.pi,), (3.0,), (50,)), "whole circle"),
        (lambda: Grid((STRETCH,), (3.0,), (2.0,), (50,)), "lower limit below"),
        (lambda: Grid((STRETCH,), (3.0,), (4.0,), (1,)), "at least 2 bins"),
        (lambda: grid_around((STRETCH,), (0.1,)), "limits, as it is no torsion"),
        (lambda: settings((PHI, PSI), False, True, 2e4).build(TEMPERATURE), "at most 20000000 points"),
        (lambda: settings((PHI,), False, False).build(TEMPERATURE).arrays(), "compiled code: expected a grid"),
    ],
)
def test_wrong_variables_and_grids_are_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]

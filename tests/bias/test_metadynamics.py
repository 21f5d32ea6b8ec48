"""Torsions, angles and distances as collective variables, and the well-tempered bias on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fflux_py.bias import BiasSettings, CollectiveVariable, HillParameters, Metadynamics
from fflux_py.bias.collective_variables import (
    periodic_difference,
    torsion,
    torsion_and_gradient,
    values_and_gradients,
)
from fflux_py.errors import GeometryError, InputError
from fflux_py.molecules.molecule import Molecule
from fflux_py.sampling.thermostatted import LangevinConfig, run_langevin
from fflux_py.units import BOLTZMANN, FEMTOSECOND
from tests.support.sampling_models import Springs, hydrogen_peroxide, numerical_forces

HILLS = HillParameters(height=2e-3, sigma=0.3, bias_factor=8.0, pace=10)
CHAIN = (CollectiveVariable("torsion", (0, 1, 2, 3)), CollectiveVariable("torsion", (1, 2, 3, 4)))
ONE = CHAIN[:1]


def chain(seed: int) -> np.ndarray:
    """Five atoms on a zigzag, displaced at random (bohr)."""
    zigzag = np.array([[2.3 * k, 0.8 * (-1) ** k, 0.3 * k] for k in range(5)])
    return zigzag + np.random.default_rng(seed).normal(scale=0.5, size=(5, 3))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_torsion_gradient_is_the_derivative(seed: int) -> None:
    positions = chain(seed)
    atoms = (0, 1, 2, 3)
    normals = (
        np.cross(positions[0] - positions[1], positions[2] - positions[1]),
        np.cross(positions[1] - positions[2], positions[3] - positions[2]),
    )
    assume(min(np.linalg.norm(n) for n in normals) > 0.5)
    value, gradient = torsion_and_gradient(positions, atoms)
    assert value == pytest.approx(torsion(positions, atoms), abs=1e-12)
    reference = -numerical_forces(
        lambda x: value + float(periodic_difference(torsion(x, atoms), value)), positions[:4], 1e-3
    )
    np.testing.assert_allclose(gradient, reference, atol=1e-8 * max(1.0, np.abs(gradient).max()) ** 3)


@pytest.mark.parametrize("angle", [0.0, np.pi, -np.pi + 1e-9, 1e-9, 0.7, -2.5])
def test_torsion_gradient_has_no_singularity_in_planes(angle: float) -> None:
    positions = np.array([[-0.7, 1.7, 0.0], [0.0, 0.0, 0.0], [2.7, 0.0, 0.0], [3.1, np.cos(angle), np.sin(angle)]])
    value, gradient = torsion_and_gradient(positions, (0, 1, 2, 3))
    assert abs(periodic_difference(value, angle)) < 1e-12
    # The last atom moves on a circle of radius 1 around the axis.
    np.testing.assert_allclose(gradient[3], [0.0, -np.sin(angle), np.cos(angle)], atol=1e-9)


def test_torsion_ignores_rigid_motion_and_changes_sign_in_the_mirror() -> None:
    positions = chain(3)
    value, gradient = torsion_and_gradient(positions, (0, 1, 2, 3))
    rotation = Rotation.random(random_state=1)
    turned, turned_gradient = torsion_and_gradient(rotation.apply(positions) + 3.0, (0, 1, 2, 3))
    assert turned == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(turned_gradient, rotation.apply(gradient), atol=1e-12)
    assert torsion(positions * [1.0, 1.0, -1.0], (0, 1, 2, 3)) == pytest.approx(-value, abs=1e-12)
    np.testing.assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-13)
    np.testing.assert_allclose(np.cross(positions[:4], gradient).sum(axis=0), 0.0, atol=1e-12)


def test_torsion_of_a_linear_chain_is_refused() -> None:
    line = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 4.0], [1.0, 0.0, 5.0]])
    with pytest.raises(GeometryError, match=r"atoms 1, 2, 3, 4.*linear"):
        torsion_and_gradient(line, (0, 1, 2, 3))


def test_periodic_difference_stays_in_the_circle() -> None:
    assert periodic_difference(3.0, -3.0) == pytest.approx(6.0 - 2.0 * np.pi)
    assert periodic_difference(np.array([-3.0]), 3.0)[0] == pytest.approx(2.0 * np.pi - 6.0)


def torsions_of(molecule: Molecule) -> tuple[CollectiveVariable, ...]:
    return tuple(CollectiveVariable("torsion", atoms) for atoms in molecule.torsions())


def filled_bias(temperature: float = 300.0) -> Metadynamics:
    bias = Metadynamics(CHAIN, HILLS, temperature)
    for seed in range(100):
        bias.deposit(chain(seed))
    return bias


def test_bias_forces_are_the_derivative_also_across_the_seam() -> None:
    bias = Metadynamics(CHAIN, HILLS, 300.0)
    for seed in range(4):
        positions = chain(seed)
        values, _ = values_and_gradients(positions, CHAIN)
        # Hills on the other side of +-pi of the first torsion, within a sigma of the geometry.
        for shift in (0.2, -0.25, 2.0 * np.pi - 0.15, -2.0 * np.pi + 0.1):
            bias.deposit_at(values + shift)
        forces = bias.energy_and_forces(positions)[1]
        reference = numerical_forces(lambda x: bias.energy_and_forces(x)[0], positions, 1e-3)
        assert np.abs(forces).max() > 1e-4
        np.testing.assert_allclose(forces, reference, atol=1e-9)


def test_bias_is_periodic_in_every_torsion() -> None:
    bias = filled_bias()
    here = np.array([np.pi - 0.05, 0.3])
    there = np.array([-np.pi - 0.05, 0.3 + 2.0 * np.pi])
    assert bias.bias(here)[0] == pytest.approx(bias.bias(there)[0], rel=1e-12)
    np.testing.assert_allclose(bias.bias(here)[1], bias.bias(there)[1], atol=1e-15)


def test_reading_never_deposits() -> None:
    bias = filled_bias()
    before = bias.centres, bias.heights
    energies = {bias.energy_and_forces(chain(7))[0] for _ in range(50)}
    assert len(energies) == 1
    assert bias.n_hills == 100
    for old, new in zip(before, (bias.centres, bias.heights), strict=True):
        np.testing.assert_array_equal(old, new)
    # What is handed out is a copy: writing to it does not reach the bias.
    bias.heights[:] = 0.0
    assert bias.energy_and_forces(chain(7))[0] in energies


def test_run_deposits_once_per_pace() -> None:
    molecule = hydrogen_peroxide()
    bias = Metadynamics(torsions_of(molecule), HILLS, 300.0)
    rng = np.random.default_rng(1)
    run_langevin(molecule, Springs(molecule), LangevinConfig(300.0, 105, 5), rng, bias=bias)
    assert bias.n_hills == 10


def test_heights_follow_the_well_tempered_rule() -> None:
    temperature, point = 400.0, np.array([0.4, -1.0])
    bias = Metadynamics(CHAIN, HILLS, temperature)
    kt = BOLTZMANN * temperature
    total = 0.0
    for _ in range(70):
        expected = HILLS.height * np.exp(-total / (kt * (HILLS.bias_factor - 1.0)))
        assert bias.deposit_at(point) == pytest.approx(expected, rel=1e-12)
        total += expected
    assert bias.bias(point)[0] == pytest.approx(total, rel=1e-12)
    # In the limit of many hills on one spot V = Delta T kB ln(1 + n W / (Delta T kB)) (the paper, eq. 2 at one point).
    delta = kt * (HILLS.bias_factor - 1.0)
    assert total == pytest.approx(delta * np.log1p(70 * HILLS.height / delta), rel=0.03)
    # One sigma away in one torsion the sum falls by exp(-1/2).
    aside = point + np.array([HILLS.sigma, 0.0])
    assert bias.bias(aside)[0] == pytest.approx(total * np.exp(-0.5), rel=1e-9)


def test_free_energy_of_a_model_against_quadrature() -> None:
    """Overdamped particle on a circle with a stiff coordinate whose frequency depends on the angle.

    The bias must give the free energy, not the potential: the difference is kT/2 ln k(s), from -0.8 to 0.3 kT.
    """
    temperature, kt, gamma = 300.0, BOLTZMANN * 300.0, 3.0
    hills = HillParameters(height=0.1 * kt, sigma=0.3, bias_factor=gamma, pace=20)
    bias = Metadynamics(ONE, hills, temperature)
    noise = np.random.default_rng(12).standard_normal((100_000, 2)) * np.sqrt(2.0 * 0.02)
    s, y, slope = 0.0, 0.0, 0.0
    for k, (a, b) in enumerate(noise):
        # Energies in kT; U = 3 (1 - cos s) + k(s) y^2 / 2 with k(s) = 2 (1 + 0.8 cos s).
        if k % hills.pace == 0:
            bias.deposit_at(np.array([s]))
        if k % 2 == 0:
            slope = float(bias.bias(np.array([s]))[1][0]) / kt
        s, y = (
            s - 0.02 * (3.0 * np.sin(s) - 0.8 * np.sin(s) * y * y + slope) + a,
            y - 0.02 * 2.0 * (1.0 + 0.8 * np.cos(s)) * y + b,
        )
    grid = np.linspace(-np.pi, np.pi, 90, endpoint=False)
    y_grid = np.linspace(-12.0, 12.0, 1201)
    potential = 3.0 * (1.0 - np.cos(grid))
    energy = potential[:, None] + (1.0 + 0.8 * np.cos(grid))[:, None] * y_grid**2
    exact = -np.log(np.trapezoid(np.exp(-energy), y_grid, axis=1))
    estimate = np.array([-bias.bias(np.array([x]))[0] / kt for x in grid]) * gamma / (gamma - 1.0)
    assert np.ptp(exact) > 4.0
    assert np.std(estimate - exact) < 0.2
    # Four other seeds gave 0.08 to 0.16; without the scaling it is 0.6, against the potential 0.35.
    assert np.std(estimate * (gamma - 1.0) / gamma - exact) > 0.5
    assert np.std(estimate - potential) > 0.3


@pytest.mark.slow
def test_free_energy_of_a_torsion_in_a_molecule() -> None:
    """Langevin dynamics and bias together, on a molecule whose free energy is the torsion term exactly."""
    molecule, temperature, gamma = hydrogen_peroxide(), 600.0, 3.0
    kt = BOLTZMANN * temperature
    potential = Springs(molecule, barrier=4.0 * kt, tilt=2.0 * kt)
    config = LangevinConfig(temperature, 25_000, 100, timestep=1.0 / FEMTOSECOND, friction=0.02 * FEMTOSECOND)
    grid = np.linspace(-np.pi, np.pi, 72, endpoint=False)
    bias = Metadynamics(torsions_of(molecule), HillParameters(0.15 * kt, 0.25, gamma, 30), temperature)
    run_langevin(molecule, potential, config, np.random.default_rng(5), bias=bias)
    estimate = np.array([-bias.bias(np.array([x]))[0] for x in grid]) * gamma / (gamma - 1.0) / kt
    exact = potential.torsion_term(grid) / kt
    # Four seeds gave 0.15 to 0.29, and last bits decide which; without the scaling it was 0.53 to 0.59.
    assert np.std(estimate - exact) < 0.42
    assert np.std(estimate * (gamma - 1.0) / gamma - exact) > 0.45


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0.0}, "height"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": (0.1, 0.0)}, "sigma"),
        ({"bias_factor": 1.0}, "bias_factor"),
        ({"bias_factor": np.nan}, "bias_factor"),
        ({"pace": 0}, "pace"),
    ],
)
def test_wrong_hills_are_refused(change: dict[str, float], message: str) -> None:
    good = {"height": 1e-3, "sigma": 0.3, "bias_factor": 10.0, "pace": 20}
    with pytest.raises(InputError, match=message):
        HillParameters(**{**good, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variables", "sigma", "temperature", "message"),
    [
        ((), 0.3, 300.0, "at least one collective variable"),
        (CHAIN, 0.3, -5.0, "temperature"),
        (CHAIN, 1.5, 300.0, "at most 1 radian"),
        (CHAIN, (0.3,), 300.0, "one width for each of 2 variables"),
        ((CHAIN[0], CHAIN[0]), 0.3, 300.0, "every collective variable once"),
    ],
)
def test_wrong_biases_are_refused(
    variables: tuple[CollectiveVariable, ...], sigma: float | tuple[float, ...], temperature: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        BiasSettings(variables, HillParameters(1e-3, sigma, 10.0, 20)).build(temperature)


def test_a_wide_hill_on_a_distance_is_none_on_a_circle() -> None:
    distance = CollectiveVariable("distance", (0, 4))
    assert BiasSettings((distance,), HillParameters(1e-3, 1.5, 10.0, 20)).build(300.0).n_hills == 0


def test_without_tempering_heights_stay() -> None:
    bias = Metadynamics(ONE, HillParameters(2e-3, 0.3, np.inf, 10), 300.0)
    heights = [bias.deposit_at(np.array([0.5])) for _ in range(30)]
    assert heights == [2e-3] * 30
    assert bias.bias(np.array([0.5]))[0] == pytest.approx(0.06)


def test_parallel_bias_of_one_variable_is_the_joint_one() -> None:
    joint, parallel = (Metadynamics(ONE, HILLS, 300.0, parallel=p) for p in (False, True))
    for seed in range(20):
        assert parallel.deposit(chain(seed)) == pytest.approx(joint.deposit(chain(seed)), rel=1e-14)
    here, there = joint.energy_and_forces(chain(50)), parallel.energy_and_forces(chain(50))
    assert there[0] == pytest.approx(here[0], rel=1e-13)
    np.testing.assert_allclose(there[1], here[1], atol=1e-16)


def test_parallel_bias_is_the_soft_minimum_of_its_parts() -> None:
    """The formulas of the paper, from the heights and centres alone."""
    temperature = 500.0
    kt = BOLTZMANN * temperature
    bias = Metadynamics(CHAIN, HILLS, temperature, parallel=True)

    def parts(values: np.ndarray) -> np.ndarray:
        shift = periodic_difference(values, bias.centres) / HILLS.sigma
        return np.asarray((bias.heights * np.exp(-0.5 * shift**2)).sum(axis=0))

    for seed in range(60):
        values = bias.values(chain(seed))
        before = parts(values)
        share = np.exp(-before / kt) / np.exp(-before / kt).sum()
        expected = HILLS.height * share * np.exp(-before / (kt * (HILLS.bias_factor - 1.0)))
        assert bias.deposit_at(values) == pytest.approx(expected.sum(), rel=1e-12)
        np.testing.assert_allclose(bias.heights[-1], expected, rtol=1e-11)
    values = bias.values(chain(99))
    energy, slopes = bias.bias(values)
    each = parts(values)
    assert each.max() - each.min() > 0.5 * kt
    assert energy == pytest.approx(-kt * np.log(np.mean(np.exp(-each / kt))), rel=1e-12)
    assert each.min() <= energy <= each.min() + kt * np.log(2.0)
    for k in range(2):
        moved = [bias.bias(values + shift * np.eye(2)[k])[0] for shift in (-1e-5, 1e-5)]
        assert slopes[k] == pytest.approx((moved[1] - moved[0]) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("parallel", [False, True])
def test_restart_is_an_unbroken_run(parallel: bool) -> None:
    """Positions, velocities and hills after a stop agree bit for bit, whatever the place of the stop."""
    molecule = hydrogen_peroxide()
    variables = (*torsions_of(molecule), CollectiveVariable("distance", (0, 3)))
    settings_ = BiasSettings(variables, HillParameters(2e-3, (0.3, 0.4), 8.0, 10), parallel)
    potential = Springs(molecule, barrier=5e-3)
    whole = settings_.build(400.0)
    run = run_langevin(molecule, potential, LangevinConfig(400.0, 100, 1), np.random.default_rng(9), bias=whole)
    rng, bias = np.random.default_rng(9), settings_.build(400.0)
    first = run_langevin(molecule, potential, LangevinConfig(400.0, 37, 1), rng, bias=bias)
    again = settings_.build(400.0)
    again.restore(bias.centres, bias.heights)
    place = molecule.with_positions(first.positions[-1])
    rest = run_langevin(place, Springs(molecule, barrier=5e-3), LangevinConfig(400.0, 63, 1), rng, bias=again,
                        velocities=first.velocities[-1], done=37)  # fmt: skip
    np.testing.assert_array_equal(np.concatenate([first.positions, rest.positions]), run.positions)
    np.testing.assert_array_equal(np.concatenate([first.velocities, rest.velocities]), run.velocities)
    np.testing.assert_array_equal(again.heights, whole.heights)
    np.testing.assert_array_equal(again.centres, whole.centres)
    assert whole.n_hills == 10


def test_restore_refuses_what_does_not_fit() -> None:
    bias = filled_bias()
    with pytest.raises(InputError, match="a bias without hills, found 100"):
        bias.restore(bias.centres, bias.heights)
    with pytest.raises(InputError, match="2 variables and 1 heights"):
        Metadynamics(CHAIN, HILLS, 300.0).restore(bias.centres[:, :1], bias.heights)


def test_angle_and_distance_gradients_are_derivatives() -> None:
    for variable in (CollectiveVariable("angle", (4, 0, 2)), CollectiveVariable("distance", (3, 1))):
        for seed in range(10):
            x = chain(seed)
            value, gradient = variable.value_and_gradient(x)
            full = np.zeros_like(x)
            full[list(variable.atoms)] = gradient
            reference = -numerical_forces(lambda y, v=variable: v.value_and_gradient(y)[0], x, 1e-3)
            np.testing.assert_allclose(full, reference, atol=1e-8)
            turned = Rotation.random(random_state=seed).apply(x) - 2.0
            assert variable.value_and_gradient(turned)[0] == pytest.approx(value, abs=1e-12)
    right = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    assert CollectiveVariable("angle", (0, 1, 2)).value_and_gradient(right)[0] == pytest.approx(np.pi / 2)
    assert CollectiveVariable("distance", (0, 2)).value_and_gradient(right)[0] == pytest.approx(np.sqrt(10.0))

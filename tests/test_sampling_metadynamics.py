"""Torsions as collective variables, and the well-tempered bias on them."""

from __future__ import annotations

import numpy as np
import pytest
from _sampling_models import Springs, hydrogen_peroxide, numerical_forces
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fflux_py.errors import GeometryError, InputError
from fflux_py.sampling.collective_variables import (
    periodic_difference,
    torsion,
    torsion_and_gradient,
    torsions_and_gradients,
)
from fflux_py.sampling.metadynamics import HillParameters, TorsionMetadynamics
from fflux_py.sampling.thermostatted import LangevinConfig, run_langevin
from fflux_py.units import BOLTZMANN, FEMTOSECOND

HILLS = HillParameters(height=2e-3, sigma=0.3, bias_factor=8.0, pace=10)
CHAIN = ((0, 1, 2, 3), (1, 2, 3, 4))


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


def filled_bias(temperature: float = 300.0) -> TorsionMetadynamics:
    bias = TorsionMetadynamics(CHAIN, HILLS, temperature)
    for seed in range(100):
        bias.deposit(chain(seed))
    return bias


def test_bias_forces_are_the_derivative_also_across_the_seam() -> None:
    bias = TorsionMetadynamics(CHAIN, HILLS, 300.0)
    for seed in range(4):
        positions = chain(seed)
        values, _ = torsions_and_gradients(positions, CHAIN)
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
    before = bias.centres, bias.widths, bias.heights
    energies = {bias.energy_and_forces(chain(7))[0] for _ in range(50)}
    assert len(energies) == 1
    assert bias.n_hills == 100
    for old, new in zip(before, (bias.centres, bias.widths, bias.heights), strict=True):
        np.testing.assert_array_equal(old, new)
    # What is handed out is a copy: writing to it does not reach the bias.
    bias.heights[:] = 0.0
    assert bias.energy_and_forces(chain(7))[0] in energies


def test_run_deposits_once_per_pace() -> None:
    molecule = hydrogen_peroxide()
    bias = TorsionMetadynamics(molecule.torsions(), HILLS, 300.0)
    rng = np.random.default_rng(1)
    run_langevin(molecule, Springs(molecule), LangevinConfig(300.0, 105, 5), rng, bias=bias)
    assert bias.n_hills == 10


def test_heights_follow_the_well_tempered_rule() -> None:
    temperature, point = 400.0, np.array([0.4, -1.0])
    bias = TorsionMetadynamics(CHAIN, HILLS, temperature)
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
    bias = TorsionMetadynamics(((0, 1, 2, 3),), hills, temperature)
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
    bias = TorsionMetadynamics(molecule.torsions(), HillParameters(0.15 * kt, 0.25, gamma, 60), temperature)
    config = LangevinConfig(temperature, 50_000, 100, timestep=1.0 / FEMTOSECOND, friction=0.02 * FEMTOSECOND)
    run_langevin(molecule, potential, config, np.random.default_rng(5), bias=bias)
    grid = np.linspace(-np.pi, np.pi, 72, endpoint=False)
    estimate = np.array([-bias.bias(np.array([x]))[0] for x in grid]) * gamma / (gamma - 1.0) / kt
    exact = potential.torsion_term(grid) / kt
    # Three seeds gave 0.10 to 0.18; without the scaling it is 0.56.
    assert np.std(estimate - exact) < 0.3
    assert np.std(estimate * (gamma - 1.0) / gamma - exact) > 0.45


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0.0}, "height"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": 1.5}, "at most 1 radian"),
        ({"bias_factor": 1.0}, "bias_factor"),
        ({"bias_factor": np.nan}, "bias_factor"),
        ({"pace": 0}, "pace"),
    ],
)
def test_wrong_hills_are_refused(change: dict[str, float], message: str) -> None:
    good = {"height": 1e-3, "sigma": 0.3, "bias_factor": 10.0, "pace": 20}
    with pytest.raises(InputError, match=message):
        HillParameters(**{**good, **change})  # type: ignore[arg-type]


def test_bias_needs_a_torsion_and_a_temperature() -> None:
    with pytest.raises(InputError, match="at least one torsion"):
        TorsionMetadynamics((), HILLS, 300.0)
    with pytest.raises(InputError, match="temperature"):
        TorsionMetadynamics(CHAIN, HILLS, -5.0)

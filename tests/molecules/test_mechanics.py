"""Mechanics of a free molecule: rigid motions, thermal velocities, stochastic velocity rescaling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fflux_py.dynamics import MDConfig
from fflux_py.dynamics import _integrator as compiled
from fflux_py.dynamics._random import standard_normals
from fflux_py.dynamics.engine import Engine
from fflux_py.molecules import mechanics
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import rigid_motions
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, FEMTOSECOND
from tests.support.compiled_potentials import ammonia_morse, hydrogen_chloride

WATER = Molecule(("O", "H", "H"), np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) / ANGSTROM, name="water")


def test_rigid_motions_of_many_geometries() -> None:
    generator = np.random.default_rng(5)
    masses = generator.uniform(1.0, 10.0, 4)
    positions = generator.standard_normal((3, 4, 3))
    positions[1] = np.outer(generator.standard_normal(4), [1.0, 2.0, -0.5])  # one of them on a line
    many = mechanics.rigid_motions(positions, masses)
    assert many.shape == (3, 12, 6)
    root = np.sqrt(masses)[:, None]
    for one, basis, rank in zip(positions, many, (6, 5, 6), strict=True):
        alone = mechanics.rigid_motions(one, masses)
        assert alone.shape == (12, rank)
        np.testing.assert_array_equal(basis[:, :rank], alone)
        np.testing.assert_allclose(basis.T @ basis, np.diag([1.0] * rank + [0.0] * (6 - rank)), atol=1e-12)
        # Every velocity field v + omega x r lies in them.
        moving = (root * (generator.standard_normal(3) + np.cross(generator.standard_normal(3), one))).ravel()
        np.testing.assert_allclose(basis @ (basis.T @ moving), moving, atol=1e-12)


@pytest.mark.parametrize(
    "positions",
    [
        WATER.positions,
        np.array([[0, 0, -2.2], [0, 0, 0], [0, 0, 2.2]]),
        np.array([[0, 1, 0], [0, 1, 2], [0, 1, 7.0]]),
    ],
    ids=["bent", "linear", "linear, off the origin"],
)
def test_rigid_motion_is_removed(positions: FloatArray) -> None:
    rng = np.random.default_rng(3)
    masses = np.array([16.0, 1.0, 12.0]) * 1822.9
    velocities = rng.normal(size=(3, 3)) * 1e-3
    left = mechanics.remove_rigid_motion(positions, velocities, masses)
    np.testing.assert_allclose(masses @ left, 0.0, atol=1e-11)
    np.testing.assert_allclose(mechanics.angular_momentum(positions, left, masses), 0.0, atol=1e-10)
    # A projection: a second time changes nothing, and it takes away kinetic energy, never adds.
    np.testing.assert_allclose(mechanics.remove_rigid_motion(positions, left, masses), left, atol=1e-15)
    assert np.sum(masses[:, None] * left**2) < np.sum(masses[:, None] * velocities**2)
    # A rigid motion leaves nothing.
    rigid = np.array([1.0, -2.0, 3.0]) + np.cross([0.3, 0.2, -0.1], positions)
    np.testing.assert_allclose(mechanics.remove_rigid_motion(positions, rigid, masses), 0.0, atol=1e-12)


def test_rigid_motion_of_one_atom() -> None:
    assert not mechanics.remove_rigid_motion(np.ones((1, 3)), np.ones((1, 3)), np.array([4.0])).any()


def test_thermal_velocities_have_the_temperature_of_the_internal_motion() -> None:
    molecule, rng = WATER, np.random.default_rng(6)
    masses = molecule.masses[:, None]
    draws = [mechanics.maxwell_boltzmann(molecule.positions, molecule.masses, 500.0, rng) for _ in range(2000)]
    kinetic = np.array([0.5 * np.sum(masses * v**2) for v in draws])
    assert kinetic.mean() == pytest.approx(0.5 * 3 * BOLTZMANN * 500.0, rel=0.04)
    assert max(np.abs(molecule.masses @ v).max() for v in draws) < 1e-12


def test_many_geometries_are_projected_as_each_of_them_alone() -> None:
    """To the last bit, so that a run of replicas side by side is that of each one."""
    rng = np.random.default_rng(8)
    for n in (2, 3, 6, 22):
        masses = rng.uniform(2000.0, 30000.0, n)
        positions, velocities = 3.0 * rng.normal(size=(2, 5, n, 3))
        many = mechanics.remove_rigid_motion(positions, velocities, masses)
        for x, v, projected in zip(positions, velocities, many, strict=True):
            assert np.array_equal(projected, mechanics.remove_rigid_motion(x, v, masses))
            assert np.abs(mechanics.linear_momentum(projected, masses)).max() < 1e-15 * masses.sum() * np.abs(v).sum()
            assert (
                np.abs(mechanics.angular_momentum(x, projected, masses)).max() < 1e-13 * masses.sum() * np.abs(v).sum()
            )


def test_basis_of_the_normal_modes_spans_the_same_space() -> None:
    rng = np.random.default_rng(9)
    for positions in (rng.normal(size=(4, 3)), np.outer(np.arange(4.0), [1.0, 0.5, 2.0])):
        masses = rng.uniform(1.0, 16.0, 4)
        one, other = mechanics.rigid_motions(positions, masses), rigid_motions(positions, masses)
        assert one.shape == other.shape
        np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-13)


@pytest.mark.parametrize("freedom", [1, 3, 12])
def test_rescaling_makes_the_canonical_distribution(freedom: int) -> None:
    """Kinetic energies from a start that is three times too hot: a gamma distribution of f / 2 after some steps."""
    rng = np.random.default_rng(freedom)
    thermal, kinetic = 1e-3, np.full(4000, 3.0 * 0.5 * freedom * 1e-3)
    for _ in range(30):
        noise = rng.normal(size=(4000, freedom))
        kinetic = kinetic * mechanics.rescaling_factor(kinetic, thermal, 0.6, noise[:, 0], (noise**2).sum(axis=1)) ** 2
    assert stats.kstest(kinetic / thermal, stats.gamma(freedom / 2.0).cdf).pvalue > 1e-3


@pytest.mark.parametrize("decay", [0.95, 0.4, 1e-4])
def test_rescaling_of_one_degree_of_freedom_is_the_step_of_langevin_dynamics(decay: float) -> None:
    """x -> sqrt(c) x + sqrt((1 - c) kT / m) R for the sign of eq. A8; without it, both signs of x would not mix."""
    rng = np.random.default_rng(2)
    thermal, mass = 1e-3, 1500.0
    velocities, noise = np.sqrt(thermal / mass) * rng.normal(size=3000), rng.normal(size=3000)
    # the noise along the motion: R of the equation counts along the velocity as it is
    along = noise * np.sign(velocities)
    factor = mechanics.rescaling_factor(0.5 * mass * velocities**2, thermal, decay, along, along**2)
    expected = np.sqrt(decay) * velocities + np.sqrt((1.0 - decay) * thermal / mass) * noise
    np.testing.assert_allclose(factor * velocities, expected, rtol=1e-9, atol=1e-9 * np.sqrt(thermal / mass))
    assert (factor < 0.0).mean() == pytest.approx(np.arccos(np.sqrt(decay)) / np.pi, abs=0.03)


@pytest.mark.core
@pytest.mark.parametrize("name", ["ammonia", "hydrogen chloride"])
def test_compiled_rescaling_is_this_one(name: str) -> None:
    """Steps as long as the relaxation time, in which the sign of the factor changes often for one degree of freedom."""
    potential = ammonia_morse() if name == "ammonia" else hydrogen_chloride()
    config = MDConfig(steps=1, thermostat="velocity-rescaling", relaxation_time=5.0)
    engine = Engine.at_start(potential, potential.molecule, config, 1)
    state, system = engine.state, engine.system
    noise, signs = np.zeros(system.degrees_of_freedom), []
    for step in range(60):
        before = state.velocities[0].copy()
        kinetic = np.array([mechanics.kinetic_energy(before, system.masses)])
        standard_normals(state.keys[0], step, 0, noise)
        factor = mechanics.rescaling_factor(kinetic, system.thermal_energy, np.exp(-1.0), noise[:1],
                                            np.array([(noise**2).sum()]))  # fmt: skip
        compiled.rescale_velocities(0, state, system, step, 0, 5.0 / FEMTOSECOND)
        np.testing.assert_allclose(state.velocities[0], factor[0] * before, rtol=1e-11)
        signs.append(factor[0] < 0.0)
    assert any(signs)

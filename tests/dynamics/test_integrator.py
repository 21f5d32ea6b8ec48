"""The integrator: order, reversibility, conservation laws, and what it does without the compiler."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from fflux_py.dynamics import CompiledPotential, MDConfig, run_nvt
from fflux_py.dynamics import _integrator as compiled
from fflux_py.dynamics import run as run_module
from fflux_py.dynamics._calls import in_memory
from fflux_py.dynamics.engine import Engine
from fflux_py.dynamics.thermostats import THERMOSTATS, suzuki_yoshida_weights
from fflux_py.molecules import mechanics
from fflux_py.units import ANGSTROM, BOLTZMANN, FEMTOSECOND, KCAL_MOL
from tests.support.compiled_potentials import ammonia_morse, ammonia_springs, hydrogen_chloride, morse
from tests.support.paths import REPOSITORY


def spread_of_conserved(potential: CompiledPotential, timestep: float, thermostat: str) -> float:
    config = MDConfig(
        steps=round(200.0 / timestep),
        temperature=300.0,
        timestep=timestep,
        thermostat=thermostat,
        report_every=1,
        seed=4,
    )
    return float(run_nvt(potential, potential.molecule, config).conserved.std())


@pytest.mark.parametrize("thermostat", ["none", "nose-hoover"])
@pytest.mark.parametrize("potential", [ammonia_springs(), ammonia_morse()], ids=["springs", "morse"])
def test_conserved_quantity_fluctuates_as_the_square_of_the_time_step(
    potential: CompiledPotential, thermostat: str
) -> None:
    spreads = [spread_of_conserved(potential, timestep, thermostat) for timestep in (0.5, 0.25, 0.125)]
    assert spreads[0] * KCAL_MOL < 0.1
    assert spreads[0] / spreads[1] == pytest.approx(4.0, rel=0.1)
    assert spreads[1] / spreads[2] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("thermostat", ["velocity-rescaling", "langevin"])
def test_change_of_the_conserved_quantity_in_a_step_is_of_third_order(thermostat: str) -> None:
    """One step from each of the same 512 states: the root mean square over an ensemble does not hang on last bits."""
    potential, replicas, changes = ammonia_morse(), 512, []
    config = MDConfig(steps=1, timestep=0.5, thermostat=thermostat, seed=4)
    states = start_of(potential, config, replicas)
    states.advance(0, 400)
    for timestep in (0.5, 0.25):
        engine = start_of(potential, dataclasses.replace(config, timestep=timestep), replicas)
        for array, start in zip(engine.state, states.state, strict=True):
            array[:] = start
        before = np.array([engine.conserved(r) for r in range(replicas)])
        engine.advance(400, 1)
        after = np.array([engine.conserved(r) for r in range(replicas)])
        changes.append(np.sqrt(np.mean((after - before) ** 2)))
    # 4 for an integrator of one order less, 16 for one of one order more
    assert changes[0] / changes[1] == pytest.approx(8.0, rel=0.15)


def test_conserved_quantity_of_the_chain_does_not_drift() -> None:
    potential = ammonia_morse()
    run = run_nvt(potential, potential.molecule, MDConfig(steps=100_000, thermostat="nose-hoover", seed=1))
    drift = np.polyfit(run.times_fs / 1000.0, run.conserved * KCAL_MOL, 1)[0]
    # the energy exchanged with the thermostat is far larger than what is lost
    assert (run.potential + run.kinetic).std() * KCAL_MOL > 0.5
    assert np.abs(run.conserved - run.conserved[0]).max() * KCAL_MOL < 0.5
    assert abs(drift) < 5e-3  # kcal/mol per ps: half of what counts as stable


def start_of(potential: CompiledPotential, config: MDConfig, replicas: int = 1) -> Engine:
    return Engine.at_start(potential, potential.molecule, config, replicas)


@pytest.mark.core
def test_time_reversal() -> None:
    potential = ammonia_morse()
    engine = start_of(potential, MDConfig(steps=1, temperature=300.0, thermostat="none"))
    start = engine.state.positions.copy()
    engine.advance(0, 1000)
    assert np.abs(engine.state.positions - start).max() * ANGSTROM > 0.01
    engine.state.velocities[:] *= -1.0
    engine.advance(1000, 1000)
    assert np.abs(engine.state.positions - start).max() * ANGSTROM < 1e-9


@pytest.mark.core
@pytest.mark.parametrize("thermostat", THERMOSTATS)
def test_two_blocks_are_one(thermostat: str) -> None:
    config = MDConfig(steps=1, temperature=300.0, thermostat=thermostat)
    once, twice = start_of(ammonia_morse(), config), start_of(ammonia_morse(), config)
    once.advance(0, 40)
    twice.advance(0, 15)
    twice.advance(15, 25)
    for a, b in zip(once.state, twice.state, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("thermostat", THERMOSTATS)
def test_momentum_and_angular_momentum_stay_zero(thermostat: str) -> None:
    engine = start_of(ammonia_morse(), MDConfig(steps=1, temperature=500.0, thermostat=thermostat))
    masses = engine.system.masses
    scale = np.sqrt(masses.sum() * BOLTZMANN * 500.0)
    for block in range(20):
        engine.advance(1000 * block, 1000)
        positions, velocities = engine.state.positions[0], engine.state.velocities[0]
        assert np.abs(mechanics.angular_momentum(positions, velocities, masses)).max() < 1e-10
        assert np.abs(mechanics.linear_momentum(velocities, masses)).max() < 1e-12 * scale


@pytest.mark.core
@pytest.mark.parametrize("shape", ["pyramid", "line", "pair"])
def test_compiled_projection_is_that_of_the_singular_value_decomposition(shape: str) -> None:
    rng = np.random.default_rng(3)
    positions, masses = rng.normal(size=(5, 3)), rng.uniform(2000.0, 30000.0, 5)
    if shape == "line":
        positions = np.outer(np.arange(5.0), rng.normal(size=3)) + rng.normal(size=3)
    elif shape == "pair":
        positions, masses = positions[:2], masses[:2]
    velocities = rng.normal(size=positions.shape)
    expected = mechanics.remove_rigid_motion(positions, velocities, masses)
    compiled.remove_rigid_motion(positions, masses, velocities)
    assert np.abs(velocities - expected).max() < 1e-13


@pytest.mark.core
def test_suzuki_yoshida_weights_satisfy_their_order_conditions() -> None:
    for order in (1, 3, 5, 7):
        weights = suzuki_yoshida_weights(order)
        assert len(weights) == order
        assert weights.sum() == pytest.approx(1.0, abs=1e-14)
        assert np.array_equal(weights, weights[::-1])
        if order > 1:  # a symmetric product of second-order steps is of fourth order if this vanishes
            assert (weights**3).sum() == pytest.approx(0.0, abs=1e-13)
    assert (suzuki_yoshida_weights(7) ** 5).sum() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize(("order", "rate"), [(1, 2.0), (3, 4.0), (5, 4.0), (7, 6.0)])
def test_thermostat_converges_with_the_order_of_its_split(order: int, rate: float, length: int) -> None:
    """The chain alone, at fixed positions: the error against a fine integration falls as the split's order says."""
    potential = ammonia_morse()
    config = MDConfig(
        steps=1, thermostat="nose-hoover", suzuki_yoshida_order=order, chain_length=length, relaxation_time=5.0
    )

    def after(n: int, config: MDConfig) -> float:
        engine = start_of(potential, config)
        engine.state.velocities[:] *= 1.7
        for _ in range(n):
            kinetic = compiled.propagate_chain(0, engine.state, engine.system, 4.0 / FEMTOSECOND / n)
        velocities = engine.state.velocities[0]
        assert kinetic == pytest.approx(compiled.kinetic_energy(velocities, engine.system.masses), rel=1e-12)
        return float(kinetic)

    exact = after(512, dataclasses.replace(config, suzuki_yoshida_order=7))
    coarse, fine = (abs(after(n, config) - exact) for n in ((2, 4) if order == 7 else (4, 8)))
    assert np.log2(coarse / fine) == pytest.approx(rate, abs=0.5)


@pytest.mark.core
def test_thermostat_alone_conserves_its_energy() -> None:
    engine = start_of(ammonia_morse(), MDConfig(steps=1, thermostat="nose-hoover", suzuki_yoshida_order=7))
    state, system = engine.state, engine.system
    state.velocities[:] *= 1.5
    kinetic = compiled.kinetic_energy(state.velocities[0], system.masses)
    before = engine.conserved(0)
    for _ in range(100):
        compiled.propagate_chain(0, state, system, 0.5 / FEMTOSECOND)
    assert abs(compiled.kinetic_energy(state.velocities[0], system.masses) - kinetic) > 1e-4
    assert engine.conserved(0) == pytest.approx(before, abs=1e-10)


def test_diatomic_molecule_vibrates_at_its_frequency() -> None:
    """Small oscillation of a Morse molecule: angular frequency a sqrt(2 D / mu)."""
    potential = hydrogen_chloride()
    depth, exponent = potential.arrays.depth[0], potential.arrays.exponent[0]
    masses = potential.molecule.masses
    omega = exponent * np.sqrt(2.0 * depth * masses.sum() / masses.prod())
    config = MDConfig(
        steps=8000, temperature=5.0, timestep=0.1, thermostat="none", report_every=1, exact_temperature=True
    )
    run = run_nvt(potential, potential.molecule, config)
    stretch = np.linalg.norm(run.positions[:, 1] - run.positions[:, 0], axis=1) - potential.arrays.length[0]
    crossings = np.flatnonzero((stretch[:-1] < 0) & (stretch[1:] >= 0))
    fraction = stretch[crossings] / (stretch[crossings] - stretch[crossings + 1])
    times = (crossings + fraction) * 0.1 / FEMTOSECOND
    assert 2.0 * np.pi / np.diff(times).mean() == pytest.approx(omega, rel=2e-3)


@njit
def _refuses(positions, arrays):
    if positions[0, 0] < 1e9:
        raise ValueError("not this geometry")
    return 0.0, np.zeros_like(positions)


@pytest.mark.core
def test_error_of_a_force_function_arrives() -> None:
    potential = ammonia_morse()
    engine = start_of(potential, MDConfig(steps=1))
    state, system = engine.state, engine.system
    refusing = Engine(dataclasses.replace(potential, force_function=_refuses), system, state, 1)
    with pytest.raises(ValueError, match="not this geometry"):
        refusing.advance(0, 1)


def test_loop_is_compiled_once_for_all_force_functions() -> None:
    first, second = ammonia_morse(), ammonia_springs()
    for potential in (first, second):
        start_of(potential, MDConfig(steps=1)).advance(0, 1)
    if not hasattr(compiled.advance, "signatures"):
        pytest.skip("the compiler is switched off")
    before = len(in_memory(compiled.advance).signatures)

    @njit
    def another(positions, arrays):
        return morse(positions, arrays)

    engine = start_of(dataclasses.replace(first, force_function=another), MDConfig(steps=1))
    engine.advance(0, 5)
    assert engine.state.active.all()
    assert len(in_memory(compiled.advance).signatures) == before
    # the cache on disk must not name classes that another process may not be able to import
    assert "compiled_potentials" not in repr(compiled.advance.signatures)


_INTERPRETED = """
from tests.support.compiled_potentials import ammonia_morse
from fflux_py.dynamics import MDConfig, run_nvt
run = run_nvt(ammonia_morse(), ammonia_morse().molecule, MDConfig(steps=30, seed=11, report_every=30))
print(repr([float(x) for x in (*run.positions[-1].ravel(), run.conserved[-1])]))
"""


def test_without_the_compiler_the_run_is_the_same() -> None:
    source = Path(run_module.__file__).parents[2]
    environment = {
        **os.environ,
        "NUMBA_DISABLE_JIT": "1",
        "PYTHONPATH": os.pathsep.join([str(source), str(REPOSITORY)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", _INTERPRETED], capture_output=True, text=True, env=environment, check=True
    )
    interpreted = [float(x) for x in done.stdout.strip()[1:-1].split(",")]
    potential = ammonia_morse()
    run = run_nvt(potential, potential.molecule, MDConfig(steps=30, seed=11, report_every=30))
    assert np.abs(run.positions[-1] - potential.molecule.positions).max() > 1e-2
    assert np.allclose(interpreted, [*run.positions[-1].ravel(), run.conserved[-1]], rtol=0.0, atol=1e-11)

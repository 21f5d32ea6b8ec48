"""What is sampled: temperature, kinetic-energy distribution, potential energy, with degrees of freedom counted here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numba import njit
from scipy import stats

from fflux_py.dynamics import CompiledPotential, MDConfig, Trajectory, run_nvt
from fflux_py.dynamics import _integrator as compiled
from fflux_py.dynamics.engine import initial_state, system_of
from fflux_py.molecules import mechanics
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, KJ_MOL
from tests.support.compiled_potentials import ammonia_morse, ammonia_springs, carbon_dioxide, hydrogen_chloride

CANONICAL = ("nose-hoover", "velocity-rescaling", "langevin")


def independent_degrees_of_freedom(positions: FloatArray, masses: FloatArray) -> int:
    """3N less the rank of (P, L) as linear functions of the velocities, written down component by component."""
    constraints = np.zeros((6, 3 * len(masses)))
    for i, (mass, (x, y, z)) in enumerate(zip(masses, positions, strict=True)):
        constraints[:3, 3 * i : 3 * i + 3] = mass * np.eye(3)
        constraints[3:, 3 * i : 3 * i + 3] = mass * np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return 3 * len(masses) - int(np.linalg.matrix_rank(constraints, tol=1e-8 * np.linalg.norm(constraints)))


def mean_and_error(series: FloatArray, n_blocks: int = 20) -> tuple[float, float]:
    """Mean and its standard error by block averaging, the first 5 % left out."""
    series = series[len(series) // 20 :]
    blocks = series[: len(series) // n_blocks * n_blocks].reshape(n_blocks, -1).mean(axis=1)
    return float(series.mean()), float(blocks.std(ddof=1) / np.sqrt(n_blocks))


def sample(
    potential: CompiledPotential,
    temperature: float,
    steps: int,
    timestep: float = 0.5,
    seed: int = 3,
    thermostat: str = "nose-hoover",
) -> Trajectory:
    config = MDConfig(
        steps=steps, temperature=temperature, timestep=timestep, seed=seed, report_every=20, thermostat=thermostat
    )
    return run_nvt(potential, potential.molecule, config)


@cache
def long_run(
    potential: Callable[[], CompiledPotential], temperature: float, thermostat: str = "nose-hoover"
) -> Trajectory:
    """100 ps, of which several tests look at one property each."""
    return sample(potential(), temperature, 200_000, thermostat=thermostat)


@pytest.mark.parametrize(
    ("potential", "temperature", "thermostat"),
    [
        (ammonia_morse, 500.0, "nose-hoover"),
        (ammonia_morse, 250.0, "nose-hoover"),
        (carbon_dioxide, 300.0, "nose-hoover"),
        (ammonia_morse, 500.0, "velocity-rescaling"),
        (ammonia_morse, 500.0, "langevin"),
        (carbon_dioxide, 300.0, "langevin"),
    ],
)
def test_mean_temperature(potential: Callable[[], CompiledPotential], temperature: float, thermostat: str) -> None:
    run = long_run(potential, temperature, thermostat)
    freedom = independent_degrees_of_freedom(run.positions[len(run) // 2], run.molecule.masses)
    kinetic, error = mean_and_error(run.kinetic)
    mean, error = (2.0 * x / (freedom * BOLTZMANN) for x in (kinetic, error))
    assert error < 0.03 * temperature  # one degree of freedom more or less is 17 % and more
    # Two standard errors would fail on one in twenty machines, for the trajectory is chaotic; and the modes of a stiff,
    # nearly harmonic molecule exchange energy with a chain so slowly that the error comes out too small.
    assert abs(mean - temperature) < max(4.0 * error, 0.04 * temperature)
    assert run.temperature.mean() == pytest.approx(2.0 * run.kinetic.mean() / (freedom * BOLTZMANN), rel=1e-12)


def simulation_data(validation: Any, run: Trajectory, temperature: float, rotations: int = 3) -> Any:
    """A run in the form of physical_validation."""
    units = validation.data.UnitData(
        kb=BOLTZMANN * KJ_MOL,
        energy_str="kJ/mol",
        energy_conversion=1.0,
        length_str="nm",
        length_conversion=1.0,
        volume_str="nm^3",
        volume_conversion=1.0,
        temperature_str="K",
        temperature_conversion=1.0,
        pressure_str="bar",
        pressure_conversion=1.0,
        time_str="ps",
        time_conversion=1.0,
    )
    n = run.molecule.n_atoms
    return validation.data.SimulationData(
        units=units,
        ensemble=validation.data.EnsembleData("NVT", natoms=n, volume=1.0, temperature=temperature),
        observables=validation.data.ObservableData(
            kinetic_energy=run.kinetic * KJ_MOL,
            potential_energy=run.potential * KJ_MOL,
            total_energy=(run.kinetic + run.potential) * KJ_MOL,
        ),
        system=validation.data.SystemData(natoms=n, nconstraints=0, ndof_reduction_tra=3, ndof_reduction_rot=rotations),
    )


def kinetic_energy_check(run: Trajectory, temperature: float, rotations: int = 3) -> float:
    """p value of the Kolmogorov-Smirnov test of physical_validation."""
    validation = pytest.importorskip("physical_validation")
    data = simulation_data(validation, run, temperature, rotations)
    return float(validation.kinetic_energy.distribution(data, strict=True, verbosity=0))


@pytest.mark.parametrize("thermostat", CANONICAL)
def test_kinetic_energy_distribution_is_that_of_3n_minus_6_degrees_of_freedom(thermostat: str) -> None:
    run = long_run(ammonia_morse, 500.0, thermostat)
    assert kinetic_energy_check(run, 500.0) > 1e-3
    # rescaling, five times slower than the chain by default, leaves fewer independent samples
    assert kinetic_energy_check(run, 500.0, rotations=2) < (1e-5 if thermostat == "velocity-rescaling" else 1e-10)


@pytest.mark.parametrize(
    "thermostat", ["nose-hoover", pytest.param("velocity-rescaling", marks=pytest.mark.exhaustive)]
)
def test_kinetic_energy_check_sees_one_degree_of_freedom_too_many(
    monkeypatch: pytest.MonkeyPatch, thermostat: str
) -> None:
    monkeypatch.setattr(mechanics, "degrees_of_freedom", lambda n: 3 * n - 5)
    run = sample(ammonia_morse(), 500.0, 200_000, thermostat=thermostat)
    assert kinetic_energy_check(run, 500.0) < (1e-4 if thermostat == "velocity-rescaling" else 1e-10)


def test_noise_along_rigid_motions_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Langevin dynamics without the projection has 3N degrees of freedom in motion, and the check says so."""

    @njit
    def nothing(positions, masses, velocities):
        pass

    monkeypatch.setattr(compiled, "remove_rigid_motion", nothing)
    unprojected = njit(compiled.ornstein_uhlenbeck_step.py_func)  # compiled again, with the name that was replaced
    potential, rng_free = ammonia_morse(), []
    for project in (True, False):
        config = MDConfig(steps=1, temperature=300.0, thermostat="langevin", relaxation_time=1.0)
        system = system_of(potential.molecule, config)
        state = initial_state(potential, potential.molecule, system, config, (0,))
        energies = []
        for step in range(4000):
            step_of = (
                compiled.ornstein_uhlenbeck_step if project and hasattr(unprojected, "signatures") else unprojected
            )
            step_of(0, state, system, step, 200.0)
            energies.append(compiled.kinetic_energy(state.velocities[0], system.masses))
        rng_free.append(2.0 * float(np.mean(energies)) / system.thermal_energy)
    assert rng_free[0] == pytest.approx(6.0, abs=0.25)
    assert rng_free[1] == pytest.approx(12.0, abs=0.35)


@pytest.mark.parametrize(
    "thermostat",
    [name if name == "langevin" else pytest.param(name, marks=pytest.mark.exhaustive) for name in CANONICAL],
)
def test_potential_energies_at_two_temperatures_are_canonical(thermostat: str) -> None:
    """ln of the ratio of two canonical histograms is linear in the energy, with slope 1/kT1 - 1/kT2."""
    validation = pytest.importorskip("physical_validation")
    temperatures = (300.0, 400.0)
    data = []
    for temperature in temperatures:
        run = sample(ammonia_morse(), temperature, 150_000, thermostat=thermostat)
        data.append(simulation_data(validation, run, temperature))
    (deviation,) = validation.ensemble.check(*data, verbosity=0, data_is_uncorrelated=False)
    assert abs(deviation) < 3.5


def test_molecule_that_starts_on_a_line_has_3n_minus_6(monkeypatch: pytest.MonkeyPatch) -> None:
    """L = 0 leaves O-C-O two stretches and one bend, in a plane: 3 degrees of freedom, not 3N - 5 = 4."""
    run = long_run(carbon_dioxide, 300.0)
    assert kinetic_energy_check(run, 300.0) > 1e-5
    plane = run.positions[:, [0, 2]] - run.positions[:, [1]]
    normals = np.cross(plane[:, 0], plane[:, 1])
    normals = normals[np.linalg.norm(normals, axis=1) > 0.05]
    assert np.linalg.matrix_rank(normals, tol=1e-6) == 1  # it never leaves the plane of its first bend
    monkeypatch.setattr(mechanics, "degrees_of_freedom", lambda n: 3 * n - 5)
    assert kinetic_energy_check(sample(carbon_dioxide(), 300.0, 200_000), 300.0) < 1e-10


def test_degrees_of_freedom_are_the_rank_of_the_constraints() -> None:
    rng = np.random.default_rng(5)
    for n in (2, 3, 4, 9):
        positions, masses = rng.normal(size=(n, 3)), rng.uniform(1.0, 20.0, n)
        assert mechanics.degrees_of_freedom(n) == independent_degrees_of_freedom(positions, masses)
    assert mechanics.degrees_of_freedom(2) == 1


def test_mean_potential_energy_of_a_harmonic_molecule() -> None:
    """Equipartition: (3N - 6) kT / 2, at a temperature and a time step at which springs between atoms are harmonic."""
    temperature = 30.0
    runs = [sample(ammonia_springs(), temperature, 50_000, timestep=0.2, seed=seed) for seed in range(12)]
    means = np.array([[run.potential[500:].mean(), run.kinetic[500:].mean()] for run in runs])
    expected = 6 / 2 * BOLTZMANN * temperature
    # nearly harmonic modes exchange energy slowly, so that the error is that of independent runs, not of blocks of one
    (potential, kinetic), errors = means.mean(axis=0), means.std(axis=0, ddof=1) / np.sqrt(len(runs))
    assert errors.max() < 0.035 * expected
    assert abs(potential - expected) < 4.0 * errors[0]
    # the virial of each mode, free of the thermostat's fluctuations
    assert potential / kinetic == pytest.approx(1.0, abs=0.015)


def test_potential_energy_of_a_diatomic_molecule_has_its_distribution() -> None:
    """At L = 0 the weight exp(-V/kT) / sqrt(det I) is exp(-V/kT) dr for two atoms: no centrifugal r^2."""
    potential = hydrogen_chloride()
    temperature = 1500.0
    run = sample(potential, temperature, 800_000, timestep=0.25)
    length, depth, exponent = potential.arrays.length[0], potential.arrays.depth[0], potential.arrays.exponent[0]
    r = np.linspace(length - 1.0, length + 1.2, 4001)
    weight = np.exp(-depth * (1.0 - np.exp(-exponent * (r - length))) ** 2 / (BOLTZMANN * temperature))
    exact = float((weight * r).sum() / weight.sum())
    with_rotation = float((weight * r**3).sum() / (weight * r**2).sum())
    mean, error = mean_and_error(np.linalg.norm(run.positions[:, 1] - run.positions[:, 0], axis=1), 10)
    assert abs(mean - exact) < 4.0 * error
    assert with_rotation - mean > 6.0 * error


def test_initial_velocities_are_maxwell_boltzmann_without_rigid_motion() -> None:
    potential = ammonia_morse()
    positions, masses = potential.molecule.positions, potential.molecule.masses
    temperature, freedom = 400.0, 6
    velocities = [
        mechanics.maxwell_boltzmann(positions, masses, temperature, mechanics.random_stream(seed, 0))
        for seed in range(2000)
    ]
    kinetic = np.array([mechanics.kinetic_energy(v, masses) for v in velocities])
    assert stats.kstest(kinetic / (BOLTZMANN * temperature), stats.gamma(freedom / 2.0).cdf).pvalue > 1e-3
    for v in velocities[:20]:
        assert np.abs(mechanics.linear_momentum(v, masses)).max() < 1e-12
        assert np.abs(mechanics.angular_momentum(positions, v, masses)).max() < 1e-12
    # at L = 0 a light atom carries no more than its share: the covariance is kT M^-1 projected, not merely rescaled
    root = np.sqrt(masses)[:, None]
    weighted = np.array([(root * v).ravel() for v in velocities]) / np.sqrt(BOLTZMANN * temperature)
    basis = mechanics.rigid_motions(positions, masses)
    projector = np.eye(12) - basis @ basis.T
    assert np.abs(np.cov(weighted.T) - projector).max() < 0.15


def test_initial_velocities_scaled_to_the_temperature_exactly() -> None:
    potential = ammonia_morse()
    config = MDConfig(steps=1, temperature=350.0, exact_temperature=True, thermostat="none")
    assert run_nvt(potential, potential.molecule, config).temperature[0] == pytest.approx(350.0, rel=1e-12)
    drawn = [run_nvt(potential, potential.molecule, MDConfig(steps=1, seed=s)).temperature[0] for s in range(3)]
    assert np.ptp(drawn) > 1.0


def test_linear_start_has_velocities_without_rotation() -> None:
    line = Molecule(("O", "C", "O"), np.array([(0.0, 0.0, -2.2), (0.0, 0.0, 0.0), (0.0, 0.0, 2.2)]))
    assert mechanics.rigid_motions(line.positions, line.masses).shape == (9, 5)
    v = mechanics.maxwell_boltzmann(line.positions, line.masses, 300.0, np.random.default_rng(1))
    assert np.isfinite(v).all()
    assert np.abs(mechanics.angular_momentum(line.positions, v, line.masses)).max() < 1e-12

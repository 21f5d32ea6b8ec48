"""Trajectories to learn from, the equipartition monitor, ensembles, corrections, and ASE; no network in sight."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import ase.units
import numpy as np
import pytest
from ase import Atoms

from fflux_py.dynamics import CompiledPotential
from fflux_py.errors import FileFormatError, InputError, ModelMismatchError, SimulationStopped
from fflux_py.molecules import mechanics
from fflux_py.molecules.equipartition import orientations
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import normal_modes
from fflux_py.propagators.ase_dynamics import (
    PropagatorDynamics,
    PropagatorLangevin,
    PropagatorNVE,
    PropagatorVelocityRescaling,
)
from fflux_py.propagators.equipartition import EquipartitionMonitor
from fflux_py.propagators.propagator import Header
from fflux_py.propagators.run import PropagationConfig, propagate, thermal_starts
from fflux_py.propagators.trajectories import SPLITS, TrajectoryConfig, TrajectorySet, make_trajectories
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, DALTON, FEMTOSECOND
from tests.support.compiled_potentials import Pairs as MorsePairs
from tests.support.compiled_potentials import hydrogen_chloride, morse
from tests.support.synthetic import MethanolPotential, methanol


@dataclass
class Verlet:
    """A propagator that is as good as exact: ten steps of velocity Verlet; or one with a fault."""

    drift: float = 0.0
    spin: float = 0.0
    gain: float = 1.0
    still: bool = False
    explode: bool = False

    @property
    def header(self) -> Header:
        molecule = methanol()
        return Header("direct", molecule, molecule.masses, 2.0)

    def advance(self, positions: FloatArray, velocities: FloatArray, step: float) -> tuple[FloatArray, FloatArray]:
        q, v = positions.copy(), velocities.copy()
        if self.explode:
            q[:, 0] += 30.0
        if self.still:
            return q, v
        potential, masses = MethanolPotential(), methanol().masses[:, None]
        h = step / 10.0 / FEMTOSECOND
        forces = potential.compute(q)[1]
        for _ in range(10):
            v = v + 0.5 * h / masses * forces
            q = q + h * v
            forces = potential.compute(q)[1]
            v = v + 0.5 * h / masses * forces
        return q, self.gain * v + self.drift + self.spin * np.cross([0.0, 0.0, 1.0], q)


class Energies:
    """The potential of the runs, for many geometries."""

    def compute(self, positions: FloatArray, deriv: int = 1) -> tuple[FloatArray, FloatArray | None]:
        return MethanolPotential().compute(positions)


def starts(replicas: int, temperature: float = 300.0) -> tuple[FloatArray, FloatArray]:
    molecule = methanol()
    return thermal_starts(np.array(molecule.positions), molecule.masses, temperature, replicas, 7)


@cache
def minimum() -> FloatArray:
    """That of the analytic potential, by steepest descent."""
    q, potential = np.array(methanol().positions), MethanolPotential()
    for _ in range(1500):
        q = q + 0.5 * potential.energy_and_forces(q)[1]
    return q


def morse_water() -> CompiledPotential:
    positions = np.array([[0.0, 0.0, 0.0], [1.81, 0.0, 0.0], [-0.45, 1.75, 0.0]])
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    lengths = np.linalg.norm(positions[pairs[:, 0]] - positions[pairs[:, 1]], axis=1)
    arrays = MorsePairs(pairs, np.array([0.17, 0.17, 0.05]), np.array([1.2, 1.2, 1.0]), lengths)
    return CompiledPotential(Molecule(("O", "H", "H"), positions), morse, arrays)


@pytest.fixture(scope="module")
def made() -> TrajectorySet:
    potential = morse_water()
    config = TrajectoryConfig(
        temperatures=(200.0, 400.0), trajectories=10, length=10.0, decorrelation=30.0, replicas=4, interval=1.0,
        held_out=0.2, seed=3,
    )  # fmt: skip
    return make_trajectories(potential, potential.molecule, config)


def test_trajectories_are_at_constant_energy_at_rest_and_thermal(made: TrajectorySet) -> None:
    potential = morse_water()
    energies = np.array(
        [
            [potential.force_function(np.array(q), potential.arrays)[0] + mechanics.kinetic_energy(v, made.masses)
             for q, v in zip(*frames, strict=True)]
            for frames in zip(made.positions, made.velocities, strict=True)
        ]
    )  # fmt: skip
    assert made.positions.shape == (20, 11, 3, 3)
    assert np.abs(energies - energies[:, :1]).max() < 2e-5
    assert energies[:, 0].std() > 5e-4
    assert energies[10:, 0].mean() > 1.3 * energies[:10, 0].mean()
    for q, v in zip(made.positions[:, -1], made.velocities[:, -1], strict=True):
        assert np.abs(mechanics.linear_momentum(v, made.masses)).max() < 1e-10
        assert np.abs(mechanics.angular_momentum(q, v, made.masses)).max() < 1e-9


def test_pairs_are_split_by_trajectory_and_reversed(made: TrajectorySet) -> None:
    """Both halves are solutions of the equations of motion: Verlet from the start arrives at the end."""
    sizes = [len(made.members(split)) for split in SPLITS]
    assert sizes == [12, 4, 4]
    frames = {split: {tuple(q.ravel()) for q in made.positions[made.members(split)].reshape(-1, 9)} for split in SPLITS}
    assert not frames["train"] & frames["test"]
    assert not frames["train"] & frames["validation"]
    pairs = made.pairs(3.0, "test")
    assert len(pairs.positions) == 2 * 4 * 8
    potential, masses = morse_water(), made.masses[:, None]
    h = 0.25 / FEMTOSECOND
    for k in (0, 5, 40, 63):
        q, v = pairs.positions[k], pairs.velocities[k]
        for _ in range(12):
            v = v + 0.5 * h / masses * potential.force_function(np.array(q), potential.arrays)[1]
            q = q + h * v
            v = v + 0.5 * h / masses * potential.force_function(np.array(q), potential.arrays)[1]
        assert np.abs(q - pairs.next_positions[k]).max() < 1e-9
        assert np.abs(v - pairs.next_velocities[k]).max() < 1e-11
    with pytest.raises(ModelMismatchError, match="multiple of 1 fs"):
        made.pairs(2.5, "test")


def test_trajectory_file_comes_back_and_damage_is_seen(made: TrajectorySet, tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    made.save(path)
    again = TrajectorySet.load(path)
    assert again.digest() == made.digest()
    assert np.array_equal(again.velocities, made.velocities)
    data = bytearray(path.read_bytes())
    for damaged in (bytes(data[:-40]), b"text", bytes(data[:5000]) + bytes([data[5000] ^ 1]) + bytes(data[5001:])):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError) as caught:
            TrajectorySet.load(path)
        assert "\n" not in str(caught.value)


def test_normal_modes_and_their_orientation() -> None:
    molecule, potential, q = methanol(), MethanolPotential(), minimum()
    modes = normal_modes(potential, q, molecule.masses)
    assert modes.vectors.shape == (18, 12)
    assert np.abs(modes.vectors.T @ modes.vectors - np.eye(12)).max() < 1e-9
    assert 2500.0 < modes.wavenumbers[-1] < 4500.0
    assert (np.diff(modes.wavenumbers) >= 0.0).all()
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    found = orientations((q @ turn.T + 1.0)[None], q, molecule.masses)[0]
    assert np.abs(found - turn).max() < 1e-9
    bent = normal_modes(potential, q + 0.3 * np.random.default_rng(1).standard_normal(q.shape), molecule.masses)
    with pytest.raises(InputError, match="minimum"):
        EquipartitionMonitor(molecule, molecule.masses, bent)


def test_monitor_finds_the_temperature_of_every_part_away_from_the_minimum() -> None:
    """Maxwell-Boltzmann velocities at P = 0, L = 0 at bent geometries: every element and mode has the temperature."""
    molecule, potential, q = methanol(), MethanolPotential(), minimum()
    modes = normal_modes(potential, q, molecule.masses)
    monitor = EquipartitionMonitor(molecule, molecule.masses, modes)
    generator = np.random.default_rng(4)
    bent = q + 0.2 * generator.standard_normal((3000, *q.shape))
    spread = np.sqrt(BOLTZMANN * 300.0 / molecule.masses)[:, None]
    v = mechanics.remove_rigid_motion(bent, spread * generator.standard_normal(bent.shape), molecule.masses)
    monitor.add(bent, v)
    found = monitor.temperatures()
    assert set(found) >= {"C", "O", "H"}
    assert len(found) == 3 + 12
    for name, (mean, error) in found.items():
        assert abs(mean - 300.0) < 4.5 * error, name
        assert error < 15.0
    cold = v.copy()
    cold[:, 5] *= 0.5
    monitor = EquipartitionMonitor(molecule, molecule.masses, modes)
    monitor.add(bent, mechanics.remove_rigid_motion(bent, cold, molecule.masses))
    assert monitor.temperatures()["H"][0] < 280.0


@pytest.mark.parametrize("ensemble", ["langevin", "velocity-rescaling"])
def test_thermostats_alone_make_the_canonical_distribution(ensemble: str) -> None:
    """Mean and variance of the kinetic energy of 12 degrees of freedom, from starts that are far too hot."""
    q, v = starts(400, 900.0)
    config = PropagationConfig(steps=40, step=2.0, ensemble=ensemble, temperature=300.0, relaxation_time=10.0)
    kinetic = propagate(Verlet(still=True), q, v, config).kinetic[-1] / (BOLTZMANN * 300.0)
    assert abs(kinetic.mean() - 6.0) < 4.0 * np.sqrt(6.0 / 400)
    assert abs(kinetic.var() - 6.0) < 4.0 * 6.0 * np.sqrt(2.0 / 400 * 1.5)


@dataclass
class Rest:
    """A propagator of hydrogen chloride that moves nothing: only the thermostat acts, on one degree of freedom."""

    step: float

    @property
    def header(self) -> Header:
        molecule = hydrogen_chloride().molecule
        return Header("direct", molecule, molecule.masses, self.step)

    def advance(self, positions: FloatArray, velocities: FloatArray, step: float) -> tuple[FloatArray, FloatArray]:
        return positions, velocities


@pytest.mark.parametrize("step", [10.0, 100.0, 400.0])
@pytest.mark.parametrize("ensemble", ["langevin", "velocity-rescaling"])
def test_velocity_of_one_degree_of_freedom_forgets_its_direction(ensemble: str, step: float) -> None:
    """<v(0) v(h)> / <v^2> is exp(-h / tau) for Langevin dynamics and exp(-h / 2 tau) for rescaling.

    The tau of rescaling is that of the energy.  Without the sign of its factor (eq. A8 of Bussi, Donadio and
    Parrinello) no velocity would ever be reversed.
    """
    propagator, replicas = Rest(step), 3000
    molecule = propagator.header.molecule
    q, v = thermal_starts(np.array(molecule.positions), molecule.masses, 300.0, replicas, 11)
    config = PropagationConfig(steps=1, step=step, ensemble=ensemble, temperature=300.0, relaxation_time=100.0)
    start, end = propagate(propagator, q, v, config).velocities
    weights = molecule.masses[:, None]
    correlation = float((weights * start * end).sum() / (weights * start * start).sum())
    expected = np.exp(-step / (100.0 if ensemble == "langevin" else 200.0))
    assert abs(correlation - expected) < 4.0 / np.sqrt(replicas)
    reversed_share = float(((weights * start * end).sum((1, 2)) < 0.0).mean())
    assert reversed_share == pytest.approx(np.arccos(expected) / np.pi, abs=2.0 / np.sqrt(replicas))


def test_exact_propagator_keeps_the_energy_and_the_log_says_that_nothing_was_corrected() -> None:
    q, v = starts(3)
    result = propagate(Verlet(), q, v, PropagationConfig(steps=25, step=2.0, report_every=5), Energies())
    total = result.kinetic + result.potential
    assert result.times_fs.tolist() == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    assert np.abs(total - total[0]).max() < 2e-4
    assert result.corrections == {"momentum": 0.0, "angular_momentum": 0.0, "energy": 0.0, "variance": 0.0}


def test_corrections_restore_what_a_faulty_propagator_breaks_and_say_how_much() -> None:
    q, v = starts(2)
    masses = methanol().masses
    faulty = Verlet(drift=2e-5, spin=3e-6, gain=1.02)
    plain = propagate(faulty, q, v, PropagationConfig(steps=10, step=2.0), Energies())
    total = plain.kinetic + plain.potential
    assert np.abs(total[-1] - total[0]).max() > 1e-3
    config = PropagationConfig(
        steps=10, step=2.0, correct_momentum=True, correct_angular_momentum=True, correct_energy=True
    )
    result = propagate(faulty, q, v, config, Energies())
    total = result.kinetic + result.potential
    assert np.abs(total[1:] - total[0]).max() < 1e-12
    for a, b in zip(result.positions[-1], result.velocities[-1], strict=True):
        assert np.abs(mechanics.linear_momentum(b, masses)).max() < 1e-9
        assert np.abs(mechanics.angular_momentum(a, b, masses)).max() < 1e-9
    assert min(result.corrections[name] for name in ("momentum", "angular_momentum", "energy")) > 1e-4
    assert result.corrections["variance"] == 0.0
    with pytest.raises(InputError, match="force field"):
        propagate(faulty, q, v, config)
    with pytest.raises(InputError, match="nve"):
        PropagationConfig(steps=1, step=2.0, ensemble="langevin", correct_energy=True)


@dataclass
class Shrinking(Verlet):
    """The mean of what can follow: velocities of a relative error d keep 1 - d^2 of their energy; d^2 is 0.02."""

    still: bool = True
    loss: float = 0.02

    def advance(self, positions: FloatArray, velocities: FloatArray, step: float) -> tuple[FloatArray, FloatArray]:
        return positions, np.sqrt(1.0 - self.loss) * velocities

    def velocity_noise(self, positions: FloatArray, normal: FloatArray) -> FloatArray:
        return normal * np.sqrt(self.loss * BOLTZMANN * 300.0 / methanol().masses)[:, None]


@pytest.mark.parametrize("ensemble", ["langevin", "velocity-rescaling"])
def test_noise_of_its_own_error_makes_a_predictor_canonical(ensemble: str) -> None:
    """Without it, thermostats of 100 fs leave such a predictor a third too cold."""
    q, v = starts(400)
    settings = {"steps": 150, "step": 2.0, "ensemble": ensemble, "report_every": 150}
    cold = propagate(Shrinking(), q, v, PropagationConfig(**settings))  # type: ignore[arg-type]
    fair = propagate(Shrinking(), q, v, PropagationConfig(correct_variance=True, **settings))  # type: ignore[arg-type]
    unit = BOLTZMANN * 300.0
    assert cold.kinetic[-1].mean() / unit < 0.75 * 6.0
    assert abs(fair.kinetic[-1].mean() / unit - 6.0) < 4.0 * np.sqrt(6.0 / 400)
    assert abs(fair.kinetic[-1].var() / unit**2 - 6.0) < 4.0 * 6.0 * np.sqrt(2.0 / 400 * 1.5)
    assert cold.corrections["variance"] == 0.0 < fair.corrections["variance"]


def test_noise_is_for_predictors_that_know_their_error() -> None:
    q, v = starts(1)
    with pytest.raises(InputError, match="thermostat"):
        PropagationConfig(steps=1, step=2.0, correct_variance=True)
    config = PropagationConfig(steps=1, step=2.0, ensemble="langevin", correct_variance=True)
    with pytest.raises(InputError, match="correct_variance"):
        propagate(Verlet(), q, v, config)


@dataclass
class Continuous(Verlet):
    """Knows all of a segment: ten small steps from its start to each of the times."""

    @property
    def header(self) -> Header:
        molecule = methanol()
        return Header("continuous", molecule, molecule.masses, 2.0)

    def path(self, positions: FloatArray, velocities: FloatArray, times: FloatArray) -> tuple[FloatArray, FloatArray]:
        frames = [self.advance(positions, velocities, t) for t in times]
        return np.array([f[0] for f in frames]), np.array([f[1] for f in frames])


def test_frames_between_two_steps_are_those_of_shorter_steps() -> None:
    q, v = starts(2)
    filled = propagate(Continuous(), q, v, PropagationConfig(steps=6, step=2.0, fill_in=4), Energies())
    fine = propagate(Continuous(), q, v, PropagationConfig(steps=24, step=0.5), Energies())
    np.testing.assert_allclose(filled.times_fs, fine.times_fs)
    np.testing.assert_allclose(filled.positions, fine.positions, atol=5e-4)  # Verlet of 0.2 and of 0.05 fs
    total = filled.kinetic + filled.potential
    assert np.abs(total - total[0]).max() < 2e-4
    moved = np.abs(np.diff(filled.positions, axis=0)).max((1, 2, 3))
    assert moved.min() > 1e-3  # no frame comes twice
    with pytest.raises(InputError, match="continuous"):
        propagate(Verlet(), q, v, PropagationConfig(steps=1, step=2.0, fill_in=2))
    with pytest.raises(InputError, match="report_every"):
        PropagationConfig(steps=4, step=2.0, fill_in=2, report_every=2)


def test_a_molecule_that_comes_apart_stops_the_run() -> None:
    q, v = starts(1)
    with pytest.raises(SimulationStopped, match="stays whole"):
        propagate(Verlet(explode=True), q, v, PropagationConfig(steps=5, step=2.0))


def ase_atoms() -> Atoms:
    q, v = starts(1)
    atoms = Atoms(methanol().symbols, q[0] * ANGSTROM)
    atoms.set_velocities(v[0] * ANGSTROM / FEMTOSECOND / ase.units.fs)
    return atoms


def test_ase_takes_the_same_steps() -> None:
    atoms, (q, v) = ase_atoms(), starts(1)
    frames: list[FloatArray] = []
    dynamics = PropagatorNVE(atoms, Verlet())
    dynamics.attach(lambda: frames.append(atoms.get_positions()))
    dynamics.run(6)
    result = propagate(Verlet(), q, v, PropagationConfig(steps=6, step=2.0))
    assert len(frames) == 7
    assert np.abs(np.array(frames) / ANGSTROM - result.positions[:, 0]).max() < 1e-9
    assert abs(dynamics.get_time() / ase.units.fs - 12.0) < 1e-9
    assert abs(atoms.get_kinetic_energy() / ase.units.Hartree - result.kinetic[-1, 0]) < 1e-8
    assert dynamics.todict()["kind"] == "direct"


def test_ase_takes_a_configuration_as_it_is() -> None:
    """The corrections of a configuration, and of the keywords of a class, are those of the run; ASE gets the rest."""
    faulty = Verlet(drift=2e-5, spin=3e-6, gain=1.02)
    config = PropagationConfig(steps=1, step=2.0, correct_momentum=True, correct_angular_momentum=True)
    by_config, by_keywords = ase_atoms(), ase_atoms()
    PropagatorDynamics(by_config, faulty, config, loginterval=2).run(5)
    dynamics = PropagatorNVE(by_keywords, faulty, correct_momentum=True, correct_angular_momentum=True, loginterval=2)
    dynamics.run(5)
    assert np.array_equal(by_config.get_positions(), by_keywords.get_positions())
    assert dynamics.corrections["momentum"] > 1e-4
    assert dynamics.todict()["correct_angular_momentum"]
    expected = propagate(faulty, *starts(1), dataclasses.replace(config, steps=5)).positions[-1, 0]
    assert np.abs(by_config.get_positions() / ANGSTROM - expected).max() < 1e-9
    with pytest.raises(InputError, match="force field"):
        PropagatorNVE(ase_atoms(), faulty, correct_energy=True)


@pytest.mark.parametrize("kind", [PropagatorLangevin, PropagatorVelocityRescaling])
def test_ase_thermostats_reach_their_temperature(kind: type[PropagatorDynamics]) -> None:
    atoms = ase_atoms()
    dynamics = kind(atoms, Verlet(still=True), temperature_K=500.0, relaxation_time_fs=4.0, seed=2)
    seen = []
    dynamics.attach(lambda: seen.append(2.0 * atoms.get_kinetic_energy() / (12.0 * ase.units.kB)))
    dynamics.run(1500)
    assert abs(np.mean(seen[50:]) - 500.0) < 25.0


def test_ase_refuses_what_the_propagator_was_not_made_for() -> None:
    atoms = ase_atoms()
    with pytest.raises(ModelMismatchError, match="2 fs"):
        PropagatorNVE(atoms, Verlet(), 1.0)
    heavy = ase_atoms()
    masses = heavy.get_masses()
    masses[5] = 3.0
    heavy.set_masses(masses)
    with pytest.raises(ModelMismatchError, match="mass of atom 6"):
        PropagatorNVE(heavy, Verlet())
    with pytest.raises(ModelMismatchError, match="atom 1"):
        PropagatorNVE(atoms[[1, 0, 2, 3, 4, 5]], Verlet())
    atoms.set_masses(methanol().masses * DALTON)
    periodic = atoms.copy()
    periodic.pbc = True
    with pytest.raises(InputError, match="periodic"):
        PropagatorNVE(periodic, Verlet())

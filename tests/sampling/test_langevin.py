"""Langevin dynamics for sampling: ensemble, rigid motion, seeds, and the guard on the bonds."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py.errors import InputError, SimulationStopped
from fflux_py.molecules import mechanics
from fflux_py.molecules.molecule import Molecule
from fflux_py.sampling.thermostatted import (
    LangevinConfig,
    fault,
    run_langevin,
)
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, FEMTOSECOND
from tests.support.sampling_models import Crystal, Springs, hydrogen_peroxide


def water() -> Molecule:
    return Molecule(("O", "H", "H"), np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) / ANGSTROM, name="water")


def test_harmonic_ensemble_is_exact_in_positions() -> None:
    """BAOAB at omega dt = 1: exact positions, and velocities colder by exactly 1 - (omega dt)^2 / 4."""
    molecule, temperature = water(), 300.0
    timestep = 20.0
    potential = Crystal(molecule, omega=1.0 / timestep)
    config = LangevinConfig(temperature, 40_000, 3, timestep=timestep, friction=0.3 / timestep)
    run = run_langevin(molecule, potential, config, np.random.default_rng(2))
    kt = BOLTZMANN * temperature
    degrees = 3 * molecule.n_atoms
    energies, kinetic = run.energies[100:], run.kinetic_energies[100:]

    def error(x: FloatArray) -> float:
        """Standard error of the mean from 50 blocks."""
        blocks = x[: len(x) // 50 * 50].reshape(50, -1).mean(axis=1)
        return float(blocks.std(ddof=1) / np.sqrt(50))

    for mean, series in ((0.5 * degrees * kt, energies), (0.5 * degrees * kt * 0.75, kinetic)):
        assert error(series) < 0.01 * mean
        assert abs(series.mean() - mean) < 4.0 * error(series)
    # The potential energy of `degrees` harmonic modes has the variance degrees/2 (kT)^2, and its own shape.
    squares = (energies - energies.mean()) ** 2
    assert abs(squares.mean() - 0.5 * degrees * kt**2) < 4.0 * error(squares)
    # Every atom has the same configurational temperature, light or heavy.
    shift = run.positions[100:] - molecule.positions
    per_atom = np.sum(potential.constants[None] * shift**2, axis=2).mean(axis=0) / (3.0 * BOLTZMANN)
    np.testing.assert_allclose(per_atom, temperature, rtol=0.04)


def test_energy_is_conserved_without_friction() -> None:
    """In the limit of no friction BAOAB is velocity Verlet's sibling: the energy only fluctuates with dt^2."""
    molecule = hydrogen_peroxide()
    potential = Springs(molecule, barrier=5e-3)
    spread = []
    for step in (0.25, 0.5):
        config = LangevinConfig(300.0, round(200 / step), 1, timestep=step / FEMTOSECOND, friction=1e-15)
        run = run_langevin(molecule, potential, config, np.random.default_rng(4))
        spread.append(np.std(run.energies + run.kinetic_energies))
    assert spread[1] < 2e-4
    assert spread[1] / spread[0] == pytest.approx(4.0, rel=0.25)


def test_runs_start_without_rigid_motion() -> None:
    molecule = water()
    config = LangevinConfig(300.0, 1, 1, timestep=1e-6, friction=1e-12)
    run = run_langevin(molecule, Springs(molecule), config, np.random.default_rng(1))
    assert np.abs(molecule.masses @ run.velocities[0]).max() < 1e-6
    assert np.abs(mechanics.angular_momentum(run.positions[0], run.velocities[0], molecule.masses)).max() < 1e-6
    assert run.kinetic_energies[0] > 1e-5


def test_same_seed_same_bits() -> None:
    molecule = hydrogen_peroxide()
    config = LangevinConfig(500.0, 60, 20)
    runs = [run_langevin(molecule, Springs(molecule, 5e-3), config, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert runs[0].positions.shape == (3, 4, 3)
    np.testing.assert_array_equal(runs[0].positions, runs[1].positions)
    np.testing.assert_array_equal(runs[0].velocities, runs[1].velocities)
    assert np.abs(runs[0].positions - runs[2].positions).max() > 1e-3


def test_energies_belong_to_the_frames_and_leave_out_the_bias() -> None:
    molecule = hydrogen_peroxide()
    potential = Springs(molecule, 5e-3)

    class Push:
        pace = 1000

        def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
            return 5.0, np.zeros_like(positions)

        def deposit(self, positions: FloatArray) -> float:
            raise AssertionError("no hill is due")

    run = run_langevin(molecule, potential, LangevinConfig(300.0, 30, 10), np.random.default_rng(1), bias=Push())
    for x, energy in zip(run.positions, run.energies, strict=True):
        assert energy == potential.energy_and_forces(x)[0]


def move(molecule: Molecule, atom: int, to: FloatArray) -> FloatArray:
    positions = np.array(molecule.positions)
    positions[atom] = to
    return positions


def test_fault_names_what_is_wrong() -> None:
    molecule = hydrogen_peroxide()
    x = molecule.positions
    assert fault(molecule, x) is None
    assert fault(molecule, move(molecule, 0, np.full(3, np.nan))) == "coordinates that are not numbers"
    assert fault(molecule, move(molecule, 0, x[0] + 3.0)) == "H1-O2 broken"
    # The hydrogen goes over to the other oxygen: an isomer, not this molecule.
    transferred = move(molecule, 0, x[2] + (x[0] - x[1]) * [-1.0, 1.0, 1.0])
    assert fault(molecule, transferred) == "H1-O2 broken, H1-O3 formed"
    contact = fault(molecule, move(molecule, 3, x[2] + np.array([0.0, 0.0, 0.45]) / ANGSTROM))
    assert contact == "O3-H4 at 0.450 angstrom"


class Repulsion:
    """Every atom is pushed away from the first."""

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        forces = np.zeros_like(positions)
        arm = positions[1:] - positions[0]
        forces[1:] = 0.1 * arm
        forces[0] = -forces[1:].sum(axis=0)
        return -0.05 * float(np.sum(arm**2)), forces


def test_run_stops_when_the_molecule_falls_apart() -> None:
    molecule = water()
    with pytest.raises(SimulationStopped, match=r"300 K, step \d+: expected the bonds.*O1-H\d broken"):
        run_langevin(molecule, Repulsion(), LangevinConfig(300.0, 2000, 10), np.random.default_rng(1))


@pytest.mark.parametrize(
    "change",
    [{"temperature": -300.0}, {"temperature": np.nan}, {"n_steps": 0}, {"stride": 0}, {"timestep": 0.0},
     {"friction": -1.0}],
)  # fmt: skip
def test_wrong_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        LangevinConfig(**{"temperature": 300.0, "n_steps": 10, "stride": 1, **change})  # type: ignore[arg-type]


def test_stride_beyond_the_end_is_refused() -> None:
    molecule = water()
    with pytest.raises(InputError, match="stride: expected at most the number of steps, 5"):
        run_langevin(molecule, Springs(molecule), LangevinConfig(300.0, 5, 6), np.random.default_rng(1))

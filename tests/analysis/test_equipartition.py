"""Temperature by mode and element: exact for a harmonic molecule, with errors that hold what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import expm

from fflux_py.analysis.equipartition import Equipartition, equipartition, shortest_run_fs
from fflux_py.dynamics import MDConfig, Trajectory, run_nvt, run_replicas
from fflux_py.errors import InputError
from fflux_py.molecules.equipartition import kinetic_energies
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.mechanics import masses
from fflux_py.molecules.normal_modes import NormalModes, modes_of_hessian, normal_modes
from fflux_py.molecules.shipped_data import START, path
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, FEMTOSECOND, WAVENUMBER
from tests.support.compiled_potentials import ammonia, ammonia_morse, ammonia_springs

TEMPERATURE = 300.0
MOLECULE = read_molecule(path("malondialdehyde") / START)


@pytest.fixture(scope="module")
def modes() -> NormalModes:
    """Made-up modes of a molecule of nine atoms, 50 to 3500 cm^-1."""
    rng = np.random.default_rng(0)
    table = masses(MOLECULE)
    n = 3 * len(table)
    basis = modes_of_hessian(np.diag(np.repeat(table, 3)) + 0.01 * rng.random((n, n)), MOLECULE.positions, table)
    return replace(basis, wavenumbers=np.geomspace(50.0, 3500.0, n - 6))


def harmonic_langevin(
    modes: NormalModes, runs: int, frames: int, interval_fs: float, seed: int, of_modes: FloatArray | None = None
) -> list[Trajectory]:
    """Velocities of a harmonic molecule under Langevin friction (100 fs), exact at any interval, from equilibrium.

    ``of_modes`` are temperatures of the modes over that of the thermostat.
    """
    rng = np.random.default_rng(seed)
    rate, step = FEMTOSECOND / 100.0, interval_fs / FEMTOSECOND
    thermal = BOLTZMANN * TEMPERATURE * (np.ones(len(modes.wavenumbers)) if of_modes is None else of_modes)
    series = np.empty((frames, runs, len(thermal)))
    for k, (w, kt) in enumerate(zip(modes.wavenumbers / WAVENUMBER, thermal, strict=True)):
        # in w q and dq/dt the canonical covariance is kT times one
        flow = expm(step * np.array([[0.0, w], [-w, -rate]]))
        noise = np.linalg.cholesky(kt * (np.eye(2) - flow @ flow.T))
        state = np.sqrt(kt) * rng.standard_normal((2, runs))
        for t in range(frames):
            series[t, :, k] = state[1]
            state = flow @ state + noise @ rng.standard_normal((2, runs))
    root = np.sqrt(masses(MOLECULE))[:, None]
    velocities = (series @ modes.vectors.T).reshape(frames, runs, *root[:, 0].shape, 3) / root
    nothing, times = np.zeros(frames), interval_fs * np.arange(frames)
    positions = np.broadcast_to(MOLECULE.positions, (frames, *MOLECULE.positions.shape))
    return [
        Trajectory(MOLECULE, times, positions, nothing, nothing, nothing, nothing, 0, r, None, velocities[:, r], modes)
        for r in range(runs)
    ]


def judged(trajectories: list[Trajectory]) -> Equipartition:
    result = equipartition(trajectories, MDConfig(steps=1, temperature=TEMPERATURE))
    assert result is not None
    return result


def passes(result: Equipartition) -> bool:
    return all(criterion.passed for criterion in result.criteria())


@pytest.mark.parametrize(("frames", "interval_fs"), [(401, 50.0), (371, 10.0)])
def test_sound_runs_pass(modes, frames, interval_fs):
    """Of 100 runs of 20 ps, and of 100 of 3.7 ps, at most two fail (0.2 are to be expected of independent blocks)."""
    results = [judged([run]) for run in harmonic_langevin(modes, 100, frames, interval_fs, seed=1)]
    assert sum(not passes(result) for result in results) <= 2
    # and the errors are not too large either: deviations scatter about as a normal distribution
    z = np.array([result.deviations[3:] for result in results])
    assert 0.7 < z.std() < 1.1
    assert abs(z.mean()) < 0.15
    assert 0.9 < (np.abs(z) < 2.0).mean() < 1.0


def test_errors_are_those_of_many_runs(modes):
    """The standard error that one run states is the scatter of many runs."""
    results = [judged([run]) for run in harmonic_langevin(modes, 40, 401, 50.0, seed=2)]
    temperatures = np.array([result.temperatures_k for result in results])
    stated = np.array([result.standard_errors_k for result in results]).mean(axis=0)
    assert temperatures.mean(axis=0) == pytest.approx(np.full(24, TEMPERATURE), rel=0.08)
    ratio = stated / temperatures.std(axis=0, ddof=1)
    assert 1.0 < ratio[3:].mean() < 1.25
    assert (ratio[:3] > 0.8).all()
    # half the error from four runs together
    pooled = judged(harmonic_langevin(modes, 4, 401, 50.0, seed=3))
    assert pooled.largest_relative_error == pytest.approx(0.5 * stated.max() / TEMPERATURE, rel=0.35)


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_one_mode_that_is_off_is_found(modes, factor):
    of_modes = np.ones(21)
    of_modes[17] = factor
    result = judged(harmonic_langevin(modes, 5, 401, 50.0, seed=4, of_modes=of_modes))
    assert not passes(result)
    assert result.names[result.worst] == f"{modes.wavenumbers[17]:.0f} cm-1"
    assert result.temperatures_k[result.worst] == pytest.approx(factor * TEMPERATURE, rel=0.25)
    assert len(result.as_dict()["parts"]) == 24


def test_an_element_that_is_off_is_found(modes):
    """Hydrogen 20 % too warm, without modes to look at."""
    runs = harmonic_langevin(modes, 5, 401, 50.0, seed=5)
    heated = [
        replace(run, modes=None, velocities=run.velocities * np.where(MOLECULE.numbers == 1, 1.2**0.5, 1.0)[:, None])
        for run in runs
    ]
    assert passes(judged([replace(run, modes=None) for run in runs]))
    result = judged(heated)
    assert not passes(result)
    assert result.names == ("O", "C", "H") or set(result.names) == {"O", "C", "H"}
    assert result.names[result.worst] == "H"


def test_the_start_is_left_out(modes):
    """A run that begins at rest and takes half a picosecond to warm up passes."""
    (run,) = harmonic_langevin(modes, 1, 401, 50.0, seed=6)
    cold = np.array(run.velocities)
    cold[:10] = 0.0
    assert judged([replace(run, velocities=cold)]).as_dict() == judged([run]).as_dict()


def test_nothing_is_said_without_grounds(modes):
    (run,) = harmonic_langevin(modes, 1, 401, 50.0, seed=7)
    config = MDConfig(steps=1, temperature=TEMPERATURE)
    assert equipartition([replace(run, velocities=None)], config) is None
    assert equipartition([run], replace(config, thermostat="none")) is None
    least = shortest_run_fs(config)
    assert least == 3700.0
    (enough,), (short,) = (harmonic_langevin(modes, 1, int(least / 10.0) + extra, 10.0, seed=8) for extra in (1, -20))
    assert equipartition([enough], config) is not None
    assert equipartition([short], config) is None
    with pytest.raises(InputError, match="at least one"):
        equipartition([], config)


def test_parts_add_up():
    """Kinetic energies and degrees of freedom of the elements, and of all modes, are those of the molecule."""
    potential = ammonia_morse()
    run = run_nvt(potential, ammonia(), MDConfig(steps=400, temperature=600.0, seed=1))
    table = masses(ammonia())
    modes = normal_modes(potential, ammonia().positions, table)
    energies, freedom = kinetic_energies(run.positions, run.velocities, ammonia(), table, modes)
    assert energies[:, :2].sum(axis=1) == pytest.approx(run.kinetic, rel=1e-10)
    assert freedom[:, :2].sum(axis=1) == pytest.approx(np.full(len(run), 6.0), rel=1e-10)
    # modes fill the space of vibrations at the reference only; elsewhere a part of it is that of rigid motions there
    assert (energies[:, 2:].sum(axis=1) <= run.kinetic * (1.0 + 1e-10)).all()
    assert (freedom[:, 2:].sum(axis=1) <= 6.0 + 1e-10).all()
    assert freedom[0, 2:] == pytest.approx(np.ones(6), rel=1e-10)
    assert energies[0, 2:].sum() == pytest.approx(run.kinetic[0], rel=1e-10)


@pytest.mark.parametrize("timestep", [0.5, 1.5])
def test_langevin_equilibrates_springs(timestep):
    """The default, at a short time step and at one where half a kick more would show: 6 % in the stretches."""
    potential = ammonia_springs()
    config = MDConfig(steps=int(40_000 / timestep), timestep=timestep, temperature=TEMPERATURE, report_every=10,
                      replicas=2, seed=2)  # fmt: skip
    assert config.thermostat == "langevin"
    modes = normal_modes(potential, ammonia().positions, masses(ammonia()))
    runs = run_replicas(potential, ammonia(), config)
    result = equipartition(runs, config, modes)
    assert passes(result)
    assert result.largest_relative_error < 0.1
    assert result.temperatures_k == pytest.approx(np.full(8, TEMPERATURE), rel=0.15)


def test_one_chain_does_not_equilibrate_springs():
    """The negative control: modes of a nearly harmonic molecule keep what a single chain leaves them."""
    potential = ammonia_springs()
    config = MDConfig(steps=100_000, temperature=TEMPERATURE, thermostat="nose-hoover", seed=2)
    modes = normal_modes(potential, ammonia().positions, masses(ammonia()))
    result = equipartition([run_nvt(potential, ammonia(), config)], config, modes)
    assert not any(criterion.passed for criterion in result.criteria())

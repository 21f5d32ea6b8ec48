"""Runs at constant energy from visited states tell forces that are no gradient from a sound Langevin run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

from fflux_py.analysis.energy_conservation import (
    LARGEST_DRIFT,
    drift_criterion,
    energy_fluctuations,
    fluctuation_criterion,
    piece_config,
    piece_drift,
    piece_start,
    run_piece,
)
from fflux_py.analysis.runs import Run, analyse_run, completed_run
from fflux_py.dynamics import CompiledPotential, MDConfig, run_nvt
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import KCAL_MOL_ANGSTROM
from tests.support.compiled_potentials import Pairs, ammonia, morse, pair_arrays

CONFIG = MDConfig(steps=16_000, temperature=300.0, report_every=20, seed=4)


class Wrong(NamedTuple):
    """A pair potential, the depth that its forces take instead, and the size of a noise on them (hartree/bohr)."""

    pairs: IntArray
    depth: FloatArray
    exponent: FloatArray
    length: FloatArray
    depth_of_forces: FloatArray
    noise: FloatArray


@njit(cache=True)
def wrong_forces(positions, arrays):
    """The energy of one Morse potential with the forces of another, and a noise that is a rapid function of place."""
    energy, _ = morse(positions, Pairs(arrays.pairs, arrays.depth, arrays.exponent, arrays.length))
    _, forces = morse(positions, Pairs(arrays.pairs, arrays.depth_of_forces, arrays.exponent, arrays.length))
    for i in range(positions.shape[0]):
        for c in range(3):
            forces[i, c] += arrays.noise[0] * np.sqrt(2.0) * np.sin(1e7 * positions[i, c] + 3.0 * i + c)
    return energy, forces


def potential(depth: float = 1.0, noise: float = 0.0) -> CompiledPotential:
    pairs = pair_arrays(ammonia())
    arrays = Wrong(*pairs, depth * pairs.depth, np.array([noise / KCAL_MOL_ANGSTROM]))
    return CompiledPotential(ammonia(), wrong_forces, arrays)


def langevin(model: CompiledPotential) -> Run:
    return completed_run(run_nvt(model, ammonia(), CONFIG), CONFIG)


def heating(run: Run) -> bool:
    (line,) = [line for line in analyse_run(run).criteria() if line.name == "Heating by integrator and forces"]
    return line.passed


def test_a_sound_model_passes():
    run = langevin(potential())
    piece = run_piece(potential(), run)
    assert piece.config.thermostat == "none"
    assert piece.length_ps == pytest.approx(1.0)
    assert np.allclose(piece.trajectory.positions[0], run.trajectory.positions[-1], atol=1e-6)
    # velocities of the run's temperature, of six degrees of freedom
    assert 50.0 < piece.trajectory.temperature.mean() < 900.0
    assert abs(piece_drift(piece)) < 0.2 * LARGEST_DRIFT
    assert drift_criterion([piece_drift(piece)], piece.length_ps).passed
    full, half = energy_fluctuations(potential(), run)
    assert full / half == pytest.approx(4.0, rel=0.25)
    assert fluctuation_criterion(full, half).passed
    assert heating(run)


@pytest.mark.parametrize(("depth", "noise"), [(1.1, 0.0), (1.0, 5.0)])
def test_wrong_forces_fail(depth, noise):
    """Forces of a potential that is a tenth deeper, and 5 kcal/mol/angstrom of noise; bonds pull with hundreds."""
    model = potential(depth, noise)
    run = langevin(model)
    drifts = [piece_drift(run_piece(model, run, k)) for k in range(3)]
    full, half = energy_fluctuations(model, run)
    assert not fluctuation_criterion(full, half).passed
    # noise does work on average, another potential does not
    assert drift_criterion(drifts, 1.0).passed == (noise == 0.0)


def test_strong_noise_heats_a_run():
    assert not heating(langevin(potential(noise=5.0)))


def test_pieces_are_independent_and_have_the_right_length():
    (first, second) = (piece_config(CONFIG, 1000.0, k) for k in (0, 1))
    assert first.seed != second.seed != CONFIG.seed
    assert (first.steps, first.report_every, first.replicas) == (200_000, 20, 1)
    assert piece_config(CONFIG, 5000.0).steps == 200_000
    assert piece_config(CONFIG, 8.0).steps == 2000
    assert piece_config(CONFIG, 0.2).steps == 400
    assert piece_config(CONFIG, 0.2).report_every == 2


def test_a_piece_that_breaks_fails():
    """A molecule that leaves its bonds at constant energy, and one whose piece is too short for a slope."""
    run = langevin(potential())
    hot = completed_run(run.trajectory, MDConfig(steps=16_000, temperature=20_000.0, report_every=20))
    piece = run_piece(potential(), hot)
    assert piece.status == "stopped"
    assert piece_drift(piece) == np.inf
    assert not drift_criterion([0.0, piece_drift(piece)], 1.0).passed
    assert not drift_criterion([np.nan], 1.0).passed
    assert not drift_criterion([], 1.0).passed
    assert energy_fluctuations(potential(), hot) == (np.inf, np.inf)
    assert not fluctuation_criterion(np.inf, np.inf).passed
    assert not fluctuation_criterion(np.nan, np.nan).passed
    assert piece_start(run).symbols == ammonia().symbols

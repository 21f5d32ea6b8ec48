"""The propagators that come with the package, against Verlet on the force field that comes with it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import fflux_py
from fflux_py.molecules import shipped_data
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.propagators.config import held_out_errors
from fflux_py.propagators.equipartition import EquipartitionMonitor
from fflux_py.propagators.propagator import load_propagator
from fflux_py.propagators.run import PropagationConfig, propagate
from fflux_py.propagators.trajectories import TrajectoryConfig, TrajectorySet, make_trajectories

pytest.importorskip("torch")
pytest.importorskip("e3nn")
pytest.importorskip("pytorch_optimizer")
pytest.importorskip("safetensors")

FOLDER = shipped_data.path("malondialdehyde")


@cache
def trajectories() -> TrajectorySet:
    config = TrajectoryConfig(
        temperatures=(300.0,), trajectories=32, length=30.0, decorrelation=200.0, replicas=8, interval=0.5, seed=17
    )
    start = read_molecule(FOLDER / "minimum_b3lyp.xyz")
    return make_trajectories(fflux_py.load(FOLDER / shipped_data.MODEL), start, config)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "largest"), [("action_3fs", 0.025), ("direct_10fs", 0.05)])
def test_a_step_is_that_of_verlet(name: str, largest: float) -> None:
    model = load_propagator(FOLDER / f"{name}.safetensors")
    errors = held_out_errors(model, trajectories(), "train")
    assert 0.0 < errors["velocity_relative"] < largest


@pytest.mark.slow
def test_elements_have_the_temperature_of_the_thermostat() -> None:
    """Steps of 10 fs, 64 runs of 3 ps from thermal starts: three standard errors of the oxygens are some 4 %."""
    model = load_propagator(FOLDER / "direct_10fs.safetensors")
    data = trajectories()
    q, v = (np.concatenate([part[:, 0], part[:, -1]]) for part in (data.positions, data.velocities))
    config = PropagationConfig(
        steps=300, step=10.0, ensemble="langevin", temperature=300.0, report_every=5, correct_variance=True
    )
    monitor = EquipartitionMonitor(data.molecule, data.masses)
    propagate(model, q, v, config, monitor=monitor)
    found = monitor.temperatures()
    assert set(found) == {"C", "H", "O"}
    for mean, _ in found.values():
        assert abs(mean - 300.0) < 15.0

"""A linear molecule of three atoms, from labels to forces: compiled code against differences of the energy."""

from __future__ import annotations

import numpy as np

from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.training import TrainingConfig, train
from fflux_py.typing import FloatArray

LENGTH, STRETCH, BEND = 2.2, 0.9, 0.12


def carbon_dioxide() -> Molecule:
    return Molecule(("C", "O", "O"), np.array([[0.0, 0.0, 0.0], [LENGTH, 0.0, 0.0], [-LENGTH, 0.0, 0.0]]), 0, "CO2")


def energy(x: FloatArray) -> float:
    """Harmonic stretches, and a bend in 1 + cos."""
    a, b = x[1] - x[0], x[2] - x[0]
    r, s = np.linalg.norm(a), np.linalg.norm(b)
    return float(0.5 * STRETCH * ((r - LENGTH) ** 2 + (s - LENGTH) ** 2) + BEND * (1.0 + a @ b / (r * s)))


def forces(x: FloatArray) -> FloatArray:
    slopes = np.empty_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-5
        slopes[index] = (energy(x + step) - energy(x - step)) / 2e-5
    return -slopes


def test_forces_of_a_linear_molecule() -> None:
    molecule, rng = carbon_dioxide(), np.random.default_rng(4)
    positions = molecule.positions + rng.normal(scale=0.06, size=(40, 3, 3))
    nothing = np.full((40, 3), np.nan)
    geometries = GeometrySet(
        molecule, positions, ("a",) * 30 + ("b",) * 10, np.full(40, 300.0), ("train",) * 30 + ("test",) * 10, {}
    )
    labels = np.array([energy(x) for x in positions]), np.array([forces(x) for x in positions])
    metadata = {"method": "analytic", "basis": "none", "partition": "none"}
    dataset = Dataset(geometries, *labels, nothing, nothing, nothing, metadata)
    field = train(dataset, TrainingConfig(n_train=30))
    assert field.joint is not None
    assert field.joint.operations.order == 2
    predicted, own = field.compute(positions[30:])
    assert own is not None
    assert np.abs(predicted - labels[0][30:]).max() < 1e-5
    assert np.abs(own - labels[1][30:]).max() < 1e-3
    on_the_line = molecule.positions + np.array([[0.01, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    _, there = field.compute(on_the_line)
    assert there is not None
    for index in np.ndindex(on_the_line.shape):
        step = np.zeros_like(on_the_line)
        step[index] = 1e-4
        slope = (float(field.compute(on_the_line + step, 0)[0]) - float(field.compute(on_the_line - step, 0)[0])) / 2e-4
        assert abs(there[index] + slope) < 1e-6

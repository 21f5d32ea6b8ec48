"""This package's fits: joint with and without symmetry, and energies only as published."""

from __future__ import annotations

import time
from typing import Any

from support.learning_curves import group_errors

import numpy as np

from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train

CONFIGS: dict[str, dict[str, Any]] = {
    "joint": {"symmetry": "auto"},
    "joint-no-symmetry": {"symmetry": "none"},
    "energies-only": {"forces": False, "features": "spherical", "symmetry": "none"},
}


def run(dataset: Dataset, config: TrainingConfig) -> dict[str, Any]:
    """Train, predict the held-out frames one by one, and compare."""
    begin, work = time.perf_counter(), time.process_time()
    forcefield = train(dataset, config)
    figures: dict[str, Any] = {
        "training_wall_time_s": time.perf_counter() - begin,
        "training_processor_time_s": time.process_time() - work,
    }
    test = dataset.with_split("test")
    forcefield.energy_and_forces(test.positions[0])  # compiles
    work = time.process_time()
    predicted = [forcefield.energy_and_forces(x) for x in test.positions]
    figures["prediction_processor_time_ms"] = 1000.0 * (time.process_time() - work) / len(test)
    energies = np.array([e for e, _ in predicted])
    forces = np.array([f for _, f in predicted])
    figures["groups"] = group_errors(test, energies, forces, forcefield.atomic_energies(test.positions))
    figures["images_per_atom"] = forcefield.images_per_atom
    figures["settings"] = str(forcefield.metadata["symmetry"])
    if forcefield.joint is not None:
        figures["system_size"] = len(forcefield.joint.coefficients)
    figures["length_factors"] = _factors(forcefield)
    return figures


def _factors(forcefield: Any) -> dict[str, float]:
    """Median of theta times the variance of the feature over the training points, by class of feature (joint fit)."""
    if forcefield.joint is None:
        return {}
    from fflux_py.training.length_scales import CLASSES, feature_classes

    first = forcefield.atoms[0]
    classes = feature_classes(forcefield.molecule.n_atoms, first.feature_kind)
    factors = np.array([m.covariance.theta * m.points.var(axis=0) for m in forcefield.atoms])
    return {name: float(np.median(factors[:, classes == c])) for c, name in enumerate(CLASSES)}

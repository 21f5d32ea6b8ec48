"""Which features and which kernel suit DFT labels: the joint fit without symmetry, at N = 200.

    python benchmarks/accuracy/feature_choice.py [--n-train 200] [--only unit-vector]

All sets of features with the squared exponential, and Matern-5/2 with the default set.  Class factors are found anew
for each (theta times the variance of the feature, by class) and printed; the fit with the default is repeated with the
out-of-plane factor set to the in-plane one, the others as they were found.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser
from support.learning_curves import DATA, group_errors, keep, reference_s

import numpy as np

import fflux_py
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import CLASSES, FEATURE_KINDS, FeatureSet
from fflux_py.gp.joint_atoms import JointFrame, joint_atoms
from fflux_py.gp.joint_covariance import JointData, JointModel, solve
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.symmetry import no_symmetry
from fflux_py.training import TrainingConfig, train
from fflux_py.training.feature_statistics import feature_variances

DEFAULT = TrainingConfig().features
VARIANTS = {
    **{f"{kind}, squared-exponential": {"features": kind} for kind in FEATURE_KINDS},
    f"{DEFAULT}, matern52": {"features": DEFAULT, "kernel": "matern52"},
}
TIED = f"{DEFAULT}, squared-exponential, out-of-plane factor as in plane"


def model_and_factors(forcefield: ForceField) -> tuple[JointModel, np.ndarray, np.ndarray]:
    """The model of a joint fit without symmetry, and each class's factor and each feature's class."""
    assert forcefield.joint is not None
    first, n_atoms = forcefield.atoms[0], forcefield.molecule.n_atoms
    frames = tuple(m.frame for m in forcefield.atoms)
    model = JointModel(
        frames, first.feature_kind, first.covariance.kernel, first.covariance.azimuth, no_symmetry(n_atoms)
    )
    spreads = feature_variances(model, forcefield.joint.positions)
    products = np.array([m.covariance.theta for m in forcefield.atoms]) * spreads
    classes = FeatureSet(first.feature_kind, n_atoms).classes
    return model, np.array([products[0, classes == c][0] for c in range(len(CLASSES))]), classes


def tied(base: ForceField, dataset: Dataset, n_train: int) -> ForceField:
    """The force field with the factor of the out-of-plane class set to that of the in-plane class."""
    assert base.joint is not None
    model, factors, classes = model_and_factors(base)
    change = np.where(classes == 4, factors[3] / factors[4], 1.0)
    kernels = [replace(m.covariance, theta=m.covariance.theta * change) for m in base.atoms]
    fields = (dataset.positions, dataset.energies, dataset.forces, dataset.atomic_energies, dataset.atomic_errors)
    indices = np.flatnonzero([s == "train" for s in dataset.geometries.split])[:n_train]
    data = JointData(*(np.array(a[indices]) for a in fields))
    solution = solve(data, model, kernels, float(base.joint.variances[0]))
    frames = [replace(JointFrame.of(m), covariance=kernel) for m, kernel in zip(base.atoms, kernels, strict=True)]
    isolated = [dataset.isolated_energies.get(base.molecule.symbols[m.frame.atom]) for m in frames]
    atoms = joint_atoms(solution, frames, base.atoms[0].mean_name, isolated)
    return ForceField(base.molecule, atoms, dataset.isolated_energies, {}, solution)


def predicted(forcefield: ForceField, dataset: Dataset) -> dict[str, Any]:
    """Errors on the held-out frames."""
    test = dataset.with_split("test")
    energies, forces = forcefield.compute(test.positions)
    assert forces is not None
    return group_errors(test, energies, forces, forcefield.atomic_energies(test.positions))


def report(name: str, n_train: int, figures: dict[str, Any]) -> None:
    """Keep and print one variant."""
    facts = {"benchmark": "feature choice", "method": name, "n_train": n_train, **figures}
    facts["command"] = f"python benchmarks/accuracy/feature_choice.py --n-train {n_train}"
    facts["versions"] = {"fflux_py": fflux_py.__version__}
    keep(facts, ("benchmark", "method", "n_train"))
    print(name, figures["length_factors"])
    for group, errors in figures["groups"].items():
        print(f"  {group}", errors, flush=True)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--n-train", type=int, default=200)
    options.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    chosen = options.parse_args()
    dataset = Dataset.read(DATA)
    for name in chosen.only:
        work = time.process_time()
        base = train(
            dataset, TrainingConfig(n_train=chosen.n_train, symmetry="none", locality="none", **VARIANTS[name])
        )
        work = time.process_time() - work
        factors = dict(zip(CLASSES, model_and_factors(base)[1].tolist(), strict=True))
        figures = {"groups": predicted(base, dataset), "length_factors": factors, "training_processor_time_s": work}
        report(name, chosen.n_train, {**figures, "reference_processor_time_s": reference_s()})
        if VARIANTS[name] == {"features": DEFAULT}:
            figures = {"groups": predicted(tied(base, dataset, chosen.n_train), dataset)}
            factors["out-of-plane direction"] = factors["in-plane direction"]
            report(TIED, chosen.n_train, {**figures, "length_factors": factors})


if __name__ == "__main__":
    main()

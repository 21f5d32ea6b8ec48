"""Peak memory of the direct solution of the joint fit, measured at a small N and extrapolated by its known terms.

    python benchmarks/speed/joint_memory.py alanine_dipeptide_gfn2.npz --n 100 --large 400

The data are an ``.npz`` with ``atomic_numbers``, ``positions_angstrom``, ``atomic_energies_hartree``,
``forces_hartree_per_angstrom`` and the indices ``train``.  The time of the solution is printed too.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from fflux_py.gp.joint_covariance import JointData, JointModel, solve
from fflux_py.gp.radial_kernel import SQUARED_EXPONENTIAL
from fflux_py.molecules.molecule import Molecule, symbols_of
from fflux_py.molecules.symmetry import find_symmetry, symmetric_local_frames
from fflux_py.training.feature_statistics import feature_variances
from fflux_py.training.joint_solver import direct_memory
from fflux_py.training.length_scales import class_covariances
from fflux_py.units import ANGSTROM

FACTORS = np.log(np.full(5, 1e-3))


def read(path: Path, n: int) -> tuple[Molecule, JointData]:
    """The molecule and its first ``n`` training geometries; repeated, slightly moved, where there are fewer."""
    stored = np.load(path)
    chosen = np.resize(stored["train"], n)
    moved = 1e-3 * np.random.default_rng(0).standard_normal((n, *stored["positions_angstrom"].shape[1:]))
    positions = stored["positions_angstrom"][chosen] / ANGSTROM + moved
    energies = stored["atomic_energies_hartree"][chosen]
    forces = stored["forces_hartree_per_angstrom"][chosen] * ANGSTROM
    molecule = Molecule(symbols_of(stored["atomic_numbers"]), positions[0], 0, path.stem)
    return molecule, JointData(positions, energies.sum(axis=1), forces, energies, np.full_like(energies, np.nan))


def model_of(molecule: Molecule) -> JointModel:
    symmetry = find_symmetry(molecule)
    return JointModel(
        symmetric_local_frames(molecule, symmetry), "unit-vector", SQUARED_EXPONENTIAL, "periodic", symmetry
    )


def peak() -> float:
    """Peak resident memory of this process in bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--n", type=int, default=100, help="geometries of the measurement")
    parser.add_argument("--large", type=int, default=400, help="geometries to extrapolate to")
    options = parser.parse_args()
    molecule, data = read(options.data, options.n)
    model = model_of(molecule)
    kernels = class_covariances(feature_variances(model, data.positions), molecule.n_atoms, model, FACTORS)
    solve(data.subset(np.arange(2)), model, kernels, 0.1)
    before, begin = peak(), time.process_time()
    solve(data, model, kernels, 0.1)
    measured, seconds = peak() - before, time.process_time() - begin
    _, large = read(options.data, options.large)
    figures = {
        "n_atoms": molecule.n_atoms,
        "n_geometries": options.n,
        "n_unknowns": data.observations.count,
        "matrix_gb": 8e-9 * data.observations.count**2,
        "measured_gb": 1e-9 * measured,
        "predicted_gb": 1e-9 * direct_memory(data, model),
        "baseline_gb": 1e-9 * before,
        "cpu_time_s": seconds,
        "large_n_geometries": options.large,
        "large_n_unknowns": large.observations.count,
        "large_predicted_gb": 1e-9 * direct_memory(large, model),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

"""Conjugate gradients against the direct solution of the joint fit: iterations, time, memory and agreement.

    python benchmarks/speed/joint_solvers.py malondialdehyde_gfn2.npz --n 120 --rank 0.1 0.2 0.33

The data are those of joint_memory.py.  The class length scales are found on 25 geometries.  Agreement is that of the
predictions on the training geometries, of the fit and of a mean one hartree higher.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from joint_memory import model_of, read

from fflux_py.gp.joint_covariance import solve
from fflux_py.training import TrainingConfig
from fflux_py.training import joint_solver as joint_solution
from fflux_py.training._joint_operator import JointOperator
from fflux_py.training.config import SolverSettings
from fflux_py.training.feature_statistics import feature_statistics
from fflux_py.training.joint_system import JointSystem
from fflux_py.training.length_scale_law import length_scale_law
from fflux_py.training.length_scales import class_covariances, search_hyperparameters
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--n", type=int, default=120)
    parser.add_argument("--rank", type=float, nargs="+", default=[1 / 3], help="of the observations")
    parser.add_argument("--factors", type=float, nargs=6, help="logarithms of the class factors, and the variance")
    options = parser.parse_args()
    molecule, data = read(options.data, options.n)
    model = model_of(molecule)
    statistics = feature_statistics(model, data.positions)
    if options.factors:
        factors, variance = np.array(options.factors[:5]), options.factors[5]
        kernels = class_covariances(statistics.variances, molecule.n_atoms, model, factors)
    else:
        config, unit = TrainingConfig(max_iterations=25), float(np.var(data.energies[:25])) / molecule.n_atoms
        law = length_scale_law(model, statistics, molecule, unit, config.locality)
        hyperparameters = search_hyperparameters(data.subset(np.arange(25)), law, config)
        model, kernels, variance = law.model, law.kernels(hyperparameters), law.variances(hyperparameters)
    system = JointSystem(data, model, kernels, variance)
    begin = time.process_time()
    direct = solve(data, model, kernels, variance)
    size = len(direct.coefficients)
    print(
        json.dumps({"n_unknowns": size, "direct_cpu_time_s": time.process_time() - begin, "matrix_mb": 8e-6 * size**2})
    )
    operator = JointOperator(system)
    totals = size - len(data.energies) * (1 + 3 * molecule.n_atoms)
    forces = totals + len(data.energies)
    for rank in options.rank:
        joint_solution._LARGEST_RANK = rank  # type: ignore[misc]
        calls: list[int] = []

        begin = time.process_time()
        found = joint_solution.solve_system(
            system,
            SolverSettings("cg"),
            lambda done, _, seen=calls: seen.append(done),
        )
        seconds = time.process_time() - begin
        means = direct.centres + 1.0
        pairs = [(fit.shifted(direct.centres), fit.shifted(means)) for fit in (found, direct)]
        errors = np.abs(operator(np.array([pairs[0][0] - pairs[1][0], pairs[0][1] - pairs[1][1]]).T))
        figures = {
            "rank": int(rank * size),
            "preconditioner_mb": 8e-6 * int(rank * size) * size,
            # The preconditioner reports every geometry twice.
            "iterations": len(calls) - 2 * len(data.energies),
            "cg_cpu_time_s": seconds,
            "total_energy_kcal_mol": errors[totals:forces, 0].max() * KCAL_MOL,
            "force_kcal_mol_angstrom": errors[forces:, 0].max() * KCAL_MOL_ANGSTROM,
            "total_energy_of_shifted_mean_kcal_mol": errors[totals:forces, 1].max() * KCAL_MOL,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()

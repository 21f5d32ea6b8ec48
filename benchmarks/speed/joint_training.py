"""Processor time of a joint training and of a force evaluation, by whichever version of the package is imported.

    python benchmarks/speed/joint_training.py ethanol_split01.npz --n 120
    PYTHONPATH=OTHER_CHECKOUT python benchmarks/speed/joint_training.py ethanol_split01.npz --n 120

The file is one of rMD17 (docs/league.md); the module imports nothing that versions since 0.1 do not have.  Everything
is compiled by a small training before the clock starts.  One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np
import scipy.linalg
from ase.data import chemical_symbols

import fflux_py
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.training import TrainingConfig, train
from fflux_py.units import ANGSTROM, KCAL_MOL, KCAL_MOL_ANGSTROM

_COMPILING = 4
_JUDGED = 100


def read(path: Path) -> Dataset:
    """All training frames of a file of rMD17."""
    arrays = np.load(path)
    positions = arrays["train_R_angstrom"] / ANGSTROM
    count, unknown = len(positions), np.full(positions.shape[:2], np.nan)
    molecule = Molecule(tuple(chemical_symbols[z] for z in arrays["z"]), positions[0], 0, path.stem)
    return Dataset(
        geometries=GeometrySet(molecule, positions, ("md",) * count, np.full(count, np.nan), ("train",) * count),
        energies=arrays["train_E_kcal_mol"] / KCAL_MOL,
        forces=np.asarray(arrays["train_F_kcal_mol_angstrom"], dtype=np.float64) / KCAL_MOL_ANGSTROM,
        atomic_energies=unknown,
        atomic_errors=unknown,
        charges=unknown,
        metadata={"method": "PBE", "basis": "def2-SVP", "partition": "none"},
    )


def reference_s() -> float:
    """Processor time of a Cholesky factorisation of 2000 x 2000, the median of five."""
    a = np.random.default_rng(0).standard_normal((2000, 2000))
    a = a @ a.T + 2000.0 * np.eye(2000)
    times = []
    for _ in range(5):
        begin = time.process_time()
        scipy.linalg.cholesky(a, lower=True, check_finite=False)
        times.append(time.process_time() - begin)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--n", type=int, default=50)
    options = parser.parse_args()
    dataset = read(options.data)
    judged = dataset.positions[-_JUDGED:]
    small = train(dataset, TrainingConfig(n_train=_COMPILING, max_iterations=1))
    small.compute(judged)
    before, begin = reference_s(), time.process_time()
    forcefield = train(dataset, TrainingConfig(n_train=options.n))
    training = time.process_time() - begin
    times = []
    for _ in range(5):
        begin = time.process_time()
        forcefield.compute(judged)
        times.append(time.process_time() - begin)
    figures = {
        "version": fflux_py.__version__,
        "data": options.data.name,
        "n_train": options.n,
        "training_processor_s": training,
        "evaluation_processor_us": 1e6 * min(times) / len(judged),
        "reference_processor_s": 0.5 * (before + reference_s()),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

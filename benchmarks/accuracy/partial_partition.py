"""Atomic energies on all, a half and a quarter of the training geometries.

    python benchmarks/accuracy/partial_partition.py --n-train 400

A partition costs more than the calculation it belongs to, and a geometry without one still enters the joint fit with
its total energy and forces.  The geometries that keep their partition are every second, or every fourth, of the
(shuffled) training part.  Test frames are those of held-out trajectories, all with atomic energies.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser
from support.fits import run
from support.learning_curves import DATA, keep, reference_s

import numpy as np

import fflux_py
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig


def with_partition_on_every(dataset: Dataset, k: int) -> Dataset:
    """The data set whose training geometries keep their atomic energies only where their place is a multiple of k."""
    atomic = dataset.atomic_energies.copy()
    places = np.flatnonzero([s == "train" for s in dataset.geometries.split])
    atomic[np.delete(places, np.s_[::k])] = np.nan
    return replace(dataset, atomic_energies=atomic)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--n-train", type=int, default=400)
    options.add_argument("--symmetry", default="full", choices=["full", "none"])
    options.add_argument("--every", type=int, nargs="+", default=[1, 2, 4])
    chosen = options.parse_args()
    dataset = Dataset.read(DATA)
    for k in chosen.every:
        before = reference_s()
        thinned = with_partition_on_every(dataset, k)
        figures = run(thinned, TrainingConfig(n_train=chosen.n_train, symmetry=chosen.symmetry))
        arguments = f"--n-train {chosen.n_train} --symmetry {chosen.symmetry} --every {k}"
        facts = {
            "benchmark": "partial partition",
            "method": f"joint, symmetry {chosen.symmetry}",
            "n_train": chosen.n_train,
            "partition_on_every": k,
            "command": f"python benchmarks/accuracy/partial_partition.py {arguments}",
            **figures,
            "reference_processor_time_s": 0.5 * (before + reference_s()),
            "versions": {"fflux_py": fflux_py.__version__},
        }
        keep(facts, ("benchmark", "method", "n_train", "partition_on_every"))
        for group, errors in figures["groups"].items():
            print(f"atomic energies on every {k}", group, errors, flush=True)


if __name__ == "__main__":
    main()

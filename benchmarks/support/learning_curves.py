"""Data, clock and the file of results that the learning curves share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

# Read by NumPy, Numba and PyTorch when they are imported: every method has one thread.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np
import scipy.linalg

from fflux_py.analysis.prediction_errors import prediction_errors
from fflux_py.files import write_atomically
from fflux_py.molecules.dataset import Dataset

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "training_data" / "malondialdehyde" / "data.extxyz"
RESULTS = ROOT / "benchmarks" / "results" / "learning_curves.json"
GROUPS = ("300-500 K", "1000 K", "metadynamics")
FIGURES = ("energy_mae_kcal_mol", "force_mae_kcal_mol_angstrom", "atomic_energy_mae_kcal_mol")


def first_of_training(dataset: Dataset, n: int) -> Dataset:
    """The first ``n`` geometries marked ``train``, as the training takes them."""
    part = dataset.with_split("train")
    return part.select(np.arange(n))


def reference_s(repeats: int = 3) -> float:
    """Processor time of a fixed piece of linear algebra (Cholesky, 2000 x 2000), seconds: what this core gives now."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2000, 2000))
    a = a @ a.T + 2000.0 * np.eye(2000)
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        scipy.linalg.cholesky(a, lower=True, check_finite=False)
        times.append(time.process_time() - begin)
    return float(np.median(times))


def group_errors(test: Dataset, energies: np.ndarray, forces: np.ndarray, atomic: np.ndarray | None) -> dict[str, Any]:
    """Errors by group of held-out frames (arguments in atomic units)."""
    table = prediction_errors(test, energies, forces, atomic)
    found: dict[str, Any] = {}
    for group in GROUPS:
        figures = table.groups[group].as_dict()
        found[group] = {"n_frames": figures["n_frames"], **{key: figures[key] for key in FIGURES}}
    return found


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """The file of results; empty where there is none yet."""
    if not path.exists():
        return {"runs": []}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def keep(run: Mapping[str, Any], same: tuple[str, ...], path: Path = RESULTS) -> None:
    """Add a run to the file of results, in place of an older one that agrees with it in the keys ``same``."""
    results = read_results(path)
    dated = {**run, "date": datetime.now().astimezone().strftime("%Y-%m-%d")}
    kept = [r for r in results["runs"] if any(r.get(key) != dated.get(key) for key in same)]
    results["runs"] = sorted([*kept, dated], key=lambda r: (r["benchmark"], r["method"], r["n_train"]))
    write_atomically(path, json.dumps(results, indent=1) + "\n")

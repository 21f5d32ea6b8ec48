"""What trains and predicts: this package, and others in a Python of their own."""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train
from fflux_py.units import ANGSTROM, EV, KCAL_MOL, KCAL_MOL_ANGSTROM

FOLDER = Path(__file__).resolve().parent
SCRIPTS = {
    "sgdml": FOLDER.parent / "peers" / "learning_curves" / "peer_sgdml.py",
    "fchl19": FOLDER / "peer_fchl19.py",
}
MILLI = 1000.0
MEV = MILLI * EV
MEV_ANGSTROM = MILLI * EV / ANGSTROM
_TIMED = 50

Prediction = tuple[np.ndarray, np.ndarray]


def errors(judged: Dataset, predicted: Prediction) -> dict[str, float | int]:
    """Mean absolute and root mean square errors, without any shift of energies."""
    energies, forces = predicted
    e = MEV * (energies - judged.energies)
    found: dict[str, float | int] = {
        "n_frames": len(judged),
        "energy_mae_mev": float(np.abs(e).mean()),
        "energy_rmse_mev": float(np.sqrt(np.square(e).mean())),
    }
    f = MEV_ANGSTROM * (forces - judged.forces)
    if np.isfinite(f).all():
        found["force_mae_mev_angstrom"] = float(np.abs(f).mean())
        found["force_rmse_mev_angstrom"] = float(np.sqrt(np.square(f).mean()))
    return found


def own(trained: Dataset, config: TrainingConfig, parts: Mapping[str, Dataset]) -> dict[str, Any]:
    """Train this package and judge it by parts that are held out."""
    begin, work = time.perf_counter(), time.process_time()
    forcefield = train(trained, config)
    figures: dict[str, Any] = {
        "training_wall_time_s": time.perf_counter() - begin,
        "training_processor_time_s": time.process_time() - work,
        "peak_memory_gb": 1024e-9 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "settings": f"{forcefield.metadata['symmetry']}; lengths on {min(config.subset, config.n_train or 0)} frames",
    }
    figures["errors"] = {name: errors(part, compute(forcefield, part)) for name, part in parts.items()}
    tests = next(iter(parts.values())).positions[:_TIMED]
    forcefield.energy_and_forces(tests[0])  # compiles
    work = time.process_time()
    for positions in tests:
        forcefield.energy_and_forces(positions)
    figures["prediction_processor_time_ms"] = MILLI * (time.process_time() - work) / len(tests)
    return figures


def compute(forcefield: ForceField, dataset: Dataset) -> Prediction:
    """Energies and forces of a data set's geometries."""
    energies, forces = forcefield.compute(dataset.positions)
    return np.asarray(energies), np.asarray(forces)


def peer(trained: Dataset, name: str, python: str, parts: Mapping[str, Dataset]) -> dict[str, Any]:
    """Train another program on the same frames; frames and predictions pass as .npz files (angstrom, kcal/mol)."""
    held_out = [part.positions for part in parts.values()]
    # A constant is taken from the energies so that single precision inside a peer loses nothing; it is added back.
    offset = float(trained.energies.mean())
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(
            source,
            numbers=trained.molecule.numbers,
            train_positions=trained.positions * ANGSTROM,
            train_energies=(trained.energies - offset) * KCAL_MOL,
            train_forces=trained.forces * KCAL_MOL_ANGSTROM,
            test_positions=np.concatenate(held_out) * ANGSTROM,
        )
        subprocess.run([python, str(SCRIPTS[name]), str(source), str(target)], check=True, stdout=subprocess.DEVNULL)
        with np.load(target) as found:
            energies = found["energies"] / KCAL_MOL + offset
            forces = found["forces"] / KCAL_MOL_ANGSTROM
            figures: dict[str, Any] = json.loads(str(found["facts"]))
    ends = np.cumsum([len(positions) for positions in held_out])[:-1]
    split = zip(np.split(energies, ends), np.split(forces, ends), strict=True)
    figures["errors"] = {
        part: errors(judged, predicted) for (part, judged), predicted in zip(parts.items(), split, strict=True)
    }
    return figures

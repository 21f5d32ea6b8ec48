"""Peers run in a Python of their own, which need not have this package: frames and predictions pass as .npz files."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support.learning_curves import first_of_training, group_errors

import numpy as np

from fflux_py.molecules.dataset import Dataset
from fflux_py.units import ANGSTROM, KCAL_MOL, KCAL_MOL_ANGSTROM

FOLDER = Path(__file__).resolve().parent
SCRIPTS = {"sgdml": "peer_sgdml.py", "mace": "peer_mace.py"}


def run(dataset: Dataset, name: str, n_train: int, python: str, extra: list[str]) -> dict[str, Any]:
    """Train a peer on the same frames, energies and forces, and compare its predictions for the held-out frames."""
    train, test = first_of_training(dataset, n_train), dataset.with_split("test")
    # A constant is taken from the energies so that single precision inside a peer loses nothing; it is added back.
    offset = float(train.energies.mean())
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(
            source,
            numbers=dataset.molecule.numbers,
            train_positions=train.positions * ANGSTROM,
            train_energies=(train.energies - offset) * KCAL_MOL,
            train_forces=train.forces * KCAL_MOL_ANGSTROM,
            test_positions=test.positions * ANGSTROM,
        )
        subprocess.run([python, str(FOLDER / SCRIPTS[name]), str(source), str(target), *extra], check=True)
        with np.load(target) as found:
            energies = found["energies"] / KCAL_MOL + offset
            forces = found["forces"] / KCAL_MOL_ANGSTROM
            facts: dict[str, Any] = json.loads(str(found["facts"]))
    return {**facts, "groups": group_errors(test, energies, forces, None)}

"""sGDML (Chmiela et al., Comput. Phys. Commun. 240, 38 (2019)) on training and test frames of an .npz file.

    python peer_sgdml.py INPUT.npz OUTPUT.npz

Runs in an environment of its own.  Input (angstrom, kcal/mol): ``numbers``, ``train_positions``, ``train_energies``,
``train_forces``, ``test_positions``.  Permutations are found by the package.  The length scale sigma is chosen by the
force error on the last fifth of the training frames with a model of the first four fifths; the model that is
reported is trained on all of them.  Output: ``energies``, ``forces`` of the test frames, and ``facts`` (JSON).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np
import sgdml
from sgdml.predict import GDMLPredict
from sgdml.train import GDMLTrain
from sgdml.utils.io import dataset_md5

# The package's own default grid is 10, 20, ... 100; finer where molecules of this size have their minimum.
SIGMAS = (5, 10, 15, 20, 30, 40, 60, 80)


def processor_time() -> float:
    """Of this process and its children, seconds: the package forks."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def as_dataset(numbers: np.ndarray, r: np.ndarray, e: np.ndarray, f: np.ndarray, name: str) -> dict[str, object]:
    dataset: dict[str, object] = {
        "type": np.array("d"),
        "code_version": np.array(sgdml.__version__),
        "name": np.array(name),
        "theory": np.array("dft"),
        "z": numbers.astype(np.uint8),
        "R": r,
        "E": e,
        "F": f,
        "r_unit": np.array("Ang"),
        "e_unit": np.array("kcal/mol"),
    }
    dataset["md5"] = dataset_md5(dataset)
    return dataset


def predict(model: dict[str, object], positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies and forces, one geometry at a time as in a simulation."""
    predictor = GDMLPredict(model, max_processes=1, num_workers=0)
    predicted = [predictor.predict(x.reshape(1, -1)) for x in positions]
    return np.concatenate([e for e, _ in predicted]), np.concatenate([f for _, f in predicted]).reshape(positions.shape)


def main() -> None:
    data = dict(np.load(sys.argv[1]))
    numbers, r, e, f = (data[k] for k in ("numbers", "train_positions", "train_energies", "train_forces"))
    n, part = len(r), round(0.8 * len(r))
    trainer = GDMLTrain(max_processes=1)
    begin, work = time.perf_counter(), processor_time()
    whole = as_dataset(numbers, r, e, f, "all")
    inner = as_dataset(numbers, r[:part], e[:part], f[:part], "inner")
    task = trainer.create_task(whole, n, whole, 0, SIGMAS[0], use_sym=True)
    perms = task["perms"]
    errors: dict[int, float] = {}
    rising = 0
    for sigma in SIGMAS:
        trial = trainer.create_task(inner, part, inner, 0, sigma, perms=perms, use_sym=True)
        model = trainer.train(trial)
        errors[sigma] = float(np.abs(predict(model, r[part:])[1] - f[part:]).mean())
        rising = rising + 1 if errors[sigma] > min(errors.values()) else 0
        if rising == 2:
            break
    sigma = min(errors, key=lambda s: errors[s])
    chosen, last = time.perf_counter(), processor_time()
    task = trainer.create_task(whole, n, whole, 0, sigma, perms=perms, use_sym=True)
    model = trainer.train(task)
    facts = {
        "training_wall_time_s": time.perf_counter() - begin,
        "training_processor_time_s": processor_time() - work,
        "last_fit_wall_time_s": time.perf_counter() - chosen,
        "last_fit_processor_time_s": processor_time() - last,
        "settings": f"sigma {sigma}, {len(perms)} permutations",
        "sigma": sigma,
        "permutations": len(perms),
        "validation_force_mae_kcal_mol_angstrom": errors,
        "versions": {"sgdml": sgdml.__version__, "numpy": np.__version__},
    }
    work = processor_time()
    energies, forces = predict(model, data["test_positions"])
    facts["prediction_processor_time_ms"] = 1000.0 * (processor_time() - work) / len(energies)
    np.savez(sys.argv[2], energies=energies, forces=forces, facts=json.dumps(facts))


if __name__ == "__main__":
    main()

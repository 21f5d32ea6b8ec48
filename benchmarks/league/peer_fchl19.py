"""FCHL19 (Christensen et al., J. Chem. Phys. 152, 044107 (2020)) as in kernelforge, on frames of an .npz file.

    python peer_fchl19.py INPUT.npz OUTPUT.npz

Runs in an environment of its own.  Input (angstrom, kcal/mol): ``numbers``, ``train_positions``, ``train_energies``,
``train_forces``, ``test_positions``.  Kernel ridge regression of energies and forces with the local kernel; the
representation has the package's defaults.  Width and regularisation are chosen by the force error on the last fifth of
the training frames with a model of the first four fifths; the model that is reported is trained on all of them.
Output: ``energies``, ``forces`` of the test frames, and ``facts`` (JSON).
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np
from kernelforge.models import LocalKRRModel

SIGMAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
REGULARISATIONS = (1e-10, 1e-8, 1e-6)
_TIMED = 50


def fit(numbers: np.ndarray, frames: tuple[np.ndarray, np.ndarray, np.ndarray], sigma: float, l2: float) -> object:
    r, e, f = frames
    model = LocalKRRModel(sigma=sigma, l2=l2, elements=sorted({int(z) for z in numbers}))
    model.fit(list(r), [numbers] * len(r), energies=e, forces=list(f))
    return model


def predict(model: object, numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    energies, forces = model.predict(list(positions), [numbers] * len(positions))
    return np.asarray(energies), np.concatenate([np.ravel(f) for f in forces]).reshape(positions.shape)


def main() -> None:
    data = dict(np.load(sys.argv[1]))
    numbers = data["numbers"].astype(np.int32)
    whole = tuple(data[key] for key in ("train_positions", "train_energies", "train_forces"))
    part = round(0.8 * len(whole[0]))
    inner, judged = tuple(array[:part] for array in whole), tuple(array[part:] for array in whole)
    begin, work = time.perf_counter(), time.process_time()
    found: dict[tuple[float, float], float] = {}
    for l2 in REGULARISATIONS:
        for sigma in SIGMAS:
            forces = predict(fit(numbers, inner, sigma, l2), numbers, judged[0])[1]
            found[sigma, l2] = float(np.abs(forces - judged[2]).mean())
    sigma, l2 = min(found, key=lambda pair: found[pair])
    chosen, last = time.perf_counter(), time.process_time()
    model = fit(numbers, whole, sigma, l2)
    facts = {
        "training_wall_time_s": time.perf_counter() - begin,
        "training_processor_time_s": time.process_time() - work,
        "last_fit_wall_time_s": time.perf_counter() - chosen,
        "last_fit_processor_time_s": time.process_time() - last,
        "settings": f"sigma {sigma:g}, regularisation {l2:g}",
        "validation_force_mae_kcal_mol_angstrom": {f"{s:g}, {r:g}": error for (s, r), error in found.items()},
        "versions": {"kernelforge": version("kernelforge"), "numpy": np.__version__},
    }
    energies, forces = predict(model, numbers, data["test_positions"])
    tests = data["test_positions"][:_TIMED]
    work = time.process_time()
    for positions in tests:
        predict(model, numbers, positions[None])
    facts["prediction_processor_time_ms"] = 1000.0 * (time.process_time() - work) / len(tests)
    np.savez(sys.argv[2], energies=energies, forces=forces, facts=json.dumps(facts))


if __name__ == "__main__":
    main()

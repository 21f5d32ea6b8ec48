"""Share of held-out errors within one and two calibrated standard deviations, and what a deviation costs.

    python benchmarks/accuracy/calibration.py                                  # trains on 200 geometries first
    python benchmarks/accuracy/calibration.py --n-train 400 --neighbours 8 16
    python benchmarks/accuracy/calibration.py --model training_data/malondialdehyde/model.npz

The held-out trajectories are split into two halves. Every half is reported with the factors found on the other one, so
that no frame is reported that any factor has seen. Normal errors: 0.683 within one deviation, 0.954 within two.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np

from fflux_py import model_file
from fflux_py.analysis.calibration import calibration_halves, deviation_factor, reliability
from fflux_py.analysis.validate import Validation, validate
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train
from fflux_py.units import KCAL_MOL


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--n-train", type=int, default=200)
    options.add_argument("--max-iterations", type=int, default=15, help="of the search for length scales")
    options.add_argument("--neighbours", type=int, nargs="+", default=[16])
    options.add_argument("--model", help="calibrate this model (.npz), which knows no held-out trajectory")
    options.add_argument("--data", default=str(FOLDER / "data.extxyz"))
    chosen = options.parse_args()
    dataset = Dataset.read(chosen.data)
    if chosen.model:
        forcefield = model_file.load(chosen.model)
    else:
        forcefield = train(dataset, TrainingConfig(n_train=chosen.n_train, max_iterations=chosen.max_iterations))
    figures: dict[str, object] = {"n_train": forcefield.metadata["n_train"]}
    for neighbours in chosen.neighbours:
        validation = validate(replace(forcefield, calibration={"neighbours": neighbours}), dataset)
        found = coverage(validation)
        figures.update({f"{neighbours} neighbours, {name}": value for name, value in found.items()})
    show(figures, chosen.json)


def coverage(validation: Validation) -> dict[str, object]:
    """Cross-calibrated coverage by group, and times."""
    halves = calibration_halves(validation.dataset.geometries)
    scaled = {"total": np.array(validation.deviations), "atomic": np.array(validation.atomic_deviations)}
    errors = {"total": validation.errors.energy_errors, "atomic": validation.errors.atomic_energy_errors}
    figures: dict[str, object] = {}
    for name, sigma in scaled.items():
        factors = [deviation_factor(errors[name][half], sigma[half]) for half in halves]
        sigma[halves[1]] *= factors[0]
        sigma[halves[0]] *= factors[1]
        figures[f"{name}: factors of the two halves"] = " ".join(f"{factor:.3g}" for factor in factors)
        for group in validation.errors.groups:
            rows = validation.errors.frames(group)
            found = reliability(errors[name][rows], sigma[rows])
            figures[f"{name}, {group}: n"] = found.n
            figures[f"{name}, {group}: within 1 sigma"] = found.within_1_sigma
            figures[f"{name}, {group}: within 2 sigma"] = found.within_2_sigma
            figures[f"{name}, {group}: rank correlation"] = found.rank_correlation
            figures[f"{name}, {group}: mean sigma_kcal_mol"] = float(sigma[rows].mean()) * KCAL_MOL
    figures["deviation_time_ms"] = validation.deviation_time_ms
    figures["deviation_time_over_force_evaluation"] = validation.deviation_time_ms / validation.evaluation_time_ms
    return figures


if __name__ == "__main__":
    main()

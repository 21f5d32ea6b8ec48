"""Errors on held-out trajectories of the shipped malondialdehyde data.

    python benchmarks/accuracy/held_out.py                     # joint fit of energies and forces, N = 400
    python benchmarks/accuracy/held_out.py --energies-only --features spherical --prior-mean MF2

Frames of whole trajectories that training never saw, in groups: 300-500 K, 1000 K, metadynamics.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

from fflux_py.analysis.validate import validate
from fflux_py.gp.features import FEATURE_KINDS
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train
from fflux_py.training.config import LOCALITIES


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--n-train", type=int, default=400)
    options.add_argument("--features", default="unit-vector", choices=list(FEATURE_KINDS))
    options.add_argument("--prior-mean", default="MF2")
    options.add_argument("--symmetry", default="auto", choices=["auto", "full", "rotors", "none"])
    options.add_argument("--locality", default=TrainingConfig.locality, choices=list(LOCALITIES))
    options.add_argument("--energies-only", action="store_true")
    options.add_argument("--data", default=str(FOLDER / "data.extxyz"))
    chosen = options.parse_args()
    dataset = Dataset.read(chosen.data)
    config = TrainingConfig(
        n_train=chosen.n_train,
        forces=not chosen.energies_only,
        features=chosen.features,
        prior_mean=chosen.prior_mean,
        symmetry=chosen.symmetry,
        locality=chosen.locality,
        workers=2 if chosen.energies_only else 1,
    )
    begin = time.perf_counter()
    forcefield = train(dataset, config)
    figures: dict[str, object] = {
        "fit": "atomic energies" if chosen.energies_only else "energies and forces",
        "features": chosen.features,
        "prior_mean": chosen.prior_mean,
        "symmetry": forcefield.metadata["symmetry"],
        "n_train": chosen.n_train,
        "training_time_s": time.perf_counter() - begin,
    }
    validation = validate(forcefield, dataset)
    for group, errors in validation.errors.groups.items():
        for key in ("n_frames", "energy_mae_kcal_mol", "force_mae_kcal_mol_angstrom", "atomic_energy_mae_kcal_mol"):
            figures[f"{group}: {key}"] = getattr(errors, key)
    figures["evaluation_time_ms"] = validation.evaluation_time_ms
    figures["images_per_atom"] = forcefield.images_per_atom
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

"""Active learning of malondialdehyde on GFN2-xTB labels: errors on visited frames by round and labels spent.

python benchmarks/dynamics/certify_improve.py --n-train 50 --budget 100 --folder improved
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

from fflux_py.active_learning import ImprovementConfig, improve
from fflux_py.certification import GFN2Labeller, Limits
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--n-train", type=int, default=50)
    options.add_argument("--budget", type=int, default=100)
    options.add_argument("--batch", type=int, default=15)
    options.add_argument("--checks", type=int, default=5)
    options.add_argument("--replicas", type=int, default=2)
    options.add_argument("--picoseconds", type=float, default=2.0)
    options.add_argument("--aim", type=float, default=0.1, help="energy MAE (kcal/mol) that ends the loop")
    options.add_argument("--folder", type=Path, default=Path("improved"))
    options.add_argument("--symmetry", choices=["auto", "none"], default="auto")
    chosen = options.parse_args()
    geometries = Dataset.read(FOLDER / "data.extxyz").with_split("train").select(range(chosen.n_train)).geometries
    data = GFN2Labeller().label(replace(geometries, metadata={}), Path())
    assert data is not None
    fit = TrainingConfig(symmetry=chosen.symmetry)
    config = ImprovementConfig(
        temperatures=(300.0, 1000.0),
        replicas=chosen.replicas,
        picoseconds=chosen.picoseconds,
        checks=chosen.checks,
        batch=chosen.batch,
        budget=chosen.budget,
        candidates=100,
        limits=Limits(energy_mae_kcal_mol=chosen.aim),
    )
    result = improve(train(data, fit), data, GFN2Labeller(), config, chosen.folder, training=fit)
    figures: dict[str, object] = {}
    for entry in result.rounds:
        for name in ("n_train", "n_survived", "n_runs", "labels_spent", "energy_mae_kcal_mol",
                     "hottest_energy_mae_kcal_mol", "force_mae_kcal_mol_angstrom", "largest_deviation_kcal_mol",
                     "criteria_met", "criteria"):  # fmt: skip
            figures[f"round_{entry.number}_{name}"] = getattr(entry, name)
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

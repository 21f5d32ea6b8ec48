"""Does the partition matter to the force field?  The same geometries with topological and with Hirshfeld atoms.

    python benchmarks/accuracy/partition_choice.py --n-train 400 [--energies-only]

Total energies and forces are those of the same calculations; only the atomic energies differ.  In the joint fit these
count loosely beside totals and forces; with `--energies-only` (the published way) each atom is trained on its energies
alone, so that everything depends on the partition.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show  # sets the number of threads: before everything that reads it

import numpy as np

from fflux_py.analysis.validate import validate
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train
from fflux_py.units import KCAL_MOL


def common(first: Dataset, second: Dataset) -> tuple[Dataset, Dataset]:
    """Both data sets at the geometries that they share, in the same order."""

    def keys(dataset: Dataset) -> list[bytes]:
        return [np.round(x, 6).tobytes() for x in dataset.geometries.positions]

    places = {key: k for k, key in enumerate(keys(second))}
    pairs = np.array([(k, places[key]) for k, key in enumerate(keys(first)) if key in places])
    return first.select(pairs[:, 0]), second.select(pairs[:, 1])


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--n-train", type=int, default=400)
    options.add_argument("--symmetry", default="auto", choices=["auto", "full", "rotors", "none"])
    options.add_argument("--energies-only", action="store_true")
    options.add_argument("--qtaim", type=Path, default=FOLDER / "data_qtaim.extxyz")
    options.add_argument("--hirshfeld", type=Path, default=FOLDER / "data.extxyz")
    chosen = options.parse_args()
    config = TrainingConfig(n_train=chosen.n_train, forces=not chosen.energies_only, symmetry=chosen.symmetry)
    qtaim, hirshfeld = common(Dataset.read(chosen.qtaim), Dataset.read(chosen.hirshfeld))
    figures: dict[str, object] = {
        "fit": "atomic energies" if chosen.energies_only else "energies and forces",
        "geometries": len(qtaim.geometries),
        "n_train": chosen.n_train,
        "largest_difference_of_totals_hartree": float(np.abs(qtaim.energies - hirshfeld.energies).max()),
    }
    for name, dataset in (("qtaim", qtaim), ("hirshfeld", hirshfeld)):
        spread = np.std(dataset.atomic_energies, axis=0) * KCAL_MOL
        figures[f"{name}: standard deviation of an atom's energy, mean over atoms, kcal_mol"] = float(spread.mean())
        forcefield = train(dataset, config)
        for group, errors in validate(forcefield, dataset).errors.groups.items():
            for key in ("n_frames", "energy_mae_kcal_mol", "force_mae_kcal_mol_angstrom", "atomic_energy_mae_kcal_mol"):
                figures[f"{name}, {group}: {key}"] = getattr(errors, key)
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

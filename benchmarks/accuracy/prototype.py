"""The joint fit on the prototype's data: GFN2-xTB labels of two molecules, from outside the repository.

    python benchmarks/accuracy/prototype.py FOLDER/malondialdehyde_gfn2.npz --n-train 400
    python benchmarks/accuracy/prototype.py FOLDER/alanine_dipeptide_gfn2.npz --n-train 200 --subset 16

An archive holds atomic numbers, positions (angstrom), atomic energies (hartree), forces (hartree/angstrom) and index
arrays ``train``, ``test_300_500K`` and ``test_1000K``, of different trajectories.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser, show

import numpy as np

from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule, symbols_of
from fflux_py.training import TrainingConfig, train
from fflux_py.units import ANGSTROM, KCAL_MOL, KCAL_MOL_ANGSTROM


def read(path: Path) -> tuple[Dataset, dict[str, np.ndarray]]:
    """The archive as a data set, and its index arrays."""
    data = np.load(path)
    positions = data["positions_angstrom"] / ANGSTROM
    atomic = data["atomic_energies_hartree"]
    train_set = data["train"]
    molecule = Molecule(symbols_of(data["atomic_numbers"]), positions[train_set[0]], name=path.stem)
    split = np.full(len(positions), "test", dtype=object)
    split[train_set] = "train"
    geometries = GeometrySet(
        molecule=molecule,
        positions=positions,
        source=tuple(f"trajectory-{split[k]}-{t}" for k, t in enumerate(data["trajectory"])),
        temperature=data["temperature_kelvin"].astype(float),
        split=tuple(split),
        metadata={},
    )
    unknown = np.full_like(atomic, np.nan)
    forces = data["forces_hartree_per_angstrom"] * ANGSTROM
    metadata = {"method": "gfn2-xtb", "basis": "gfn2-xtb", "partition": "gfn2-xtb"}
    dataset = Dataset(geometries, atomic.sum(axis=1), forces, atomic, unknown, unknown, metadata, {})
    return dataset, {name: data[name] for name in ("train", "test_300_500K", "test_1000K")}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("archive", type=Path)
    options.add_argument("--n-train", type=int, default=400)
    options.add_argument("--subset", type=int, default=40)
    options.add_argument("--symmetry", default="auto", choices=["auto", "full", "rotors", "none"])
    options.add_argument("--features", default="unit-vector")
    chosen = options.parse_args()
    dataset, indices = read(chosen.archive)
    order = np.concatenate([indices["train"], np.setdiff1d(np.arange(len(dataset)), indices["train"])])
    config = TrainingConfig(
        n_train=chosen.n_train, subset=chosen.subset, symmetry=chosen.symmetry, features=chosen.features
    )
    begin = time.perf_counter()
    forcefield = train(dataset.select(order), config)
    figures: dict[str, object] = {
        "n_train": chosen.n_train,
        "symmetry": forcefield.metadata["symmetry"],
        "images_per_atom": forcefield.images_per_atom,
        "training_time_s": time.perf_counter() - begin,
    }
    for name in ("test_300_500K", "test_1000K"):
        test = dataset.select(indices[name])
        energies, forces = forcefield.atomic_energies_and_forces(test.positions)
        total = np.abs(energies.sum(axis=1) - test.energies).mean()
        figures[f"{name}: energy_mae_kcal_mol"] = total * KCAL_MOL
        figures[f"{name}: force_mae_kcal_mol_angstrom"] = np.abs(forces - test.forces).mean() * KCAL_MOL_ANGSTROM
        figures[f"{name}: atomic_energy_mae_kcal_mol"] = np.abs(energies - test.atomic_energies).mean() * KCAL_MOL
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

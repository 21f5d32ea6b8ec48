"""Errors on held-out trajectories with a constant prior mean and with one taught by GFN2-xTB, and what a step costs.

    fflux teach training_data/malondialdehyde/start.xyz --minutes 4 -o teacher.npz
    python benchmarks/accuracy/taught_mean.py teacher.npz --data training_data/malondialdehyde/data.extxyz --n-train 50

The data are DFT labels.  Given are mean absolute errors in kcal/mol and kcal/mol/angstrom, the worst energy, and those
of the atomic energies.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

from fflux_py.analysis.validate import validate
from fflux_py.molecules.dataset import Dataset
from fflux_py.teacher.teacher_file import Teacher, load_teacher
from fflux_py.threads import processor_times
from fflux_py.training import TrainingConfig, train


def errors(dataset: Dataset, config: TrainingConfig, teacher: Teacher | None) -> dict[str, object]:
    """Train, and look at the held-out frames."""
    name, work = "constant" if teacher is None else "taught", time.process_time()
    forcefield = train(dataset, config, teacher=teacher)
    figures: dict[str, object] = {f"{name}: training_processor_time_s": time.process_time() - work}
    if forcefield.joint is not None:
        figures[f"{name}: noises_hartree_bohr"] = list(forcefield.joint.noises)
    for group, row in validate(forcefield, dataset).errors.groups.items():
        for key in ("n_frames", "energy_mae_kcal_mol", "energy_max_kcal_mol", "force_mae_kcal_mol_angstrom",
                    "atomic_energy_mae_kcal_mol"):  # fmt: skip
            figures[f"{name}, {group}: {key}"] = getattr(row, key)
    x = forcefield.molecule.positions
    forcefield.energy_and_forces(x)
    figures[f"{name}: step_us"] = 1e6 * processor_times(lambda: forcefield.energy_and_forces(x))[0]
    return figures


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("teacher", help="of 'fflux teach'")
    options.add_argument("--data", default=str(FOLDER / "data.extxyz"))
    options.add_argument("--n-train", type=int, default=50)
    options.add_argument("--subset", type=int, default=30, help="geometries of the search for length scales")
    options.add_argument("--max-iterations", type=int, default=20)
    options.add_argument("--without-constant", action="store_true", help="the taught mean alone")
    chosen = options.parse_args()
    dataset, teacher = Dataset.read(chosen.data), load_teacher(chosen.teacher)
    config = TrainingConfig(n_train=chosen.n_train, subset=chosen.subset, max_iterations=chosen.max_iterations)
    figures: dict[str, object] = {"n_train": chosen.n_train, **dict(teacher.metadata)}
    for mean in [teacher] if chosen.without_constant else [teacher, None]:
        figures |= errors(dataset, config, mean)
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

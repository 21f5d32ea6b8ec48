"""Errors on rMD17, trained on the first geometries of split 01.

    python benchmarks/accuracy/rmd17.py FOLDER --molecule ethanol --n 50
    python benchmarks/accuracy/rmd17.py FOLDER --molecule ethanol --n 50 --part validation

FOLDER holds ``MOLECULE_split01.npz``: ``z``, and for ``train`` and ``test`` ``_R_angstrom``, ``_E_kcal_mol`` and
``_F_kcal_mol_angstrom`` of the published split (A. S. Christensen, O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1,
045018 (2020); the files are not shipped).  ``--part validation`` judges by the last geometries of ``train``, which no
fit of fewer than 800 has learnt: what is chosen, is chosen by them and not by ``test``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser, show
from support.public_sets import TRAIN, rmd17

import numpy as np

from fflux_py.training import TrainingConfig, train
from fflux_py.training.config import LOCALITIES
from fflux_py.units import ANGSTROM, EV

MILLI = 1000.0
REPETITIONS = 20


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("folder", type=Path)
    options.add_argument("--molecule", default="ethanol")
    options.add_argument("--n", type=int, default=50)
    options.add_argument("--part", default="test", choices=["test", "validation"])
    options.add_argument("--judged", type=int, default=200)
    options.add_argument("--subset", type=int, default=TrainingConfig.subset)
    options.add_argument("--kernel", default="squared-exponential")
    options.add_argument("--locality", default=TrainingConfig.locality, choices=list(LOCALITIES))
    options.add_argument("--symmetry", default="auto", choices=["auto", "full", "rotors", "none"])
    chosen = options.parse_args()
    parts = rmd17(chosen.folder, chosen.molecule, chosen.n, chosen.judged)
    config = TrainingConfig(
        n_train=chosen.n,
        subset=chosen.subset,
        kernel=chosen.kernel,
        locality=chosen.locality,
        symmetry=chosen.symmetry,
    )
    begin, used = time.perf_counter(), time.process_time()
    forcefield = train(parts[TRAIN], config)
    figures: dict[str, object] = {
        "molecule": chosen.molecule,
        "n_train": chosen.n,
        "symmetry": forcefield.metadata["symmetry"],
        "locality": chosen.locality,
        "subset": chosen.subset,
        "training_wall_s": time.perf_counter() - begin,
        "training_processor_s": time.process_time() - used,
    }
    judged = parts[chosen.part]
    energies, forces = forcefield.compute(judged.positions)
    assert forces is not None
    figures[f"{chosen.part}: energy_mae_mev"] = MILLI * EV * float(np.abs(energies - judged.energies).mean())
    figures[f"{chosen.part}: force_mae_mev_angstrom"] = (
        MILLI * EV / ANGSTROM * float(np.abs(forces - judged.forces).mean())
    )
    times = []
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        forcefield.compute(judged.positions)
        times.append(time.perf_counter() - begin)
    figures["evaluation_us"] = 1e6 * min(times) / len(judged)
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

"""The minimum of the force field against that of B3LYP/6-31+G(d,p), both converged tightly, with energies.

python benchmarks/accuracy/minimum.py --model model.npz            # against the shipped minimum
python benchmarks/accuracy/minimum.py --model model.npz --relabel  # and the DFT energy of the model's minimum
python benchmarks/accuracy/minimum.py --model model.npz --dft      # optimise with PySCF again, and time it
python benchmarks/accuracy/minimum.py --dft --go-on --write        # how minimum_b3lyp_converged.xyz was made

Where a search stops says little where the potential is flat: at a largest force of 0.01 eV/angstrom both searches stop
at nearly the same place on their way along the softest torsion, which is not yet the minimum of either.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show
from support.kohn_sham import KohnSham

import numpy as np

from fflux_py import model_file
from fflux_py.analysis.geometry import heavy_atoms, rmsd
from fflux_py.iqa.scf.electronic_structure import use_threads
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.extended_xyz import read_frames, read_molecule, write_molecule
from fflux_py.optimization.search import optimize
from fflux_py.units import ANGSTROM, EV_ANGSTROM, KCAL_MOL

REFERENCE = FOLDER / "minimum_b3lyp_converged.xyz"


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--model")
    options.add_argument("--dft", action="store_true", help="optimise with PySCF, do not read the shipped minimum")
    options.add_argument("--go-on", action="store_true", help="begin the search of --dft at the shipped minimum")
    options.add_argument("--write", action="store_true", help="write the minimum of --dft beside the data")
    options.add_argument("--relabel", action="store_true", help="compute the DFT energy of the model's minimum")
    options.add_argument("--fmax", type=float, default=0.001, help="largest force of both, eV/angstrom")
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    fmax = chosen.fmax / EV_ANGSTROM
    start = read_molecule(FOLDER / "start.xyz")
    figures: dict[str, object] = {"fmax_ev_angstrom": chosen.fmax}
    use_threads(chosen.threads)
    if chosen.dft:
        begin = time.perf_counter()
        first = read_molecule(FOLDER / "minimum_b3lyp.xyz") if chosen.go_on else start
        reference = optimize(KohnSham(first), first, fmax=fmax)
        seconds = time.perf_counter() - begin
        figures.update(dft_converged=reference.converged, dft_evaluations=reference.n_evaluations, dft_time_s=seconds)
        minimum, energy = reference.molecule, reference.energy
        if chosen.write:
            level = LevelOfTheory()
            info = {
                "method": level.method,
                "basis": level.basis,
                "energy_hartree": energy,
                "fmax_ev_angstrom": chosen.fmax,
            }
            write_molecule(REFERENCE, minimum, info)
    else:
        minimum, energy = read_molecule(REFERENCE), float(str(read_frames(REFERENCE)[0].info["energy_hartree"]))
    if chosen.model:
        forcefield = model_file.load(chosen.model)
        forcefield.energy_and_forces(start.positions)  # compiled before the clock starts
        begin = time.perf_counter()
        found = optimize(forcefield, start, fmax=fmax)
        seconds = time.perf_counter() - begin
        x, y = found.molecule.positions[None], minimum.positions
        figures.update(
            converged=found.converged,
            steps=found.n_steps,
            evaluations=found.n_evaluations,
            time_s=seconds,
            rmsd_all_angstrom=float(rmsd(x, y)[0] * ANGSTROM),
            rmsd_heavy_angstrom=float(rmsd(x, y, heavy_atoms(minimum))[0] * ANGSTROM),
            largest_force_of_the_model_at_the_dft_minimum_ev_angstrom=float(
                np.linalg.norm(forcefield.energy_and_forces(minimum.positions)[1], axis=1).max() * EV_ANGSTROM
            ),
            energy_of_both_minima_model_minus_dft_kcal_mol=float((found.energy - energy) * KCAL_MOL),
            model_energy_at_dft_minimum_above_its_own_kcal_mol=float(
                (forcefield.energy_and_forces(minimum.positions)[0] - found.energy) * KCAL_MOL
            ),
        )
        if chosen.relabel:
            above = KohnSham(start).energy_and_forces(found.molecule.positions)[0] - energy
            figures["dft_energy_at_the_models_minimum_above_its_own_kcal_mol"] = float(above * KCAL_MOL)
        if chosen.dft:
            figures["dft_time_over_model_time"] = float(figures["dft_time_s"]) / seconds  # type: ignore[arg-type]
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

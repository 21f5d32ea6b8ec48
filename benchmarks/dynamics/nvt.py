"""NVT of malondialdehyde: mean temperature, conserved quantity, bonds, and visited frames relabelled by DFT.

python benchmarks/dynamics/nvt.py model.npz --temperature 300 --picoseconds 100
python benchmarks/dynamics/nvt.py model.npz --temperature 1000 --picoseconds 20 --relabel 20 --folder labels-visited
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np

from fflux_py import model_file
from fflux_py.analysis.equipartition import equipartition
from fflux_py.analysis.runs import analyse_run, completed_run
from fflux_py.dynamics import MDConfig, run_nvt
from fflux_py.dynamics.thermostats import DEFAULT_THERMOSTAT
from fflux_py.iqa.campaign import label
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.mechanics import masses
from fflux_py.molecules.normal_modes import normal_modes
from fflux_py.units import ANGSTROM, KCAL_MOL, KCAL_MOL_ANGSTROM


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("model")
    options.add_argument("--temperature", type=float, default=300.0)
    options.add_argument("--picoseconds", type=float, default=100.0)
    options.add_argument("--timestep", type=float, default=0.5, help="femtosecond")
    options.add_argument("--thermostat", default=DEFAULT_THERMOSTAT)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--relabel", type=int, default=0, help="visited frames to label by DFT, equally spaced")
    options.add_argument("--folder", default="labels-visited", help="folder of these labels")
    chosen = options.parse_args()
    forcefield = model_file.load(chosen.model)
    start = read_molecule(FOLDER / "minimum_b3lyp.xyz")
    config = MDConfig(
        steps=round(1000.0 * chosen.picoseconds / chosen.timestep),
        temperature=chosen.temperature,
        timestep=chosen.timestep,
        thermostat=chosen.thermostat,
        report_every=20,
        seed=chosen.seed,
    )
    run_nvt(forcefield, start, replace(config, steps=20))  # compiled before the clock starts
    begin = time.perf_counter()
    trajectory = run_nvt(forcefield, start, config)
    seconds = time.perf_counter() - begin
    analysis = analyse_run(completed_run(trajectory, config), forcefield.molecule)
    parts = equipartition((trajectory,), config, normal_modes(forcefield, start.positions, masses(start)))
    offset = (analysis.temperature_k.mean - chosen.temperature) / analysis.temperature_k.standard_error
    figures: dict[str, object] = {
        "temperature_k": analysis.temperature_k.mean,
        "temperature_standard_error_k": analysis.temperature_k.standard_error,
        "temperature_offset_in_standard_errors": offset,
        "degrees_of_freedom": analysis.degrees_of_freedom,
        "temperature_by_mode_largest_deviation_in_standard_errors": (
            None if parts is None else parts.largest_deviation
        ),
        "conserved_largest_deviation_kcal_mol": analysis.conserved_deviation_kcal_mol,
        "conserved_drift_kcal_mol_100ps": analysis.conserved_drift_kcal_mol_100ps.slope,
        "largest_bond_deviation_angstrom": analysis.largest_bond_deviation * ANGSTROM,
        "closest_contact_angstrom": analysis.closest_contact * ANGSTROM,
        "time_per_step_ms": 1000.0 * seconds / config.steps,
    }
    if chosen.relabel:
        frames = np.linspace(len(trajectory) // 10, len(trajectory) - 1, chosen.relabel).astype(int)
        count = len(frames)
        visited = GeometrySet(
            forcefield.molecule,
            trajectory.positions[frames],
            (f"md-{chosen.temperature:g}K-s{chosen.seed}",) * count,
            np.full(count, chosen.temperature),
            ("test",) * count,
        )
        labels = label(visited, LevelOfTheory(), "none", chosen.folder, workers=2)
        energies, forces = forcefield.compute(labels.positions)
        assert forces is not None
        figures["relabelled_frames"] = count
        figures["visited_energy_mae_kcal_mol"] = float(np.abs(energies - labels.energies).mean() * KCAL_MOL)
        figures["visited_mean_energy_difference_kcal_mol"] = float((energies - labels.energies).mean() * KCAL_MOL)
        figures["visited_energy_largest_error_kcal_mol"] = float(np.abs(energies - labels.energies).max() * KCAL_MOL)
        figures["visited_force_mae_kcal_mol_angstrom"] = float(
            np.abs(forces - labels.forces).mean() * KCAL_MOL_ANGSTROM
        )
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

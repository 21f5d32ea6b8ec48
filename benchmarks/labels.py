"""Are the labels right?  The sum of atomic energies, the forces, and water against a published calculation.

    python benchmarks/labels.py                                   # sums of the shipped data, forces of 3 geometries
    python benchmarks/labels.py --water ../aimall_water.json      # Gaussian and AIMAll figures, if you have them

The forces are held against central differences (step 0.002 bohr) of the SCF energy along five random directions.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from _shared import FOLDER, parser, show

from fflux_py.dataset import Dataset
from fflux_py.iqa.electronic_structure import GroundState, LevelOfTheory
from fflux_py.molecule import Molecule
from fflux_py.units import ANGSTROM

STEP = 2e-3


def force_errors(dataset: Dataset, frame: int, directions: int) -> float:
    """Largest difference between the stored forces and differences of the energy along random unit vectors."""
    rng = np.random.default_rng(frame)
    level = LevelOfTheory()
    worst = 0.0
    for _ in range(directions):
        unit = rng.standard_normal(dataset.positions[frame].shape)
        unit /= np.linalg.norm(unit)
        energies = []
        for sign in (1.0, -1.0):
            moved = dataset.molecule.with_positions(dataset.positions[frame] + sign * STEP * unit)
            energies.append(GroundState(moved, level).energy)
        numeric = -(energies[0] - energies[1]) / (2.0 * STEP)
        worst = max(worst, abs(numeric - float((dataset.forces[frame] * unit).sum())))
    return worst


def water(path: Path) -> dict[str, object]:
    """SCF energies of the reference's geometries, without density fitting, minus the reference's."""
    figures: dict[str, object] = {}
    level = LevelOfTheory(density_fit=False, grid_level=4)
    for entry in json.loads(path.read_text()):
        if "6-31+g(d,p)" not in entry["route"]:
            continue
        molecule = Molecule(tuple(entry["symbols"]), np.array(entry["xyz_angstrom"]) / ANGSTROM, 0, entry["name"])
        difference = GroundState(molecule, level).energy - entry["E_total"]
        figures[f"{entry['name']}: scf_energy_difference_hartree"] = difference
    return figures


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--geometries", type=int, default=3)
    options.add_argument("--directions", type=int, default=5)
    options.add_argument("--water", type=Path)
    chosen = options.parse_args()
    dataset = Dataset.read(FOLDER / "data.extxyz")
    with_atoms = dataset.has_atomic_energies
    sums = dataset.atomic_energies[with_atoms].sum(axis=1) - dataset.energies[with_atoms]
    figures: dict[str, object] = {
        "geometries": len(dataset),
        "largest_sum_of_iqa_minus_scf_hartree": float(np.abs(sums).max()),
        "largest_sum_of_forces_hartree_bohr": float(np.abs(dataset.forces.sum(axis=1)).max()),
    }
    for frame in np.linspace(0, len(dataset) - 1, chosen.geometries).astype(int):
        figures[f"geometry {frame}: force_minus_difference_hartree_bohr"] = force_errors(
            dataset, int(frame), chosen.directions
        )
    if chosen.water:
        figures.update(water(chosen.water))
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

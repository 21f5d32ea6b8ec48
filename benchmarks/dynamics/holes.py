"""Holes of a model: short runs with metadynamics on pairs of torsions, and on the distance of the ends.

    python benchmarks/dynamics/holes.py model.npz C7eq.xyz C5.xyz C7ax.xyz --picoseconds 6 --folder holes

From every start, relaxed by the model, replicas at 400 K with hydrogens of 3 Da and a bias (0.3 kcal/mol in 100 fs) on
every pair of torsions about bonds of no methyl group, amides too, and on the distance between the two atoms
that the most bonds lie between.  A run has found a hole if it falls 1 kcal/mol below the lowest minimum, or if a guard
stops it.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser, show

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from fflux_py import model_file
from fflux_py.active_learning.choice import left_the_model
from fflux_py.analysis.runs import Run
from fflux_py.bias import BiasSettings, CollectiveVariable, HillParameters
from fflux_py.bias.grid import Grid
from fflux_py.bias.plumed_writer import plumed_text
from fflux_py.certification.certificate import relaxed
from fflux_py.certification.replicas import simulate
from fflux_py.dynamics import MDConfig
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, KCAL_MOL

TEMPERATURE, TIMESTEP, PACE = 400.0, 2.0, 50
HEIGHT = 0.3 / KCAL_MOL
TORSION_WIDTH, TORSION_FACTOR = 0.25, 6.0
DISTANCE_WIDTH, DISTANCE_FACTOR = 0.3 / ANGSTROM, 10.0
RANGE = 0.5 / ANGSTROM, 20.0 / ANGSTROM


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("model")
    options.add_argument("starts", type=Path, nargs="+", help="XYZ files")
    options.add_argument("--picoseconds", type=float, default=6.0, help="of every run")
    options.add_argument("--replicas", type=int, default=2, help="of every kind and start")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--folder", type=Path, help="keep the runs there; runs that it holds are not repeated")
    chosen = options.parse_args()
    forcefield = model_file.load(chosen.model)
    minima = [relaxed(forcefield, read_molecule(path)) for path in chosen.starts]
    lowest = float(forcefield.compute(np.array([m.positions for m in minima]), deriv=0)[0].min())
    config = MDConfig(
        steps=round(1000.0 * chosen.picoseconds / TIMESTEP), temperature=TEMPERATURE, timestep=TIMESTEP,
        hydrogen_mass=3.0, thermostat="langevin", report_every=10, checkpoint_every=100_000, seed=chosen.seed,
        replicas=chosen.replicas,
    )  # fmt: skip
    figures: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if chosen.folder is None else chosen.folder
        for name, settings in biases(minima[0]).items():
            text = plumed_text(settings, TEMPERATURE)
            runs: list[Run] = []
            for path, start in zip(chosen.starts, minima, strict=True):
                runs += simulate(forcefield, start, config, folder / name / path.stem, bias=text)
            fell = left_the_model(runs, lowest)
            figures[f"{name}_runs"], figures[f"{name}_fell"] = len(fell), sum(fell)
    show({**figures, **{f"all{end}": total(figures, end) for end in ("_runs", "_fell")}}, chosen.json)


def total(figures: dict[str, int], end: str) -> int:
    """Sum of the figures whose names end alike."""
    return sum(value for name, value in figures.items() if name.endswith(end))


def biases(molecule: Molecule) -> dict[str, BiasSettings]:
    """Metadynamics on every pair of torsions and on the distance of the ends, by name; atoms count from 1."""
    torsions = [
        CollectiveVariable("torsion", atoms, "".join(f"{molecule.symbols[a]}{a + 1}" for a in atoms[1:3]))
        for atoms in molecule.torsions(methyl=False, stiff=True)
    ]
    hills = HillParameters(HEIGHT, TORSION_WIDTH, TORSION_FACTOR, PACE)
    found = {f"{a.label}_{b.label}": BiasSettings((a, b), hills) for a, b in combinations(torsions, 2)}
    i, j = furthest(molecule)
    distance = CollectiveVariable("distance", (i, j), f"d{i + 1}_{j + 1}")
    hills = HillParameters(HEIGHT, DISTANCE_WIDTH, DISTANCE_FACTOR, PACE)
    low, high = RANGE
    grid = Grid((distance,), (low,), (high,), (round(5.0 * (high - low) / DISTANCE_WIDTH),))
    return {**found, distance.label: BiasSettings((distance,), hills, grid=grid)}


def furthest(molecule: Molecule) -> tuple[int, int]:
    """The first two heavy atoms with the most bonds between them."""
    n = molecule.n_atoms
    first, second = np.array(molecule.bonds).T
    steps = shortest_path(csr_array((np.ones(len(first)), (first, second)), shape=(n, n)), directed=False)
    heavy = [a for a in range(n) if molecule.symbols[a] != "H"]
    return max(combinations(heavy, 2), key=lambda pair: int(steps[pair]))


if __name__ == "__main__":
    main()

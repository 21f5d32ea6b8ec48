"""Would a self-consistent field calculation be faster from the density of another geometry?

    python benchmarks/labels/warm_start.py [--targets 4]

For some geometries of the shipped data: the SCF from PySCF's own start density (coarse grid, then the final one, as in
``fflux label``); the same from the orbitals of the most similar of all other geometries, turned onto the target,
projected and made orthonormal again (Löwdin); and on the final grid alone from those.  All three side by side, so that
the ratio of times does not feel other work on the machine.  The cycles are those on the coarse and the final grid.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np

from fflux_py.iqa.scf.electronic_structure import GroundState, build_mean_field, build_mole, use_threads
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import Dataset
from fflux_py.typing import FloatArray

KINDS = ("own start", "near geometry", "near geometry, final grid only")


def solve(mean_field: Any, level: LevelOfTheory, density: FloatArray | None, coarse: bool) -> tuple[float, int, int]:
    """Seconds, and cycles on the coarse and on the final grid."""
    begin, cycles = time.perf_counter(), 0
    if coarse:
        mean_field.grids.level, mean_field.conv_tol, mean_field.conv_tol_grad = 0, 1e-8, None
        mean_field.kernel(dm0=density)
        density, cycles = mean_field.make_rdm1(), mean_field.cycles
    mean_field.grids.level = level.grid_level
    mean_field.conv_tol, mean_field.conv_tol_grad = level.convergence, level.gradient_convergence
    mean_field.kernel(dm0=density)
    return time.perf_counter() - begin, cycles, int(mean_field.cycles)


def turned(positions: FloatArray, onto: FloatArray) -> FloatArray:
    """``positions`` moved as a whole to lie best on ``onto`` (Kabsch)."""
    centre = onto.mean(axis=0)
    u, _, v = np.linalg.svd((positions - positions.mean(axis=0)).T @ (onto - centre))
    handed = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    return np.asarray((positions - positions.mean(axis=0)) @ u @ handed @ v + centre)


def projected(orbitals: FloatArray, overlap: FloatArray) -> FloatArray:
    """Density of ``orbitals`` made orthonormal in another geometry's ``overlap``."""
    values, vectors = np.linalg.eigh(orbitals.T @ overlap @ orbitals)
    orthonormal = orbitals @ (vectors / np.sqrt(values)) @ vectors.T
    return np.asarray(2.0 * orthonormal @ orthonormal.T)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--targets", type=int, default=4)
    chosen = options.parse_args()
    use_threads(1)
    dataset, level = Dataset.read(FOLDER / "data.extxyz"), LevelOfTheory()
    positions = dataset.positions
    pairs = np.triu_indices(positions.shape[1], 1)
    distances = np.linalg.norm(positions[:, pairs[0]] - positions[:, pairs[1]], axis=-1)
    seconds, cycles, apart = [], [], []
    for target in np.random.default_rng(0).choice(len(positions), chosen.targets, replace=False):
        difference = np.linalg.norm(distances - distances[target], axis=1)
        difference[target] = np.inf
        near = turned(positions[difference.argmin()], positions[target])
        apart.append(np.sqrt(((near - positions[target]) ** 2).sum(axis=1).mean()))
        orbitals = GroundState(dataset.molecule.with_positions(near), level).occupied_orbitals().coefficients
        mole = build_mole(dataset.molecule.with_positions(positions[target]), level)
        row = []
        for kind in KINDS:
            mean_field = build_mean_field(mole, level)
            mean_field.with_df.build()
            start = None if kind == KINDS[0] else projected(orbitals, mean_field.get_ovlp())
            row.append(solve(mean_field, level, start, coarse=kind != KINDS[2]))
        seconds.append([entry[0] for entry in row])
        cycles.append([entry[1:] for entry in row])
    ratios = np.array(seconds) / np.array(seconds)[:, :1]
    figures: dict[str, object] = {"geometries": chosen.targets, "distance_to_nearest_bohr": float(np.mean(apart))}
    for k, kind in enumerate(KINDS):
        coarse, final = np.array(cycles)[:, k].mean(axis=0)
        figures[f"{kind}: cycles"] = f"{coarse:.1f} + {final:.1f}"
        figures[f"{kind}: time_over_own_start"] = float(np.median(ratios[:, k]))
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

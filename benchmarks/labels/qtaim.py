"""Topological atoms: accuracy, noise and time of `fflux label --partition qtaim`.

    python benchmarks/labels/qtaim.py   # malondialdehyde, 20 geometries of the shipped data
    python benchmarks/labels/qtaim.py --water ../aimall_water.json      # water against a published AIMAll calculation
    python benchmarks/labels/qtaim.py --labels data_qtaim.extxyz.labels # results of fflux label --partition qtaim
    python benchmarks/labels/qtaim.py --dipeptide 5                     # Ac-Ala-NHMe, 22 atoms (needs rdkit)

Times are processor times of one thread, SCF and partition one after the other in one process.  Noise: the standard
deviation of an atom's energy over random rotations of one molecule, and its deviation from a quadratic along a small
bend, steps of 0.002 bohr.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np
from scipy.spatial.transform import Rotation

from fflux_py.errors import ConvergenceError
from fflux_py.iqa.atomic_energies import AtomicEnergies, integrate_fuzzy_atoms, integrate_topological_atoms
from fflux_py.iqa.partition import hirshfeld
from fflux_py.iqa.result_folder import ResultFolder
from fflux_py.iqa.scf.electronic_structure import GroundState, use_threads
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, KCAL_MOL

DIPEPTIDE = "CC(=O)N[C@@H](C)C(=O)NC"


def timed(molecule: Molecule, level: LevelOfTheory) -> tuple[GroundState, float, AtomicEnergies, float, float]:
    """SCF, topological atoms and Hirshfeld atoms with their processor times."""
    marks = [time.process_time()]
    state = GroundState(molecule, level)
    marks.append(time.process_time())
    atoms = integrate_topological_atoms(state)
    marks.append(time.process_time())
    integrate_fuzzy_atoms(state, hirshfeld)
    marks.append(time.process_time())
    scf, qtaim, fuzzy = np.diff(marks)
    return state, float(scf), atoms, float(qtaim), float(fuzzy)


def sums(molecules: Sequence[Molecule], level: LevelOfTheory) -> dict[str, float]:
    """Raw sums, the integral of the Laplacian, and times over a set of geometries."""
    integrate_topological_atoms(GroundState(molecules[0], replace(level, basis="sto-3g")))  # compiles
    raw, laplacian, ratios, fuzzy_ratios = [], [], [], []
    refused = 0
    for molecule in molecules:
        try:
            _, scf, atoms, qtaim, fuzzy = timed(molecule, level)
        except ConvergenceError:
            refused += 1
            continue
        raw.append(sum(value for name, value in atoms.residuals.items() if name != "electrons"))
        laplacian.append(np.abs(atoms.laplacians).max())
        ratios.append(qtaim / scf)
        fuzzy_ratios.append(fuzzy / scf)
    return {
        "geometries": len(molecules),
        "refused": refused,
        "atoms": molecules[0].n_atoms,
        "raw_sum_minus_scf_worst_kcal_mol": float(np.abs(raw).max() * KCAL_MOL),
        "laplacian_worst_hartree": float(np.max(laplacian)),
        "time_qtaim_over_scf_median": float(np.median(ratios)),
        "time_qtaim_over_scf_worst": float(np.max(ratios)),
        "time_hirshfeld_over_scf_median": float(np.median(fuzzy_ratios)),
    }


def noise(molecule: Molecule, level: LevelOfTheory, rotations: int) -> dict[str, float]:
    """Noise of one atom's energy under rotation (both partitions) and along a bend (topological)."""
    tight = replace(level, convergence=1e-10, gradient_convergence=1e-6)
    sharp, fuzzy = [], []
    for seed in range(rotations):
        turn = Rotation.random(random_state=seed).as_matrix()
        state = GroundState(molecule.with_positions(molecule.positions @ turn.T), tight)
        sharp.append(integrate_topological_atoms(state).energies)
        fuzzy.append(integrate_fuzzy_atoms(state, hirshfeld).energies)
    direction = np.random.default_rng(0).normal(size=molecule.positions.shape)
    direction /= np.linalg.norm(direction)
    steps = np.arange(-4, 5)
    bent = np.array(
        [
            integrate_topological_atoms(
                GroundState(molecule.with_positions(molecule.positions + 2e-3 * k * direction), tight)
            ).energies
            for k in steps
        ]
    )
    smooth = np.polynomial.polynomial.polyval(steps, np.polynomial.polynomial.polyfit(steps, bent, 2)).T
    return {
        "rotation_noise_worst_atom_qtaim_kcal_mol": float(np.std(sharp, axis=0).max() * KCAL_MOL),
        "rotation_noise_worst_atom_hirshfeld_kcal_mol": float(np.std(fuzzy, axis=0).max() * KCAL_MOL),
        "bend_noise_worst_atom_qtaim_kcal_mol": float(np.std(bent - smooth, axis=0).max() * KCAL_MOL),
    }


def water(path: Path) -> dict[str, float]:
    """Differences from a published calculation with Gaussian and AIMAll, which has exact Coulomb and exchange.

    As exactly as the reference, and with default settings, which fit the density and take a coarser grid.
    """
    exact = LevelOfTheory(density_fit=False, grid_level=4, convergence=1e-10, auxiliary_basis="cc-pvqz-jkfit")
    figures: dict[str, float] = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        molecule = Molecule(tuple(entry["symbols"]), np.array(entry["xyz_angstrom"]) / ANGSTROM, name=entry["name"])
        for settings, level in (("as exact", exact), ("default", LevelOfTheory())):
            atoms = integrate_topological_atoms(GroundState(molecule, level))
            name = f"{entry['name'].lower()}, {settings}:"
            figures[f"{name} energy_worst_hartree"] = float(np.abs(atoms.energies - entry["E_IQA"]).max())
            figures[f"{name} charge_worst_e"] = float(np.abs(atoms.charges - entry["q"]).max())
            figures[f"{name} dipole_worst_e_bohr"] = float(np.abs(atoms.dipoles - entry["dipole_atomic_au"]).max())
            figures[f"{name} laplacian_worst_hartree"] = float(np.abs(atoms.laplacians).max())
        figures[f"{entry['name'].lower()}, reference: laplacian_worst_hartree"] = float(np.abs(entry["L"]).max())
    return figures


def campaign(folder: Path) -> dict[str, float]:
    """What the results in a folder of `fflux label --partition qtaim` say about themselves."""
    raw, laplacian, failed = [], [], 0
    results = ResultFolder(folder)
    for name in results.names():
        result = results.read(name) or {}
        if "label" in result:
            label = result["label"]
            raw.append(sum(value for part, value in label["residuals"].items() if part != "electrons"))
            laplacian.append(np.abs(label["integrals"]["laplacian"]).max())
        failed += "failure" in result
    return {
        "geometries": len(raw),
        "failed": failed,
        "raw_sum_minus_scf_worst_kcal_mol": float(np.abs(raw).max() * KCAL_MOL),
        "laplacian_median_hartree": float(np.median(laplacian)),
        "laplacian_worst_hartree": float(np.max(laplacian)),
    }


def dipeptide(count: int) -> list[Molecule]:
    """Conformers of Ac-Ala-NHMe by the distance geometry and MMFF94 of RDKit."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(DIPEPTIDE))
    AllChem.EmbedMultipleConfs(molecule, count, randomSeed=7)
    AllChem.MMFFOptimizeMoleculeConfs(molecule)
    symbols = tuple(atom.GetSymbol() for atom in molecule.GetAtoms())
    return [
        Molecule(symbols, np.array(c.GetPositions()) / ANGSTROM, name=f"Ac-Ala-NHMe {k + 1}")
        for k, c in enumerate(molecule.GetConformers())
    ]


def main() -> None:
    """Print the figures."""
    options = parser(__doc__ or "")
    options.add_argument("--water", type=Path, help="figures of the published calculation")
    options.add_argument("--labels", type=Path, help="folder of results of fflux label")
    options.add_argument("--dipeptide", type=int, default=0, help="number of geometries of the 22-atom molecule")
    options.add_argument("--geometries", type=int, default=20, help="number of geometries of malondialdehyde")
    options.add_argument("--rotations", type=int, default=6, help="number of random rotations; 0: no noise")
    chosen = options.parse_args()
    if chosen.labels:
        show(campaign(chosen.labels), chosen.json)
        return
    use_threads(1)
    level = LevelOfTheory()
    if chosen.water:
        show(water(chosen.water), chosen.json)
        return
    if chosen.dipeptide:
        show(sums(dipeptide(chosen.dipeptide), level), chosen.json)
        return
    geometries = Dataset.read(FOLDER / "data.extxyz").geometries
    picked = np.linspace(0, len(geometries) - 1, chosen.geometries).astype(int)
    molecules = [geometries.molecule.with_positions(geometries.positions[k]) for k in picked]
    figures = sums(molecules, level)
    if chosen.rotations:
        figures.update(noise(molecules[0], level, chosen.rotations))
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

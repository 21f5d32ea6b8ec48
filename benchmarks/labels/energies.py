"""Are the labels right, and what do they cost?

    python benchmarks/labels/energies.py   # sums of the shipped data, forces of 3 geometries
    python benchmarks/labels/energies.py --water ../aimall_water.json   # Gaussian and AIMAll figures, if you have them
    python benchmarks/labels/energies.py --geometries 0 --partition hirshfeld   # noise and time of a partition
    python benchmarks/labels/energies.py --geometries 0 --partition hirshfeld --large   # the same time for 22 atoms
    python benchmarks/labels/energies.py --geometries 0 --pyscf [--large]   # SCF and forces against PySCF's own

The forces are held against central differences (step 0.002 bohr) of the SCF energy along five random directions.  The
noise is that of an atom's energy when the molecule is turned at random and labelled anew.  Times are processor times on
one thread, each partition beside its own SCF, so that other work on the machine hits both; the median ratio counts.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np
from scipy.spatial.transform import Rotation

from fflux_py.iqa.labelling import label_geometry
from fflux_py.iqa.scf.electronic_structure import GroundState, build_mean_field, build_mole, use_threads
from fflux_py.iqa.scf.free_atoms import compute_free_atom_density
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.iqa.scf.orbitals import OrbitalFile
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, KCAL_MOL

STEP = 2e-3
SMILES_OF_22_ATOMS = "CC(=O)N[C@@H](C)C(=O)NC"


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


def partition_figures(partition: str, molecule: Molecule, rotations: int) -> dict[str, object]:
    """Noise of the atomic energies over ``rotations`` random orientations, and times over that of the SCF."""
    level = LevelOfTheory()
    use_threads(1)
    for symbol in set(molecule.symbols):  # once per process, not once per geometry
        compute_free_atom_density(symbol, level)
    label_geometry(Molecule(("H", "H"), np.diag([0.0, 1.4])[:, [0, 0, 1]]), level, partition)  # compiles
    energies, times = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(rotations):
            turn = Rotation.random(random_state=seed).as_matrix()
            turned = molecule.with_positions(molecule.positions @ turn.T)
            file = OrbitalFile(turned, level, Path(folder))
            marks = [time.process_time()]
            state = GroundState(turned, level)
            marks.append(time.process_time())
            file.write(state.occupied_orbitals())
            plain = label_geometry(turned, level, "none", file)
            marks.append(time.process_time())
            label = label_geometry(turned, level, partition, file)
            marks.append(time.process_time())
            if not state.energy == plain.energy == label.energy:
                raise SystemExit("a label from stored orbitals is another one")
            energies.append(label.atomic_energies)
            scf, without, whole = np.diff(marks)
            share = plain.wall_times["scf"] / sum(plain.wall_times.values())
            times.append((scf, (whole - without) / scf, share * without / scf))
    scf, ratio, start = np.median(times, axis=0)
    name = f"{partition}, {molecule.n_atoms} atoms"
    figures: dict[str, object] = {
        f"{name}: scf_cpu_s": float(scf),
        f"{name}: partition_time_over_scf_time": float(ratio),
        f"{name}: time_from_stored_orbitals_over_scf_time": float(start),
    }
    if rotations > 1:
        deviation = (np.array(energies) - np.mean(energies, axis=0)) * KCAL_MOL
        figures[f"{name}: noise_of_worst_atom_kcal_mol"] = float(deviation.std(axis=0, ddof=1).max())
        figures[f"{name}: largest_deviation_kcal_mol"] = float(np.abs(deviation).max())
    return figures


def against_pyscf(molecule: Molecule) -> dict[str, object]:
    """Energy, forces and processor times of this package and of PySCF's own SCF and gradient."""
    level = LevelOfTheory()
    use_threads(1)
    GroundState(Molecule(("H", "H"), np.diag([0.0, 1.4])[:, [0, 0, 1]]), level).forces()  # compiles
    marks = [time.process_time()]
    state = GroundState(molecule, level)
    marks.append(time.process_time())
    forces = state.forces()
    marks.append(time.process_time())
    mean_field = build_mean_field(build_mole(molecule, level), level)
    mean_field.grids.level = level.grid_level
    mean_field.conv_tol, mean_field.conv_tol_grad = level.convergence, level.gradient_convergence
    mean_field.kernel()
    marks.append(time.process_time())
    gradient = mean_field.nuc_grad_method()
    gradient.grid_response = True
    theirs = -np.asarray(gradient.kernel())
    marks.append(time.process_time())
    scf, force, their_scf, their_force = np.diff(marks)
    name = f"{molecule.n_atoms} atoms"
    return {
        f"{name}: energy_minus_pyscf_hartree": state.energy - float(mean_field.e_tot),
        f"{name}: largest_force_difference_hartree_bohr": float(np.abs(forces - theirs).max()),
        f"{name}: scf_cpu_s": float(scf),
        f"{name}: forces_cpu_s": float(force),
        f"{name}: pyscf_scf_time_over_ours": float(their_scf / scf),
        f"{name}: pyscf_forces_time_over_ours": float(their_force / force),
        f"{name}: pyscf_time_over_ours": float((their_scf + their_force) / (scf + force)),
    }


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--geometries", type=int, default=3)
    options.add_argument("--directions", type=int, default=5)
    options.add_argument("--water", type=Path)
    options.add_argument("--partition", help="print the noise and the time of this partition")
    options.add_argument("--rotations", type=int, default=8, help="random orientations of malondialdehyde")
    options.add_argument("--pyscf", action="store_true", help="print times beside PySCF's own SCF and gradient")
    options.add_argument("--large", action="store_true", help="times for Ac-Ala-NHMe, 22 atoms, instead")
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
    molecule = dataset.molecule
    if chosen.large:
        from fflux_py.sampling.smiles import molecule_from_smiles

        molecule = molecule_from_smiles(SMILES_OF_22_ATOMS)
    if chosen.partition:
        figures.update(partition_figures(chosen.partition, molecule, 1 if chosen.large else chosen.rotations))
    if chosen.pyscf:
        figures.update(against_pyscf(molecule))
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

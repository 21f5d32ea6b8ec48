"""Stretched and compressed bonds of malondialdehyde: the model's force along the bond against DFT, and their release.

    python benchmarks/accuracy/stretched_bonds.py model.npz --folder labels-stretched
    python benchmarks/accuracy/stretched_bonds.py model.npz --folder labels-stretched --release

Every C-H at 1.6 and 0.75 angstrom and every C=O at 1.6 angstrom, everything else as at the minimum of DFT.  The force
is that on the atom that was moved, along the bond; negative pulls back.  A release is 2 ps of Langevin dynamics at
300 K from that geometry: the mean length over the second picosecond, against the mean of an undisturbed run.  A
compressed C-H swings far out at first, so the guards do not end these runs; the largest length is told.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show

import numpy as np

from fflux_py import model_file
from fflux_py.analysis.geometry import bond_lengths
from fflux_py.dynamics import GuardConfig, MDConfig, run_nvt
from fflux_py.forcefield import ForceField
from fflux_py.iqa.campaign import label
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.molecule import Molecule
from fflux_py.sampling.distortions import Change, distort
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KCAL_MOL, KCAL_MOL_ANGSTROM

LENGTHS = {"C-H": (1.6, 0.75), "C-O": (1.6,)}
"""Lengths in angstrom by the elements of the bond."""

TIMESTEP_FS = 0.5
TEMPERATURE_K = 300.0


def cases(minimum: Molecule) -> dict[str, tuple[tuple[int, int], float, FloatArray]]:
    """Bond (the atom that is moved last), length in bohr and geometry of every case."""
    found = {}
    for i, j in minimum.bonds:
        pair = (i, j) if len(minimum.neighbours[j]) == 1 else (j, i)
        kind = "-".join(minimum.symbols[a] for a in pair)
        for length in LENGTHS.get(kind, ()):
            now = float(np.linalg.norm(minimum.positions[i] - minimum.positions[j]))
            name = "-".join(f"{minimum.symbols[a]}{a + 1}" for a in pair)
            positions = distort(minimum, [Change(pair, length / ANGSTROM / now)])
            found[f"{name}_at_{length:g}_angstrom"] = (pair, length / ANGSTROM, positions)
    return found


def along(positions: FloatArray, forces: FloatArray, pair: tuple[int, int]) -> float:
    """Force on the second atom along the bond, kcal/mol/angstrom; positive lengthens it."""
    arm = positions[pair[1]] - positions[pair[0]]
    return float(forces[pair[1]] @ arm / np.linalg.norm(arm)) * KCAL_MOL_ANGSTROM


def released(model: ForceField, start: FloatArray | None, seed: int) -> tuple[FloatArray, FloatArray]:
    """Lengths (bohr) of all bonds in a run at 300 K: means from 1 ps on, and largest ones."""
    molecule = model.molecule if start is None else model.molecule.with_positions(start)
    steps = round(2000.0 / TIMESTEP_FS) if start is not None else round(10000.0 / TIMESTEP_FS)
    config = MDConfig(steps=steps, temperature=TEMPERATURE_K, timestep=TIMESTEP_FS, thermostat="langevin", seed=seed,
                      report_every=4, guards=GuardConfig(bond="off", contact="off", conserved="off"))  # fmt: skip
    run = run_nvt(model, molecule, config)
    lengths = bond_lengths(run.positions, model.molecule.bonds)
    return np.asarray(lengths[run.times_fs >= 1000.0].mean(axis=0)), np.asarray(lengths.max(axis=0))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("model")
    options.add_argument("--folder", default="labels-stretched", help="folder of the labels")
    options.add_argument("--release", action="store_true", help="also let every geometry go at 300 K")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    model = model_file.load(chosen.model)
    minimum = read_molecule(FOLDER / "minimum_b3lyp.xyz")
    stretched = cases(minimum)
    count = len(stretched)
    geometries = GeometrySet(
        model.molecule,
        np.array([positions for _, _, positions in stretched.values()]),
        tuple(stretched),
        np.full(count, np.nan),
        ("test",) * count,
    )
    labels = label(geometries, LevelOfTheory(), "none", chosen.folder)
    energies, forces = model.unmatched.compute(geometries.positions)
    assert forces is not None
    normal = released(model, None, chosen.seed)[0] if chosen.release else None
    figures: dict[str, object] = {}
    worst, largest = 0.0, 0.0
    for k, (name, (pair, _, positions)) in enumerate(stretched.items()):
        ours, reference = along(positions, forces[k], pair), along(positions, labels.forces[k], pair)
        error = abs(ours - reference) / abs(reference)
        worst = max(worst, error)
        figures[f"{name}_force_kcal_mol_angstrom"] = ours
        figures[f"{name}_force_of_dft_kcal_mol_angstrom"] = reference
        figures[f"{name}_force_error_percent"] = 100.0 * error
        figures[f"{name}_energy_error_kcal_mol"] = float(energies[k] - labels.energies[k]) * KCAL_MOL
        if normal is not None:
            bond = model.molecule.bonds.index((min(pair), max(pair)))
            mean, longest = released(model, positions, chosen.seed)
            share = float(mean[bond] / normal[bond] - 1.0)
            largest = max(largest, abs(share))
            figures[f"{name}_released_largest_length_angstrom"] = float(longest[bond]) * ANGSTROM
            figures[f"{name}_released_mean_length_off_percent"] = 100.0 * share
    figures["worst_force_error_percent"] = 100.0 * worst
    if normal is not None:
        figures["worst_released_length_off_percent"] = 100.0 * largest
    show(figures, chosen.json)


if __name__ == "__main__":
    main()

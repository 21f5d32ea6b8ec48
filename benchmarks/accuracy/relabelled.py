"""Random relabellings and reflections of 20 molecules: the energy is right, or the molecule is refused with the reason.

    python benchmarks/accuracy/relabelled.py                      # models with symmetry, as fflux train makes them
    python benchmarks/accuracy/relabelled.py --symmetry none      # models that know one order of equivalent atoms only

Every molecule goes from SMILES through a relaxation and thermal displacements along its normal modes to a small model
of GFN2-xTB energies and forces.  Then its geometries, held out, are rotated, their atoms are put into random orders,
half of them are reflected, and each comes in by three doors: ASE's calculator, raw positions, and a data set.  Energies
and forces are compared with GFN2-xTB's at the same geometry: an energy is right within 1 kcal/mol, or within twice the
largest error without relabelling.  Five inputs of every molecule must be refused: an isomer,
pieces, a wrapped molecule, another charge, another element.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import parser, show

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from fflux_py.certification import GFN2Labeller
from fflux_py.errors import FFLUXError, FFLUXWarning
from fflux_py.forcefield import ForceField
from fflux_py.interfaces.ase_calculator import FFLUXCalculator
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.dataset_order import reorder_dataset
from fflux_py.molecules.extended_xyz import read_frames, write_frames
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import normal_modes
from fflux_py.optimization.search import optimize_to_minimum
from fflux_py.sampling import molecule_from_smiles
from fflux_py.sampling.gfn2 import GFN2
from fflux_py.training import TrainingConfig, train
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM, BOLTZMANN, EV, EV_ANGSTROM, KCAL_MOL, WAVENUMBER

ISOMERS: Final = {
    "CO": None,
    "CCO": "COC",
    "COC": "CCO",
    "CC=O": "C1CO1",
    "NC=O": "N=CO",
    "CC#N": "[C-]#[N+]C",
    "CC#C": "C=C=C",
    "C=C=C": "CC#C",
    "C1CC1": "C=CC",
    "C=CC": "C1CC1",
    "C1CO1": "CC=O",
    "CN": None,
    "NN": None,
    "CS": None,
    "[C@H](F)(Cl)Br": None,
    "C[C@H](O)F": "OCCF",
    "C[C@H](O)C(=O)O": "OCCC(=O)O",
    "F/C=C/F": r"F/C=C\F",
    "OCC=O": "CC(=O)O",
    "CNC": "CCN",
}
"""SMILES of the molecules, and of an isomer of each: of constitution, or of the sides of a double bond."""
N_TRAIN: Final = 20
N_ORDERS: Final = 25
TEMPERATURE: Final = 300.0
_SOFTEST: Final = 150.0
_RIGHT: Final = 1.0 / KCAL_MOL


@dataclass(frozen=True)
class Case:
    """A molecule, its model, and held-out geometries with their labels."""

    forcefield: ForceField
    held_out: Dataset
    isomer: Molecule | None


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--symmetry", default="auto", choices=["auto", "rotors", "none"])
    options.add_argument("--only", nargs="*", help="SMILES of the list; without it all.")
    chosen = options.parse_args()
    warnings.simplefilter("ignore", FFLUXWarning)
    totals = np.zeros(4, dtype=int)
    worst_of_all, figures = 0.0, dict[str, object]()
    for smiles in chosen.only or ISOMERS:
        number = list(ISOMERS).index(smiles)
        case = prepare(smiles, chosen.symmetry, number)
        right, worst, held_out, wrong = try_orders(case, np.random.default_rng(number))
        refused, accepted = try_others(case)
        totals += [right, N_ORDERS - right, len(refused), len(accepted)]
        worst_of_all = max(worst_of_all, worst)
        figures[smiles] = (
            f"{right}/{N_ORDERS} right, off by at most {worst:.3f} kcal/mol (held-out error {held_out:.3f}); "
            f"{len(refused)} refused" + "".join(f"; WRONG: {line}" for line in [*wrong, *accepted][:6])
        )
        if not chosen.json:
            show({smiles: figures[smiles]}, False)
    summary = {
        "relabellings_and_reflections": int(totals[:2].sum()),
        "energy_and_forces_right_by_all_doors": int(totals[0]),
        "others_refused_by_all_doors": int(totals[2]),
        "others_accepted": int(totals[3]),
        "largest_energy_error_kcal_mol": worst_of_all,
    }
    show({**figures, **summary} if chosen.json else summary, chosen.json)


def prepare(smiles: str, symmetry: str, seed: int) -> Case:
    """A small model of a molecule; trajectories are replaced by thermal displacements along normal modes."""
    start = molecule_from_smiles(smiles)
    potential = GFN2(start)
    minimum = optimize_to_minimum(potential, start, 3e-5, 300)[0].molecule
    modes = normal_modes(potential, np.array(minimum.positions), minimum.masses)
    rng = np.random.default_rng(seed)
    omega = np.maximum(np.abs(modes.wavenumbers), _SOFTEST) / WAVENUMBER
    amounts = rng.standard_normal((N_TRAIN + N_ORDERS, len(omega))) * np.sqrt(BOLTZMANN * TEMPERATURE) / omega
    shifts = (amounts @ modes.vectors.T).reshape(len(amounts), -1, 3) / np.sqrt(minimum.masses)[:, None]
    split = ("train",) * N_TRAIN + ("test",) * N_ORDERS
    m = len(split)
    geometries = GeometrySet(
        minimum, minimum.positions + shifts, tuple(f"modes-{s}" for s in split), np.full(m, TEMPERATURE), split
    )
    labels = GFN2Labeller().label(geometries, Path())
    assert labels is not None
    assert len(labels) == m
    config = TrainingConfig(max_iterations=20, subset=N_TRAIN, symmetry=symmetry)  # type: ignore[arg-type]
    other = ISOMERS[smiles]
    isomer = None if other is None else molecule_from_smiles(other)
    return Case(train(labels, config), labels.with_split("test"), isomer)


def try_orders(case: Case, rng: np.random.Generator) -> tuple[int, float, float, list[str]]:
    """Held-out geometries in random orders, places and hands.

    Returns
    -------
    How many are right by all doors; the largest error of an energy, and the largest without relabelling (kcal/mol); the
    wrong ones in words.
    """
    field, data = case.forcefield, case.held_out
    n = data.molecule.n_atoms
    plain = field.unmatched.compute(data.positions)
    held_out = float(np.abs(plain[0] - data.energies).max())
    assert plain[1] is not None
    allowed = max(_RIGHT, 2.0 * held_out), max(2.0 * float(np.abs(plain[1] - data.forces).max()), 5.0 / KCAL_MOL)
    orders = np.array([rng.permutation(n) for _ in range(N_ORDERS)])
    turns = [Rotation.random(random_state=rng).as_matrix() * (-1.0 if k % 2 else 1.0) for k in range(N_ORDERS)]
    right, worst, wrong = 0, 0.0, []
    by_data = through_a_data_set(case, orders, turns)
    for k in range(N_ORDERS):
        symbols = tuple(data.molecule.symbols[i] for i in orders[k])
        x, f = data.positions[k][orders[k]] @ turns[k].T, data.forces[k][orders[k]] @ turns[k].T
        doors = {
            "ASE": lambda s=symbols, x=x: by_ase(field, s, x),
            "positions": lambda s=symbols, x=x: by_positions(field, s, x),
        }
        errors = []
        for name, door in doors.items():
            try:
                energy, forces = door()
            except FFLUXError as error:
                wrong.append(f"{name}: {error}")
                continue
            errors.append((name, abs(energy - data.energies[k]), float(np.abs(forces - f).max())))
        errors.append(("data set", *by_data[k]))
        worst = max(worst, *(e for _, e, _ in errors))
        bad = [f"{name} off by {e * KCAL_MOL:.2f}" for name, e, g in errors if e > allowed[0] or g > allowed[1]]
        wrong += bad
        right += len(errors) == 3 and not bad
    return right, worst * KCAL_MOL, held_out * KCAL_MOL, wrong


def by_ase(field: ForceField, symbols: tuple[str, ...], x: FloatArray) -> tuple[float, FloatArray]:
    atoms = Atoms(symbols, x * ANGSTROM, calculator=FFLUXCalculator(field))
    return atoms.get_potential_energy() / EV, atoms.get_forces() / EV_ANGSTROM


def by_positions(field: ForceField, symbols: tuple[str, ...], x: FloatArray) -> tuple[float, FloatArray]:
    """Raw positions: elements in the model's order, equal ones in the order in which they come."""
    order = order_of_elements(symbols, field.molecule.symbols)
    energy, forces = field.energy_and_forces(x[order])
    back = np.empty_like(forces)
    back[order] = forces
    return energy, back


def order_of_elements(symbols: tuple[str, ...], expected: tuple[str, ...]) -> IntArray:
    left = {s: [i for i, t in enumerate(symbols) if t == s] for s in set(symbols)}
    return np.array([left[s].pop(0) for s in expected])


def through_a_data_set(case: Case, orders: IntArray, turns: list[FloatArray]) -> list[tuple[float, float]]:
    """Errors of energy and forces of the geometries in a file, every frame in an order of its own; the first is not."""
    data = case.held_out
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.extxyz"
        data.write(path)
        frames = read_frames(path)
        mixed = [frames[0]]
        for frame, order, turn in zip(frames, orders, turns, strict=True):
            columns = {k: c[order] @ turn.T if c.ndim == 2 else c[order] for k, c in frame.columns.items()}
            symbols = tuple(frame.symbols[i] for i in order)
            mixed.append(replace(frame, symbols=symbols, positions=frame.positions[order] @ turn.T, columns=columns))
        write_frames(path, mixed)
        read = Dataset.read(path)
    matched = reorder_dataset(read, case.forcefield.match(read.molecule))
    energies, forces = case.forcefield.compute(matched.positions)
    assert forces is not None
    off = np.abs(energies - matched.energies)[1:], np.abs(forces - matched.forces).max(axis=(1, 2))[1:]
    return [(float(e), float(f)) for e, f in zip(*off, strict=True)]


def try_others(case: Case) -> tuple[list[str], list[str]]:
    """What is no geometry of the molecule: refused by ASE's calculator and as positions, or accepted."""
    molecule = case.forcefield.molecule
    x, symbols = molecule.positions, molecule.symbols
    apart = x.copy()
    apart[0] += [9.0, 0.0, 0.0]
    others = {
        "an atom far away": (symbols, apart, 0),
        "wrapped": (symbols, np.mod(x - x.mean(axis=0), 6.0 / ANGSTROM), 0),
        "another charge": (symbols, x, 1),
        "another element": (("Si", *symbols[1:]), x, 0),
    }
    if case.isomer is not None:
        others["isomer"] = (case.isomer.symbols, case.isomer.positions, 0)
    refused, accepted = [], []
    for name, (elements, positions, charge) in others.items():
        atoms = Atoms(elements, positions * ANGSTROM, calculator=FFLUXCalculator(case.forcefield))
        atoms.info["charge"] = charge
        try:
            atoms.get_potential_energy()
            if charge == 0 and sorted(elements) == sorted(symbols):
                by_positions(case.forcefield, elements, positions)
        except FFLUXError as error:
            refused.append(f"{name}: {error}")
        else:
            accepted.append(f"{name} accepted")
    return refused, accepted


if __name__ == "__main__":
    main()

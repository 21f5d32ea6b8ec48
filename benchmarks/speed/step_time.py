"""Time of a force evaluation over its floors: 22 atoms x 60 features, 1000 points, random weights, one thread.

    python benchmarks/speed/step_time.py [--rows one,many,...] [--repeats 40] [--points 1000]

Both sides of a ratio run in turns in one process; what is compared is the time that the thread had on a processor
(the wall clock where there are two threads), the least of all repetitions.  Rows: one (one replica), many (64
replicas), growth (with points and atoms), threads (two over one), ase (the calculator's overhead), pruned (fewer points
from a fit with forces, features without influence left out), basis (real models of equal held-out force error: energies
alone, and as few points with forces as that takes), precision (what points of 32 bits do to the shipped model),
energies (the shipped models' energies alone over energies and forces).

The naive loop and the matrix products know nothing of features, axes and frames: they start from coordinates and end at
the gradient by them.  The step is the whole way from positions to forces.  Besides the 60 coordinates (spherical
features) rows are printed for the 79 of unit-vector features, which are the default.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show_rows

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np
from ase import Atoms
from numba import njit

from fflux_py import model_file
from fflux_py._compiled import forces as kernels
from fflux_py.analysis.statistics import linear_drift
from fflux_py.dynamics import MDConfig, run_nvt
from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.covariance import Azimuth, Covariance
from fflux_py.gp.features import FeatureKind, FeatureSet, features
from fflux_py.gp.kernel_arrays import Precision
from fflux_py.gp.weights import DerivativeWeights, PlainWeights, Weights
from fflux_py.interfaces.ase_calculator import FFLUXCalculator
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.molecules.molecule import Molecule
from fflux_py.threads import set_threads
from fflux_py.training import TrainingConfig, train
from fflux_py.training.pruning import IdleFeatures, find_idle_features
from fflux_py.training.refit import refit, training_rows
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KCAL_MOL, KCAL_MOL_ANGSTROM

ROWS = ("one", "many", "growth", "threads", "ase", "pruned", "basis", "precision", "energies")
REPLICAS = 64
_IN_A_ROW = 5
_BASIS = 400
_PRUNED_FIT = 120
_FEWER = (10, 15, 20, 30, 40, 60, 80, 100)
Figures = dict[str, object]


class Case(NamedTuple):
    """A force field, geometries near its reference, and what the naive loop and the products take."""

    forcefield: ForceField
    positions: FloatArray
    points: FloatArray  # (n_atoms, N, d)
    slopes: FloatArray | None
    weights: FloatArray  # (n_atoms, N)
    coordinates: FloatArray  # (n_atoms, REPLICAS, d)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--rows", default=",".join(ROWS), help=f"some of {', '.join(ROWS)}")
    options.add_argument("--repeats", type=int, default=8)
    options.add_argument("--points", type=int, default=1000)
    options.add_argument("--picoseconds", type=float, default=10.0, help="length of the runs of the row precision")
    chosen = options.parse_args()
    set_threads(1)
    rows: dict[str, Callable[[], Figures]] = {
        "one": lambda: one(chosen.points, chosen.repeats),
        "many": lambda: many(chosen.points, chosen.repeats),
        "growth": lambda: growth(chosen.repeats),
        "threads": lambda: threads(chosen.points, chosen.repeats),
        "ase": lambda: ase(chosen.points, chosen.repeats),
        "pruned": lambda: pruned(chosen.points, chosen.repeats),
        "basis": lambda: basis(chosen.repeats),
        "precision": lambda: precision(chosen.picoseconds),
        "energies": lambda: energies_alone(chosen.repeats),
    }
    show_rows({row: rows[row] for row in chosen.rows.split(",")}, chosen.json)


# What is timed against.


@njit
def naive(z, points, weights, gradient):  # type: ignore[no-untyped-def]
    """Plain basis, one replica: all points of all atoms once, the scalar exponential of the mathematical library."""
    energy = 0.0
    for a in range(points.shape[0]):
        for h in range(points.shape[2]):
            gradient[a, h] = 0.0
        for i in range(points.shape[1]):
            s = 0.0
            for h in range(points.shape[2]):
                d = z[a, h] - points[a, i, h]
                s += d * d
            k = weights[a, i] * math.exp(-s)
            energy += k
            for h in range(points.shape[2]):
                gradient[a, h] -= 2.0 * k * (z[a, h] - points[a, i, h])
    return energy


@njit
def naive_derivative(z, points, weights, slopes, gradient):  # type: ignore[no-untyped-def]
    """The same in the derivative basis."""
    energy = 0.0
    for a in range(points.shape[0]):
        for h in range(points.shape[2]):
            gradient[a, h] = 0.0
        for i in range(points.shape[1]):
            s, along = 0.0, 0.0
            for h in range(points.shape[2]):
                d = z[a, h] - points[a, i, h]
                s += d * d
                along += d * slopes[a, i, h]
            k = math.exp(-s)
            total = k * (weights[a, i] + 2.0 * along)
            energy += total
            for h in range(points.shape[2]):
                gradient[a, h] += 2.0 * (k * slopes[a, i, h] - total * (z[a, h] - points[a, i, h]))
    return energy


def matrix_products(case: Case, kind: type[np.floating]) -> Callable[[], None]:
    """BLAS: of all replicas' coordinates with all points, and of factors with all points; and as many with slopes."""
    sides = [case.points] if case.slopes is None else [case.points, case.slopes]
    matrices = [side.astype(kind) for side in sides]
    transposed = [np.ascontiguousarray(m.transpose(0, 2, 1)) for m in matrices]
    z = case.coordinates.astype(kind)
    factors = np.empty((REPLICAS, case.points.shape[1]), kind)
    gradient = np.empty((REPLICAS, case.points.shape[2]), kind)

    def run() -> None:
        for a in range(len(z)):
            for m, t in zip(matrices, transposed, strict=True):
                np.dot(z[a], t[a], out=factors)
                np.dot(factors, m[a], out=gradient)

    return run


# Models with random weights.


def random_geometry(n_atoms: int) -> FloatArray:
    """Atoms 2.6 bohr from another one and 2 bohr from all others."""
    rng = np.random.default_rng(0)
    chosen = [np.zeros(3)]
    while len(chosen) < n_atoms:
        step = rng.standard_normal(3)
        place = chosen[rng.integers(len(chosen))] + 2.6 * step / np.linalg.norm(step)
        if min(float(np.linalg.norm(place - other)) for other in chosen) > 2.0:
            chosen.append(place)
    return np.array(chosen)


def frame_of(positions: FloatArray, atom: int) -> LocalFrame:
    """The two nearest atoms that do not stand on a line with the atom."""
    first, *others = np.argsort(np.linalg.norm(positions - positions[atom], axis=1))[1:]
    a = positions[first] - positions[atom]
    for other in others:
        b = positions[other] - positions[atom]
        if np.linalg.norm(np.cross(a, b)) > 0.5 * np.linalg.norm(a) * np.linalg.norm(b):
            return LocalFrame(atom, int(first), int(other))
    raise ValueError("all atoms on a line")


def random_case(
    n_atoms: int, n_points: int, kind: FeatureKind, derivative: bool, precision: Precision = "double"
) -> Case:
    """Spherical features stand as they are (3N - 6 coordinates), so that 22 atoms have 60."""
    rng = np.random.default_rng(1)
    reference = random_geometry(n_atoms)
    azimuth: Azimuth = "rbf" if kind == "spherical" else "periodic"
    moved = reference + 0.15 * rng.standard_normal((n_points, n_atoms, 3))
    positions = reference + 0.1 * rng.standard_normal((REPLICAS, n_atoms, 3))
    atoms, coordinates = [], []
    for frame in (frame_of(reference, atom) for atom in range(n_atoms)):
        x = features(moved, frame, kind)
        theta = 0.5 / x.shape[1] / x.var(axis=0)
        covariance = Covariance(theta, FeatureSet(kind, n_atoms).azimuths, azimuth=azimuth)
        w = 1e-3 * rng.standard_normal(n_points)
        weights: Weights = PlainWeights(w, w, 0.0)
        if derivative:
            u = 1e-4 * rng.standard_normal((n_points, covariance.n_embedded))
            weights = DerivativeWeights(w, w, 0.0, u, u)
        atoms.append(AtomicModel(frame, kind, covariance, x, np.zeros(n_points), weights, "MF1", 0.0, 1.0, 1e-8))
        coordinates.append(covariance.embed(features(positions, frame, kind)))
    forcefield = ForceField(Molecule(("C",) * n_atoms, reference, name="random"), tuple(atoms), precision=precision)
    return Case(
        forcefield=forcefield,
        positions=positions,
        points=np.array([m.covariance.embed(m.points) for m in atoms]),
        slopes=np.array([m.point_slopes for m in atoms]) if derivative else None,
        weights=np.array([m.point_weights for m in atoms]),
        coordinates=np.array(coordinates),
    )


def naive_loop(case: Case) -> Callable[[], None]:
    z, gradient = np.ascontiguousarray(case.coordinates[:, 0]), np.empty(case.coordinates[:, 0].shape)
    if case.slopes is None:
        return lambda: naive(z, case.points, case.weights, gradient)
    return lambda: naive_derivative(z, case.points, case.weights, case.slopes, gradient)


def step(case: Case, replicas: int) -> Callable[[], None]:
    """From positions to energies and forces, as molecular dynamics calls it."""
    arrays, positions = case.forcefield.kernel_arrays(), case.positions[:replicas]
    if replicas == 1:
        return lambda: kernels.energy_and_forces(positions[0], arrays)
    return lambda: kernels.energies_and_forces(positions, arrays)


def milliseconds(
    *functions: Callable[[], object], repeats: int, clock: Callable[[], float] = time.thread_time
) -> list[float]:
    """Least time of every function; they run in turns, five times each, so that its data are in the cache again."""
    least = [math.inf] * len(functions)
    for _ in range(repeats):
        for k, function in enumerate(functions):
            for _ in range(_IN_A_ROW):
                begin = clock()
                function()
                least[k] = min(least[k], 1e3 * (clock() - begin))
    return least


# The rows.

CASES: tuple[tuple[str, FeatureKind, bool], ...] = (
    ("60", "spherical", False),
    ("60_derivative", "spherical", True),
    ("79", "unit-vector", False),
    ("79_derivative", "unit-vector", True),
)


def one(points: int, repeats: int) -> Figures:
    """One replica against the naive loop, and against reading all points once."""
    figures: Figures = {}
    for name, kind, derivative in CASES:
        case = random_case(22, points, kind, derivative)
        single = case._replace(forcefield=case.forcefield.with_precision("single"))
        fixed = case._replace(forcefield=case.forcefield.with_precision("fixed"))
        loop, double, whole, half = milliseconds(
            naive_loop(case), step(case, 1), step(fixed, 1), step(single, 1), repeats=repeats
        )
        figures[f"one_{name}_naive_ms"] = loop
        for precision, value, which in (("double", double, case), ("fixed", whole, fixed), ("single", half, single)):
            stored = which.forcefield.kernel_arrays().points.ravel()
            (reading,) = milliseconds(lambda x=stored: total(x), repeats=repeats)
            figures[f"one_{name}_{precision}_ms"] = value
            figures[f"one_{name}_{precision}_speed_over_naive"] = loop / value
            figures[f"one_{name}_{precision}_over_reading_points"] = value / reading
    return figures


@njit(fastmath=True)
def total(x):  # type: ignore[no-untyped-def]
    value = x.dtype.type(0.0)
    for i in range(x.size):
        value += x[i]
    return value


def many(points: int, repeats: int) -> Figures:
    """64 replicas against the naive loop and against the matrix products alone."""
    figures: Figures = {}
    for name, kind, derivative in CASES:
        case = random_case(22, points, kind, derivative)
        single = case._replace(forcefield=case.forcefield.with_precision("single"))
        loop, double, half, products64, products32 = milliseconds(
            naive_loop(case), step(case, REPLICAS), step(single, REPLICAS),
            matrix_products(case, np.float64), matrix_products(case, np.float32), repeats=repeats,
        )  # fmt: skip
        for precision, value, floor in (("double", double, products64), ("single", half, products32)):
            figures[f"many_{name}_{precision}_ms_per_replica"] = value / REPLICAS
            figures[f"many_{name}_{precision}_products_ms_per_replica"] = floor / REPLICAS
            figures[f"many_{name}_{precision}_speed_over_naive"] = loop / (value / REPLICAS)
            figures[f"many_{name}_{precision}_over_products"] = value / floor
    return figures


def growth(repeats: int) -> Figures:
    """Time with the number of points, and with atoms times features."""
    figures: Figures = {}
    sizes = (250, 500, 1000, 2000)
    cases = [random_case(22, n, "spherical", False) for n in sizes]
    fixed = [case._replace(forcefield=case.forcefield.with_precision("fixed")) for case in cases]
    for name, replicas, chosen in (("one", 1, cases), ("one_fixed", 1, fixed), ("many", REPLICAS, cases)):
        times = milliseconds(*(step(case, replicas) for case in chosen), repeats=repeats)
        for n, value in zip(sizes, times, strict=True):
            figures[f"growth_{name}_{n}_points_ms"] = value / replicas
        figures[f"growth_{name}_points_largest_relative_deviation_from_line"] = off_line(sizes, times)
    atoms = (9, 22, 42)
    cases = [random_case(n, 1000, "spherical", False) for n in atoms]
    products = [case.points.shape[0] * case.points.shape[2] for case in cases]
    fixed = [case._replace(forcefield=case.forcefield.with_precision("fixed")) for case in cases]
    for name, replicas, chosen in (("one", 1, cases), ("one_fixed", 1, fixed), ("many", REPLICAS, cases)):
        times = milliseconds(*(step(case, replicas) for case in chosen), repeats=max(repeats // 4, 5))
        for n, product, value in zip(atoms, products, times, strict=True):
            figures[f"growth_{name}_{n}_atoms_ns_per_atom_and_feature"] = 1e6 * value / replicas / product
        figures[f"growth_{name}_atoms_x_features_largest_relative_deviation_from_line"] = off_line(products, times)
    return figures


def off_line(sizes: Sequence[int], times: list[float]) -> float:
    """Largest relative deviation from the straight line with least relative squares."""
    matrix = np.stack([np.ones(len(sizes)), np.array(sizes, dtype=float)], axis=1) / np.array(times)[:, None]
    fitted = np.linalg.lstsq(matrix, np.ones(len(sizes)), rcond=None)[0]
    return float(np.abs(matrix @ fitted - 1.0).max())


def threads(points: int, repeats: int) -> Figures:
    """64 replicas on two threads over one, by the wall clock; a busy machine shows less.

    By the time on processors: the caller's own, and half of that of its two threads, which share eight equal groups.
    """
    case = random_case(22, points, "spherical", False)
    wall, busy = {1: math.inf, 2: math.inf}, {1: math.inf, 2: math.inf}
    for _ in range(50 * repeats):
        for number in wall:
            set_threads(number)
            begin = time.perf_counter(), time.process_time(), time.thread_time()
            case.forcefield.compute(case.positions)
            whole, own = time.process_time() - begin[1], time.thread_time() - begin[2]
            wall[number] = min(wall[number], 1e3 * (time.perf_counter() - begin[0]))
            busy[number] = min(busy[number], 1e3 * (own + (whole - own) / number))
    set_threads(1)
    return {
        "threads_speed_of_two_over_one_wall_clock": wall[1] / wall[2],
        "threads_speed_of_two_over_one_processor_time": busy[1] / busy[2],
        "threads_one_ms": wall[1],
        "threads_two_ms": wall[2],
    }


def ase(points: int, repeats: int) -> Figures:
    """A calculator's call over the bare kernel."""
    case = random_case(22, points, "spherical", False)
    atoms = Atoms(numbers=case.forcefield.molecule.numbers, positions=case.positions[0] * ANGSTROM)
    atoms.calc = FFLUXCalculator(case.forcefield)
    steps = iter(range(10**9))

    def call() -> None:
        atoms.positions = case.positions[next(steps) % REPLICAS] * ANGSTROM
        atoms.get_forces()

    whole, bare = milliseconds(call, step(case, 1), repeats=10 * repeats)
    return {"ase_call_ms": whole, "ase_kernel_ms": bare, "ase_overhead_ms": whole - bare}


def pruned(points: int, repeats: int) -> Figures:
    """Features left out at an equal error, and 400 points with forces against ``points``.

    Errors are those of malondialdehyde: small fits decide, by predictions of other training geometries, what is left
    out, and fits to more geometries, with and without these features, are compared on the test set.
    """
    forcefield = model_file.load(FOLDER / "model.npz")
    dataset = Dataset.read(FOLDER / "data.extxyz")
    chosen = find_idle_features(forcefield, dataset)
    rows = training_rows(forcefield, dataset)[:_PRUNED_FIT]
    test = dataset.with_split("test")
    before, after = (force_error(refit(forcefield, dataset, names, rows), test) for names in ((), chosen.dropped))
    figures: Figures = {
        "pruned_left_out": " ".join(chosen.dropped),
        "pruned_features_kept": chosen.kept,
        "pruned_features_of": chosen.total,
        "pruned_stated_growth_of_force_mae": chosen.error_after / chosen.error_before - 1.0,
        "pruned_fit_geometries": len(rows),
        "pruned_held_out_force_mae_before_kcal_mol_angstrom": before * KCAL_MOL_ANGSTROM,
        "pruned_held_out_force_mae_after_kcal_mol_angstrom": after * KCAL_MOL_ANGSTROM,
        "pruned_held_out_force_mae_ratio": after / before,
        "pruned_shipped_model_held_out_force_mae_kcal_mol_angstrom": force_error(forcefield, test) * KCAL_MOL_ANGSTROM,
    }
    plain, full, fewer = (
        random_case(22, n, "unit-vector", derivative)
        for n, derivative in ((points, False), (points, True), (_BASIS, True))
    )
    small = left_out(fewer, chosen)
    for name, replicas in (("one", 1), ("many", REPLICAS)):
        cases = (plain, full, fewer, small)
        energies_only, whole, basis, least = milliseconds(*(step(case, replicas) for case in cases), repeats=repeats)
        figures[f"pruned_{name}_speed_of_{_BASIS}_points"] = whole / basis
        figures[f"pruned_{name}_speed_of_fewer_features"] = basis / least
        figures[f"pruned_{name}_speed_of_both"] = whole / least
        figures[f"pruned_{name}_speed_of_both_over_plain_basis"] = energies_only / least
    return figures


def basis(repeats: int) -> Figures:
    """Malondialdehyde, no symmetry: all training geometries with atomic energies alone, against a fit with forces.

    The second has as few geometries as reach the first one's held-out force error, and no feature without influence.
    """
    dataset = Dataset.read(FOLDER / "data.extxyz")
    test = dataset.with_split("test")
    many = train(dataset, TrainingConfig(forces=False, symmetry="none"))
    joint = train(dataset, TrainingConfig(n_train=_FEWER[-1], symmetry="none"))
    dropped, rows, error = (
        find_idle_features(joint, dataset).dropped,
        training_rows(joint, dataset),
        force_error(many, test),
    )
    for n in _FEWER:
        few = refit(joint, dataset, dropped, rows[:n])
        reached = force_error(few, test)
        if reached <= 1.02 * error:
            break
    else:
        raise SystemExit(f"more than {_FEWER[-1]} geometries are needed")
    figures: Figures = {
        "basis_energies_only_points": len(many.atoms[0].points),
        "basis_energies_only_held_out_force_mae_kcal_mol_angstrom": error * KCAL_MOL_ANGSTROM,
        "basis_with_forces_points": n,
        "basis_with_forces_left_out": " ".join(dropped),
        "basis_with_forces_held_out_force_mae_kcal_mol_angstrom": reached * KCAL_MOL_ANGSTROM,
    }
    for name, replicas in (("one", 1), ("many", REPLICAS)):
        positions = np.ascontiguousarray(test.positions[:replicas])
        arrays = [field.kernel_arrays() for field in (many, few)]
        calls = [partial(kernels.energies_and_forces, positions, each) for each in arrays]
        slow, fast = milliseconds(*calls, repeats=10 * repeats)
        figures[f"basis_{name}_energies_only_ms"] = slow / replicas
        figures[f"basis_{name}_with_forces_ms"] = fast / replicas
        figures[f"basis_{name}_speed"] = slow / fast
    return figures


def left_out(case: Case, chosen: IdleFeatures) -> Case:
    """A random model without the same kinds of features."""
    atoms = []
    for model in case.forcefield.atoms:
        names = FeatureSet(model.feature_kind, case.forcefield.molecule.n_atoms).names
        theta = np.where(np.isin(names, chosen.dropped), 0.0, model.covariance.theta)
        atoms.append(replace(model, covariance=replace(model.covariance, theta=theta)))
    return case._replace(forcefield=replace(case.forcefield, atoms=tuple(atoms)))


def force_error(forcefield: ForceField, dataset: Dataset) -> float:
    """Mean absolute error of a force component, hartree/bohr."""
    forces = forcefield.compute(dataset.positions)[1]
    assert forces is not None
    assert dataset.forces is not None
    return float(np.abs(forces - dataset.forces).mean())


def precision(picoseconds: float) -> Figures:
    """What points of 32 bits change in the shipped model: forces, smoothness, conservation of energy."""
    double = model_file.load(FOLDER / "model.npz")
    fields = {"double": double, "fixed": double.with_precision("fixed"), "single": double.with_precision("single")}
    test = Dataset.read(FOLDER / "data.extxyz").with_split("test")
    line = np.linspace(0.0, 1e-3, 200)[:, None, None] * np.random.default_rng(0).standard_normal(
        test.positions[0].shape
    )
    along = test.positions[0] + line
    energies, forces = double.compute(test.positions)
    start = read_molecule(FOLDER / "minimum_b3lyp.xyz")
    figures: Figures = {}
    for name, field in fields.items():
        if field is not double:
            other, other_forces = field.compute(test.positions)
            assert forces is not None
            assert other_forces is not None
            off = field.compute(along)[0] - double.compute(along)[0]
            figures[f"precision_{name}_energy_change_std_kcal_mol"] = float((other - energies).std() * KCAL_MOL)
            change = np.abs(other_forces - forces).mean()
            figures[f"precision_{name}_force_change_mae_kcal_mol_angstrom"] = float(change * KCAL_MOL_ANGSTROM)
            figures[f"precision_{name}_energy_noise_kcal_mol"] = float(off.std() * KCAL_MOL)
        config = MDConfig(
            steps=round(2000 * picoseconds), timestep=0.5, thermostat="none", temperature=600.0, exact_temperature=True,
            report_every=8, seed=1,
        )  # fmt: skip
        run = run_nvt(field, start, config)
        drift = linear_drift(run.times_fs / 1000.0, (run.conserved - run.conserved[0]) * KCAL_MOL)
        figures[f"precision_{name}_nve_drift_kcal_mol_ps"] = drift.slope
        figures[f"precision_{name}_nve_drift_standard_error_kcal_mol_ps"] = drift.slope_standard_error
        figures[f"precision_{name}_nve_fluctuation_kcal_mol"] = float(run.conserved.std() * KCAL_MOL)
    return figures


def energies_alone(repeats: int) -> Figures:
    """Energies alone over energies and forces, for the shipped models: one geometry, and 64."""
    figures: Figures = {}
    for name in ("malondialdehyde", "alanine_dipeptide"):
        forcefield = model_file.load(FOLDER.parent / name / "model.npz")
        molecule = forcefield.molecule
        shifts = 0.05 * np.random.default_rng(0).standard_normal((REPLICAS, molecule.n_atoms, 3))
        positions = molecule.positions + shifts
        same = np.array_equal(forcefield.compute(positions, 0)[0], forcefield.compute(positions)[0])
        figures[f"energies_{name}_same_bits"] = same
        for label, chosen in (("one", positions[:1]), ("many", positions)):
            alone, both = milliseconds(
                partial(forcefield.compute, chosen, 0), partial(forcefield.compute, chosen), repeats=10 * repeats
            )
            figures[f"energies_{name}_{label}_ms"] = alone / len(chosen)
            figures[f"energies_{name}_{label}_with_forces_ms"] = both / len(chosen)
            figures[f"energies_{name}_{label}_over_with_forces"] = alone / both
    return figures


if __name__ == "__main__":
    main()

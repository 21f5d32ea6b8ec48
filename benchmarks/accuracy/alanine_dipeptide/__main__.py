"""Geometry optimisation of alanine dipeptide (Ac-Ala-NHMe): the force field against our own DFT.

    python benchmarks/accuracy/alanine_dipeptide dft C7eq C5 C7ax      # minima by PySCF and geomeTRIC, ten minutes each
    python benchmarks/accuracy/alanine_dipeptide dft C5 C7ax --model model.npz   # again, if methyl stopped on a saddle
    python benchmarks/accuracy/alanine_dipeptide frequencies model.npz C7eq C5 C7ax  # of the DFT minima, 61 forces each
    python benchmarks/accuracy/alanine_dipeptide starts                # 25 displaced starts of each
    python benchmarks/accuracy/alanine_dipeptide optimise model.npz [--starts FILE.npz] [--method internal|bfgs]

Starts are the DFT minima with every coordinate moved by up to 0.25 angstrom (uniform, seeded), the recipe of the
published test.  A run counts if it ends below 0.023 eV/angstrom in the basin that it started from: phi and psi
within 40 degrees of the DFT minimum.  Times are processor times of one thread, without compilation and loading of the
model; that of DFT is counted to the same threshold, of the search that begins at a geometry that GFN2-xTB has relaxed
already.  (Where it stopped on a saddle of a methyl group, a second search from a model's minimum gave the geometry.)
Where atoms of a start are nearer or further than in all training geometries, the search begins next to it, where they
are not; the time for that counts.

DFT's second derivatives are those of the model plus differences of the *difference* of both forces, one way along each
normal mode of the model: what one-sided differences leave out is of the difference only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for the folder support

from support.figures import show  # sets the number of threads: before everything that reads it
from support.kohn_sham import KohnSham

import numpy as np

from fflux_py import model_file
from fflux_py.analysis.geometry import heavy_atoms, rmsd, torsions
from fflux_py.errors import FFLUXError
from fflux_py.files import write_atomically
from fflux_py.forcefield import ForceField
from fflux_py.iqa.scf.electronic_structure import use_threads
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.extended_xyz import read_frames, read_molecule, write_molecule
from fflux_py.molecules.molecule import Molecule, covalent_radius
from fflux_py.molecules.normal_modes import hessian, modes_of_hessian
from fflux_py.molecules.potential import PotentialEnergy
from fflux_py.optimization.search import OptimizationResult, optimize, optimize_to_minimum
from fflux_py.optimization.training_range import move_into_training_range
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, EV_ANGSTROM, KCAL_MOL, WAVENUMBER

HERE = Path(__file__).resolve().parent
GEOMETRIES = HERE.parents[2] / "training_data" / "alanine_dipeptide" / "data.extxyz"
STARTS = HERE / "starts.npz"
# phi and psi in degrees, where the search for each minimum begins.
BASINS = {"C7eq": (-83.0, 73.0), "C5": (-157.0, 162.0), "C7ax": (73.0, -54.0)}
FMAX_EV_ANGSTROM = 0.023
# Where frequencies are computed, hartree/bohr: a methyl group that turns at 30 cm^-1 is at rest.
TIGHT = 1e-6
# Along a normal mode: so much energy (hartree), and no coordinate by more than so much (bohr).
RISE, FURTHEST = 5e-5, 0.03
TIGHT_SCF = LevelOfTheory(convergence=1e-11, gradient_convergence=2e-6)
DISPLACEMENT_ANGSTROM = 0.25
PER_BASIN = 25
SAME_BASIN_DEGREES = 40.0


def phi_psi(molecule: Molecule, positions: FloatArray) -> FloatArray:
    """Both torsions of the backbone in degrees, ``(..., 2)``."""
    return np.degrees(torsions(positions, molecule.backbone_torsions()))


def apart(first: FloatArray, second: FloatArray) -> FloatArray:
    """Largest difference of two pairs of angles, degrees."""
    return np.abs((first - second + 180.0) % 360.0 - 180.0).max(axis=-1)


class Watched(KohnSham):
    """DFT that notes when the forces first fell below the threshold of the benchmark."""

    def __init__(self, molecule: Molecule) -> None:
        super().__init__(molecule)
        self._begin = time.process_time()
        self._evaluations = 0
        self.evaluations_to_threshold = 0
        self.time_to_threshold = 0.0

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr) at positions in bohr."""
        energy, forces = super().energy_and_forces(positions)
        self._evaluations += 1
        reached = np.linalg.norm(forces, axis=1).max() < FMAX_EV_ANGSTROM / EV_ANGSTROM
        if reached and not self.evaluations_to_threshold:
            self.evaluations_to_threshold = self._evaluations
            self.time_to_threshold = time.process_time() - self._begin
        return energy, forces


def relaxed_by_gfn2(name: str) -> Molecule:
    """The sampled geometry next to a basin, relaxed by GFN2-xTB."""
    from fflux_py.sampling.gfn2 import GFN2

    sampled = GeometrySet.read(GEOMETRIES)
    angles = phi_psi(sampled.molecule, sampled.positions)
    nearest = int(np.argmin(apart(angles, np.array(BASINS[name]))))
    begin = sampled.molecule.with_positions(sampled.positions[nearest])
    return optimize(GFN2(begin), begin, fmax=FMAX_EV_ANGSTROM / EV_ANGSTROM).molecule


def lowest_of_model(name: str, path: str) -> Molecule:
    """The lowest minimum that a model has in the basin, from displaced copies of the geometry that DFT stopped at."""
    forcefield, (stopped, _) = model_file.load(path), minimum(name)
    found: list[OptimizationResult] = []
    for begin in displaced(stopped, np.random.default_rng(0)) / ANGSTROM:
        try:
            result = optimize(forcefield, move_into_training_range(forcefield, stopped.with_positions(begin)))
        except FFLUXError:  # it left the model
            continue
        same = apart(phi_psi(stopped, result.molecule.positions), phi_psi(stopped, stopped.positions))
        if result.converged and same < SAME_BASIN_DEGREES:
            found.append(result)
    if not found:
        raise SystemExit(f"the model has no minimum in the basin of {name}")
    return min(found, key=lambda result: result.energy).molecule


def dft(names: list[str], threads: int, model: str | None) -> None:
    """Optimise, and keep the lower of two minima of a basin."""
    use_threads(threads)
    level = LevelOfTheory()
    for name in names:
        begin = relaxed_by_gfn2(name) if model is None else lowest_of_model(name, model)
        potential = Watched(begin)
        found = optimize(potential, begin, fmax=FMAX_EV_ANGSTROM / EV_ANGSTROM / 5.0)
        taken = {
            "evaluations_to_threshold": potential.evaluations_to_threshold,
            "processor_time_to_threshold_s": round(potential.time_to_threshold, 1),
        }
        before = taken if model is None else minimum(name)[1]
        facts = {
            "method": level.method,
            "basis": level.basis,
            "energy_hartree": found.energy,
            "converged": found.converged,
            "evaluations": found.n_evaluations,
            **{key: before[key] for key in taken},
            "threads": threads,
            "begun_from": "GFN2-xTB" if model is None else "a model",
        }
        if model is None or found.energy < float(before["energy_hartree"]):
            write_molecule(HERE / f"{name}.xyz", found.molecule, facts)
        print(name, facts, phi_psi(begin, found.molecule.positions).round(1), flush=True)


def dft_frequencies(path: str, names: list[str], threads: int) -> None:
    """Harmonic wavenumbers at the DFT minima."""
    use_threads(threads)
    forcefield = model_file.load(path)
    for name in names:
        molecule, _ = minimum(name)
        clock = time.process_time()
        found = wavenumbers_with_help(KohnSham(molecule, TIGHT_SCF), forcefield, molecule)
        facts = {
            "wavenumbers_per_cm": [round(float(w), 2) for w in found],
            "processor_time_s": round(time.process_time() - clock, 1),
            "threads": threads,
        }
        write_atomically(HERE / f"{name}.frequencies.json", json.dumps(facts, indent=1) + "\n")
        print(name, facts, flush=True)


def wavenumbers_with_help(potential: PotentialEnergy, model: ForceField, molecule: Molecule) -> FloatArray:
    """Wavenumbers (cm^-1) of a costly potential at its minimum, from one of its forces along each mode of a model."""
    positions, root = np.array(molecule.positions), np.repeat(np.sqrt(molecule.masses), 3)
    known = hessian(model, positions)
    modes = modes_of_hessian(known, positions, molecule.masses)

    def difference(moved: FloatArray) -> FloatArray:
        return (potential.energy_and_forces(moved)[1] - model.energy_and_forces(moved)[1]).ravel() / root

    at_rest, columns = difference(positions), []
    for vector, wavenumber in zip(modes.vectors.T, modes.wavenumbers, strict=True):
        along = (vector / root).reshape(-1, 3)
        step = min(np.sqrt(2.0 * RISE) / abs(wavenumber) * WAVENUMBER, FURTHEST / np.abs(along).max())
        columns.append((at_rest - difference(positions + step * along)) / step)
    change = modes.vectors.T @ np.array(columns).T
    second = modes.vectors.T @ (known / np.outer(root, root)) @ modes.vectors + 0.5 * (change + change.T)
    values = np.linalg.eigvalsh(second)
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)) * WAVENUMBER)


def compared_frequencies(forcefield: ForceField, ends: list[OptimizationResult], name: str) -> dict[str, object]:
    """Frequencies at the minimum next to the lowest end of the searches, against DFT's."""
    lowest = min(ends, key=lambda end: end.energy).molecule
    _, modes = optimize_to_minimum(forcefield, lowest, fmax=TIGHT)
    if modes is None:
        raise SystemExit(f"{name}: the search did not come to {TIGHT:g} hartree/bohr")
    figures: dict[str, object] = {f"{name}: imaginary modes": int((modes.wavenumbers < 0.0).sum())}
    path = HERE / f"{name}.frequencies.json"
    if path.is_file():
        reference = np.array(json.loads(path.read_text())["wavenumbers_per_cm"])
        wrong = np.abs(modes.wavenumbers - reference)
        figures[f"{name}: wavenumbers_mae_per_cm"] = float(wrong.mean())
        figures[f"{name}: wavenumbers_largest_error_per_cm"] = float(wrong.max())
    return figures


def minimum(name: str) -> tuple[Molecule, dict[str, float]]:
    """A DFT minimum and what its file says."""
    path = HERE / f"{name}.xyz"
    return read_molecule(path), dict(read_frames(path)[0].info)  # type: ignore[arg-type]


def displaced(molecule: Molecule, generator: np.random.Generator) -> FloatArray:
    """Displaced copies in angstrom, ``(PER_BASIN, n_atoms, 3)``."""
    shape = (PER_BASIN, *molecule.positions.shape)
    return np.asarray(molecule.positions * ANGSTROM + generator.uniform(-1, 1, shape) * DISPLACEMENT_ANGSTROM)


def write_starts(seed: int) -> None:
    """Displaced starts of all minima."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name in BASINS:
        molecule, _ = minimum(name)
        arrays[f"{name.lower()}_start_xyz"] = displaced(molecule, generator)
        arrays["symbols"] = np.array(molecule.symbols)
    np.savez_compressed(STARTS, **arrays)


def bonds_of(positions: FloatArray, symbols: list[str]) -> tuple[tuple[int, int], ...]:
    """Bonds of a molecule that is known by displaced copies (angstrom), from distances freed of the displacement."""
    noise = 6.0 * DISPLACEMENT_ANGSTROM**2 / 3.0
    squared = np.mean(np.sum((positions[:, :, None] - positions[:, None]) ** 2, axis=-1), axis=0) - noise
    radii = np.array([covalent_radius(s) for s in symbols]) * ANGSTROM
    near = squared < (1.25 * (radii[:, None] + radii)) ** 2
    return tuple((int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True))


def in_our_order(
    positions: FloatArray, symbols: list[str], bonds: tuple[tuple[int, int], ...], molecule: Molecule
) -> FloatArray:
    """Geometries in angstrom of any order of atoms, in the order of ``molecule`` and bohr (matched by the bonds).

    Equivalent hydrogens are taken as they come.
    """
    import networkx as nx

    def graph(elements: list[str], bonds: tuple[tuple[int, int], ...]) -> nx.Graph:
        out = nx.Graph()
        out.add_nodes_from((k, {"element": e}) for k, e in enumerate(elements))
        out.add_edges_from(bonds)
        return out

    mean = aligned_mean(positions) / ANGSTROM
    match = nx.isomorphism.GraphMatcher(
        graph(list(molecule.symbols), molecule.bonds),
        graph(symbols, bonds),
        node_match=lambda a, b: a["element"] == b["element"],
    )
    best, order = np.inf, None
    for mapping in match.isomorphisms_iter():
        candidate = [mapping[k] for k in range(molecule.n_atoms)]
        deviation = float(rmsd(mean[candidate], molecule.positions))
        if deviation < best:
            best, order = deviation, candidate
    if order is None:
        raise SystemExit("the starts are of another molecule")
    return positions[:, order] / ANGSTROM


def aligned_mean(positions: FloatArray) -> FloatArray:
    """Mean of displaced copies of one geometry."""
    from fflux_py.analysis.geometry import superpose

    mean = positions[0]
    for _ in range(20):
        mean = superpose(positions, mean).mean(axis=0)
    return np.asarray(mean)


def optimise(path: str, starts: Path, method: str, as_it_is: bool) -> dict[str, object]:
    """Optimise every start with the model and compare with the DFT minima."""
    forcefield = model_file.load(path)
    archive = np.load(starts, allow_pickle=False)
    symbols = [str(s) for s in archive["symbols"]]
    bonds = bonds_of(np.concatenate([archive[f"{name.lower()}_start_xyz"] for name in BASINS]), symbols)
    fmax = FMAX_EV_ANGSTROM / EV_ANGSTROM
    figures: dict[str, object] = {"fmax_ev_angstrom": FMAX_EV_ANGSTROM}
    energies: dict[str, list[float]] = {}
    references: dict[str, float] = {}
    all_steps: list[int] = []
    all_times: list[float] = []
    for name in BASINS:
        reference, facts = minimum(name)
        references[name] = float(facts["energy_hartree"])
        optimize(forcefield, reference, fmax=fmax, method=method)  # compiles before the clock starts
        begins = in_our_order(archive[f"{name.lower()}_start_xyz"], symbols, bonds, reference)
        found: list[OptimizationResult] = []
        failed = moved = 0
        for begin in begins:
            clock = time.process_time()
            try:
                start = reference.with_positions(begin)
                inside = start if as_it_is else move_into_training_range(forcefield, start)
                moved += inside is not start
                result = optimize(forcefield, inside, fmax=fmax, method=method)
            except FFLUXError:
                failed += 1
                continue
            all_times.append(time.process_time() - clock)
            all_steps.append(result.n_steps)
            here = phi_psi(reference, result.molecule.positions)
            if result.converged and apart(here, phi_psi(reference, reference.positions)) < SAME_BASIN_DEGREES:
                found.append(result)
        ends = np.array([r.molecule.positions for r in found])
        figures[f"{name}: starts"] = len(begins)
        figures[f"{name}: starts brought into the range of the training data"] = moved
        figures[f"{name}: search left the model"] = failed
        figures[f"{name}: converged to the basin"] = len(found)
        if found:
            energies[name] = [r.energy for r in found]
            heavy = heavy_atoms(reference)
            figures[f"{name}: rmsd_all_median_angstrom"] = float(np.median(rmsd(ends, reference.positions)) * ANGSTROM)
            figures[f"{name}: rmsd_heavy_median_angstrom"] = float(
                np.median(rmsd(ends, reference.positions, heavy)) * ANGSTROM
            )
            figures.update(compared_frequencies(forcefield, found, name))
        dft_time = float(facts["processor_time_to_threshold_s"])
        figures[f"{name}: dft_processor_time_s"] = dft_time
        figures[f"{name}: speed_up"] = dft_time / float(np.median(all_times))
    figures["steps_median"] = float(np.median(all_steps))
    figures["processor_time_median_s"] = float(np.median(all_times))
    for name in ("C5", "C7ax"):
        if name in energies and "C7eq" in energies:
            model = float(np.median(energies[name]) - np.median(energies["C7eq"])) * KCAL_MOL
            figures[f"{name} above C7eq, model, kcal_mol"] = model
            figures[f"{name} above C7eq, dft, kcal_mol"] = (references[name] - references["C7eq"]) * KCAL_MOL
    return figures


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = options.add_subparsers(dest="command", required=True)
    run = commands.add_parser("dft", help="minima by DFT, written beside this file")
    run.add_argument("names", nargs="+", choices=list(BASINS))
    run.add_argument("--threads", type=int, default=1)
    run.add_argument("--model", help="begin from the lowest minimum of this model in the basin, and keep what is lower")
    run = commands.add_parser("frequencies", help="harmonic frequencies by DFT, written beside this file")
    run.add_argument("model", help="what DFT is compared with along the modes; a better one leaves a smaller error")
    run.add_argument("names", nargs="+", choices=list(BASINS))
    run.add_argument("--threads", type=int, default=1)
    run = commands.add_parser("starts", help="displaced starts, written beside this file")
    run.add_argument("--seed", type=int, default=1)
    run = commands.add_parser("optimise", help="optimise all starts with a model")
    run.add_argument("model")
    run.add_argument("--starts", type=Path, default=STARTS)
    run.add_argument("--method", default="auto", choices=["auto", "newton", "internal", "bfgs"])
    run.add_argument("--as-it-is", action="store_true", help="begin also where the model has learnt nothing")
    run.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    if chosen.command == "dft":
        dft(chosen.names, chosen.threads, chosen.model)
    elif chosen.command == "frequencies":
        dft_frequencies(chosen.model, chosen.names, chosen.threads)
    elif chosen.command == "starts":
        write_starts(chosen.seed)
    else:
        figures = optimise(chosen.model, chosen.starts, chosen.method, chosen.as_it_is)
        print(json.dumps(figures, default=float)) if chosen.json else show(figures, False)


if __name__ == "__main__":
    main()

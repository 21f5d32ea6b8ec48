"""Molecular dynamics: is it canonical, does it conserve, can it be reversed, does it stay in memory.

    python benchmarks/dynamics/integration.py training_data/malondialdehyde/model.npz [--rows conservation,...]

Rows: conservation (drift and fluctuation of NVE at 0.25, 0.5 and 1 fs, and with heavier hydrogen), order (the same
start at three time steps: energy and shadow energy), hydrogen (time steps and heavier hydrogen: fluctuation, bonds,
torsions), canonical (physical_validation at 300 and
320 K, every thermostat, and with one degree of freedom too many), harmonic (a molecule of springs: normal modes, mean
and variance of the potential energy), reversal (1000 steps there and back), memory (resident memory of a run).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the folder support

from support.figures import FOLDER, parser, show_rows

import numpy as np
import physical_validation as validation
from numba import njit

from fflux_py import model_file
from fflux_py.analysis.geometry import bond_lengths, torsions
from fflux_py.analysis.spectrum import power_spectrum
from fflux_py.analysis.statistics import block_average, linear_drift
from fflux_py.dynamics import CompiledPotential, MDConfig, Trajectory, run_nvt, run_replicas
from fflux_py.dynamics.engine import Engine, initial_state, system_of
from fflux_py.forcefield import ForceField
from fflux_py.molecules import mechanics
from fflux_py.molecules.extended_xyz import read_molecule
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM, BOLTZMANN, FEMTOSECOND, KCAL_MOL, KJ_MOL, WAVENUMBER

ROWS = ("conservation", "order", "hydrogen", "canonical", "harmonic", "reversal", "memory")
THERMOSTATS = ("nose-hoover", "velocity-rescaling", "langevin")
Figures = dict[str, object]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("model", nargs="?", default=FOLDER / "model.npz")
    options.add_argument("--rows", default=",".join(ROWS), help=f"some of {', '.join(ROWS)}")
    options.add_argument("--picoseconds", type=float, default=50.0, help="length of the runs with the model")
    options.add_argument("--memory-minutes", type=float, default=30.0)
    chosen = options.parse_args()
    forcefield = model_file.load(chosen.model)
    start = read_molecule(FOLDER / "minimum_b3lyp.xyz")
    rows = {
        "conservation": lambda: conservation(forcefield, start, chosen.picoseconds),
        "order": lambda: order(forcefield, start),
        "hydrogen": lambda: hydrogen(forcefield, start, chosen.picoseconds),
        "canonical": lambda: canonical(forcefield, start, chosen.picoseconds),
        "harmonic": harmonic,
        "reversal": lambda: reversal(forcefield, start),
        "memory": lambda: memory(forcefield, start, chosen.memory_minutes),
    }
    show_rows({row: rows[row] for row in chosen.rows.split(",")}, chosen.json)


def conservation(forcefield: ForceField, start: Molecule, picoseconds: float) -> Figures:
    """Fluctuation and drift of the energy in NVE, from a start that is already warm."""
    figures: Figures = {}
    settings: tuple[tuple[str, float, float | None], ...] = (
        ("0.25fs", 0.25, None), ("0.5fs", 0.5, None), ("1fs", 1.0, None), ("1fs_hydrogen_3da", 1.0, 3.0),
    )  # fmt: skip
    for name, timestep, hydrogen in settings:
        config = MDConfig(
            steps=round(1000.0 * picoseconds / timestep), timestep=timestep, thermostat="none", temperature=600.0,
            exact_temperature=True, report_every=round(4.0 / timestep), hydrogen_mass=hydrogen, seed=1,
        )  # fmt: skip
        run = run_nvt(forcefield, start, config)
        energy = (run.conserved - run.conserved[0]) * KCAL_MOL
        line = linear_drift(run.times_fs / 1000.0, energy)
        rest = energy - line.intercept - line.slope * run.times_fs / 1000.0
        figures[f"nve_{name}_temperature_k"] = float(run.temperature.mean())
        figures[f"nve_{name}_fluctuation_kcal_mol"] = float(rest.std())
        figures[f"nve_{name}_drift_kcal_mol_ps"] = line.slope
        figures[f"nve_{name}_drift_standard_error_kcal_mol_ps"] = line.slope_standard_error
    return figures


def order(forcefield: ForceField, start: Molecule, starts: int = 16, femtoseconds: float = 400.0) -> Figures:
    """Fluctuation of energy and of shadow energy at three time steps, from the same starts over the same time.

    Velocity Verlet conserves H + h^2 (v H'' v / 12 - F M^-1 F / 24) + O(h^4) (the first term of the Baker-Campbell-
    Hausdorff series; Hairer, Lubich, Wanner, Geometric Numerical Integration, IX), so that H itself fluctuates as h^2
    and this sum as h^4.  A vibration of angular frequency w alone has H fluctuate by h^2 / (1 - (w h / 2)^2): the
    ratios are 4.06 and 4.26 for a stretch of hydrogen at 3000 cm^-1, not 4.  Chaotic paths part in time, and each has
    modes of its own energies; so paths are compared while they are still the same.
    """
    potential = CompiledPotential.of(forcefield)
    warm = run_nvt(
        forcefield, start, MDConfig(steps=2000 * starts, thermostat="langevin", report_every=2000, seed=5)
    )  # fmt: skip
    timesteps = (0.25, 0.5, 1.0)
    spread = np.empty((starts, len(timesteps), 2))
    for s in range(starts):
        for k, timestep in enumerate(timesteps):
            spread[s, k] = energies_of_path(potential, warm.positions[s + 1], s, timestep, femtoseconds).std(axis=0)
    figures: Figures = {"nve_order_starts": starts, "nve_order_femtoseconds": femtoseconds}
    for name, column, low, high in (
        ("0.5_to_0.25fs", 0, 0, 1), ("1_to_0.5fs", 0, 1, 2), ("0.5_to_0.25fs_shadow_energy", 1, 0, 1),
        ("1_to_0.5fs_shadow_energy", 1, 1, 2),
    ):  # fmt: skip
        ratios = spread[:, high, column] / spread[:, low, column]
        figures[f"nve_same_path_fluctuation_ratio_{name}"] = float(ratios.mean())
        figures[f"nve_same_path_fluctuation_ratio_{name}_standard_error"] = float(ratios.std(ddof=1) / np.sqrt(starts))
    return figures


def energies_of_path(
    potential: CompiledPotential, positions: FloatArray, number: int, timestep: float, femtoseconds: float
) -> FloatArray:
    """Energy and shadow energy in kcal/mol after every femtosecond of NVE, ``(m, 2)``; 300 K."""
    config = MDConfig(steps=1, timestep=timestep, thermostat="none", temperature=300.0, seed=6)
    system = system_of(potential.molecule, config)
    state = initial_state(potential, potential.molecule.with_positions(positions), system, config, (number,))
    engine = Engine(potential, system, state, 1)
    rows, block = [], round(1.0 / timestep)
    for step in range(0, round(femtoseconds / timestep), block):
        engine.advance(step, block)
        x, v, m = state.positions[0], state.velocities[0], system.masses[:, None]
        nudge = 1e-3 / np.abs(v).max()
        ahead, behind = (potential.force_function(x + sign * nudge * v, potential.arrays)[1] for sign in (1.0, -1.0))
        curvature = -float((v * (ahead - behind)).sum()) / (2.0 * nudge)
        push = float((state.forces[0] ** 2 / m).sum())
        energy = engine.conserved(0)
        rows.append((energy, energy + (timestep / FEMTOSECOND) ** 2 * (curvature / 12.0 - push / 24.0)))
    return np.array(rows) * KCAL_MOL


def hydrogen(forcefield: ForceField, start: Molecule, picoseconds: float) -> Figures:
    """What longer steps and heavier hydrogen do: conserved quantity, lengths of bonds, torsions, against 0.25 fs."""
    figures: Figures = {}
    bonds = np.array(forcefield.molecule.bonds)
    light = (forcefield.molecule.numbers[bonds] == 1).any(axis=1)
    rotated = [(0, 1, 2, 3), (1, 2, 3, 4)]
    reference: dict[str, FloatArray] = {}
    settings: tuple[tuple[float, float | None], ...] = (
        (0.25, None), (0.5, None), (1.0, None), (0.5, 3.0), (1.0, 3.0), (1.5, 3.0), (2.0, 3.0),
    )  # fmt: skip
    for timestep, mass in settings:
        name = f"hydrogen_{'light' if mass is None else f'{mass:g}da'}_{timestep:g}fs"
        config = MDConfig(
            steps=round(250.0 * picoseconds / timestep), timestep=timestep, hydrogen_mass=mass, replicas=4, seed=7,
            report_every=round(6.0 / timestep),
        )  # fmt: skip
        runs = run_replicas(forcefield, start, config)
        rest = []
        for run in runs:
            line = linear_drift(run.times_fs, run.conserved)
            rest.append((run.conserved - line.intercept - line.slope * run.times_fs).std() * KCAL_MOL)
        figures[f"{name}_conserved_fluctuation_kcal_mol"] = float(np.mean(rest))
        kept = [run.positions[len(run) // 10 :] for run in runs]
        lengths = np.array([bond_lengths(x, forcefield.molecule.bonds) for x in kept]) * ANGSTROM
        seen = {
            "ch_length": lengths[:, :, light].mean(axis=(1, 2)) * 1000.0,
            "other_length": lengths[:, :, ~light].mean(axis=(1, 2)) * 1000.0,
            "ch_variance": lengths[:, :, light].var(axis=1).mean(axis=1),
            "other_variance": lengths[:, :, ~light].var(axis=1).mean(axis=1),
        }
        angles = np.abs(np.array([torsions(x, rotated) for x in kept]))
        counts = np.array([np.histogram(a, 12, (0.0, np.pi))[0] / a.size for a in angles])
        reference = reference or {**seen, "torsions": counts}
        for quantity, values in seen.items():
            base = reference[quantity]
            if quantity.endswith("length"):
                figures[f"{name}_{quantity}_change_milliangstrom"] = float(values.mean() - base.mean())
                figures[f"{name}_{quantity}_change_standard_error_milliangstrom"] = apart(values, base)
            else:
                figures[f"{name}_{quantity}_ratio"] = float(values.mean() / base.mean())
                figures[f"{name}_{quantity}_ratio_standard_error"] = apart(values, base) / float(base.mean())
        gap = np.abs(counts.mean(axis=0) - reference["torsions"].mean(axis=0)).sum() / 2.0
        noise = np.hypot(*(c.std(axis=0, ddof=1) / np.sqrt(len(c)) for c in (counts, reference["torsions"])))
        figures[f"{name}_torsion_histogram_distance"] = float(gap)
        figures[f"{name}_torsion_histogram_distance_of_chance"] = float(noise.sum() / 2.0 * np.sqrt(2.0 / np.pi))
    return figures


def apart(one: FloatArray, other: FloatArray) -> float:
    """Standard error of the difference of two means."""
    return float(np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)))


def canonical(forcefield: ForceField, start: Molecule, picoseconds: float) -> Figures:
    """Kinetic-energy distribution at 300 K, ensemble check against 320 K, and both with a wrong count."""
    figures: Figures = {}
    for thermostat in THERMOSTATS:
        runs = [nvt(forcefield, start, picoseconds, thermostat, t) for t in (300.0, 320.0)]
        figures.update(judged(f"nvt_{thermostat}", runs))
    with one_too_many():
        runs = [nvt(forcefield, start, picoseconds, "nose-hoover", t) for t in (300.0, 320.0)]
    figures.update(judged("nvt_nose-hoover_one_degree_of_freedom_too_many", runs))
    return figures


def nvt(forcefield: ForceField, start: Molecule, picoseconds: float, thermostat: str, temperature: float) -> Trajectory:
    config = MDConfig(
        steps=round(2000.0 * picoseconds), temperature=temperature, thermostat=thermostat, report_every=10,
        seed=round(temperature),
    )  # fmt: skip
    return run_nvt(forcefield, start, config)


def judged(name: str, runs: list[Trajectory]) -> Figures:
    """What physical_validation says; the first tenth of every run is left out."""
    data = [simulation_data(run, t) for run, t in zip(runs, (300.0, 320.0), strict=True)]
    kinetic = validation.kinetic_energy.distribution(data[0], strict=True, verbosity=0)
    mean, width = validation.kinetic_energy.distribution(data[0], strict=False, verbosity=0)
    (deviation,) = validation.ensemble.check(*data, total_energy=True, verbosity=0)
    (potential,) = validation.ensemble.check(*data, total_energy=False, verbosity=0)
    average = block_average(runs[0].temperature[len(runs[0]) // 10 :])
    return {
        f"{name}_temperature_k": average.mean,
        f"{name}_temperature_standard_error_k": average.standard_error,
        f"{name}_kinetic_energy_p_value": float(kinetic),
        f"{name}_kinetic_energy_mean_off_by_standard_errors": float(mean),
        f"{name}_kinetic_energy_width_off_by_standard_errors": float(width),
        f"{name}_ensemble_total_energy_off_by_standard_errors": float(deviation),
        f"{name}_ensemble_potential_energy_off_by_standard_errors": float(potential),
    }


def simulation_data(run: Trajectory, temperature: float) -> Any:
    n, kept = run.molecule.n_atoms, slice(len(run) // 10, None)
    units = validation.data.UnitData(
        kb=BOLTZMANN * KJ_MOL, energy_str="kJ/mol", energy_conversion=1.0, length_str="nm", length_conversion=1.0,
        volume_str="nm^3", volume_conversion=1.0, temperature_str="K", temperature_conversion=1.0, pressure_str="bar",
        pressure_conversion=1.0, time_str="ps", time_conversion=1.0,
    )  # fmt: skip
    return validation.data.SimulationData(
        units=units,
        ensemble=validation.data.EnsembleData("NVT", natoms=n, volume=1.0, temperature=temperature),
        observables=validation.data.ObservableData(
            kinetic_energy=run.kinetic[kept] * KJ_MOL,
            potential_energy=(run.potential[kept] - run.potential[0]) * KJ_MOL,
            total_energy=(run.kinetic[kept] + run.potential[kept] - run.potential[0]) * KJ_MOL,
        ),
        system=validation.data.SystemData(natoms=n, nconstraints=0, ndof_reduction_tra=3, ndof_reduction_rot=3),
    )


@contextmanager
def one_too_many() -> Iterator[None]:
    """Let the thermostat count 3N - 5."""
    right = mechanics.degrees_of_freedom
    mechanics.degrees_of_freedom = lambda n_atoms: right(n_atoms) + 1
    try:
        yield
    finally:
        mechanics.degrees_of_freedom = right


class Springs(NamedTuple):
    """Pairs ``(p, 2)``, constants (hartree/bohr^2) and lengths (bohr), each ``(p,)``."""

    pairs: IntArray
    constants: FloatArray
    lengths: FloatArray


@njit
def springs(positions, arrays):  # type: ignore[no-untyped-def]
    """Sum of k/2 (r - r0)^2."""
    energy, forces = 0.0, np.zeros_like(positions)
    for p in range(arrays.pairs.shape[0]):
        i, j = arrays.pairs[p, 0], arrays.pairs[p, 1]
        d = positions[i] - positions[j]
        r = np.sqrt((d * d).sum())
        stretch = r - arrays.lengths[p]
        energy += 0.5 * arrays.constants[p] * stretch**2
        forces[i] -= arrays.constants[p] * stretch / r * d
        forces[j] += arrays.constants[p] * stretch / r * d
    return energy, forces


def harmonic() -> Figures:
    """A pyramid N, H, H, H of six springs with six different constants, at 20 K, where it is harmonic."""
    ring = [(1.77 * np.cos(t), 1.77 * np.sin(t), 0.72) for t in 2.0 * np.pi / 3.0 * np.arange(3)]
    molecule = Molecule(("N", "H", "H", "H"), np.array([(0.0, 0.0, 0.0), *ring]), name="springs")
    pairs = np.array([(i, j) for i in range(4) for j in range(i + 1, 4)])
    lengths = np.linalg.norm(molecule.positions[pairs[:, 0]] - molecule.positions[pairs[:, 1]], axis=1)
    arrays = Springs(pairs, np.array([0.44, 0.36, 0.30, 0.07, 0.05, 0.035]), lengths)
    potential, temperature = CompiledPotential(molecule, springs, arrays), 20.0
    modes = normal_modes(potential)
    figures: Figures = {"harmonic_modes_wavenumber": " ".join(f"{mode:.1f}" for mode in modes)}
    settings = (
        ("nose-hoover", "nose-hoover", None), ("nose-hoover_5fs", "nose-hoover", 5.0),
        ("velocity-rescaling", "velocity-rescaling", None), ("langevin", "langevin", 500.0),
    )  # fmt: skip
    for name, thermostat, relaxation in settings:
        # One chain on a harmonic molecule hardly moves energy from one mode to another, unless it is as fast as they
        # are: what is canonical is the ensemble of runs, and their spread is the error.
        rows, spectra = [], []
        for replica in range(20):
            config = MDConfig(
                steps=50_000, temperature=temperature, timestep=0.25, thermostat=thermostat, report_every=8, seed=3,
                relaxation_time=relaxation,
            )  # fmt: skip
            run = run_nvt(potential, molecule, config, replica=replica)
            first = len(run) // 5
            reduced = run.potential[first:] / (BOLTZMANN * temperature)
            rows.append((reduced.mean(), ((reduced - 3.0) ** 2).mean()))
            spectra.append(
                power_spectrum(run.positions[first:], 2.0, np.array(molecule.masses), temperature, resolution=5.0)
            )
        for moment, column in zip(("mean", "variance"), np.array(rows).T, strict=True):
            error = column.std(ddof=1) / np.sqrt(len(column))
            figures[f"harmonic_{name}_potential_{moment}_kt"] = float(column.mean())
            figures[f"harmonic_{name}_potential_{moment}_off_by_standard_errors"] = float(column.mean() - 3.0) / error
        wavenumbers, density = spectra[0].wavenumbers, np.mean([s.density for s in spectra], axis=0)
        centres = []
        # velocity Verlet of step h turns w into (2/h) arcsin(w h/2)
        step = 0.25 / FEMTOSECOND / WAVENUMBER
        for mode in 2.0 / step * np.arcsin(0.5 * step * modes):
            near = np.abs(wavenumbers - mode) < 25.0
            centres.append(float(np.average(wavenumbers[near], weights=density[near])) - mode)
        areas = np.array([[s.area(mode - 85.0, mode + 85.0) for mode in modes] for s in spectra])
        errors = areas.std(axis=0, ddof=1) / np.sqrt(len(areas))
        figures[f"harmonic_{name}_frequency_off_verlet_largest_wavenumber"] = float(np.abs(centres).max())
        figures[f"harmonic_{name}_area_of_each_mode"] = " ".join(f"{area:.2f}" for area in areas.mean(axis=0))
        figures[f"harmonic_{name}_area_standard_errors"] = " ".join(f"{error:.2f}" for error in errors)
    return figures


def normal_modes(potential: CompiledPotential) -> FloatArray:
    """Wavenumbers of the vibrations, from the Hessian by finite differences."""
    positions = np.array(potential.molecule.positions)
    n = positions.size
    hessian = np.empty((n, n))
    for k in range(n):
        step = np.zeros(n)
        step[k] = 1e-4
        plus, minus = (
            potential.force_function(positions + sign * step.reshape(-1, 3), potential.arrays)[1].ravel()
            for sign in (1, -1)
        )
        hessian[k] = (minus - plus) / 2e-4
    root = np.repeat(np.sqrt(potential.molecule.masses), 3)
    return np.asarray(np.sqrt(np.linalg.eigvalsh(0.5 * (hessian + hessian.T) / np.outer(root, root))[6:]) * WAVENUMBER)


def reversal(forcefield: ForceField, start: Molecule) -> Figures:
    """1000 steps of NVE, velocities reversed, 1000 steps."""
    config = MDConfig(steps=1, timestep=0.5, thermostat="none", temperature=600.0)
    potential = CompiledPotential.of(forcefield)
    engine = Engine.at_start(potential, start, config, 1)
    state = engine.state
    engine.advance(0, 1000)
    moved = float(np.abs(state.positions[0] - start.positions).max() * ANGSTROM)
    state.velocities[:] *= -1.0
    engine.advance(1000, 1000)
    back = float(np.abs(state.positions[0] - start.positions).max() * ANGSTROM)
    return {"reversal_moved_angstrom": moved, "reversal_error_angstrom": back}


def resident_mb() -> float:
    """Resident memory of this process in megabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024.0
    raise RuntimeError("no VmRSS in /proc/self/status")


def memory(forcefield: ForceField, start: Molecule, minutes: float) -> Figures:
    """Resident memory in the course of a run that writes its files, with guards on features and deviations."""
    from fflux_py.dynamics import GuardConfig

    guards = GuardConfig(features="save", deviation="warn", every=100)
    config = MDConfig(steps=10**9, report_every=8, checkpoint_every=2000, guards=guards, temperature=500.0)
    begin = time.perf_counter()
    seen: list[tuple[float, float, int]] = []

    class Enough(Exception):
        pass

    def look(done: int, total: int) -> None:
        elapsed = time.perf_counter() - begin
        if not seen or elapsed - seen[-1][0] > min(5.0, 6.0 * minutes / 10.0):
            seen.append((elapsed, resident_mb(), done))
        if elapsed > 60.0 * minutes:
            raise Enough

    with TemporaryDirectory() as folder:
        run_nvt(forcefield, start, replace(config, steps=200), Path(folder) / "compiled")
        try:
            run_nvt(forcefield, start, config, Path(folder) / "run", look)
        except Enough:
            pass
        written = sum(path.stat().st_size for path in (Path(folder) / "run").iterdir()) / 2**20
    after_first = [mb for elapsed, mb, _ in seen if elapsed > min(60.0, 60.0 * minutes / 5.0)]
    return {
        "memory_run_minutes": seen[-1][0] / 60.0,
        "memory_run_steps": seen[-1][2],
        "memory_files_mb": written,
        "memory_resident_mb": after_first[-1],
        "memory_growth_after_first_minute_mb": after_first[-1] - after_first[0],
        "memory_spread_after_first_minute_mb": max(after_first) - min(after_first),
    }


if __name__ == "__main__":
    main()

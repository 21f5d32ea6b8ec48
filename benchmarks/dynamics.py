"""Molecular dynamics: is it canonical, does it conserve, can it be reversed, does it stay in memory.

    python benchmarks/dynamics.py training_data/malondialdehyde/model.npz [--rows conservation,canonical,...]

Rows: conservation (NVE at 0.25, 0.5 and 1 fs, and with heavier hydrogen), canonical (physical_validation at 300 and
320 K, every thermostat, and with one degree of freedom too many), harmonic (a molecule of springs: normal modes, mean
and variance of the potential energy), reversal (1000 steps there and back), memory (resident memory of a run).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import physical_validation as validation
from _shared import FOLDER, parser, show
from numba import njit

from fflux_py import model_file
from fflux_py.analysis.spectrum import power_spectrum
from fflux_py.analysis.statistics import block_average, linear_drift
from fflux_py.dynamics import CompiledPotential, MDConfig, Trajectory, mechanics, run_nvt
from fflux_py.dynamics._engine import Engine, initial_state, system_of
from fflux_py.extended_xyz import read_molecule
from fflux_py.forcefield import ForceField
from fflux_py.molecule import Molecule
from fflux_py.potential import FloatArray, IntArray
from fflux_py.units import ANGSTROM, BOLTZMANN, FEMTOSECOND, KCAL_MOL, KJ_MOL, WAVENUMBER

ROWS = ("conservation", "canonical", "harmonic", "reversal", "memory")
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
        "canonical": lambda: canonical(forcefield, start, chosen.picoseconds),
        "harmonic": harmonic,
        "reversal": lambda: reversal(forcefield, start),
        "memory": lambda: memory(forcefield, start, chosen.memory_minutes),
    }
    figures: Figures = {}
    for row in chosen.rows.split(","):
        part = rows[row]()
        figures.update(part)
        if not chosen.json:
            show(part, False)
    if chosen.json:
        show(figures, True)


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
    # from one start and over 100 fs, while all trajectories are still the same: this is the order of the integrator
    order = [short_fluctuation(forcefield, start, timestep) for timestep in (0.25, 0.5, 1.0)]
    figures["nve_same_path_fluctuation_ratio_0.5_to_0.25fs"] = order[1] / order[0]
    figures["nve_same_path_fluctuation_ratio_1_to_0.5fs"] = order[2] / order[1]
    return figures


def short_fluctuation(forcefield: ForceField, start: Molecule, timestep: float) -> float:
    config = MDConfig(
        steps=round(100.0 / timestep), timestep=timestep, thermostat="none", temperature=600.0, exact_temperature=True,
        report_every=round(1.0 / timestep), seed=1,
    )  # fmt: skip
    return float(run_nvt(forcefield, start, config).conserved.std())


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
    for thermostat in THERMOSTATS:
        # One chain on a harmonic molecule hardly moves energy from one mode to another: what is canonical is the
        # ensemble of runs, and their spread is the error.
        rows, spectra = [], []
        for replica in range(20):
            config = MDConfig(
                steps=50_000, temperature=temperature, timestep=0.25, thermostat=thermostat, report_every=8, seed=3,
                relaxation_time=500.0 if thermostat == "langevin" else None,
            )  # fmt: skip
            run = run_nvt(potential, molecule, config, replica=replica)
            first = len(run) // 5
            reduced = run.potential[first:] / (BOLTZMANN * temperature)
            rows.append((reduced.mean(), ((reduced - 3.0) ** 2).mean()))
            spectra.append(
                power_spectrum(run.positions[first:], 2.0, np.array(molecule.masses), temperature, resolution=5.0)
            )
        for name, column in zip(("mean", "variance"), np.array(rows).T, strict=True):
            error = column.std(ddof=1) / np.sqrt(len(column))
            figures[f"harmonic_{thermostat}_potential_{name}_kt"] = float(column.mean())
            figures[f"harmonic_{thermostat}_potential_{name}_off_by_standard_errors"] = (
                float(column.mean() - 3.0) / error
            )
        wavenumbers, density = spectra[0].wavenumbers, np.mean([s.density for s in spectra], axis=0)
        centres = []
        # velocity Verlet of step h turns w into (2/h) arcsin(w h/2)
        step = 0.25 / FEMTOSECOND / WAVENUMBER
        for mode in 2.0 / step * np.arcsin(0.5 * step * modes):
            near = np.abs(wavenumbers - mode) < 25.0
            centres.append(float(np.average(wavenumbers[near], weights=density[near])) - mode)
        areas = np.array([[s.area(mode - 85.0, mode + 85.0) for mode in modes] for s in spectra])
        errors = areas.std(axis=0, ddof=1) / np.sqrt(len(areas))
        figures[f"harmonic_{thermostat}_frequency_off_verlet_largest_wavenumber"] = float(np.abs(centres).max())
        figures[f"harmonic_{thermostat}_area_of_each_mode"] = " ".join(f"{area:.2f}" for area in areas.mean(axis=0))
        figures[f"harmonic_{thermostat}_area_standard_errors"] = " ".join(f"{error:.2f}" for error in errors)
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
            potential.kernel(positions + sign * step.reshape(-1, 3), potential.arrays)[1].ravel() for sign in (1, -1)
        )
        hessian[k] = (minus - plus) / 2e-4
    root = np.repeat(np.sqrt(potential.molecule.masses), 3)
    return np.asarray(np.sqrt(np.linalg.eigvalsh(0.5 * (hessian + hessian.T) / np.outer(root, root))[6:]) * WAVENUMBER)


def reversal(forcefield: ForceField, start: Molecule) -> Figures:
    """1000 steps of NVE, velocities reversed, 1000 steps."""
    config = MDConfig(steps=1, timestep=0.5, thermostat="none", temperature=600.0)
    potential = CompiledPotential.of(forcefield)
    system = system_of(potential.molecule, config)
    state = initial_state(potential, start, system, config, (0,))
    engine = Engine(potential, system, state, config.timestep / FEMTOSECOND, 1)
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

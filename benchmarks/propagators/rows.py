"""One function for each group of figures."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
from common import TEMPERATURE, Setting, over_seeds
from pictures import spectra_figure, torsion_figure
from reference import (
    REPORT_FS,
    SPECTRUM_PS,
    SPECTRUM_STARTS,
    Shapes,
    canonical_run,
    constant_energy_run,
    constant_energy_temperatures,
    verlet,
)
from scipy.interpolate import CubicSpline
from scipy.signal import find_peaks

from fflux_py.analysis.report.prediction_plots import atom_label
from fflux_py.analysis.spectrum import power_spectrum
from fflux_py.analysis.statistics import linear_drift
from fflux_py.propagators.config import held_out_errors
from fflux_py.propagators.equipartition import EquipartitionMonitor
from fflux_py.propagators.propagator import Propagator
from fflux_py.threads import processor_times
from fflux_py.typing import FloatArray
from fflux_py.units import FEMTOSECOND, KCAL_MOL, WAVENUMBER

Figures = dict[str, object]
VERLET_STEPS = (0.5, 1.0, 1.5, 2.0)
# Of those, what speeds are compared with: half a femtosecond, and the largest whose temperatures are within 3 %.
SPEED_STEPS = (0.5, 1.5)
# Around a band, cm^-1.
WINDOW = 40.0
# Runs side by side.
CHUNK = 4
SYMMETRIC = ("direct", "continuous")


def structure(setting: Setting) -> Figures:
    """Symplecticity and reversal of trained actions; the control is the same network, not made even in the momenta."""
    figures: Figures = {}
    for name, models in setting.of("action"):
        figures[f"{name}_symplectic_norm_of_mtjm_minus_j"] = over_seeds([symplecticity(setting, m) for m in models])
        figures[f"{name}_forward_flip_back_bohr"] = over_seeds([reversal(setting, m) for m in models])
        control = []
        for model in models:
            net = copy.deepcopy(model.net)  # type: ignore[attr-defined]
            net.even = False
            control.append(reversal(setting, type(model)(model.header, net)))  # type: ignore[call-arg]
        figures[f"{name}_symmetry_taken_out_forward_flip_back_bohr"] = over_seeds(control)
    return figures


def symplecticity(setting: Setting, model: Propagator) -> float:
    """Jacobian of whole steps by differences of sixth order, in scaled coordinates."""
    length, unit, root = model.scales()  # type: ignore[attr-defined]
    q, v = setting.starts(1)
    q = q - q.mean(axis=1, keepdims=True)
    z = np.concatenate([(q * root / length).ravel(), (v * root / unit).ravel()])
    size, delta, n = len(z), 1e-2, q.shape[1]

    def moved(rows: FloatArray) -> FloatArray:
        half = size // 2
        a, b = rows[:, :half].reshape(-1, n, 3) * length / root, rows[:, half:].reshape(-1, n, 3) * unit / root
        a, b = model.advance(a, b, model.header.step)
        return np.concatenate([(a * root / length).reshape(len(a), -1), (b * root / unit).reshape(len(b), -1)], axis=1)

    jacobian = np.zeros((size, size))
    for k, weight in ((1, 0.75), (2, -0.15), (3, 1.0 / 60.0)):
        shift = k * delta * np.eye(size)
        jacobian += weight * (moved(z + shift) - moved(z - shift)).T / delta
    form = np.kron(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.eye(size // 2))
    return float(np.linalg.norm(jacobian.T @ form @ jacobian - form))


def reversal(setting: Setting, model: Propagator, steps: int = 10) -> float:
    start, v = setting.starts(4)
    q = start
    for _ in range(steps):
        q, v = model.advance(q, v, model.header.step)
    v = -v
    for _ in range(steps):
        q, v = model.advance(q, v, model.header.step)
    return float(np.abs(q - start).max())


def momenta_of(setting: Setting, q: FloatArray, v: FloatArray) -> FloatArray:
    masses = setting.data.masses
    centre = np.einsum("i,...ic->...c", masses, q)[..., None, :] / masses.sum()
    turning = np.einsum("i,...ic->...c", masses, np.cross(q - centre, v))
    return np.concatenate([np.einsum("i,...ic->...c", masses, v), turning], axis=-1)


def momenta(setting: Setting) -> Figures:
    """Largest momentum and angular momentum over 10 ps, from starts at rest as a whole."""
    figures: Figures = {}
    for name, models in setting.of("action"):

        def largest(model: Propagator) -> float | str:
            run = setting.run(model, "nve", min(10.0, setting.picoseconds), 30.0, replicas=2)
            return (
                run if isinstance(run, str) else float(np.abs(momenta_of(setting, run.positions, run.velocities)).max())
            )

        figures[f"{name}_momenta_over_10ps_atomic_units"] = over_seeds([largest(model) for model in models])
    return figures


def symmetry(setting: Setting) -> Figures:
    """Random rotations and mirror images; momenta of one step, with a start that moves and turns."""
    figures: Figures = {}
    for name, models in setting.of(*SYMMETRIC):

        def rotated(model: Propagator) -> float:
            q, v = setting.starts(8)
            step, worst, generator = model.header.step, 0.0, np.random.default_rng(0)
            a, b = model.advance(q, v, step)
            for _ in range(4):
                turn = np.linalg.qr(generator.standard_normal((3, 3)))[0]
                c, d = model.advance(q @ turn.T, v @ turn.T, step)
                worst = max(worst, float(np.abs(a @ turn.T - c).max() / np.abs(a - q).max()),
                            float(np.abs(b @ turn.T - d).max() / np.abs(b).max()))  # fmt: skip
            return worst

        def kept(model: Propagator) -> float:
            q, v = setting.starts(8)
            v = v + 1e-4 * np.random.default_rng(1).standard_normal(v.shape)
            after = model.advance(q, v, model.header.step)
            return float(np.abs(momenta_of(setting, *after) - momenta_of(setting, q, v)).max())

        figures[f"{name}_equivariance_relative"] = over_seeds([rotated(model) for model in models])
        figures[f"{name}_momenta_change_atomic_units"] = over_seeds([kept(model) for model in models])
    return figures


def errors(setting: Setting) -> Figures:
    """One step on the test trajectories."""
    figures: Figures = {}
    for name, models in setting.of("direct", "continuous", "action"):
        found = [held_out_errors(model, setting.data) for model in models]
        for key in found[0]:
            figures[f"{name}_{key}"] = over_seeds([f[key] for f in found])
    return figures


def parts(setting: Setting) -> Figures:
    """Relative errors of velocity of one step on the test trajectories: least squares, perceptron, network."""
    figures: Figures = {}
    for name, models in setting.of(*SYMMETRIC):
        found: dict[str, list[float | str]] = {}
        for model in models:
            net = copy.deepcopy(model.net)  # type: ignore[attr-defined]
            found.setdefault("whole", []).append(held_out_errors(model, setting.data)["velocity_relative"])
            net.layers = 0
            reduced = type(model)(model.header, net)  # type: ignore[call-arg]
            for part in ("polynomial_and_perceptron", "polynomial"):
                if part == "polynomial":
                    net.response.perceptron = None
                found.setdefault(part, []).append(held_out_errors(reduced, setting.data)["velocity_relative"])
        for part, errors_found in found.items():
            figures[f"{name}_{part}_velocity_relative"] = over_seeds(errors_found)
    return figures


def temperatures(setting: Setting) -> Figures:
    """Temperature of elements and of modes: thermostatted predictors, actions at constant energy.

    At constant energy each run has a temperature of its own, that of its start: elements are compared with the mean of
    all atoms, and every seed has other starts.
    """
    figures: Figures = {}
    for name, models in setting.of("direct", "continuous", "action"):
        ensemble = "nve" if models[0].header.kind == "action" else "langevin"
        by_part: dict[str, list[float | str]] = {}
        for k, model in enumerate(models):
            if ensemble == "nve":
                monitor = EquipartitionMonitor(setting.data.molecule, setting.data.masses, setting.modes)
                first = k * setting.replicas
                run = setting.run(model, ensemble, setting.picoseconds, REPORT_FS, monitor=monitor, first=first)
            else:
                run, monitor = setting.canonical(model)
            if isinstance(run, str):
                by_part.setdefault("all", []).append(run)
                continue
            found = monitor.temperatures()
            if ensemble == "nve":
                for element, ratio in over_mean(found, setting).items():
                    by_part.setdefault(f"{element} over mean, percent", []).append(ratio)
            for part, (mean, error) in found.items():
                by_part.setdefault(f"{part}, k", []).append(mean)
                by_part.setdefault(f"{part}, error over replicas, k", []).append(error)
        for part, values in by_part.items():
            figures[f"{name}_{ensemble}_{setting.picoseconds:g}ps_temperature_{part}"] = over_seeds(values)
    return figures


def over_mean(found: Mapping[str, tuple[float, float]], setting: Setting) -> dict[str, float]:
    """Temperatures of elements in percent of that of all atoms."""
    symbols = setting.data.molecule.symbols
    whole = sum(found[symbol][0] for symbol in symbols) / len(symbols)
    return {element: 100.0 * found[element][0] / whole for element in dict.fromkeys(symbols)}


def verlet_steps(setting: Setting) -> Figures:
    """How long a step of velocity Verlet can be: temperatures of elements over the mean at constant energy."""
    figures: Figures = {}
    for timestep in VERLET_STEPS:
        for element, ratio in over_mean(constant_energy_temperatures(setting, timestep), setting).items():
            name = f"verlet_{timestep:g}fs_nve_{setting.picoseconds:g}ps_temperature_{element} over mean, percent"
            figures[name] = ratio
    return figures


def drift(setting: Setting) -> Figures:
    """Energy in NVE, no correction: slope over the run, and the largest excursion."""
    figures: Figures = {}
    for name, models in setting.of("direct", "continuous", "action"):
        runs = [setting.run(m, "nve", setting.picoseconds, 20.0, with_energy=True, replicas=4) for m in models]

        slopes: list[float | str] = []
        excursions: list[float | str] = []
        for run in runs:
            if isinstance(run, str):
                slopes.append(run)
                excursions.append(run)
                continue
            total = (run.kinetic + run.potential) * KCAL_MOL
            lines = [linear_drift(run.times_fs / 1000.0, total[:, r]) for r in range(total.shape[1])]
            slopes.append(float(np.mean([abs(line.slope) for line in lines])))
            excursions.append(float(np.abs(total - total[0]).max()))
        figures[f"{name}_nve_{setting.picoseconds:g}ps_drift_kcal_mol_ps"] = over_seeds(slopes)
        figures[f"{name}_nve_{setting.picoseconds:g}ps_largest_excursion_kcal_mol"] = over_seeds(excursions)
    return figures


def distributions(setting: Setting) -> Figures:
    """Bonds, angles and torsions against Verlet: Jensen-Shannon distances, and free energies along the torsions.

    All under Langevin dynamics, an action too: at constant energy so few runs are no canonical ensemble.
    """
    shapes = Shapes.of(setting.forcefield.molecule)
    ours, again = (canonical_run(setting, seed) for seed in (1, 2))
    figures: Figures = {}
    for part, (distance, free) in shapes.compared(ours, again).items():
        figures[f"verlet_again_{part}_jensen_shannon"] = distance
        if free is not None:
            figures[f"verlet_again_{part}_free_energy_kcal_mol"] = free
    drawn = {"Verlet": ours, "Verlet again": again}
    for name, models in setting.of("direct", "continuous", "action"):
        runs = [setting.canonical(model)[0] for model in models]
        frames = [r if isinstance(r, str) else r.positions.reshape(-1, *ours.shape[1:]) for r in runs]
        found = [f if isinstance(f, str) else shapes.compared(ours, f) for f in frames]
        whole = [f for f in frames if not isinstance(f, str)]
        if whole:
            drawn[name] = whole[0]
        for part in shapes.parts:
            distances = [f if isinstance(f, str) else f[part][0] for f in found]
            figures[f"{name}_langevin_{part}_jensen_shannon"] = over_seeds(distances)
        free = [f if isinstance(f, str) else float(f["torsions"][1] or 0.0) for f in found]
        figures[f"{name}_langevin_torsions_free_energy_kcal_mol"] = over_seeds(free)
    widest, values = shapes.widest_torsion(drawn)
    label = atom_label(setting.data.molecule, *widest)
    setting.draw("torsion", torsion_figure(values, label))
    return figures


def spectrum(setting: Setting) -> Figures:
    """Shifts of the bands of the power spectrum against Verlet at 0.25 fs, all at constant energy from the same starts.

    Runs are many and short, since a predictor comes apart in long ones; a continuous one gives a frame every 2.5 fs and
    has its energy corrected.  Where one run of a few side by side does not end, all of them are left out, of Verlet
    too: runs of other energies have other bands.  Verlet from other starts tells what chance does.
    """
    reference, reference_interval = constant_energy_run(setting)
    wanted = mean_spectrum(setting, reference, reference_interval)
    again = mean_spectrum(setting, *constant_energy_run(setting, SPECTRUM_STARTS))
    bands = _bands(wanted)
    drawn = {"Verlet, 0.25 fs": wanted, "Verlet, other starts": again}
    figures: Figures = {
        "verlet_bands_wavenumber": " ".join(f"{band:.0f}" for band in bands),
        "verlet_other_starts_shifts_wavenumber": _told(_shifts(bands, wanted, again)),
    }
    for name, models in setting.of("action", "continuous"):
        found, lost = [], []
        for model in models:
            predictor = model.header.kind == "continuous"
            every = 2.5 if predictor else model.header.step
            runs = {
                first: setting.run(
                    model, "nve", SPECTRUM_PS, every, replicas=CHUNK, correct_energy=predictor, first=first
                )
                for first in range(0, SPECTRUM_STARTS, CHUNK)
            }
            whole = {first: run for first, run in runs.items() if not isinstance(run, str)}
            lost.append(1.0 - len(whole) / len(runs))
            if not whole:
                continue
            same = np.concatenate([np.arange(first, first + CHUNK) for first in whole])
            frames = np.concatenate([run.positions for run in whole.values()], axis=1)
            own = mean_spectrum(setting, frames, float(next(iter(whole.values())).times_fs[1]))
            theirs = mean_spectrum(setting, reference[:, same], reference_interval)
            drawn.setdefault(name, own)
            found.append(_shifts(bands[bands < own.x[-1] - 2.0 * WINDOW], theirs, own))
        if found:
            figures[f"{name}_shifts_wavenumber"] = _told(np.mean(found, axis=0))
            figures[f"{name}_largest_shift_wavenumber"] = over_seeds([float(np.abs(f).max()) for f in found])
        figures[f"{name}_share_of_runs_left_out"] = over_seeds(lost)
    setting.draw("spectrum", spectra_figure(drawn, bands))
    return figures


def mean_spectrum(setting: Setting, frames: FloatArray, interval: float) -> CubicSpline:
    """Mean over runs of frames ``(m, r, n, 3)``, by wavenumber."""
    resolution = 2.0 * np.pi * WAVENUMBER * FEMTOSECOND / (1000.0 * SPECTRUM_PS)
    parts = [
        power_spectrum(frames[:, r], interval, setting.data.masses, TEMPERATURE, resolution)
        for r in range(frames.shape[1])
    ]
    return CubicSpline(parts[0].wavenumbers, np.mean([part.density for part in parts], axis=0))


def _bands(spectrum: CubicSpline) -> FloatArray:
    """Local maxima above 300 cm^-1 that stand out from both sides by a twentieth of the highest, whole wavenumbers."""
    grid = np.arange(300.0, 3500.0)
    density = spectrum(grid)
    return np.asarray(grid[find_peaks(density, prominence=0.05 * density.max())[0]])


def _shifts(bands: FloatArray, wanted: CubicSpline, found: CubicSpline) -> FloatArray:
    """By how much a spectrum has to be moved, so that it looks most like the other one around each band."""
    window = np.arange(-WINDOW, WINDOW + 1.0)  # that is compared, and that it is moved by
    return np.array([
        window[np.argmax([np.corrcoef(wanted(band + window), found(band + window + s))[0, 1] for s in window])]
        for band in bands
    ])  # fmt: skip


def _told(shifts: FloatArray) -> str:
    return " ".join(f"{s:+.0f}" for s in shifts)


def speed(setting: Setting) -> Figures:
    """Nanoseconds a day of processor time of one thread, alternating with a step of Verlet in one process."""
    figures: Figures = {}
    verlets = {n: verlet(setting, n)[0] for n in (1, 64)}
    for name, models in setting.of("direct", "continuous", "action"):
        model = models[0]
        step = model.header.step
        for replicas, engine in verlets.items():
            q, v = setting.starts(replicas)
            for _ in range(2):  # compiles, and an action finds its first inverse Jacobian
                model.advance(q, v, step)
                engine.advance(0, 2)
            own, its = processor_times(
                lambda q=q, v=v, model=model: model.advance(q, v, model.header.step),  # type: ignore[misc]
                lambda engine=engine: engine.advance(0, 10),  # type: ignore[misc]
                seconds=1.0,
            )
            days = 86400.0e-6 * replicas
            figures[f"{name}_{replicas}_replicas_ns_per_day"] = days * step / own
            for timestep in SPEED_STEPS:
                per_day = days * timestep / (its / 10.0)
                figures[f"verlet_{timestep:g}fs_{replicas}_replicas_ns_per_day"] = per_day
                figures[f"{name}_{replicas}_replicas_over_verlet_{timestep:g}fs"] = days * step / own / per_day
    return figures

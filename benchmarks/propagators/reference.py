"""Our own Verlet runs, and shapes of molecules compared with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from common import TEMPERATURE, Setting
from scipy.spatial.distance import jensenshannon

from fflux_py.analysis.geometry import angles, bond_lengths, torsions
from fflux_py.dynamics import CompiledPotential, MDConfig, run_replicas
from fflux_py.dynamics._integrator import State
from fflux_py.dynamics.engine import Engine, initial_state, system_of
from fflux_py.molecules.molecule import Molecule, Torsion
from fflux_py.propagators.equipartition import EquipartitionMonitor
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, KCAL_MOL

BINS = 40
# Femtosecond between two frames that temperatures are averages of.
REPORT_FS = 100.0
# A spectrum is made of so many runs of so many picoseconds.
SPECTRUM_STARTS, SPECTRUM_PS = 64, 2.0


def canonical_run(setting: Setting, seed: int) -> FloatArray:
    """Frames of Langevin dynamics with BAOAB at 0.5 fs, as long as the others and as many; shape ``(m, n, 3)``."""
    config = MDConfig(
        steps=round(2000.0 * setting.picoseconds), timestep=0.5, thermostat="langevin", temperature=TEMPERATURE,
        report_every=20, replicas=setting.replicas, seed=seed,
    )  # fmt: skip
    runs = run_replicas(setting.forcefield, setting.forcefield.molecule, config)
    first = min(len(runs[0]) // 4, 100)  # a picosecond from the minimum to equilibrium
    return np.concatenate([run.positions[first:] for run in runs])


def constant_energy_run(setting: Setting, first: int = 0) -> tuple[FloatArray, float]:
    """Frames ``(m, starts, n, 3)`` every 2 fs of short runs of Verlet at 0.25 fs."""
    engine, state = verlet(setting, SPECTRUM_STARTS, first=first)
    frames = [state.positions.copy()]
    for k in range(round(500.0 * SPECTRUM_PS)):
        engine.advance(8 * k, 8)
        frames.append(state.positions.copy())
    return np.array(frames), 2.0


def constant_energy_temperatures(setting: Setting, timestep: float) -> dict[str, tuple[float, float]]:
    """Temperatures of elements in Verlet from the same starts, as many and as long as the runs of an action."""
    engine, state = verlet(setting, setting.replicas, timestep)
    monitor = EquipartitionMonitor(setting.data.molecule, setting.data.masses)
    steps = round(REPORT_FS / timestep)
    for k in range(round(1000.0 * setting.picoseconds / (steps * timestep))):
        engine.advance(steps * k, steps)
        monitor.add(state.positions, state.velocities)
    return monitor.temperatures()


def verlet(setting: Setting, replicas: int, timestep: float = 0.25, first: int = 0) -> tuple[Engine, State]:
    """Velocity Verlet at constant energy from the starts of all runs, step in femtosecond."""
    potential = CompiledPotential.of(setting.forcefield)
    config = MDConfig(steps=1, timestep=timestep, thermostat="none", temperature=TEMPERATURE)
    system = replace_masses(system_of(potential.molecule, config), setting)
    state = initial_state(potential, setting.forcefield.molecule, system, config, tuple(range(replicas)))
    state.positions[:], state.velocities[:] = setting.starts(replicas, first)
    for r in range(replicas):
        state.potential[r], state.forces[r] = potential.force_function(state.positions[r], potential.arrays)
    return Engine(potential, system, state, 1), state


def replace_masses(system, setting: Setting):  # type: ignore[no-untyped-def]
    """The masses of the trajectories: those of a training with heavy hydrogen are others."""
    return system._replace(masses=np.array(setting.data.masses))


@dataclass(frozen=True)
class Shapes:
    """Internal coordinates of a molecule."""

    bonds: tuple[tuple[int, int], ...]
    triples: tuple[tuple[int, int, int], ...]
    quadruples: tuple[Torsion, ...]
    parts: tuple[str, ...] = ("bonds", "angles", "torsions")

    @classmethod
    def of(cls, molecule: Molecule) -> Shapes:
        around = molecule.neighbours
        triples = [(i, j, k) for j in range(molecule.n_atoms) for i in around[j] for k in around[j] if i < k]
        return cls(molecule.bonds, tuple(triples), molecule.torsions())

    def values(self, frames: FloatArray) -> dict[str, FloatArray]:
        return {"bonds": bond_lengths(frames, self.bonds), "angles": angles(frames, self.triples),
                "torsions": np.mod(torsions(frames, self.quadruples), 2.0 * np.pi)}  # fmt: skip

    def widest_torsion(self, runs: Mapping[str, FloatArray]) -> tuple[Torsion, dict[str, FloatArray]]:
        """The torsion that spreads most in the first of several runs, and its values in all of them."""
        values = {name: torsions(frames, self.quadruples) for name, frames in runs.items()}
        spread = np.abs(np.exp(1j * next(iter(values.values()))).mean(axis=0))
        widest = int(np.argmin(spread))
        return self.quadruples[widest], {name: v[:, widest] for name, v in values.items()}

    def compared(self, ours: FloatArray, theirs: FloatArray) -> dict[str, tuple[float, float | None]]:
        """Largest Jensen-Shannon distance (base 2) of each part, and of the torsions the free energy's RMS error.

        The free energy counts where it is below 2 kT in both, since above it the runs are too short.
        """
        a, b = self.values(ours), self.values(theirs)
        out: dict[str, tuple[float, float | None]] = {}
        for part in self.parts:
            distances, free = [], []
            for x, y in zip(a[part].T, b[part].T, strict=True):
                low, high = (0.0, 2.0 * np.pi) if part == "torsions" else np.percentile(x, [0.1, 99.9])
                edges = np.linspace(low, high, BINS + 1)
                p, q = (np.histogram(np.clip(z, low, high), edges)[0] + 1e-12 for z in (x, y))
                distances.append(float(jensenshannon(p, q, base=2)))
                p, q = (np.log(h / h.max()) for h in (p, q))
                both = (p > -2.0) & (q > -2.0)
                error = (p - q)[both] - (p - q)[both].mean()
                free.append(float(np.sqrt((error**2).mean())) * BOLTZMANN * TEMPERATURE * KCAL_MOL)
            out[part] = (max(distances), max(free) if part == "torsions" else None)
        return out

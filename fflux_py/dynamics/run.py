"""Molecular dynamics of one free molecule: the loop in compiled code, Python at the reports only.

A state that can be saved and taken up again is :class:`fflux_py.dynamics._integrator.State` together with the potential
energy and the step: positions, velocities, forces, chain positions and chain velocities are all that the next step
depends on, and the generator is used for the initial velocities only.  A checkpoint stores them at a report; resuming
cuts log and trajectory to that report and enters :func:`_reports` there, which needs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fflux_py import _force_kernels
from fflux_py.dynamics import _integrator as compiled
from fflux_py.dynamics import guards, mechanics
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.guards import GuardTripped
from fflux_py.dynamics.output import RunFolder
from fflux_py.dynamics.trajectory import FINAL_FILE, STOPPED_FILE, Trajectory
from fflux_py.errors import GeometryError
from fflux_py.files import sha256
from fflux_py.forcefield import ForceField
from fflux_py.molecule import Molecule, check_same_molecule
from fflux_py.potential import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, FEMTOSECOND

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CompiledPotential:
    """An energy function that the compiled loop can call.

    Parameters
    ----------
    molecule
        The molecule; the bonds of its geometry and their lengths are the reference of the guards.
    kernel
        Numba function ``(positions, arrays) -> (energy, forces)`` in hartree, bohr: shapes ``(n_atoms, 3)``, ``()``,
        ``(n_atoms, 3)``.
    arrays
        Its parameters, a named tuple of arrays.
    """

    molecule: Molecule
    kernel: Callable[..., Any]
    arrays: Any

    @classmethod
    def of(cls, potential: ForceField | CompiledPotential) -> CompiledPotential:
        """A force field's kernel and arrays."""
        if isinstance(potential, CompiledPotential):
            return potential
        return cls(potential.molecule, _force_kernels.energy_and_forces, potential.kernel_arrays())

    def digest(self) -> str:
        """SHA-256 of elements and arrays: two potentials that give the same forces by the same kernel have the same."""
        parts = [" ".join(self.molecule.symbols).encode(), getattr(self.kernel, "__name__", "").encode()]
        parts += [np.ascontiguousarray(array).tobytes() for array in self.arrays]
        return sha256(b"\n".join(parts))


class _Report(NamedTuple):
    """What is known at a report, in atomic units and kelvin."""

    step: int
    potential: float
    kinetic: float
    conserved: float
    temperature: float


def run_nvt(
    forcefield: ForceField | CompiledPotential,
    start: Molecule,
    config: MDConfig,
    folder: Path | None = None,
    progress: Progress | None = None,
    replica: int = 0,
) -> Trajectory:
    """Run one replica by velocity Verlet with a Nose-Hoover chain; NVE with ``config.thermostat == "none"``.

    Momentum and angular momentum are zero; the chain (Martyna et al., Mol. Phys. 87, 1117 (1996)) holds the 3N - 6
    degrees of freedom that remain (:mod:`fflux_py.dynamics.mechanics`).

    Parameters
    ----------
    forcefield
        A force field, or any compiled potential.
    start
        Start geometry; elements, order and charge as in the model.
    config
        The run; its ``replicas`` is for :func:`run_replicas`.
    folder
        Where ``run.json``, ``start.extxyz``, ``thermo.csv``, ``trajectory.dcd`` and ``final.extxyz`` (or
        ``stopped.extxyz``) are written during the run; None writes nothing.
    progress
        Called with (steps done, all steps) at every report.
    replica
        Number of the stream of random numbers.

    Raises
    ------
    GuardTripped
        A bond, a contact or the energy left its limits; exit code 4.
    ModelMismatchError, InputError, GeometryError
        The start is another molecule or distorted beyond the limits; the folder holds another run.
    """
    potential = CompiledPotential.of(forcefield)
    check_same_molecule(potential.molecule, start)
    system = _system(potential.molecule, config)
    state, energy = _initial_state(potential, start, system, config, replica)
    output = None
    if folder is not None:
        output = RunFolder(Path(folder), start, config, replica, _description(potential, system))
    recorder = _Recorder(start, config, replica, output)
    status, done, message = "interrupted", 0, ""
    try:
        for report in _reports(potential, state, system, energy, config):
            done = report.step
            if done % config.report_every == 0:
                recorder.add(report, state.positions)
            if progress is not None:
                progress(done, config.steps)
        status = "completed"
        if output is not None:
            output.write_state(FINAL_FILE, start, state.positions, state.velocities, done)
    except GuardTripped as stop:
        status, done = "stopped", stop.step
        message = str(_finish_stop(stop, start, state, recorder.trajectory(), output))
        raise
    finally:
        if output is not None:
            output.close(status, done, message)
    return recorder.trajectory()


def run_replicas(
    forcefield: ForceField | CompiledPotential,
    start: Molecule,
    config: MDConfig,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Trajectory, ...]:
    """Run ``config.replicas`` replicas one after another.

    One replica writes to ``folder`` itself, several to ``folder/replica-000`` and so on.  A replica that a guard stops
    does not keep the others from running; its error is raised at the end.
    """
    if config.replicas == 1:
        return (run_nvt(forcefield, start, config, folder, progress),)
    finished: list[Trajectory] = []
    stopped: list[tuple[int, GuardTripped]] = []
    total = config.steps * config.replicas
    for r in range(config.replicas):
        before = r * config.steps
        shown = None if progress is None else (lambda done, _, b=before, show=progress: show(b + done, total))
        place = None if folder is None else Path(folder) / f"replica-{r:03d}"
        try:
            finished.append(run_nvt(forcefield, start, config, place, shown, r))
        except GuardTripped as stop:
            stopped.append((r, stop))
    if stopped:
        number, first = stopped[0]
        first.args = (f"replica {number} ({len(stopped)} of {config.replicas} stopped): {first.args[0]}",)
        raise first
    return tuple(finished)


def _system(reference: Molecule, config: MDConfig) -> compiled.System:
    """Masses, thermostat and limits in atomic units."""
    freedom = mechanics.degrees_of_freedom(reference.n_atoms)
    thermal = BOLTZMANN * config.temperature
    length = config.chain_length if config.thermostat != "none" else 0
    chain = np.full(length, thermal * (config.relaxation_time / FEMTOSECOND) ** 2)
    chain[:1] *= freedom
    bonds, lengths = guards.bond_limits(reference)
    return compiled.System(
        masses=np.array(reference.masses),
        chain_masses=chain,
        weights=compiled.suzuki_yoshida_weights(config.suzuki_yoshida_order),
        thermal_energy=thermal,
        degrees_of_freedom=freedom,
        bonds=bonds,
        bond_minima=guards.SHORTEST * lengths,
        bond_maxima=guards.LONGEST * lengths,
        contact=guards.CONTACT,
    )


def _initial_state(
    potential: CompiledPotential, start: Molecule, system: compiled.System, config: MDConfig, replica: int
) -> tuple[compiled.State, float]:
    """Start geometry with random velocities, thermostat at rest; and the potential energy."""
    positions = np.array(start.positions)
    outcome = compiled.Outcome(0, 0.0, 0.0, *compiled.check_geometry(positions, system))
    if outcome.code != compiled.COMPLETED:
        trip = guards.describe(outcome, system, start, 0.0, 0)
        where = trip.where.replace("step 0 (0 fs)", "start geometry")
        raise GeometryError(where, trip.expected, trip.found, "start from a geometry of the model's molecule")
    energy, forces = potential.kernel(positions, potential.arrays)
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise GeometryError("start geometry", "finite energy and forces", "NaN or infinity", "is a frame of it linear?")
    generator = mechanics.random_stream(config.seed, replica)
    velocities = mechanics.maxwell_boltzmann(
        positions, system.masses, config.temperature, generator, config.exact_temperature
    )
    length = len(system.chain_masses)
    state = compiled.State(positions, velocities, np.array(forces), np.zeros(length), np.zeros(length))
    return state, float(energy)


def _reports(
    potential: CompiledPotential, state: compiled.State, system: compiled.System, energy: float, config: MDConfig
) -> Iterator[_Report]:
    """Advance ``state``; yield at the start, at every report, and at the end."""
    timestep = config.timestep / FEMTOSECOND
    call = compiled.compiled_call(
        compiled.advance, potential.kernel, potential.arrays, state, system, energy, timestep, config.report_every
    )
    freedom = system.degrees_of_freedom

    def report(step: int, potential_energy: float, kinetic: float) -> _Report:
        conserved = potential_energy + kinetic + float(compiled.thermostat_energy(state, system))
        return _Report(step, potential_energy, kinetic, conserved, 2.0 * kinetic / (freedom * BOLTZMANN))

    yield report(0, energy, mechanics.kinetic_energy(state.velocities, system.masses))
    done = 0
    while done < config.steps:
        block = min(config.report_every, config.steps - done)
        outcome = compiled.Outcome(*call(potential.kernel, potential.arrays, state, system, energy, timestep, block))
        done += outcome.steps
        if outcome.code != compiled.COMPLETED:
            raise guards.describe(outcome, system, potential.molecule, done * config.timestep, done)
        energy = outcome.potential
        yield report(done, energy, outcome.kinetic)


class _Recorder:
    """Collects reports in memory and passes them on to the files."""

    def __init__(self, start: Molecule, config: MDConfig, replica: int, output: RunFolder | None) -> None:
        self._start, self._config, self._replica, self._output = start, config, replica, output
        # pages of memory are taken only as reports fill them
        self._positions: FloatArray = np.empty((config.n_reports, start.n_atoms, 3))
        self._table: FloatArray = np.empty((config.n_reports, 5))
        self._n = 0

    def add(self, report: _Report, positions: FloatArray) -> None:
        if self._output is not None:
            step, potential, kinetic, conserved, temperature = report
            self._output.report(step, positions, potential, kinetic, conserved, temperature)
        self._positions[self._n] = positions
        self._table[self._n] = report
        self._n += 1

    def trajectory(self) -> Trajectory:
        step, potential, kinetic, conserved, temperature = self._table[: self._n].T
        return Trajectory(
            molecule=self._start,
            times_fs=step * self._config.timestep,
            positions=self._positions[: self._n],
            potential=potential,
            kinetic=kinetic,
            conserved=conserved,
            temperature=temperature,
            seed=self._config.seed,
            replica=self._replica,
            folder=None if self._output is None else self._output.folder,
        )


def _finish_stop(
    stop: GuardTripped, start: Molecule, state: compiled.State, trajectory: Trajectory, output: RunFolder | None
) -> GuardTripped:
    """Attach frame and trajectory to the error, save the frame and say where."""
    stop.trajectory = trajectory
    if np.isfinite(state.positions).all():
        try:
            stop.frame = start.with_positions(state.positions)
        except GeometryError:
            stop.frame = None
    if stop.frame is not None and output is not None:
        path = output.write_state(STOPPED_FILE, start, state.positions, state.velocities, stop.step)
        stop.args = (f"{stop.args[0]}; the frame is in {path}",)
    return stop


def _description(potential: CompiledPotential, system: compiled.System) -> dict[str, object]:
    """What run.json says about model and limits."""
    names = [guards.label(potential.molecule, int(i), int(j)) for i, j in system.bonds]
    limits = np.round(np.stack([system.bond_minima, system.bond_maxima], axis=1) * ANGSTROM, 6)
    return {
        "model_sha256": potential.digest(),
        "degrees_of_freedom": system.degrees_of_freedom,
        "guards": {
            "bond_limits_angstrom": dict(zip(names, limits.tolist(), strict=True)),
            "contact_angstrom": round(guards.CONTACT * ANGSTROM, 6),
        },
    }

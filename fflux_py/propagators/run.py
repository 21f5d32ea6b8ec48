"""Runs with a propagator: ensembles, corrections, and what they did."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from fflux_py.errors import InputError, SimulationStopped
from fflux_py.molecules import mechanics
from fflux_py.molecules.molecule import read_only
from fflux_py.propagators.equipartition import EquipartitionMonitor
from fflux_py.propagators.propagator import Propagator
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN

Progress = Callable[[int, int], None]

ENSEMBLES: Final = ("nve", "langevin", "velocity-rescaling")
FARTHEST: Final = 3.0
"""A run stops when a bond is longer than this multiple of its reference, or shorter than its inverse."""


class BatchPotential(Protocol):
    """Energies of many geometries; a :class:`fflux_py.forcefield.ForceField` is one."""

    def compute(self, positions: FloatArray, deriv: Any = 1) -> tuple[FloatArray, FloatArray | None]:
        """Energies in hartree, shape ``(r,)``, and forces."""
        ...


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """Settings of a run; every one is checked when the object is made.

    The corrections are off by default.  What each of them changed is counted (:attr:`Stepper.corrections`), since
    a correction that has much to do hides a propagator that is wrong.

    Parameters
    ----------
    steps, step
        Number of steps, and the time of one in femtosecond.
    ensemble
        ``"nve"``, ``"langevin"`` (friction and noise, half before and half after each step, at P = 0 and L = 0) or
        ``"velocity-rescaling"`` (stochastic; likewise).
    temperature, relaxation_time
        Kelvin and femtosecond, of the thermostat.
    correct_momentum, correct_angular_momentum
        Remove net motion, and net rotation, after every step.
    correct_energy
        ``nve`` only: scale the velocities after every step so that the total energy is that of the start; needs a
        potential.
    correct_variance
        With a thermostat, and whole steps of a direct or continuous predictor: add noise with the covariance of its own
        errors, which restores the variance of the velocities that least squares takes (a relative error d takes d^2 of
        the kinetic energy in each step).
    report_every
        Steps between two frames.
    fill_in
        Frames of each step, equally spaced, its end the last; more than one of a continuous predictor only, with
        ``report_every`` 1.
    seed
        Of the thermostat.
    """

    steps: int
    step: float
    ensemble: str = "nve"
    temperature: float = 300.0
    relaxation_time: float = 100.0
    correct_momentum: bool = False
    correct_angular_momentum: bool = False
    correct_energy: bool = False
    correct_variance: bool = False
    report_every: int = 1
    fill_in: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ensemble not in ENSEMBLES:
            raise InputError("ensemble", f"one of {', '.join(ENSEMBLES)}", repr(self.ensemble))
        for name in ("step", "temperature", "relaxation_time"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise InputError(name, "a positive number", f"{value:g}")
        for name in ("steps", "report_every", "fill_in"):
            if getattr(self, name) < 1:
                raise InputError(name, "at least 1", str(getattr(self, name)))
        if self.fill_in > 1 and self.report_every > 1:
            raise InputError("fill_in", "report_every of 1", str(self.report_every), "frames of every step are wanted")
        if self.correct_energy and self.ensemble != "nve":
            raise InputError("correct_energy", "the ensemble nve", self.ensemble, "a thermostat sets the energy itself")
        if self.correct_variance and self.ensemble == "nve":
            raise InputError("correct_variance", "a thermostat", self.ensemble, "choose langevin or velocity-rescaling")


class Stepper:
    """One step after the other: thermostat, propagator, corrections, thermostat.

    Parameters
    ----------
    propagator, config
        What moves the atoms, and how.
    potential
        For the energy correction.
    """

    def __init__(
        self, propagator: Propagator, config: PropagationConfig, potential: BatchPotential | None = None
    ) -> None:
        propagator.header.check(propagator.header.molecule, None, config.step)
        if config.correct_energy and potential is None:
            raise InputError("correct_energy", "a force field to compute the energy with", "none")
        if config.correct_variance:
            _check_variance(propagator, config)
        if config.fill_in > 1 and propagator.header.kind != "continuous":
            raise InputError("fill_in", "a continuous predictor", propagator.header.kind, "the others know ends only")
        self.propagator, self.config, self.potential = propagator, config, potential
        self.masses = np.asarray(propagator.header.masses)
        self.corrections = {"momentum": 0.0, "angular_momentum": 0.0, "energy": 0.0, "variance": 0.0}
        """Largest relative change of the kinetic energy that each correction made in a step; zero where it is off."""
        self.between: list[tuple[FloatArray, FloatArray]] = []
        """Positions and velocities between the start and the end of the last step."""
        self._generator = np.random.Generator(np.random.Philox(config.seed))
        self._freedom = mechanics.degrees_of_freedom(len(self.masses))
        self._energy: FloatArray | None = None
        bonds = np.array(propagator.header.molecule.bonds).reshape(-1, 2)
        self._bonds = bonds
        self._lengths = self._bond_lengths(np.asarray(propagator.header.molecule.positions)[None])[0]

    def step(self, positions: FloatArray, velocities: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Advance all replicas, atomic units, shape ``(r, n_atoms, 3)``.

        Raises
        ------
        SimulationStopped
            A bond is broken, or a coordinate is no number.
        """
        config = self.config
        if config.correct_energy and self._energy is None:
            self._energy = self._potential(positions) + self.kinetic(velocities)
        velocities = self._apply_thermostat(positions, velocities)
        positions, velocities = self._advance(positions, velocities)
        self._check_bonds(positions)
        velocities = self._correct(positions, velocities)
        return positions, self._apply_thermostat(positions, velocities)

    def _advance(self, positions: FloatArray, velocities: FloatArray) -> tuple[FloatArray, FloatArray]:
        config = self.config
        if config.fill_in == 1:
            return self.propagator.advance(positions, velocities, config.step)
        times = np.linspace(0.0, config.step, config.fill_in + 1)[1:]
        frames = self.propagator.path(positions, velocities, times)  # type: ignore[attr-defined]
        *self.between, end = zip(*frames, strict=True)
        return end[0], end[1]

    def kinetic(self, velocities: FloatArray) -> FloatArray:
        """Kinetic energies in hartree, shape ``(r,)``."""
        return np.asarray(0.5 * np.einsum("i,ric->r", self.masses, velocities**2))

    def _correct(self, positions: FloatArray, velocities: FloatArray) -> FloatArray:
        config = self.config
        if config.correct_variance:
            noise = self.propagator.velocity_noise(  # type: ignore[attr-defined]
                positions, self._generator.standard_normal(positions.shape)
            )
            noisy = velocities + mechanics.remove_rigid_motion(positions, noise, self.masses)
            velocities = self._record_change("variance", velocities, noisy)
        if config.correct_momentum:
            drift = np.einsum("i,ric->rc", self.masses, velocities) / self.masses.sum()
            velocities = self._record_change("momentum", velocities, velocities - drift[:, None])
        if config.correct_angular_momentum:
            drift = np.einsum("i,ric->rc", self.masses, velocities)[:, None] / self.masses.sum()
            inner = mechanics.remove_rigid_motion(positions, velocities - drift, self.masses)
            velocities = self._record_change("angular_momentum", velocities, inner + drift)
        if config.correct_energy:
            assert self._energy is not None
            kinetic, expected = self.kinetic(velocities), self._energy - self._potential(positions)
            if not (expected > 0.0).all():
                raise SimulationStopped(
                    "energy correction", "a potential energy below the total", "one above it",
                    "the propagator has left what it knows",
                )  # fmt: skip
            velocities = self._record_change(
                "energy", velocities, velocities * np.sqrt(expected / kinetic)[:, None, None]
            )
        return velocities

    def _record_change(self, name: str, before: FloatArray, after: FloatArray) -> FloatArray:
        change = np.abs(self.kinetic(after) / self.kinetic(before) - 1.0)
        self.corrections[name] = max(self.corrections[name], float(change.max()))
        return after

    def _potential(self, positions: FloatArray) -> FloatArray:
        assert self.potential is not None
        return self.potential.compute(positions, deriv=0)[0]

    def _apply_thermostat(self, positions: FloatArray, velocities: FloatArray) -> FloatArray:
        config = self.config
        if config.ensemble == "nve":
            return velocities
        decay = math.exp(-0.5 * config.step / config.relaxation_time)
        thermal = BOLTZMANN * config.temperature
        if config.ensemble == "langevin":
            width = np.sqrt((1.0 - decay * decay) * thermal / self.masses)[:, None]
            noisy = decay * velocities + width * self._generator.standard_normal(velocities.shape)
            return mechanics.remove_rigid_motion(positions, noisy, self.masses)
        kinetic = self.kinetic(velocities)
        first = self._generator.standard_normal(len(kinetic))
        rest = self._generator.chisquare(self._freedom - 1, len(kinetic)) if self._freedom > 1 else 0.0
        factor = mechanics.rescaling_factor(kinetic, thermal, decay, first, first**2 + rest)
        return np.asarray(velocities * factor[:, None, None])

    def _bond_lengths(self, positions: FloatArray) -> FloatArray:
        arms = positions[:, self._bonds[:, 0]] - positions[:, self._bonds[:, 1]]
        return np.asarray(np.linalg.norm(arms, axis=-1))

    def _check_bonds(self, positions: FloatArray) -> None:
        ratio = self._bond_lengths(positions) / self._lengths
        # written so that NaN, which compares false, stops too
        fine = (ratio < FARTHEST) & (ratio > 1.0 / FARTHEST)
        if not (np.isfinite(positions).all() and fine.all()):
            raise SimulationStopped(
                f"propagator of kind {self.propagator.header.kind}", "a molecule that stays whole",
                "a broken bond or no number", "shorter steps, more training, or a thermostat",
            )  # fmt: skip


def _check_variance(propagator: Propagator, config: PropagationConfig) -> None:
    """Refuse a propagator that does not know the errors of such steps."""
    header = propagator.header
    if header.kind == "action" or not hasattr(propagator, "velocity_noise"):
        raise InputError(
            "correct_variance", "a direct or continuous predictor", header.kind, "an action loses no variance"
        )
    if abs(config.step - header.step) > 1e-9:
        raise InputError("correct_variance", f"steps of {header.step:g} fs, whose errors the model knows",
                         f"{config.step:g} fs")  # fmt: skip


@dataclass(frozen=True)
class Propagation:
    """Equally spaced frames of a run, that of the start first, atomic units.

    Parameters
    ----------
    times_fs
        Femtosecond, shape ``(m,)``.
    positions, velocities
        Shape ``(m, replicas, n_atoms, 3)``.
    kinetic, potential
        Hartree, shape ``(m, replicas)``; the potential energy is NaN where none was computed.
    corrections
        See :attr:`Stepper.corrections`.
    """

    times_fs: FloatArray
    positions: FloatArray
    velocities: FloatArray
    kinetic: FloatArray
    potential: FloatArray
    corrections: dict[str, float]

    def __post_init__(self) -> None:
        for name in ("times_fs", "positions", "velocities", "kinetic", "potential"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


def propagate(
    propagator: Propagator,
    positions: FloatArray,
    velocities: FloatArray,
    config: PropagationConfig,
    potential: BatchPotential | None = None,
    monitor: EquipartitionMonitor | None = None,
    progress: Progress | None = None,
) -> Propagation:
    """Run replicas side by side.

    Parameters
    ----------
    propagator
        Any of the three kinds.
    positions, velocities
        Starts, atomic units, shape ``(replicas, n_atoms, 3)``.
    config
        The run.
    potential
        For the energies at the reports and for the energy correction; None does without.
    monitor
        Is shown every step after the first.
    progress
        Called with (steps done, all steps).

    Raises
    ------
    SimulationStopped
        The molecule came apart.
    ConvergenceError
        The action's Newton iteration failed.
    """
    stepper = Stepper(propagator, config, potential)
    frames: list[tuple[FloatArray, ...]] = []

    def report(q: FloatArray, v: FloatArray) -> None:
        energy = potential.compute(q, deriv=0)[0] if potential else np.full(len(q), np.nan)
        frames.append((q, v, stepper.kinetic(v), energy))

    report(positions, velocities)
    for done in range(1, config.steps + 1):
        positions, velocities = stepper.step(positions, velocities)
        if monitor is not None:
            monitor.add(positions, velocities)
        if done % config.report_every == 0:
            for frame in stepper.between:
                report(*frame)
            report(positions, velocities)
        if progress is not None:
            progress(done, config.steps)
    interval = config.report_every * config.step / config.fill_in
    times = np.asarray(np.arange(len(frames)) * interval, dtype=np.float64)
    q, v, kinetic, energy = (np.array(part) for part in zip(*frames, strict=True))
    return Propagation(times, q, v, kinetic, energy, dict(stepper.corrections))


def thermal_starts(
    positions: FloatArray, masses: FloatArray, temperature: float, replicas: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """One geometry (bohr) with random velocities at P = 0 and L = 0, for ``replicas`` replicas."""
    velocities = [
        mechanics.maxwell_boltzmann(positions, masses, temperature, mechanics.random_stream(seed, r))
        for r in range(replicas)
    ]
    return np.repeat(positions[None], replicas, axis=0), np.array(velocities)

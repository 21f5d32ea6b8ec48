"""Training data of propagators: short trajectories at constant energy, from thermostatted starts.

A propagator learns the map of one long step from pairs (positions, velocities) -> (positions, velocities) a time h
later.  Trajectories of our own force field cost nothing but processor time: Langevin dynamics at several temperatures
gives starts, velocity Verlet with a short step at constant energy the frames.  A velocity Verlet map is symplectic and
time-reversible, and so is any power of it: what is learned has, step for step, the structure of the exact flow.

Data are split by trajectory, never by frame: frames of one trajectory are as good as known once a neighbour is.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from fflux_py.dynamics import CompiledPotential, MDConfig
from fflux_py.dynamics.engine import Engine
from fflux_py.errors import FFLUXError, FileFormatError, InputError, ModelMismatchError, SimulationStopped
from fflux_py.files import arrays_sha256, json_array, read_json_object, read_sealed, write_atomically
from fflux_py.forcefield import ForceField
from fflux_py.molecules import mechanics
from fflux_py.molecules.molecule import Molecule, read_only
from fflux_py.typing import FloatArray, IntArray

Progress = Callable[[int, int], None]

FORMAT: Final = "fflux_py propagator trajectories"
SCHEMA: Final = 1
SPLITS: Final = ("train", "validation", "test")
UNITS: Final = {"positions": "bohr", "velocities": "bohr per atomic unit of time", "masses": "electron mass",
                "interval": "fs", "temperature": "K"}  # fmt: skip
_ARRAYS: Final = ("start", "masses", "positions", "velocities", "temperatures", "split")


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig:
    """What trajectories are made; every setting is checked when the object is made.

    Parameters
    ----------
    temperatures
        Kelvin; the highest one should lie above the temperature of use, as a propagator must not leave its data.
    trajectories
        Number of trajectories at each temperature.
    length
        Of each, femtosecond.
    timestep
        Step of velocity Verlet, femtosecond; at 0.25 fs the frequency of a C-H stretch is right to 0.1 %.
    interval
        Femtosecond between two stored frames, a multiple of ``timestep``; steps to be learned are multiples of it.
    decorrelation
        Femtosecond of Langevin dynamics (relaxation time 100 fs, step 0.5 fs) before each start.
    replicas
        Langevin runs at each temperature, side by side, that the starts are taken from in turn.
    hydrogen_mass
        Mass of hydrogen in dalton, taken from its heavy neighbour; None leaves the masses as they are.
    held_out
        Share of the trajectories that goes to validation, and the same to test.
    seed
        Seed of all random numbers.
    """

    temperatures: tuple[float, ...] = (300.0, 400.0, 500.0)
    trajectories: int = 64
    length: float = 200.0
    timestep: float = 0.25
    interval: float = 0.5
    decorrelation: float = 500.0
    replicas: int = 8
    hydrogen_mass: float | None = None
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", tuple(float(t) for t in self.temperatures))
        positive = [(name, getattr(self, name)) for name in ("length", "timestep", "interval", "decorrelation")]
        for name, value in positive + [("temperatures", t) for t in self.temperatures]:
            if not (math.isfinite(value) and value > 0.0):
                raise InputError(name, "a positive number", f"{value:g}")
        if not self.temperatures:
            raise InputError("temperatures", "at least one", "none")
        for name, whole, least in (("trajectories", self.trajectories, 3), ("replicas", self.replicas, 1)):
            if whole < least:
                raise InputError(name, f"at least {least}", str(whole))
        for name, step in (("interval", self.timestep), ("length", self.interval)):
            ratio = getattr(self, name) / step
            if round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-9:
                raise InputError(name, f"a multiple of {step:g} fs", f"{getattr(self, name):g} fs")
        if not 0.0 < self.held_out < 0.5:
            raise InputError("held_out", "a share between 0 and 0.5", f"{self.held_out:g}")


class Pairs(NamedTuple):
    """Starts and ends of one step, atomic units, each of shape ``(m, n_atoms, 3)``."""

    positions: FloatArray
    velocities: FloatArray
    next_positions: FloatArray
    next_velocities: FloatArray


@dataclass(frozen=True)
class TrajectorySet:
    """Trajectories at constant energy, with velocities.

    Parameters
    ----------
    molecule
        Elements, order of atoms, charge; its geometry is the reference.
    masses
        Electron masses, shape ``(n_atoms,)``.
    interval
        Femtosecond between two frames.
    positions, velocities
        Atomic units, shape ``(m, frames, n_atoms, 3)``.
    temperatures
        Of the thermostat that each start came from, kelvin, shape ``(m,)``.
    split
        Index into :data:`SPLITS` for each trajectory, shape ``(m,)``.
    metadata
        Where they come from: settings, digest of the force field.
    """

    molecule: Molecule
    masses: FloatArray
    interval: float
    positions: FloatArray
    velocities: FloatArray
    temperatures: FloatArray
    split: IntArray
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("masses", "positions", "velocities", "temperatures"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        object.__setattr__(self, "split", read_only(self.split, np.int64))
        n, m = self.molecule.n_atoms, self.split.size
        frames = self.positions.shape[1] if self.positions.ndim == 4 else 1
        shapes = {"masses": (n,), "positions": (m, frames, n, 3), "velocities": (m, frames, n, 3),
                  "temperatures": (m,), "split": (m,)}  # fmt: skip
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise InputError(f"trajectories, {name}", f"finite numbers of shape {shape}", f"shape {array.shape}")
        if not (np.isfinite(self.interval) and self.interval > 0.0):
            raise InputError("trajectories, interval", "a positive number of fs", f"{self.interval:g}")
        if not ((self.split >= 0) & (self.split < len(SPLITS))).all():
            raise InputError("trajectories, split", f"numbers from 0 to {len(SPLITS) - 1}", str(self.split)[:40])

    @property
    def n_frames(self) -> int:
        """Frames of one trajectory."""
        return int(self.positions.shape[1])

    def frames_in(self, step: float) -> int:
        """Number of intervals in a step of ``step`` femtosecond.

        Raises
        ------
        ModelMismatchError
            The step is no multiple of the interval, or longer than the trajectories.
        """
        count = round(step / self.interval)
        if count < 1 or abs(count * self.interval - step) > 1e-9 or count >= self.n_frames:
            longest = (self.n_frames - 1) * self.interval
            raise ModelMismatchError(
                "step", f"a multiple of {self.interval:g} fs up to {longest:g} fs", f"{step:g} fs",
                "choose another step, or make other trajectories",
            )  # fmt: skip
        return count

    def members(self, split: str) -> IntArray:
        """Indices of the trajectories of one part."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def pairs(self, step: float, split: str, stride: int = 1, reversed_too: bool = True) -> Pairs:
        """Pairs of frames ``step`` femtosecond apart.

        Parameters
        ----------
        step
            Femtosecond.
        split
            ``"train"``, ``"validation"`` or ``"test"``.
        stride
            Take every so manieth frame as a start.
        reversed_too
            Add the time-reversed copy of every pair: (q', -v') -> (q, -v) solves the same equations of motion.
        """
        count, chosen = self.frames_in(step), self.members(split)
        n = self.molecule.n_atoms
        first = slice(0, self.n_frames - count, stride)
        last = slice(count, None, stride)
        parts = [
            array[chosen][:, part].reshape(-1, n, 3)
            for part in (first, last)
            for array in (self.positions, self.velocities)
        ]
        if reversed_too:
            q, v, q_next, v_next = parts
            parts = [np.concatenate(pair) for pair in ((q, q_next), (v, -v_next), (q_next, q), (v_next, -v))]
        return Pairs(*parts)

    def digest(self) -> str:
        """Checksum of the header and the arrays."""
        return _digest(self._header(), self._arrays())

    def _arrays(self) -> dict[str, np.ndarray]:
        parts = (self.molecule.positions, self.masses, self.positions, self.velocities, self.temperatures, self.split)
        return {name: np.asarray(part) for name, part in zip(_ARRAYS, parts, strict=True)}

    def _header(self) -> dict[str, Any]:
        return {"format": FORMAT, "schema": SCHEMA, "units": UNITS, "name": self.molecule.name,
                "symbols": list(self.molecule.symbols), "charge": self.molecule.charge, "interval": self.interval,
                "metadata": self.metadata}  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` file without pickle: arrays, a JSON header, a checksum over both."""
        header, arrays = self._header(), self._arrays()
        text = json_array(json.dumps(header, indent=1))
        stream = io.BytesIO()
        checksum = np.array(_digest(header, arrays))
        np.savez(stream, **arrays, header=text, sha256=checksum)  # type: ignore[arg-type]
        write_atomically(path, stream.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrajectorySet:
        """Read such a file.

        Raises
        ------
        FileFormatError
            Another kind of file, a truncated or altered one, or one of a newer schema.
        """
        where, expected = str(path), "trajectories written by 'fflux trajectories'"
        header, arrays, _ = read_sealed(path, expected, "make or copy them again", _checksum)
        if header.get("format") != FORMAT or header.get("schema") != SCHEMA or set(arrays) != set(_ARRAYS):
            raise FileFormatError(where, f"{expected}, schema {SCHEMA}", f"{header.get('format')!r}, another content")
        try:
            symbols, charge, name = tuple(header["symbols"]), int(header["charge"]), str(header["name"])
            molecule = Molecule(symbols, arrays.pop("start"), charge, name)
            return cls(molecule=molecule, interval=float(header["interval"]), metadata=header["metadata"], **arrays)
        except FFLUXError as error:
            raise FileFormatError(f"{where}, {error.where}", error.expected, error.found, error.remedy) from error
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise FileFormatError(where, expected, f"other entries ({error})") from error


def _digest(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    return arrays_sha256(arrays, json.dumps(header, sort_keys=True).encode())


def _checksum(entries: dict[str, np.ndarray]) -> str:
    """The digest of all entries of a file, its header among them."""
    return _digest(read_json_object(entries["header"]), {k: v for k, v in entries.items() if k != "header"})


def make_trajectories(
    forcefield: ForceField | CompiledPotential,
    start: Molecule,
    config: TrajectoryConfig,
    progress: Progress | None = None,
) -> TrajectorySet:
    """Make trajectories with a force field.

    Parameters
    ----------
    forcefield, start
        A force field, or any compiled potential, and a geometry near a minimum of it.
    config
        What is made.
    progress
        Called with (trajectories done, all of them).

    Raises
    ------
    SimulationStopped
        A bond broke: the temperature is too high for the model.
    """
    potential = CompiledPotential.of(forcefield)
    frames: list[tuple[FloatArray, FloatArray]] = []
    temperatures: list[float] = []
    total = len(config.temperatures) * config.trajectories
    for number, temperature in enumerate(config.temperatures):
        md = _md_config(config, temperature, "langevin", 0.5, config.seed + 1000 * number)
        engine = Engine.at_start(potential, start, md, config.replicas)
        steps, done = round(config.decorrelation / md.timestep), 0
        made = 0
        while made < config.trajectories:
            for _ in range(2 if done == 0 else 1):  # the first start comes from a minimum, and needs longer
                _advance(engine, done, steps, temperature)
                done += steps
            batch = min(config.replicas, config.trajectories - made)
            state = engine.state
            frames.append(_run_at_constant_energy(potential, start, config, temperature, state, batch))
            temperatures += [temperature] * batch
            made += batch
            if progress is not None:
                progress(number * config.trajectories + made, total)
        engine.close()
    settings = {**asdict(config), "temperatures": list(config.temperatures)}
    return TrajectorySet(
        molecule=potential.molecule,
        masses=mechanics.masses(potential.molecule, config.hydrogen_mass),
        interval=config.interval,
        positions=np.concatenate([part[0] for part in frames]),
        velocities=np.concatenate([part[1] for part in frames]),
        temperatures=np.array(temperatures),
        split=_split(total, config),
        metadata={"config": settings, "model": potential.digest()},
    )


def _split(total: int, config: TrajectoryConfig) -> IntArray:
    """A random part of the trajectories of every temperature for validation, and as many for test."""
    generator = np.random.default_rng(config.seed)
    held_out = max(1, round(config.held_out * config.trajectories))
    split = np.zeros(total, dtype=np.int64)
    for first in range(0, total, config.trajectories):
        order = first + generator.permutation(config.trajectories)
        split[order[:held_out]], split[order[held_out : 2 * held_out]] = 1, 2
    return split


def _md_config(config: TrajectoryConfig, temperature: float, thermostat: str, timestep: float, seed: int) -> MDConfig:
    return MDConfig(
        steps=1, temperature=temperature, timestep=timestep, thermostat=thermostat, seed=seed,
        hydrogen_mass=config.hydrogen_mass, replicas=config.replicas,
    )  # fmt: skip


def _advance(engine: Engine, first: int, steps: int, temperature: float) -> None:
    engine.advance(first, steps)
    if not engine.state.active.all():
        raise SimulationStopped(
            f"trajectories at {temperature:g} K", "a molecule that stays whole", "a broken bond or a contact",
            "lower the temperature",
        )  # fmt: skip


def _run_at_constant_energy(
    potential: CompiledPotential,
    start: Molecule,
    config: TrajectoryConfig,
    temperature: float,
    thermal: Any,
    batch: int,
) -> tuple[FloatArray, FloatArray]:
    """Run from the first ``batch`` replicas of a thermostatted state at constant energy; return their frames."""
    md = _md_config(config, temperature, "none", config.timestep, config.seed)
    engine = Engine.at_start(potential, start, md, batch)
    state = engine.state
    state.positions[:], state.velocities[:] = thermal.positions[:batch], thermal.velocities[:batch]
    for r in range(batch):
        state.velocities[r] = mechanics.remove_rigid_motion(
            state.positions[r], state.velocities[r], engine.system.masses
        )
        energy, forces = potential.force_function(state.positions[r], potential.arrays)
        state.potential[r], state.forces[r] = energy, forces
        state.reference[r] = engine.conserved(r)
    stored = round(config.length / config.interval)
    per_frame = round(config.interval / config.timestep)
    positions, velocities = [state.positions.copy()], [state.velocities.copy()]
    for frame in range(stored):
        _advance(engine, frame * per_frame, per_frame, temperature)
        positions.append(state.positions.copy())
        velocities.append(state.velocities.copy())
    engine.close()
    return np.stack(positions, axis=1), np.stack(velocities, axis=1)

"""Replicas side by side: the arrays of a run, cut into fixed groups that threads advance through the compiled loop.

Below the runs with their files, guards and checkpoints (:mod:`fflux_py.dynamics.run`) stands the :class:`Engine`: it
advances replicas by so many steps and leaves their positions and velocities in arrays.  What needs no more than that,
as making training data does, takes :meth:`Engine.at_start`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from fflux_py.bias._compiled import BiasOfReplicas, NoBias, add_bias, add_no_bias
from fflux_py.dynamics import _integrator as compiled
from fflux_py.dynamics import guards
from fflux_py.dynamics._calls import compiled_loop
from fflux_py.dynamics._random import stream_key
from fflux_py.dynamics.checkpoint import STATE_ARRAYS, Checkpoint
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.dynamics.run_bias import RunBias
from fflux_py.dynamics.thermostats import LANGEVIN, THERMOSTATS, suzuki_yoshida_weights
from fflux_py.errors import GeometryError
from fflux_py.molecules import mechanics
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, FEMTOSECOND, KCAL_MOL


def system_of(reference: Molecule, config: MDConfig) -> compiled.System:
    """Masses, thermostat and limits in atomic units."""
    freedom = mechanics.degrees_of_freedom(reference.n_atoms)
    thermal = BOLTZMANN * config.temperature
    assert config.relaxation_time is not None
    relaxation = config.relaxation_time / FEMTOSECOND
    chain = np.full(config.chain_length if config.thermostat == "nose-hoover" else 0, thermal * relaxation**2)
    chain[:1] *= freedom
    bonds, lengths = guards.bond_limits(reference)
    return compiled.System(
        masses=mechanics.masses(reference, config.hydrogen_mass),
        timestep=config.timestep / FEMTOSECOND,
        thermostat=THERMOSTATS[config.thermostat].code,
        thermal_energy=thermal,
        degrees_of_freedom=freedom,
        rate=1.0 / relaxation,
        chain_masses=chain,
        weights=suzuki_yoshida_weights(config.suzuki_yoshida_order),
        bonds=bonds,
        bond_minima=config.guards.bond_shortest * lengths,
        bond_maxima=config.guards.bond_longest * lengths,
        contact=config.guards.contact_distance / ANGSTROM,
        jump=config.guards.conserved_jump / KCAL_MOL,
        actions=guards.actions(config.guards),
    )


def initial_state(
    potential: CompiledPotential, start: Molecule, system: compiled.System, config: MDConfig, numbers: tuple[int, ...]
) -> compiled.State:
    """Start geometry with random velocities, thermostats at rest.

    Raises
    ------
    GeometryError
        The geometry is beyond a limit that stops a run, or has no finite energy.
    """
    energy, forces = potential.force_function(np.array(start.positions), potential.arrays)
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise GeometryError("start geometry", "finite energy and forces", "NaN or infinity", "is a frame of it linear?")
    g, n = len(numbers), start.n_atoms
    velocities = np.empty((g, n, 3))
    for r, number in enumerate(numbers):
        generator = mechanics.random_stream(config.seed, number)
        velocities[r] = mechanics.maxwell_boltzmann(
            start.positions, system.masses, config.temperature, generator, config.exact_temperature
        )
    state = _state(
        config.seed,
        numbers,
        positions=np.repeat(start.positions[None], g, axis=0),
        velocities=velocities,
        forces=np.repeat(forces[None], g, axis=0),
        chain_positions=np.zeros((g, len(system.chain_masses))),
        chain_velocities=np.zeros((g, len(system.chain_masses))),
        potential=np.full(g, float(energy)),
        heat=np.zeros(g),
        reference=np.zeros(g),
        kinetic=np.array([mechanics.kinetic_energy(v, system.masses) for v in velocities]),
    )
    events = guards.new_events(g, n)
    compiled.check_geometry(0, 0, state, system, events)
    for event in guards.compiled_events(events, 0, 0, system, start, config.guards, config.timestep):
        if event.action == "stop":
            trip = event.error()
            where = trip.where.replace("step 0 (0 fs)", "start geometry")
            raise GeometryError(where, trip.expected, trip.found, "start from a geometry of the model's molecule")
    for r in range(g):
        state.reference[r] = compiled.conserved_energy(r, state, system)
    return state


def restored_state(checkpoint: Checkpoint) -> compiled.State:
    """The state that a checkpoint holds."""
    arrays = {name: np.array(getattr(checkpoint, name)) for name in STATE_ARRAYS if name != "active"}
    numbers = tuple(record.number for record in checkpoint.replicas)
    state = _state(checkpoint.config.seed, numbers, **arrays)
    state.active[:] = checkpoint.active
    return state


def _state(seed: int, numbers: tuple[int, ...], **arrays: FloatArray) -> compiled.State:
    positions = arrays["positions"]
    return compiled.State(
        **arrays,
        active=np.ones(len(numbers), dtype=np.int64),
        keys=np.array([stream_key(seed, number) for number in numbers]),
        before=positions.copy(),
        # room for the 3 N numbers of Langevin dynamics, and for the degrees of freedom of velocity rescaling
        noise=np.zeros((len(numbers), 3 * positions.shape[1])),
    )


class _Group(NamedTuple):
    """Replicas that one thread advances: parts of the arrays of the run."""

    bias: BiasOfReplicas | NoBias
    state: compiled.State
    events: compiled.Events


class Engine:
    """Advances all replicas of a run.

    Parameters
    ----------
    potential, system, state
        What moves.
    threads
        Groups that are advanced at the same time.  The groups themselves do not depend on it.
    bias
        The metadynamics of the replicas, if there is one.

    Attributes
    ----------
    state
        Arrays of all replicas in atomic units, which every step changes: ``positions`` and ``velocities``, shape
        ``(replicas, n_atoms, 3)``, ``forces``, ``potential``, and ``active``, zero for a replica that a guard stopped.
    system
        Masses, time step, thermostat and limits.
    bias
        The metadynamics, or None.
    events
        What the guards saw in the last call of :meth:`advance`.
    """

    def __init__(
        self,
        potential: CompiledPotential,
        system: compiled.System,
        state: compiled.State,
        threads: int,
        bias: RunBias | None = None,
    ) -> None:
        self.system, self.state, self.bias = system, state, bias
        self.n_replicas = len(state.active)
        self.events = guards.new_events(self.n_replicas, state.positions.shape[1])
        self._block_goes_on = False
        size = self.n_replicas if potential.memory is not None else potential.group
        parts = [slice(a, min(a + size, self.n_replicas)) for a in range(0, self.n_replicas, size)]
        self._groups = [
            _Group(
                NoBias(np.zeros(self.n_replicas)[part]) if bias is None else bias.of_group(part),
                compiled.State._make(array[part] for array in state),
                compiled.Events._make(array[part] for array in self.events),
            )
            for part in parts
        ]
        alone = potential.together is None
        loop: Any = compiled.advance if alone else compiled.advance_together
        force: Any = potential.force_function if alone else potential.together
        add: Any = add_no_bias if bias is None else add_bias
        self._functions, self._arrays = (force, add), potential.arrays
        first = self._groups[0]
        arguments = (self._arrays, first.bias, first.state, system, first.events, 0, 1)
        self._call = compiled_loop(loop, force, add, *arguments, dimensions=2 if alone else 3)
        workers = min(threads, len(self._groups))
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None

    @classmethod
    def at_start(
        cls, potential: CompiledPotential, start: Molecule, config: MDConfig, replicas: int, threads: int = 1
    ) -> Engine:
        """Replicas 0, 1, ... at one geometry, each with random velocities of its own (:func:`initial_state`).

        Parameters
        ----------
        potential, start
            What moves, and from where.
        config
            Temperature, thermostat, time step, seed and limits; its number of replicas does not count.
        replicas, threads
            Number of replicas, and of groups of them that are advanced at the same time.
        """
        system = system_of(potential.molecule, config)
        state = initial_state(potential, start, system, config, tuple(range(replicas)))
        return cls(potential, system, state, threads)

    def advance(self, first: int, n_steps: int) -> None:
        """Run the steps ``first + 1`` to ``first + n_steps``; afterwards ``events`` is that of these steps.

        After :meth:`go_on_with_events`, it is that of the whole block.
        """
        if not self._block_goes_on:
            self.events.counts[:] = 0
        self._block_goes_on = False

        def run(group: _Group) -> None:
            if group.state.active.any():
                self._call(*self._functions, self._arrays, group.bias, group.state, self.system, group.events, first,
                           n_steps)  # fmt: skip

        if self._pool is None:
            for group in self._groups:
                run(group)
        else:
            list(self._pool.map(run, self._groups))

    def go_on_with_events(self, events: compiled.Events) -> None:
        """Let the next steps belong to a block whose first steps saw ``events``."""
        for array, earlier in zip(self.events, events, strict=True):
            array[...] = earlier
        self._block_goes_on = True

    def conserved(self, r: int) -> float:
        """Conserved quantity of replica r, hartree."""
        return float(compiled.conserved_energy(r, self.state, self.system))

    def velocities_of_report(self, r: int, step: int) -> FloatArray:
        """The velocities of replica r that its reported kinetic energy is of, atomic units, shape ``(n_atoms, 3)``.

        In Langevin dynamics they are those of the middle of the last step, half a kick before ``state.velocities``.
        """
        velocities: FloatArray = self.state.velocities[r]
        if self.system.thermostat != LANGEVIN or step == 0:
            return velocities
        kick: FloatArray = 0.5 * self.system.timestep / self.system.masses[:, None] * self.state.forces[r]
        return np.asarray(velocities - kick)

    def close(self) -> None:
        """End the threads, and close the files of the bias."""
        if self._pool is not None:
            self._pool.shutdown()
        if self.bias is not None:
            self.bias.close()

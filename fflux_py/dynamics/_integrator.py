"""The compiled part of a run: velocity Verlet, BAOAB, thermostats, guards, for a group of replicas step by step.

The force function is an argument of the compiled loop (:func:`fflux_py.dynamics._calls.compiled_loop`).  Everything
that the loop consists of stands in this file, for numba recompiles what it kept on disk when the *file* of the loop
changes and does not look at the files of the functions that are called in it.

A thermostat acts on the velocities at both ends of a step or between two halves of the drift: :func:`begin_step` and
:func:`end_step` choose.  They do so themselves, for a call costs more than it does: all arrays are counted anew.  Names
and codes of the thermostats are in :mod:`fflux_py.dynamics.thermostats`.

Sources: Nose-Hoover chain: Martyna, Tuckerman, Tobias and Klein, Mol. Phys. 87, 1117 (1996), section on NVT dynamics.
Stochastic velocity rescaling: Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101 (2007), eqs. A7 and A8.
Langevin dynamics: Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013), the splitting BAOAB.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fflux_py._compiled.jit import njit
from fflux_py.dynamics._random import standard_normals
from fflux_py.dynamics.thermostats import LANGEVIN, NOSE_HOOVER, RESCALING
from fflux_py.typing import FloatArray, IntArray

# Kinds of guards, and what is done when one trips.
BOND: Final = 0
CONTACT: Final = 1
ENERGY: Final = 2
CONSERVED: Final = 3
N_KINDS: Final = 4
OFF: Final = 0
RECORD: Final = 1
STOP: Final = 2

_RANK_TOLERANCE: Final = 1e-5


class State(NamedTuple):
    """All that the next step of ``g`` replicas depends on, in atomic units; the loop advances the arrays in place.

    ``positions``, ``velocities``, ``forces``: shape ``(g, n_atoms, 3)``, the forces being those at ``positions``.
    ``chain_positions``, ``chain_velocities``: ``(g, chain length)``, empty without a chain.  All others have shape
    ``(g,)``.  ``potential``: energy at ``positions``.  ``heat``: energy that a stochastic thermostat brought in so far.
    ``reference``: conserved quantity that jumps are measured from.  ``kinetic``: the kinetic energy that a report
    gives, in Langevin dynamics that of the middle of the step (:func:`ornstein_uhlenbeck_step`).  ``active``: 1, or 0
    for a replica that a guard stopped.  ``keys``: keys of the random numbers, ``(g, 2)``.  ``before``, ``noise``: room
    to work in.
    """

    positions: FloatArray
    velocities: FloatArray
    forces: FloatArray
    chain_positions: FloatArray
    chain_velocities: FloatArray
    potential: FloatArray
    heat: FloatArray
    reference: FloatArray
    kinetic: FloatArray
    active: IntArray
    keys: NDArray[np.uint64]
    before: FloatArray
    noise: FloatArray


class System(NamedTuple):
    """What does not change: masses, time step, thermostat, limits and actions of the guards (atomic units).

    ``rate`` is the inverse relaxation time of a stochastic thermostat; ``actions`` holds what each kind of guard does.
    """

    masses: FloatArray
    timestep: float
    thermostat: int
    thermal_energy: float
    degrees_of_freedom: int
    rate: float
    chain_masses: FloatArray
    weights: FloatArray
    bonds: IntArray
    bond_minima: FloatArray
    bond_maxima: FloatArray
    contact: float
    jump: float
    actions: IntArray


class Events(NamedTuple):
    """What the guards saw in one block: for every replica and kind the number of steps, and the first of them.

    ``counts``, ``step``: ``(g, kinds)``; ``atoms``: ``(g, kinds, 2)``; ``value``: a length or an energy, ``(g,
    kinds)``; ``positions``, ``velocities``: ``(g, kinds, n_atoms, 3)``.
    """

    counts: IntArray
    step: IntArray
    atoms: IntArray
    value: FloatArray
    positions: FloatArray
    velocities: FloatArray


@njit(cache=True)
def kinetic_energy(velocities: Any, masses: Any) -> Any:
    """Kinetic energy of one replica in hartree."""
    total = 0.0
    for i in range(masses.shape[0]):
        total += masses[i] * (velocities[i, 0] ** 2 + velocities[i, 1] ** 2 + velocities[i, 2] ** 2)
    return 0.5 * total


@njit(cache=True)
def conserved_energy(r: Any, state: Any, system: Any) -> Any:
    """The quantity that exact dynamics of replica r conserves (hartree).

    Total energy, plus that of the chain, less what a stochastic thermostat brought in (Bussi and Parrinello, Phys. Rev.
    E 75, 056707 (2007)).
    """
    energy = state.potential[r] + kinetic_energy(state.velocities[r], system.masses) - state.heat[r]
    for j in range(system.chain_masses.shape[0]):
        weight = system.thermal_energy * (system.degrees_of_freedom if j == 0 else 1)
        energy += 0.5 * system.chain_masses[j] * state.chain_velocities[r, j] ** 2
        energy += weight * state.chain_positions[r, j]
    return energy


@njit(cache=True)
def scale_velocities(velocities: Any, factor: Any) -> None:
    """Multiply all velocities of one replica."""
    for i in range(velocities.shape[0]):
        for c in range(3):
            velocities[i, c] *= factor


@njit(cache=True)
def chain_force(j: Any, kinetic: Any, rates: Any, system: Any) -> Any:
    """Acceleration of thermostat j, driven by the kinetic energy of what it controls."""
    if j == 0:
        drive = 2.0 * kinetic - system.degrees_of_freedom * system.thermal_energy
    else:
        drive = system.chain_masses[j - 1] * rates[j - 1] ** 2 - system.thermal_energy
    return drive / system.chain_masses[j]


@njit(cache=True)
def propagate_chain(r: Any, state: Any, system: Any, duration: Any) -> Any:
    """Move the chain of replica r by ``duration`` and scale its velocities; return its kinetic energy afterwards."""
    # computed afresh, not carried over: so the run is the same, bit for bit, however it is cut into blocks
    kinetic = kinetic_energy(state.velocities[r], system.masses)
    last = system.chain_masses.shape[0] - 1
    rates = state.chain_velocities[r]
    scale = 1.0
    for weight in system.weights:
        part = weight * duration
        rates[last] += 0.5 * part * chain_force(last, kinetic, rates, system)
        for j in range(last - 1, -1, -1):
            damping = np.exp(-0.25 * part * rates[j + 1])
            rates[j] = (rates[j] * damping + 0.5 * part * chain_force(j, kinetic, rates, system)) * damping
        factor = np.exp(-part * rates[0])
        scale *= factor
        kinetic *= factor * factor
        for j in range(last + 1):
            state.chain_positions[r, j] += part * rates[j]
        for j in range(last):
            damping = np.exp(-0.25 * part * rates[j + 1])
            rates[j] = (rates[j] * damping + 0.5 * part * chain_force(j, kinetic, rates, system)) * damping
        rates[last] += 0.5 * part * chain_force(last, kinetic, rates, system)
    scale_velocities(state.velocities[r], scale)
    return kinetic


@njit(cache=True)
def rescale_velocities(r: Any, state: Any, system: Any, step: Any, stream: Any, duration: Any) -> None:
    """Stochastic velocity rescaling of replica r over ``duration``: its kinetic energy relaxes, exactly in time."""
    kinetic = kinetic_energy(state.velocities[r], system.masses)
    if not kinetic > 0.0:
        return
    noise = state.noise[r, : system.degrees_of_freedom]
    standard_normals(state.keys[r], step, stream, noise)
    squares = 0.0
    for x in noise:
        squares += x * x
    # compiled form of mechanics.rescaling_factor
    decay = np.exp(-system.rate * duration)
    ratio = (1.0 - decay) * 0.5 * system.thermal_energy / kinetic
    square = decay + ratio * squares + 2.0 * noise[0] * np.sqrt(decay * ratio)
    factor = np.sqrt(square) if noise[0] + np.sqrt(decay / ratio) > 0.0 else -np.sqrt(square)
    scale_velocities(state.velocities[r], factor)
    state.heat[r] += (square - 1.0) * kinetic


@njit(cache=True)
def remove_rigid_motion(positions: Any, masses: Any, velocities: Any) -> None:
    """Project the velocities of one replica on P = 0 and L = 0, orthogonally in mass-weighted coordinates, in place.

    The compiled form of :func:`fflux_py.molecules.mechanics.remove_rigid_motion`, without a singular value
    decomposition: rotations are orthonormalised with pivoting, and one that moves nothing (atoms on a line) is left
    out.
    """
    n = masses.shape[0]
    centre, drift, total = np.zeros(3), np.zeros(3), 0.0
    for i in range(n):
        total += masses[i]
        for c in range(3):
            centre[c] += masses[i] * positions[i, c]
            drift[c] += masses[i] * velocities[i, c]
    rotations = np.zeros((3, n, 3))
    for i in range(n):
        root = np.sqrt(masses[i])
        for c in range(3):
            velocities[i, c] -= drift[c] / total
            arm = root * (positions[i, c] - centre[c] / total)
            rotations[(c + 1) % 3, i, (c + 2) % 3] = -arm
            rotations[(c + 2) % 3, i, (c + 1) % 3] = arm
    largest = 0.0
    removed = np.zeros(3)
    for _ in range(3):
        pivot, square = -1, 0.0
        for k in range(3):
            norm = (rotations[k] * rotations[k]).sum()
            if removed[k] == 0.0 and norm > square:
                pivot, square = k, norm
        largest = max(largest, square)
        if not square > _RANK_TOLERANCE**2 * largest:
            return
        removed[pivot] = 1.0
        rotation = rotations[pivot]
        along = 0.0
        for i in range(n):
            root = np.sqrt(masses[i])
            for c in range(3):
                rotation[i, c] /= np.sqrt(square)
                along += root * velocities[i, c] * rotation[i, c]
        for i in range(n):
            for c in range(3):
                velocities[i, c] -= along * rotation[i, c] / np.sqrt(masses[i])
        for k in range(3):
            if removed[k] == 0.0:
                overlap = (rotations[k] * rotation).sum()
                for i in range(n):
                    for c in range(3):
                        rotations[k, i, c] -= overlap * rotation[i, c]


@njit(cache=True)
def ornstein_uhlenbeck_step(r: Any, state: Any, system: Any, step: Any, duration: Any) -> None:
    """The O of BAOAB: friction and noise over ``duration``, exactly, on the motions with P = 0 and L = 0.

    The velocities here are those between two kicks, and for a harmonic vibration of angular frequency w their kinetic
    energy is canonical at any stable time step h.  That at the end of the step is too low by the factor 1 - (w h/2)^2;
    positions, which are exact, and the velocities that go with them cannot both be.  So this one is reported.
    """
    velocities = state.velocities[r]
    n = system.masses.shape[0]
    before = kinetic_energy(velocities, system.masses)
    noise = state.noise[r, : 3 * n]
    standard_normals(state.keys[r], step, 0, noise)
    decay = np.exp(-system.rate * duration)
    for i in range(n):
        width = np.sqrt((1.0 - decay * decay) * system.thermal_energy / system.masses[i])
        for c in range(3):
            velocities[i, c] = decay * velocities[i, c] + width * noise[3 * i + c]
    remove_rigid_motion(state.positions[r], system.masses, velocities)
    state.kinetic[r] = kinetic_energy(velocities, system.masses)
    state.heat[r] += state.kinetic[r] - before


@njit(cache=True)
def kick(r: Any, state: Any, system: Any, duration: Any) -> None:
    """Velocities of replica r by the forces, for ``duration``."""
    for i in range(system.masses.shape[0]):
        for c in range(3):
            state.velocities[r, i, c] += duration / system.masses[i] * state.forces[r, i, c]


@njit(cache=True)
def drift(r: Any, state: Any, duration: Any) -> None:
    """Positions of replica r by the velocities, for ``duration``."""
    for i in range(state.positions.shape[1]):
        for c in range(3):
            state.positions[r, i, c] += duration * state.velocities[r, i, c]


@njit(cache=True)
def copy_atoms(source: Any, target: Any) -> None:
    """Copy ``(n_atoms, 3)`` numbers; an array assignment compiles a check of shapes for five seconds."""
    for i in range(source.shape[0]):
        for c in range(3):
            target[i, c] = source[i, c]


@njit(cache=True)
def record_event(
    r: Any, kind: Any, step: Any, i: Any, j: Any, value: Any, state: Any, system: Any, events: Any
) -> None:
    """Record that a guard tripped; stop the replica, at its last geometry that was in order, if that is the action."""
    events.counts[r, kind] += 1
    if events.counts[r, kind] == 1:
        events.step[r, kind] = step
        events.atoms[r, kind, 0], events.atoms[r, kind, 1] = i, j
        events.value[r, kind] = value
        copy_atoms(state.positions[r], events.positions[r, kind])
        copy_atoms(state.velocities[r], events.velocities[r, kind])
    if system.actions[kind] == STOP:
        state.active[r] = 0
        copy_atoms(state.before[r], state.positions[r])


@njit(cache=True)
def check_geometry(r: Any, step: Any, state: Any, system: Any, events: Any) -> None:
    """Guards on the geometry of replica r: finite coordinates, contacts, bonds; one event for each kind at most.

    The comparison is written so that NaN, which compares false, trips it.
    """
    positions = state.positions[r]
    n = positions.shape[0]
    for i in range(n):
        for j in range(i + 1, n):
            square = (
                (positions[i, 0] - positions[j, 0]) ** 2
                + (positions[i, 1] - positions[j, 1]) ** 2
                + (positions[i, 2] - positions[j, 2]) ** 2
            )
            if not (square >= system.contact * system.contact):
                if not np.isfinite(square):
                    record_event(r, ENERGY, step, i, j, square, state, system, events)
                    return
                if system.actions[CONTACT] != OFF:
                    record_event(r, CONTACT, step, i, j, np.sqrt(square), state, system, events)
                    if state.active[r] == 0:
                        return
    if system.actions[BOND] == OFF:
        return
    for b in range(system.bonds.shape[0]):
        i, j = system.bonds[b, 0], system.bonds[b, 1]
        square = (
            (positions[i, 0] - positions[j, 0]) ** 2
            + (positions[i, 1] - positions[j, 1]) ** 2
            + (positions[i, 2] - positions[j, 2]) ** 2
        )
        if square < system.bond_minima[b] ** 2 or square > system.bond_maxima[b] ** 2:
            record_event(r, BOND, step, i, j, np.sqrt(square), state, system, events)
            return


@njit(cache=True)
def begin_step(r: Any, step: Any, state: Any, system: Any, events: Any) -> None:
    """Everything of a step before the forces."""
    if system.thermostat == NOSE_HOOVER:
        propagate_chain(r, state, system, 0.5 * system.timestep)
    elif system.thermostat == RESCALING:
        rescale_velocities(r, state, system, step, 0, 0.5 * system.timestep)
    kick(r, state, system, 0.5 * system.timestep)
    copy_atoms(state.positions[r], state.before[r])
    if system.thermostat == LANGEVIN:
        drift(r, state, 0.5 * system.timestep)
        ornstein_uhlenbeck_step(r, state, system, step, system.timestep)
        drift(r, state, 0.5 * system.timestep)
    else:
        drift(r, state, system.timestep)
    check_geometry(r, step, state, system, events)


@njit(cache=True)
def end_step(r: Any, step: Any, energy: Any, forces: Any, state: Any, system: Any, events: Any) -> None:
    """Everything of a step after the forces."""
    if not np.isfinite(energy):
        record_event(r, ENERGY, step, -1, -1, energy, state, system, events)
        return
    state.potential[r] = energy
    copy_atoms(forces, state.forces[r])
    kick(r, state, system, 0.5 * system.timestep)
    if system.thermostat == NOSE_HOOVER:
        propagate_chain(r, state, system, 0.5 * system.timestep)
    elif system.thermostat == RESCALING:
        rescale_velocities(r, state, system, step, 1, 0.5 * system.timestep)
    if system.thermostat != LANGEVIN:
        state.kinetic[r] = kinetic_energy(state.velocities[r], system.masses)
    if system.actions[CONSERVED] != OFF:
        change = conserved_energy(r, state, system) - state.reference[r]
        if not (abs(change) <= system.jump):
            state.reference[r] += change
            record_event(r, CONSERVED, step, -1, -1, change, state, system, events)


@njit(cache=True, nogil=True)
def advance(
    force: Any, add_bias: Any, arrays: Any, bias: Any, state: Any, system: Any, events: Any, first: Any, n_steps: Any
) -> None:
    """Run the steps ``first + 1`` to ``first + n_steps`` of all active replicas of a group, in place.

    Parameters
    ----------
    force, arrays
        ``force(positions, arrays)`` gives the energy (hartree) and the forces (hartree/bohr) of one geometry.
    add_bias, bias
        ``add_bias(positions, forces, bias)`` takes shapes ``(g, n_atoms, 3)``, adds the forces of the bias to
        ``forces`` and puts its energies into ``bias.energies``; its own value says nothing.
    state, system, events
        :class:`State`, :class:`System`, and :class:`Events` with all counts at zero.
    """
    energies, forces = np.zeros(state.active.shape[0]), np.zeros_like(state.positions)
    for step in range(first + 1, first + n_steps + 1):
        for r in range(state.active.shape[0]):
            if state.active[r] == 1:
                begin_step(r, step, state, system, events)
        for r in range(state.active.shape[0]):
            if state.active[r] == 1:
                energies[r], forces_of_one = force(state.positions[r], arrays)
                copy_atoms(forces_of_one, forces[r])
        add_bias(state.positions, forces, bias)
        for r in range(state.active.shape[0]):
            if state.active[r] == 1:
                end_step(r, step, energies[r] + bias.energies[r], forces[r], state, system, events)


@njit(cache=True, nogil=True)
def advance_together(
    force: Any, add_bias: Any, arrays: Any, bias: Any, state: Any, system: Any, events: Any, first: Any, n_steps: Any
) -> None:
    """As :func:`advance`, with a force function of all replicas at once.

    ``force(positions, arrays)`` takes shape ``(g, n_atoms, 3)`` and gives shapes ``(g,)`` and ``(g, n_atoms, 3)``.  A
    replica that was stopped stays in the group at its last geometry: the shapes, and with them the bits, of the others
    do not change.
    """
    for step in range(first + 1, first + n_steps + 1):
        for r in range(state.active.shape[0]):
            if state.active[r] == 1:
                begin_step(r, step, state, system, events)
        energies, forces = force(state.positions, arrays)
        add_bias(state.positions, forces, bias)
        for r in range(state.active.shape[0]):
            if state.active[r] == 1:
                end_step(r, step, energies[r] + bias.energies[r], forces[r], state, system, events)

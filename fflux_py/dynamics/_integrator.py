"""The compiled part of a run: velocity Verlet, Nose-Hoover chain, guards.

The force function is an argument of the compiled loop, typed by its signature and called by its address
(:func:`compiled_call`).  So the loop is compiled once and kept on disk for every force function and every release
of it, whereas a loop that is built around a force function would be compiled anew in each process.

Source of the integrator: Martyna, Tuckerman, Tobias and Klein, Mol. Phys. 87, 1117 (1996), section on NVT dynamics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple, cast

import numba
import numpy as np
from numba import njit
from numba.core import types

from fflux_py.potential import FloatArray, IntArray

# Outcomes of a block of steps.
COMPLETED: Final = 0
BOND_TOO_SHORT: Final = 1
BOND_TOO_LONG: Final = 2
CONTACT: Final = 3
NOT_FINITE: Final = 4


class State(NamedTuple):
    """All that the next step depends on, in atomic units; the compiled loop advances the arrays in place.

    ``positions``, ``velocities`` and ``forces`` have shape ``(n_atoms, 3)``; ``chain_positions`` and
    ``chain_velocities`` have the chain's length and are empty without a thermostat.  ``forces`` are
    those at ``positions``.
    """

    positions: FloatArray
    velocities: FloatArray
    forces: FloatArray
    chain_positions: FloatArray
    chain_velocities: FloatArray


class System(NamedTuple):
    """What does not change: masses, thermostat, limits of the guards (atomic units)."""

    masses: FloatArray
    chain_masses: FloatArray
    weights: FloatArray
    thermal_energy: float
    degrees_of_freedom: int
    bonds: IntArray
    bond_minima: FloatArray
    bond_maxima: FloatArray
    contact: float


class Outcome(NamedTuple):
    """End of a block: steps done, energies (hartree) there, and which guard tripped on which atoms at which length."""

    steps: int
    potential: float
    kinetic: float
    code: int
    first: int
    second: int
    length: float


def suzuki_yoshida_weights(order: int) -> FloatArray:
    """Weights of the split into 1, 3, 5 or 7 factors, shape ``(order,)``; their sum is one.

    Suzuki, J. Math. Phys. 32, 400 (1991); Yoshida, Phys. Lett. A 150, 262 (1990), solution A of sixth order.
    """
    if order == 1:
        return np.ones(1)
    if order == 3:
        w = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
        return np.array([w, 1.0 - 2.0 * w, w])
    if order == 5:
        w = 1.0 / (4.0 - 4.0 ** (1.0 / 3.0))
        return np.array([w, w, 1.0 - 4.0 * w, w, w])
    outer = np.array([0.784513610477560, 0.235573213359357, -1.17767998417887])
    return np.concatenate([outer, [1.0 - 2.0 * outer.sum()], outer[::-1]])


@njit(cache=True)
def kinetic_energy(velocities: Any, masses: Any) -> Any:
    """Kinetic energy in hartree."""
    total = 0.0
    for i in range(masses.shape[0]):
        total += masses[i] * (velocities[i, 0] ** 2 + velocities[i, 1] ** 2 + velocities[i, 2] ** 2)
    return 0.5 * total


@njit(cache=True)
def thermostat_energy(state: Any, system: Any) -> Any:
    """What the chain adds to the conserved quantity (hartree); zero without a thermostat."""
    energy = 0.0
    for j in range(system.chain_masses.shape[0]):
        weight = system.thermal_energy * (system.degrees_of_freedom if j == 0 else 1)
        energy += 0.5 * system.chain_masses[j] * state.chain_velocities[j] ** 2 + weight * state.chain_positions[j]
    return energy


@njit(cache=True)
def chain_force(j: Any, kinetic: Any, state: Any, system: Any) -> Any:
    """Acceleration of thermostat j, driven by the kinetic energy of what it controls."""
    if j == 0:
        drive = 2.0 * kinetic - system.degrees_of_freedom * system.thermal_energy
    else:
        drive = system.chain_masses[j - 1] * state.chain_velocities[j - 1] ** 2 - system.thermal_energy
    return drive / system.chain_masses[j]


@njit(cache=True)
def propagate_chain(kinetic: Any, state: Any, system: Any, duration: Any) -> Any:
    """Move the chain by ``duration`` and scale the velocities; return the kinetic energy afterwards."""
    last = system.chain_masses.shape[0] - 1
    if last < 0:
        return kinetic
    rates = state.chain_velocities
    scale = 1.0
    for weight in system.weights:
        part = weight * duration
        rates[last] += 0.5 * part * chain_force(last, kinetic, state, system)
        for j in range(last - 1, -1, -1):
            damping = np.exp(-0.25 * part * rates[j + 1])
            rates[j] = (rates[j] * damping + 0.5 * part * chain_force(j, kinetic, state, system)) * damping
        factor = np.exp(-part * rates[0])
        scale *= factor
        kinetic *= factor * factor
        for j in range(last + 1):
            state.chain_positions[j] += part * rates[j]
        for j in range(last):
            damping = np.exp(-0.25 * part * rates[j + 1])
            rates[j] = (rates[j] * damping + 0.5 * part * chain_force(j, kinetic, state, system)) * damping
        rates[last] += 0.5 * part * chain_force(last, kinetic, state, system)
    for i in range(state.velocities.shape[0]):
        for c in range(3):
            state.velocities[i, c] *= scale
    return kinetic


@njit(cache=True)
def kick(state: Any, system: Any, duration: Any) -> None:
    """Velocities by the forces, for ``duration``."""
    for i in range(system.masses.shape[0]):
        for c in range(3):
            state.velocities[i, c] += duration / system.masses[i] * state.forces[i, c]


@njit(cache=True)
def check_geometry(positions: Any, system: Any) -> Any:
    """Guards on the geometry: ``(code, atom, atom, length)``.

    The comparisons are written so that NaN, which compares false, trips them.
    """
    n = positions.shape[0]
    for i in range(n):
        for j in range(i + 1, n):
            square = (
                (positions[i, 0] - positions[j, 0]) ** 2
                + (positions[i, 1] - positions[j, 1]) ** 2
                + (positions[i, 2] - positions[j, 2]) ** 2
            )
            if not (square >= system.contact * system.contact):
                if np.isfinite(square):
                    return CONTACT, i, j, np.sqrt(square)
                return NOT_FINITE, i, j, square
    for b in range(system.bonds.shape[0]):
        i, j = system.bonds[b, 0], system.bonds[b, 1]
        square = (
            (positions[i, 0] - positions[j, 0]) ** 2
            + (positions[i, 1] - positions[j, 1]) ** 2
            + (positions[i, 2] - positions[j, 2]) ** 2
        )
        if square < system.bond_minima[b] ** 2:
            return BOND_TOO_SHORT, i, j, np.sqrt(square)
        if square > system.bond_maxima[b] ** 2:
            return BOND_TOO_LONG, i, j, np.sqrt(square)
    return COMPLETED, -1, -1, 0.0


@njit(cache=True)
def advance(force: Any, arrays: Any, state: Any, system: Any, potential: Any, timestep: Any, n_steps: Any) -> Any:
    """Run ``n_steps`` in place, or until a guard trips; return the fields of :class:`Outcome`.

    Parameters
    ----------
    force, arrays
        ``force(positions, arrays)`` gives the energy (hartree) and the forces (hartree/bohr).
    state, system
        :class:`State`, advanced in place, and :class:`System`.
    potential
        Potential energy at the start (hartree).
    timestep
        Atomic units of time.
    """
    kinetic = kinetic_energy(state.velocities, system.masses)
    for step in range(1, n_steps + 1):
        # computed afresh, not carried over: so the run is the same, bit for bit, however it is cut into blocks
        propagate_chain(kinetic_energy(state.velocities, system.masses), state, system, 0.5 * timestep)
        kick(state, system, 0.5 * timestep)
        for i in range(system.masses.shape[0]):
            for c in range(3):
                state.positions[i, c] += timestep * state.velocities[i, c]
        code, first, second, length = check_geometry(state.positions, system)
        if code != COMPLETED:
            return step, potential, kinetic, code, first, second, length
        potential, forces = force(state.positions, arrays)
        if not np.isfinite(potential):
            return step, potential, kinetic, NOT_FINITE, -1, -1, potential
        for i in range(system.masses.shape[0]):  # an array assignment compiles a check of shapes for five seconds
            for c in range(3):
                state.forces[i, c] = forces[i, c]
        kick(state, system, 0.5 * timestep)
        kinetic = kinetic_energy(state.velocities, system.masses)
        kinetic = propagate_chain(kinetic, state, system, 0.5 * timestep)
    return n_steps, potential, kinetic, COMPLETED, -1, -1, 0.0


def compiled_call(function: Any, force: Any, *rest: Any) -> Callable[..., Any]:
    """The compiled form of ``function(force, *rest)``, to be called with arguments of the same types.

    Numba gives every force function a type of its own, under which a caller is compiled anew, and in every process, as
    such a type cannot be recognised on disk.  Here the caller is compiled for *any* function of the signature of
    ``force`` (a first-class function type), and its entry point is called with ``force``.  Errors raised by ``force``
    arrive as usual.  With the compiler switched off (``NUMBA_DISABLE_JIT``) the function itself is returned.

    Parameters
    ----------
    function
        Njit function whose first argument is a force function.
    force
        Njit function ``(positions, arrays) -> (energy, forces)``; ``rest`` starts with ``arrays``.
    """
    if not hasattr(function, "compile"):
        return cast(Callable[..., Any], function)
    if type(rest[0]).__module__.split(".")[0] != __name__.split(".")[0]:
        function = _in_memory(function)
    typed = [numba.typeof(argument) for argument in rest]  # type: ignore[no-untyped-call]
    arguments = (types.Array(types.float64, 2, "C"), typed[0])
    force.compile(arguments)
    signature = force.overloads[arguments].signature
    whole = (types.FunctionType(signature), *typed)
    function.compile(whole)
    return cast(Callable[..., Any], function.overloads[whole].entry_point)


@cache
def _in_memory(function: Any) -> Any:
    """The same function without its cache on disk.

    The index of that cache names the class of ``arrays``.  Numba imports all classes of an index before it looks for
    the one that is asked for, so one class from a module that cannot be imported later (a script, a test) would stop
    every later run.  Only classes of this package are therefore written to disk.
    """
    return njit(function.py_func)

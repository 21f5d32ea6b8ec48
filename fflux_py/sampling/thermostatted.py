"""Langevin dynamics in plain Python for sampling, with any energy function and an optional bias.

BAOAB splitting: Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34 (2013).  Its configurational averages are
exact for harmonic forces at any stable time step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fflux_py.errors import InputError, SimulationStopped
from fflux_py.molecules.mechanics import maxwell_boltzmann
from fflux_py.molecules.molecule import Molecule, find_bonds, read_only
from fflux_py.molecules.potential import PotentialEnergy
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, BOLTZMANN, FEMTOSECOND

CLOSEST_CONTACT = 0.5 / ANGSTROM
"""No frame with two atoms closer than this (bohr) is ever kept."""


class Bias(Protocol):
    """A bias that grows only when told to."""

    @property
    def pace(self) -> int:
        """Steps between two hills."""
        ...

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Bias energy (hartree) and forces (hartree/bohr)."""
        ...

    def deposit(self, positions: FloatArray) -> float:
        """Put down one hill and return its height (hartree)."""
        ...


@dataclass(frozen=True)
class LangevinConfig:
    """Length, step and thermostat of one run.

    Parameters
    ----------
    temperature
        Kelvin.
    n_steps
        Number of steps.
    stride
        Steps between two kept frames.
    timestep
        Atomic units of time; 0.5 fs by default, as fits bonds to hydrogen.
    friction
        Inverse atomic units of time; 0.01/fs by default.
    """

    temperature: float
    n_steps: int
    stride: int
    timestep: float = 0.5 / FEMTOSECOND
    friction: float = 0.01 * FEMTOSECOND

    def __post_init__(self) -> None:
        for name in ("temperature", "n_steps", "stride", "timestep", "friction"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"Langevin setting {name}", "a positive number", str(value))


@dataclass(frozen=True)
class LangevinRun:
    """Frames of one run: every ``stride`` steps, the start not among them.

    Parameters
    ----------
    positions, velocities
        Bohr and atomic units, ``(m, n_atoms, 3)``.
    energies
        Potential energy without bias, hartree, ``(m,)``.
    kinetic_energies
        Hartree, ``(m,)``.
    """

    positions: FloatArray
    velocities: FloatArray
    energies: FloatArray
    kinetic_energies: FloatArray

    def __post_init__(self) -> None:
        for name in ("positions", "velocities", "energies", "kinetic_energies"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


def fault(molecule: Molecule, positions: FloatArray) -> str | None:
    """What is wrong with a geometry (bohr) as a geometry of ``molecule``, or None.

    Wrong are: coordinates that are not numbers, a contact below 0.5 angstrom, and any change of the list of bonds,
    which covers fragments, proton transfer, enolisation and ring closure.
    """
    if not np.isfinite(positions).all():
        return "coordinates that are not numbers"
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    i, j = sorted(int(x) for x in np.unravel_index(int(distance.argmin()), distance.shape))
    if distance[i, j] < CLOSEST_CONTACT:
        return f"{_pair(molecule, i, j)} at {distance[i, j] * ANGSTROM:.3f} angstrom"
    bonds, reference = set(find_bonds(molecule.symbols, positions)), set(molecule.bonds)
    broken = [f"{_pair(molecule, *bond)} broken" for bond in sorted(reference - bonds)]
    formed = [f"{_pair(molecule, *bond)} formed" for bond in sorted(bonds - reference)]
    return ", ".join(broken + formed) or None


def run_langevin(
    molecule: Molecule,
    potential: PotentialEnergy,
    config: LangevinConfig,
    rng: np.random.Generator,
    bias: Bias | None = None,
    velocities: FloatArray | None = None,
    progress: Callable[[int, int], None] | None = None,
    done: int = 0,
) -> LangevinRun:
    """Run BAOAB Langevin dynamics from the geometry of ``molecule``.

    Parameters
    ----------
    molecule
        Start geometry, masses and the bonds that have to stay.
    potential
        Energy and forces of the molecule.
    config
        Length, step and thermostat.
    rng
        Source of all random numbers: the same generator state gives the same run bit for bit.
    bias
        Optional growing bias; one hill is put down every ``bias.pace`` steps, at no other time.
    velocities
        Start velocities, atomic units; thermal ones without net momentum and rotation if not given.
    progress
        Called with (steps done, steps in total) at every kept frame.
    done
        Steps of the same run that were done before.  With the positions and velocities of its last step, its generator
        and its bias, the run goes on as if it had not stopped, bit for bit.

    Raises
    ------
    SimulationStopped
        If a kept frame is no geometry of this molecule any more (see :func:`fault`); nothing of the run is returned.
    """
    masses = molecule.masses[:, None]
    x = np.array(molecule.positions)
    if velocities is None:
        v = maxwell_boltzmann(x, molecule.masses, config.temperature, rng)
    else:
        v = np.array(velocities)
    half = 0.5 * config.timestep
    memory = np.exp(-config.friction * config.timestep)
    kick = np.sqrt((1.0 - memory**2) * BOLTZMANN * config.temperature / masses)
    energy, forces = _biased(potential, bias, x)
    frames: list[tuple[FloatArray, FloatArray, float, float]] = []
    for step in range(done + 1, done + config.n_steps + 1):
        v += half * forces / masses
        x += half * v
        v = memory * v + kick * rng.standard_normal(x.shape)
        x += half * v
        if bias is not None and step % bias.pace == 0:
            bias.deposit(x)
        energy, forces = _biased(potential, bias, x)
        v += half * forces / masses
        if step % config.stride == 0:
            _check(molecule, x, config, step)
            frames.append((x.copy(), v.copy(), energy, 0.5 * float(np.sum(masses * v * v))))
            if progress is not None:
                progress(step - done, config.n_steps)
    if not frames:
        raise InputError("stride", f"at most the number of steps, {config.n_steps}", str(config.stride))
    return LangevinRun(*(np.array(column) for column in zip(*frames, strict=True)))


def _check(molecule: Molecule, x: FloatArray, config: LangevinConfig, step: int) -> None:
    problem = fault(molecule, x)
    if problem is not None:
        where = f"sampling at {config.temperature:g} K, step {step}"
        raise SimulationStopped(where, "the bonds of the start geometry", problem)


def _biased(potential: PotentialEnergy, bias: Bias | None, x: FloatArray) -> tuple[float, FloatArray]:
    """Energy without bias and forces with it."""
    energy, forces = potential.energy_and_forces(x)
    if bias is None:
        return energy, forces
    return energy, forces + bias.energy_and_forces(x)[1]


def _pair(molecule: Molecule, i: int, j: int) -> str:
    return f"{molecule.symbols[i]}{i + 1}-{molecule.symbols[j]}{j + 1}"

"""Mechanics of a free molecule: momenta, degrees of freedom, initial velocities, stochastic velocity rescaling.

Plain functions on arrays, one of each for the whole package; the compiled counterparts in the loop of the dynamics and
the differentiable one of the propagators are tested against them.

The forces of an isolated molecule conserve its momentum P and its angular momentum L, and a Nose-Hoover chain or
velocity rescaling, which scale all velocities by one factor, keep P = 0 and L = 0.  So both are removed once, at the
start, and the number of degrees of freedom of the kinetic energy is 3N - 6 for the whole run, 3N - 5 = 1 for a diatomic
molecule.  The noise of Langevin dynamics would set the molecule in motion as a whole; its part along the rigid motions
is projected out in every step, so that all thermostats sample the same ensemble with the same count.  (The noise
is Gaussian with the covariance kT M^-1; projected orthogonally in mass-weighted coordinates it is Gaussian on P = 0,
L = 0, and friction plus noise leave that distribution exactly as it is.)

A molecule of three and more atoms that *starts* on a line has 3N - 5 vibrations, but it bends, and from then on L = 0
is three conditions: its bend stays in a plane, no vibrational angular momentum can arise, and its kinetic energy is
that of 3N - 6 degrees of freedom.  A thermostat that counted 3N - 5 would heat them by (3N - 5) / (3N - 6).

What is sampled is therefore the canonical ensemble at P = 0, L = 0: positions have the weight
``exp(-V/kT) / sqrt(det I)``, with I the tensor of inertia.  The second factor is what is left of integrating the
momenta over L = 0 instead of over all L; it is constant for a rigid molecule and favours compact conformers of a
flexible one a little.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, DALTON

_RANK_TOLERANCE: Final = 1e-5


def rigid_motions(positions: FloatArray, masses: FloatArray) -> FloatArray:
    """Orthonormal basis of mass-weighted translations and rotations, shape ``(..., 3 n_atoms, rank)``.

    The rank is 6, and 5 if the atoms stand on a line, to within 1e-5 of the molecule's extent.  Of many geometries the
    rank is the largest one; the last column of a geometry on a line is then zero.

    Parameters
    ----------
    positions, masses
        Bohr, shape ``(..., n_atoms, 3)``, and electron masses, shape ``(n_atoms,)``.
    """
    root = np.sqrt(masses)[:, None]
    centred = positions - (masses @ positions)[..., None, :] / masses.sum()
    translations = [root * np.broadcast_to(axis, centred.shape) for axis in np.eye(3)]
    rotations = [root * np.cross(axis, centred) for axis in np.eye(3)]
    motions = np.stack([*translations, *rotations], axis=-3).reshape(*positions.shape[:-2], 6, -1)
    # one scale for the three rotations: scaling each by itself would lift a vanishing rotation to rank one
    flat = motions[..., 3:, :].reshape(*positions.shape[:-2], 1, -1)
    extent = np.sqrt(flat @ np.swapaxes(flat, -1, -2))
    motions[..., :3, :] /= np.sqrt(masses.sum())
    motions[..., 3:, :] /= np.maximum(extent, np.finfo(float).tiny)
    left, singular, _ = np.linalg.svd(np.swapaxes(motions, -1, -2), full_matrices=False)
    independent = singular > _RANK_TOLERANCE
    rank = int(independent.sum(axis=-1).max())
    return np.ascontiguousarray((left * independent[..., None, :])[..., :rank])


def degrees_of_freedom(n_atoms: int) -> int:
    """Degrees of freedom of the kinetic energy at P = 0 and L = 0: 3N - 6, for a diatomic molecule 1."""
    if n_atoms < 2:
        raise InputError("start geometry", "at least two atoms", str(n_atoms), "one atom alone does not vibrate")
    return 3 * n_atoms - 6 if n_atoms > 2 else 1


def masses(molecule: Molecule, hydrogen_mass: float | None = None) -> FloatArray:
    """Masses in electron masses, shape ``(n_atoms,)``, hydrogen's repartitioned if a mass in dalton is given.

    What a hydrogen atom gains, the heavy atom that it is bonded to loses; the sum stays.

    Raises
    ------
    InputError
        A hydrogen atom without a heavy neighbour, or a heavy atom that would become lighter than its hydrogens.
    """
    table = np.array(molecule.masses)
    if hydrogen_mass is None:
        return table
    mass = hydrogen_mass / DALTON
    for hydrogen in np.flatnonzero(molecule.numbers == 1):
        heavy = [a for a in molecule.neighbours[hydrogen] if molecule.numbers[a] > 1]
        if not heavy:
            raise InputError("hydrogen_mass", "hydrogen atoms bonded to heavy atoms", f"H{hydrogen + 1} without one")
        table[heavy[0]] -= mass - table[hydrogen]
        table[hydrogen] = mass
    lightest = int(np.where(molecule.numbers > 1, table, np.inf).argmin())
    if table[lightest] < mass:
        name = f"{molecule.symbols[lightest]}{lightest + 1}"
        found = f"{table[lightest] * DALTON:.2f} Da left for {name}"
        raise InputError("hydrogen_mass", "heavy atoms that stay heavier than hydrogen", found, "choose a smaller mass")
    return table


def remove_rigid_motion(positions: FloatArray, velocities: FloatArray, masses: FloatArray) -> FloatArray:
    """Velocities without net momentum and angular momentum.

    An orthogonal projection in mass-weighted coordinates.  Applied to Maxwell-Boltzmann velocities it gives exactly
    their distribution under the condition P = 0, L = 0.

    Parameters
    ----------
    positions, velocities
        Atomic units, shape ``(..., n_atoms, 3)``: one geometry or many.
    masses
        Electron masses, shape ``(n_atoms,)``.
    """
    basis = rigid_motions(positions, masses)
    root = np.sqrt(masses)[:, None]
    weighted = (root * velocities).reshape(*velocities.shape[:-2], -1, 1)
    for _ in range(2):  # the second pass removes the rounding error of the first
        weighted = weighted - basis @ (np.swapaxes(basis, -1, -2) @ weighted)
    return np.asarray(weighted.reshape(velocities.shape) / root)


def linear_momentum(velocities: FloatArray, masses: FloatArray) -> FloatArray:
    """Total momentum in atomic units, shape ``(3,)``."""
    return np.asarray(masses @ velocities)


def angular_momentum(positions: FloatArray, velocities: FloatArray, masses: FloatArray) -> FloatArray:
    """Angular momentum about the centre of mass in atomic units (hbar), shape ``(3,)``."""
    centred = positions - masses @ positions / masses.sum()
    return np.asarray(masses @ np.cross(centred, velocities))


def kinetic_energy(velocities: FloatArray, masses: FloatArray) -> float:
    """Kinetic energy in hartree."""
    return 0.5 * float(masses @ (velocities**2).sum(axis=1))


def maxwell_boltzmann(
    positions: FloatArray, masses: FloatArray, temperature: float, generator: np.random.Generator, exact: bool = False
) -> FloatArray:
    """Initial velocities of a free molecule (atomic units, shape ``(n_atoms, 3)``), with P = 0 and L = 0.

    Parameters
    ----------
    positions, masses
        Bohr and electron masses.
    temperature
        Kelvin.
    generator
        Source of random numbers.
    exact
        Scale them so that the kinetic energy is f kT / 2 exactly (f: :func:`degrees_of_freedom`).
    """
    spread = np.sqrt(BOLTZMANN * temperature / masses)[:, None]
    velocities = remove_rigid_motion(positions, spread * generator.standard_normal(positions.shape), masses)
    if exact and temperature > 0.0:
        mean = 0.5 * degrees_of_freedom(len(masses)) * BOLTZMANN * temperature
        velocities = velocities * np.sqrt(mean / kinetic_energy(velocities, masses))
    return velocities


def rescaling_factor(
    kinetic: FloatArray, thermal_energy: float, decay: float, first: FloatArray, squares: FloatArray
) -> FloatArray:
    """Factor by which stochastic velocity rescaling multiplies all velocities of a replica, one for each of r replicas.

    The kinetic energy relaxes exactly in time to its canonical distribution.  The factor may be negative: the sign is
    that of ``first + sqrt(c / ratio)`` with ``c = decay`` and ``ratio = (1 - c) kT / (2 K)``.  It leaves kinetic
    energies alone, but velocities without it would remember their directions for too long; for one degree of freedom
    the signed step is exactly that of Langevin dynamics.

    Parameters
    ----------
    kinetic
        Kinetic energies, hartree, shape ``(r,)``.
    thermal_energy
        kT in hartree.
    decay
        ``exp(-t / tau)``, with the duration t of the step and the relaxation time tau.
    first
        One standard normal number for each replica, shape ``(r,)``.
    squares
        The sum of its square and of those of f - 1 others, f being the degrees of freedom, shape ``(r,)``.

    Notes
    -----
    G. Bussi, D. Donadio and M. Parrinello, J. Chem. Phys. 126, 014101 (2007), eqs. A7 and A8.
    """
    ratio = (1.0 - decay) * 0.5 * thermal_energy / kinetic
    square = decay + ratio * squares + 2.0 * first * np.sqrt(decay * ratio)
    return np.asarray(np.where(first + np.sqrt(decay / ratio) > 0.0, np.sqrt(square), -np.sqrt(square)))


def random_stream(seed: int, replica: int) -> np.random.Generator:
    """Generator of one replica: counter-based (Philox), independent of how many replicas there are."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(replica,))))

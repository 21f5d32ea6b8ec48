"""Small compiled potentials with known answers, for the tests of the dynamics and of the optimiser."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from fflux_py.bias._compiled import TORSION, variable
from fflux_py.dynamics import CompiledPotential
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import KCAL_MOL


class Pairs(NamedTuple):
    """Pair terms: pairs ``(p, 2)``, depth (hartree), exponent (1/bohr) and length (bohr), each ``(p,)``."""

    pairs: IntArray
    depth: FloatArray
    exponent: FloatArray
    length: FloatArray


@njit(cache=True)
def morse(positions, arrays):
    """Sum of D (1 - exp(-a (r - r0)))^2."""
    energy = 0.0
    forces = np.zeros_like(positions)
    for p in range(arrays.pairs.shape[0]):
        i, j = arrays.pairs[p, 0], arrays.pairs[p, 1]
        d = positions[i] - positions[j]
        r = np.sqrt((d * d).sum())
        decay = np.exp(-arrays.exponent[p] * (r - arrays.length[p]))
        energy += arrays.depth[p] * (1.0 - decay) ** 2
        pull = -2.0 * arrays.depth[p] * arrays.exponent[p] * (1.0 - decay) * decay / r
        forces[i] += pull * d
        forces[j] -= pull * d
    return energy, forces


@njit(cache=True)
def springs(positions, arrays):
    """The harmonic limit of the same: sum of D a^2 (r - r0)^2."""
    energy = 0.0
    forces = np.zeros_like(positions)
    for p in range(arrays.pairs.shape[0]):
        i, j = arrays.pairs[p, 0], arrays.pairs[p, 1]
        d = positions[i] - positions[j]
        r = np.sqrt((d * d).sum())
        constant = arrays.depth[p] * arrays.exponent[p] ** 2
        energy += constant * (r - arrays.length[p]) ** 2
        pull = -2.0 * constant * (r - arrays.length[p]) / r
        forces[i] += pull * d
        forces[j] -= pull * d
    return energy, forces


class Bend(NamedTuple):
    """Two Morse bonds from the middle atom (index 1) and a bend k (1 + cos theta), minimal on a line."""

    depth: FloatArray
    exponent: FloatArray
    length: FloatArray
    constant: FloatArray


@njit(cache=True)
def linear_triatomic(positions, arrays):
    """O-C-O: Morse stretches and a bend."""
    forces = np.zeros_like(positions)
    first, second = positions[0] - positions[1], positions[2] - positions[1]
    r1, r2 = np.sqrt((first * first).sum()), np.sqrt((second * second).sum())
    u1, u2 = first / r1, second / r2
    energy = 0.0
    for atom, r, u in ((0, r1, u1), (2, r2, u2)):
        decay = np.exp(-arrays.exponent[0] * (r - arrays.length[0]))
        energy += arrays.depth[0] * (1.0 - decay) ** 2
        pull = -2.0 * arrays.depth[0] * arrays.exponent[0] * (1.0 - decay) * decay
        forces[atom] += pull * u
        forces[1] -= pull * u
    cosine = (u1 * u2).sum()
    energy += arrays.constant[0] * (1.0 + cosine)
    g1 = arrays.constant[0] * (u2 - cosine * u1) / r1
    g2 = arrays.constant[0] * (u1 - cosine * u2) / r2
    forces[0] -= g1
    forces[2] -= g2
    forces[1] += g1 + g2
    return energy, forces


@njit(cache=True)
def poisoned(positions, arrays):
    """The Morse potential, whose energy turns into NaN when the first pair is longer than the first depth (bohr)."""
    d = positions[0] - positions[1]
    energy = np.sqrt((d * d).sum())
    return (energy * np.nan if energy > arrays.depth[0] else 0.0), np.zeros_like(positions)


def ammonia() -> Molecule:
    """A pyramid N, H, H, H: six pair distances fix its six internal coordinates."""
    ring = [(1.77 * np.cos(t), 1.77 * np.sin(t), 0.72) for t in 2.0 * np.pi / 3.0 * np.arange(3)]
    return Molecule(("N", "H", "H", "H"), np.array([(0.0, 0.0, 0.0), *ring]), name="ammonia")


def pair_arrays(molecule: Molecule) -> Pairs:
    """Stiff bonds and softer other pairs; the minimum is the molecule's geometry."""
    n = molecule.n_atoms
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    lengths = [float(np.linalg.norm(molecule.positions[i] - molecule.positions[j])) for i, j in pairs]
    bonded = np.array([pair in molecule.bonds for pair in pairs])
    return Pairs(np.array(pairs), np.where(bonded, 0.17, 0.06), np.where(bonded, 1.1, 0.8), np.array(lengths))


def ammonia_morse() -> CompiledPotential:
    """Ammonia of Morse terms."""
    return CompiledPotential(ammonia(), morse, pair_arrays(ammonia()))


def ammonia_springs() -> CompiledPotential:
    """Ammonia of harmonic terms."""
    return CompiledPotential(ammonia(), springs, pair_arrays(ammonia()))


def carbon_dioxide() -> CompiledPotential:
    """A molecule that is linear at its minimum."""
    line = Molecule(("O", "C", "O"), np.array([(0.0, 0.0, -2.2), (0.0, 0.0, 0.0), (0.0, 0.0, 2.2)]), name="line")
    arrays = Bend(np.array([0.2]), np.array([1.3]), np.array([2.2]), np.array([0.05]))
    return CompiledPotential(line, linear_triatomic, arrays)


def hydrogen_chloride() -> CompiledPotential:
    """A diatomic Morse molecule."""
    molecule = Molecule(("H", "Cl"), np.array([(0.0, 0.0, 0.0), (0.0, 0.0, 2.41)]), name="hcl")
    return CompiledPotential(molecule, morse, pair_arrays(molecule))


class Chain(NamedTuple):
    """Pair terms as above, and a torsion k/2 (1 - cos 2 (phi - phi0)) of the four atoms (hartree, radian)."""

    pairs: IntArray
    depth: FloatArray
    exponent: FloatArray
    length: FloatArray
    torsion: FloatArray


@njit(cache=True)
def chain(positions, arrays):
    """Springs that hold bonds and angles of a chain of four atoms, and a torsion with two minima."""
    energy, forces = springs(positions, arrays)
    gradient = np.empty((4, 3))
    angle = variable(positions, TORSION, np.arange(4), gradient)
    turned = angle - arrays.torsion[1]
    energy += 0.5 * arrays.torsion[0] * (1.0 - np.cos(2.0 * turned))
    slope = arrays.torsion[0] * np.sin(2.0 * turned)
    for i in range(4):
        for c in range(3):
            forces[i, c] -= slope * gradient[i, c]
    return energy, forces


def peroxide() -> CompiledPotential:
    """A chain H-O-O-H whose ends turn about the middle, over barriers of 2 kcal/mol."""
    angle, turn = np.radians(100.0), np.radians(110.0)
    arm = np.array([-1.83 * np.cos(angle), 1.83 * np.sin(angle), 0.0])
    other = np.array([2.75 - arm[0], arm[1] * np.cos(turn), arm[1] * np.sin(turn)])
    ends = arm * (-1.0, 1.0, 1.0), other + np.array([2.0 * arm[0], 0.0, 0.0])
    places = np.array([ends[0], (0.0, 0.0, 0.0), (2.75, 0.0, 0.0), ends[1]])
    molecule = Molecule(("H", "O", "O", "H"), places, name="peroxide")
    pairs = np.array([(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)])
    lengths = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    arrays = Chain(pairs, np.array([0.17, 0.17, 0.17, 0.1, 0.1]), np.ones(5), lengths, np.array([2.0 / KCAL_MOL, turn]))
    return CompiledPotential(molecule, chain, arrays)

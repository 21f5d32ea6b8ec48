"""Cheap potentials with known answers, for the tests of the sampling layer."""

from __future__ import annotations

import numpy as np

from fflux_py.bias.collective_variables import torsion_and_gradient
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM


def hydrogen_peroxide() -> Molecule:
    """H-O-O-H with a torsion of 112 degrees."""
    angle, phi = np.radians(100.0), np.radians(112.0)
    y, x = 0.97 * np.sin(angle), 0.97 * np.cos(angle)
    positions = [[x, y, 0.0], [0.0, 0.0, 0.0], [1.46, 0.0, 0.0], [1.46 - x, y * np.cos(phi), y * np.sin(phi)]]
    return Molecule(("H", "O", "O", "H"), np.array(positions) / ANGSTROM, name="hydrogen peroxide")


class Springs:
    """Harmonic bonds and 1,3-distances, plus ``barrier (1 - cos 2 phi) / 2 + tilt (1 - cos phi) / 2`` on one torsion.

    Bonds, 1,3-distances and phi are coordinates whose volume element does not depend on phi, so that the free energy
    of phi is exactly the torsion term, at every temperature.
    """

    program = "springs"

    def __init__(self, molecule: Molecule, barrier: float = 0.0, tilt: float = 0.0, stiffness: float = 0.3) -> None:
        n = molecule.n_atoms
        bonds = set(molecule.bonds)
        angles = {(min(a, c), max(a, c)) for b in range(n) for a in molecule.neighbours[b]
                  for c in molecule.neighbours[b] if a != c}  # fmt: skip
        self.pairs = np.array(sorted(bonds | angles))
        self.lengths = np.linalg.norm(np.diff(molecule.positions[self.pairs], axis=1)[:, 0], axis=1)
        self.barrier, self.tilt, self.stiffness = barrier, tilt, stiffness
        self.torsions = molecule.torsions()

    def torsion_term(self, phi: FloatArray) -> FloatArray:
        return 0.5 * self.barrier * (1.0 - np.cos(2.0 * phi)) + 0.5 * self.tilt * (1.0 - np.cos(phi))

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        forces = np.zeros_like(positions)
        i, j = self.pairs.T
        arm = positions[i] - positions[j]
        length = np.sqrt(np.einsum("pk,pk->p", arm, arm))
        stretch = length - self.lengths
        energy = 0.5 * self.stiffness * float(stretch @ stretch)
        pull = (self.stiffness * stretch / length)[:, None] * arm
        np.add.at(forces, i, -pull)
        np.add.at(forces, j, pull)
        if self.torsions and (self.barrier or self.tilt):
            atoms = self.torsions[0]
            phi, gradient = torsion_and_gradient(positions, atoms)
            energy += float(self.torsion_term(np.asarray(phi)))
            slope = self.barrier * np.sin(2.0 * phi) + 0.5 * self.tilt * np.sin(phi)
            forces[list(atoms)] -= slope * gradient
        return energy, forces


class Crystal:
    """Every atom on its own isotropic spring of frequency ``omega`` (atomic units) at its place in the molecule."""

    def __init__(self, molecule: Molecule, omega: float) -> None:
        self.places = molecule.positions
        self.constants = molecule.masses[:, None] * omega**2

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        shift = positions - self.places
        return 0.5 * float(np.sum(self.constants * shift**2)), -self.constants * shift


def numerical_forces(energy: object, positions: FloatArray, step: float) -> FloatArray:
    """Central differences of fourth order of ``energy(positions)``, with the sign of forces."""
    forces = np.zeros_like(positions)
    for index in np.ndindex(positions.shape):
        for shift, weight in ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0)):
            moved = np.array(positions)
            moved[index] += shift * step
            forces[index] -= weight * energy(moved) / (12.0 * step)  # type: ignore[operator]
    return forces

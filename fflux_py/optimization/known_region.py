"""Where a model knows the molecule: what a result must fulfil to be an answer.

Dynamics has guards that look at bonds, contacts and energies while it goes.  A single evaluation, or the end of a
search, deserves the same look: outside of its training data a Gaussian process returns to its prior mean, and a search
may end in a well that is none, hundreds of kcal/mol deep.  Five questions, each with its figure:

- Is every bond within the limits of the guards?
- Do two atoms that are not bonded touch?
- Is every distance of two atoms where the training geometries had it, give or take a part of its range?
- Does every centre have the handedness of the training geometries?
- Is the energy not below all that the training geometries know?  A geometry at 300 K stands (3N - 6) kT / 2 above its
  minimum in the mean (equipartition), so that much below the lowest of them is still believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from fflux_py.errors import FFLUXWarning, GeometryError
from fflux_py.forcefield import ForceField
from fflux_py.gp.distance_ranges import believed_distances, distances
from fflux_py.molecules.matching import Labels
from fflux_py.optimization.training_range import distance_ranges
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM, BOLTZMANN, KCAL_MOL

SHORTEST_BOND: Final = 0.5
LONGEST_BOND: Final = 1.5
"""Limits of a bond over its length in the reference, as of the guards of dynamics."""
CONTACT: Final = 0.6 / ANGSTROM
"""Distance (bohr) at which two atoms touch, as of the guards of dynamics."""
_ROOM_TEMPERATURE: Final = 300.0


class OutsideTrainingWarning(FFLUXWarning):
    """A geometry that the model does not know: its energy and forces are no answer."""


@dataclass(frozen=True)
class KnownRegion:
    """The geometries that a force field has learnt.

    Parameters
    ----------
    forcefield
        The force field, with its training geometries.
    """

    forcefield: ForceField

    @cached_property
    def _labels(self) -> Labels:
        return Labels(self.forcefield.molecule)

    @cached_property
    def ranges(self) -> tuple[FloatArray, FloatArray]:
        """Shortest and longest distance of every pair of atoms that is believed (bohr), ``(n_atoms, n_atoms)`` each."""
        return believed_distances(self.forcefield.atoms, self.forcefield.joint)

    @cached_property
    def bond_limits(self) -> tuple[FloatArray, FloatArray]:
        """The same for bonds alone: zero and infinity for all other pairs."""
        molecule = self.forcefield.molecule
        low, high = np.zeros((molecule.n_atoms,) * 2), np.full((molecule.n_atoms,) * 2, np.inf)
        reference = distances(molecule.positions)
        for i, j in molecule.bonds:
            low[i, j] = low[j, i] = SHORTEST_BOND * reference[i, j]
            high[i, j] = high[j, i] = LONGEST_BOND * reference[i, j]
        return low, high

    @cached_property
    def contact_limits(self) -> tuple[FloatArray, FloatArray]:
        """The same for pairs that are not bonded: none may touch."""
        apart = np.isinf(self.bond_limits[1]) & ~np.eye(self.forcefield.molecule.n_atoms, dtype=bool)
        return np.where(apart, CONTACT, 0.0), np.full(apart.shape, np.inf)

    @cached_property
    def lowest_energy(self) -> float:
        """Lowest energy (hartree) that is believed: see the head of this module."""
        joint, molecule = self.forcefield.joint, self.forcefield.molecule
        known = [molecule.positions[None]] if joint is None else [joint.positions, molecule.positions[None]]
        energies, _ = self.forcefield.unmatched.compute(np.concatenate(known), 0)
        return float(energies.min()) - 0.5 * (3 * molecule.n_atoms - 6) * BOLTZMANN * _ROOM_TEMPERATURE

    def objections(
        self, positions: FloatArray, energy: float | None = None, order: IntArray | None = None
    ) -> list[str]:
        """Why a geometry is outside of what the model knows, one line each; empty if it is not.

        Parameters
        ----------
        positions
            Bohr, shape ``(n_atoms, 3)``, in the model's order and hand.
        energy
            Hartree, to be held against the lowest energy that is known.
        order
            Numbers (from 0) by which the atoms are named, shape ``(n_atoms,)``; the model's if not given.
        """
        if not np.isfinite(positions).all():
            raise GeometryError("positions", "finite numbers", "NaN or infinity", "correct the geometry")
        found = distances(positions)
        checks = (
            ("bond", self.bond_limits, self.bond_limits, ""),
            ("contact", self.contact_limits, self.contact_limits, ""),
            ("distance", self.ranges, distance_ranges(self.forcefield), "training geometries"),
        )
        reasons = []
        for what, (low, high), limits, where in checks:
            beyond = np.maximum(low - found, found - high)
            i, j = np.unravel_index(int(beyond.argmax()), beyond.shape)
            if beyond[i, j] > 0.0:
                shortest, longest = (limit[i, j] * ANGSTROM for limit in limits)
                allowed = f"{shortest:.2f} to {longest:.2f}" if np.isfinite(longest) else f"at least {shortest:.2f}"
                pair = "-".join(self._name(atom, order) for atom in sorted((i, j)))
                expected = f"{where}: {allowed}" if where else allowed
                reasons.append(f"{what} {pair} of {found[i, j] * ANGSTROM:.2f} angstrom ({expected})")
        if not self._labels.keep_chirality(positions):
            reasons.append("another handedness than the training geometries at a centre: a molecule turned inside out")
        if energy is not None and not energy >= self.lowest_energy:
            below = (self.lowest_energy - energy) * KCAL_MOL
            reasons.append(f"an energy {below:.1f} kcal/mol below the lowest that the training data make believable")
        return reasons

    def _name(self, atom: int | np.integer, order: IntArray | None) -> str:
        return f"{self.forcefield.molecule.symbols[atom]}{(atom if order is None else order[atom]) + 1}"

"""Equipartition: the temperature of every element and of every normal mode.

A predictor that conserves nothing may hold the total temperature, above all under a thermostat, while hydrogen cools
and the torsions heat.  So kinetic energies are averaged by element, and by vibration: the mass-weighted velocities,
turned into the orientation of a reference geometry, are projected on its normal modes.  At P = 0 and L = 0 a direction
l has not one degree of freedom but 1 - |B l|^2, with the basis B of the six rigid motions at the geometry at hand;
kinetic energy over that, averaged, is its temperature (kT/2 for each degree of freedom), exact for any fixed
directions, also away from the minimum.
"""

from __future__ import annotations

import numpy as np

from fflux_py.errors import InputError
from fflux_py.molecules.mechanics import rigid_motions
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import NormalModes
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN


def orientations(positions: FloatArray, reference: FloatArray, masses: FloatArray) -> FloatArray:
    """Proper rotations R, shape ``(r, 3, 3)``: ``positions @ R`` lies best on the reference, mass-weighted."""
    weights = masses / masses.sum()
    a = positions - np.einsum("i,ric->rc", weights, positions)[:, None]
    b = reference - weights @ reference
    left, _, right = np.linalg.svd(np.einsum("i,ric,id->rcd", weights, a, b))
    sign = np.linalg.det(left @ right)
    left[:, :, 2] *= sign[:, None]
    return np.asarray(left @ right)


class EquipartitionMonitor:
    """Averages of kinetic energies by element and by normal mode, over the frames and replicas that it is shown.

    Parameters
    ----------
    molecule, masses
        The molecule, and its masses in the run (electron masses).
    modes
        Vibrations to look at; None for elements only.

    Raises
    ------
    InputError
        Modes that are not those of a minimum: an imaginary wavenumber.
    """

    def __init__(self, molecule: Molecule, masses: FloatArray, modes: NormalModes | None = None) -> None:
        if modes is not None and modes.wavenumbers[0] <= 0.0:
            found = f"{-modes.wavenumbers[0]:.0f}i cm^-1"
            raise InputError("geometry of the normal modes", "a minimum", found, "run 'fflux optimize' first")
        self.molecule, self.masses, self.modes = molecule, np.asarray(masses), modes
        self.elements = tuple(dict.fromkeys(molecule.symbols))
        self._member = np.array([[s == e for s in molecule.symbols] for e in self.elements], dtype=np.float64)
        self._energies: list[FloatArray] = []
        self._freedom: list[FloatArray] = []

    def add(self, positions: FloatArray, velocities: FloatArray) -> None:
        """Frames of all replicas, atomic units, shape ``(r, n_atoms, 3)``; the same replicas at every call."""
        root = np.sqrt(self.masses)[:, None]
        rigid = rigid_motions(positions, self.masses)
        rank = rigid.shape[-1]
        weighted = root * velocities
        by_atom = 0.5 * (weighted**2).sum(-1)
        left = 3.0 - (rigid**2).reshape(*positions.shape, rank).sum((-2, -1))
        parts, freedom = [by_atom @ self._member.T], [left @ self._member.T]
        if self.modes is not None:
            rotation = orientations(positions, self.modes.positions, self.masses)
            along = (weighted @ rotation).reshape(len(positions), -1) @ self.modes.vectors
            rotated = (rigid.reshape(*positions.shape, rank).swapaxes(-1, -2) @ rotation[:, None]).swapaxes(-1, -2)
            overlap = np.einsum("rkb,km->rbm", rotated.reshape(len(positions), -1, rank), self.modes.vectors)
            parts.append(0.5 * along**2)
            freedom.append(1.0 - (overlap**2).sum(1))
        self._energies.append(np.concatenate(parts, axis=1))
        self._freedom.append(np.concatenate(freedom, axis=1))

    def __len__(self) -> int:
        return len(self._energies)

    def temperatures(self, first: int = 0) -> dict[str, tuple[float, float]]:
        """Temperature in kelvin and its standard error over the replicas (NaN for one), by the name of the part.

        Names are elements, and wavenumbers of modes like ``"1799 cm-1"``; ``first`` leaves out frames at the start.
        """
        energies, freedom = np.array(self._energies[first:]), np.array(self._freedom[first:])
        if not len(energies):
            raise InputError("monitor", "at least one frame", "none")
        names = list(self.elements)
        if self.modes is not None:
            names += [f"{w:.0f} cm-1" for w in self.modes.wavenumbers]
        by_replica = 2.0 * energies.mean(0) / (BOLTZMANN * freedom.mean(0))
        n = len(by_replica)
        error = by_replica.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(by_replica.shape[1], np.nan)
        return {name: (float(t), float(e)) for name, t, e in zip(names, by_replica.mean(0), error, strict=True)}

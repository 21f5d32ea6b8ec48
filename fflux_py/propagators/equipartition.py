"""Equipartition: the temperature of every element and of every normal mode.

A predictor that conserves nothing may hold the total temperature, above all under a thermostat, while hydrogen cools
and the torsions heat.  So kinetic energies are averaged by element, and by vibration
(:mod:`fflux_py.molecules.equipartition`).
"""

from __future__ import annotations

import numpy as np

from fflux_py.errors import InputError
from fflux_py.molecules.equipartition import elements_of, kinetic_energies, names_of_parts
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import NormalModes
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN


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
        self.elements = elements_of(molecule)
        self._energies: list[FloatArray] = []
        self._freedom: list[FloatArray] = []

    def add(self, positions: FloatArray, velocities: FloatArray) -> None:
        """Frames of all replicas, atomic units, shape ``(r, n_atoms, 3)``; the same replicas at every call."""
        energies, freedom = kinetic_energies(positions, velocities, self.molecule, self.masses, self.modes)
        self._energies.append(energies)
        self._freedom.append(freedom)

    def __len__(self) -> int:
        return len(self._energies)

    def temperatures(self, first: int = 0) -> dict[str, tuple[float, float]]:
        """Temperature in kelvin and its standard error over the replicas (NaN for one), by the name of the part.

        Names are elements, and wavenumbers of modes like ``"1799 cm-1"``; ``first`` leaves out frames at the start.
        """
        energies, freedom = np.array(self._energies[first:]), np.array(self._freedom[first:])
        if not len(energies):
            raise InputError("monitor", "at least one frame", "none")
        names = names_of_parts(self.molecule, self.modes)
        by_replica = 2.0 * energies.mean(0) / (BOLTZMANN * freedom.mean(0))
        n = len(by_replica)
        error = by_replica.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(by_replica.shape[1], np.nan)
        return {name: (float(t), float(e)) for name, t, e in zip(names, by_replica.mean(0), error, strict=True)}

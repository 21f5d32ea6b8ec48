"""The one interface between energy functions and everything that uses them."""

from __future__ import annotations

from typing import Protocol

from fflux_py.typing import FloatArray


class PotentialEnergy(Protocol):
    """An energy function of the nuclear positions of one molecule with a fixed order of atoms."""

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Return the energy (hartree) and the forces (hartree/bohr, shape ``(n_atoms, 3)``).

        Parameters
        ----------
        positions
            Positions in bohr, shape ``(n_atoms, 3)``.
        """
        ...

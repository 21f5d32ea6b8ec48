"""The one interface between energy functions and everything that uses them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

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


@runtime_checkable
class EnergyAlone(Protocol):
    """An energy function that gives its energy without the forces, with the same bits and at a lower cost."""

    def energy(self, positions: FloatArray) -> float:
        """Return the energy (hartree) at positions in bohr, shape ``(n_atoms, 3)``."""
        ...


def energy_of(potential: PotentialEnergy, positions: FloatArray) -> float:
    """Energy (hartree) at positions in bohr, shape ``(n_atoms, 3)``, without the forces where the potential can."""
    if isinstance(potential, EnergyAlone):
        return potential.energy(positions)
    return potential.energy_and_forces(positions)[0]

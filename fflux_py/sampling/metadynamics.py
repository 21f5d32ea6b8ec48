"""Well-tempered metadynamics on torsions.

Barducci, Bussi, Parrinello, Phys. Rev. Lett. 100, 020603 (2008).  The bias is a sum of Gaussian hills on the torus of
the torsions,

    V(s) = sum_h W_h exp(-1/2 sum_d (s_d - c_hd)^2 / sigma_hd^2),      W_h = W exp(-V(c_h) / (k_B T (gamma - 1))),

with differences on the circle.  In the long run V(s) = -(1 - 1/gamma) F(s) + const.

Reading the bias never changes it: a hill is put down by :meth:`TorsionMetadynamics.deposit` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fflux_py.errors import InputError
from fflux_py.potential import FloatArray
from fflux_py.sampling.collective_variables import Torsion, periodic_difference, torsions_and_gradients
from fflux_py.units import BOLTZMANN


@dataclass(frozen=True)
class HillParameters:
    """What a hill is and how often one is put down.

    Parameters
    ----------
    height
        Height W of the first hill, hartree.
    sigma
        Width of a hill in each torsion, radian.
    bias_factor
        gamma = (T + Delta T) / T > 1.
    pace
        Steps between two hills.
    """

    height: float
    sigma: float
    bias_factor: float
    pace: int

    def __post_init__(self) -> None:
        for name, low in (("height", 0.0), ("sigma", 0.0), ("bias_factor", 1.0), ("pace", 0)):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > low):
                raise InputError(f"hill parameter {name}", f"a number greater than {low:g}", str(value))
        if self.sigma > 1.0:
            raise InputError("hill parameter sigma", "at most 1 radian (the hill must end within the circle)",
                             f"{self.sigma:g}")  # fmt: skip


class TorsionMetadynamics:
    """A growing well-tempered bias on one or several torsions.

    Parameters
    ----------
    torsions
        Atom indices of the torsions, k of them.
    parameters
        Hill height, width, bias factor and pace.
    temperature
        Temperature of the system, kelvin.
    """

    def __init__(self, torsions: Sequence[Torsion], parameters: HillParameters, temperature: float) -> None:
        if not torsions:
            raise InputError("torsions", "at least one torsion to bias", "none", "sample without bias")
        if not (np.isfinite(temperature) and temperature > 0.0):
            raise InputError("temperature", "a positive number of kelvin", str(temperature))
        self.torsions = tuple(torsions)
        self.parameters = parameters
        self.temperature = temperature
        self._count = 0
        # Capacity doubles as hills arrive; only the first _count rows mean anything.
        self._centres = np.zeros((64, len(self.torsions)))
        self._widths = np.ones((64, len(self.torsions)))
        self._heights = np.zeros(64)

    @property
    def n_hills(self) -> int:
        """Number of hills so far."""
        return self._count

    @property
    def pace(self) -> int:
        """Steps between two hills."""
        return self.parameters.pace

    @property
    def centres(self) -> FloatArray:
        """Centres of the hills, radian, ``(n_hills, k)`` (a copy)."""
        return self._centres[: self._count].copy()

    @property
    def widths(self) -> FloatArray:
        """Widths sigma of the hills, radian, ``(n_hills, k)`` (a copy)."""
        return self._widths[: self._count].copy()

    @property
    def heights(self) -> FloatArray:
        """Well-tempered heights of the hills as they stand in the bias, hartree, ``(n_hills,)`` (a copy)."""
        return self._heights[: self._count].copy()

    def bias(self, values: FloatArray) -> tuple[float, FloatArray]:
        """Bias (hartree) and its derivative (hartree/radian, ``(k,)``) at the torsion values ``(k,)`` in radian."""
        n = self._count
        scaled = periodic_difference(values, self._centres[:n]) / self._widths[:n]
        hills = self._heights[:n] * np.exp(-0.5 * np.einsum("hd,hd->h", scaled, scaled))
        return float(hills.sum()), -hills @ (scaled / self._widths[:n])

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr, ``(n_atoms, 3)``) at ``positions`` in bohr; deposits nothing."""
        values, gradients = torsions_and_gradients(positions, self.torsions)
        energy, slope = self.bias(values)
        return energy, -np.tensordot(slope, gradients, axes=1)

    def deposit(self, positions: FloatArray) -> float:
        """Put down one hill at ``positions`` (bohr) and return its well-tempered height (hartree)."""
        values, _ = torsions_and_gradients(positions, self.torsions)
        return self.deposit_at(values)

    def deposit_at(self, values: FloatArray) -> float:
        """Put down one hill at the torsion values ``(k,)`` (radian) and return its well-tempered height (hartree)."""
        energy, _ = self.bias(values)
        gamma = self.parameters.bias_factor
        height = self.parameters.height * float(np.exp(-energy / (BOLTZMANN * self.temperature * (gamma - 1.0))))
        if self._count == len(self._heights):
            self._centres = np.concatenate([self._centres, np.zeros_like(self._centres)])
            self._widths = np.concatenate([self._widths, np.ones_like(self._widths)])
            self._heights = np.concatenate([self._heights, np.zeros_like(self._heights)])
        self._centres[self._count] = values
        self._widths[self._count] = self.parameters.sigma
        self._heights[self._count] = height
        self._count += 1
        return height

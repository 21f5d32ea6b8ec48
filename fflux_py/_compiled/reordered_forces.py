"""The force field for atoms in another order and hand than its own, for the compiled loop of dynamics."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fflux_py._compiled import forces
from fflux_py._compiled.jit import njit
from fflux_py._compiled.point_arrays import KernelArrays
from fflux_py.typing import FloatArray, IntArray


class ReorderedArrays(NamedTuple):
    r"""A force field and how a geometry becomes one of its own, :math:`x'_i = \sigma x_{P(i)}`.

    Parameters
    ----------
    order
        P, shape ``(n_atoms,)``.
    sign
        sigma, 1 or -1.
    arrays
        The force field.
    """

    order: IntArray
    sign: float
    arrays: KernelArrays


@njit(cache=True, error_model="numpy")
def energies_and_forces(positions: FloatArray, reordered: ReorderedArrays) -> tuple[FloatArray, FloatArray]:
    """Energies (hartree, ``(k,)``) and forces (hartree/bohr) of geometries (bohr), shapes ``(k, n, 3)``."""
    x, given = np.empty_like(positions), np.empty_like(positions)
    for k in range(positions.shape[0]):
        for i in range(positions.shape[1]):
            for c in range(3):
                x[k, i, c] = reordered.sign * positions[k, reordered.order[i], c]
    energies, of_model = forces.energies_and_forces(x, reordered.arrays)
    for k in range(positions.shape[0]):
        for i in range(positions.shape[1]):
            for c in range(3):
                given[k, reordered.order[i], c] = reordered.sign * of_model[k, i, c]
    return energies, given


@njit(cache=True, error_model="numpy")
def energy_and_forces(positions: FloatArray, reordered: ReorderedArrays) -> tuple[float, FloatArray]:
    """Energy (hartree) and forces (hartree/bohr, ``(n, 3)``) at positions (bohr, ``(n, 3)``)."""
    x, given = np.empty_like(positions), np.empty_like(positions)
    for i in range(positions.shape[0]):
        for c in range(3):
            x[i, c] = reordered.sign * positions[reordered.order[i], c]
    energy, of_model = forces.energy_and_forces(x, reordered.arrays)
    for i in range(positions.shape[0]):
        for c in range(3):
            given[reordered.order[i], c] = reordered.sign * of_model[i, c]
    return energy, given

"""The observations of a joint fit, and where each of them stands in vectors and matrices.

Their order: the atomic energies of the partitioned geometries (atom by atom), the total energies, the forces (geometry,
atom, component).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fflux_py.errors import InputError
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray, IntArray


@dataclass(frozen=True)
class Observations:
    """What is observed of some geometries: the order of all vectors and matrices of the joint fit.

    Every geometry has a total energy and forces, and some have atomic energies.

    Parameters
    ----------
    partitioned
        Which geometries have atomic energies, shape ``(N,)``, bool.
    n_atoms
        Number of atoms n.

    Raises
    ------
    InputError
        ``partitioned`` is not one-dimensional.
    """

    partitioned: np.ndarray
    n_atoms: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "partitioned", read_only(self.partitioned, np.bool_))
        if self.partitioned.ndim != 1:
            raise InputError("partitioned", "one value for each geometry", f"shape {self.partitioned.shape}")

    @property
    def n_geometries(self) -> int:
        """Number of geometries N."""
        return len(self.partitioned)

    @cached_property
    def with_atoms(self) -> IntArray:
        """Indices of the geometries that have atomic energies, ascending."""
        return read_only(np.flatnonzero(self.partitioned), np.int64)

    @property
    def n_partitioned(self) -> int:
        """Number of geometries that have atomic energies."""
        return len(self.with_atoms)

    @property
    def count(self) -> int:
        """Number of all observations, which is for a partition n and for a geometry one total energy and 3n forces."""
        return int(self.forces.stop)

    def atom(self, atom: int) -> slice:
        """The energies of one atom: one for every geometry of :attr:`with_atoms`."""
        return slice(atom * self.n_partitioned, (atom + 1) * self.n_partitioned)

    @property
    def atoms(self) -> slice:
        """All atomic energies, atom by atom."""
        return slice(0, self.n_atoms * self.n_partitioned)

    @property
    def totals(self) -> slice:
        """The total energies, one for every geometry."""
        return slice(self.atoms.stop, self.atoms.stop + self.n_geometries)

    @property
    def forces(self) -> slice:
        """The forces, 3n for every geometry."""
        return slice(self.totals.stop, self.totals.stop + 3 * self.n_atoms * self.n_geometries)

    def of_geometries(self, geometries: IntArray) -> IntArray:
        """Indices of all observations of some geometries, in the order of the whole.

        Parameters
        ----------
        geometries
            Indices of geometries, ascending.
        """
        partitioned = np.searchsorted(self.with_atoms, np.intersect1d(geometries, self.with_atoms))
        of_atoms = np.arange(self.n_atoms)[:, None] * self.n_partitioned + partitioned
        of_forces = self.forces.start + 3 * self.n_atoms * geometries[:, None] + np.arange(3 * self.n_atoms)
        return np.concatenate([of_atoms.ravel(), self.totals.start + geometries, of_forces.ravel()])

    def atomic_part(self, values: FloatArray) -> FloatArray:
        """Values of the atomic energies, shape ``(n_observations, ...)`` to ``(n, n_partitioned, ...)``."""
        return values[self.atoms].reshape(self.n_atoms, self.n_partitioned, *values.shape[1:])

    def split(self, values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Values of the atomic energies, total energies and forces of every geometry.

        Parameters
        ----------
        values
            One for every observation, or rows of values, shape ``(n_observations, ...)``.

        Returns
        -------
        atomic, totals, forces
            Shapes ``(n, N, ...)``, zero where a geometry has no atomic energies, ``(N, ...)`` and ``(N, n, 3, ...)``.
        """
        rest = values.shape[1:]
        atomic = np.zeros((self.n_atoms, self.n_geometries, *rest))
        atomic[:, self.partitioned] = self.atomic_part(values)
        return atomic, values[self.totals], values[self.forces].reshape(self.n_geometries, self.n_atoms, 3, *rest)

"""Partitions of space into atoms: a registry of functions that give every grid point's weight in every atom.

Hirshfeld's is smooth and needs no grid of its own: w_A(r) = rho_A(r) / sum_B rho_B(r), with the free atoms' densities
(F. L. Hirshfeld, Theor. Chim. Acta 44, 129 (1977)).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fflux_py.errors import InputError
from fflux_py.iqa.electronic_structure import LevelOfTheory
from fflux_py.iqa.free_atoms import free_atom_density
from fflux_py.molecule import Molecule
from fflux_py.potential import FloatArray

NO_PARTITION = "none"


class Partition(Protocol):
    """Weights of the atoms at points: not negative, and summing to one at every point."""

    def __call__(self, molecule: Molecule, level: LevelOfTheory, points: FloatArray) -> FloatArray:
        """Return the weights, shape ``(n_atoms, n_points)``, at ``points`` (bohr, ``(n_points, 3)``)."""
        ...


def hirshfeld(molecule: Molecule, level: LevelOfTheory, points: FloatArray) -> FloatArray:
    """Hirshfeld weights, from the spherically averaged densities of the neutral free atoms at the same level.

    Evaluated as a softmax of the logarithms, which stays defined where every density underflows.
    """
    logarithms = np.empty((molecule.n_atoms, len(points)))
    for atom, symbol in enumerate(molecule.symbols):
        distance = np.linalg.norm(points - molecule.positions[atom], axis=1)
        logarithms[atom] = free_atom_density(symbol, level).logarithm(distance)
    weights = np.exp(logarithms - logarithms.max(axis=0))
    return np.asarray(weights / weights.sum(axis=0))


PARTITIONS: dict[str, Partition] = {"hirshfeld": hirshfeld}
"""Partitions by name."""


def check_partition(name: str) -> None:
    """Refuse a partition that does not exist.

    Raises
    ------
    InputError
        Naming the partitions that do.
    """
    if name == NO_PARTITION or name in PARTITIONS:
        return
    known = ", ".join([*sorted(PARTITIONS), NO_PARTITION])
    if name == "qtaim":
        raise InputError("partition", f"one of {known}", "'qtaim'", "QTAIM basins are not available yet; use hirshfeld")
    raise InputError("partition", f"one of {known}", repr(name), "correct the name")

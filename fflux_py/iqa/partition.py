"""Partitions of space into atoms: a registry of functions that give every grid point's weight in every atom.

Hirshfeld's is smooth and needs no grid of its own: w_A(r) = rho_A(r) / sum_B rho_B(r), with the free atoms' densities
(F. L. Hirshfeld, Theor. Chim. Acta 44, 129 (1977)).  Becke's needs nothing but the positions and one radius for each
element (A. D. Becke, J. Chem. Phys. 88, 2547 (1988)); as atoms in a molecule: P. Salvador, I. Mayer, J. Chem. Phys.
120, 5046 (2004).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fflux_py.errors import InputError
from fflux_py.iqa.scf._becke_cells import cell_shifts, cell_weights
from fflux_py.iqa.scf._pyscf import load_pyscf
from fflux_py.iqa.scf.electronic_structure import LevelOfTheory
from fflux_py.iqa.scf.free_atoms import free_atom_density
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

NO_PARTITION = "none"
TOPOLOGICAL = "qtaim"
"""Sharp atoms, which need a grid of their own (:mod:`fflux_py.iqa.qtaim.basins`)."""


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


def becke(molecule: Molecule, level: LevelOfTheory, points: FloatArray) -> FloatArray:
    """Becke's fuzzy cells: three times iterated polynomials, boundaries shifted by the radii of the elements.

    Equations 13, 19 to 22 and A1 to A8 of the paper.  The radii are Slater's (J. Chem. Phys. 41, 3199 (1964)) with
    0.35 angstrom for hydrogen, as the paper recommends; on the line between two atoms the weights are equal where the
    distances are in the ratio of the radii.
    """
    radii = np.asarray(load_pyscf().data.radii.BRAGG[molecule.numbers])
    return cell_weights(points, molecule.positions, cell_shifts(radii))


PARTITIONS: dict[str, Partition] = {"hirshfeld": hirshfeld, "becke": becke}
"""Partitions with a weight at every point, by name."""


def check_partition(name: str) -> None:
    """Refuse a partition that does not exist.

    Raises
    ------
    InputError
        Naming the partitions that do.
    """
    if name in (NO_PARTITION, TOPOLOGICAL) or name in PARTITIONS:
        return
    known = ", ".join([*sorted([*PARTITIONS, TOPOLOGICAL]), NO_PARTITION])
    raise InputError("partition", f"one of {known}", repr(name), "correct the name")

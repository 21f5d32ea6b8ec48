"""Partitions of space into atoms: a registry with one object for each.

Hirshfeld's is smooth and needs no grid of its own: w_A(r) = rho_A(r) / sum_B rho_B(r), with the free atoms' densities
(F. L. Hirshfeld, Theor. Chim. Acta 44, 129 (1977)).  Becke's needs nothing but the positions and one radius for each
element (A. D. Becke, J. Chem. Phys. 88, 2547 (1988)); as atoms in a molecule: P. Salvador, I. Mayer, J. Chem. Phys.
120, 5046 (2004).  Topological atoms are sharp and need a grid of their own (:mod:`fflux_py.iqa.qtaim.basins`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.iqa.atomic_energies import (
    AtomicEnergies,
    WeightFunction,
    integrate_fuzzy_atoms,
    integrate_topological_atoms,
)
from fflux_py.iqa.scf._becke_cells import cell_shifts, cell_weights
from fflux_py.iqa.scf._pyscf import load_pyscf
from fflux_py.iqa.scf.electronic_structure import GroundState
from fflux_py.iqa.scf.free_atoms import compute_free_atom_density
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

NO_PARTITION: Final = "none"
"""The name that stands for energies and forces alone."""


@dataclass(frozen=True)
class Partition:
    """A way to divide the energy of a molecule among its atoms.

    Parameters
    ----------
    name
        Its name in commands, data sets and results.
    integrate
        Function that integrates the energies of the atoms from a converged ground state.
    """

    name: str
    integrate: Callable[[GroundState], AtomicEnergies]


def fuzzy_partition(name: str, weights: WeightFunction) -> Partition:
    """Return the partition into atoms that overlap, given by their weights at every point."""
    return Partition(name, partial(integrate_fuzzy_atoms, weights=weights))


def hirshfeld(molecule: Molecule, level: LevelOfTheory, points: FloatArray) -> FloatArray:
    """Hirshfeld weights, from the spherically averaged densities of the neutral free atoms at the same level.

    Evaluated as a softmax of the logarithms, which stays defined where every density underflows.
    """
    logarithms = np.empty((molecule.n_atoms, len(points)))
    for atom, symbol in enumerate(molecule.symbols):
        distance = np.linalg.norm(points - molecule.positions[atom], axis=1)
        logarithms[atom] = compute_free_atom_density(symbol, level).logarithm(distance)
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


PARTITIONS: Final = {
    partition.name: partition
    for partition in (
        Partition("qtaim", integrate_topological_atoms),
        fuzzy_partition("hirshfeld", hirshfeld),
        fuzzy_partition("becke", becke),
    )
}
"""The partitions, by name."""


def check_partition(name: str) -> None:
    """Refuse a partition that does not exist.

    Raises
    ------
    InputError
        Naming the partitions that do.
    """
    if name != NO_PARTITION and name not in PARTITIONS:
        known = ", ".join([*sorted(PARTITIONS), NO_PARTITION])
        raise InputError("partition", f"one of {known}", repr(name), "correct the name")

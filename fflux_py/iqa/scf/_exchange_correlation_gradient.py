"""Gradient of the exchange-correlation energy on Becke's grid, contracted with the density as it is made.

The gradient of sum_g w_g e(rho, grad rho, tau) has three parts: the basis functions move with their atoms, the points
move with theirs, and the weights depend on all positions (B. G. Johnson, P. M. W. Gill, J. A. Pople, J. Chem. Phys. 98,
5612 (1993)).  With all three it is the exact derivative of the energy as computed.  Everything is written with occupied
orbitals, so that no derivative of a Fock matrix is built.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py.iqa.scf._becke_cells import cell_shifts, cell_weights, weighted_gradient
from fflux_py.iqa.scf._pyscf import load_pyscf, sum_by_atom
from fflux_py.typing import FloatArray

_BLOCK: Final = 4032
"""Points at a time: a multiple of PySCF's blocks of 56; 80 MB for 250 basis functions."""


def exchange_correlation_gradient(mean_field: Any, orbitals: FloatArray) -> FloatArray:
    """Gradient of the local part of the exchange-correlation energy of a closed shell.

    Parameters
    ----------
    mean_field
        PySCF's restricted Kohn-Sham object: molecule, functional (local, GGA or meta-GGA) and grid.
    orbitals
        Occupied orbitals, shape ``(n_basis, n_occupied)``.

    Returns
    -------
    gradient
        Hartree per bohr, ``(n_atoms, 3)``, without the response of the orbitals; its sum over atoms is zero.
    """
    mole, grids = mean_field.mol, mean_field.grids
    gradient = np.zeros((mole.natm, 3))
    kind = mean_field._numint._xc_type(mean_field.xc)
    if kind == "HF":
        return gradient
    centres = np.ascontiguousarray(mole.atom_coords())
    shifts = _shifts(mole, grids)
    table = grids.gen_atomic_grids(mole, grids.atom_grid, grids.radi_method, grids.level, grids.prune)
    for atom in range(mole.natm):
        points, volumes = table[mole.atom_symbol(atom)]
        points = points + centres[atom]
        weights = volumes * cell_weights(points, centres, shifts)[atom]
        energies = np.empty(len(points))
        moved = np.zeros((mole.nao, 3))
        for first in range(0, len(points), _BLOCK):
            block = slice(first, first + _BLOCK)
            energies[block] = _move_functions(mean_field, kind, points[block], weights[block], orbitals, moved)
        gradient += weighted_gradient(points, energies * volumes, atom, centres, shifts)
        gradient[atom] += 2.0 * moved.sum(axis=0)
        gradient -= 2.0 * sum_by_atom(mole, moved.T)
    return gradient


def _move_functions(
    mean_field: Any, kind: str, points: FloatArray, weights: FloatArray, orbitals: FloatArray, moved: FloatArray
) -> FloatArray:
    """Add half the derivative with the argument of every basis function to ``moved``; return energies per volume."""
    mole, numint = mean_field.mol, mean_field._numint
    pyscf = load_pyscf()
    mask = pyscf.dft.gen_grid.make_mask(mole, points)
    order = 1 if kind == "LDA" else 2
    values = numint.eval_ao(mole, points, deriv=order, non0tab=mask, cutoff=mean_field.grids.cutoff)
    functions = np.ascontiguousarray(values.transpose(0, 2, 1))
    rows = {"LDA": 1, "GGA": 4, "MGGA": 4}[kind]
    in_orbitals = [orbitals.T @ functions[row] for row in range(rows)]
    density = _density(in_orbitals, kind)
    energy, potential = numint.eval_xc_eff(mean_field.xc, density, 1, xctype=kind)[:2]
    potential = np.atleast_2d(potential) * weights
    potential[0] *= 0.5
    mixed = sum(row * values for row, values in zip(potential[:rows], in_orbitals, strict=True))
    pairs = 2.0 * (orbitals @ in_orbitals[0])
    first = 2.0 * (orbitals @ mixed) + potential[0] * pairs
    if kind == "LDA":
        moved += np.einsum("xmg,mg->mx", functions[1:4], first)
    else:
        second = potential[1:4, None] * pairs
        if kind == "MGGA":
            for axis in range(3):
                second[axis] += orbitals @ (potential[4] * in_orbitals[1 + axis])
        _contract(functions, first, second, moved)
    return np.asarray(energy * (density[0] if density.ndim == 2 else density))


def _density(in_orbitals: list[FloatArray], kind: str) -> FloatArray:
    """Density, its gradient and the kinetic energy density, as far as ``kind`` reads them; one row is no row."""
    density = 2.0 * np.einsum("ig,ig->g", in_orbitals[0], in_orbitals[0])
    if kind == "LDA":
        return np.asarray(density)
    rows = [density, *(4.0 * np.einsum("ig,ig->g", in_orbitals[0], axis) for axis in in_orbitals[1:])]
    if kind == "MGGA":
        rows.append(sum(np.einsum("ig,ig->g", axis, axis) for axis in in_orbitals[1:]))
    return np.stack(rows)


@njit(cache=True, fastmath=True)
def _contract(functions: FloatArray, first: FloatArray, second: FloatArray, moved: FloatArray) -> None:
    """Sum over points of d_x phi first + sum_y d_x d_y phi second_y for every function phi."""
    n_points = functions.shape[2]
    for m in range(functions.shape[1]):
        x = y = z = 0.0
        for g in range(n_points):
            a, b, c = second[0, m, g], second[1, m, g], second[2, m, g]
            xy, xz, yz = functions[5, m, g], functions[6, m, g], functions[8, m, g]
            x += functions[1, m, g] * first[m, g] + functions[4, m, g] * a + xy * b + xz * c
            y += functions[2, m, g] * first[m, g] + xy * a + functions[7, m, g] * b + yz * c
            z += functions[3, m, g] * first[m, g] + xz * a + yz * b + functions[9, m, g] * c
        moved[m, 0] += x
        moved[m, 1] += y
        moved[m, 2] += z


def _shifts(mole: Any, grids: Any) -> FloatArray:
    """Becke's a_ab as PySCF's grid adjusts them: from the radii, or from their square roots (Treutler)."""
    radi = load_pyscf().dft.radi
    if grids.radii_adjust is None:
        return np.zeros((mole.natm, mole.natm))
    radii = np.asarray(grids.atomic_radii)[mole.atom_charges()]
    if grids.radii_adjust is radi.treutler_atomic_radii_adjust:
        radii = np.sqrt(radii)
    return cell_shifts(radii)

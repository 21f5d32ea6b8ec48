"""Nuclear gradient of the energy of a closed-shell Kohn-Sham state: every term contracted with the density at once.

    dE/dR = D . dh/dR + dE_JK/dR + dE_xc/dR - W . dS/dR + dV_nn/dR,    W = 2 C (C^T F C) C^T

(J. A. Pople, R. Krishnan, H. B. Schlegel, J. S. Binkley, Int. J. Quantum Chem. 16 S13, 225 (1979)).  The
energy-weighted density is made from the Fock matrix of the density itself, not from eigenvalues of one before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fflux_py.iqa.scf._density_fit_gradient import density_fit_gradient
from fflux_py.iqa.scf._exchange_correlation_gradient import exchange_correlation_gradient
from fflux_py.iqa.scf._pyscf import sum_by_atom
from fflux_py.typing import FloatArray


def energy_gradient(mean_field: Any, orbitals: FloatArray, fock: FloatArray, exchange_fraction: float) -> FloatArray:
    """Gradient of the energy, with the response of grid and fitting basis.

    Parameters
    ----------
    mean_field
        PySCF's restricted Kohn-Sham object, converged.
    orbitals
        Occupied orbitals, shape ``(n_basis, n_occupied)``.
    fock
        Fock matrix of their density, ``(n_basis, n_basis)``.
    exchange_fraction
        Fraction of exact exchange.

    Returns
    -------
    gradient
        Hartree per bohr, ``(n_atoms, 3)``.
    """
    mole = mean_field.mol
    pieces = mean_field.nuc_grad_method()
    density = 2.0 * orbitals @ orbitals.T
    weighted = 2.0 * orbitals @ (orbitals.T @ fock @ orbitals) @ orbitals.T
    core_of_atom = pieces.hcore_generator(mole)
    gradient = np.asarray(pieces.grad_nuc()) + exchange_correlation_gradient(mean_field, orbitals)
    gradient += [np.einsum("xij,ij->x", core_of_atom(atom), density) for atom in range(mole.natm)]
    gradient -= 2.0 * sum_by_atom(mole, np.einsum("xij,ij->xi", pieces.get_ovlp(mole), weighted))
    if hasattr(mean_field, "with_df"):
        gradient += density_fit_gradient(mole, mean_field.with_df.auxmol, orbitals, exchange_fraction)
    else:
        coulomb, exchange = pieces.get_jk(mole, density)
        two_electron = coulomb - 0.5 * exchange_fraction * exchange
        gradient += 2.0 * sum_by_atom(mole, np.einsum("xij,ij->xi", two_electron, density))
    return gradient

"""Moller-Plesset perturbation theory of second order, by PySCF: energy and analytic gradient, all electrons correlated.

C. Moller, M. S. Plesset, Phys. Rev. 46, 618 (1934).  No density fitting, on a Hartree-Fock solution of its own.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from fflux_py.errors import ConvergenceError
from fflux_py.iqa.scf._pyscf import load_pyscf, no_checkpoint_files
from fflux_py.typing import FloatArray

_CONVERGENCE: Final = 1e-11
_GRADIENT_CONVERGENCE: Final = 1e-7


def mp2_energy_and_gradient(mole: Any, density: FloatArray) -> tuple[float, FloatArray]:
    """Total energy (hartree) and gradient (hartree/bohr, ``(n_atoms, 3)``) of a closed shell.

    Parameters
    ----------
    mole
        PySCF's molecule.
    density
        Density matrix that the Hartree-Fock iterations start from.

    Raises
    ------
    ConvergenceError
        Hartree-Fock does not converge.
    """
    pyscf = load_pyscf()
    with no_checkpoint_files():
        mean_field = pyscf.scf.RHF(mole)
    mean_field.conv_tol, mean_field.conv_tol_grad = _CONVERGENCE, _GRADIENT_CONVERGENCE
    mean_field.kernel(dm0=density)
    if not mean_field.converged:
        raise ConvergenceError("Hartree-Fock of MP2", f"convergence to {_CONVERGENCE:g} hartree", "no convergence")
    correlation = pyscf.mp.MP2(mean_field)
    correlation.kernel()
    return float(correlation.e_tot), np.asarray(correlation.nuc_grad_method().kernel())

"""Self-consistent field of a closed shell that pays for the final integration grid three times, not at every cycle.

Most of a Kohn-Sham cycle with density fitting is the exchange-correlation potential on the grid.  A coarse grid gives
nearly the same *change* of the potential with the density, so the cycles run with V_coarse[D] + dV, where
dV = V_fine[D_k] - V_coarse[D_k] is constant; when they have converged dV is renewed at the new density.  A fixed point
of that is one of the fine grid alone: whether it is reached is judged by the fine potential only, by its orbital
gradient and by the energy that one more Newton step could gain (diagonal Hessian), sum g_ai^2 / 2 (e_a - e_i).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from fflux_py.iqa.scf._pyscf import load_pyscf
from fflux_py.typing import FloatArray

_COARSE_GRID_LEVEL: Final = 0
# Orbital gradients at which the correction is made, and renewed; then it is renewed near the threshold itself.
_STAGES: Final = (2e-2, 3e-4)
_MARGIN: Final = 0.4


def run_two_grid_scf(
    mean_field: Any, grid_level: int, convergence: float, gradient_convergence: float
) -> FloatArray | None:
    """Converge a restricted Kohn-Sham object, which ends with the fine grid, its orbitals, energy and summary.

    Parameters
    ----------
    mean_field
        PySCF's object; its start density depends on the geometry alone, so the result does as well.
    grid_level
        PySCF's level of the grid that counts.
    convergence
        Energy still to gain, hartree.
    gradient_convergence
        Norm of the orbital gradient 2 F_ai.

    Returns
    -------
    fock
        Fock matrix of the final density, ``(n_basis, n_basis)``; None if ``mean_field.max_cycle`` cycles did not do.
    """
    pyscf = load_pyscf()
    mole = mean_field.mol
    core, overlap = mean_field.get_hcore(), mean_field.get_ovlp()
    fine = coarse = _grid(mole, grid_level)
    if grid_level > _COARSE_GRID_LEVEL and mean_field._numint._xc_type(mean_field.xc) != "HF":
        coarse = _grid(mole, _COARSE_GRID_LEVEL)
    thresholds = [*_STAGES] if coarse is not fine else []
    mean_field.grids = coarse
    fock = core + np.asarray(mean_field.get_veff(mole, mean_field.get_init_guess()))
    mean_field.converged = False
    correction = np.zeros_like(core)
    history = pyscf.scf.diis.CDIIS()
    energies, orbitals = mean_field.eig(fock, overlap)
    for _ in range(mean_field.max_cycle):
        density = _density(mean_field, energies, orbitals)
        mean_field.grids = coarse
        potential = mean_field.get_veff(mole, density)
        fock = core + np.asarray(potential) + correction
        threshold = thresholds[0] if thresholds else _MARGIN * gradient_convergence
        if np.linalg.norm(_gradient(fock, orbitals, mole)) < threshold:
            thresholds = thresholds[1:]
            if coarse is not fine:
                mean_field.grids = fine
                approximate, potential = np.asarray(potential), mean_field.get_veff(mole, density)
                correction = np.asarray(potential) - approximate
                fock = core + np.asarray(potential)
                history = pyscf.scf.diis.CDIIS()
            gradient = _gradient(fock, orbitals, mole)
            n_occupied = gradient.shape[1]
            gaps = energies[n_occupied:, None] - energies[None, :n_occupied]
            to_gain = float(np.sum(gradient**2 / (2.0 * gaps)))
            if np.linalg.norm(gradient) < gradient_convergence and abs(to_gain) < convergence:
                mean_field.mo_coeff, mean_field.mo_energy = orbitals, energies
                mean_field.e_tot = mean_field.energy_tot(density, core, potential)
                mean_field.converged = math.isfinite(mean_field.e_tot)
                break
        energies, orbitals = mean_field.eig(history.update(overlap, density, fock), overlap)
    return fock if mean_field.converged else None


def _grid(mole: Any, level: int) -> Any:
    grid = load_pyscf().dft.gen_grid.Grids(mole)
    grid.level = level
    grid.build(with_non0tab=True)
    return grid


def _density(mean_field: Any, energies: FloatArray, orbitals: FloatArray) -> Any:
    """Density of the lowest orbitals; its only source are the occupied ones, as for orbitals from a file."""
    occupied = np.zeros(len(energies))
    n_occupied = mean_field.mol.nelectron // 2
    occupied[:n_occupied] = 2.0
    mean_field.mo_occ = occupied
    return mean_field.make_rdm1(np.ascontiguousarray(orbitals[:, :n_occupied]), occupied[:n_occupied])


def _gradient(fock: FloatArray, orbitals: FloatArray, mole: Any) -> FloatArray:
    """2 F_ai, PySCF's norm of convergence."""
    n_occupied = mole.nelectron // 2
    return np.asarray(2.0 * orbitals[:, n_occupied:].T @ fock @ orbitals[:, :n_occupied])

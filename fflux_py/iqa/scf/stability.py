r"""Whether a restricted solution is a minimum when electrons may unpair, and whether the molecule is a closed shell.

A restricted determinant with a small gap between occupied and empty orbitals may lie above one with unpaired spins: in
stretched bonds, biradicals and triplet ground states.  The lowest eigenvalue of the second derivatives of the energy by
rotations of spin-up against spin-down orbitals tells (J. Cizek, J. Paldus, J. Chem. Phys. 47, 3976 (1967); R. Seeger,
J. A. Pople, J. Chem. Phys. 66, 3045 (1977)).  Below zero the solution is unstable.  The eigenvalue is sought only where
the gap is small, from the two lowest transitions; where these alone are far from zero, no further.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fflux_py.errors import ConvergenceError
from fflux_py.iqa.scf._pyscf import load_pyscf
from fflux_py.typing import FloatArray

SMALL_GAP: Final = 0.12
"""Gaps (hartree) below this, and :data:`SMALL_GAP_OF_EXCHANGE` for each unit of exact exchange, are looked into."""
SMALL_GAP_OF_EXCHANGE: Final = 0.35
_TRANSITIONS: Final = 2
# Estimates of the eigenvalue (hartree) from which no iterations follow, and below which a solution is unstable.
_FAR_FROM_ZERO: Final = 0.06
_UNSTABLE: Final = -1e-5
_TOLERANCE: Final = 1e-3
_MOST_ITERATIONS: Final = 8


@dataclass(frozen=True)
class Stability:
    """What is known of a restricted solution.

    Parameters
    ----------
    gap
        Between the highest occupied and the lowest empty orbital, hartree; infinity if there is no empty one.
    eigenvalue
        Lowest eigenvalue for unpaired spins, hartree, or an upper bound of it; None where the gap is large.
    """

    gap: float
    eigenvalue: float | None = None

    def as_dict(self) -> dict[str, float]:
        """For the label, hartree; without the eigenvalue where it is not known."""
        values = {"gap": self.gap} if np.isfinite(self.gap) else {}
        return values if self.eigenvalue is None else {**values, "eigenvalue": self.eigenvalue}

    def require_stable(self, what: str) -> None:
        """Refuse an unstable solution.

        Parameters
        ----------
        what
            Name of the geometry, for the message.

        Raises
        ------
        ConvergenceError
            Naming gap and eigenvalue.
        """
        if not self.stable:
            raise ConvergenceError(
                f"SCF of {what}", "a closed shell, whose energy unpaired spins do not lower",
                f"an unstable restricted solution (gap {self.gap:.3f}, eigenvalue {self.eigenvalue:.3f} hartree)",
                "a biradical, a triplet or a broken bond: leave the geometry out, or keep such labels "
                "(--keep-unstable, in another folder)",
            )  # fmt: skip

    @property
    def stable(self) -> bool:
        """Whether unpairing electrons does not lower the energy, as far as it was looked into."""
        return self.eigenvalue is None or self.eigenvalue >= _UNSTABLE


def is_small(gap: float, exchange_fraction: float) -> bool:
    """Whether a gap (hartree) calls for a closer look, for this fraction of exact exchange."""
    return gap < SMALL_GAP + SMALL_GAP_OF_EXCHANGE * exchange_fraction


def judge_stability(mean_field: Any, fock: FloatArray, exchange_fraction: float, always: bool = False) -> Stability:
    """Judge a converged restricted solution; it stays as it is.

    Parameters
    ----------
    mean_field
        PySCF's restricted object, converged; orbitals beyond the occupied ones are not needed.
    fock
        Fock matrix of its density.
    exchange_fraction
        Fraction of exact exchange.
    always
        Look into it whatever the gap.
    """
    energies, orbitals = mean_field.eig(fock, mean_field.get_ovlp())
    n_occupied = mean_field.mol.nelectron // 2
    if n_occupied == len(energies):
        return Stability(float("inf"))
    gap = float(energies[n_occupied] - energies[n_occupied - 1])
    if not always and not is_small(gap, exchange_fraction):
        return Stability(gap)
    judged = copy.copy(mean_field)
    judged.mo_coeff, judged.mo_energy = orbitals, energies
    judged.mo_occ = np.where(np.arange(len(energies)) < n_occupied, 2.0, 0.0)
    return Stability(gap, _lowest_eigenvalue(judged, n_occupied))


def _lowest_eigenvalue(mean_field: Any, n_occupied: int) -> float:
    occupied, empty = mean_field.mo_coeff[:, :n_occupied], mean_field.mo_coeff[:, n_occupied:]
    energies = mean_field.mo_energy
    gaps = energies[n_occupied:, None] - energies[None, :n_occupied]
    response = mean_field.gen_response(singlet=False, hermi=1)

    def product(rotation: FloatArray) -> FloatArray:
        x = rotation.reshape(gaps.shape)
        change = empty @ (2.0 * x) @ occupied.T
        return np.asarray((gaps * x + empty.T @ response(change + change.T) @ occupied).ravel())

    lowest = np.argsort(gaps.ravel(), kind="stable")[:_TRANSITIONS]
    start = [np.eye(1, gaps.size, int(k))[0] for k in lowest]
    estimates = [float(product(vector)[k]) for vector, k in zip(start, lowest, strict=True)]
    if min(estimates) > _FAR_FROM_ZERO or min(estimates) < _UNSTABLE:
        return min(estimates)

    def precondition(residual: FloatArray, eigenvalue: float, _: object) -> FloatArray:
        shifted = gaps.ravel() - eigenvalue
        return np.asarray(residual / np.where(np.abs(shifted) < 1e-8, 1e-8, shifted))

    eigenvalue, _ = load_pyscf().lib.davidson(
        product, start, precondition, tol=_TOLERANCE, max_cycle=_MOST_ITERATIONS, verbose=0
    )
    return float(eigenvalue)

r"""The joint Gaussian process of all atomic energies, the total energy and all forces: its solution.

Each atom's energy is a Gaussian process over the embedded features z of its local frame.  Observed are atomic energies
(where the partition was made), total energies :math:`\sum_A E_A` and forces :math:`-\sum_A J_A^T \nabla_z E_A` with
:math:`J_A = dz_A/dx`.  With a coefficient for every observation, atom A's posterior mean in the *derivative basis* is

.. math:: E_A(z) = \mu_A + \sum_j w_{Aj} k(z, z_{Aj}) + \sum_j u_{Aj} \cdot \partial_{z'} k(z, z')|_{z_{Aj}},

where :math:`w_{Aj}` collects the coefficients of geometry j's energies and :math:`u_{Aj} = -J_{Aj} v_j` maps those of
its forces, which all atoms share.  The linear system is solved for the data and for a unit mean of every atom, so that
the prior mean stays a choice after training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fflux_py.errors import InputError
from fflux_py.molecule import read_only
from fflux_py.potential import FloatArray


@dataclass(frozen=True)
class JointFit:
    """Coefficients of the observations.

    The order of observations: the atomic energies of the partitioned geometries (atom by atom), the total energies, the
    forces (geometry, atom, component).

    Parameters
    ----------
    positions
        Training geometries in bohr, shape ``(N, n, 3)``.
    partitioned
        Which of them have atomic energies, shape ``(N,)``, bool.
    centres
        Atomic energies at which the data were centred, hartree, shape ``(n,)``.
    variances
        Prior variance of every atom's energy, hartree^2, shape ``(n,)``.
    coefficients
        Column 0 for the centred data, column 1 + B for a unit mean of atom B; shape ``(n_observations, 1 + n)``.
    noises
        Standard deviations assumed for atomic energies, total energies (hartree) and forces (hartree/bohr).
    """

    positions: FloatArray
    partitioned: np.ndarray
    centres: FloatArray
    variances: FloatArray
    coefficients: FloatArray
    noises: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in ("positions", "centres", "variances", "coefficients"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        object.__setattr__(self, "partitioned", read_only(self.partitioned, np.bool_))
        object.__setattr__(self, "noises", tuple(float(x) for x in self.noises))
        n_geometries, n_atoms, _ = self.positions.shape
        expected = (n_observations(self.partitioned, n_atoms), 1 + n_atoms)
        if self.partitioned.shape != (n_geometries,) or self.coefficients.shape != expected:
            raise InputError("joint fit", f"coefficients of shape {expected}", f"shape {self.coefficients.shape}")

    def shifted(self, means: FloatArray) -> FloatArray:
        """Coefficients for the prior means ``means`` (hartree, shape ``(n,)``), shape ``(n_observations,)``."""
        return np.asarray(self.coefficients[:, 0] - self.coefficients[:, 1:] @ (np.asarray(means) - self.centres))

    def gls_means(self) -> FloatArray:
        """Generalised-least-squares estimate of all prior means, hartree, shape ``(n,)``."""
        n_geometries, n_atoms, _ = self.positions.shape
        n_partitioned = int(self.partitioned.sum())
        totals = n_partitioned * n_atoms
        sums = self.coefficients[:totals].reshape(n_atoms, n_partitioned, 1 + n_atoms).sum(axis=1)
        sums += self.coefficients[totals : totals + n_geometries].sum(axis=0)
        return np.asarray(self.centres + np.linalg.solve(sums[:, 1:], sums[:, 0]))

    def atom_basis(self, atom: int, coefficients: FloatArray, jacobian: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights w (hartree, ``(N,)``) and slopes u (``(N, n_embedded)``) of one atom.

        Parameters
        ----------
        atom
            The atom.
        coefficients
            One coefficient for every observation.
        jacobian
            Derivatives of its embedded features by positions, shape ``(N, n_embedded, n, 3)``.
        """
        n_geometries, n_atoms, _ = self.positions.shape
        n_partitioned = int(self.partitioned.sum())
        totals = n_partitioned * n_atoms
        weights = coefficients[totals : totals + n_geometries].copy()
        weights[self.partitioned] += coefficients[atom * n_partitioned : (atom + 1) * n_partitioned]
        pulls = coefficients[totals + n_geometries :].reshape(n_geometries, n_atoms, 3)
        slopes = -np.einsum("jdac,jac->jd", jacobian, pulls)
        return self.variances[atom] * weights, self.variances[atom] * slopes


def n_observations(partitioned: np.ndarray, n_atoms: int) -> int:
    """Number of observations: n for a partition, one total energy and 3n forces for a geometry."""
    return int(partitioned.sum()) * n_atoms + len(partitioned) * (1 + 3 * n_atoms)

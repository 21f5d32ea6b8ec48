r"""The joint Gaussian process of all atomic energies, the total energy and all forces: its solution.

Each atom's energy is a Gaussian process over the embedded features z of its local frame.  Observed are atomic energies
(where the partition was made), total energies :math:`\sum_A E_A` and forces :math:`-\sum_A J_A^T \nabla_z E_A` with
:math:`J_A = dz_A/dx`.  With a coefficient for every observation, atom A's posterior mean in the *derivative basis* is

.. math:: E_A(z) = \mu_A + \sum_j w_{Aj} k(z, z_{Aj}) + \sum_j u_{Aj} \cdot \partial_{z'} k(z, z')|_{z_{Aj}},

where :math:`w_{Aj}` collects the coefficients of geometry j's energies and :math:`u_{Aj} = -J_{Aj} v_j` maps those of
its forces, which all atoms share.  The linear system is solved for the data and for a unit mean of every atom, so that
the prior mean stays a choice after training.

With a symmetry (:mod:`fflux_py.molecules.symmetry`) the covariance is summed over its operations: every geometry stands
with all its images among the points, with the same coefficients, permuted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fflux_py._compiled.point_arrays import ROTOR
from fflux_py.errors import InputError
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureKind, FeatureSet, feature_form, feature_jacobian, features
from fflux_py.gp.observations import Observations
from fflux_py.gp.radial_kernel import RadialKernel
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.molecules.molecule import read_only
from fflux_py.molecules.symmetry import Symmetry, no_symmetry
from fflux_py.typing import FloatArray, IntArray


@dataclass(frozen=True)
class JointFit:
    """Coefficients of the observations.

    The order of observations is that of :class:`fflux_py.gp.observations.Observations`.

    Parameters
    ----------
    positions
        Training geometries in bohr, shape ``(N, n, 3)``.
    partitioned
        Which of them have atomic energies, shape ``(N,)``, bool.
    centres
        Atomic energies at which the data were centred, hartree, shape ``(n,)``.
    variances
        Prior variance of every atom's energy in one of its frames, that of all its kernels, hartree^2, shape ``(n,)``.
    coefficients
        Column 0 for the centred data, column 1 + B for a unit mean of atom B; shape ``(n_observations, 1 + n)``.  With
        symmetry only sums over equivalent atoms have a meaning: their means are alike.
    noises
        Standard deviations assumed for atomic energies, total energies (hartree) and forces (hartree/bohr).
    symmetry
        The operations under which the covariance is invariant; none if not given.
    """

    positions: FloatArray
    partitioned: np.ndarray
    centres: FloatArray
    variances: FloatArray
    coefficients: FloatArray
    noises: tuple[float, float, float]
    symmetry: Symmetry | None = None

    def __post_init__(self) -> None:
        for name in ("positions", "centres", "variances", "coefficients"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        object.__setattr__(self, "partitioned", read_only(self.partitioned, np.bool_))
        object.__setattr__(self, "noises", tuple(float(x) for x in self.noises))
        n_geometries, n_atoms, _ = self.positions.shape
        expected = (self.observations.count, 1 + n_atoms)
        if self.partitioned.shape != (n_geometries,) or self.coefficients.shape != expected:
            raise InputError("joint fit", f"coefficients of shape {expected}", f"shape {self.coefficients.shape}")

    def shifted(self, means: FloatArray) -> FloatArray:
        """Coefficients for the prior means ``means`` (hartree, shape ``(n,)``), shape ``(n_observations,)``."""
        return np.asarray(self.coefficients[:, 0] - self.coefficients[:, 1:] @ (np.asarray(means) - self.centres))

    @cached_property
    def observations(self) -> Observations:
        """What is observed, and the order of the coefficients."""
        return Observations(self.partitioned, self.positions.shape[1])

    @property
    def operations(self) -> Symmetry:
        """The symmetry, or the identity alone."""
        return self.symmetry or no_symmetry(self.positions.shape[1])

    def gls_means(self) -> FloatArray:
        """Generalised-least-squares estimate of all prior means (alike for equivalent atoms), hartree, ``(n,)``."""
        sums = self.observations.atomic_part(self.coefficients).sum(axis=1)
        sums += self.coefficients[self.observations.totals].sum(axis=0)
        orbits = self.operations.orbit_numbers()
        alike = np.eye(orbits.max() + 1)[orbits]
        normal = alike.T @ sums[:, 1:] @ alike
        return np.asarray(self.centres + alike @ np.linalg.solve(normal, alike.T @ sums[:, 0]))

    def unit_mean(self, atom: int) -> FloatArray:
        """Coefficients for a unit mean of an atom and of those equivalent to it, shape ``(n_observations,)``."""
        orbits = self.operations.orbits()
        return np.asarray(self.coefficients[:, 1 + np.flatnonzero(orbits == orbits[atom])].sum(axis=1))

    def atom_basis(self, basis: FrameBasis, variance: float, coefficients: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights w (hartree, ``(n_images * N,)``) and slopes u (``(n_images * N, n_embedded)``) of one kernel.

        Parameters
        ----------
        basis
            The frame's points, and the kernel.
        variance
            The kernel's prior variance, hartree^2.
        coefficients
            One coefficient for every observation.
        """
        of_atoms, of_totals, pulls = self.observations.split(coefficients)
        atom = basis.frame.atom
        weights, slopes = [], []
        for k, (permutation, mirror) in enumerate(zip(basis.permutations, basis.mirrors, strict=True)):
            weights.append(of_totals + of_atoms[permutation[atom]])
            turned = self.operations.apply(pulls, permutation, bool(mirror))
            slopes.append(-np.einsum("jdac,jac->jd", basis.jacobian(k), turned))
        return variance * np.concatenate(weights), variance * np.concatenate(slopes)


@dataclass(frozen=True)
class FrameBasis:
    """One frame's training points: all geometries under all operations that do not factorise in its kernel.

    Parameters
    ----------
    frame, kind, covariance
        The frame, its features and its kernel.
    permutations, mirrors
        The operations, shapes ``(n_images, n_atoms)`` and ``(n_images,)``.
    images
        Images of the training geometries, bohr, shape ``(n_images, N, n_atoms, 3)``.
    """

    frame: LocalFrame
    kind: FeatureKind
    covariance: Covariance
    permutations: IntArray
    mirrors: np.ndarray
    images: FloatArray

    def features(self) -> FloatArray:
        """Features of all points, image by image, shape ``(n_images * N, n_features)``."""
        return features(self.images.reshape(-1, *self.images.shape[2:]), self.frame, self.kind)

    def jacobian(self, image: int) -> FloatArray:
        """Derivatives of one image's embedded features by the image's positions, ``(N, n_embedded, n_atoms, 3)``."""
        x = features(self.images[image], self.frame, self.kind)
        return self.covariance.embed_jacobian(x, feature_jacobian(self.images[image], self.frame, self.kind))


def frame_basis(
    symmetry: Symmetry, positions: FloatArray, frame: LocalFrame, kind: FeatureKind, covariance: Covariance
) -> FrameBasis:
    """The training points of one frame, for geometries in bohr, shape ``(N, n_atoms, 3)``."""
    factorised = rotors_factorise(kind, covariance.kernel)
    permutations, mirrors = symmetry.images(frame, factorised)
    images = [symmetry.apply(positions, p, bool(m)) for p, m in zip(permutations, mirrors, strict=True)]
    return FrameBasis(frame, kind, covariance, permutations, mirrors, np.array(images))


def rotors_factorise(kind: FeatureKind, kernel: RadialKernel) -> bool:
    """Whether a rotor's permutations factorise: a kernel that factorises of four plain features of every other atom."""
    of_other = feature_form(kind).of_other
    plain = len(of_other) == ROTOR // 3 and not any(column.azimuth for column in of_other)
    return plain and kernel.factorises


def rotor_features(symmetry: Symmetry, frame: LocalFrame, kind: FeatureKind, covariance: Covariance) -> IntArray:
    """Indices of the features of the atoms of every factorised rotor, shape ``(n_rotors, 3, 4)``.

    Rotors without influence (theta is zero) are left out: their permutations change nothing.
    """
    if not rotors_factorise(kind, covariance.kernel):
        return np.zeros((0, 3, 4), dtype=np.int64)
    columns = FeatureSet(kind, symmetry.n_atoms).columns_of_others(frame)
    chosen = [symmetry.rotors[m] for m in symmetry.factorised_rotors(frame)]
    rows = [[columns[int(atom)] for atom in atoms] for atoms in chosen]
    return influential_rotors(np.array(rows, dtype=np.int64).reshape(-1, 3, 4), covariance)


def influential_rotors(rotors: IntArray, covariance: Covariance) -> IntArray:
    """Those rotors any of whose features has a theta that is not zero."""
    return rotors[(covariance.theta[rotors] > 0.0).any(axis=(1, 2))]


def rotors_last(rotors: IntArray, n_embedded: int) -> IntArray:
    """Embedded coordinates with those of the rotors at the end, rotor by rotor, atom by atom."""
    inside = np.ravel(rotors)
    return np.concatenate([np.setdiff1d(np.arange(n_embedded), inside), inside]).astype(np.int64)

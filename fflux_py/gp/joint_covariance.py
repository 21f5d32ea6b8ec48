r"""Energies and forces together: the covariance of all observations of the joint Gaussian process.

With the kernel k(s), :math:`s = |z - z'|^2`, :math:`\Delta = z - z'` and primes on k for derivatives by s,

.. math:: cov(\nabla_z E, E') = 2 k' \Delta, \quad
          cov(\nabla_z E, \nabla_{z'} E') = -2 k' I - 4 k'' \Delta\Delta^T.

The Jacobians of the embedded features carry these to forces.  With a symmetry the covariance with a geometry is the sum
over the geometry's images, and an atom with several frames is the sum over its frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from scipy.linalg import get_lapack_funcs

from fflux_py._compiled.covariances import KernelForm, add_covariances
from fflux_py.errors import ConvergenceError
from fflux_py.gp.covariance import Azimuth, Covariance
from fflux_py.gp.features import FeatureKind, FeatureSet, feature_jacobian
from fflux_py.gp.joint_fit import JointFit, frame_basis, influential_rotors, rotor_features, rotors_last
from fflux_py.gp.observations import Observations
from fflux_py.gp.radial_kernel import RadialKernel
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.molecules.symmetry import Symmetry
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

NOISE_ATOMIC: Final = 1.0 / KCAL_MOL
NOISE_TOTAL: Final = 0.02 / KCAL_MOL
NOISE_FORCE: Final = 0.03 / KCAL_MOL_ANGSTROM
# Of the Cholesky factorisation: columns of a block, and rows that are updated at a time.
_BLOCK: Final = 1024
_ROWS: Final = 4096
# Operations on an entry of the matrix in its making, over those of a multiplication in the factorisation.
_BUILD_COST: Final = 1.7


@dataclass(frozen=True)
class JointData:
    """Training data of the joint fit, in atomic units.

    Parameters
    ----------
    positions, energies, forces
        Shapes ``(N, n, 3)``, ``(N,)`` and ``(N, n, 3)``.
    atomic_energies
        Shape ``(N, n)``; a row of NaN where a geometry has no partition.
    atomic_errors
        Integration errors of the atomic energies, shape ``(N, n)``; NaN where they are not known.
    """

    positions: FloatArray
    energies: FloatArray
    forces: FloatArray
    atomic_energies: FloatArray
    atomic_errors: FloatArray

    @property
    def partitioned(self) -> np.ndarray:
        """Which geometries have atomic energies."""
        return np.asarray(~np.isnan(self.atomic_energies).any(axis=1))

    @property
    def observations(self) -> Observations:
        """What is observed, and its order."""
        return Observations(self.partitioned, self.positions.shape[1])

    def centres(self, symmetry: Symmetry) -> FloatArray:
        """Mean atomic energies, alike for equivalent atoms.

        An equal share of the mean total energy where no geometry has a partition.
        """
        if not self.partitioned.any():
            n_atoms = self.positions.shape[1]
            return np.full(n_atoms, self.energies.mean() / n_atoms)
        means = self.atomic_energies[self.partitioned].mean(axis=0)
        orbits = symmetry.orbit_numbers()
        return np.asarray((np.bincount(orbits, means) / np.bincount(orbits))[orbits])

    def subset(self, indices: IntArray) -> JointData:
        """The geometries with these indices."""
        return JointData(*(np.array(getattr(self, f.name)[indices]) for f in fields(self)))

    def right_hand_sides(self, symmetry: Symmetry) -> FloatArray:
        """Centred observations and the observations of a unit mean of every atom, ``(n_observations, 1 + n)``."""
        observations = self.observations
        right = np.zeros((observations.count, 1 + observations.n_atoms))
        centres = self.centres(symmetry)
        right[observations.atoms, 0] = (self.atomic_energies[observations.partitioned] - centres).T.ravel()
        right[observations.totals, 0] = self.energies - centres.sum()
        right[observations.forces, 0] = self.forces.ravel()
        for b in range(observations.n_atoms):
            right[observations.atom(b), 1 + b] = 1.0
        right[observations.totals, 1:] = 1.0
        return right


@dataclass(frozen=True)
class JointModel:
    """What is modelled: everything but the data and the hyperparameters.

    Parameters
    ----------
    frames
        The frames of all kernels, ascending by atom.  With symmetry an atom may have several frames, and a frame stands
        as often as it has kernels, whose sum is its covariance.
    kind, kernel, azimuth
        Features, radial kernel, and what happens to azimuths.
    symmetry
        The operations under which the covariance is invariant.
    noises
        Standard deviations of atomic energies, total energies (hartree) and forces (hartree/bohr).
    """

    frames: tuple[LocalFrame, ...]
    kind: FeatureKind
    kernel: RadialKernel
    azimuth: Azimuth
    symmetry: Symmetry
    noises: tuple[float, float, float] = (NOISE_ATOMIC, NOISE_TOTAL, NOISE_FORCE)

    def unscaled(self, n_atoms: int) -> Covariance:
        """The kernel with theta of one."""
        own = FeatureSet(self.kind, n_atoms)
        return Covariance(np.ones(own.n_features), own.azimuths, self.kernel, self.azimuth)


@dataclass(frozen=True)
class FramePoints:
    """One frame's features over the images of all geometries, by the coordinates of the geometries themselves.

    Parameters
    ----------
    values
        Features, shape ``(n_images, N, n_features)``.
    jacobians
        Their derivatives by the geometries' positions, shape ``(n_images, N, n_features, n, 3)``.
    permutations
        Of the images, shape ``(n_images, n)``.
    rotors
        Features of the rotors' atoms, shape ``(n_rotors, 3, 4)``.
    """

    values: FloatArray
    jacobians: FloatArray
    permutations: IntArray
    rotors: IntArray


def frame_points(model: JointModel, frame: LocalFrame, positions: FloatArray) -> FramePoints:
    """Features and derivatives of one frame: the same for all hyperparameters."""
    plain = model.unscaled(positions.shape[1])
    basis = frame_basis(model.symmetry, positions, frame, model.kind, plain)
    jacobians = []
    by_images = feature_jacobian(basis.images, frame, model.kind)
    for permutation, mirror, by_image in zip(basis.permutations, basis.mirrors, by_images, strict=True):
        jacobian = np.empty_like(by_image)
        jacobian[..., permutation, :] = -by_image if mirror else by_image
        jacobians.append(jacobian)
    values = basis.features().reshape(len(basis.images), len(positions), -1)
    rotors = rotor_features(model.symmetry, frame, model.kind, plain)
    return FramePoints(values, np.array(jacobians), basis.permutations, rotors)


def atoms_variances(model: JointModel, variance: float | FloatArray) -> FloatArray:
    """Prior variance of every atom's energy in its first frame, from those of the kernels: one for all, or one each."""
    first = {frame.atom: frame for frame in reversed(model.frames)}
    variances = np.zeros(len(first))
    for frame, of_kernel in zip(model.frames, np.broadcast_to(variance, len(model.frames)).tolist(), strict=True):
        if frame == first[frame.atom]:
            variances[frame.atom] += of_kernel
    return variances


def kernel_form(covariance: Covariance, rotors: IntArray) -> tuple[IntArray, KernelForm]:
    """Order of the embedded coordinates, those of rotors last, and the form of the kernel on them.

    Coordinates without influence (theta is zero) are left out.

    Parameters
    ----------
    covariance, rotors
        One frame's covariance, and the features of its rotors (:func:`fflux_py.gp.joint_fit.rotor_features`).
    """
    rotors = influential_rotors(rotors, covariance)
    order = rotors_last(rotors, covariance.n_embedded)
    theta = np.concatenate([covariance.theta, covariance.theta[covariance.expanded]])
    plain = order[: len(order) - rotors.size]
    order = np.concatenate([plain[theta[plain] > 0.0], order[len(plain) :]])
    # an atom of a rotor has a distance and the three components of a direction
    return order, KernelForm(covariance.kernel.code, len(order) - rotors.size, 4, len(rotors))


def covariance_matrix(
    data: JointData,
    model: JointModel,
    kernels: Sequence[Covariance],
    variance: float | FloatArray,
    points: Sequence[FramePoints] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FloatArray:
    """Lower triangle of the covariance of all observations, without noise; row-major, ``(n_obs, n_obs)``.

    Parameters
    ----------
    data, model, kernels, variance
        The data, the model, its kernels, and their prior variances (hartree^2), one for all or one for each.
    points
        The frames' features, if they are at hand; else they are made frame by frame.
    progress
        Called with the number of frames done and their total.
    """
    count, n_atoms, _ = data.positions.shape
    observations, variances = data.observations, np.broadcast_to(variance, len(kernels)).tolist()
    chosen, totals, of_forces = observations.with_atoms, observations.totals, observations.forces
    matrix = np.zeros((observations.count, observations.count))
    energies, with_forces = np.empty((count, count)), np.empty((3 * n_atoms * count, count))
    for done, (frame, kernel) in enumerate(zip(model.frames, kernels, strict=True)):
        if points is not None:
            own = points[done]
        elif done == 0 or frame != model.frames[done - 1]:
            own = frame_points(model, frame, data.positions)
        order, form = kernel_form(kernel, own.rotors)
        embedded = [embed_points(kernel, own, k, order) for k in range(len(own.values))]
        z = embedded[0][0]
        rows = np.ascontiguousarray(embedded[0][1].transpose(0, 2, 1))
        own_rows = observations.atom(frame.atom)
        for k, permutation in enumerate(own.permutations):
            forces = matrix[of_forces, of_forces]
            add_covariances(z, rows, *embedded[k], form, variances[done], energies, with_forces, forces)
            columns = observations.atom(int(permutation[frame.atom]))
            matrix[own_rows, columns] += energies[np.ix_(chosen, chosen)]
            matrix[totals, columns] += energies[:, chosen]
            matrix[totals, totals] += energies
            matrix[of_forces, columns] += with_forces[:, chosen]
            matrix[of_forces, totals] += with_forces
        if progress is not None:
            progress(done + 1, len(model.frames))
    return matrix


def embed_points(kernel: Covariance, points: FramePoints, image: int, order: IntArray) -> tuple[FloatArray, FloatArray]:
    """Embedded coordinates ``(N, d)`` of one image and their derivatives ``(N, d, 3n)``, rotors last."""
    values = points.values[image]
    z = np.ascontiguousarray(kernel.embed(values)[:, order])
    jacobian = kernel.embed_jacobian(values, points.jacobians[image])[:, order]
    return z, np.ascontiguousarray(jacobian.reshape(*z.shape, -1))


def noise_variances(data: JointData, noises: tuple[float, float, float]) -> FloatArray:
    """Noise variances of all observations, shape ``(n_observations,)``.

    Where the labels' integration errors are known their squares are added to the atomic energies' variance.
    """
    observations = data.observations
    variance = np.full(observations.count, noises[2] ** 2)
    errors = data.atomic_errors[observations.partitioned].T.ravel()
    variance[observations.atoms] = noises[0] ** 2 + np.nan_to_num(errors) ** 2
    variance[observations.totals] = noises[1] ** 2
    return variance


def add_noise(matrix: FloatArray, data: JointData, noises: tuple[float, float, float]) -> None:
    """Add the noise variances of atomic energies, total energies and forces to the diagonal, in place."""
    matrix[np.diag_indices_from(matrix)] += noise_variances(data, noises)


def cholesky_in_place(matrix: FloatArray, progress: Callable[[int, int], None] | None = None) -> None:
    """Factorise the lower triangle of a row-major symmetric matrix without a copy, by blocks of columns.

    Parameters
    ----------
    matrix
        Shape ``(n, n)``; what stands above the diagonal is not read.
    progress
        Called with the number of columns done and their total.

    Raises
    ------
    ConvergenceError
        The matrix is not positive definite (doubled geometries with contradicting labels cannot cause this, since
        noise stands on the diagonal; not-a-number in the labels can).
    """
    potrf, trtrs = get_lapack_funcs(("potrf", "trtrs"), (matrix,))
    n = len(matrix)
    for first in range(0, n, _BLOCK):
        last = min(first + _BLOCK, n)
        block = np.tril(matrix[first:last, first:last] - matrix[first:last, :first] @ matrix[first:last, :first].T)
        # The transpose of a row-major array is column-major, with the upper triangle filled: no copy is made.
        _, info = potrf(block.T, lower=False, overwrite_a=True, clean=False)
        if info != 0:
            found = f"pivot {first + info} that is not positive"
            raise ConvergenceError("joint covariance", "a positive definite matrix", found)
        matrix[first:last, first:last] = block
        for low in range(last, n, _ROWS):
            high = min(low + _ROWS, n)
            part = matrix[low:high, first:last] - matrix[low:high, :first] @ matrix[first:last, :first].T
            matrix[low:high, first:last] = trtrs(block.T, part.T, lower=False, trans=1, overwrite_b=True)[0].T
        if progress is not None:
            progress(last, n)


def solve_factored(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Solve with the factor left by :func:`cholesky_in_place`."""
    (potrs,) = get_lapack_funcs(("potrs",), (matrix,))
    solution, _ = potrs(matrix.T, np.asfortranarray(right), lower=False)
    return np.asarray(solution)


def solve(
    data: JointData,
    model: JointModel,
    kernels: Sequence[Covariance],
    variance: float | FloatArray,
    progress: Callable[[int, int], None] | None = None,
) -> JointFit:
    """Solve the joint system for the data and for a unit mean of every atom.

    Progress is counted in parts of the estimated work of making and factorising the matrix.
    """
    images = sum(len(model.symmetry.images(frame)[1]) for frame in model.frames)
    size = data.observations.count
    # An entry takes about 2 d multiplications for each image of each frame, and n / 3 in the factorisation.
    making = _BUILD_COST * images * kernels[0].n_embedded
    share = making / (making + size / 3.0)

    def built(done: int, total: int) -> None:
        if progress is not None:
            progress(int(1000 * share * done / total), 1000)

    def factorised(done: int, total: int) -> None:
        if progress is not None:
            # of the triangle's rows to the right of the columns that are done
            left = 1.0 - done / total
            progress(int(1000 * (share + (1.0 - share) * (1.0 - left**2 * (1.0 + 2.0 * done / total)))), 1000)

    matrix = covariance_matrix(data, model, kernels, variance, progress=built)
    add_noise(matrix, data, model.noises)
    cholesky_in_place(matrix, factorised)
    coefficients = solve_factored(matrix, data.right_hand_sides(model.symmetry))
    variances = atoms_variances(model, variance)
    symmetry = None if model.symmetry.trivial else model.symmetry
    return JointFit(
        data.positions, data.partitioned, data.centres(model.symmetry), variances, coefficients, model.noises, symmetry
    )

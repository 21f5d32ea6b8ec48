r"""Predictive variance of a joint fit, the information of the forces included.

The posterior variance of an energy of the geometry x, given all observations o with noise :math:`\Sigma`,

.. math:: \sigma^2(x) = k(x, x) - c^T (K + \Sigma)^{-1} c, \qquad c = cov(E(x), o),

needs the factor of a matrix of ten thousand rows and more.  Instead it is conditioned on the observations of the m
training geometries that are nearest to x, those whose total energies correlate most with that of x: the conditional
densities of Vecchia's approximation (A. Datta et al., J. Am. Stat. Assoc. 111, 800 (2016)).  The result is exact given
these observations, hence an upper bound of :math:`\sigma^2` that falls with m and reaches it where m is the number of
training geometries.  Nothing but the training geometries is stored for it.

The prior means count as known.  With symmetry the covariance is a sum over the operations, so k(x, x) depends on x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import solve_triangular

from fflux_py._compiled.covariances import KernelForm, kernel_rows
from fflux_py._compiled.jit import njit
from fflux_py.errors import InputError
from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.joint_covariance import (
    FramePoints,
    JointData,
    JointModel,
    add_noise,
    cholesky_in_place,
    covariance_matrix,
    frame_points,
    kernel_form,
)
from fflux_py.gp.joint_fit import JointFit, frame_basis
from fflux_py.typing import FloatArray, IntArray

NEIGHBOURS: Final = 16
"""Training geometries that a variance is conditioned on, unless a calibrated model says otherwise."""


@dataclass(frozen=True)
class _Frame:
    """One frame's kernel and its training points.

    Parameters
    ----------
    model
        The frame's model.
    order, form
        Order of the embedded coordinates, those of rotors last, and the form of the kernel.
    points
        Embedded training points of all images, shape ``(n_images, N, d)``.
    permutations
        Of the images, shape ``(n_images, n_atoms)``.
    """

    model: AtomicModel
    order: IntArray
    form: KernelForm
    points: FloatArray
    permutations: IntArray

    def embedded(self, values: FloatArray) -> FloatArray:
        """Embedded coordinates of features."""
        return np.ascontiguousarray(self.model.covariance.embed(values)[..., self.order])


class Posterior:
    """Predictive variances of a joint fit.

    Parameters
    ----------
    joint
        The solution.
    atoms
        The frames' models; of these the frames, features, kernels and rotors are used.
    """

    def __init__(self, joint: JointFit, atoms: Sequence[AtomicModel]) -> None:
        self._joint = joint
        covariance = atoms[0].covariance
        frames = tuple(model.frame for model in atoms)
        self._model = JointModel(
            frames, atoms[0].feature_kind, covariance.kernel, covariance.azimuth, joint.operations, joint.noises
        )
        self._frames = [self._prepared(model) for model in atoms]
        # Prior variance of the total energy of every training geometry.
        self._prior = np.zeros(len(joint.positions))
        for frame in self._frames:
            self._prior += frame.model.variance * _kernels_of_images(frame.points, frame.form).sum(axis=0)

    def variances(self, positions: FloatArray, neighbours: int = NEIGHBOURS) -> tuple[FloatArray, FloatArray]:
        """Posterior variances of the total energy and of the atomic energies (noise of labels not included).

        Parameters
        ----------
        positions
            Bohr, shape ``(m, n_atoms, 3)``.
        neighbours
            Training geometries to condition on; the cost grows with the third power, the variance falls.

        Returns
        -------
        total, atomic
            Hartree^2, shapes ``(m,)`` and ``(m, n_atoms)``.
        """
        if neighbours < 1:
            raise InputError("neighbours", "at least one", str(neighbours))
        total, atomic = np.empty(len(positions)), np.empty(positions.shape[:2])
        for k, geometry in enumerate(positions):
            total[k], atomic[k] = self._variance(geometry[None], neighbours)
        return total, atomic

    def nearest(self, positions: FloatArray, neighbours: int = NEIGHBOURS) -> IntArray:
        """Indices of the training geometries whose total energy correlates most with that of one geometry.

        Descending by correlation; positions in bohr, shape ``(1, n_atoms, 3)``.
        """
        return self._nearest([self._images(frame, positions) for frame in self._frames], neighbours)

    def _nearest(self, images: Sequence[FloatArray], neighbours: int) -> IntArray:
        """The same from the geometry's embedded coordinates (:meth:`_images`) in all frames."""
        covariance = np.zeros(len(self._prior))
        for frame, own in zip(self._frames, images, strict=True):
            covariance += frame.model.variance * _kernels_with(own[0, 0], frame.points, frame.form).sum(axis=0)
        order = np.argsort(-covariance / np.sqrt(self._prior), kind="stable")
        return np.asarray(order[:neighbours])

    def _prepared(self, model: AtomicModel) -> _Frame:
        kernel = model.covariance
        order, form = kernel_form(kernel, model.rotors)
        positions, kind = self._joint.positions, model.feature_kind
        basis = frame_basis(self._joint.operations, positions, model.frame, kind, kernel)
        values = basis.features().reshape(len(basis.permutations), len(positions), -1)
        embedded = np.ascontiguousarray(kernel.embed(values)[..., order])
        return _Frame(model, order, form, embedded, basis.permutations)

    def _images(self, frame: _Frame, positions: FloatArray) -> FloatArray:
        """Embedded coordinates of a geometry under all operations, shape ``(n_images, 1, d)``."""
        model = frame.model
        basis = frame_basis(self._joint.operations, positions, model.frame, model.feature_kind, model.covariance)
        return frame.embedded(basis.features())[:, None]

    def _variance(self, positions: FloatArray, neighbours: int) -> tuple[float, FloatArray]:
        """Total and atomic variances of one geometry, shape ``(1, n_atoms, 3)``."""
        images = [self._images(frame, positions) for frame in self._frames]
        data = self._observed(np.sort(self._nearest(images, neighbours)))
        points = [frame_points(self._model, frame.model.frame, data.positions) for frame in self._frames]
        rows, prior = self._with_observations(images, data, points)
        matrix = self._covariance(data, points)
        add_noise(matrix, data, self._joint.noises)
        cholesky_in_place(matrix)
        # The transpose of the row-major lower factor is the column-major upper one: no copy is made.
        explained = solve_triangular(matrix.T, rows.T, trans="T", check_finite=False)
        atomic = np.diag(prior) - (explained**2).sum(axis=0)
        total = prior.sum() - float((explained.sum(axis=1) ** 2).sum())
        return max(total, 0.0), np.maximum(atomic, 0.0)

    def _observed(self, chosen: IntArray) -> JointData:
        """The chosen training geometries; of the values observed only which there are matters."""
        positions = self._joint.positions[chosen]
        partitioned = self._joint.partitioned[chosen]
        energies = np.where(partitioned[:, None], 0.0, np.full(positions.shape[:2], np.nan))
        return JointData(positions, np.zeros(len(chosen)), np.zeros_like(positions), energies, np.zeros_like(energies))

    def _covariance(self, data: JointData, points: Sequence[FramePoints]) -> FloatArray:
        """Lower triangle of the covariance of the neighbours' observations."""
        kernels = [frame.model.covariance for frame in self._frames]
        variances = np.array([frame.model.variance for frame in self._frames])
        return covariance_matrix(data, self._model, kernels, variances, points)

    def _with_observations(
        self, images: Sequence[FloatArray], data: JointData, points: Sequence[FramePoints]
    ) -> tuple[FloatArray, FloatArray]:
        """Covariances of one geometry's atomic energies with observations ``(n, n_obs)`` and each other ``(n, n)``."""
        observations = data.observations
        n_atoms = observations.n_atoms
        rows, prior = np.zeros((n_atoms, observations.count)), np.zeros((n_atoms, n_atoms))
        for frame, own_images, own in zip(self._frames, images, points, strict=True):
            atom, variance = frame.model.frame.atom, frame.model.variance
            z = own_images[0, 0]
            with_itself = variance * _kernels_with(z, own_images, frame.form)[:, 0]
            for k, permutation in enumerate(frame.permutations):
                prior[atom, permutation[atom]] += with_itself[k]
                there = frame.embedded(own.values[k])
                jacobian = frame.model.covariance.embed_jacobian(own.values[k], own.jacobians[k])[:, frame.order]
                energies, slopes = _kernels_and_slopes(z, there, frame.form)
                of_atom = observations.atom(int(permutation[atom]))
                rows[atom, of_atom] += variance * energies[observations.with_atoms]
                rows[atom, observations.totals] += variance * energies
                rows[atom, observations.forces] -= variance * np.einsum("jd,jdac->jac", slopes, jacobian).ravel()
        return rows, prior


@njit(cache=True, error_model="numpy", nogil=True)
def _kernels_with(z: FloatArray, points: FloatArray, form: KernelForm) -> FloatArray:
    """Kernels between ``z`` and points, shape ``(n_images, N, d)`` to ``(n_images, N)``."""
    n_images, count, d = points.shape
    kernels, slopes = np.empty((n_images, count)), np.empty((d, count))
    for k in range(n_images):
        kernel_rows(z, points[k], form, kernels[k], slopes)
    return kernels


@njit(cache=True, error_model="numpy", nogil=True)
def _kernels_of_images(points: FloatArray, form: KernelForm) -> FloatArray:
    """Kernels between every geometry and its own images, shape ``(n_images, N, d)`` to ``(n_images, N)``."""
    n_images, count, d = points.shape
    kernels, slopes = np.empty((n_images, count)), np.empty((d, 1))
    for k in range(n_images):
        for j in range(count):
            kernel_rows(points[0, j], points[k, j : j + 1], form, kernels[k, j : j + 1], slopes)
    return kernels


@njit(cache=True, error_model="numpy", nogil=True)
def _kernels_and_slopes(z: FloatArray, points: FloatArray, form: KernelForm) -> tuple[FloatArray, FloatArray]:
    """Kernels between ``z`` and points ``(N, d)`` and their gradients by the points, shapes ``(N,)`` and ``(N, d)``."""
    count, d = points.shape
    kernels, slopes = np.empty(count), np.empty((count, d))
    one, column = np.empty(1), np.empty((d, 1))
    for j in range(count):
        # The kernel is symmetric: the gradient by the second argument is that by the first of the exchanged pair.
        kernel_rows(points[j], z.reshape(1, d), form, one, column)
        kernels[j] = one[0]
        slopes[j] = column[:, 0]
    return kernels, slopes

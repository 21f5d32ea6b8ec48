r"""Energies and forces together: the exact joint Gaussian process in the derivative basis.

With the kernel k(s), :math:`s = |z - z'|^2`, :math:`\Delta = z - z'` and primes on k for derivatives by s,

.. math:: cov(\nabla_z E, E') = 2 k' \Delta, \quad
          cov(\nabla_z E, \nabla_{z'} E') = -2 k' I - 4 k'' \Delta\Delta^T.

The Jacobians of the embedded features carry these to forces.  The class length scales of the features are found by
the likelihood of energies *and* forces on a subset: one factor for each class of features, shared by all atoms,
:math:`\theta_h = c_{class(h)} / variance(h)`, and one prior variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numba import njit
from scipy.linalg import get_lapack_funcs
from scipy.optimize import minimize

from fflux_py.covariance import Azimuth, Covariance, Shape
from fflux_py.errors import ConvergenceError
from fflux_py.joint_fit import JointFit, n_observations
from fflux_py.local_frame import FeatureKind, LocalFrame, feature_jacobian, features, phi_features
from fflux_py.potential import FloatArray, IntArray
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

CLASSES: Final = ("frame distance", "chi", "distance", "in-plane direction", "out-of-plane direction")
NOISE_ATOMIC: Final = 1.0 / KCAL_MOL
NOISE_TOTAL: Final = 0.02 / KCAL_MOL
NOISE_FORCE: Final = 0.03 / KCAL_MOL_ANGSTROM
_BLOCK_ROWS: Final = 512
_SMALLEST_SPREAD: Final = 1e-5
_BOUNDS: Final = (-14.0, 1.0)
_VARIANCE_BOUNDS: Final = (-2.0, 16.0)


@dataclass(frozen=True)
class JointData:
    """Training data of the joint fit, in atomic units.

    Parameters
    ----------
    positions, energies, forces
        Shapes ``(N, n, 3)``, ``(N,)`` and ``(N, n, 3)``.
    atomic_energies
        Shape ``(N, n)``; a row of NaN where a geometry has no partition.
    """

    positions: FloatArray
    energies: FloatArray
    forces: FloatArray
    atomic_energies: FloatArray

    @property
    def partitioned(self) -> np.ndarray:
        """Which geometries have atomic energies."""
        return np.asarray(~np.isnan(self.atomic_energies).any(axis=1))

    @property
    def centres(self) -> FloatArray:
        """Mean atomic energies; an equal share of the mean total energy where no geometry has a partition."""
        if self.partitioned.any():
            return np.asarray(self.atomic_energies[self.partitioned].mean(axis=0))
        n_atoms = self.positions.shape[1]
        return np.full(n_atoms, self.energies.mean() / n_atoms)

    def subset(self, indices: IntArray) -> JointData:
        """The geometries with these indices."""
        return JointData(*(a[indices] for a in (self.positions, self.energies, self.forces, self.atomic_energies)))

    def right_hand_sides(self) -> FloatArray:
        """Centred observations and the observations of a unit mean of every atom, ``(n_observations, 1 + n)``."""
        chosen, n_atoms = self.partitioned, self.positions.shape[1]
        count, n_partitioned = len(self.energies), int(chosen.sum())
        right = np.zeros((n_observations(chosen, n_atoms), 1 + n_atoms))
        first = n_partitioned * n_atoms
        right[:first, 0] = (self.atomic_energies[chosen] - self.centres).T.ravel()
        right[first : first + count, 0] = self.energies - self.centres.sum()
        right[first + count :, 0] = self.forces.ravel()
        for b in range(n_atoms):
            right[b * n_partitioned : (b + 1) * n_partitioned, 1 + b] = 1.0
        right[first : first + count, 1:] = 1.0
        return right


def feature_classes(n_atoms: int, kind: FeatureKind) -> IntArray:
    """Class (index into :data:`CLASSES`) of every feature of an atom."""
    other = [2, 3, 3, 4] if kind == "unit-vector" else [2, 4, 3]
    return np.array([0, 0, 1, *(other * (n_atoms - 3))], dtype=np.int64)


@dataclass(frozen=True)
class LocalFeatures:
    """Features of one atom over all geometries and their derivatives by the positions.

    Parameters
    ----------
    values
        Shape ``(N, n_features)``.
    jacobian
        Shape ``(N, n_features, n, 3)``.
    """

    values: FloatArray
    jacobian: FloatArray


def local_features(
    positions: FloatArray, frames: tuple[LocalFrame, ...], kind: FeatureKind
) -> tuple[LocalFeatures, ...]:
    """Features of all atoms: what the covariances are made from, the same for all hyperparameters."""
    return tuple(LocalFeatures(features(positions, f, kind), feature_jacobian(positions, f, kind)) for f in frames)


def feature_variances(positions: FloatArray, frames: tuple[LocalFrame, ...], kind: FeatureKind) -> FloatArray:
    """Variance of every feature of every atom over the geometries, shape ``(n, n_features)``; circular for azimuths."""
    azimuths = phi_features(positions.shape[1], kind)
    rows = []
    for frame in frames:
        values = features(positions, frame, kind)
        variance = values.var(axis=0)
        if len(azimuths):
            variance[azimuths] = 1.0 - np.abs(np.exp(1j * values[:, azimuths]).mean(axis=0)) ** 2
        rows.append(np.maximum(variance, _SMALLEST_SPREAD))
    return np.array(rows)


def class_covariances(
    variances: FloatArray, kind: FeatureKind, log_factors: FloatArray, shape: Shape, azimuth: Azimuth
) -> list[Covariance]:
    """Kernels of all atoms.

    Parameters
    ----------
    variances
        Variances of the features, shape ``(n, n_features)``.
    log_factors
        Natural logarithms of the class factors, shape ``(5,)``.
    """
    n_atoms = len(variances)
    factors = np.exp(log_factors)[feature_classes(n_atoms, kind)]
    azimuths = phi_features(n_atoms, kind)
    return [Covariance(factors / variance, azimuths, shape, azimuth) for variance in variances]


@njit(cache=True, error_model="numpy")
def _add_force_block(
    k1: FloatArray,
    k2: FloatArray,
    products: FloatArray,
    projections: FloatArray,
    first: int,
    last: int,
    n_coordinates: int,
    block: FloatArray,
) -> None:
    """Add one atom's force-force covariances: rows of geometries ``first`` to ``last``, columns up to ``last``."""
    for i in range(first, last):
        for c in range(n_coordinates):
            row = (i - first) * n_coordinates + c
            for j in range(i + 1):
                a = -2.0 * k1[i, j]
                b = 4.0 * k2[i, j] * projections[i * n_coordinates + c, j]
                for d in range(n_coordinates):
                    column = j * n_coordinates + d
                    block[row, column] += a * products[row, column] + b * projections[column, i]


def covariance_matrix(
    data: JointData, local: tuple[LocalFeatures, ...], kernels: list[Covariance], variances: FloatArray
) -> FloatArray:
    """Lower triangle of the covariance of all observations, without noise; row-major, ``(n_obs, n_obs)``."""
    count, n_atoms, _ = data.positions.shape
    chosen = np.flatnonzero(data.partitioned)
    totals = len(chosen) * n_atoms
    first_force, n_coordinates = totals + count, 3 * n_atoms
    size = n_observations(data.partitioned, n_atoms)
    matrix = np.zeros((size, size))
    step = max(1, _BLOCK_ROWS // n_coordinates)
    for a, (atom, kernel) in enumerate(zip(local, kernels, strict=True)):
        z = kernel.embed(atom.values)
        jacobian = kernel.embed_jacobian(atom.values, atom.jacobian)
        by_coordinate = np.ascontiguousarray(jacobian.reshape(count, z.shape[1], n_coordinates).transpose(0, 2, 1))
        s = kernel.squared_distances(atom.values, atom.values)
        k, k1, k2 = (variances[a] * f(s) for f in (kernel.value, kernel.slope, kernel.curvature))
        flat = by_coordinate.reshape(count * n_coordinates, -1)
        own = np.einsum("icd,id->ic", by_coordinate, z).ravel()
        projections = own[:, None] - flat @ z.T
        with_energy = -2.0 * np.repeat(k1, n_coordinates, axis=0) * projections
        rows = slice(a * len(chosen), (a + 1) * len(chosen))
        matrix[rows, rows] += k[np.ix_(chosen, chosen)]
        matrix[totals:first_force, rows] += k[:, chosen]
        matrix[totals:first_force, totals:first_force] += k
        matrix[first_force:, rows] += with_energy[:, chosen]
        matrix[first_force:, totals:first_force] += with_energy
        for first in range(0, count, step):
            last = min(first + step, count)
            here, upto = slice(first * n_coordinates, last * n_coordinates), last * n_coordinates
            products = flat[here] @ flat[:upto].T
            block = matrix[first_force + here.start : first_force + here.stop, first_force : first_force + upto]
            _add_force_block(k1, k2, products, projections, first, last, n_coordinates, block)
    return matrix


def add_noise(matrix: FloatArray, data: JointData, noises: tuple[float, float, float]) -> None:
    """Add the noise variances of atomic energies, total energies and forces to the diagonal, in place."""
    count, n_atoms, _ = data.positions.shape
    totals = int(data.partitioned.sum()) * n_atoms
    diagonal = np.diag_indices_from(matrix)
    variance = np.full(len(matrix), noises[2] ** 2)
    variance[:totals] = noises[0] ** 2
    variance[totals : totals + count] = noises[1] ** 2
    matrix[diagonal] += variance


def cholesky_in_place(matrix: FloatArray) -> None:
    """Factorise the lower triangle of a row-major symmetric matrix without a copy.

    Raises
    ------
    ConvergenceError
        The matrix is not positive definite (doubled geometries with contradicting labels cannot cause this, since
        noise stands on the diagonal; not-a-number in the labels can).
    """
    (potrf,) = get_lapack_funcs(("potrf",), (matrix,))
    # The transpose of a row-major array is column-major, with the upper triangle filled: no copy is made.
    _, info = potrf(matrix.T, lower=False, overwrite_a=True, clean=False)
    if info != 0:
        raise ConvergenceError("joint covariance", "a positive definite matrix", f"pivot {info} that is not positive")


def solve_factored(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Solve with the factor left by :func:`cholesky_in_place`."""
    (potrs,) = get_lapack_funcs(("potrs",), (matrix,))
    solution, _ = potrs(matrix.T, np.asfortranarray(right), lower=False)
    return np.asarray(solution)


def log_likelihood(
    data: JointData,
    local: tuple[LocalFeatures, ...],
    kernels: list[Covariance],
    variances: FloatArray,
    noises: tuple[float, float, float],
) -> float:
    """Log marginal likelihood of the centred atomic energies, total energies and forces."""
    matrix = covariance_matrix(data, local, kernels, variances)
    add_noise(matrix, data, noises)
    cholesky_in_place(matrix)
    y = data.right_hand_sides()[:, :1]
    fit = float((y * solve_factored(matrix, y)).sum())
    return -0.5 * fit - float(np.log(np.diag(matrix)).sum()) - 0.5 * len(y) * float(np.log(2.0 * np.pi))


def class_length_scales(
    data: JointData,
    frames: tuple[LocalFrame, ...],
    kind: FeatureKind,
    shape: Shape,
    azimuth: Azimuth,
    noises: tuple[float, float, float],
    max_iterations: int,
    progress: Callable[[int, int], None] | None = None,
    spreads: FloatArray | None = None,
) -> tuple[FloatArray, float]:
    """Class factors (their logarithms, ``(5,)``) and the prior variance (hartree^2) by the joint likelihood.

    Parameters
    ----------
    data
        A subset of the training data (40 to 60 geometries).
    max_iterations
        Most iterations of L-BFGS-B, each of seven evaluations.
    spreads
        Variances of the features over the whole training set, shape ``(n, n_features)``; of the subset if not given.
    """
    local = local_features(data.positions, frames, kind)
    spreads = feature_variances(data.positions, frames, kind) if spreads is None else spreads
    spread = float(np.var(data.energies)) / len(frames)

    def cost(parameters: FloatArray) -> float:
        kernels = class_covariances(spreads, kind, parameters[:5], shape, azimuth)
        variances = np.full(len(frames), spread * np.exp(parameters[5]))
        try:
            return -log_likelihood(data, local, kernels, variances, noises) / len(data.energies)
        except ConvergenceError:
            return 1e6

    start = np.array([-5.0, -6.0, -6.0, -6.0, -7.0, 5.0])
    steps = 0

    def report(_: FloatArray) -> None:
        nonlocal steps
        steps += 1
        if progress is not None:
            progress(steps, max_iterations)

    best = minimize(
        cost,
        start,
        method="L-BFGS-B",
        bounds=[_BOUNDS] * 5 + [_VARIANCE_BOUNDS],
        callback=report,
        options={"maxiter": max_iterations, "eps": 1e-3, "ftol": 1e-6},
    )
    return np.asarray(best.x[:5]), spread * float(np.exp(best.x[5]))


def solve(
    data: JointData,
    local: tuple[LocalFeatures, ...],
    kernels: list[Covariance],
    variances: FloatArray,
    noises: tuple[float, float, float],
) -> JointFit:
    """Solve the joint system for the data and for a unit mean of every atom."""
    matrix = covariance_matrix(data, local, kernels, variances)
    add_noise(matrix, data, noises)
    cholesky_in_place(matrix)
    coefficients = solve_factored(matrix, data.right_hand_sides())
    return JointFit(data.positions, data.partitioned, data.centres, variances, coefficients, noises)

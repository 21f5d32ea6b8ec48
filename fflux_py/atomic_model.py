r"""The Gaussian process of one atom's energy over the features of its local frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from fflux_py.covariance import Covariance
from fflux_py.errors import ConvergenceError, InputError
from fflux_py.local_frame import FeatureKind, LocalFrame, feature_jacobian, features
from fflux_py.molecule import read_only
from fflux_py.potential import FloatArray
from fflux_py.prior_mean import prior_mean

_LARGEST_JITTER = 1e-4


@dataclass(frozen=True)
class AtomicModel:
    r"""One atom's energy, :math:`E(f) = \mu + \sum_i w_i k(f, f_i)`, :math:`w = w_y - (\mu - \bar y) w_1`.

    In the derivative basis (:mod:`fflux_py.joint_fit`) every point carries a vector of slopes too, and
    :math:`\sum_i u_i \cdot \partial_{z'} k(z, z')|_{z_i}` is added, with z the embedded features.

    Parameters
    ----------
    frame, feature_kind
        The atom's local frame and its set of features.
    covariance
        The kernel, of unit variance.
    points
        Features of the training geometries, shape ``(n_train, n_features)``.
    energies
        Training energies in hartree, shape ``(n_train,)``.
    w_y, w_1
        :math:`(K + \nu I)^{-1} (y - \bar y)` (hartree) and :math:`(K + \nu I)^{-1} 1`.
    mean_name, mean
        Name and value (hartree) of the prior mean.
    variance
        Prior variance in hartree^2, for the predictive deviation.
    noise
        :math:`\nu`, the noise variance over the prior variance (jitter included).
    jitter
        The part of ``noise`` that was added only to make the factorisation succeed.
    u_y, u_1
        Slopes of the derivative basis for the data and for a unit mean, shape ``(n_train, n_embedded)``; None in the
        plain basis.
    centre
        Value of the mean (hartree) at which the weights are w_y; the mean of ``energies`` if not given.
    """

    frame: LocalFrame
    feature_kind: FeatureKind
    covariance: Covariance
    points: FloatArray
    energies: FloatArray
    w_y: FloatArray
    w_1: FloatArray
    mean_name: str
    mean: float
    variance: float
    noise: float
    jitter: float = 0.0
    u_y: FloatArray | None = None
    u_1: FloatArray | None = None
    centre: float | None = None

    def __post_init__(self) -> None:
        for name in ("points", "energies", "w_y", "w_1"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        n = len(self.points)
        if not (self.energies.shape == self.w_y.shape == self.w_1.shape == (n,)):
            raise InputError("atomic model", f"{n} energies and weights", f"{len(self.energies)} and {len(self.w_y)}")
        if self.points.shape != (n, len(self.covariance.theta)):
            raise InputError("atomic model", f"{len(self.covariance.theta)} features", f"shape {self.points.shape}")
        if (self.u_y is None) != (self.u_1 is None):
            raise InputError("atomic model", "slopes u_y and u_1, or neither", "one of them")
        if self.u_y is not None:
            expected = (n, self.covariance.n_embedded)
            for name in ("u_y", "u_1"):
                object.__setattr__(self, name, read_only(getattr(self, name)))
                if getattr(self, name).shape != expected:
                    raise InputError(f"atomic model, {name}", f"shape {expected}", f"{getattr(self, name).shape}")
        if self.centre is None:
            object.__setattr__(self, "centre", float(self.energies.mean()))

    @property
    def weights(self) -> FloatArray:
        """Weights w of the training points for the chosen prior mean, hartree, shape ``(n_train,)``."""
        return np.asarray(self.w_y - self._shift * self.w_1)

    @property
    def slopes(self) -> FloatArray | None:
        """Slopes u of the derivative basis for the chosen prior mean, hartree, shape ``(n_train, n_embedded)``."""
        if self.u_y is None or self.u_1 is None:
            return None
        return np.asarray(self.u_y - self._shift * self.u_1)

    @property
    def _shift(self) -> float:
        assert self.centre is not None
        return self.mean - self.centre

    def with_prior_mean(self, name: str, isolated: float | None = None) -> AtomicModel:
        """The same model with another prior mean: identical to training with it."""
        value = prior_mean(name, self.energies, isolated, self.w_y, self.w_1)
        return replace(self, mean_name=name, mean=value)

    def energy(self, positions: FloatArray) -> FloatArray:
        """Energies in hartree, shape ``(m,)``, at positions in bohr, shape ``(m, n_atoms, 3)``.  Plain NumPy."""
        return self.mean + self._combine(positions, self.weights, self.slopes)

    def gradient(self, positions: FloatArray) -> FloatArray:
        """Energy gradients in hartree/bohr, shape ``(m, n_atoms, 3)``: the slow oracle of the compiled kernel."""
        x = features(positions, self.frame, self.feature_kind)
        jacobian = feature_jacobian(positions, self.frame, self.feature_kind)
        by_feature = np.einsum("mnf,n->mf", self.covariance.gradient(x, self.points), self.weights)
        gradient = np.einsum("mf,mfac->mac", by_feature, jacobian)
        if self.slopes is not None:
            s, difference, along = self._differences(x, self.slopes)
            by_embedded = -2.0 * self.covariance.slope(s) @ self.slopes
            by_embedded -= 4.0 * np.einsum("mn,mnd->md", self.covariance.curvature(s) * along, difference)
            gradient += np.einsum("md,mdac->mac", by_embedded, self.covariance.embed_jacobian(x, jacobian))
        return np.asarray(gradient)

    def coverage(self, positions: FloatArray) -> FloatArray:
        """The sum rule's s = k^T w_1, shape ``(m,)``: one inside the data, zero far outside."""
        return self._combine(positions, self.w_1, self.u_1)

    def _combine(self, positions: FloatArray, weights: FloatArray, slopes: FloatArray | None) -> FloatArray:
        x = features(positions, self.frame, self.feature_kind)
        values = self.covariance.matrix(x, self.points) @ weights
        if slopes is not None:
            s, _, along = self._differences(x, slopes)
            values -= 2.0 * (self.covariance.slope(s) * along).sum(-1)
        return np.asarray(values)

    def _differences(self, x: FloatArray, slopes: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Scaled squared distances ``(m, n)``, differences ``(m, n, d)``, and the slopes along them ``(m, n)``."""
        difference = self.covariance.differences(x, self.points)
        return (difference**2).sum(-1), difference, np.einsum("mnd,nd->mn", difference, slopes)

    def deviation(self, positions: FloatArray) -> FloatArray:
        """Predictive standard deviation of the energy in hartree, shape ``(m,)`` (noise not included)."""
        x = features(positions, self.frame, self.feature_kind)
        k = self.covariance.matrix(x, self.points)
        explained = (k * cho_solve(self.factor, k.T).T).sum(-1)
        return np.asarray(np.sqrt(self.variance * np.maximum(1.0 - explained, 0.0)))

    @cached_property
    def factor(self) -> tuple[FloatArray, bool]:
        """Cholesky factor of K + nu I, lower."""
        matrix = self.covariance.matrix(self.points, self.points)
        matrix[np.diag_indices_from(matrix)] += self.noise
        factor, lower = cho_factor(matrix, lower=True)
        return np.asarray(factor), bool(lower)


def fit_weights(
    covariance: Covariance, points: FloatArray, energies: FloatArray, noise: float
) -> tuple[FloatArray, FloatArray, float]:
    r"""Solve for :math:`w_y` and :math:`w_1`; report the jitter that was needed.

    Jitter is added only if the Cholesky factorisation fails, growing tenfold from 1e-12 of the prior variance.

    Returns
    -------
    w_y, w_1, jitter
        Weights of the centred energies and of ones, and the jitter over the prior variance.

    Raises
    ------
    ConvergenceError
        No factorisation up to a jitter of 1e-4 (a kernel that is not positive semidefinite, or doubled geometries).
    """
    matrix = covariance.matrix(points, points)
    diagonal = np.diag_indices_from(matrix)
    right = np.column_stack([energies - energies.mean(), np.ones_like(energies)])
    jitter = 0.0
    while True:
        shifted = matrix.copy()
        shifted[diagonal] += noise + jitter
        try:
            solution = cho_solve(cho_factor(shifted, lower=True), right)
        except np.linalg.LinAlgError:
            jitter = max(10.0 * jitter, 1e-12)
            if jitter > _LARGEST_JITTER:
                raise ConvergenceError(
                    "kernel matrix",
                    f"positive definite with a jitter of at most {_LARGEST_JITTER:g}",
                    "a factorisation that fails",
                    "remove doubled geometries, or use the periodic kernel",
                ) from None
            continue
        return solution[:, 0], solution[:, 1], jitter

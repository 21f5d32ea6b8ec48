r"""The Gaussian process of one atom's energy over the features of its local frame."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import FeatureKind, feature_jacobian, features
from fflux_py.gp.polynomial_mean import DEGREES, PolynomialMean
from fflux_py.gp.polynomial_mean import fit as fit_polynomial
from fflux_py.gp.prior_mean import prior_mean
from fflux_py.gp.weights import DerivativeWeights, PolynomialWeights, Weights, permute_columns
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray, IntArray

_LARGEST_JITTER = 1e-4


@dataclass(frozen=True)
class AtomicModel:
    r"""One atom's energy, :math:`E(f) = \mu + \sum_i w_i k(f, f_i)`, :math:`w = w_y - (\mu - \bar y) w_1`.

    In the derivative basis (:mod:`fflux_py.gp.joint_fit`) every point carries a vector of slopes too, and
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
    weights
        What the points carry: :class:`~fflux_py.gp.weights.PlainWeights`,
        :class:`~fflux_py.gp.weights.DerivativeWeights` in the derivative basis, or
        :class:`~fflux_py.gp.weights.PolynomialWeights` for the means ``linear`` and ``quadratic``.
    mean_name, mean
        Name and value (hartree) of the prior mean; of a polynomial mean, its constant.
    variance
        Prior variance in hartree^2, for the predictive deviation.
    noise
        :math:`\nu`, the noise variance over the prior variance (jitter included).
    jitter
        The part of ``noise`` that was added only to make the factorisation succeed.
    rotors
        Features of the three atoms of every rotor over whose cyclic permutations the kernel is summed
        (:mod:`fflux_py.molecules.symmetry`), shape ``(n_rotors, 3, width)``.
    share
        Part of the prior mean that this model carries: below one if the atom has several frames or kernels, each with a
        model.
    """

    frame: LocalFrame
    feature_kind: FeatureKind
    covariance: Covariance
    points: FloatArray
    energies: FloatArray
    weights: Weights
    mean_name: str
    mean: float
    variance: float
    noise: float
    jitter: float = 0.0
    rotors: IntArray = field(default_factory=lambda: np.zeros((0, 3, 4), dtype=np.int64))
    share: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rotors", read_only(self.rotors, np.int64))
        for name in ("points", "energies"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        n = len(self.points)
        if not (self.energies.shape == self.weights.w_y.shape == (n,)):
            found = f"{len(self.energies)} and {len(self.weights.w_y)}"
            raise InputError("atomic model", f"{n} energies and weights", found)
        if self.points.shape != (n, len(self.covariance.theta)):
            raise InputError("atomic model", f"{len(self.covariance.theta)} features", f"shape {self.points.shape}")
        slopes = self.weights.unit_slopes
        if slopes is not None and slopes.shape != (n, self.covariance.n_embedded):
            expected = f"shape {(n, self.covariance.n_embedded)}"
            raise InputError("atomic model, slopes u_y and u_1", expected, f"{slopes.shape}")

    @property
    def point_weights(self) -> FloatArray:
        """Weights w of the training points for the chosen prior mean, hartree, shape ``(n_train,)``."""
        return self.weights.for_mean(self.mean)

    @property
    def point_slopes(self) -> FloatArray | None:
        """Slopes u for the chosen prior mean, hartree, ``(n_train, n_embedded)``; None in the plain basis."""
        return self.weights.slopes_for_mean(self.mean)

    @property
    def polynomial(self) -> PolynomialMean | None:
        """The part of the prior mean that is not constant; None for the means that are constants."""
        return self.weights.polynomial if isinstance(self.weights, PolynomialWeights) else None

    def with_prior_mean(self, name: str, isolated: float | None = None) -> AtomicModel:
        """The same model with another prior mean: identical to training with it."""
        weights = self.weights
        if name in DEGREES and not isinstance(weights, DerivativeWeights):
            z = self.covariance.embed(self.points)
            whole, w_m = fit_polynomial(DEGREES[name], z, self.energies, self.factor[0])
            constant, rest = float(whole.coefficients[0]), np.array(whole.coefficients)
            rest[0] = 0.0
            polynomial = replace(whole, coefficients=rest)
            fitted = PolynomialWeights(weights.w_y, weights.w_1, weights.centre, polynomial, w_m)
            return replace(self, mean_name=name, mean=constant, weights=fitted)
        value = prior_mean(name, self.energies, isolated, weights.w_y, weights.w_1)
        return replace(self, mean_name=name, mean=value, weights=weights.for_constant_mean())

    def energy(self, positions: FloatArray) -> FloatArray:
        """Energies in hartree, shape ``(m,)``, at positions in bohr, shape ``(m, n_atoms, 3)``.  Plain NumPy."""
        energies = self.share * self.mean + self._combine(positions, self.point_weights, self.point_slopes)
        if self.polynomial is not None:
            energies += self.polynomial.value(self._embedded(positions))
        return np.asarray(energies)

    def _embedded(self, positions: FloatArray) -> FloatArray:
        return self.covariance.embed(features(positions, self.frame, self.feature_kind))

    def gradient(self, positions: FloatArray) -> FloatArray:
        """Energy gradients in hartree/bohr, shape ``(m, n_atoms, 3)``: the slow oracle of the compiled kernel."""
        if len(self.rotors):
            return self.expanded().gradient(positions)
        x = features(positions, self.frame, self.feature_kind)
        jacobian = feature_jacobian(positions, self.frame, self.feature_kind)
        by_feature = np.einsum("mnf,n->mf", self.covariance.gradient(x, self.points), self.point_weights)
        gradient = np.einsum("mf,mfac->mac", by_feature, jacobian)
        if self.polynomial is not None:
            by_positions = self.covariance.embed_jacobian(x, jacobian)
            gradient += np.einsum("md,mdac->mac", self.polynomial.gradient(self.covariance.embed(x)), by_positions)
        slopes = self.point_slopes
        if slopes is not None:
            s, difference, along = self._differences(x, slopes)
            by_embedded = -2.0 * self.covariance.slope(s) @ slopes
            by_embedded -= 4.0 * np.einsum("mn,mnd->md", self.covariance.curvature(s) * along, difference)
            gradient += np.einsum("md,mdac->mac", by_embedded, self.covariance.embed_jacobian(x, jacobian))
        return np.asarray(gradient)

    def coverage(self, positions: FloatArray) -> FloatArray:
        """The sum rule's s = k^T w_1, shape ``(m,)``: one inside the data, zero far outside."""
        return self._combine(positions, self.weights.w_1, self.weights.unit_slopes)

    def expanded(self) -> AtomicModel:
        """The same model without rotors: every point stands under all permutations of all rotors.  Slow."""
        if not len(self.rotors):
            return self
        orders = rotor_orders(self.rotors, self.points.shape[1])
        return replace(
            self,
            points=permute_columns(self.points, orders),
            energies=np.tile(self.energies, len(orders)),
            weights=self.weights.permuted(orders),
            rotors=np.zeros((0, 3, 4), dtype=np.int64),
        )

    def _combine(self, positions: FloatArray, weights: FloatArray, slopes: FloatArray | None) -> FloatArray:
        """Sum over the points of weights times kernels and slopes times the kernels' derivatives, shape ``(m,)``."""
        if len(self.rotors):
            orders = rotor_orders(self.rotors, self.points.shape[1])
            slopes = None if slopes is None else permute_columns(slopes, orders)
            return self.expanded()._combine(positions, np.tile(weights, len(orders)), slopes)
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
        """Predictive standard deviation of the energy in hartree, shape ``(m,)`` (noise not included).

        Raises
        ------
        InputError
            A model of a joint fit, whose deviation needs the observations of all atoms.
        """
        if isinstance(self.weights, DerivativeWeights):
            raise InputError(
                "deviation of one atom", "a model of atomic energies only", "one of a joint fit",
                "ForceField.atomic_deviations knows the forces too",
            )  # fmt: skip
        x = features(positions, self.frame, self.feature_kind)
        k = self.covariance.matrix(x, self.points)
        explained = (k * cho_solve(self.factor, k.T).T).sum(-1)
        return np.asarray(np.sqrt(self.variance * np.maximum(1.0 - explained, 0.0)))

    @cached_property
    def factor(self) -> tuple[FloatArray, bool]:
        """Cholesky factor of K + nu I, lower."""
        matrix = self.covariance.matrix(self.points, self.points)
        matrix[np.diag_indices_from(matrix)] += self.noise
        try:
            factor, lower = cho_factor(matrix, lower=True)
        except np.linalg.LinAlgError:
            raise ConvergenceError(
                f"kernel matrix of atom {self.frame.atom + 1}", "positive definite", "a factorisation that fails",
                "no deviations from this kernel or noise; train again with the periodic kernel",
            ) from None  # fmt: skip
        return np.asarray(factor), bool(lower)


def rotor_orders(rotors: IntArray, n_features: int) -> IntArray:
    """Orders of the features under all cyclic permutations of all rotors, shape ``(3**n_rotors, n_features)``."""
    orders = np.arange(n_features)[None]
    for columns in rotors:
        permuted = []
        for shift in range(3):
            order = orders.copy()
            order[:, columns] = orders[:, np.roll(columns, -shift, axis=0)]
            permuted.append(order)
        orders = np.concatenate(permuted)
    return np.asarray(orders)


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

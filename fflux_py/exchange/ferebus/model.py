r"""One atom's Gaussian process as a ``.model`` file holds it: from features to energies and variances.

:math:`E(f) = m(f) + \sum_i w_i k(f, f_i)`, :math:`(K + \nu I) w = y - m`, with a kernel of unit variance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.exchange.ferebus.kernel import Reading
from fflux_py.exchange.ferebus.model_text import ModelText
from fflux_py.typing import FloatArray

ICHOR_JITTER: Final = 1e-10
"""What ICHOR adds to the diagonal for variances, whatever the weights were solved with."""


@dataclass(frozen=True)
class FerebusModel:
    """A ``.model`` file whose training energies follow from its weights.

    Parameters
    ----------
    text
        What stands in the file, repaired where that was needed.
    reading
        What the header leaves open, decided from the training energies.
    nugget
        The nu with which the weights were solved, over the prior variance.
    notes
        What was repaired, and what is doubtful, in sentences.
    """

    text: ModelText
    reading: Reading = field(default_factory=Reading)
    nugget: float = 0.0
    notes: tuple[str, ...] = ()

    def energies(self, features: FloatArray) -> FloatArray:
        """The property (hartree for ``iqa``) at features of shape ``(m, d)``, shape ``(m,)``."""
        x = self._check_features(features)
        return np.asarray(self.text.mean.at(x) + self._kernel(x, self.text.x) @ self.text.weights)

    def variances(self, features: FloatArray, nugget: float | None = None) -> FloatArray:
        r"""Variances :math:`k(f, f) - k^T (K + \nu I)^{-1} k` over the prior variance, shape ``(m,)``.

        Times :meth:`prior_variance` they are variances in hartree^2.

        Parameters
        ----------
        features
            Shape ``(m, d)``.
        nugget
            The nu; that of the weights if not given.  ICHOR takes :data:`ICHOR_JITTER`.

        Raises
        ------
        ConvergenceError
            A kernel matrix that is not positive definite: ``rbf-cyclic`` is no covariance, and nu may be negative.
        """
        x = self._check_features(features)
        k = self._kernel(x, self.text.x)
        factor = self._factor if nugget is None else self._factorise(nugget)
        explained = (k * cho_solve(factor, k.T).T).sum(-1)
        return np.asarray(self.text.kernels.diagonal() - explained)

    def solve(self, right: FloatArray) -> FloatArray:
        """Solve with K + nu I, of which no more is asked than that it is symmetric and regular."""
        try:
            return np.asarray(cho_solve(self._factor, right))
        except ConvergenceError:
            return np.asarray(solve(self._matrix(self.nugget), right, assume_a="sym"))

    def prior_variance(self) -> float:
        r"""The variance at which the likelihood is largest, :math:`(y-m)^T (K+\nu I)^{-1} (y-m)/n`, hartree^2.

        A ``.model`` file does not hold it.  Zero where the right side is not positive (a nu below zero).
        """
        return max(float((self.text.y - self.text.mean.at(self.text.x)) @ self.text.weights) / len(self.text.y), 0.0)

    def log_likelihood(self) -> float:
        """The log marginal likelihood with a prior variance of one hartree^2: FEREBUS' ``likelihood``."""
        y = self.text.y - self.text.mean.at(self.text.x)
        return float(-0.5 * y @ self.text.weights - 0.5 * self._log_determinant - 0.5 * len(y) * np.log(2.0 * np.pi))

    def concentrated_log_likelihood(self) -> float:
        """FEREBUS' other ``likelihood``: of the best prior variance and the GLS mean, without constants."""
        ones = np.ones(len(self.text.y))
        u = self.solve(np.column_stack([self.text.y, ones]))
        y = self.text.y - u[:, 0].sum() / u[:, 1].sum()
        variance = float(y @ self.solve(y)) / len(y)
        return -0.5 * len(y) * float(np.log(variance)) - 0.5 * self._log_determinant

    def training_error(self) -> float:
        """Largest difference of a training energy from its prediction."""
        return float(np.abs(self.energies(self.text.x) - self.text.y).max())

    def _kernel(self, x: FloatArray, y: FloatArray) -> FloatArray:
        return self.text.kernels.matrix(x, y, self.reading)

    def _matrix(self, nugget: float) -> FloatArray:
        matrix = self._kernel(self.text.x, self.text.x)
        matrix[np.diag_indices_from(matrix)] += nugget
        return matrix

    @property
    def _log_determinant(self) -> float:
        return 2.0 * float(np.log(np.diag(self._factor[0])).sum())

    @cached_property
    def _factor(self) -> tuple[FloatArray, bool]:
        return self._factorise(self.nugget)

    def _factorise(self, nugget: float) -> tuple[FloatArray, bool]:
        try:
            factor, lower = cho_factor(self._matrix(nugget), lower=True)
        except LinAlgError:
            raise ConvergenceError(
                f"kernel matrix of {self.text.atom}",
                f"positive definite with {nugget:.3g} on its diagonal",
                "a matrix that is not",
                "its energies can be predicted, its variances cannot",
            ) from None
        return np.asarray(factor), bool(lower)

    def _check_features(self, features: FloatArray) -> FloatArray:
        x = np.asarray(features, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.text.n_features:
            raise InputError(f"features of {self.text.atom}", f"shape (m, {self.text.n_features})", f"shape {x.shape}")
        return x

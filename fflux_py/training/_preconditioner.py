r"""A preconditioner for the covariance of all observations with noise.

Of every geometry some observations are drawn.  Their columns of the covariance give its approximation of low rank
:math:`Q = B^T B` (Nystroem), to which the blocks of single geometries are added exactly:

.. math:: P = \mathrm{blockdiag}(K - Q) + \Sigma + B^T B.

This is the partially independent training conditional of Snelson and Ghahramani (AISTATS 2007, PMLR 2, 524), here only
to make the iterations fewer; it is inverted by Woodbury's identity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.linalg import get_lapack_funcs

from fflux_py.errors import ConvergenceError
from fflux_py.training._joint_operator import JointOperator
from fflux_py.typing import FloatArray, IntArray, Progress

# In units of the noise variances: keeps the small system positive definite in the presence of rounding.
_JITTER: Final = 1e-3
_SEED: Final = 0


class Preconditioner:
    """The inverse of P.

    Parameters
    ----------
    operator, noise
        The covariance, and the noise variances of all observations, ``(n_observations,)``.
    rank
        Number of drawn observations.
    progress
        Called with the number of geometries done and their total.

    Raises
    ------
    ConvergenceError
        A covariance with values that are not numbers.
    """

    def __init__(
        self,
        operator: JointOperator,
        noise: FloatArray,
        rank: int,
        progress: Progress | None = None,
    ) -> None:
        count = len(operator.data.positions)
        rows = [operator.observations.of_geometries(np.array([j])) for j in range(count)]
        drawn = np.sort(np.random.default_rng(_SEED).choice(operator.size, min(rank, operator.size), replace=False))
        basis = _columns(operator, rows, drawn, lambda done: progress and progress(done, 3 * count))
        small = basis[:, drawn].copy()
        small[np.diag_indices_from(small)] += _JITTER * noise[drawn]
        _factorise(small)
        (trtrs,) = get_lapack_funcs(("trtrs",), (small,))
        for first in range(0, operator.size, 1024):
            part = slice(first, min(first + 1024, operator.size))
            basis[:, part] = trtrs(small.T, basis[:, part], lower=False, trans=1)[0]
        small[:] = np.eye(len(small))
        self._rows, self._inverses = rows, []
        for j, indices in enumerate(rows):
            one, inside = np.array([j]), basis[:, indices]
            block = operator.products(one, one, np.eye(len(indices))) - inside.T @ inside
            inverse = _inverse(block, noise[indices])
            self._inverses.append(inverse)
            weighted = inside @ inverse
            basis[:, indices] = weighted
            small += weighted @ inside.T
            if progress is not None:
                progress(count + 2 * (j + 1), 3 * count)
        _factorise(small)
        self._basis, self._small = basis, small

    def __call__(self, vectors: FloatArray) -> FloatArray:
        """Apply the inverse to vectors, shape ``(n_observations, n_vectors)``."""
        result = np.empty_like(vectors)
        for indices, inverse in zip(self._rows, self._inverses, strict=True):
            result[indices] = inverse @ vectors[indices]
        (potrs,) = get_lapack_funcs(("potrs",), (self._small,))
        inner, _ = potrs(self._small.T, np.asfortranarray(self._basis @ vectors), lower=False)
        return np.asarray(result - self._basis.T @ inner)


def _columns(
    operator: JointOperator, observations: list[IntArray], drawn: IntArray, report: Callable[[int], object]
) -> FloatArray:
    """Rows of the covariance that belong to the drawn observations, ``(rank, n_observations)``."""
    everything = np.arange(len(observations))
    rows = np.empty((len(drawn), operator.size))
    for j, indices in enumerate(observations):
        local = np.flatnonzero(np.isin(indices, drawn))
        report(j + 1)
        if not len(local):
            continue
        vectors = np.zeros((len(indices), len(local)))
        vectors[local, np.arange(len(local))] = 1.0
        rows[np.searchsorted(drawn, indices[local])] = operator.products(everything, np.array([j]), vectors).T
    return rows


def _inverse(block: FloatArray, noise: FloatArray) -> FloatArray:
    """Inverse of a geometry's block with noise; rounding cannot make it indefinite."""
    scale = np.sqrt(noise)
    values, vectors = np.linalg.eigh(0.5 * (block + block.T) / np.outer(scale, scale))
    return np.asarray((vectors / (1.0 + np.maximum(values, 0.0))) @ vectors.T / np.outer(scale, scale))


def _factorise(matrix: FloatArray) -> None:
    (potrf,) = get_lapack_funcs(("potrf",), (matrix,))
    _, info = potrf(matrix.T, lower=False, overwrite_a=True, clean=False)
    if info != 0:
        raise ConvergenceError("joint covariance", "a positive definite matrix", f"pivot {info} that is not positive")

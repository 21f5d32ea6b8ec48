r"""The log marginal likelihood of the joint fit and its gradient by the length scales and prior variances.

With the covariance K of all observations y and :math:`\alpha = K^{-1} y`,

.. math:: \frac{\partial L}{\partial p} = \sum_{ab} W_{ab} \frac{\partial K_{ab}}{\partial p}, \qquad
          W = \tfrac12 (\alpha\alpha^T - K^{-1}),

and W is carried back through the covariances in one pass for all parameters
(:mod:`fflux_py._compiled.covariance_gradients`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import get_lapack_funcs

from fflux_py._compiled.covariance_gradients import add_gradient
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.joint_covariance import (
    FramePoints,
    JointData,
    JointModel,
    add_noise,
    cholesky_in_place,
    covariance_matrix,
    embed_points,
    kernel_form,
    solve_factored,
)
from fflux_py.gp.observations import Observations
from fflux_py.typing import FloatArray, IntArray


def likelihood_and_gradient(
    data: JointData,
    model: JointModel,
    kernels: Sequence[Covariance],
    variance: float | FloatArray,
    points: Sequence[FramePoints],
) -> tuple[float, FloatArray, FloatArray]:
    """Log marginal likelihood of the centred data, and its derivatives.

    Only sums over frames that the symmetry exchanges have a meaning: of the covariances of two geometries, and of
    energies with forces, one of both orders is taken twice.

    Returns
    -------
    value, by_log_theta, by_log_variance
        The likelihood, and its derivatives by the logarithms of every kernel's theta, ``(n_kernels, n_features)``, and
        prior variance, ``(n_kernels,)``.

    Raises
    ------
    ConvergenceError
        A covariance that is not positive definite.
    """
    matrix = covariance_matrix(data, model, kernels, variance, points)
    add_noise(matrix, data, model.noises)
    cholesky_in_place(matrix)
    y = data.right_hand_sides(model.symmetry)[:, :1]
    solution = solve_factored(matrix, y)
    value = -0.5 * float((y * solution).sum()) - float(np.log(np.diag(matrix)).sum())
    value -= 0.5 * len(y) * float(np.log(2.0 * np.pi))
    weights = _weights(matrix, solution, data.observations)
    by_theta = np.zeros((len(kernels), len(kernels[0].theta)))
    by_variance = np.zeros(len(kernels))
    variances = np.broadcast_to(variance, len(kernels)).tolist()
    for k, (frame, kernel, own) in enumerate(zip(model.frames, kernels, points, strict=True)):
        order, form = kernel_form(kernel, own.rotors)
        z, jacobian = embed_points(kernel, own, 0, order)
        rows = np.ascontiguousarray(jacobian.transpose(0, 2, 1))
        by_embedded = np.zeros(kernel.n_embedded)
        for image, permutation in enumerate(own.permutations):
            other = int(permutation[frame.atom])
            of_pairs = _pair_weights(weights, data.observations, frame.atom, other)
            gradient = np.zeros(len(order))
            by_variance[k] += variances[k] * add_gradient(
                z, rows, *embed_points(kernel, own, image, order), form, of_pairs, gradient
            )
            by_embedded[order] += variances[k] * gradient
        n_features = len(kernel.theta)
        by_theta[k] = by_embedded[:n_features]
        by_theta[k, kernel.expanded] += by_embedded[n_features:]
    return value, by_theta, by_variance


def _weights(factor: FloatArray, solution: FloatArray, observations: Observations) -> FloatArray:
    """W, in the place of the Cholesky factor: the lower triangle, and the blocks on the diagonal whole.

    Blocks are those of all energies, and of each geometry's forces.
    """
    (potri,) = get_lapack_funcs(("potri",), (factor,))
    inverse, _ = potri(factor.T, lower=False, overwrite_c=True)
    weights: FloatArray = inverse.T
    for row in range(len(weights)):
        weights[row, : row + 1] = 0.5 * (solution[row, 0] * solution[: row + 1, 0] - weights[row, : row + 1])
    edges: IntArray = observations.forces.start + 3 * observations.n_atoms * np.arange(observations.n_geometries + 1)
    for first, last in zip([0, *edges[:-1]], [edges[0], *edges[1:]], strict=True):
        block = weights[first:last, first:last]
        block[:] = np.tril(block) + np.tril(block, -1).T
    return weights


def _pair_weights(
    weights: FloatArray, observations: Observations, atom: int, other: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The weights of one frame's covariances with one image, whose atoms are ``atom`` and ``other``."""
    chosen, totals, forces = observations.with_atoms, observations.totals, observations.forces
    columns = observations.atom(other)
    energies = weights[totals, totals].copy()
    energies[:, chosen] += 2.0 * weights[totals, columns]
    energies[np.ix_(chosen, chosen)] += weights[observations.atom(atom), columns]
    with_forces = 2.0 * weights[forces, totals]
    with_forces[:, chosen] += 2.0 * weights[forces, columns]
    return energies, with_forces, weights[forces, forces]

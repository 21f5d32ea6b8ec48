"""Preconditioned conjugate gradients for several right-hand sides at once; can be interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.errors import ConvergenceError
from fflux_py.typing import FloatArray

_MOST_RESTARTS: Final = 5
Linear = Callable[[FloatArray], FloatArray]


@dataclass
class Iterates:
    """State of the iterations, all of shape ``(n, n_columns)``, and how many there were."""

    solution: FloatArray
    residual: FloatArray
    direction: FloatArray
    iteration: int = 0


def conjugate_gradients(
    matrix: Linear,
    inverse: Linear,
    right: FloatArray,
    error: Callable[[FloatArray], float],
    max_iterations: int,
    iterates: Iterates | None = None,
    report: Callable[[Iterates, float], None] | None = None,
) -> FloatArray:
    """Solve ``matrix(x) = right`` column by column, the products of all columns taken together.

    M. R. Hestenes, E. Stiefel, J. Res. Natl. Bur. Stand. 49, 409 (1952).

    Parameters
    ----------
    matrix, inverse
        A symmetric positive definite matrix, and its preconditioner's inverse, as functions of ``(n, n_columns)``.
    right
        Shape ``(n, n_columns)``.
    error
        How far off a residual is; at one or below it is small enough.
    max_iterations
        Most iterations.
    iterates
        Where an interrupted run stood.
    report
        Called after every iteration with the state and the error.

    Raises
    ------
    ConvergenceError
        Not converged.
    """
    if iterates is None:
        iterates = Iterates(np.zeros_like(right), right.copy(), np.zeros_like(right))
        iterates.direction = inverse(right)
    state, last = iterates, np.inf
    weighted = _dots(state.residual, inverse(state.residual))
    for _ in range(_MOST_RESTARTS):
        while state.iteration < max_iterations:
            product = matrix(state.direction)
            step = _ratio(weighted, _dots(state.direction, product))
            state.solution = state.solution + step * state.direction
            state.residual = state.residual - step * product
            state.iteration += 1
            last = error(state.residual)
            preconditioned = inverse(state.residual)
            before, weighted = weighted, _dots(state.residual, preconditioned)
            state.direction = preconditioned + _ratio(weighted, before) * state.direction
            if report is not None:
                report(state, last)
            if last <= 1.0:
                break
        # The recurrence drifts from the true residual by rounding.
        state.residual = right - matrix(state.solution)
        if error(state.residual) <= 1.0:
            return state.solution
        state.direction = inverse(state.residual)
        weighted = _dots(state.residual, state.direction)
    raise ConvergenceError(
        "conjugate gradients", f"residuals below the tolerance after {max_iterations} iterations",
        f"{error(state.residual):.1f} times as large", "allow more memory, or solve directly",
    )  # fmt: skip


def _dots(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("ic,ic->c", a, b))


def _ratio(a: FloatArray, b: FloatArray) -> FloatArray:
    """A column that is solved exactly has nothing left to divide."""
    return np.asarray(np.divide(a, b, out=np.zeros_like(a), where=b > 0.0))

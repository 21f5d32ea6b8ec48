"""Maximisation of several independent smooth functions side by side: BFGS with a dense inverse Hessian for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.typing import FloatArray

_SUFFICIENT: Final = 1e-4
_LARGEST_STEP: Final = 2.0
_FIRST_STEP: Final = 0.5
_SMALLEST_STEP: Final = 1e-6

Evaluate = Callable[[FloatArray, np.ndarray], tuple[FloatArray, FloatArray]]
"""Parameters ``(b, p)`` and indices of the rows to evaluate, ``(k,)``, to values ``(k,)`` and gradients ``(k, p)``."""


@dataclass
class Maximum:
    """Where the search of every row ended.

    Parameters
    ----------
    parameters, values
        Shapes ``(b, p)`` and ``(b,)``.
    evaluations
        How often each row was evaluated, shape ``(b,)``.
    """

    parameters: FloatArray
    values: FloatArray
    evaluations: np.ndarray


def maximise(
    evaluate: Evaluate,
    start: FloatArray,
    tolerance: float,
    max_evaluations: int,
    finished: Callable[[int], None] | None = None,
) -> Maximum:
    """Maximise each row's function of its own parameters; a row that has converged is not evaluated any more.

    A row ends when its quadratic model promises a gain below ``tolerance`` twice in a row, when no step along its
    direction gains anything, or after ``max_evaluations``.  Where a function is minus infinity the step is shortened.

    Parameters
    ----------
    evaluate
        The functions; values must be finite at the start.
    start
        Shape ``(b, p)``; of order one change matters (logarithms).
    tolerance
        Gain that is not worth an evaluation.
    max_evaluations
        Most evaluations of one row.
    finished
        Called with the number of rows that have ended, whenever one has.
    """
    count, size = start.shape
    x = np.array(start)
    hessian = np.tile(np.eye(size), (count, 1, 1))
    evaluations = np.ones(count, dtype=np.int64)
    values, gradients = evaluate(x, np.arange(count))
    scaled = np.zeros(count, dtype=bool)
    idle = np.zeros(count, dtype=np.int64)
    ended = ~np.isfinite(values)
    steps, lengths = np.zeros_like(x), np.zeros(count)

    def direct(row: int) -> None:
        """New direction of a row, and whether it goes on."""
        gradient = gradients[row]
        step = hessian[row] @ gradient
        if not scaled[row]:
            step = gradient * (_FIRST_STEP / max(float(np.abs(gradient).max()), 1e-300))
        gain = 0.5 * float(step @ gradient)
        if gain <= 0.0:  # cannot happen while the updates keep the matrix positive; rounding can
            hessian[row], scaled[row] = np.eye(size), False
            step = gradient * (_FIRST_STEP / max(float(np.abs(gradient).max()), 1e-300))
            gain = 0.5 * float(step @ gradient)
        idle[row] = idle[row] + 1 if gain < tolerance else 0
        ended[row] = ended[row] or idle[row] >= 2 or evaluations[row] >= max_evaluations or gain == 0.0
        steps[row] = step * min(1.0, _LARGEST_STEP / float(np.abs(step).max())) if gain > 0.0 else 0.0
        lengths[row] = 1.0

    for row in np.flatnonzero(~ended).tolist():
        direct(row)
    reported = -1
    while True:
        if finished is not None and int(ended.sum()) != reported:
            reported = int(ended.sum())
            finished(reported)
        rows = np.flatnonzero(~ended)
        if not len(rows):
            return Maximum(x, values, evaluations)
        trial = x.copy()
        trial[rows] += lengths[rows, None] * steps[rows]
        new_values, new_gradients = evaluate(trial, rows)
        evaluations[rows] += 1
        for row, value, gradient in zip(rows.tolist(), new_values, new_gradients, strict=True):
            slope = float(gradients[row] @ steps[row])
            if value >= values[row] + _SUFFICIENT * lengths[row] * slope:
                step = lengths[row] * steps[row]
                _update(hessian, scaled, row, step, gradients[row] - gradient)
                x[row], values[row], gradients[row] = trial[row], value, gradient
                direct(row)
                continue
            lengths[row] *= _shorter(float(values[row]), float(value), slope * float(lengths[row]))
            ended[row] = lengths[row] < _SMALLEST_STEP or evaluations[row] >= max_evaluations


def _shorter(value: float, new: float, slope: float) -> float:
    """Factor on a step that was too long: the top of the parabola, kept between a tenth and a half."""
    if not np.isfinite(new):
        return 0.25
    return float(np.clip(0.5 * slope / (value + slope - new), 0.1, 0.5))


def _update(hessian: FloatArray, scaled: np.ndarray, row: int, step: FloatArray, change: FloatArray) -> None:
    """BFGS update of one row's inverse Hessian, in place; none where the curvature has the wrong sign."""
    curvature = float(step @ change)
    if curvature <= 1e-10 * float(np.linalg.norm(step) * np.linalg.norm(change)):
        return
    if not scaled[row]:
        hessian[row] = np.eye(len(step)) * (curvature / float(change @ change))
        scaled[row] = True
    product = hessian[row] @ change
    hessian[row] += (1.0 + float(change @ product) / curvature) / curvature * np.outer(step, step)
    hessian[row] -= (np.outer(product, step) + np.outer(step, product)) / curvature

"""Minimisation by Newton steps within a trust radius, for energy functions whose second derivatives are cheap.

Steps are those of the augmented Hessian with positive curvatures (|w| in place of every eigenvalue w, as in
Fletcher, *Practical Methods of Optimization*, 2nd ed., section 5.2): downhill along every mode, also from a start that
is no basin yet.  Between two Hessians, updates from the change of the gradient (BFGS; Powell's symmetric Broyden
update where the curvature along the step is not positive).

Deviations from the textbook: the trust radius bounds the largest change of a coordinate, not the norm of the step, so
that it does not depend on the size of the molecule; far from the minimum small curvatures are raised to a floor, so
that the torsions of a molecule do not turn over in one step; rigid motions are left out of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from fflux_py.molecules.normal_modes import rigid_motions
from fflux_py.typing import FloatArray

_FIRST_RADIUS: Final = 0.3
_LARGEST_RADIUS: Final = 1.0
_SMALLEST_RADIUS: Final = 1e-3
_FLOORS: Final = (2e-4, 0.01)
"""The smallest curvature that a step is computed with, hartree/bohr^2, near the minimum (a torsion of 20 cm^-1 has
about this) and far from it."""
_FLOOR_BY_FORCE: Final = 10.0
"""Between the two it is so many times the largest gradient, bohr^-1: the softest mode moves by 0.1 bohr at most."""
_NOISE: Final = 1e-10
"""Change of energy (hartree) that says nothing about a step."""

Evaluate = Callable[[FloatArray], tuple[float, FloatArray]]


def newton_steps(
    positions: FloatArray, evaluate: Evaluate, hessian: Callable[[FloatArray], FloatArray], renew_every: int = 5
) -> Iterator[None]:
    """Take Newton steps, one evaluation for each item, until the caller has enough.

    Parameters
    ----------
    positions
        Start, bohr, shape ``(n_atoms, 3)``.
    evaluate
        Energy (hartree) and forces (hartree/bohr) at positions.
    hessian
        Second derivatives there, hartree/bohr^2, ``(3 n_atoms, 3 n_atoms)``.
    renew_every
        Steps between two Hessians.
    """
    energy, forces = evaluate(positions)
    radius, age, curvature = _FIRST_RADIUS, renew_every, np.empty(0)
    while True:
        if age >= renew_every:
            curvature, age = hessian(positions), 0
        gradient = -forces.ravel()
        step = restricted_step(gradient, curvature, positions, radius)
        predicted = float(gradient @ step + 0.5 * step @ curvature @ step)
        new_energy, new_forces = evaluate(positions + step.reshape(-1, 3))
        change, length = new_energy - energy, float(np.abs(step).max())
        agreement = change / predicted if predicted < -_NOISE else 1.0 if change < _NOISE else -1.0
        if agreement > 0.75 and length > 0.8 * radius:
            radius = min(_LARGEST_RADIUS, 2.0 * radius)
        elif agreement < 0.25:
            radius = max(_SMALLEST_RADIUS, 0.5 * length)
        curvature = update_hessian(curvature, step, -new_forces.ravel() - gradient)
        age += 1
        if agreement > 0.0 or change < 0.0:
            positions, energy, forces = positions + step.reshape(-1, 3), new_energy, new_forces
        yield


def restricted_step(gradient: FloatArray, hessian: FloatArray, positions: FloatArray, radius: float) -> FloatArray:
    """Step downhill along every mode, none of whose coordinates changes by more than ``radius`` (bohr); flat."""
    rigid = rigid_motions(positions, np.ones(len(positions)))
    keep = np.eye(len(gradient)) - rigid @ rigid.T
    values, vectors = np.linalg.eigh(keep @ hessian @ keep)
    along = vectors.T @ (keep @ gradient)
    floor = min(max(_FLOOR_BY_FORCE * float(np.abs(gradient).max()), _FLOORS[0]), _FLOORS[1])
    steepness = np.maximum(np.abs(values), floor)

    def step(shift: float) -> FloatArray:
        return np.asarray(-(vectors @ (along / (steepness + shift))))

    full = step(0.0)
    if np.abs(full).max() <= radius:
        return full
    low, high = 0.0, 1.0
    while np.abs(step(high)).max() > radius:
        low, high = high, 4.0 * high
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.abs(step(middle)).max() > radius else (low, middle)
    return step(high)


def update_hessian(hessian: FloatArray, step: FloatArray, change: FloatArray) -> FloatArray:
    """Update a Hessian by the change of the gradient along ``step`` (BFGS, or Powell's symmetric Broyden update).

    The result is symmetric, and its product with ``step`` is ``change``.
    """
    product = hessian @ step
    curvature = float(step @ change)
    if curvature > 0.2 * float(step @ product) > 0.0:
        return np.asarray(
            hessian + np.outer(change, change) / curvature - np.outer(product, product) / (step @ product)
        )
    residual, square = change - product, float(step @ step)
    return np.asarray(
        hessian
        + (np.outer(residual, step) + np.outer(step, residual)) / square
        - np.outer(step, step) * (residual @ step) / square**2
    )

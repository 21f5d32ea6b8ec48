"""The linear system of the joint fit: solved by Cholesky factorisation, or without the matrix where memory is short."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Final

import numpy as np

from fflux_py.errors import ConvergenceError
from fflux_py.gp.joint_covariance import JointData, JointModel, atoms_variances, noise_variances, solve
from fflux_py.gp.joint_fit import JointFit
from fflux_py.molecules.symmetry import Symmetry
from fflux_py.training._checkpoint import Checkpoint
from fflux_py.training._conjugate_gradients import Iterates, conjugate_gradients
from fflux_py.training._joint_operator import JointOperator
from fflux_py.training._memory import free_memory
from fflux_py.training._preconditioner import Preconditioner
from fflux_py.training.config import Solver, SolverSettings
from fflux_py.training.joint_system import JointSystem
from fflux_py.typing import FloatArray, Progress

_LOG: Final = logging.getLogger(__name__)
# Of the free memory, taken unless the settings say how much: the data, other programs and the system need some too.
_SHARE_OF_FREE: Final = 0.6
# Root mean square of the residuals over the standard deviation of the noise, for the data and for means of one hartree:
# energies then agree with the direct solution to 1e-3 kcal/mol and better (benchmarks/speed/joint_solvers.py).
_DATA_TOLERANCE: Final = 1e-2
_MEAN_TOLERANCE: Final = 1e-3
_MOST_ITERATIONS: Final = 3000
# Bytes of the blocks that the factorisation works on.
_BLOCKS: Final = 1e8
# Of all observations: more columns of the covariance cost more than the iterations that they save.
_LARGEST_RANK: Final = 1.0 / 3.0
_SECONDS_BETWEEN_WRITES: Final = 60.0


def direct_memory(data: JointData, model: JointModel) -> float:
    """Bytes that the direct solution takes at its peak: the matrix, and what one frame or one block needs beside it."""
    count, n_atoms, _ = data.positions.shape
    size = data.observations.count
    images = max(len(model.symmetry.images(frame)[1]) for frame in model.frames)
    d = model.unscaled(n_atoms).n_embedded
    # Features' derivatives by the images, by the geometries, stacked, embedded and ordered; a second copy while made.
    frame = 8.0 * count * d * 3 * n_atoms * (3 * images + 3)
    forces_with_energies = 2 * 8.0 * 3 * n_atoms * count**2
    return float(8.0 * size**2 + frame + forces_with_energies + 8.0 * 3 * size * (1 + n_atoms) + _BLOCKS)


def allowed_memory(settings: SolverSettings) -> float:
    """Gigabytes (1e9 bytes) that a solution may take: those of the settings, else three fifths of what is free now."""
    return settings.memory if settings.memory is not None else 1e-9 * _SHARE_OF_FREE * free_memory()


def chosen_solver(data: JointData, model: JointModel, settings: SolverSettings) -> Solver:
    """``"direct"`` or ``"cg"``."""
    if settings.solver != "auto":
        return settings.solver
    return "direct" if direct_memory(data, model) <= 1e9 * allowed_memory(settings) else "cg"


def solve_system(
    system: JointSystem,
    settings: SolverSettings | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> JointFit:
    """Solve the joint system for the data and for unit means.

    The solver, and the memory that it was chosen by, are told to the log of this module; where conjugate gradients were
    chosen because memory is short that is a warning, since they take longer by far.

    Parameters
    ----------
    system
        The data, what is modelled, and the hyperparameters.
    settings
        Solver, memory and threads.  The memory decides between the solvers.  With conjugate gradients it also limits
        the rank of the preconditioner, and so the number of iterations; the solution stays within their tolerance.
    progress
        Called with the work done and its total, in parts that take about equal times.
    checkpoint
        Where the iterates of an interrupted run are found and kept.

    Raises
    ------
    ConvergenceError
        Labels that are not numbers, or iterations that do not converge.
    """
    settings = settings or SolverSettings()
    memory = allowed_memory(settings)
    solver = chosen_solver(system.data, system.model, replace(settings, memory=memory))
    _log_choice(system, settings, solver, memory)
    if solver == "direct":
        return solve(system.data, system.model, system.kernels, system.variance, progress)
    try:
        return _solve_by_iterations(system, memory, settings.threads, progress, checkpoint)
    except ConvergenceError as error:
        remedy = f"{error.remedy}; {memory:.3g} GB could be taken (--memory)" if error.remedy else ""
        raise ConvergenceError(error.where, error.expected, error.found, remedy) from error


def _log_choice(system: JointSystem, settings: SolverSettings, solver: Solver, memory: float) -> None:
    short = settings.solver == "auto" and solver == "cg"
    _LOG.log(
        logging.WARNING if short else logging.INFO,
        "joint fit of %d unknowns: solved %s; the matrix would take %.3g GB, and %.3g GB may be taken (--memory)",
        system.n_unknowns,
        "by conjugate gradients" if solver == "cg" else "directly",
        1e-9 * direct_memory(system.data, system.model),
        memory,
    )


def orbit_sums(right: FloatArray, symmetry: Symmetry) -> tuple[FloatArray, FloatArray]:
    """Right-hand sides for the data and for a unit mean of each orbit of atoms, and what makes the atoms' of them.

    Only means that are alike for equivalent atoms occur, so each atom gets the same share of its orbit's solution.

    Returns
    -------
    sums, shares
        Shapes ``(n_observations, 1 + n_orbits)`` and ``(1 + n_orbits, 1 + n_atoms)``.
    """
    orbits = symmetry.orbit_numbers()
    alike = np.eye(orbits.max() + 1)[orbits]
    sums = np.concatenate([right[:, :1], right[:, 1:] @ alike], axis=1)
    shares = np.zeros((1 + alike.shape[1], 1 + len(alike)))
    shares[0, 0] = 1.0
    shares[1:, 1:] = (alike / alike.sum(axis=0)).T
    return sums, shares


def preconditioner_rank(n: int, memory: float) -> int:
    """Columns of the covariance that a preconditioner of at most ``memory`` bytes holds, for n observations."""
    # rank * n for the columns, twice rank^2 for the small system and its copy
    by_memory = (np.sqrt(n**2 + memory) - n) / 4.0
    return max(1, min(int(_LARGEST_RANK * n), int(by_memory)))


def _solve_by_iterations(
    system: JointSystem, memory: float, threads: int, progress: Progress | None, checkpoint: Checkpoint | None
) -> JointFit:
    """Solve by conjugate gradients in ``memory`` gigabytes."""
    data, model = system.data, system.model
    operator = JointOperator(system, threads, 0.3e9 * memory)
    noise = noise_variances(data, model.noises)
    right, shares = orbit_sums(data.right_hand_sides(model.symmetry), model.symmetry)
    scale = np.full(right.shape[1], _MEAN_TOLERANCE)
    scale[0] = _DATA_TOLERANCE

    def error(residual: FloatArray) -> float:
        weighted = np.square(residual) / noise[:, None]
        return float((np.sqrt(weighted.mean(axis=0)) / scale).max())

    def matrix(vectors: FloatArray) -> FloatArray:
        return operator(vectors) + noise[:, None] * vectors

    first = np.log(error(right))

    def show(done: float) -> None:
        if progress is not None:
            progress(int(1000 * done), 1000)

    rank = preconditioner_rank(operator.size, 0.5e9 * memory)
    inverse = Preconditioner(operator, noise, rank, lambda done, total: show(0.3 * done / total))
    written = time.monotonic()

    def report(state: Iterates, last: float) -> None:
        nonlocal written
        if checkpoint is not None and time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
            _keep(checkpoint, state)
            written = time.monotonic()
        show(0.3 + 0.7 * float(np.clip(1.0 - np.log(max(last, 1.0)) / max(first, 1.0), 0.0, 1.0)))

    solution = conjugate_gradients(matrix, inverse, right, error, _MOST_ITERATIONS, _kept(checkpoint, right), report)
    variances = atoms_variances(model, system.variance)
    symmetry = None if model.symmetry.trivial else model.symmetry
    return JointFit(
        data.positions, data.partitioned, data.centres(model.symmetry), variances, solution @ shares, model.noises,
        symmetry,
    )  # fmt: skip


def _keep(checkpoint: Checkpoint, state: Iterates) -> None:
    checkpoint.update(
        solution=state.solution, residual=state.residual, direction=state.direction, iteration=state.iteration
    )


def _kept(checkpoint: Checkpoint | None, right: FloatArray) -> Iterates | None:
    if checkpoint is None or "solution" not in checkpoint or checkpoint["solution"].shape != right.shape:
        return None
    solution, residual, direction = (checkpoint[name] for name in ("solution", "residual", "direction"))
    return Iterates(solution, residual, direction, int(checkpoint["iteration"]))

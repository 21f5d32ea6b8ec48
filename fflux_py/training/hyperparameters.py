r"""Hyperparameters of atoms that are trained by their energies alone: one length for every feature (ARD).

The data are centred by their mean and scaled by their standard deviation; a shifted prior mean never enters, because it
would collapse the length scales.  Two criteria:

``"likelihood"``
    The exact log marginal likelihood, over the lengths, the prior variance and a noise variance; known noise of single
    labels is added to the latter.
``"holdout"``
    The root mean square error of held-out points, whose energies the weights have not seen: the criterion of the
    field's trainer.  Every fifth point of a shuffled order is held out (the shuffle is the same for all trainings); the
    final weights use all points.  The prior variance is the likeliest for the lengths found.

The model, its constraints and its likelihood are gpytorch's, one batch for all atoms; value and gradient come from one
factorisation of our own (:mod:`fflux_py.training._likelihood`) in place of differentiation through gpytorch's.  All
atoms are searched side by side, by BFGS in the logarithms (:mod:`fflux_py.training._maximise`).  With the same number
of threads the result is the same to the last bit.  Small data sets can have several maxima; the search ends in the one
uphill of the start.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from fflux_py import __version__
from fflux_py.errors import ConvergenceError, InputError, MissingDependencyError
from fflux_py.gp.covariance import Covariance
from fflux_py.training._maximise import Maximum, maximise
from fflux_py.training.config import TrainingConfig
from fflux_py.typing import FloatArray, Progress

HELD_OUT: Final = 5
"""One point in this many is held out by the hold-out criterion."""
_TOLERANCE: Final = 0.02
_TOLERANCE_PER_POINT: Final = 1e-4
_SHUFFLE_SEED: Final = 0


@dataclass(frozen=True)
class Hyperparameters:
    r"""The optimum of one atom.

    Parameters
    ----------
    theta
        :math:`1/(2 l^2)` of every feature, shape ``(n_features,)``.
    variance
        Prior variance in hartree^2.
    noise
        Homoscedastic noise variance over the prior variance; known noise of single points comes on top.
    log_likelihood
        The criterion at the optimum: the log marginal likelihood of the standardised data, or, for ``"holdout"``, minus
        the number of held-out points times the logarithm of their standardised root mean square error.
    iterations
        Evaluations of the criterion.
    """

    theta: FloatArray
    variance: float
    noise: float
    log_likelihood: float
    iterations: int


def _exact_gp() -> Any:
    try:
        from fflux_py.training import _exact_gp
    except ImportError as error:
        raise MissingDependencyError(
            "training", "gpytorch and torch", f"no module {error.name!r}", "pip install 'fflux_py[train]'"
        ) from error
    return _exact_gp


def program_versions(forces: bool) -> dict[str, str]:
    """Versions of the programs that took part; the joint fit needs no torch."""
    versions = {"fflux_py": __version__, "numpy": np.__version__, "python": platform.python_version()}
    return versions if forces else versions | _exact_gp().VERSIONS


def maximise_likelihood(
    start: Covariance, points: FloatArray, energies: FloatArray, max_iterations: int, threads: int = 1
) -> Hyperparameters:
    """Fit theta, prior variance and noise of one atom: :func:`fit_hyperparameters` for a batch of one.

    Parameters
    ----------
    start
        Kernel whose ``theta`` is the start.
    points, energies
        Features, shape ``(n_train, n_features)``, and energies in hartree, shape ``(n_train,)``.
    max_iterations
        Most evaluations of the likelihood.
    threads
        Threads of the linear algebra.

    Raises
    ------
    ConvergenceError
        The likelihood cannot be computed at the start.
    """
    config = TrainingConfig(forces=False, max_iterations=max_iterations, threads_per_worker=threads)
    return fit_hyperparameters([start], points[None], energies[None], config)[0]


def fit_hyperparameters(
    starts: Sequence[Covariance],
    points: FloatArray,
    energies: FloatArray,
    config: TrainingConfig,
    label_noise: FloatArray | None = None,
    progress: Progress | None = None,
) -> list[Hyperparameters]:
    """Fit theta, prior variance and noise of several atoms side by side.

    The likelihoods are computed one after the other in the same memory: two to four arrays of N x N numbers, whatever
    the number of atoms.

    Parameters
    ----------
    starts
        Kernel of every atom, all of one shape; its ``theta`` is the start of the search.
    points, energies
        Features, shape ``(n_atoms, n_train, n_features)``, and energies in hartree, shape ``(n_atoms, n_train)``.
    config
        Its criterion, most evaluations of one atom's criterion, and threads of the linear algebra.
    label_noise
        Known noise variances of the labels in hartree^2, shape ``(n_atoms, n_train)``.
    progress
        Called with the number of atoms that are done and of all.

    Raises
    ------
    ConvergenceError
        The criterion cannot be computed at the start of an atom (data that are not finite).
    """
    if label_noise is not None and config.criterion == "holdout":
        raise InputError("label_noise", "none for the hold-out criterion", "some", "use the likelihood")
    backend = _exact_gp()
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with gpytorch

    scales = np.maximum(energies.std(axis=1), np.finfo(float).tiny)
    y = (energies - energies.mean(axis=1, keepdims=True)) / scales[:, None]
    noise = np.zeros_like(y) if label_noise is None else label_noise / scales[:, None] ** 2
    with threadpool_limits(config.threads_per_worker):
        model, maximum = _search(backend, starts, (points, y, noise), config, progress)
        theta, variance, free_noise = model.optimum()
        if config.criterion == "holdout":  # there the noise is that over the prior variance
            variance = np.array(
                [_likeliest_variance(starts[k], theta[k], points[k], y[k], free_noise[k]) for k in range(len(y))]
            )
        else:
            free_noise = free_noise / variance
    return [
        Hyperparameters(
            theta=theta[k],
            variance=float(variance[k] * scales[k] ** 2),
            noise=float(free_noise[k]),
            log_likelihood=float(maximum.values[k]),
            iterations=int(maximum.evaluations[k]),
        )
        for k in range(len(starts))
    ]


def _search(
    backend: Any,
    starts: Sequence[Covariance],
    data: tuple[FloatArray, FloatArray, FloatArray],
    config: TrainingConfig,
    progress: Progress | None,
) -> tuple[Any, Maximum]:
    """Search from the start, all atoms side by side, always with all points.

    A first search on a few hundred points saves no time: with fewer points than a feature needs it ends in another
    maximum, from which the way is as long, and the maximum that is found then is often a lower one.
    """
    n_points = data[1].shape[1]
    held = None
    if config.criterion == "holdout":
        held = np.zeros(n_points, dtype=bool)
        held[np.random.default_rng(_SHUFFLE_SEED).permutation(n_points)[::HELD_OUT]] = True
    lengths = np.array([np.sqrt(0.5 / np.maximum(start.theta, 1e-12)) for start in starts])
    model = backend.AtomicProcesses(starts[0], lengths, *data, held)
    tolerance = max(_TOLERANCE, _TOLERANCE_PER_POINT * n_points)
    report = _reporter(progress, len(starts))
    maximum = maximise(model.objective, model.parameters_of_rows, tolerance, config.max_iterations, report)
    if not np.isfinite(maximum.values).all():
        atom = int(np.flatnonzero(~np.isfinite(maximum.values))[0])
        raise ConvergenceError(
            f"hyperparameters, process {atom + 1}", "a finite criterion at the start", "none", "check the data"
        )
    model.parameters_of_rows = maximum.parameters
    return model, maximum


def _reporter(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    """One call for every atom that is done, in order."""
    if progress is None:
        return None
    told = 0

    def report(done: int) -> None:
        nonlocal told
        while told < done:
            told += 1
            progress(told, total)

    return report


def _likeliest_variance(start: Covariance, theta: FloatArray, x: FloatArray, y: FloatArray, noise: float) -> float:
    r"""Prior variance of the largest likelihood, :math:`y^T (K + \nu I)^{-1} y / N`."""
    matrix = replace(start, theta=theta).matrix(x, x)
    matrix[np.diag_indices_from(matrix)] += noise
    return float(y @ cho_solve(cho_factor(matrix, lower=True), y)) / len(y)

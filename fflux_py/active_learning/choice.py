"""Which visited frames are worth a label: uncertain ones, those outside of the data, and where energy was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fflux_py.analysis.runs import Run
from fflux_py.dynamics.config import GuardConfig
from fflux_py.dynamics.guards import Inspector
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.sampling.selection import extend_farthest, pair_features
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import KCAL_MOL

POOL_FACTOR: Final = 5
"""A batch is chosen among so many times as many of the highest scores."""

FRAMES_BEFORE_FAILURE: Final = 8
"""Frames before a collapse, or before the guard that ended a run, that are candidates."""

COLLAPSE_DEPTH: Final = 1.0 / KCAL_MOL
"""Hartree below the model's minimum where a run has collapsed into an unphysical minimum."""

_LEAST_DEVIATION: Final = 1e-9


def frames_to_collapse(runs: Sequence[Run], minimum: float) -> list[int]:
    """Count the frames of every run until it has collapsed into an unphysical minimum, that frame included.

    All frames count of a run that has not.

    Parameters
    ----------
    runs
        The runs.
    minimum
        Energy of the model at its minimum, hartree.  A run has collapsed at a frame that is further below it than
        :data:`COLLAPSE_DEPTH`.
    """
    below = [run.trajectory.potential < minimum - COLLAPSE_DEPTH for run in runs]
    return [int(mask.argmax()) + 1 if mask.any() else len(mask) for mask in below]


def find_failed_runs(runs: Sequence[Run], minimum: float) -> list[bool]:
    """Whether each run failed: it collapsed (:func:`frames_to_collapse`) before its end, or a guard stopped it."""
    return [run.status == "stopped" or end < len(run.trajectory)
            for run, end in zip(runs, frames_to_collapse(runs, minimum), strict=True)]  # fmt: skip


def candidate_frames(runs: Sequence[Run], count: int, minimum: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """At most ``count`` frames of runs, equally spaced, the last frame of every run among them.

    The start, which all runs share, is left out.  So is what comes after a collapse into an unphysical minimum of the
    model: atoms meet there, and labels of such frames teach little.  The way in is what has to be learnt.  Of runs that
    failed, the last :data:`FRAMES_BEFORE_FAILURE` frames are therefore candidates besides.

    Parameters
    ----------
    runs
        The runs.
    count
        Frames that are chosen evenly.
    minimum
        As :func:`frames_to_collapse` takes it.

    Returns
    -------
    positions
        Bohr, shape ``(m, n_atoms, 3)``.
    temperatures
        Of the thermostat, kelvin, shape ``(m,)``.
    jumps
        Change of the conserved quantity since the last report, kcal/mol, absolute value, shape ``(m,)``.

    Raises
    ------
    InputError
        Every run was stopped before its first report: nothing was visited.
    """
    last = frames_to_collapse(runs, minimum)
    reports = [(r, k) for r in range(len(runs)) for k in range(1, last[r])]
    if not reports:
        raise InputError("model", "runs that reach their first report", "none: every one was stopped before",
                         "train on more geometries first")  # fmt: skip
    step = max(1.0, len(reports) / count)
    chosen = {reports[min(len(reports) - 1, int(k * step))] for k in range(min(count, len(reports)))}
    tails = [FRAMES_BEFORE_FAILURE if failed else 1 for failed in find_failed_runs(runs, minimum)]
    chosen |= {(r, k) for r, end in enumerate(last) for k in range(max(1, end - tails[r]), end)}
    ordered = sorted(chosen)
    jump = [np.abs(np.diff(run.conserved_kcal_mol, prepend=run.conserved_kcal_mol[:1])) for run in runs]
    return (
        np.array([runs[r].trajectory.positions[k] for r, k in ordered]),
        np.array([runs[r].config.temperature for r, _ in ordered]),
        np.array([jump[r][k] for r, k in ordered]),
    )


def acquisition_scores(
    forcefield: ForceField, positions: FloatArray, jumps: FloatArray, jump_limit: float
) -> tuple[FloatArray, FloatArray]:
    """How much a model would learn from frames.

    The sum of three numbers, each of which is one where a frame is at the border of what is usual: the largest
    predictive deviation of an atomic energy over its median among the frames, the furthest feature outside of the
    training range over the margin of the guards, and the jump of the conserved quantity over its limit.

    Parameters
    ----------
    forcefield
        The model.
    positions, jumps
        As :func:`candidate_frames` gives them.
    jump_limit
        kcal/mol.

    Returns
    -------
    score, deviation
        Shape ``(m,)``; the largest deviation of an atomic energy is in kcal/mol.
    """
    deviation = forcefield.unmatched.atomic_deviations(positions).max(axis=1) * KCAL_MOL
    guards = GuardConfig()
    excess = Inspector(forcefield, guards).excess(positions).max(axis=1)
    usual = max(float(np.median(deviation)), _LEAST_DEVIATION)
    return np.asarray(deviation / usual + excess / guards.features_margin + jumps / jump_limit), deviation


def diverse_batch(positions: FloatArray, score: FloatArray, known: FloatArray, count: int) -> IntArray:
    """Indices of ``count`` frames with high scores that differ from each other and from ``known`` geometries.

    Of the :data:`POOL_FACTOR` times ``count`` highest scores, greedily the one furthest from everything chosen before.

    Parameters
    ----------
    positions
        Bohr, shape ``(m, n_atoms, 3)``.
    score
        Shape ``(m,)``.
    known
        Geometries that carry labels, bohr, shape ``(k, n_atoms, 3)``, at least one.
    count
        Frames to choose; all of them if there are fewer.
    """
    pool = np.argsort(-score, kind="stable")[: POOL_FACTOR * count]
    features = pair_features(np.concatenate([known, positions[pool]]))
    total = len(known) + min(count, len(pool))
    chosen = extend_farthest(features, total, list(range(len(known))))[len(known) :]
    return np.asarray(pool[chosen - len(known)])

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
from fflux_py.potential import FloatArray, IntArray
from fflux_py.sampling.selection import extend_farthest, pair_features
from fflux_py.units import KCAL_MOL

POOL: Final = 5
"""A batch is chosen among so many times as many of the highest scores."""

_LEAST_DEVIATION: Final = 1e-9


def candidates(runs: Sequence[Run], count: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """At most ``count`` frames of runs, equally spaced, the last frame of every run among them.

    The start, which all runs share, is left out.

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
    places = [(r, k) for r, run in enumerate(runs) for k in range(1, len(run.trajectory))]
    if not places:
        raise InputError("model", "runs that reach their first report", "none: every one was stopped before",
                         "train on more geometries first")  # fmt: skip
    step = max(1.0, len(places) / count)
    chosen = {places[min(len(places) - 1, int(k * step))] for k in range(min(count, len(places)))}
    chosen |= {(r, len(run.trajectory) - 1) for r, run in enumerate(runs) if len(run.trajectory) > 1}
    ordered = sorted(chosen)
    jump = [np.abs(np.diff(run.conserved_kcal_mol, prepend=run.conserved_kcal_mol[:1])) for run in runs]
    return (
        np.array([runs[r].trajectory.positions[k] for r, k in ordered]),
        np.array([runs[r].config.temperature for r, _ in ordered]),
        np.array([jump[r][k] for r, k in ordered]),
    )


def scores(
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
        As :func:`candidates` gives them.
    jump_limit
        kcal/mol.

    Returns
    -------
    score, deviation
        Shape ``(m,)``; the largest deviation of an atomic energy is in kcal/mol.
    """
    deviation = forcefield.atomic_deviations(positions).max(axis=1) * KCAL_MOL
    guards = GuardConfig()
    excess = Inspector(forcefield, guards).excess(positions).max(axis=1)
    usual = max(float(np.median(deviation)), _LEAST_DEVIATION)
    return np.asarray(deviation / usual + excess / guards.features_margin + jumps / jump_limit), deviation


def diverse_batch(positions: FloatArray, score: FloatArray, known: FloatArray, count: int) -> IntArray:
    """Indices of ``count`` frames with high scores that differ from each other and from ``known`` geometries.

    Of the :data:`POOL` times ``count`` highest scores, greedily the one furthest from everything that is there.

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
    pool = np.argsort(-score, kind="stable")[: POOL * count]
    features = pair_features(np.concatenate([known, positions[pool]]))
    wanted = len(known) + min(count, len(pool))
    chosen = extend_farthest(features, wanted, list(range(len(known))))[len(known) :]
    return np.asarray(pool[chosen - len(known)])

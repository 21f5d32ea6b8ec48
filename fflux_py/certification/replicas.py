"""The runs of a certification: started, or resumed where they were interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from fflux_py.analysis.energy_conservation import piece_config, piece_start
from fflux_py.analysis.runs import EQUILIBRATION, Run, read_runs
from fflux_py.dynamics import MDConfig, resume, run_replicas
from fflux_py.dynamics import checkpoint as checkpoints
from fflux_py.errors import InputError, SimulationStopped
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import IntArray


def simulate(
    forcefield: ForceField,
    start: Molecule,
    config: MDConfig,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    threads: int = 1,
    bias: str | None = None,
) -> tuple[Run, ...]:
    """Run all replicas of ``config``, each to its end; a run that a guard stops is a result like any other.

    What the folder holds already is taken: runs that were killed go on from their checkpoint, shorter ones are
    prolonged.  ``bias`` is the text of a PLUMED input, as in :func:`fflux_py.dynamics.run_replicas`.

    Raises
    ------
    InputError
        The folder holds runs with other settings, or longer ones.
    ModelMismatchError
        It holds runs of another model.
    """
    with suppress(SimulationStopped):
        if not _has_checkpoint(folder):
            if folder.exists():
                # Killed before its first checkpoint: nothing in it can be used.
                shutil.rmtree(folder)
            run_replicas(forcefield, start, config, folder, progress, threads=threads, bias=bias)
        else:
            earlier, _ = checkpoints.read_newest_checkpoint(folder)
            same = replace(earlier.config, steps=config.steps, checkpoint_every=config.checkpoint_every) == config
            if not same or (None if earlier.bias is None else earlier.bias.text) != bias:
                raise InputError(
                    str(folder), "runs with the settings asked for", "runs with others", "choose another folder"
                )
            resume(forcefield, folder, config.steps, progress, threads=threads)
    return read_runs(folder)


def run_pieces(
    forcefield: ForceField,
    runs: tuple[Run, ...],
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Run, ...] | None:
    """Run a piece at constant energy from the end of every run that was completed, each in a folder of its own.

    They are kept like the runs of :func:`simulate`.  None for runs whose own conserved quantity tells whether the model
    conserves energy: those without the heat of Langevin dynamics (:mod:`fflux_py.analysis.energy_conservation`).
    """
    if runs[0].config.thermostat != "langevin":
        return None
    pieces: list[Run] = []
    for k, run in enumerate(runs):
        if run.status == "completed":
            config = piece_config(run.config, run.length_ps, k)
            # of a prolonged run the piece is another one
            name = folder / f"{run.config.temperature:g}K-{run.length_ps:g}ps" / f"{k:03d}"
            pieces += simulate(forcefield, piece_start(run), config, name, progress)
    return tuple(pieces)


def _has_checkpoint(folder: Path) -> bool:
    return (folder / checkpoints.CHECKPOINT_FILE).exists()


def visited_frames(runs: tuple[Run, ...], count: int, source: str) -> GeometrySet | None:
    """``count`` frames of these runs (all of one temperature), equally spaced, the first tenth of each left out.

    A run too short for that gives what it has; the start is never among them.  None if every run was stopped before its
    first report.
    """
    reports: list[tuple[int, int]] = []
    for r, run in enumerate(runs):
        last = len(run.trajectory)
        reports += [(r, k) for k in range(min(max(1, int(EQUILIBRATION * last)), last - 1), last) if k > 0]
    if not reports:
        return None
    chosen = [reports[k] for k in _spread_evenly(len(reports), count)]
    return GeometrySet(
        molecule=runs[0].trajectory.molecule,
        positions=np.array([runs[r].trajectory.positions[k] for r, k in chosen]),
        source=tuple(f"{source}-r{r}" for r, _ in chosen),
        temperature=np.array([runs[r].config.temperature for r, _ in chosen]),
        split=("test",) * len(chosen),
    )


def _spread_evenly(m: int, count: int) -> IntArray:
    """Indices of ``count`` of m entries, in the middles of equal parts."""
    if count >= m:
        return np.arange(m)
    return np.asarray(((np.arange(count) + 0.5) * m / count).astype(np.int64))

"""Does the model conserve energy where its runs go?  Short runs at constant energy from visited states.

In Langevin dynamics the conserved quantity is total energy less the heat of friction and noise.  Its drift has two
sources: forces that are no gradient of the energy, and the book-keeping of the heat, whose error of the time step grows
with every draw of noise.  The second says nothing about the model.  Without a thermostat only the first is left, but
for an error of velocity Verlet that stays bounded.  So pieces are run at constant energy, with the time step and the
masses of the runs, each from a geometry that a run visited and with velocities of its temperature; their total energy
is held against a drift.

A drift tells forces that are no gradient.  Forces of *another* potential than the energy's conserve the total energy of
that one: the energy does not drift, it fluctuates by the difference of the two.  So does the energy of velocity Verlet,
but as the square of the time step.  A piece is therefore run a second time with half the step: what a model conserves
fluctuates four times less, and what is left over at the step zero is its fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.runs import DRIFT_TIME_PS, Run, completed_run
from fflux_py.analysis.statistics import linear_drift
from fflux_py.dynamics import CompiledPotential, GuardTripped, MDConfig, run_nvt
from fflux_py.dynamics.config import GuardConfig
from fflux_py.forcefield import ForceField
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import Progress
from fflux_py.units import KCAL_MOL

CRITERIA: Final = ("Drift of the energy at constant energy", "Fluctuation of the energy that no time step explains")
"""Names of the criteria in reports."""

SHARE: Final = 0.1
"""Length of a piece over that of its run; at most 100 ps, and a picosecond of runs that have one."""

LARGEST_DRIFT: Final = 1.0
"""kcal/mol in 100 ps, of a shorter piece over its length."""

LARGEST_FLUCTUATION: Final = 0.02
"""kcal/mol, standard deviation; or half of what the time step makes, if that is more."""

_REPORTS: Final = 200
"""Reports of a piece at least, as far as it has steps; a drift needs 16."""


def piece_config(config: MDConfig, length_ps: float, number: int = 0) -> MDConfig:
    """Settings of a piece that belongs to a run of this length.

    Parameters
    ----------
    config
        Settings of the run.
    length_ps
        Simulated time of the run, picosecond.
    number
        Tells the pieces of several runs apart: each has random velocities of its own.
    """
    piece_ps = min(max(SHARE * length_ps, min(length_ps, 1.0)), DRIFT_TIME_PS)
    steps = max(1, round(1000.0 * piece_ps / config.timestep))
    return replace(
        config, thermostat="none", relaxation_time=None, replicas=1, seed=config.seed + 1_000_003 * (number + 1),
        steps=steps, report_every=max(1, min(config.report_every, steps // _REPORTS)), exact_temperature=False,
        guards=GuardConfig(conserved="off"),
    )  # fmt: skip


def piece_start(run: Run) -> Molecule:
    """The geometry that the run of a piece ended with."""
    return run.trajectory.molecule.with_positions(run.trajectory.positions[-1])


def piece_drift(piece: Run) -> float:
    """Drift of the total energy in a piece, kcal/mol in 100 ps or over its length.

    Infinite for a piece that a guard stopped, and not a number for one with fewer than 16 reports.
    """
    if piece.status == "stopped":
        return np.inf
    if len(piece.trajectory) < 16:
        return np.nan
    return linear_drift(piece.times_ps, piece.conserved_kcal_mol).slope * min(piece.length_ps, DRIFT_TIME_PS)


def run_piece(
    forcefield: ForceField | CompiledPotential, run: Run, number: int = 0, progress: Progress | None = None
) -> Run:
    """Run the piece of a run, in memory.

    A bias of the run is not part of it: what is tested is the model.
    """
    config = piece_config(run.config, run.length_ps, number)
    try:
        return completed_run(run_nvt(forcefield, piece_start(run), config, None, progress), config)
    except GuardTripped as stop:
        if stop.trajectory is None:
            raise
        return Run(stop.trajectory, config, "stopped", str(stop), {})


def drift_criterion(
    drifts: Sequence[float], length_ps: float, limit: float = LARGEST_DRIFT, group: str = ""
) -> Criterion:
    """The largest drift of pieces (:func:`piece_drift`, each of ``length_ps``) against its limit, kcal/mol."""
    worst = float(np.abs(drifts).max()) if len(drifts) else np.nan
    over = "in 100 ps" if length_ps >= DRIFT_TIME_PS else f"over {length_ps:.3g} ps"
    note = (
        f"{len(drifts)} run{'s' if len(drifts) != 1 else ''} of {length_ps:.3g} ps at constant energy, from geometries "
        f"that were visited; slope {over}, absolute value."
    )
    return Criterion(CRITERIA[0], worst, "kcal/mol", limit, "<", note, group)


def energy_fluctuations(forcefield: ForceField | CompiledPotential, run: Run) -> tuple[float, float]:
    """Standard deviations of the total energy at constant energy, kcal/mol, with the step of a run and with half of it.

    Both pieces start with the same velocities from the geometry that the run ended with, and are a picosecond long, or
    as long as a shorter run.  They are infinite if a guard stops one of them.
    """
    config = piece_config(run.config, min(run.length_ps, 1.0), 0)
    half = replace(config, timestep=0.5 * config.timestep, steps=2 * config.steps, report_every=2 * config.report_every)
    try:
        energies = [run_nvt(forcefield, piece_start(run), each).conserved for each in (config, half)]
    except GuardTripped:
        return np.inf, np.inf
    return float(energies[0].std() * KCAL_MOL), float(energies[1].std() * KCAL_MOL)


def fluctuation_criterion(full: float, half: float, group: str = "") -> Criterion:
    """What fluctuations with the full and the half time step (:func:`energy_fluctuations`) leave at the step zero.

    With s0 the part of the model and s the part of the full step, their squares are s0^2 + s^2 and s0^2 + s^2/16.
    """
    left = np.inf if full == np.inf else float(np.sqrt(np.maximum(0.0, (16.0 * half**2 - full**2) / 15.0)))
    note = f"Total energy at constant energy: {full:.2g} kcal/mol, {half:.2g} with half the time step."
    limit = LARGEST_FLUCTUATION if full == np.inf else max(LARGEST_FLUCTUATION, 0.5 * full)
    return Criterion(CRITERIA[1], left, "kcal/mol", limit, "<", note, group)

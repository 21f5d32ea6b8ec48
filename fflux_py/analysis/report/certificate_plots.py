"""Pictures of a certification: errors on visited frames, energies and conserved quantities of long runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from fflux_py.analysis.report.drawing import CYCLE, MUTED, new_figure, scatter, solid_legend, styled
from fflux_py.analysis.runs import Run
from fflux_py.typing import FloatArray
from fflux_py.units import KCAL_MOL

_POINTS = 1000


@styled
def visited_errors(errors: Mapping[str, tuple[FloatArray, FloatArray]]) -> Figure:
    """Energy errors on visited frames.

    Parameters
    ----------
    errors
        By group: reference energies above the minimum, and model minus reference, both kcal/mol, shape ``(m,)``.
    """
    figure = new_figure(2.9)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.4, 1.0))
    for k, (name, (energy, error)) in enumerate(errors.items()):
        colour = CYCLE[k % len(CYCLE)]
        scatter(left, energy, error, colour, name, size=9.0)
        right.hist(error, bins=30, orientation="horizontal", histtype="step", color=colour)
    for axes in (left, right):
        axes.axhline(0.0, color=MUTED, linewidth=0.7)
    left.set_xlabel("reference energy above the minimum (kcal/mol)")
    left.set_ylabel("model − reference (kcal/mol)")
    right.set_xlabel("frames")
    if errors:
        solid_legend(left, loc="best", ncols=2)
    return figure


@styled
def long_runs(groups: Mapping[str, Sequence[Run]], minimum: float) -> Figure:
    """Potential energy above ``minimum`` (hartree) and conserved quantity of all runs, one colour for each group."""
    figure = new_figure(4.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for k, (name, runs) in enumerate(groups.items()):
        colour = CYCLE[k % len(CYCLE)]
        for r, run in enumerate(runs):
            block = max(1, len(run.trajectory) // _POINTS)
            count = len(run.trajectory) // block
            times, potential, conserved = (
                np.asarray(series[: count * block]).reshape(count, block).mean(axis=1)
                for series in (run.times_ps, (run.trajectory.potential - minimum) * KCAL_MOL, run.conserved_kcal_mol)
            )
            upper.plot(times, potential, color=colour, linewidth=0.6, alpha=0.7, label=name if r == 0 else None)
            lower.plot(times, conserved, color=colour, linewidth=0.6, alpha=0.7)
    upper.set_ylabel("potential energy\n(kcal/mol)")
    lower.set_ylabel("conserved quantity\n− its start (kcal/mol)")
    lower.set_xlabel("time (ps)")
    solid_legend(upper, loc="upper right", ncols=max(1, len(groups)))
    return figure

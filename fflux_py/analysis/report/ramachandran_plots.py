"""Pictures of Ramachandran maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MultipleLocator

from fflux_py.analysis.ramachandran.map import RamachandranMap
from fflux_py.analysis.ramachandran.regions import REGIONS
from fflux_py.analysis.report.drawing import DEPTH, GRID, INK, MUTED, VERMILLION, new_figure, styled

HIGHEST: Final = 8.0
"""Upper end of the scale, kcal/mol."""


_LINES: Final = (1.0, 2.0, 4.0)
_HALO: Final = [withStroke(linewidth=1.6, foreground=GRID)]

Mark = tuple[str, float, float]
"""Name, phi and psi (degrees) of a structure to be marked."""


@styled
def ramachandran_figure(
    maps: Sequence[Sequence[RamachandranMap | None]],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    marks: Sequence[Mark] = (),
) -> Figure:
    """Free energies over phi and psi, one panel for each map, on one scale from 0 to 8 kcal/mol.

    Empty is what no frame has visited, the palest colour what lies above the scale; lines stand at 1, 2 and 4 kcal/mol.
    Broken lines are the borders of the regions of :mod:`fflux_py.analysis.ramachandran.regions`.

    Parameters
    ----------
    maps
        Rows of maps; None leaves a panel empty.
    columns, rows
        Headings of the columns, and what stands before the rows; none if not given.
    marks
        Structures to be marked, such as minima.
    """
    n_rows, n_columns = len(maps), max(len(row) for row in maps)
    single = n_rows == n_columns == 1
    side = 3.8 if single else 2.5
    figure = new_figure(side * n_rows + (0.4 if single else 0.9), side * n_columns + 1.6)
    # Squares of one size, close to each other.
    figure.set_layout_engine("compressed")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
    norm = BoundaryNorm(np.arange(0.0, HIGHEST + 0.01, 0.25), DEPTH.N)
    for i, row in enumerate(grid):
        for j, axes in enumerate(row):
            surface = maps[i][j] if j < len(maps[i]) else None
            if surface is None:
                axes.set_axis_off()
                continue
            size = 7.5 if single else 6.0
            _panel(axes, surface, norm, size)
            for name, phi, psi in marks:
                axes.plot(phi, psi, "x", color=VERMILLION, markersize=6.0 if single else 4.5, markeredgewidth=1.4)
                axes.annotate(
                    name,
                    (phi, psi),
                    (4, 4),
                    textcoords="offset points",
                    color=VERMILLION,
                    fontsize=size,
                    path_effects=_HALO,
                )
            if j == 0:
                axes.set_ylabel((f"{rows[i]}\n" if rows else "") + "ψ (°)")
            if i == n_rows - 1:
                axes.set_xlabel("φ (°)")
            if i == 0 and columns:
                axes.set_title(columns[j])
    bar = figure.colorbar(ScalarMappable(norm, DEPTH), ax=grid, shrink=0.75, aspect=22, ticks=np.arange(0.0, 9.0, 2.0))
    bar.set_label("free energy (kcal/mol)")
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    return figure


def _panel(axes: Axes, surface: RamachandranMap, norm: BoundaryNorm, size: float) -> None:
    """One map; its first cells are drawn at both ends of the circle, as half of each lies there."""
    values = np.pad(surface.free_energy_kcal_mol, (0, 1), mode="wrap")
    phi, psi = (np.append(surface.centres(axis), 180.0) for axis in (0, 1))
    shown = np.ma.masked_invalid(np.minimum(values.T, HIGHEST - 1e-6))
    axes.pcolormesh(phi, psi, shown, cmap=DEPTH, norm=norm, shading="nearest", rasterized=True)
    # Lines at the height of what is populated; further up they would show the noise of single frames.
    levels = [level for level in _LINES if level < np.nanmax(values)]
    if levels:
        axes.contour(phi, psi, np.ma.masked_invalid(values.T), levels=levels, colors=INK, linewidths=0.6, alpha=0.7)
    for border in (-120.0, 0.0, 120.0):
        for line in (axes.axhline, axes.axvline):
            line(border, color=MUTED, linewidth=0.5, linestyle=(0, (4, 4)), alpha=0.7)
    for region in REGIONS:
        # At the upper end of each square, where it stands in nobody's way; those across 180 degrees at the side that
        # is inside the picture.
        x = -178.0 if region.phi[0] == 120.0 else region.phi[0] + 2.0
        y = 178.0 if region.psi[0] == 120.0 else region.psi[1] - 2.0
        axes.text(x, y, region.label, fontsize=size, color=INK, ha="left", va="top", path_effects=_HALO)
    axes.grid(False)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(60 if size > 6.5 else 120))
    axes.set_xlim(-180.0, 180.0)
    axes.set_ylim(-180.0, 180.0)

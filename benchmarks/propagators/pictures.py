"""Pictures of what rows compare."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from scipy.interpolate import CubicSpline

from fflux_py.analysis.report.drawing import INK, MUTED, new_figure, styled
from fflux_py.typing import FloatArray


@styled
def spectra_figure(spectra: Mapping[str, CubicSpline], bands: FloatArray) -> Figure:
    """Mean power spectra below each other, each over its own maximum; dotted lines are the bands of the first."""
    figure = new_figure(height=1.0 + 0.9 * len(spectra))
    axes = figure.subplots()
    grid = np.arange(100.0, 3500.0)
    for k, (name, spectrum) in enumerate(spectra.items()):
        within = grid[grid < spectrum.x[-1]]
        density = spectrum(within)
        axes.plot(within, density / density.max() - 1.15 * k, lw=1.0)
        axes.text(2550.0, 0.2 - 1.15 * k, name, ha="center", color=INK)
    for band in bands:
        axes.axvline(band, color=MUTED, ls=":", lw=0.6)
    axes.grid(visible=False)
    axes.set(xlabel="wavenumber / cm⁻¹", xlim=(100.0, 3500.0), yticks=[])
    return figure


@styled
def torsion_figure(values: Mapping[str, FloatArray], label: str) -> Figure:
    """Densities of one torsion (rad) in all runs; the first is black, the second, chance, grey."""
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    for k, (name, angles) in enumerate(values.items()):
        degrees = np.degrees(np.mod(angles + np.pi, 2.0 * np.pi) - np.pi)
        density, edges = np.histogram(degrees, np.linspace(-180.0, 180.0, 73), density=True)
        axes.plot(0.5 * (edges[1:] + edges[:-1]), density, label=name, **_line(k))
    axes.set(xlabel=f"torsion {label} / degrees", ylabel="density / degree⁻¹", xlim=(-180.0, 180.0))
    axes.legend()
    return figure


def _line(k: int) -> dict[str, object]:
    return {0: {"color": INK, "lw": 2.2}, 1: {"color": MUTED, "lw": 1.8}}.get(k, {"lw": 1.0})

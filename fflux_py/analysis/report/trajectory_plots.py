"""Pictures of trajectories and structures.

As in :mod:`fflux_py.analysis.report.prediction_plots`: artefacts in atomic units in, figures in kcal/mol, angstrom,
picoseconds and degrees out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MultipleLocator
from scipy.stats import gamma

from fflux_py.analysis.geometry import angles, bond_lengths, superpose, torsion_free_energy, torsions
from fflux_py.analysis.report.drawing import (
    BLUE,
    DEPTH,
    GREEN,
    INK,
    MANY_POINTS,
    MUTED,
    ORANGE,
    PURPLE,
    VERMILLION,
    new_figure,
    scatter,
    solid_legend,
    styled,
)
from fflux_py.analysis.report.prediction_plots import atom_label
from fflux_py.analysis.runs import RunAnalysis
from fflux_py.analysis.spectrum import HIGHEST, PowerSpectrum
from fflux_py.analysis.statistics import running_mean
from fflux_py.molecules.molecule import Molecule, Torsion
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, KCAL_MOL

_ELEMENT_COLOUR: Final = {"H": "#c9d1d9", "C": MUTED, "N": BLUE, "O": VERMILLION, "F": GREEN, "S": ORANGE}
_ELEMENT_RADIUS: Final = {"H": 0.17}
_HEAVY_RADIUS: Final = 0.26


@styled
def run_traces(analysis: RunAnalysis) -> Figure:
    """Temperature, potential energy and conserved quantity of a run against time.

    Thin lines are the reports, strong lines the running means.  The band around the temperature is the thermostat's
    value with one canonical standard deviation T sqrt(2/f), the curve beside it the canonical distribution
    (a gamma distribution of shape f/2); the band around the conserved quantity is 1 kcal/mol.
    """
    run = analysis.run
    trajectory, time = run.trajectory, run.times_ps
    figure = new_figure(5.4)
    grid = figure.subplots(3, 2, sharex="col", width_ratios=(5.2, 1.0), height_ratios=(1.25, 1.0, 1.0))
    target = run.config.temperature
    for axes in grid[1:, 1]:
        axes.remove()
    upper, middle, lower = grid[:, 0]
    canonical = run.config.thermostat != "none"
    if canonical:
        spread = analysis.expected_temperature_deviation_k
        upper.axhspan(target - spread, target + spread, color=VERMILLION, alpha=0.14, linewidth=0.0)
        upper.axhline(target, color=VERMILLION, linewidth=1.0)
    _trace(upper, time, trajectory.temperature, BLUE)
    upper.set_ylabel("temperature (K)")
    _marginal(grid[0, 1], upper, trajectory.temperature, analysis.degrees_of_freedom, target if canonical else None)
    potential = (trajectory.potential - trajectory.potential[0]) * KCAL_MOL
    _trace(middle, time, potential, GREEN)
    middle.set_ylabel("potential energy\n− start (kcal/mol)")
    lower.axhspan(-1.0, 1.0, color=PURPLE, alpha=0.12, linewidth=0.0)
    lower.plot(time, run.conserved_kcal_mol, color=PURPLE, linewidth=0.8, rasterized=len(time) > MANY_POINTS)
    reach = max(1.15, 1.1 * analysis.conserved_deviation_kcal_mol)
    lower.set_ylim(-reach, reach)
    lower.set_ylabel("conserved quantity\n− start (kcal/mol)")
    lower.set_xlabel("time (ps)")
    lower.set_xlim(0.0, float(time[-1]))
    figure.align_ylabels([upper, middle, lower])
    return figure


@styled
def torsion_map(
    molecule: Molecule,
    pair: tuple[Torsion, Torsion],
    layers: Sequence[tuple[str, FloatArray]],
    run_positions: FloatArray | None = None,
    temperature: float = 300.0,
    biased: bool = False,
) -> Figure:
    """Two torsions against each other on a periodic map.

    Parameters
    ----------
    molecule
        For the names of the atoms.
    pair
        The two torsions.
    layers
        Named sets of geometries in bohr, ``(m, n_atoms, 3)``, drawn as points.
    run_positions
        Trajectory in bohr whose -kT ln p lies underneath; none if not given.
    temperature
        Its temperature in kelvin.
    biased
        Whether a bias acted on it, so that -kT ln p is not its free energy.
    """
    figure = new_figure(4.3, 5.4)
    axes = figure.subplots()
    if run_positions is not None:
        angle = torsions(run_positions, pair)
        edges, surface = torsion_free_energy(angle[:, 0], angle[:, 1], temperature, torsion_bins(len(angle)))
        degrees = np.degrees(edges)
        image = axes.pcolormesh(
            degrees, degrees, np.ma.masked_invalid(surface.T * KCAL_MOL), cmap=DEPTH, rasterized=True
        )
        bar = figure.colorbar(image, ax=axes, shrink=0.75, aspect=22)
        bar.set_label("−kT ln p under the bias (kcal/mol)" if biased else "free energy of the run (kcal/mol)")
        bar.outline.set_visible(False)
    # Blue is taken by the free energy, if there is one.
    colours = (ORANGE, VERMILLION, PURPLE) if run_positions is not None else (BLUE, ORANGE, PURPLE)
    for (name, positions), colour in zip(layers, colours, strict=False):
        angle = np.degrees(torsions(positions, pair))
        scatter(axes, angle[:, 0], angle[:, 1], colour, name, size=9.0)
    axes.set_aspect("equal")
    for axis, atoms in ((axes.xaxis, pair[0]), (axes.yaxis, pair[1])):
        axis.set_major_locator(MultipleLocator(60))
        axis.set_label_text(f"torsion {atom_label(molecule, *atoms)} (°)")
    axes.set_xlim(-180, 180)
    axes.set_ylim(-180, 180)
    if layers:
        solid_legend(axes, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(layers), borderaxespad=0.2)
    return figure


def torsion_bins(n_frames: int) -> int:
    """Bins of a torsion on the map: of 6 degrees, and of 10 where there are fewer than 5000 frames."""
    return 60 if n_frames >= 5000 else 36


@styled
def bond_distributions(molecule: Molecule, positions: FloatArray, training: FloatArray | None = None) -> Figure:
    """Distribution of every bond length in a trajectory, over the range that the training set covers.

    Parameters
    ----------
    molecule
        Its bonds are drawn, its lengths marked.
    positions
        Trajectory in bohr, ``(m, n_atoms, 3)``.
    training
        Training geometries in bohr; their range is the grey bar.
    """
    bonds = sorted(molecule.bonds, key=lambda b: (-min(molecule.numbers[list(b)]), b))
    lengths = bond_lengths(positions, bonds) * ANGSTROM
    normal = bond_lengths(molecule.positions, bonds) * ANGSTROM
    known = None if training is None else bond_lengths(training, bonds) * ANGSTROM
    names = [atom_label(molecule, *b) for b in bonds]
    return _distributions(names, lengths, normal, known, "bond length (Å)")


@styled
def angle_distributions(molecule: Molecule, positions: FloatArray, training: FloatArray | None = None) -> Figure:
    """Distribution of every angle between two bonds in a trajectory, over the range that the training set covers.

    Parameters as in :func:`bond_distributions`.
    """
    triples = bond_angles(molecule)
    seen = np.degrees(angles(positions, triples))
    normal = np.degrees(angles(molecule.positions, triples))
    known = None if training is None else np.degrees(angles(training, triples))
    names = [atom_label(molecule, *t) for t in triples]
    return _distributions(names, seen, normal, known, "angle (°)")


def bond_angles(molecule: Molecule) -> list[tuple[int, int, int]]:
    """All angles between two bonds at one atom, ``(i, j, k)`` at j, those between heavy atoms first."""
    triples = [
        (ends[a], j, ends[b])
        for j, ends in enumerate(molecule.neighbours)
        for a in range(len(ends))
        for b in range(a + 1, len(ends))
    ]
    return sorted(triples, key=lambda t: (-min(molecule.numbers[list(t)]), t))


def _distributions(
    names: Sequence[str], values: FloatArray, normal: FloatArray, known: FloatArray | None, axis: str
) -> Figure:
    """One row for every column of ``values``: its distribution, its reference, the range of the training set."""
    figure = new_figure(0.9 + 0.36 * len(names), 6.4)
    axes = figure.subplots()
    for row in range(len(names)):
        base = float(len(names) - 1 - row)
        if known is not None:
            low, high = known[:, row].min(), known[:, row].max()
            axes.fill_between([low, high], base - 0.14, base - 0.04, color=MUTED, alpha=0.55, linewidth=0.0,
                              label="range of the training set" if row == 0 else None)  # fmt: skip
        density, edges = np.histogram(values[:, row], bins=40, density=True)
        # Heights are scaled row by row: a C-H bond is as wide as it is, not as high.
        heights = 0.78 * density / density.max()
        axes.fill_between(np.repeat(edges, 2)[1:-1], base, base + np.repeat(heights, 2), color=BLUE, alpha=0.8,
                          linewidth=0.0, label="molecular dynamics" if row == 0 else None)  # fmt: skip
        axes.plot([normal[row]] * 2, [base - 0.16, base + 0.82], color=VERMILLION, linewidth=1.1,
                  label="reference geometry" if row == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.35, len(names))
    axes.set_xlabel(axis)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.2)
    return figure


@styled
def spectrum_plot(spectrum: PowerSpectrum) -> Figure:
    """Power spectrum of the velocities, and the number of vibrations up to each wavenumber."""
    figure = new_figure(2.9)
    axes = figure.subplots()
    x = spectrum.wavenumbers
    axes.fill_between(x, spectrum.density, color=BLUE, alpha=0.25, linewidth=0.0)
    axes.plot(x, spectrum.density, color=BLUE, linewidth=1.0)
    axes.set_xlim(0.0, min(float(x[-1]), HIGHEST))
    axes.set_ylim(0.0, None)
    axes.set_xlabel("wavenumber (cm⁻¹)")
    axes.set_ylabel("vibrations per cm⁻¹")
    count = axes.twinx()
    count.plot(x, np.cumsum(spectrum.density) * (x[1] - x[0]), color=VERMILLION, linewidth=1.0)
    count.set_ylim(0.0, None)
    count.set_ylabel("vibrations up to there", color=VERMILLION)
    count.grid(False)
    return figure


@styled
def structure_overlay(structures: Sequence[tuple[str, Molecule]]) -> Figure:
    """Structures laid on the first one by :func:`~fflux_py.analysis.geometry.superpose`, seen along its flat side.

    Parameters
    ----------
    structures
        Name and geometry; the first is filled, the others are outlines.
    """
    name, first = structures[0]
    centred = first.positions - first.positions.mean(axis=0)
    axes_of_view = np.linalg.svd(centred, full_matrices=False)[2][:2]
    flat = centred @ axes_of_view.T * ANGSTROM
    size = np.ptp(flat, axis=0) + 1.2
    width = 5.2
    figure = new_figure(float(np.clip(width * size[1] / size[0] + 0.4, 2.2, 5.0)), width)
    axes = figure.subplots()
    axes.set_aspect("equal")
    axes.set_axis_off()
    depth = centred @ np.cross(*axes_of_view)
    for i, j in first.bonds:
        axes.plot(*flat[[i, j]].T, color=MUTED, linewidth=5.0, alpha=0.5, zorder=1.0, solid_capstyle="butt")
    axes.plot([], [], color=MUTED, linewidth=5.0, alpha=0.5, label=name)
    order = np.argsort(np.argsort(depth))
    for a, symbol in enumerate(first.symbols):
        radius = _ELEMENT_RADIUS.get(symbol, _HEAVY_RADIUS)
        colour = _ELEMENT_COLOUR.get(symbol, PURPLE)
        axes.add_patch(Circle(flat[a], radius, facecolor=colour, edgecolor="white", linewidth=0.8,
                              zorder=2.0 + 0.01 * order[a]))  # fmt: skip
        axes.text(flat[a, 0], flat[a, 1], atom_label(first, a), ha="center", va="center", fontsize=7.0,
                  color="#1c1c1c" if symbol == "H" else "white", zorder=4.0)  # fmt: skip
    for (name, molecule), colour in zip(structures[1:], (BLUE, ORANGE, GREEN), strict=False):
        moved = superpose(molecule.positions, first.positions) - first.positions.mean(axis=0)
        seen = moved @ axes_of_view.T * ANGSTROM
        for i, j in molecule.bonds:
            axes.plot(*seen[[i, j]].T, color=colour, linewidth=1.3, zorder=1.5)
        for a, symbol in enumerate(molecule.symbols):
            radius = _ELEMENT_RADIUS.get(symbol, _HEAVY_RADIUS)
            axes.add_patch(Circle(seen[a], radius, facecolor="none", edgecolor=colour, linewidth=1.3, zorder=3.5))
        axes.plot([], [], color=colour, linewidth=1.3, label=name)
    low, high = flat.min(axis=0) - 0.6, flat.max(axis=0) + 0.6
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    _scale_bar(axes, low[0], low[1])
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(structures), borderaxespad=0.2)
    return figure


def _trace(axes: Axes, time: FloatArray, series: FloatArray, colour: str) -> None:
    """Reports and their running mean."""
    axes.plot(time, series, color=colour, linewidth=0.5, alpha=0.5, rasterized=len(time) > MANY_POINTS)
    axes.plot(time, running_mean(series), color=INK, linewidth=1.4)


def _marginal(axes: Axes, beside: Axes, temperature: FloatArray, freedom: int, target: float | None) -> None:
    """Distribution of the temperature beside its trace."""
    axes.sharey(beside)
    axes.hist(temperature, bins=40, density=True, orientation="horizontal", color=BLUE, alpha=0.45)
    if target is not None:
        values = np.linspace(0.0, float(max(temperature.max(), 2.0 * target)), 200)
        axes.plot(gamma.pdf(values, 0.5 * freedom, scale=2.0 * target / freedom), values, color=VERMILLION)
        low, high = float(temperature.min()), float(temperature.max())
        margin = 0.06 * (high - low)
        axes.set_ylim(low - margin, high + margin)
    axes.set_axis_off()


def _scale_bar(axes: Axes, x: float, y: float) -> None:
    axes.plot([x + 0.1, x + 1.1], [y + 0.12] * 2, color=INK, linewidth=1.5)
    axes.text(x + 0.6, y + 0.2, "1 Å", ha="center", va="bottom", fontsize=7.5)

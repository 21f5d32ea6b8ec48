"""Pictures of predictions, trajectories and structures.

Every function takes artefacts in atomic units and returns a :class:`matplotlib.figure.Figure` in kcal/mol, angstrom
and degrees; :func:`fflux_py.analysis.report.drawing.to_svg` and ``to_png`` make files of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from fflux_py.analysis.calibration import coverage_curve
from fflux_py.analysis.prediction_errors import ALL, METADYNAMICS, ROOM, ErrorTable
from fflux_py.analysis.report.drawing import (
    BLUE,
    CYCLE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    new_figure,
    scatter,
    styled,
)
from fflux_py.analysis.validate import Validation
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM, KJ_MOL

_GROUP_COLOUR: Final = {ROOM: BLUE, "1000 K": VERMILLION, METADYNAMICS: GREEN}
_OTHER_COLOURS: Final = (PURPLE, ORANGE, SKY)
_KJ: Final = KJ_MOL / KCAL_MOL


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """One colour for every group of frames, the same in all pictures."""
    others = [g for g in groups if g not in _GROUP_COLOUR and g != ALL]
    colours = {g: _OTHER_COLOURS[k % len(_OTHER_COLOURS)] for k, g in enumerate(others)}
    return {**_GROUP_COLOUR, **colours, ALL: INK}


def atom_label(molecule: Molecule, *atoms: int) -> str:
    """Atoms as a reader counts them: ``C2-O1``."""
    return "–".join(f"{molecule.symbols[a]}{a + 1}" for a in atoms)


@styled
def predicted_against_reference(validation: Validation, method: str = "DFT") -> Figure:
    """Predicted against reference, and the difference below: total energy, force components, atomic energies.

    Parameters
    ----------
    validation
        Predictions and labels.
    method
        Short name of the reference on the axes.
    """
    data, errors = validation.dataset, validation.errors
    has_atoms = data.has_atomic_energies
    lowest = data.energies.min()
    panels: list[tuple[str, str, FloatArray, FloatArray, np.ndarray]] = [
        ("Total energy", "kcal/mol", (data.energies - lowest) * KCAL_MOL, (validation.energies - lowest) * KCAL_MOL,
         np.ones(len(data), dtype=bool)),
        ("Force components", "kcal/mol/Å", data.forces * KCAL_MOL_ANGSTROM, validation.forces * KCAL_MOL_ANGSTROM,
         np.ones(len(data), dtype=bool)),
    ]  # fmt: skip
    if has_atoms.any():
        # Every atom against its own mean: the energies of two elements lie tens of hartree apart.
        centre = data.atomic_energies[has_atoms].mean(axis=0)
        panels.append(
            ("Atomic energies − mean", "kcal/mol", (data.atomic_energies - centre) * KCAL_MOL,
             (validation.atomic_energies - centre) * KCAL_MOL, has_atoms)
        )  # fmt: skip
    figure = new_figure(3.9)
    grid = figure.subplots(2, len(panels), sharex="col", squeeze=False, height_ratios=(2.6, 1.0))
    colours, groups = group_colours(list(errors.groups)), [g for g in errors.groups if g != ALL]
    for column, (title, unit, reference, predicted, use) in enumerate(panels):
        upper, lower = grid[0, column], grid[1, column]
        # The group with the most spread goes underneath.
        for group in sorted(groups, key=lambda g: -errors.groups[g].energy_spread_kcal_mol):
            chosen = errors.frames(group) & use
            x, y = reference[chosen].ravel(), predicted[chosen].ravel()
            scatter(upper, x, y, colours[group], group.replace("-", "–"), size=6.0)
            scatter(lower, x, y - x, colours[group], size=5.0)
        _diagonal(upper, reference[use], predicted[use])
        lower.axhline(0.0, color=INK, linewidth=0.8, zorder=1.5)
        largest = float(np.abs(predicted[use] - reference[use]).max())
        lower.set_ylim(-1.1 * largest - 1e-12, 1.1 * largest + 1e-12)
        upper.set_title(title)
        lower.set_xlabel(f"{method} ({unit})")
        upper.set_ylabel(f"predicted ({unit})")
        lower.set_ylabel("difference")
        lower.yaxis.set_major_locator(MaxNLocator(3, symmetric=True, steps=[1, 2, 5, 10]))
    figure.align_ylabels(grid)
    _legend_above(figure, grid[0, 0], [group.replace("-", "–") for group in groups])
    return figure


@styled
def error_s_curve(errors: ErrorTable, threshold_kcal_mol: float = 1.0) -> Figure:
    """Percentage of geometries whose absolute energy error is below the abscissa, which is logarithmic.

    Parameters
    ----------
    errors
        The error table.
    threshold_kcal_mol
        Where a vertical line is drawn.
    """
    figure = new_figure(3.5, 6.0)
    axes = figure.subplots()
    colours = group_colours(list(errors.groups))
    groups = [g for g in errors.groups if g != ALL]
    smallest, largest = np.inf, 0.0
    for group in ([ALL] if len(groups) > 1 else []) + groups:
        error, percent = errors.s_curve(group)
        # An exact prediction has no place on a logarithmic axis; it counts from the left edge on.
        error = np.maximum(error, 1e-6)
        smallest, largest = min(smallest, float(np.quantile(error, 0.02))), max(largest, float(error[-1]))
        mae = errors.groups[group].energy_mae_kcal_mol
        name = "all frames" if group == ALL else group.replace("-", "–")
        axes.step(
            np.concatenate([[1e-9], error, [1e9]]),
            np.concatenate([[0.0], percent, [100.0]]),
            where="post",
            color=colours[group],
            linewidth=1.1 if group == ALL else 1.8,
            linestyle=(0, (4, 2)) if group == ALL else "-",
            label=f"{name}  (MAE {mae:.3g}, n = {len(percent)})",
        )
    axes.axvline(threshold_kcal_mol, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.annotate(f"{threshold_kcal_mol:g} kcal/mol", (threshold_kcal_mol, 3), xytext=(3, 0),
                  textcoords="offset points", color=MUTED, fontsize=7.5)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(min(smallest, 0.3 * threshold_kcal_mol) / 1.5, max(largest, 2.0 * threshold_kcal_mol) * 1.3)
    axes.set_ylim(0.0, 102.0)
    axes.set_xlabel("absolute error of the total energy (kcal/mol)")
    axes.set_ylabel("geometries (%)")
    _plain_log_ticks(axes)
    top = axes.secondary_xaxis("top", functions=(_to_kj, _to_kcal))
    top.set_xlabel("absolute error (kJ/mol)", color=MUTED)
    top.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    top.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="upper left")
    return figure


@styled
def atomic_energy_errors(validation: Validation) -> Figure:
    """Mean absolute error of every atom's energy, one mark for every group of frames."""
    errors, molecule = validation.errors, validation.dataset.molecule
    colours = group_colours(list(errors.groups))
    figure = new_figure(2.4, 6.0)
    axes = figure.subplots()
    groups = [g for g in errors.groups if g != ALL and errors.groups[g].n_frames_atomic]
    atoms = np.arange(molecule.n_atoms)
    for k, group in enumerate(groups):
        width = 0.75 / len(groups)
        centres = atoms + (k - 0.5 * (len(groups) - 1)) * width
        axes.bar(centres, errors.atomic_energy_mae_kcal_mol(group), 0.9 * width, color=colours[group],
                 label=group.replace("-", "–"))  # fmt: skip
    axes.grid(False, axis="x")
    axes.set_xticks(atoms, [atom_label(molecule, int(a)) for a in atoms])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("MAE of the atomic\nenergy (kcal/mol)")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(groups), borderaxespad=0.2)
    return figure


@styled
def reliability_diagram(validation: Validation) -> Figure:
    """Expected against observed coverage of the total energy's errors, and the errors against their deviations.

    Drawn are the geometries of trajectories that the model was not calibrated on.
    """
    errors = validation.errors
    colours = group_colours(list(errors.groups))
    figure = new_figure(3.4)
    left, right = figure.subplots(1, 2)
    left.axline((0.0, 0.0), (100.0, 100.0), color=INK, linewidth=0.8, zorder=1.5)
    size = np.abs(errors.energy_errors) * KCAL_MOL
    sigma = validation.deviations * KCAL_MOL
    groups = [g for g in errors.groups if g != ALL and (errors.frames(g) & validation.independent).any()]
    for group in ([ALL] if len(groups) > 1 else []) + groups:
        chosen = errors.frames(group) & validation.independent
        expected, observed = coverage_curve(size[chosen], sigma[chosen])
        whole = group == ALL
        left.plot(
            100.0 * expected, 100.0 * observed, color=colours[group], linewidth=1.1 if whole else 1.8,
            linestyle=(0, (4, 2)) if whole else "-",
            label=f"{'all frames' if whole else group.replace('-', '–')}  (n = {int(chosen.sum())})",
        )  # fmt: skip
        if not whole:
            scatter(right, sigma[chosen], np.maximum(size[chosen], 1e-6), colours[group], size=8.0)
    shown = sigma[validation.independent]
    ends = np.array([0.7 * max(float(shown.min()), 1e-6), 1.4 * max(float(shown.max()), 1e-6)])
    for factor, style in ((1.0, "-"), (2.0, (0, (4, 2)))):
        right.plot(ends, factor * ends, color=INK, linewidth=0.8, linestyle=style, label=f"{factor:g} σ", zorder=1.5)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlim(*ends)
    right.set_ylim(0.01 * ends[0], 6.0 * ends[1])
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    left.set_xlim(0.0, 100.0)
    left.set_ylim(0.0, 100.0)
    left.set_xlabel("expected share of errors (%)")
    left.set_ylabel("observed share (%)")
    left.legend(loc="upper left")
    right.set_xlabel("predictive deviation σ (kcal/mol)")
    right.set_ylabel("absolute error (kcal/mol)")
    right.legend(loc="lower right")
    return figure


@styled
def learning_curve(n_train: Sequence[int], mae_kcal_mol: Mapping[str, Sequence[float]]) -> Figure:
    """Energy MAE in kcal/mol against the number of training geometries, both logarithmic, one line for every name."""
    figure = new_figure(3.0, 5.0)
    axes = figure.subplots()
    for k, (name, mae) in enumerate(mae_kcal_mol.items()):
        axes.plot(n_train, mae, "o-", color=CYCLE[k % len(CYCLE)], markersize=4.0, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator([float(n) for n in n_train]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel("training geometries")
    axes.set_ylabel("energy MAE (kcal/mol)")
    axes.legend()
    return figure


def _to_kj(kcal: Any) -> Any:
    return np.asarray(kcal) * _KJ


def _to_kcal(kj: Any) -> Any:
    return np.asarray(kj) / _KJ


def _diagonal(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Equal limits on both axes with a margin, and the line of perfect prediction."""
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = 0.04 * (high - low) + 1e-12
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(low - margin, high + margin)
    axes.axline((low, low), (high + margin, high + margin), color=INK, linewidth=0.8, zorder=1.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _legend_above(figure: Figure, axes: Axes, order: Sequence[str]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    sorted_handles = [handles[labels.index(name)] for name in order]
    legend = figure.legend(sorted_handles, order, loc="outside upper left", ncols=len(order), markerscale=1.8)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)


def _plain_log_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())

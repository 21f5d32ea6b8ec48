"""What a report says about the backbone torsions of a peptide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fflux_py.analysis.criteria import with_error
from fflux_py.analysis.geometry import torsions
from fflux_py.analysis.ramachandran.map import RamachandranMap
from fflux_py.analysis.ramachandran.regions import REGIONS, is_achiral
from fflux_py.analysis.ramachandran.runs import Pair, can_be_mapped, map_of_runs, residues
from fflux_py.analysis.report.drawing import to_svg
from fflux_py.analysis.report.page import Cell, Picture, Section, Table
from fflux_py.analysis.report.prediction_plots import atom_label
from fflux_py.analysis.report.ramachandran_plots import ramachandran_figure
from fflux_py.analysis.runs import MINIMUM_REPORTS, Run
from fflux_py.errors import FileFormatError

FEWEST_FRAMES: Final = 100
"""Runs with fewer frames than this, the start left out, have no map."""

_LOW: Final = 4.0


def ramachandran_sections(runs: Sequence[Run]) -> list[Section]:
    """One section for every temperature of a peptide: map, populations, standard errors.

    Replicas (runs of one model at one temperature with the same bias or none) are taken together.  Nothing for
    molecules without backbone torsions, runs without a thermostat, biases that cannot be taken out, and too few frames.

    Parameters
    ----------
    runs
        All runs of a report.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        if len(run.trajectory) >= MINIMUM_REPORTS and can_be_mapped(run):
            record = run.record
            key = (run.config.temperature, str(record.get("bias") or ""), str(record.get("model_sha256", "")),
                   run.trajectory.molecule.symbols, tuple(residues(run.trajectory.molecule)))  # fmt: skip
            groups.setdefault(key, []).append(run)
    return [section for group in groups.values() for section in _sections(group)]


def _sections(runs: Sequence[Run]) -> list[Section]:
    """Those of one group, one for each residue."""
    molecule = runs[0].trajectory.molecule
    pairs = residues(molecule)
    sections = []
    for number, pair in enumerate(pairs, start=1):
        title = f"Backbone torsions at {runs[0].config.temperature:g} K"
        if runs[0].record.get("bias"):
            title += ", metadynamics"
        if len(pairs) > 1:
            title += f", residue {number}"
        try:
            surface = map_of_runs(runs, pair)
        except FileFormatError as error:  # hills were moved away: the rest of the report can do without them
            sections.append(Section(title, f"No map: {error}"))
            continue
        if surface.n_frames < FEWEST_FRAMES:
            return []
        starts = {tuple(np.degrees(torsions(run.trajectory.molecule.positions, pair)).round(1)) for run in runs}
        marks = [("start", float(phi), float(psi)) for phi, psi in sorted(starts)]
        picture = Picture(
            to_svg(ramachandran_figure([[surface]], marks=marks if len(marks) < 6 else ())),
            _caption(surface),
            "Map of the free energy over the backbone torsions phi and psi",
            66,
        )
        text = _text(surface, runs, _names(pair, runs[0]))
        if is_achiral(molecule, pair):
            text += "\n\n" + _asymmetry_words(surface)
        sections.append(Section(title, text, [picture, _table(surface)]))
    return sections


def _names(pair: Pair, run: Run) -> str:
    """Phi and psi in words."""
    molecule = run.trajectory.molecule
    return f"φ is {atom_label(molecule, *pair[0])}, ψ is {atom_label(molecule, *pair[1])}"


def _text(surface: RamachandranMap, runs: Sequence[Run], names: str) -> str:
    count = f"{len(runs)} independent runs" if surface.independent else "one run"
    biased = bool(runs[0].record.get("bias"))
    text = f"{names}. {surface.n_frames} frames of {count}, the first {'fifth' if biased else 'tenth'} of each left out"
    if biased:
        text += (
            ", weighted with exp((V − c(t))/kT) of the bias V in the run's hills: they count as "
            f"{surface.n_effective:.0f} frames of equal weight"
        )
    text += ". "
    if surface.independent:
        text += "Standard errors are from the spread of the runs"
        if len(runs) < 5:
            text += ", which is itself uncertain for so few"
    else:
        text += f"Standard errors are from {len(surface.blocks)} parts of the run"
        if not surface.converged:
            text += "; the run is short for its correlation, so that they are lower bounds"
    return text + ". Runs that never leave a region agree on it, whatever is beyond: see in how many each was visited."


def _asymmetry_words(surface: RamachandranMap) -> str:
    asymmetry = surface.asymmetry()
    difference = with_error(100.0 * asymmetry.population, 100.0 * asymmetry.population_error)
    return (
        "The molecule is its own mirror image, so (φ, ψ) and (−φ, −ψ) are equally likely. What the map lacks of it "
        f"measures its convergence: the largest difference between a region ({asymmetry.region.label}) and its mirror "
        f"image is {difference} % in population, the Jensen–Shannon distance of the map from its mirror image "
        f"{asymmetry.jensen_shannon:.3f} (0 for equal maps, 1 for maps without a common cell)."
    )


def _caption(surface: RamachandranMap) -> str:
    cells = surface.probability.shape[0]
    caption = (
        f"Free energy −kT ln p over φ and ψ at {surface.temperature:g} K, cells of {360 / cells:g}°, the lowest at "
        "zero, lines at 1, 2 and 4 kcal/mol; what is empty was never visited. Broken lines are the borders of the "
        "regions."
    )
    low = np.where(surface.visited, surface.free_energy_kcal_mol, np.inf) < _LOW
    errors = surface.errors_kcal_mol[low]
    if np.isfinite(errors).any():
        caption += (
            f" Below {_LOW:g} kcal/mol the standard error of a cell is {np.nanmedian(errors):.2g} kcal/mol (median)."
        )
    return caption


def _table(surface: RamachandranMap) -> Table:
    rows: list[list[Cell]] = []
    n = len(surface.blocks)
    for k, region in enumerate(REGIONS):
        lowest, phi, psi = surface.minima()[k]
        seen = bool(surface.visits[k])
        population = with_error(100.0 * surface.populations[k], 100.0 * surface.population_errors[k])
        rows.append(
            [region.label, _range(region.phi), _range(region.psi), population if seen else "–",
             f"{surface.visits[k]} of {n}", f"{lowest:.2f}" if np.isfinite(lowest) else "–",
             f"{phi:.0f}, {psi:.0f}".replace("-", "−") if np.isfinite(lowest) else "–"]
        )  # fmt: skip
    parts = "Runs" if surface.independent else "Parts"
    caption = (
        "Populations of the nine regions of A. Perczel et al., J. Am. Chem. Soc. 113, 6256 (1991), with standard "
        f"errors; in how many {parts.lower()} each was visited; its lowest cell (at a border: no "
        "minimum of its own). A dash: never visited."
    )
    columns = ["Region", "φ (°)", "ψ (°)", "Population (%)", f"{parts} that visited", "Lowest F (kcal/mol)",
               "at φ, ψ (°)"]  # fmt: skip
    return Table(columns, rows, caption)


def _range(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}".replace("-", "−")

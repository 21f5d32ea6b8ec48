"""The report of molecular dynamics runs: what ``fflux report`` writes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.report.drawing import to_svg
from fflux_py.analysis.report.page import Cell, Picture, Section, Table, write_report
from fflux_py.analysis.report.ramachandran_section import ramachandran_sections
from fflux_py.analysis.report.sections import formula, provenance, run_section
from fflux_py.analysis.report.trajectory_plots import angle_distributions, bond_angles, spectrum_plot
from fflux_py.analysis.runs import MINIMUM_REPORTS, Run, read_runs, run_spectrum
from fflux_py.analysis.spectrum import PowerSpectrum
from fflux_py.dynamics.trajectory import EVENTS_FILE
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.mechanics import degrees_of_freedom
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

REPORT_FILE = "report.html"


def report_runs(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    dataset: Dataset | None = None,
    reference: Molecule | None = None,
) -> tuple[Path, tuple[Criterion, ...]]:
    """Write one report of all runs in a folder.

    Parameters
    ----------
    folder
        A run's folder, or one that holds several.
    path
        The HTML file; ``report.html`` in the folder if not given.
    dataset
        Training data, drawn beside the trajectories and named in the provenance.
    reference
        Geometry that bond lengths are held against; each run's start geometry if not given.

    Returns
    -------
    Path of the report, and the verdict.

    Raises
    ------
    FileFormatError
        If the folder holds no run, or a file of a run is damaged.
    """
    runs = read_runs(folder)
    training = None if dataset is None else dataset.with_split("train").positions
    sections: list[Section] = []
    criteria: list[Criterion] = []
    for run in runs:
        section, verdict = run_section(run, reference, training)
        if len(run.trajectory) >= MINIMUM_REPORTS:
            molecule = run.trajectory.molecule if reference is None else reference
            section = replace(section, items=[*section.items, *_more_items(run, molecule, training)])
        sections.append(section)
        criteria += verdict
    sections += ramachandran_sections(runs)
    molecule = runs[0].trajectory.molecule
    total = sum(run.length_ps for run in runs)
    subtitle = (
        f"{molecule.name} ({formula(molecule)}), {len(runs)} run{'s' if len(runs) > 1 else ''}, {total:g} ps in total"
    )
    target = Path(path) if path is not None else Path(folder) / REPORT_FILE
    written = write_report(
        target,
        f"Molecular dynamics of {molecule.name}",
        sections,
        summary=criteria,
        provenance=provenance(dataset, runs=runs),
        subtitle=subtitle,
    )
    return written, tuple(criteria)


def _more_items(run: Run, molecule: Molecule, training: FloatArray | None) -> list[Picture | Table]:
    """Angles, spectrum, events of the guards."""
    items: list[Picture | Table] = []
    if bond_angles(molecule):
        drawing = to_svg(angle_distributions(molecule, run.trajectory.positions, training))
        caption = "Distribution of every angle between two bonds, each scaled to the same height."
        items.append(Picture(drawing, caption, "Distributions of bond angles", 80))
    spectrum = run_spectrum(run)
    if spectrum is not None:
        items.append(_spectrum_picture(run, spectrum))
    events = run.record.get("guard_events") or {}
    if events:
        rows: list[list[Cell]] = [[name, int(count)] for name, count in sorted(events.items())]
        caption = f"Steps at which a guard tripped; {EVENTS_FILE} in the run's folder says where."
        items.append(Table(["Guard", "Steps"], rows, caption))
    return items


def _spectrum_picture(run: Run, spectrum: PowerSpectrum) -> Picture:
    freedom = degrees_of_freedom(run.trajectory.molecule.n_atoms)
    caption = (
        f"Power spectrum of the velocities; its area is the number of vibrations, {spectrum.area(0.0, np.inf):.1f} of "
        f"{freedom}. Classical vibrations at {run.trajectory.temperature.mean():.0f} K, not an infrared spectrum."
    )
    if spectrum.folded:
        interval = run.trajectory.times_fs[1] - run.trajectory.times_fs[0]
        caption += (
            f" Frames are {interval:g} fs apart: vibrations above {spectrum.wavenumbers[-1]:.0f} cm⁻¹, such as "
            "stretches of hydrogen, are folded back into the picture. Report every 4 fs or less to resolve them."
        )
    return Picture(to_svg(spectrum_plot(spectrum)), caption, "Power spectrum of the velocities")

"""The report of molecular dynamics runs: what ``fflux report`` writes."""

from __future__ import annotations

import os
from pathlib import Path

from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.report import Section, write_report
from fflux_py.analysis.runs import read_runs
from fflux_py.analysis.sections import formula, provenance, run_section
from fflux_py.dataset import Dataset
from fflux_py.molecule import Molecule

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
        sections.append(section)
        criteria += verdict
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

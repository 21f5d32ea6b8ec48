"""``fflux report``: one HTML file about molecular dynamics runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError


@command(interrupted="no report was written")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of 'fflux md'.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file to write. Without it: report.html in the folder.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DATA.extxyz", help="Training data, to be drawn beside the trajectory.")
    ] = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Write a report of molecular dynamics: pictures and figures in one HTML file."""
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "nothing of that name"
        raise InputError(str(folder), "a folder that 'fflux md' wrote", kind)
    target = output if output is not None else folder / "report.html"
    check_output(target, *([data] if data is not None else []))
    use_threads(1)
    from fflux_py.analysis.report.runs import report_runs
    from fflux_py.molecules.dataset import Dataset

    dataset = None
    if data is not None:
        with reading(data):
            dataset = Dataset.read(data)
    with reading(folder):
        written, criteria = report_runs(folder, target, dataset)
    met = sum(criterion.passed for criterion in criteria)
    figures = {
        "report": str(written),
        "criteria": [criterion.as_dict() for criterion in criteria],
        "n_criteria_met": met,
    }
    text = [f"not met: {c.full_name} {c.value:.3g} {c.unit} (required {c.relation} {c.threshold:g})" for c in criteria
            if not c.passed]  # fmt: skip
    return Outcome(figures, [*text, f"{met} of {len(criteria)} criteria met. The report is {written}"])

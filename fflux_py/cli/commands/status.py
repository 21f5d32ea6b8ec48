"""``fflux status``: how far a build is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS: Final = {
    "cycle": "cycle",
    "number": "round",
    "n_train": "trained on",
    "n_survived": "runs survived",
    "n_runs": "of",
    "energy_mae_kcal_mol": "energy MAE (kcal/mol)",
    "criteria_met": "criteria met",
    "criteria": "of",
    "labels_spent": "labels spent",
}


@command(interrupted="nothing was changed")
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of 'fflux build'.")],
    json_output: JsonOption = False,
) -> Outcome:
    """Tell how far a build is: its stage, and the rounds that are done."""
    from rich.table import Table

    from fflux_py.active_learning.build_status import read_build_status

    found = read_build_status(folder)
    plan = found.plan
    table = Table(*(title for title in _COLUMNS.values()))
    for column in table.columns:
        column.justify = "right"
    for row in found.rounds:
        table.add_row(*(_short(row.get(name, "")) for name in _COLUMNS))
    verdict = {None: "", True: "; certified", False: "; NOT certified"}[found.passed]
    text: list[str | Table] = [
        f"{plan.molecule} ({plan.n_atoms} atoms), labels by {plan.reference}: {found.stage} since {found.since}"
        f"{verdict}."
    ]
    if found.rounds:
        text.append(table)
    figures = {
        "molecule": plan.molecule,
        "stage": found.stage,
        "since": found.since,
        "certified": found.passed,
        "plan": asdict(plan),
        "rounds": [dict(row) for row in found.rounds],
    }
    return Outcome(figures, text)


def _short(text: str) -> str:
    """Three digits of a number that is not whole."""
    try:
        return f"{float(text):.3g}" if "." in text else text
    except ValueError:
        return text

"""Suspicious labels: the part of ``fflux validate`` that ``--labels`` asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from fflux_py.cli._command import Outcome
from fflux_py.cli._inputs import read_dataset, read_model
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._progress import progress

if TYPE_CHECKING:
    from rich.table import Table

_ROWS: Final = 12


def validate_labels(model: Path, data: Path, page: Path) -> Outcome:
    """Rank the labels of a set by how badly they fit the others, in the terminal and on a page."""
    from rich.table import Table

    from fflux_py.analysis.label_residuals import SUSPICIOUS, label_residuals
    from fflux_py.analysis.report.labels import COLUMNS, residual_rows, write_label_page
    from fflux_py.analysis.report.page import format_number
    from fflux_py.molecules.label_checks import compare_labels
    from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

    check_output(page, data)
    forcefield, dataset = read_model(model), read_dataset(data)
    checks = compare_labels(dataset)
    with reading(data), progress(f"labels of {dataset.molecule.name}") as show:
        residuals = label_residuals(forcefield, dataset, show)
    write_label_page(page, dataset, checks, residuals, str(model))
    suspicious = [residual for residual in residuals if residual.suspicious]
    table = Table(*COLUMNS)
    for row in residual_rows(dataset, residuals[: max(len(suspicious), _ROWS)]):
        table.add_row(*(format_number(cell) for cell in row))
    figures = {
        "model": str(model),
        "data": str(data),
        "page": str(page),
        "molecule": dataset.molecule.name,
        "n_geometries": len(dataset),
        "checks": checks.describe(),
        "n_suspicious": len(suspicious),
        "labels": [
            {
                "geometry": residual.index + 1,
                "suspicious": residual.suspicious,
                "energy_error_kcal_mol": residual.energy_error * KCAL_MOL,
                "energy_score": residual.energy_score,
                "force_error_kcal_mol_angstrom": residual.force_error * KCAL_MOL_ANGSTROM,
                "force_score": residual.force_score,
                "atom": residual.atom + 1,
            }
            for residual in residuals
        ],
    }
    text: list[str | Table] = [
        *(f"Checked: {line}." for line in checks.describe()),
        f"{len(suspicious)} of {len(dataset)} labels are suspicious: scores above {SUSPICIOUS:g}, errors of labels "
        "left out of the joint Gaussian process in usual deviations of the set",
        table,
        f"The page is {page}.",
    ]
    return Outcome(figures, text)

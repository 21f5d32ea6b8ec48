"""The page that ranks the labels of a set by how badly they fit the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fflux_py.analysis.criteria import Criterion
from fflux_py.analysis.label_residuals import SUSPICIOUS, LabelResidual
from fflux_py.analysis.report.page import Cell, Section, Table, write_report
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.label_checks import LabelChecks
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

COLUMNS: Final = (
    "geometry", "split", "source", "energy error, kcal/mol", "energy score", "force error, kcal/mol/Å", "force score",
    "atom",
)  # fmt: skip
_MOST_ROWS: Final = 100


def residual_rows(dataset: Dataset, residuals: Sequence[LabelResidual]) -> list[tuple[Cell, ...]]:
    """Cells of :data:`COLUMNS`; geometries and atoms count from 1."""
    symbols = dataset.molecule.symbols
    return [
        (
            residual.index + 1,
            dataset.geometries.split[residual.index],
            dataset.geometries.source[residual.index],
            residual.energy_error * KCAL_MOL,
            residual.energy_score,
            residual.force_error * KCAL_MOL_ANGSTROM,
            residual.force_score,
            f"{symbols[residual.atom]}{residual.atom + 1}",
        )
        for residual in residuals
    ]


def write_label_page(
    path: Path, dataset: Dataset, checks: LabelChecks, residuals: Sequence[LabelResidual], model: str
) -> Path:
    """Write the page.

    Parameters
    ----------
    path
        The HTML file.
    dataset, checks, residuals
        The labels, what they say about each other, and all residuals, the most suspicious first.
    model
        Name of the model whose hyperparameters counted.
    """
    suspicious = [residual for residual in residuals if residual.suspicious]
    shown = residuals[: max(20, min(len(suspicious), _MOST_ROWS))]
    text = (
        "Each label was left out and predicted from all others by the joint Gaussian process of energies and forces. "
        "An energy was left out alone, forces with their whole geometry. A score is the error in units of its "
        f"predicted deviation and of what most geometries have: above {SUSPICIOUS:g} a label is suspicious.\n\n"
        "The labels that fit worst are taken out one after the other, so that a wrong one does not spoil the scores "
        "of its neighbours. A large energy error alone points to the energy, a large force score at one atom to that "
        "atom's force; both together to a frame whose labels belong to another geometry."
    )
    return write_report(
        path,
        f"Labels of {dataset.molecule.name}",
        [
            Section("Labels held against each other", "\n\n".join(f"{line}." for line in checks.describe())),
            Section(
                "Labels by suspicion",
                text,
                [Table(COLUMNS, residual_rows(dataset, shown), f"The first {len(shown)} of {len(residuals)} labels.")],
            ),
        ],
        summary=[Criterion("Suspicious labels", float(len(suspicious)), "", 0.0, "=", "Scores above the threshold.")],
        subtitle=f"{len(dataset)} geometries, {dataset.metadata['method']}/{dataset.metadata['basis']}",
        provenance={"model": model, "data": dataset.digest()},
    )

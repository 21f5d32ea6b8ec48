"""The report of a build: one HTML file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from fflux_py.active_learning.building import DATA_FILE, MODEL_FILE, Built
from fflux_py.analysis.report.page import Cell, Section, Table, write_report
from fflux_py.certification.report import certificate_section

REPORT_FILE: Final = "report.html"

_HEADS: Final = (
    "Cycle", "Round", "Trained on", "Runs survived", "Energy MAE (kcal/mol)", "at the hottest",
    "Force MAE (kcal/mol/Å)", "Largest deviation of an atom (kcal/mol)", "Criteria met", "Learnt then", "Labels spent",
)  # fmt: skip

_CITATIONS: Final = (
    (
        "FFLUX: dynamics with Gaussian processes of atoms",
        "Symons, Bane, Popelier, J. Chem. Theory Comput. 17, 7043 (2021)",
    ),
    ("Interacting quantum atoms", "Blanco, Martín Pendás, Francisco, J. Chem. Theory Comput. 1, 1096 (2005)"),
    ("GFN2-xTB, which samples the pilot", "Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019)"),
    ("PySCF, which labels by density functionals", "Sun et al., J. Chem. Phys. 153, 024109 (2020)"),
    ("Well-tempered metadynamics", "Barducci, Bussi, Parrinello, Phys. Rev. Lett. 100, 020603 (2008)"),
)


def write_build_report(built: Built, folder: Path) -> Path:
    """Write ``report.html``: certificate, learning curve, what was labelled and why, what to cite; returns its path."""
    certificate, model, data = built.certificate, folder / MODEL_FILE, folder / DATA_FILE
    sections = [
        certificate_section(certificate, built.forcefield),
        Section(
            "Learning curve",
            "Each row is a model. It ran at every temperature; frames that it visited, which it had not learnt, were "
            "labelled to judge it. Where a criterion failed, they were learnt, and frames on which it was unsure.",
            [Table(_HEADS, _rounds(built), "Errors on visited frames, without any shift.")],
        ),
        Section(
            "Labels",
            f"{built.cycles[-1].labels_spent} labels of {built.plan.reference} were spent, {len(built.dataset)} are in "
            f"{DATA_FILE}; {built.plan.seconds_per_label:.3g} s were measured for one.",
            [Table(("Why", "For training", "For testing"), _labels(built), "Geometries by their source.")],
        ),
        Section(
            "Go on",
            f"fflux md {model} start.xyz runs dynamics; fflux validate {model} {data} tells the errors on held-out "
            f"trajectories; fflux minima {model} start.xyz finds its minima.",
            [Table(("What to cite", "Source"), [list(row) for row in _CITATIONS], "Methods that this build used.")],
        ),
    ]
    return write_report(
        folder / REPORT_FILE,
        f"Force field of {built.forcefield.molecule.name}",
        sections,
        summary=certificate.criteria,
        provenance={
            "Model": certificate.model_sha256,
            "Reference": built.plan.reference,
            "Seed": certificate.config.seed,
            "Model minus reference at the minimum": f"{certificate.minimum_error_kcal_mol:.3g} kcal/mol",
        },
    )


def _rounds(built: Built) -> list[list[Cell]]:
    return [
        [cycle.number, entry.number, entry.n_train, f"{entry.n_survived} of {entry.n_runs}", entry.energy_mae_kcal_mol,
         entry.hottest_energy_mae_kcal_mol, entry.force_mae_kcal_mol_angstrom, entry.largest_deviation_kcal_mol,
         f"{entry.criteria_met} of {entry.criteria}", entry.n_learnt, entry.labels_spent]
        for cycle in built.cycles
        for entry in cycle.rounds
    ]  # fmt: skip


def _labels(built: Built) -> list[list[Cell]]:
    geometries = built.dataset.geometries
    counts: dict[str, Counter[str]] = {}
    for source, split in zip(geometries.source, geometries.split, strict=True):
        counts.setdefault(_kind(source), Counter())[split] += 1
    return [[kind, count["train"], count["test"]] for kind, count in counts.items()]


def _kind(source: str) -> str:
    """Why a geometry was labelled, without the number of its trajectory."""
    if source.startswith(("nvt-", "wtmetad-")):
        kind, _, _ = source.rpartition("-")
        return f"pilot: {kind.replace('nvt', 'dynamics').replace('wtmetad', 'metadynamics').replace('-', ', ')}"
    return source

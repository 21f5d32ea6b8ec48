"""The results of ``fflux demo``: criteria, what can be trusted, and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fflux_py.cli.commands._demo_stages import FMAX_EV_ANGSTROM, Shipped

if TYPE_CHECKING:
    from fflux_py.analysis.criteria import Criterion
    from fflux_py.analysis.prediction_errors import GroupErrors
    from fflux_py.analysis.report.page import Cell, Section
    from fflux_py.analysis.runs import Run
    from fflux_py.analysis.validate import Validation
    from fflux_py.forcefield import ForceField
    from fflux_py.optimization.search import OptimizationResult
    from fflux_py.typing import FloatArray


@dataclass(frozen=True)
class Findings:
    """Results of all stages.

    Parameters
    ----------
    shipped, model, validation, minimum, runs
        Results of the stages.
    conservation
        For each run the criteria of energy conservation, from where it ended; none for a run that was stopped.
    relabelled
        Comparison with new labels of frames that the runs visited; None if there are none.
    seconds
        Duration of every stage.
    """

    shipped: Shipped
    model: ForceField
    validation: Validation
    minimum: OptimizationResult
    runs: tuple[Run, ...]
    conservation: tuple[tuple[Criterion, ...], ...]
    relabelled: Validation | None
    seconds: dict[str, float]

    @property
    def method(self) -> str:
        """Short name of the reference."""
        return str(self.shipped.dataset.metadata["method"]).upper()


def criteria(findings: Findings) -> list[Criterion]:
    """Validation, minimum and runs against their thresholds."""
    from fflux_py.analysis.criteria import Criterion
    from fflux_py.analysis.report.sections import optimisation_criterion
    from fflux_py.analysis.runs import MINIMUM_REPORTS, analyse_run
    from fflux_py.analysis.visited import energy_above_minimum, relative_deviation
    from fflux_py.units import EV_ANGSTROM

    minimum = findings.minimum
    lines = list(findings.validation.criteria())
    lines.append(
        Criterion("Optimisation, largest force left", minimum.largest_force * EV_ANGSTROM, "eV/Å", FMAX_EV_ANGSTROM,
                  "<", f"{minimum.n_steps} steps ({minimum.method}).")
    )  # fmt: skip
    lines.append(optimisation_criterion(findings.shipped.minimum, minimum.molecule))
    for run, conservation in zip(findings.runs, findings.conservation, strict=True):
        if len(run.trajectory) < MINIMUM_REPORTS:
            lines.append(
                Criterion(
                    "Steps completed", float(run.steps_done), "", float(run.config.steps), "=", run.message, run.label
                )
            )
            continue
        lines += analyse_run(run, findings.model.molecule).criteria()
        lines += conservation
        lines.append(energy_above_minimum(run, minimum.energy))
        lines.append(relative_deviation(run, findings.model, findings.validation))
        errors = _visited_errors(run, findings)
        if len(errors):
            note = f"{len(errors)} visited frames, labelled again with {findings.method}; no shift."
            lines.append(
                Criterion(
                    "Energy MAE, visited frames", float(abs(errors).mean()), "kcal/mol", 1.0, "<", note, run.label
                )
            )
    return lines


def _visited_errors(run: Run, findings: Findings) -> FloatArray:
    """Energy errors (kcal/mol) of the frames of a run that were labelled again; empty if there are none."""
    import numpy as np

    from fflux_py.units import KCAL_MOL

    again = findings.relabelled
    if again is None:
        return np.empty(0)
    chosen = again.dataset.geometries.temperature == run.config.temperature
    return np.asarray(again.errors.energy_errors[chosen] * KCAL_MOL)


def trust(findings: Findings, lines: list[Criterion]) -> list[str]:
    """What may be believed and what not, one sentence for each subject."""
    from fflux_py.analysis.prediction_errors import ALL
    from fflux_py.analysis.validate import CHEMICAL_ACCURACY

    groups = findings.validation.errors.groups
    sentences = []
    for name, group in groups.items():
        if name == ALL and len(groups) > 2:
            continue
        good = group.energy_mae_kcal_mol < CHEMICAL_ACCURACY
        where = "all held-out geometries" if name == ALL else f"held-out geometries, {name}"
        sentences.append(f"{'Trust' if good else 'Do not trust'} energies of {where}: {_error_words(group)}")
    close = next(c for c in lines if "RMSD" in c.name)
    belief = "Trust" if close.passed else "Do not trust"
    sentences.append(f"{belief} the minimum: {close.value:.3f} Å from the {findings.method} minimum.")
    for run in findings.runs:
        criteria_of_run = [c for c in lines if c.group == run.label]
        failed = [c for c in criteria_of_run if not c.passed]
        if run.status == "stopped":
            sentences.append(f"Do not trust {run.label}: stopped after {run.length_ps:g} ps. {run.message}")
        elif failed:
            what = "; ".join(f"{c.name.lower()} {c.value:.3g} {c.unit}".rstrip() for c in failed)
            sentences.append(f"Take {run.label} with care ({run.length_ps:g} ps); not as required: {what}.")
        else:
            errors = abs(_visited_errors(run, findings))
            seen = (
                f"and energies of {len(errors)} visited frames right to {errors.mean():.3g} kcal/mol (largest "
                f"{errors.max():.3g})"
                if len(errors)
                else "visited frames as well known to the model as held-out geometries"
            )
            sentences.append(
                f"Trust {run.label} ({run.length_ps:g} ps): bonds kept, temperature and energy conservation as they "
                f"must be, {seen}."
            )
    if findings.relabelled is None:
        sentences.append(
            f"Not checked here: no frame that the runs visited was labelled again with {findings.method}, which alone "
            "would prove the energies there. A run that keeps its bonds is not thereby right."
        )
    else:
        sentences.append("Beyond this, nothing is known: other conditions, longer runs, reactions.")
    return sentences


def _error_words(group: GroupErrors) -> str:
    return (
        f"mean absolute error {group.energy_mae_kcal_mol:.3g} kcal/mol (largest {group.energy_max_kcal_mol:.3g}, "
        f"best constant {group.energy_spread_kcal_mol:.3g}), forces {group.force_mae_kcal_mol_angstrom:.3g} "
        f"kcal/mol/Å, {group.n_frames} frames."
    )


def write(path: Path, findings: Findings, lines: list[Criterion], sentences: list[str]) -> Path:
    """Write the report."""
    from fflux_py.analysis.report.page import Section, write_report
    from fflux_py.analysis.report.sections import (
        dataset_section,
        formula,
        optimisation_section,
        provenance,
        run_section,
        validation_section,
    )

    shipped, molecule = findings.shipped, findings.model.molecule
    n_train = int(findings.model.metadata["n_train"])
    training = shipped.dataset.with_split("train").positions[:n_train]
    structures = [(f"{findings.method} minimum", shipped.minimum), ("model minimum", findings.minimum.molecule)]
    sections: list[Section] = [
        Section("What can be trusted", "\n\n".join(sentences)),
        dataset_section(shipped.dataset),
        validation_section(findings.validation),
        optimisation_section(structures),
        *(run_section(run, molecule, training)[0] for run in findings.runs),
        *_visited_section(findings),
        _timing_section(findings.seconds),
    ]
    return write_report(
        path,
        f"A force field of {molecule.name}",
        sections,
        summary=lines,
        highlights=_highlights(findings),
        provenance=provenance(shipped.dataset, findings.model, findings.runs),
        subtitle=f"{formula(molecule)}, {molecule.n_atoms} atoms; trained on {n_train} geometries of {findings.method} "
        f"({findings.model.metadata['fit']})",
    )


def _visited_section(findings: Findings) -> list[Section]:
    """New labels of visited frames against the model, if there are any."""
    from fflux_py.analysis.report.page import Section, Table

    if findings.relabelled is None:
        return []
    rows: list[list[Cell]] = []
    for run in findings.runs:
        errors = _visited_errors(run, findings)
        if len(errors):
            row = [float(abs(errors).mean()), float(abs(errors).max()), float(errors.mean())]
            rows.append([run.label, len(errors), *row])
    columns = ["Run", "Frames", "Energy MAE", "Largest", "Mean signed"]
    caption = "Errors of the total energy in kcal/mol, predicted minus reference, without any shift."
    text = (
        f"Frames at equal distances in time were taken from the runs and labelled with {findings.method}. A run can "
        "keep its bonds and still be wrong; this tells. Few frames find gross errors, not rare ones."
    )
    return [Section("Visited frames, labelled again", text, [Table(columns, rows, caption)])]


def _highlights(findings: Findings) -> list[tuple[str, Cell, str]]:
    from fflux_py.analysis.geometry import rmsd
    from fflux_py.analysis.prediction_errors import ALL, ROOM
    from fflux_py.units import ANGSTROM

    groups = findings.validation.errors.groups
    name = ROOM if ROOM in groups else ALL
    which = "all" if name == ALL else name
    distance = float(rmsd(findings.minimum.molecule.positions, findings.shipped.minimum.positions)) * ANGSTROM
    cards: list[tuple[str, Cell, str]] = [
        (f"energy MAE, {which}", groups[name].energy_mae_kcal_mol, "kcal/mol"),
        (f"force MAE, {which}", groups[name].force_mae_kcal_mol_angstrom, "kcal/mol/Å"),
        ("minimum, RMSD", distance, "Å"),
    ]
    cards += [(f"dynamics at {run.config.temperature:g} K", run.length_ps, "ps") for run in findings.runs]
    return cards


def _timing_section(seconds: dict[str, float]) -> Section:
    from fflux_py.analysis.report.page import Section, Table

    rows: list[list[Cell]] = [[name, duration] for name, duration in seconds.items()]
    rows.append(["together", round(sum(seconds.values()), 1)])
    return Section(
        "Time", "", [Table(["Stage", "Wall time (s)"], rows, "Compilation is part of the stages that need it.")]
    )

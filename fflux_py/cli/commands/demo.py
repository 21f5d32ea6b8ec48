"""``fflux demo``: the whole way on the shipped malondialdehyde data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption
from fflux_py.cli._paths import check_new_folder
from fflux_py.cli._threads import use_threads
from fflux_py.cli.commands import _demo_report, _demo_stages

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.analysis.criteria import Criterion
    from fflux_py.cli.commands._demo_report import Findings

MOLECULE: Final = "malondialdehyde"
_FOLDER: Final = "fflux-demo"


@command(interrupted="the output folder holds the finished stages")
def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help=f"New or empty folder. Without it: {_FOLDER}, or {_FOLDER}-2, ..."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer geometries, shorter runs: to see that it works.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads. Without it: all cores.")] = None,
    json_output: JsonOption = False,
) -> Outcome:
    """Train, validate, optimise and simulate malondialdehyde from the data in the package, and report.

    Everything goes to one folder; the report is one HTML file in it.
    """
    folder = output if output is not None else _free_folder()
    check_new_folder(folder)
    cores = threads if threads is not None else len(os.sched_getaffinity(0))
    use_threads(cores)
    from fflux_py.molecules import shipped_data

    source = shipped_data.path(MOLECULE)
    folder.mkdir(exist_ok=True)
    findings = _findings(source, folder, _demo_stages.QUICK if quick else _demo_stages.FULL, cores)
    lines = _demo_report.criteria(findings)
    sentences = _demo_report.trust(findings, lines)
    report = _demo_report.write(folder / "report.html", findings, lines, sentences)
    return _outcome(folder, report, findings, lines, sentences)


def _free_folder() -> Path:
    """The first of fflux-demo, fflux-demo-2, ... that is not there or empty."""
    number = 1
    while True:
        folder = Path(_FOLDER if number == 1 else f"{_FOLDER}-{number}")
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return folder
        number += 1


def _findings(source: Path, folder: Path, plan: _demo_stages.Plan, threads: int) -> Findings:
    """Go through the stages."""
    clock = _demo_stages.Clock(5 + len(plan.runs) + bool(plan.relabelled))
    with clock.stage("reading", "reading the data"):
        shipped = _demo_stages.load(source)
    with clock.stage("training", f"training on {plan.n_train} geometries") as show:
        model = _demo_stages.train(shipped, plan, folder, threads, show)
    with clock.stage("validation", "validating on held-out trajectories") as show:
        validation = _demo_stages.validate(model, shipped, show)
    with clock.stage("optimisation", "optimising the geometry") as show:
        minimum = _demo_stages.optimise(model, shipped, folder, show)
    runs = []
    for number, (temperature, length_ps, _) in enumerate(plan.runs):
        with clock.stage(f"dynamics at {temperature:g} K", f"{length_ps:g} ps at {temperature:g} K") as show:
            runs.append(_demo_stages.simulate(model, minimum.molecule, plan, number, folder, number + 1, show))
    with clock.stage("constant energy", "constant energy, from what the runs visited") as show:
        conservation = _demo_stages.check_energy(model, runs, show)
    again = None
    if plan.relabelled:
        words = f"labelling {plan.relabelled} visited frames of each run"
        with clock.stage("labelling visited frames", words) as show:
            again = _demo_stages.relabel(model, shipped, runs, plan, folder, threads, show)
    return _demo_report.Findings(shipped, model, validation, minimum, tuple(runs), conservation, again, clock.seconds)


def _outcome(folder: Path, report: Path, findings: Findings, lines: list[Criterion], sentences: list[str]) -> Outcome:
    from fflux_py.cli._dynamics import run_table
    from fflux_py.cli.commands.validate import error_table

    met = sum(line.passed for line in lines)
    validation, minimum = findings.validation, findings.minimum
    figures = {
        "output": str(folder),
        "report": str(report),
        "molecule": findings.model.molecule.name,
        "n_train": findings.model.metadata["n_train"],
        "stage_wall_time_s": findings.seconds,
        "validation": validation.as_dict(),
        "optimisation": {"converged": minimum.converged, "n_steps": minimum.n_steps, "energy_hartree": minimum.energy},
        "runs": [{"label": run.label, "status": run.status, "time_ps": run.length_ps, "message": run.message}
                 for run in findings.runs],
        "visited_frames": None if findings.relabelled is None else findings.relabelled.as_dict(),
        "criteria": [line.as_dict() for line in lines],
        "n_criteria_met": met,
        "what_can_be_trusted": sentences,
    }  # fmt: skip
    text: list[str | Table] = [
        "Held-out geometries (kcal/mol, kcal/mol/Å)",
        error_table(validation.errors),
        "Molecular dynamics",
        run_table(findings.runs),
        *(f"- {sentence}" for sentence in sentences),
        f"{met} of {len(lines)} criteria met. Everything is in {folder}, the report is {report}",
    ]
    return Outcome(figures, text)

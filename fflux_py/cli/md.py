"""``fflux md``: molecular dynamics with a force field."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption, SeedOption
from fflux_py.cli._paths import check_new_folder, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads

if TYPE_CHECKING:
    from rich.table import Table

    from fflux_py.analysis.runs import Run
    from fflux_py.errors import SimulationStopped


@command(interrupted="the output folder holds the run as far as it got")
def md(
    model: Annotated[Path, typer.Argument(metavar="MODEL.npz", help="Model (of 'fflux train').")],
    start: Annotated[Path, typer.Argument(metavar="START.xyz", help="Start geometry (angstrom).")],
    steps: Annotated[int, typer.Option(min=1, help="Number of time steps.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; new or empty.")],
    temperature: Annotated[float, typer.Option(help="Temperature in kelvin.")] = 300.0,
    timestep: Annotated[float, typer.Option(help="Time step in femtosecond.")] = 0.5,
    replicas: Annotated[int, typer.Option(min=1, help="Independent runs from the same start.")] = 1,
    seed: SeedOption = 0,
    report_every: Annotated[int, typer.Option(min=1, help="Steps between two lines of the log and two frames.")] = 10,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the numerical libraries.")] = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Run molecular dynamics at constant temperature (NVT, Nose-Hoover chain).

    A run that leaves the molecule (a bond breaks, two atoms meet, the energy is not a number) stops with exit code 4;
    its folder holds what was before.
    """
    check_new_folder(output)
    use_threads(threads)
    from fflux_py import model_file
    from fflux_py.dynamics import MDConfig, run_replicas
    from fflux_py.errors import SimulationStopped
    from fflux_py.extended_xyz import read_molecule

    config = MDConfig(
        steps=steps,
        temperature=temperature,
        timestep=timestep,
        report_every=report_every,
        seed=seed,
        replicas=replicas,
    )
    with reading(model):
        forcefield = model_file.load(model)
    with reading(start):
        geometry = read_molecule(start)
        forcefield.check_molecule(geometry)
    stop: SimulationStopped | None = None
    begin = time.perf_counter()
    with progress(f"NVT {temperature:g} K (steps)") as show:
        try:
            run_replicas(forcefield, geometry, config, output, show)
        except SimulationStopped as stopped:
            stop = stopped
    return _outcome(output, time.perf_counter() - begin, stop)


def _outcome(folder: Path, seconds: float, stop: SimulationStopped | None) -> Outcome:
    from fflux_py.analysis.runs import MINIMUM_REPORTS, analyse_run, read_runs

    runs = read_runs(folder)
    done = sum(run.steps_done for run in runs)
    figures: dict[str, object] = {
        "output": str(folder),
        "molecule": runs[0].trajectory.molecule.name,
        "temperature_k": runs[0].config.temperature,
        "timestep_fs": runs[0].config.timestep,
        "steps_done": done,
        "steps_per_s": round(done / seconds, 1),
        "run_time_s": round(seconds, 3),
        "runs": [
            analyse_run(run).as_dict()
            if len(run.trajectory) >= MINIMUM_REPORTS
            else {"label": run.label, "status": run.status, "time_ps": run.length_ps, "n_frames": len(run.trajectory)}
            for run in runs
        ],
    }
    text: list[str | Table] = [run_table(runs), f"{done} steps in {seconds:.1f} s ({done / seconds:.0f} per second)."]
    if stop is None:
        text.append(f"The run is in {folder}. Next: fflux report {folder}")
    else:
        text.append(f"Stopped by a guard; what was before is in {folder}.")
    return Outcome(figures, text, stop)


def run_table(runs: tuple[Run, ...]) -> Table:
    """One line for every run, for the terminal."""
    from rich.table import Table

    from fflux_py.analysis.runs import MINIMUM_REPORTS, analyse_run

    table = Table("run", "status", "ps", "mean T / K", "conserved, largest deviation / kcal/mol", "bonds")
    for run in runs:
        row = [run.label, run.status, f"{run.length_ps:g}"]
        if len(run.trajectory) >= MINIMUM_REPORTS:
            analysis = analyse_run(run)
            mean = analysis.temperature_k
            row += [f"{mean.mean:.1f} ± {mean.standard_error:.1f}", f"{analysis.conserved_deviation_kcal_mol:.2g}"]
            row += ["kept" if analysis.bonds_kept and run.status != "stopped" else "not kept"]
        else:
            row += ["too short", "too short", "-"]
        table.add_row(*row)
    return table

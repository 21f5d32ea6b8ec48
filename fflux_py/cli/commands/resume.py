"""``fflux resume``: go on with molecular dynamics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from fflux_py.cli._command import Outcome, command, print_line
from fflux_py.cli._dynamics import make_event_printer, run_progress, summarise
from fflux_py.cli._options import JsonOption
from fflux_py.cli._paths import reading
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from fflux_py.dynamics.checkpoint import Checkpoint
    from fflux_py.forcefield import ForceField


@command(interrupted="go on with 'fflux resume' and the same folder")
def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of 'fflux md'.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the whole run, for a longer one than was asked for first.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL.npz", help="The model, if it is not where it was when the run began.")
    ] = None,
    ase_trajectory: Annotated[
        bool, typer.Option("--ase-trajectory", help="Write trajectory.traj of ASE too, at the end of the run.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Replicas that run at the same time.")] = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Go on with a run that was interrupted, or make it longer: the same run, bit for bit, as in one go.

    Starts from the last checkpoint; trajectory and logs are cut to it first, so that no frame is lost or there twice.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing of that name"
        raise InputError(str(folder), "a folder that 'fflux md' wrote", found)
    use_threads(threads)
    from fflux_py import model_file
    from fflux_py.dynamics import resume as resume_run
    from fflux_py.dynamics.checkpoint import read_newest_checkpoint
    from fflux_py.errors import SimulationStopped

    checkpoint, _ = read_newest_checkpoint(folder)
    path = model if model is not None else Path(checkpoint.model)
    if not path.is_file():
        raise InputError("--model", "the model of the run", f"nothing at {path}", "say where the model is now")
    with reading(path):
        forcefield = _with_precision_of_run(model_file.load(path), checkpoint)
    before = _steps_before(folder, checkpoint)
    stop: SimulationStopped | None = None
    begin = time.perf_counter()
    with run_progress(f"from step {checkpoint.step} (steps)", checkpoint.config.timestep) as show:
        try:
            resume_run(
                forcefield, folder, steps, show, threads=threads, on_event=make_event_printer(), on_notice=print_line
            )
        except SimulationStopped as stopped:
            stop = stopped
    return summarise(folder, before, time.perf_counter() - begin, stop, ase_trajectory)


def _with_precision_of_run(forcefield: ForceField, checkpoint: Checkpoint) -> ForceField:
    """The model in the precision of the run; as it is if it is another model, which is refused later."""
    from fflux_py.dynamics.potentials import identity_of
    from fflux_py.gp.kernel_arrays import Precision

    candidates = [forcefield.with_precision(precision) for precision in get_args(Precision)]
    return next((one for one in candidates if identity_of(one) == checkpoint.model_sha256), forcefield)


def _steps_before(folder: Path, checkpoint: Checkpoint) -> int:
    """Steps of all replicas up to the checkpoint; of one that was stopped before, up to there."""
    from fflux_py.analysis.runs import read_run

    records = zip(checkpoint.replicas, checkpoint.active, strict=True)
    return sum(checkpoint.step if active else read_run(folder / record.folder).steps_done for record, active in records)

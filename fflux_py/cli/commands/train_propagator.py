"""``fflux train-propagator``: learn a long step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._options import JsonOption, SeedOption, ThreadsOption
from fflux_py.cli._paths import check_output, reading
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads


@command(interrupted="what was learned up to the last minute is in the checkpoint; the same command goes on from it")
def train_propagator(
    trajectories: Annotated[Path, typer.Argument(metavar="FILE.npz", help="Trajectories (of 'fflux trajectories').")],
    kind: Annotated[str, typer.Option(help="direct, continuous or action.")],
    step: Annotated[float, typer.Option(help="Time of a step in femtosecond; of a continuous one the longest.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.safetensors", help="Model to write.")],
    minutes: Annotated[float, typer.Option(help="Time of the training, that before a checkpoint included.")] = 30.0,
    updates: Annotated[int | None, typer.Option(min=1, help="End after so many updates, if that is earlier.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pairs of frames in an update.")] = 64,
    learning_rate: Annotated[float | None, typer.Option(help="At the start; by default that of the kind.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width of the network; by default that of the kind.")] = None,
    layers: Annotated[
        int | None, typer.Option(min=0, help="Layers; by default those of the kind. 0 leaves the network out.")
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(
            min=0, help="Width of the perceptron by which 'direct' and 'continuous' start (512); 0 leaves it out."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File for going on; by default the output's name with .checkpoint.")
    ] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Train a propagator: a map over a long time step.

    A checkpoint is written every minute; with more --minutes the same command goes on from it.
    """
    checkpoint = output.with_name(output.name + ".checkpoint") if checkpoint is None else checkpoint
    check_output(output, trajectories)
    check_output(checkpoint, trajectories, output)
    use_threads(threads)
    from fflux_py.propagators.config import PropagatorTraining
    from fflux_py.propagators.config import train_propagator as train
    from fflux_py.propagators.propagator import networks
    from fflux_py.propagators.trajectories import TrajectorySet

    config = PropagatorTraining(
        kind=kind, step=step, minutes=minutes, updates=updates, batch=batch, learning_rate=learning_rate, width=width,
        layers=layers, hidden=hidden, seed=seed,
    )  # fmt: skip
    package = networks()
    package.use_threads(threads)
    with reading(trajectories):
        data = TrajectorySet.load(trajectories)
    with progress(f"training a {kind} propagator of {step:g} fs (seconds)") as show:
        propagator = train(data, config, checkpoint, show)
    package.save(propagator, output)
    metadata = dict(propagator.header.metadata)
    figures = {"output": str(output), "checkpoint": str(checkpoint), "kind": kind, "step_fs": step, **metadata}
    if "position_rms_pm" in metadata:
        line = (
            f"One step on held-out trajectories: positions to {metadata['position_rms_pm']:.3g} pm, velocities to "
            f"{100.0 * metadata['velocity_relative']:.3g} %."
        )
    else:
        line = "Steps of this action do not converge yet: train on."
    text = [
        f"{metadata['updates']} updates in {metadata['training_minutes']:.1f} minutes. {line}",
        f"The model is in {output}. Next: fflux propagate {output} START.xyz --steps 1000 -o run",
    ]
    return Outcome(figures, text)

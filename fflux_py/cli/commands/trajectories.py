"""``fflux trajectories``: what propagators are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._inputs import read_model, read_start
from fflux_py.cli._options import JsonOption, SeedOption
from fflux_py.cli._paths import check_output
from fflux_py.cli._progress import progress
from fflux_py.cli._threads import use_threads
from fflux_py.errors import InputError


@command(interrupted="no trajectories were written")
def trajectories(
    model: Annotated[Path, typer.Argument(metavar="MODEL.npz", help="Force field (of 'fflux train').")],
    start: Annotated[Path, typer.Argument(metavar="START.xyz", help="Geometry near a minimum (angstrom).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.npz", help="Trajectories to write.")],
    temperatures: Annotated[str, typer.Option(help="Temperatures of the starts in kelvin.")] = "200,300,400,500",
    number: Annotated[int, typer.Option(min=3, help="Trajectories at each temperature.")] = 128,
    length: Annotated[float, typer.Option(help="Length of each in femtosecond.")] = 150.0,
    timestep: Annotated[float, typer.Option(help="Step of velocity Verlet in femtosecond.")] = 0.25,
    interval: Annotated[float, typer.Option(help="Femtosecond between two stored frames.")] = 0.5,
    decorrelation: Annotated[float, typer.Option(help="Femtosecond of Langevin dynamics before each start.")] = 300.0,
    replicas: Annotated[int, typer.Option(min=1, help="Langevin runs that the starts are taken from.")] = 8,
    hydrogen_mass: Annotated[
        float | None, typer.Option(help="Mass of hydrogen in dalton, taken from its neighbour.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share for validation, and again for test.")] = 0.1,
    seed: SeedOption = 0,
    json_output: JsonOption = False,
) -> Outcome:
    """Make trajectories at constant energy, with velocities, for the training of propagators.

    The starts come from Langevin dynamics at several temperatures; training, validation and test are split by
    trajectory.
    """
    check_output(output, model, start)
    use_threads(1)
    from fflux_py.propagators.trajectories import SPLITS, TrajectoryConfig, make_trajectories

    try:
        chosen = tuple(float(word) for word in temperatures.split(","))
    except ValueError:
        raise InputError("--temperatures", "numbers with commas between them", repr(temperatures)) from None
    config = TrajectoryConfig(
        temperatures=chosen, trajectories=number, length=length, timestep=timestep, interval=interval,
        decorrelation=decorrelation, replicas=replicas, hydrogen_mass=hydrogen_mass, held_out=held_out, seed=seed,
    )  # fmt: skip
    forcefield = read_model(model)
    geometry = read_start(start, forcefield, in_model_order=True)
    with progress(f"trajectories of {geometry.name}") as show:
        made = make_trajectories(forcefield, geometry, config, show)
    made.save(output)
    counts = {split: len(made.members(split)) for split in SPLITS}
    figures = {
        "output": str(output), "molecule": geometry.name, "trajectories": len(made.split), "frames": made.n_frames,
        "interval_fs": made.interval, "total_ps": len(made.split) * length / 1000.0, "sha256": made.digest(),
        **{f"trajectories_{split}": count for split, count in counts.items()},
    }  # fmt: skip
    words = ", ".join(f"{count} for {split}" for split, count in counts.items())
    text = [
        f"{len(made.split)} trajectories of {length:g} fs at {temperatures} K: {words}.",
        f"They are in {output}. Next: fflux train-propagator {output} --kind direct --step 5 -o direct.safetensors",
    ]
    return Outcome(figures, text)

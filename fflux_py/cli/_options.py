"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL.npz", help="Model (of 'fflux train').")]
StartArgument = Annotated[Path, typer.Argument(metavar="START.xyz", help="Start geometry (angstrom).")]
OptionalStartArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[START.xyz]", help="Start geometry (angstrom). Without it: the model's reference."),
]

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the results as one JSON object on standard output, nothing else.")
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads of the numerical libraries.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes that work side by side.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of all random numbers.")]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        "--memory",
        metavar="GB",
        help="Memory that the joint fit may take. Without it: three fifths of what is free when it is solved.",
    ),
]

# Of commands that run molecular dynamics and label what it visits.
TemperaturesOption = Annotated[
    str, typer.Option("--temperatures", metavar="T,T,...", help="Temperatures in kelvin, separated by commas.")
]
TimestepOption = Annotated[float, typer.Option("--timestep", help="Time step in femtosecond.")]
HydrogenMassOption = Annotated[
    float | None,
    typer.Option(
        "--hydrogen-mass", help="Mass of hydrogen in dalton, taken from its neighbour; 3 allows longer steps."
    ),
]
ThermostatOption = Annotated[
    str | None,
    typer.Option(
        "--thermostat", metavar="NAME", show_default=False,
        help="langevin (the default), nose-hoover, velocity-rescaling, or none (constant energy).",
    ),
]  # fmt: skip
EnergyLimitOption = Annotated[
    float, typer.Option("--energy-mae", help="Largest energy MAE on visited frames (kcal/mol).")
]
ForceLimitOption = Annotated[
    float | None,
    typer.Option("--force-mae", help="Largest force MAE (kcal/mol/angstrom). Without it: told, not judged."),
]
LabelFolderOption = Annotated[
    Path | None,
    typer.Option("--label-folder", metavar="DIR", help="Folder of single labels. Without it: labels in the output."),
]
ExecutorOption = Annotated[
    Path | None,
    typer.Option("--executor", metavar="FILE", help="Where to label instead of in --workers processes."),
]

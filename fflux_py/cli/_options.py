"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the results as one JSON object on standard output, nothing else.")
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads of the numerical libraries.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes that work side by side.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of all random numbers.")]

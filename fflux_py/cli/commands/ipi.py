"""``fflux ipi``: energies and forces for i-PI."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fflux_py.cli._command import Outcome, command
from fflux_py.cli._inputs import read_model
from fflux_py.cli._options import JsonOption, ModelArgument, ThreadsOption
from fflux_py.cli._threads import use_threads


@command(interrupted="i-PI was left without a driver; start it again")
def ipi(
    model: ModelArgument,
    address: Annotated[str, typer.Option(help="Host of the server, or the name of its Unix socket.")] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server.")] = 31415,
    unix: Annotated[bool, typer.Option("--unix", help="The address is a Unix socket, /tmp/ipi_ADDRESS.")] = False,
    wait: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for the server to be there.")] = 10.0,
    threads: ThreadsOption = 1,
    json_output: JsonOption = False,
) -> Outcome:
    """Compute energies and forces for a run of i-PI, until that ends."""
    use_threads(threads)
    from fflux_py.interfaces.ipi_driver import drive

    forcefield = read_model(model)
    begin = time.perf_counter()
    count = drive(forcefield, address, None if unix else port, wait=wait)
    seconds = time.perf_counter() - begin
    figures = {"evaluations": count, "run_time_s": round(seconds, 3)}
    return Outcome(figures, [f"{count} evaluations in {seconds:.1f} s; the server has ended the connection."])

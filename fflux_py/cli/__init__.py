"""The command line ``fflux``: reads files, calls the library, prints results.

Nothing heavy is imported before a command runs, so that ``fflux --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from fflux_py import __version__
from fflux_py.cli._command import BAD_INPUT, fail
from fflux_py.cli.commands import (
    build,
    certify,
    check,
    convert,
    demo,
    improve,
    ipi,
    label,
    md,
    minima,
    optimize,
    propagate,
    prune,
    report,
    resume,
    sample,
    status,
    teach,
    train,
    train_propagator,
    trajectories,
    validate,
    warmup,
)

__all__ = ["app", "main"]

# The base class of all usage errors.  Older releases of typer take it from click, newer ones bring their own; both
# export only this subclass.
_UsageError: Final[type[Exception]] = typer.BadParameter.__mro__[2]


class Commands(TyperGroup):
    """The group of commands, with usage errors in one line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; end the process with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(words, prog_name, complete_var, False, windows_expand_args, **extra)
        except _UsageError as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context is not None else "fflux"
            line = f"{error.format_message().rstrip('.')}; see '{path} --help'"  # type: ignore[attr-defined]
            code = fail(path.partition(" ")[2], "--json" in words, line, BAD_INPUT).exit_code
        code = code if isinstance(code, int) else 0
        if standalone_mode:
            sys.exit(code)
        return code


app = typer.Typer(
    name="fflux",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"fflux_py {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def fflux(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From a molecule to a trusted molecular dynamics run, with atoms as Gaussian processes.

    The way: sample, label, train, validate, optimize, md, report. Files hold eV and angstrom. Start with: fflux demo
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _function in (
    build.build,
    status.status,
    check.check,
    sample.sample,
    label.label,
    teach.teach,
    train.train,
    validate.validate,
    optimize.optimize,
    minima.minima,
    md.md,
    resume.resume,
    report.report,
    certify.certify,
    improve.improve,
    prune.prune,
    trajectories.trajectories,
    train_propagator.train_propagator,
    propagate.propagate,
    ipi.ipi,
    convert.convert,
    demo.demo,
    warmup.warmup,
):
    app.command()(_function)


def main() -> None:
    """Entry point of the program ``fflux``."""
    app(prog_name="fflux")

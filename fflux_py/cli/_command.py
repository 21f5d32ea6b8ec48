"""What all commands share: figures or one line of error, JSON, exit codes."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, ParamSpec

import typer

from fflux_py import __version__
from fflux_py.errors import FFLUXError, FFLUXWarning

if TYPE_CHECKING:
    from rich.table import Table

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as of every program that SIGINT ends."""

TERMINATED: Final = 143
"""Exit code after SIGTERM, as of every program that it ends."""

BAD_INPUT: Final = 2
"""Exit code of wrong arguments, wrong files, and files that cannot be read or written."""

P = ParamSpec("P")


@dataclass(frozen=True)
class Outcome:
    """What a command has to say at its end.

    Parameters
    ----------
    figures
        For ``--json``: results, with the units in the names of the keys.
    text
        For people: lines and tables.
    error
        What keeps the command from being a success although there are figures; its line and exit code are the
        command's.
    """

    figures: Mapping[str, object]
    text: Sequence[str | Table] = field(default_factory=tuple)
    error: FFLUXError | None = None


class Terminated(KeyboardInterrupt):
    """SIGTERM, which batch systems send before they take a machine away; it ends a command as Ctrl-C does."""


def command(interrupted: str) -> Callable[[Callable[P, Outcome]], Callable[P, None]]:
    """Make a command of a function that has a parameter ``json_output`` and returns an :class:`Outcome`.

    Errors that a user can cause become one line on standard error and an exit code; anything else is a mistake in the
    program and keeps its traceback.

    Parameters
    ----------
    interrupted
        What is said after Ctrl-C and SIGTERM: what is left of the work.
    """

    def decorate(function: Callable[P, Outcome]) -> Callable[P, None]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            _run(
                functools.partial(function, *args, **kwargs),
                function.__name__.replace("_", "-"),
                bool(kwargs["json_output"]),
                interrupted,
            )

        return run

    return decorate


def _run(function: Callable[[], Outcome], name: str, as_json: bool, interrupted: str) -> None:
    begin = time.perf_counter()
    try:
        with warnings_as_lines(name) as told, _termination():
            outcome = function()
    except Terminated:
        raise fail(name, as_json, f"terminated; {interrupted}", TERMINATED) from None
    except KeyboardInterrupt:
        raise fail(name, as_json, f"interrupted; {interrupted}", INTERRUPTED) from None
    except FFLUXError as error:
        raise fail(name, as_json, str(error), error.exit_code, _parts(error)) from None
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        raise
    except OSError as error:
        raise fail(name, as_json, _system_error(error), BAD_INPUT) from None
    except BrokenExecutor:
        line = "worker process: expected it to finish, found it killed; if memory was short, use fewer workers"
        raise fail(name, as_json, line, BAD_INPUT) from None
    except MemoryError as error:
        line = f"memory: expected room for the arrays, found none{f' ({error})' if str(error) else ''}; use fewer data"
        raise fail(name, as_json, line, BAD_INPUT) from None
    except Exception as error:
        # A mistake in the program keeps its traceback, beside the object that whoever asked for JSON waits for.
        if as_json:
            line = f"a mistake in the program, {type(error).__name__}: {' '.join(str(error).split())}"
            print_json({"command": name, "version": __version__, "status": "error", "exit_code": 1, "error": line})
        raise
    code = outcome.error.exit_code if outcome.error else 0
    head: dict[str, object] = {"command": name, "version": __version__, "status": "error" if code else "ok"}
    head.update(exit_code=code, wall_time_s=round(time.perf_counter() - begin, 3))
    if outcome.error:
        head.update(error=str(outcome.error), **_parts(outcome.error))
    if as_json:
        print_json({**head, **({"warnings": told} if told else {}), **outcome.figures})
    else:
        _print_text(outcome.text)
    if outcome.error:
        print_line(f"fflux {name}: {outcome.error}")
        raise typer.Exit(code)


@contextmanager
def _termination() -> Iterator[None]:
    """A context in which SIGTERM raises :class:`Terminated`, unless somebody handles it already."""
    handled = threading.current_thread() is not threading.main_thread()
    if handled or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Terminated
        # a worker that was forked from this process ends as it always did
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def warnings_as_lines(name: str) -> Iterator[list[str]]:
    """Print every warning of this package once, as one line on standard error; those of others stay as they are.

    Gives the list of what was told, which grows.
    """
    told: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", FFLUXWarning)
        show_other = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            text = " ".join(str(message).split())
            if not issubclass(category, FFLUXWarning):
                show_other(message, category, *place, **more)
            elif text not in told:
                told.append(text)
                print_line(f"fflux {name}: warning: {text}")

        warnings.showwarning = show
        yield told


def fail(name: str, as_json: bool, line: str, code: int, parts: Mapping[str, object] | None = None) -> typer.Exit:
    """Say why a command ends and return the exit to raise."""
    line = " ".join(line.split())
    if as_json:
        head = {"command": name, "version": __version__, "status": "error", "exit_code": code, "error": line}
        print_json({**head, **(parts or {})})
    print_line(f"fflux {name}: {line}" if name else f"fflux: {line}")
    return typer.Exit(code)


def print_line(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(" ".join(text.split()) + "\n")
    sys.stderr.flush()


def print_json(content: Mapping[str, object]) -> None:
    """One JSON object on standard output; NaN and infinity, which JSON does not have, become null."""
    sys.stdout.write(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """``value`` with NaN and infinity as None, and arrays, tuples and mappings as lists and dictionaries."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, str) or value is None or isinstance(value, bool | int):
        return value
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers, without importing it here
        return plain(value.tolist())
    if isinstance(value, Sequence):
        return [plain(entry) for entry in value]
    return str(value)


def _parts(error: FFLUXError) -> dict[str, object]:
    parts: dict[str, object] = {"where": error.where, "expected": error.expected, "found": error.found}
    return {**parts, "remedy": error.remedy or None}


def _system_error(error: OSError) -> str:
    name = error.filename if error.filename is not None else "file"
    return f"{name}: expected a file or folder to read or write, found {error.strerror or error}"


def _print_text(text: Sequence[str | Table]) -> None:
    from rich.console import Console

    # Off a terminal nothing may depend on its width: no table is squeezed, no path is wrapped.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    for part in text:
        if isinstance(part, str):
            console.print(part, highlight=False, markup=False, soft_wrap=True)
        else:
            console.print(part)

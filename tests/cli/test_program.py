"""The program as a whole: help, usage errors, JSON, exit codes, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from fflux_py import __version__
from fflux_py.cli import _command, _progress, _threads, app
from fflux_py.cli._command import Outcome
from fflux_py.errors import ConvergenceError
from tests.support.cli_support import Files, fflux, refused
from tests.support.paths import REPOSITORY

COMMANDS = (
    "build",
    "status",
    "check",
    "sample",
    "label",
    "teach",
    "train",
    "validate",
    "optimize",
    "minima",
    "md",
    "resume",
    "report",
    "certify",
    "improve",
    "prune",
    "trajectories",
    "train-propagator",
    "propagate",
    "ipi",
    "convert",
    "demo",
    "warmup",
)


def program(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    command = [sys.executable, "-m", "fflux_py.cli", *(str(a) for a in arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


def test_help_names_every_command_and_no_other() -> None:
    answer = fflux("--help")
    assert answer.code == 0
    lines = answer.out.split("Commands")[1].splitlines()
    assert [line.split()[1] for line in lines if line.startswith("│ ") and line[2] != " "] == list(COMMANDS)
    registered = {info.callback.__name__.replace("_", "-") for info in app.registered_commands if info.callback}
    assert registered == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    answer = fflux(command, "--help")
    assert answer.code == 0
    assert "--json" in answer.out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from fflux_py.cli import app; app(['--help'], standalone_mode=False); "
        "print(sorted({'numpy', 'scipy', 'numba', 'ase', 'torch', 'pyscf', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )  # fmt: skip
    assert result.stdout.splitlines()[-1] == "[]", result.stdout + result.stderr


def test_version() -> None:
    result = program("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"fflux_py {__version__}\n", "")


def test_no_command_shows_the_help() -> None:
    answer = fflux()
    assert answer.code == 0
    assert "Usage: fflux" in answer.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument"),
        (["md", "m.npz", "s.xyz", "-o", "run"], "Missing option '--steps'"),
        (["md", "m.npz", "s.xyz", "-o", "run", "--steps", "ten"], "--steps"),
        (["md", "m.npz", "s.xyz", "-o", "run", "--steps", "0"], "--steps"),
        (["train", "data.extxyz", "--threads", "0"], "--threads"),
        (["train", "data.extxyz", "--colour", "red"], "No such option"),
    ],
)
def test_usage_errors_are_one_line_with_exit_code_2(arguments: list[str], said: str) -> None:
    line = refused(*arguments)
    assert said in line
    assert "--help" in line


def test_usage_error_with_json_is_one_object_too() -> None:
    answer = fflux("md", "--json", "--steps", "ten")
    assert answer.code == 2
    assert answer.json["status"] == "error"
    assert answer.json["exit_code"] == 2
    assert answer.json["command"] == "md"


def test_program_ends_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = program("validate", "nothing.npz", "nothing.extxyz", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "fflux validate: nothing.npz: expected a model written by 'fflux train' (.npz), found No such file or "
        "directory; check the path\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_bad_input_with_json_is_one_object_on_standard_output(tmp_path: Path) -> None:
    result = program("validate", "nothing.npz", "nothing.extxyz", "--json", cwd=tmp_path)
    assert result.returncode == 2
    content = json.loads(result.stdout)
    assert content["where"] == "nothing.npz"
    assert content["expected"] == "a model written by 'fflux train' (.npz)"
    assert content["exit_code"] == 2
    assert result.stderr.count("\n") == 1


def _small_app(outcome: Any) -> typer.Typer:
    """A program with one command that returns or raises ``outcome``."""
    small = typer.Typer(pretty_exceptions_enable=False)

    @small.command()
    @_command.command(interrupted="half of it is there")
    def work(json_output: bool = False) -> Outcome:
        if isinstance(outcome, BaseException):
            raise outcome
        assert isinstance(outcome, Outcome)
        return outcome

    return small


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; half of it is there"),
        (ConvergenceError("atom 1", "a minimum", "none"), 3, "atom 1: expected a minimum, found none"),
        (OSError(errno.ENOSPC, "No space left on device", "big.bin"), 2, "big.bin"),
        (PermissionError(errno.EACCES, "Permission denied", "secret"), 2, "secret"),
        (BrokenProcessPool("gone"), 2, "use fewer workers"),
        (MemoryError(), 2, "memory: expected room for the arrays, found none; use fewer data"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_errors_have_one_line_and_their_exit_code(error: BaseException, code: int, said: str, as_json: bool) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(_small_app(error), ["--json-output"] if as_json else [])
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    if as_json:
        content = json.loads(result.stdout)
        assert (content["exit_code"], content["status"]) == (code, "error")
    else:
        assert result.stdout == ""


def test_a_mistake_in_the_program_keeps_its_traceback() -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(_small_app(ZeroDivisionError("mistake")), [])
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exit_code != 0
    assert result.stdout == ""
    answer = CliRunner().invoke(_small_app(ZeroDivisionError("mistake")), ["--json-output"])
    assert isinstance(answer.exception, ZeroDivisionError)
    content = json.loads(answer.stdout)
    assert (content["status"], content["exit_code"]) == ("error", 1)
    assert content["error"] == "a mistake in the program, ZeroDivisionError: mistake"


def test_figures_with_an_error_are_printed_before_it() -> None:
    from typer.testing import CliRunner

    outcome = Outcome({"steps_done": 3}, ["three steps"], ConvergenceError("run", "ten steps", "three"))
    result = CliRunner().invoke(_small_app(outcome), ["--json-output"])
    assert result.exit_code == 3
    content = json.loads(result.stdout)
    assert content["steps_done"] == 3
    assert content["error"] == "run: expected ten steps, found three"
    plain = CliRunner().invoke(_small_app(outcome), [])
    assert (plain.stdout, plain.exit_code) == ("three steps\n", 3)


def test_json_has_no_word_for_nan() -> None:
    content = {"a": float("nan"), "b": np.array([1.0, np.inf]), "c": (Path("x"), True, 3, None), "d": np.float64(2.5)}
    assert _command.plain(content) == {"a": None, "b": [1.0, None], "c": ["x", True, 3, None], "d": 2.5}


def test_long_lines_are_not_wrapped_off_a_terminal() -> None:
    from typer.testing import CliRunner

    path = "/a/very/long/path/" + "with/many/folders/" * 20 + "model[1].npz"
    result = CliRunner().invoke(_small_app(Outcome({}, [f"The model is in {path}."])), [])
    assert result.stdout == f"The model is in {path}.\n"


def test_progress_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with _progress.progress("working") as show:
        show(1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with _progress.progress("working") as show:
        show(1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "working" in err
    assert "1/2" in err


def test_threads_are_set_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "7")
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    before = numba.get_num_threads()
    try:
        _threads.use_threads(1)
        assert [os.environ[name] for name in names] == ["1", "1", "1"]
        assert numba.get_num_threads() == 1
        assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "4"
        monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "20")
        _threads.use_threads(1)
        assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "20", "the user's own choice stays"
    finally:
        numba.set_num_threads(before)


def test_interrupt_ends_the_program_with_130(tmp_path: Path) -> None:
    """A real SIGINT, while the program waits for a file that is never written to."""
    pipe = tmp_path / "model.npz"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "fflux_py.cli", "convert", str(pipe), str(tmp_path / "out.npz"), "--prior-mean", "MF1"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        # a shell lets what it starts in the background ignore the signal, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    # Opening the other end returns as soon as the program has opened the pipe to read.
    with open(pipe, "wb"):
        err = None
        for _ in range(6):  # on a busy machine the first may come while modules are imported, which swallows it
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                _, err = process.communicate(timeout=20)
                break
    assert process.returncode == 130
    assert err == "fflux convert: interrupted; no model was written\n"
    assert not (tmp_path / "out.npz").exists()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_to_a_run_loses_no_report(files: Files, tmp_path: Path, number: int, code: int, said: str) -> None:
    """A batch system sends SIGTERM before it takes the machine away."""
    from fflux_py.dynamics.checkpoint import read_newest_checkpoint

    run, thermo = tmp_path / "run", tmp_path / "run" / "thermo.csv"
    process = subprocess.Popen(
        [sys.executable, "-m", "fflux_py.cli", "md", files.model, files.start, "--steps", "100000000", "-o", run],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while process.poll() is None and not (thermo.exists() and thermo.read_text().count("\n") > 5):
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    line = f"fflux md: {said}; go on with 'fflux resume' and the output folder\n"
    assert (process.returncode, out, err) == (code, "", line)
    record = json.loads((run / "run.json").read_text())
    step = int(thermo.read_text().splitlines()[-1].split(",")[0])
    assert step > 0
    assert (record["status"], record["steps_done"]) == ("interrupted", step)
    assert read_newest_checkpoint(run)[0].step == step


@pytest.mark.parametrize("command", ["train", "convert", "optimize", "label", "report"])
def test_output_in_a_missing_folder_is_refused_before_any_work(
    command: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    missing = tmp_path / "missing" / "out"
    arguments: dict[str, list[object]] = {
        "train": ["no-such-data", "-o", missing],
        "convert": ["no-such-model", missing, "--prior-mean", "MF1"],
        "optimize": ["no-such-model", "no-such-start", "-o", missing],
        "label": ["no-such-geometries", "-o", missing],
        "report": ["run", "-o", missing],
    }
    line = refused(command, *arguments[command])
    assert f"no folder {tmp_path / 'missing'}" in line


def test_output_that_is_the_input_is_refused(files: Files) -> None:
    before = files.data.read_bytes()
    assert "an output that is not the input" in refused("train", files.data, "-o", files.data)
    assert files.data.read_bytes() == before


def test_output_that_is_a_folder_is_refused(files: Files, tmp_path: Path) -> None:
    assert "found a folder" in refused("convert", files.model, tmp_path, "--prior-mean", "MF1")

"""Every command with every damage of every file that it reads: one line, an exit code, and JSON if it was asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import pytest

from fflux_py.dynamics import MDConfig, run_nvt
from tests.support.cli_support import Files, fflux
from tests.support.compiled_potentials import ammonia, ammonia_morse

# Words in capitals are the files that a command reads; "OUT" is what it writes.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "check": ("START",),
    "sample": ("START", "-o", "OUT"),
    "label": ("GEOMETRIES", "-o", "OUT", "--folder", "WORK", "--basis", "sto-3g", "--partition", "none"),
    "train": ("DATA", "-o", "OUT"),
    "validate": ("MODEL", "DATA"),
    "optimize": ("MODEL", "START", "-o", "OUT"),
    "minima": ("MODEL", "START", "-o", "OUT", "--searches", "1"),
    "md": ("MODEL", "START", "--steps", "5", "-o", "OUT"),
    "resume": ("RUN",),
    "report": ("RUN", "-o", "OUT"),
    "certify": ("MODEL", "START", "-o", "OUT", "--picoseconds", "0.01", "--seeds", "1"),
    "improve": ("MODEL", "DATA", "START", "-o", "OUT", "--picoseconds", "0.01", "--replicas", "1"),
    "prune": ("MODEL", "DATA", "-o", "OUT"),
    "trajectories": ("MODEL", "START", "-o", "OUT"),
    "train-propagator": ("TRAJECTORIES", "--kind", "direct", "--step", "4", "-o", "OUT"),
    "propagate": ("PROPAGATOR", "START", "--steps", "5", "-o", "OUT"),
    "ipi": ("MODEL",),
    "convert": ("MODEL", "OUT", "--prior-mean", "MF1"),
}  # fmt: skip
NAMES = ("START", "GEOMETRIES", "DATA", "MODEL", "RUN", "TRAJECTORIES", "PROPAGATOR")
INPUTS = [(command, word) for command, words in COMMANDS.items() for word in words if word in NAMES]


def _half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 - 3])


def _binary(path: Path) -> None:
    path.write_bytes(Random(1).randbytes(3000))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES: Mapping[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": _half,
    "binary": _binary,
    "another text": lambda path: path.write_text("Dear editor,\n\nwe thank the referees.\n"),
    "a number": lambda path: path.write_text("1"),
    "an archive of nothing": lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
    "a folder": _folder,
    "a link to itself": _link_to_itself,
    "a device": _device,
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("valid")
    files = Files.make(folder)
    for name, source in (("MODEL.npz", files.model), ("DATA.extxyz", files.data), ("START.xyz", files.start)):
        source.rename(folder / name)
    shutil.copy(folder / "DATA.extxyz", folder / "GEOMETRIES.extxyz")
    shutil.copy(folder / "MODEL.npz", folder / "TRAJECTORIES.npz")  # neither is one: whatever is there is refused
    shutil.copy(folder / "MODEL.npz", folder / "PROPAGATOR.safetensors")
    run_nvt(ammonia_morse(), ammonia(), MDConfig(steps=20), folder / "RUN")
    return folder


def arguments_of(command: str, folder: Path) -> list[str]:
    paths = {path.name.partition(".")[0]: str(path) for path in folder.iterdir()}
    out = folder / {"train": "OUT.npz", "convert": "OUT.npz", "prune": "OUT.npz"}.get(command, "OUT.extxyz")
    paths.update(OUT=str(out), WORK=str(folder / "WORK"))
    return [paths.get(word, word) for word in COMMANDS[command]]


@pytest.mark.filterwarnings("ignore::fflux_py.errors.FFLUXWarning")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("command", "word"), INPUTS, ids=[f"{command}-{word}" for command, word in INPUTS])
def test_a_damaged_input_is_one_line(command: str, word: str, damage: str, valid: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(valid, folder)
    (damaged,) = folder.glob(f"{word}*")
    arguments = arguments_of(command, folder)
    if word == "RUN":
        for path in list(damaged.iterdir()):
            DAMAGES[damage](path)
    else:
        DAMAGES[damage](damaged)
    before = sorted(path.name for path in folder.iterdir())
    answer = fflux(command, *arguments, "--json")
    assert answer.code == 2, answer
    content = answer.json
    assert (content["status"], content["exit_code"], content["command"]) == ("error", 2, command)
    lines = answer.err.splitlines()
    assert lines[-1].startswith(f"fflux {command}: ")
    assert all(line.startswith(f"fflux {command}: ") for line in lines)
    assert content["error"] in lines[-1]
    assert sorted(path.name for path in folder.iterdir()) == before, "nothing is written before all inputs are read"


WRITERS = [command for command, words in COMMANDS.items() if "OUT" in words]


@pytest.mark.parametrize("target", ["missing/OUT", "/dev/full", "a file/OUT", "zero\0byte"])
@pytest.mark.parametrize("command", WRITERS)
def test_an_output_that_cannot_be_written_is_one_line(command: str, target: str, valid: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(valid, folder)
    (folder / "a file").write_text("precious")
    out = target if target.startswith("/") else f"{folder}/{target}"
    arguments = [out if word.startswith(f"{folder}/OUT") else word for word in arguments_of(command, folder)]
    answer = fflux(command, *arguments, "--json")
    assert answer.code == 2, answer
    assert answer.json["status"] == "error"
    assert answer.err.splitlines()[-1].startswith(f"fflux {command}: ")
    assert (folder / "a file").read_text() == "precious"

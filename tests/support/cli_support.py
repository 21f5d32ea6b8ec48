"""Files of a small molecule for the tests of the command line, and a way to call a command."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from fflux_py import model_file
from fflux_py.cli import app
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.extended_xyz import write_molecule
from tests.support.synthetic import fitted, label, methanol, sample


@dataclass(frozen=True)
class Files:
    """A folder with ``data.extxyz``, ``model.npz`` and ``start.xyz`` of methanol."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data.extxyz"

    @property
    def model(self) -> Path:
        return self.folder / "model.npz"

    @property
    def start(self) -> Path:
        return self.folder / "start.xyz"

    @classmethod
    def make(cls, folder: Path) -> Files:
        files = cls(folder)
        methanol_data().write(files.data)
        model_file.save(fitted(), files.model)
        write_molecule(files.start, methanol())
        return files


def methanol_data() -> Dataset:
    """Training trajectories at 500 and 1000 K, test trajectories at 300 and 1000 K, mixed."""
    parts = [
        label(sample(40), "nvt-500K-s1", "train", 500.0),
        label(sample(40, 1000.0, seed=2), "nvt-1000K-s2", "train", 1000.0),
        label(sample(20, 300.0, seed=3), "nvt-300K-s3", "test", 300.0),
        label(sample(20, 1000.0, seed=4), "nvt-1000K-s4", "test", 1000.0),
    ]
    first = parts[0]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    geometries = GeometrySet(
        molecule=first.molecule,
        positions=joined("positions"),
        source=tuple(s for part in parts for s in part.geometries.source),
        temperature=np.concatenate([part.geometries.temperature for part in parts]),
        split=tuple(s for part in parts for s in part.geometries.split),
        metadata=first.geometries.metadata,
    )
    columns = [joined(name) for name in ("energies", "forces", "atomic_energies", "atomic_errors", "charges")]
    data = Dataset(geometries, *columns, first.metadata, first.isolated_energies)
    return data.select(np.random.default_rng(0).permutation(len(data)))


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON object and nothing else."""
        content = json.loads(self.out)
        assert isinstance(content, dict)
        return content


def fflux(*arguments: object) -> Answer:
    """Run a command in this process; an error that is not the user's ends the test."""
    # A command sets numbers of threads in the environment, which later tests must not inherit.
    before = dict(os.environ)
    try:
        result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="fflux")
    finally:
        os.environ.clear()
        os.environ.update(before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def refused(*arguments: object) -> str:
    """Run a command that must end with exit code 2 and one line on standard error; return the line."""
    answer = fflux(*arguments)
    assert (answer.code, answer.out) == (2, ""), answer
    assert answer.err.endswith("\n")
    assert answer.err.count("\n") == 1, answer.err
    assert "Traceback" not in answer.err
    return answer.err.strip()

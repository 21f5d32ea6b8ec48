"""What several commands read: model, data set, start geometry, where to compute."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fflux_py.cli._command import print_line
from fflux_py.cli._paths import reading
from fflux_py.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from fflux_py.forcefield import ForceField
    from fflux_py.molecules.dataset import Dataset
    from fflux_py.molecules.molecule import Molecule


def read_model(path: Path) -> ForceField:
    """A force field; errors name its file."""
    from fflux_py import model_file

    with reading(path):
        return model_file.load(path)


def read_dataset(path: Path) -> Dataset:
    """A data set; errors name its file."""
    from fflux_py.molecules.dataset import Dataset

    with reading(path):
        return Dataset.read(path)


def check_level(dataset: Dataset, path: Path, forcefield: ForceField, keys: Sequence[str]) -> None:
    """Refuse labels that were computed otherwise than those of a model, as far as its metadata say it."""
    for key in keys:
        if key in forcefield.metadata and dataset.metadata[key] != forcefield.metadata[key]:
            raise InputError(
                f"{path}, key {key}", f"{forcefield.metadata[key]} as in the model", str(dataset.metadata[key])
            )


def read_start(path: Path, forcefield: ForceField | None = None) -> Molecule:
    """A start geometry, held against the molecule of a model if there is one; errors name its file."""
    from fflux_py.molecules.extended_xyz import read_molecule
    from fflux_py.molecules.molecule import Molecule

    with reading(path):
        geometry = read_molecule(path)
        if forcefield is not None:
            matching = forcefield.match(geometry)
            if not matching.identity:
                print_line(f"{path}: {matching.describe()} to fit the model; everything is in the model's order")
                symbols = tuple(geometry.symbols[i] for i in matching.order)
                positions = matching.to_reference(geometry.positions)
                geometry = Molecule(symbols, positions, geometry.charge, geometry.name)
    return geometry


def executor_of(path: Path | None, folder: Path) -> AbstractContextManager[Executor | None]:
    """The executor that a file of ``--executor`` describes, for a ``with``; None without such a file.

    What it writes about its runs goes into ``folder``.
    """
    if path is None:
        return nullcontext()
    from fflux_py.interfaces.executor import executor_from_file

    return executor_from_file(path, folder / "runinfo")


def parse_temperatures(text: str) -> tuple[float, ...]:
    """Temperatures from a text like ``300,500``."""
    try:
        return tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise InputError("--temperatures", "numbers separated by commas", repr(text)) from None

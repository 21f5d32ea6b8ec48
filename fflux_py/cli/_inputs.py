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


def read_dataset(path: Path, forcefield: ForceField | None = None) -> Dataset:
    """A data set or labels of other programs, in the order and hand of a model; errors name the file."""
    from fflux_py.cli._labels import LabelOptions, read_labels_of
    from fflux_py.molecules.dataset_order import reorder_dataset

    with reading(path):
        dataset = read_labels_of(path, LabelOptions())
        if forcefield is None:
            return dataset
        return reorder_dataset(dataset, forcefield.match_or_keep(dataset.molecule), str(path))


def check_level(dataset: Dataset, path: Path, forcefield: ForceField, keys: Sequence[str]) -> None:
    """Refuse labels that were computed otherwise than those of a model, as far as metadata of both say it."""
    from fflux_py.cli._labels import NOT_STATED

    for key in keys:
        if (
            dataset.metadata[key] != NOT_STATED
            and key in forcefield.metadata
            and dataset.metadata[key] != forcefield.metadata[key]
        ):
            raise InputError(
                f"{path}, key {key}", f"{forcefield.metadata[key]} as in the model", str(dataset.metadata[key])
            )


def read_start(path: Path, forcefield: ForceField, in_model_order: bool = False) -> Molecule:
    """A start geometry, held against the molecule of a model; errors name its file.

    Its atoms keep their order and hand, unless those of the model are asked for.
    """
    from fflux_py.molecules.extended_xyz import read_molecule

    with reading(path):
        geometry = read_molecule(path)
        matching = forcefield.match(geometry)
    if matching.identity:
        return geometry
    what = "everything is in the model's order" if in_model_order else "results are in the order and hand given"
    print_line(f"{path}: {matching.describe()} to fit the model; {what}")
    return matching.reorder(geometry) if in_model_order else geometry


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

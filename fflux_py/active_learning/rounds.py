"""What a round of active learning leaves in its folder: written, and read when an interrupted loop goes on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from fflux_py.certification.assessment import TemperatureFigures
from fflux_py.certification.certificate import holds_other_files
from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import read_json, write_atomically
from fflux_py.molecules.dataset import Dataset, GeometrySet

STATE_FILE: Final = "improve.json"
TABLE_FILE: Final = "rounds.csv"
_SCHEMA: Final = "fflux-improve-1"


@dataclass(frozen=True)
class Round:
    """The verdict on one model of the loop, and what was labelled.

    Parameters
    ----------
    number
        From 1.
    n_train
        Training geometries of the model that was assessed.
    n_runs, n_survived
        Its runs.
    n_frames
        Labelled frames that it was assessed by.
    energy_mae_kcal_mol, force_mae_kcal_mol_angstrom, mean_energy_difference_kcal_mol
        Its errors on them.
    hottest_energy_mae_kcal_mol
        Energy MAE at the highest temperature.
    largest_deviation_kcal_mol
        Largest predictive deviation of an atomic energy among the candidates.
    criteria_met, criteria
        Criteria that hold, and all of them.
    n_learnt
        Geometries added to the training set after that.
    labels_spent
        Labels computed so far.
    """

    number: int
    n_train: int
    n_runs: int
    n_survived: int
    n_frames: int
    energy_mae_kcal_mol: float
    hottest_energy_mae_kcal_mol: float
    force_mae_kcal_mol_angstrom: float
    mean_energy_difference_kcal_mol: float
    largest_deviation_kcal_mol: float
    criteria_met: int
    criteria: int
    n_learnt: int
    labels_spent: int

    @property
    def holds(self) -> bool:
        """Whether every criterion holds."""
        return self.criteria_met == self.criteria


def mean_over_frames(figures: Sequence[TemperatureFigures], name: str) -> float:
    """Mean of a figure over all labelled frames of all temperatures; NaN if there is none."""
    pairs = [(getattr(entry, name), entry.n_frames) for entry in figures if entry.n_frames]
    values, weights = [value for value, _ in pairs], [n for _, n in pairs]
    return float(np.average(values, weights=weights)) if pairs else float("nan")


def concatenate(dataset: Dataset, more: Dataset) -> Dataset:
    """Both data sets as one, with the header of the first.

    Raises
    ------
    InputError
        Labels of different levels of theory.
    """
    for key in ("method", "basis"):
        if dataset.metadata[key] != more.metadata[key]:
            raise InputError("new labels", f"{key} {dataset.metadata[key]!r} as in the data set",
                             repr(more.metadata[key]))  # fmt: skip
    ours, theirs = dataset.geometries, more.geometries
    geometries = GeometrySet(
        molecule=ours.molecule,
        positions=np.concatenate([ours.positions, theirs.positions]),
        source=ours.source + theirs.source,
        temperature=np.concatenate([ours.temperature, theirs.temperature]),
        split=ours.split + theirs.split,
        metadata=ours.metadata,
    )
    names = ("energies", "forces", "atomic_energies", "atomic_errors", "charges")
    columns = {name: np.concatenate([getattr(dataset, name), getattr(more, name)]) for name in names}
    return Dataset(
        geometries=geometries, metadata=dataset.metadata, isolated_energies=dataset.isolated_energies, **columns
    )


def read_state(folder: Path, key: dict[str, Any]) -> list[Round]:
    """Read the rounds that are done.

    Parameters
    ----------
    folder
        A new folder is marked with ``key``.
    key
        What makes two improvements the same.

    Raises
    ------
    InputError
        The folder holds another improvement, or other files.
    FileFormatError
        Its state cannot be read.
    """
    path = folder / STATE_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        if holds_other_files(folder):
            raise InputError(str(folder), "a new or empty folder, or one of 'fflux improve'", "other files",
                             "choose another folder")  # fmt: skip
        write_state(folder, key, [])
        return []
    state = read_json(path, "choose another folder")
    try:
        rounds = [Round(**{**entry, **_missing_numbers(entry)}) for entry in state["rounds"]]
        if any(type(value) not in (int, float) for entry in rounds for value in asdict(entry).values()):
            raise TypeError("a round with entries that are no numbers")
    except (KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(str(path), f"the state of 'fflux improve' ({_SCHEMA})", str(error)) from error
    if state.get("key") != json.loads(json.dumps(key)):
        raise InputError(str(folder), "an improvement of this model and data with these settings", "another one",
                         "choose another folder")  # fmt: skip
    return rounds


def write_state(folder: Path, key: dict[str, Any], rounds: Sequence[Round]) -> None:
    """Write the state and the table."""
    entries = [asdict(entry) for entry in rounds]
    for entry in entries:
        entry.update({k: None for k, v in entry.items() if isinstance(v, float) and not np.isfinite(v)})
    content = {"schema": _SCHEMA, "key": key, "rounds": entries}
    write_atomically(folder / STATE_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(Round.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in rounds)
    write_atomically(folder / TABLE_FILE, stream.getvalue())


def _missing_numbers(entry: dict[str, Any]) -> dict[str, float]:
    """NaN for every entry that JSON holds as null."""
    return {k: float("nan") for k, v in entry.items() if v is None}

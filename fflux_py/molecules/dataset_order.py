"""A data set in another order of atoms and hand."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from fflux_py.errors import ReorderedAtomsWarning
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.matching import Matching
from fflux_py.typing import FloatArray


def reorder_dataset(dataset: Dataset, matching: Matching, where: str = "") -> Dataset:
    """A data set with all its columns in the order and hand of the reference that ``matching`` leads to.

    Parameters
    ----------
    dataset
        The data set; itself the result if there is nothing to do.
    matching
        How its atoms become those of the reference, such as a model.
    where
        What the warning names; the molecule's name if not given.

    Warns
    -----
    ReorderedAtomsWarning
        Of what was done.
    """
    if matching.identity:
        return dataset
    text = f"{where or dataset.molecule.name}: {matching.describe()} to fit the model; all is in the model's order"
    warnings.warn(text, ReorderedAtomsWarning, stacklevel=3)

    def numbers(column: FloatArray) -> FloatArray:
        return np.asarray(column[:, matching.order])

    geometries = replace(
        dataset.geometries,
        molecule=matching.reorder(dataset.molecule),
        positions=matching.to_reference(dataset.positions),
    )
    return replace(
        dataset,
        geometries=geometries,
        forces=matching.to_reference(dataset.forces),
        atomic_energies=numbers(dataset.atomic_energies),
        atomic_errors=numbers(dataset.atomic_errors),
        charges=numbers(dataset.charges),
    )

"""Small models of malondialdehyde trained on GFN2-xTB labels of the shipped geometries."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from fflux_py.certification import GFN2Labeller
from fflux_py.forcefield import ForceField
from fflux_py.molecules import shipped_data
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.training import TrainingConfig, train


@lru_cache(maxsize=1)
def shipped_geometries() -> GeometrySet:
    geometries = GeometrySet.read(shipped_data.path("malondialdehyde") / shipped_data.DATA)
    chosen = geometries.select([k for k, split in enumerate(geometries.split) if split == "train"])
    return replace(chosen, metadata={})


@lru_cache(maxsize=4)
def labelled(count: int) -> Dataset:
    data = GFN2Labeller().label(shipped_geometries().select(range(count)), Path())
    assert data is not None
    return data


@lru_cache(maxsize=4)
def model(count: int, forces: bool) -> ForceField:
    config = TrainingConfig(forces=forces, max_iterations=15 if forces else 20, subset=20, symmetry="none")
    return train(labelled(count), config)

"""Which geometries a training takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, train, trainer
from tests.support.synthetic import fitted, label, sample


def test_seed_draws_the_training_geometries(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Dataset] = []

    def record(dataset: Dataset, *_: Any) -> ForceField:
        taken.append(dataset)
        return fitted()

    monkeypatch.setattr(trainer, "train_jointly", record)
    data = label(sample(20, 500.0))
    models = [train(data, TrainingConfig(n_train=8, seed=seed)) for seed in (None, 1, 1, 2)]
    first, one, again, two = taken
    assert first is data
    np.testing.assert_array_equal(one.positions, again.positions)
    assert not np.array_equal(one.positions, two.positions)
    for drawn in (one, two):
        assert sorted(drawn.energies) == sorted(data.energies)
    # The parent is the data set as its file has it.
    assert [model.metadata["data_digest"] for model in models[1:]] == [data.digest()] * 3
    assert [model.metadata.get("selection_seed") for model in models] == [None, 1, 1, 2]
    with pytest.raises(InputError, match="seed"):
        TrainingConfig(seed=-1)

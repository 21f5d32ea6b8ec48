"""A prior mean chosen after training is the one trained with: to 1e-8 hartree, for both ways to train.

The oracle does not choose anything afterwards: a process with the mean mu is a process of mean zero for data from which
mu was subtracted before training.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fflux_py.forcefield import ForceField
from fflux_py.gp.prior_mean import prior_mean
from fflux_py.molecules.dataset import Dataset
from fflux_py.training import TrainingConfig, joint, train
from fflux_py.typing import FloatArray
from tests.support.synthetic import label, sample

pytest.importorskip("gpytorch")

NAMES = ("MF1", "MF2", "MF3", "MF4", "MF5")
TOLERANCE = 1e-8  # hartree


def _config(forces: bool, mean: str) -> TrainingConfig:
    return TrainingConfig(forces=forces, prior_mean=mean, max_iterations=3, subset=10)


@cache
def _dataset() -> Dataset:
    return label(sample(20, 500.0, seed=5))


@pytest.fixture(autouse=True)
def _fixed_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The joint search for class lengths stops within its tolerance: a shift's rounding would move it."""
    monkeypatch.setattr(joint, "search_hyperparameters", lambda _, law, *__: law.means)


@cache
def _trained(forces: bool) -> ForceField:
    return train(_dataset(), _config(forces, "MF2")).unmatched


@cache
def _looked_at() -> FloatArray:
    """Geometries like those of training, hotter ones, and one far away."""
    near, hot = sample(4, 500.0, seed=8), sample(4, 1000.0, seed=9)
    return np.concatenate([near, hot, 1.5 * near[:1]])


def _shifted(dataset: Dataset, means: FloatArray) -> Dataset:
    """The data with a constant subtracted from every atom's energy."""
    return replace(dataset, energies=dataset.energies - means.sum(), atomic_energies=dataset.atomic_energies - means)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("forces", [False, True], ids=["energies", "energies and forces"])
def test_chosen_afterwards_is_trained_with(forces: bool, name: str) -> None:
    x = _looked_at()
    chosen = _trained(forces).with_prior_mean(name)
    energies, gradient = chosen.compute(x)
    assert gradient is not None

    def same(other: ForceField, added: float) -> None:
        others, forces_of_other = other.unmatched.compute(x)
        assert forces_of_other is not None
        np.testing.assert_allclose(others + added, energies, rtol=0.0, atol=TOLERANCE)
        np.testing.assert_allclose(forces_of_other, gradient, rtol=0.0, atol=TOLERANCE)

    dataset = _dataset()
    same(train(dataset, _config(forces, name)), 0.0)
    means = np.zeros(dataset.molecule.n_atoms)  # with symmetry an atom's mean is shared out among its frames
    for model in chosen.atoms:
        means[model.frame.atom] += model.share * model.mean
    for a, symbol in enumerate(dataset.molecule.symbols):
        if not forces or name in ("MF1", "MF5"):  # else the mean is that of all equivalent atoms
            expected = prior_mean(name, dataset.atomic_energies[:, a], dataset.isolated_energies[symbol])
            assert means[a] == pytest.approx(expected, rel=1e-12)
    same(train(_shifted(dataset, means), _config(forces, "MF1")), float(means.sum()))


@pytest.mark.parametrize("forces", [False, True], ids=["energies", "energies and forces"])
def test_the_choice_can_be_taken_back(forces: bool) -> None:
    x = _looked_at()
    first = _trained(forces)
    again = first.with_prior_mean("MF4").with_prior_mean("MF1").with_prior_mean("MF2")
    np.testing.assert_allclose(again.compute(x)[0], first.compute(x)[0], rtol=0.0, atol=TOLERANCE)


def test_the_choice_matters_where_the_data_end() -> None:
    """Without this the tests above could not fail: means differ by hartrees far away, and little near the data."""
    x = _looked_at()
    low, high = (_trained(False).with_prior_mean(name).compute(x, deriv=0)[0] for name in ("MF2", "MF4"))
    assert high[-1] - low[-1] > 0.1
    assert np.abs(high - low)[:4].max() < 0.2 * (high[-1] - low[-1])

"""Features that are left out of a joint fit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fflux_py.errors import InputError, ReorderedAtomsWarning
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import FeatureSet
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.dataset_order import reorder_dataset
from fflux_py.molecules.matching import Matching
from fflux_py.training import TrainingConfig
from fflux_py.training.joint import train_jointly
from fflux_py.training.pruning import (
    PruningConfig,
    choose_evenly,
    find_fewest_geometries,
    find_idle_features,
    force_error,
    prune,
)
from fflux_py.training.refit import features_left_out, refit, training_rows
from tests.support.synthetic import fitted, label, sample


@cache
def _fit() -> tuple[Dataset, ForceField]:
    dataset = label(sample(24, 500.0))
    rows = np.arange(0, 24, 2)
    field = train_jointly(dataset, rows, TrainingConfig(symmetry="none", subset=12, max_iterations=2))
    return dataset, field


def test_kinds_of_features() -> None:
    assert list(FeatureSet("spherical", 4).names) == ["first bond", "second bond", "chi", "distance", "theta", "phi"]
    assert list(FeatureSet("unit-vector", 5).names[3:]) == ["distance", "x", "y", "z"] * 2


def test_nothing_left_out_is_the_same_fit() -> None:
    dataset, field = _fit()
    assert training_rows(field, dataset).tolist() == list(range(0, 24, 2))
    again = refit(field, dataset, ())
    positions = sample(3, 500.0, seed=8)
    np.testing.assert_allclose(again.unmatched.compute(positions)[1], field.unmatched.compute(positions)[1], atol=1e-9)


def test_forces_without_a_direction_are_those_of_its_energy() -> None:
    """The third component of a unit vector follows from the other two, but for its sign."""
    dataset, field = _fit()
    fewer = refit(field, dataset, ("x",))
    assert fewer.kernel_arrays().plain.tolist() == [12] * 6
    assert field.kernel_arrays().plain.tolist() == [16] * 6
    positions, step = sample(1, 500.0, seed=8)[0], 1e-3
    shifts = step * np.eye(18).reshape(18, 6, 3)
    e = [fewer.unmatched.compute(positions + n * shifts, deriv=0)[0] for n in (-2, -1, 1, 2)]
    numerical = -((e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * step)).reshape(6, 3)
    forces = fewer.unmatched.energy_and_forces(positions)[1]
    assert np.abs(forces - numerical).max() < 1e-6 * np.abs(forces).max()
    assert np.abs(forces - field.unmatched.energy_and_forces(positions)[1]).max() > 1e-7


def test_what_is_left_out_costs_what_is_stated() -> None:
    dataset, field = _fit()
    seen: list[tuple[int, int]] = []
    chosen = find_idle_features(field, dataset, 0.05, 8, lambda done, total: seen.append((done, total)))
    names = FeatureSet("unit-vector", 6).names
    assert chosen.kept + sum(name in chosen.dropped for name in names) == chosen.total == 15
    assert chosen.error_after <= 1.05 * chosen.error_before
    assert (chosen.n_fit, chosen.n_held_out) == (8, 4)
    assert seen[-1][0] == seen[-1][1]
    rows = training_rows(field, dataset)
    spread = np.linspace(0, 11, 8).astype(int)
    forces = refit(field, dataset, chosen.dropped, rows[spread]).unmatched.compute(
        dataset.positions[np.delete(rows, spread)]
    )[1]
    error = float(np.abs(forces - dataset.forces[np.delete(rows, spread)]).mean())
    assert error == pytest.approx(chosen.error_after, rel=1e-6)


def test_fewest_geometries_within_a_limit() -> None:
    dataset, field = _fit()
    judged, indices = np.arange(1, 24, 2), training_rows(field, dataset)

    def error(count: int) -> float:
        return force_error(refit(field, dataset, (), choose_evenly(indices, count)), dataset, judged)

    seen: list[tuple[int, int]] = []
    limit = 1.001 * error(8)
    fewest = find_fewest_geometries(
        field, dataset, (), judged, limit, progress=lambda done, total: seen.append((done, total))
    )
    assert fewest is not None
    assert fewest.joint is not None
    count = len(fewest.joint.positions)
    assert 4 < count <= 8 < len(indices)  # a smaller number may do as well, and four do not
    assert error(4) > limit >= force_error(fewest, dataset, judged)
    np.testing.assert_array_equal(fewest.joint.positions, dataset.positions[choose_evenly(indices, count)])
    assert fewest.metadata["n_train"] == count
    assert seen[-1][0] == seen[-1][1] >= len(seen) - 1
    assert find_fewest_geometries(field, dataset, (), judged, 0.5 * force_error(field, dataset, judged)) is None
    # Nothing is solved again where all geometries and features stay.
    trained = find_fewest_geometries(field, dataset, (), indices, 1.001 * force_error(field, dataset, indices))
    assert trained is field


def test_what_is_left_out_is_found_in_the_model_and_stays_out() -> None:
    dataset, field = _fit()
    assert features_left_out(field) == ()
    once = refit(field, dataset, ("x",))
    twice = refit(once, dataset, ("chi",))
    assert features_left_out(once) == ("x",)
    assert features_left_out(twice) == ("chi", "x")
    assert (once.metadata["features_left_out"], twice.metadata["features_left_out"]) == ("x", "chi, x")


def test_geometries_are_found_again_after_rounding_in_a_file() -> None:
    dataset, field = _fit()

    def moved(by: float) -> Dataset:
        return replace(dataset, geometries=replace(dataset.geometries, positions=dataset.positions + by))

    np.testing.assert_array_equal(training_rows(field, moved(1e-14)), training_rows(field, dataset))
    with pytest.raises(InputError, match="12 geometries missing"):
        training_rows(field, moved(1e-6))


def test_refusals() -> None:
    dataset, field = _fit()
    with pytest.raises(InputError, match="joint fit"):
        find_idle_features(fitted(), dataset)
    with pytest.raises(InputError, match="12 geometries missing"):
        training_rows(field, dataset.select([1, 3, 5]))
    with pytest.raises(InputError, match=r"dropped: .*radius"):
        refit(field, dataset, ("radius",))
    with pytest.raises(InputError, match="n_fit"):
        find_idle_features(field, dataset, n_fit=12)


def test_settings_of_the_pruning() -> None:
    for settings, name in (
        ({"growth": -0.1}, "growth"),
        ({"growth": np.nan}, "growth"),
        ({"n_train": 1}, "n_train"),
        ({"n_fit": 1}, "n_fit"),
        ({"n_fit": 8, "leave_out": ("x",)}, "n_fit"),
    ):
        with pytest.raises(InputError, match=name):
            PruningConfig(**settings)


def test_smaller_models_and_by_what_they_were_chosen() -> None:
    dataset, field = _fit()
    judges, rows = np.arange(1, 24, 2), training_rows(field, dataset)
    given = prune(field, dataset, judges, PruningConfig(n_train=8, leave_out=("x",)))
    assert given.criterion == "points and features given"
    expected = refit(field, dataset, ("x",), choose_evenly(rows, 8))
    positions = sample(3, 500.0, seed=8)
    np.testing.assert_array_equal(
        given.forcefield.unmatched.compute(positions)[1], expected.unmatched.compute(positions)[1]
    )
    fewest = prune(field, dataset, judges, PruningConfig(growth=5.0))
    allowed = "growth of the force error by 5 at most, features without influence (0.02), judged by "
    assert fewest.criterion.startswith(allowed)
    assert force_error(fewest.forcefield, dataset, judges) <= 6.0 * force_error(field, dataset, judges)
    assert int(fewest.forcefield.metadata["n_train"]) < 12
    for settings, said in (
        (PruningConfig(n_train=13), "n_train: expected at most the 12"),
        (PruningConfig(n_train=12, leave_out=()), "nothing else is left out"),
        (PruningConfig(n_fit=12), "n_fit: expected fewer than the 12"),
        (PruningConfig(growth=0.0, leave_out=()), "allow more with growth, or say how many with n_train"),
        (PruningConfig(growth=0.0, leave_out=("first bond",)), "more than that without first bond"),
    ):
        with pytest.raises(InputError, match=said):
            prune(field, dataset, judges, settings)


def test_data_in_another_order_are_those_of_the_model() -> None:
    """As the hydrogens of its methyl group, exchanged in pairs."""
    dataset, field = _fit()
    other = reorder(dataset, np.array([1, 0, 3, 2, 4, 5]))
    with pytest.warns(ReorderedAtomsWarning, match="4 atoms reordered to fit the model"):
        assert training_rows(field, other).tolist() == list(range(0, 24, 2))
    with pytest.warns(ReorderedAtomsWarning):
        again = refit(field, other, ())
    positions = sample(3, 500.0, seed=8)
    np.testing.assert_allclose(again.unmatched.compute(positions)[1], field.unmatched.compute(positions)[1], atol=1e-9)


def reorder(dataset: Dataset, order: np.ndarray) -> Dataset:
    with pytest.warns(ReorderedAtomsWarning):
        return reorder_dataset(dataset, Matching(order), "a test")

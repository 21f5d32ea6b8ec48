"""Length scales of all features from a few hyperparameters, alike for all that symmetry exchanges."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py.gp.features import CLASSES, FeatureKind, FeatureSet
from fflux_py.gp.joint_covariance import JointModel
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.molecules.symmetry import Symmetry, find_symmetry, no_symmetry, symmetric_local_frames
from fflux_py.training.feature_statistics import FeatureStatistics, feature_statistics
from fflux_py.training.length_scale_law import length_scale_law
from fflux_py.typing import FloatArray
from tests.support.synthetic import methanol, sample

UNIT = 0.5
KINDS: tuple[FeatureKind, ...] = ("unit-vector", "spherical")


def _model(symmetry: Symmetry, kind: FeatureKind = "unit-vector") -> JointModel:
    frames = symmetric_local_frames(methanol(), symmetry)
    return JointModel(frames, kind, KERNELS["squared-exponential"], "periodic", symmetry)


def _positions(n: int = 12) -> FloatArray:
    return sample(n, 600.0, seed=2)


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_those_of_the_features_atoms(kind: FeatureKind) -> None:
    model, positions = _model(no_symmetry(6), kind), _positions()
    distances = feature_statistics(model, positions).distances
    for frame, row in zip(model.frames, distances, strict=True):
        lengths = np.linalg.norm(positions - positions[:, [frame.atom]], axis=-1).mean(axis=0)
        assert row[:3] == pytest.approx(lengths[[frame.x_axis, frame.xy_plane, frame.xy_plane]])
        for atom, columns in FeatureSet(kind, 6).columns_of_others(frame).items():
            assert row[columns] == pytest.approx(np.full(len(columns), lengths[atom]))


def test_powers_of_spread_and_distance() -> None:
    """Slopes of log theta inside of a class; another factor and nothing else between the classes."""
    model = _model(no_symmetry(6))
    statistics = feature_statistics(model, _positions())
    law = length_scale_law(model, statistics, methanol(), UNIT, "powers")
    factors = np.array([-4.0, -4.5, -5.0, -5.5, -6.0])
    a, b = 0.4, np.array([-1.5, 1.2])
    hyperparameters = np.array([2.0, *factors, a, *b])
    assert law.variances(hyperparameters) == pytest.approx(np.full(6, UNIT * np.exp(2.0)))
    log_theta = np.log([kernel.theta for kernel in law.kernels(hyperparameters)])
    classes = FeatureSet("unit-vector", 6).classes
    for number in range(len(CLASSES)):
        power = b[1] if "direction" in CLASSES[number] else b[0]
        rest = log_theta + a * np.log(statistics.variances) + power * np.log(statistics.distances)
        assert np.ptp(rest[:, classes == number]) < 1e-12
        mean = (log_theta + np.log(statistics.variances))[:, classes == number].mean()
        assert mean == pytest.approx(factors[number])


def test_no_locality_is_the_power_one_of_the_spread_and_no_distance() -> None:
    model = _model(no_symmetry(6))
    statistics = feature_statistics(model, _positions())
    none = length_scale_law(model, statistics, methanol(), UNIT, "none")
    powers = length_scale_law(model, statistics, methanol(), UNIT, "powers")
    factors = none.means[1:]
    alike = powers.kernels(np.array([*none.means, 1.0, 0.0, 0.0]))
    for one, other, variances in zip(none.kernels(none.means), alike, statistics.variances, strict=True):
        np.testing.assert_allclose(one.theta, other.theta, rtol=1e-12)
        expected = np.exp(factors)[FeatureSet("unit-vector", 6).classes] / variances
        np.testing.assert_allclose(one.theta, expected, rtol=1e-12)


def _moved(model: JointModel, values: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
    """Values of every frame's features, beside those of the frame to which an operation moves it."""
    place = {(f.atom, f.x_axis, f.xy_plane): k for k, f in enumerate(model.frames)}
    columns = FeatureSet(model.kind, 6)
    pairs = []
    for permutation, _ in model.symmetry.all_operations():
        for frame, row in zip(model.frames, values, strict=True):
            target = place[tuple(int(permutation[i]) for i in (frame.atom, frame.x_axis, frame.xy_plane))]
            there = columns.columns_of_others(model.frames[target])
            order = np.arange(len(row))
            for atom, here in columns.columns_of_others(frame).items():
                order[here] = there[int(permutation[atom])]
            pairs.append((row, values[target][order]))
    return pairs


def test_statistics_are_alike_for_all_that_symmetry_exchanges() -> None:
    """Else the covariance would not be invariant; without the images they differ."""
    model, positions = _model(find_symmetry(methanol())), _positions()
    assert model.symmetry.order == 6
    for values in vars(feature_statistics(model, positions)).values():
        for row, moved in _moved(model, values):
            np.testing.assert_allclose(row, moved, rtol=1e-10)
    plain: FeatureStatistics = feature_statistics(_model(no_symmetry(6)), positions)
    assert plain.variances.shape == (6, 15)
    differences = [np.abs(row - moved).max() for row, moved in _moved(model, _without_images(model, positions))]
    assert max(differences) > 1e-3


def _without_images(model: JointModel, positions: FloatArray) -> FloatArray:
    """Mean distances over the geometries alone."""
    alone = JointModel(model.frames, model.kind, model.kernel, model.azimuth, no_symmetry(6))
    return feature_statistics(alone, positions).distances

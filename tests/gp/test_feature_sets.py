"""What is said of sets of features is true of the features: registries, mirror image, distances, compiled code."""

from __future__ import annotations

from typing import cast, get_args

import numpy as np
import pytest

from fflux_py._compiled.features import FEATURES, FRAME_ROWS, local_features, local_features_backward
from fflux_py.errors import InputError
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import (
    CLASSES,
    FEATURE_KINDS,
    FORMS,
    FeatureKind,
    FeatureSet,
    feature_form,
    feature_jacobian,
    features,
)
from fflux_py.gp.joint_fit import rotor_features, rotors_factorise
from fflux_py.gp.radial_kernel import MATERN52, SQUARED_EXPONENTIAL
from fflux_py.molecules.local_frame import LocalFrame, cip_local_frames
from fflux_py.molecules.symmetry import find_symmetry
from tests.support.synthetic import methanol, sample

pytestmark = pytest.mark.core

KINDS = get_args(FeatureKind)


def test_the_registries_name_the_same_kinds() -> None:
    assert set(FORMS) == set(FEATURE_KINDS) == set(FEATURES)
    assert sorted(FEATURES.values()) == list(range(len(FEATURES)))
    for make in (feature_form, lambda kind: FeatureSet(kind, 5)):
        with pytest.raises(InputError, match=r"features: expected one of spherical, .*'cartesian'"):
            make(cast(FeatureKind, "cartesian"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_atoms", [3, 4, 6])
def test_every_feature_has_a_column(kind: FeatureKind, n_atoms: int) -> None:
    columns = FeatureSet(kind, n_atoms)
    positions = sample(2)[:, :n_atoms]
    assert features(positions, LocalFrame(0, 1, 2), kind).shape == (2, columns.n_features)
    assert feature_jacobian(positions, LocalFrame(0, 1, 2), kind).shape == (2, columns.n_features, n_atoms, 3)
    assert len(columns.names) == len(columns.classes) == len(columns.mirror_signs) == columns.n_features
    assert set(columns.classes.tolist()) <= set(range(len(CLASSES)))
    with pytest.raises(ValueError, match="read-only"):
        columns.classes[0] = 1


def test_classes_of_length_scales() -> None:
    assert FeatureSet("unit-vector", 5).classes.tolist() == [0, 0, 1, 2, 3, 3, 4, 2, 3, 3, 4]
    assert FeatureSet("spherical", 5).classes.tolist() == [0, 0, 1, 2, 4, 3, 2, 4, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mirror_image_changes_features_as_the_columns_say(kind: FeatureKind) -> None:
    columns, positions = FeatureSet(kind, 6), sample(5, 1000.0)
    mirrored = positions * np.array([1.0, 1.0, -1.0])
    for frame in cip_local_frames(methanol()):
        f = features(positions, frame, kind)
        expected = columns.mirror_signs * f + columns.mirror_shifts
        np.testing.assert_allclose(features(mirrored, frame, kind), expected, atol=1e-11)
        assert np.abs(expected - f).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_distances_and_columns_of_other_atoms(kind: FeatureKind) -> None:
    columns, positions, frame = FeatureSet(kind, 6), sample(3, 1000.0), LocalFrame(2, 0, 4)
    others = [0, 4, 1, 3, 5]
    expected = np.linalg.norm(positions[:, others] - positions[:, 2:3], axis=-1)
    f = features(positions, frame, kind)
    np.testing.assert_allclose(columns.distances(f), expected, rtol=1e-13)
    jacobian = feature_jacobian(positions, frame, kind)
    places = columns.columns_of_others(frame)
    assert list(places) == [1, 3, 5]
    for atom, own in places.items():
        assert np.abs(jacobian[:, own, atom]).max() > 0.1
        for other in set(places) - {atom}:
            assert not jacobian[:, own, other].any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_azimuth_has_the_period_of_a_turn_and_no_other_feature_jumps(kind: FeatureKind) -> None:
    """An atom that passes the cut of the azimuth behind the x axis."""
    positions = sample(1)[0]
    frame = LocalFrame(0, 1, 2)
    axis = (positions[1] - positions[0]) / np.linalg.norm(positions[1] - positions[0])
    normal = np.cross(axis, positions[2] - positions[0])
    normal /= np.linalg.norm(normal)
    across = np.cross(normal, axis)
    before, after = positions.copy(), positions.copy()
    for moved, side in ((before, 1e-6), (after, -1e-6)):
        moved[3] = positions[0] - 2.0 * axis + side * across + 0.3 * normal
    jump = features(after, frame, kind) - features(before, frame, kind)
    azimuths = FeatureSet(kind, len(positions)).azimuths
    jumps = np.flatnonzero(np.abs(jump) > 1e-3)
    assert jumps.tolist() == [h for h in azimuths.tolist() if h in FeatureSet(kind, 6).columns_of_others(frame)[3]]
    np.testing.assert_allclose(np.abs(jump[jumps]), 2.0 * np.pi, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_features_and_the_way_back_are_those_of_numpy(kind: FeatureKind) -> None:
    positions, n = sample(4, 1000.0), 6
    rng = np.random.default_rng(3)
    for frame in (*cip_local_frames(methanol()), LocalFrame(5, 1, 0)):
        indices = np.array([frame.atom, frame.x_axis, frame.xy_plane])
        for geometry in positions:
            rows, local = np.empty((FRAME_ROWS, 3)), np.empty((n, 4))
            f = np.empty(FeatureSet(kind, n).n_features)
            local_features(geometry, indices, FEATURES[kind], rows, local, f)
            np.testing.assert_allclose(f, features(geometry, frame, kind), rtol=1e-13, atol=1e-14)
            g, gradient = rng.standard_normal(len(f)), np.zeros((n, 3))
            local_features_backward(geometry, indices, FEATURES[kind], rows, local, g, gradient)
            expected = np.einsum("f,fac->ac", g, feature_jacobian(geometry, frame, kind))
            np.testing.assert_allclose(gradient, expected, atol=1e-12 * np.abs(expected).max())


def test_rotors_factorise_where_kernel_and_features_do() -> None:
    symmetry = find_symmetry(methanol())
    frame = cip_local_frames(methanol())[1]
    assert rotors_factorise("unit-vector", SQUARED_EXPONENTIAL)
    assert not rotors_factorise("unit-vector", MATERN52)
    assert not rotors_factorise("spherical", SQUARED_EXPONENTIAL)
    columns = FeatureSet("unit-vector", 6)
    covariance = Covariance(np.ones(columns.n_features), columns.azimuths)
    for rotor in rotor_features(symmetry, frame, "unit-vector", covariance):
        assert [tuple(columns.names[h] for h in atom) for atom in rotor] == [("distance", "x", "y", "z")] * 3

"""How far the features of a training set spread, and how far their atoms are: what length scales are measured by.

Both are taken over all images of all geometries, and are alike for the atoms of a rotor.  Otherwise frames that the
symmetry exchanges would have different length scales, and the covariance would not be invariant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.gp.features import FeatureSet
from fflux_py.gp.joint_covariance import JointModel
from fflux_py.gp.joint_fit import frame_basis, rotor_features
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.typing import FloatArray

_SMALLEST_SPREAD: Final = 1e-5


@dataclass(frozen=True)
class FeatureStatistics:
    """Spreads and distances of the features of all frames.

    Parameters
    ----------
    variances
        Variance of every feature (circular for azimuths), shape ``(n_frames, n_features)``.
    distances
        Mean distance of the feature's atom from the frame's atom, bohr, shape ``(n_frames, n_features)``.
    """

    variances: FloatArray
    distances: FloatArray


def feature_statistics(model: JointModel, positions: FloatArray) -> FeatureStatistics:
    """The statistics over all images of geometries in bohr, shape ``(N, n_atoms, 3)``."""
    rows = [_of_frame(model, frame, positions) for frame in model.frames]
    return FeatureStatistics(np.array([variances for variances, _ in rows]), np.array([r for _, r in rows]))


def feature_variances(model: JointModel, positions: FloatArray) -> FloatArray:
    """Variance of every feature over geometries and images, shape ``(n_frames, n_features)``."""
    return feature_statistics(model, positions).variances


def _of_frame(model: JointModel, frame: LocalFrame, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Variances and distances of one frame's features, shape ``(n_features,)``."""
    n_atoms = positions.shape[1]
    columns, plain = FeatureSet(model.kind, n_atoms), model.unscaled(n_atoms)
    basis = frame_basis(model.symmetry, positions, frame, model.kind, plain)
    values = basis.features()
    variances = values.var(axis=0)
    if len(plain.azimuths):
        variances[plain.azimuths] = 1.0 - np.abs(np.exp(1j * values[:, plain.azimuths]).mean(axis=0)) ** 2
    distances = columns.distances(values).mean(axis=0)[columns.distance_numbers]
    for of_rotor in rotor_features(model.symmetry, frame, model.kind, plain):
        variances[of_rotor] = values[:, of_rotor].reshape(-1, of_rotor.shape[1]).var(axis=0)
        distances[of_rotor] = distances[of_rotor].mean()
    return np.maximum(variances, _SMALLEST_SPREAD), distances

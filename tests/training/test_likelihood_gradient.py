"""The gradient of the joint log marginal likelihood against finite differences of the likelihood itself."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from fflux_py.gp.features import FeatureKind
from fflux_py.gp.joint_covariance import JointData, JointModel, frame_points
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.symmetry import find_symmetry, no_symmetry, symmetric_local_frames
from fflux_py.training._likelihood_gradient import likelihood_and_gradient
from fflux_py.training.feature_statistics import feature_statistics
from fflux_py.training.length_scale_law import LengthScaleLaw, length_scale_law
from fflux_py.training.length_scales import log_likelihood
from fflux_py.typing import FloatArray
from tests.support.synthetic import label, methanol, sample

KINDS = [(cast(FeatureKind, kind), kernel) for kind in ("unit-vector", "spherical") for kernel in KERNELS]
STEP = 2e-3


def _data(n_partitioned: int = 3) -> JointData:
    """Four geometries, not all of them with atomic energies."""
    dataset: Dataset = label(sample(4, 600.0, seed=3))
    atomic = np.array(dataset.atomic_energies)
    atomic[n_partitioned:] = np.nan
    return JointData(dataset.positions, dataset.energies, dataset.forces, atomic, np.full_like(atomic, np.nan))


def _law(kind: FeatureKind, kernel: str, symmetric: bool, data: JointData) -> LengthScaleLaw:
    symmetry = find_symmetry(methanol()) if symmetric else no_symmetry(6)
    frames = symmetric_local_frames(methanol(), symmetry)
    model = JointModel(frames, kind, KERNELS[kernel], "periodic", symmetry)
    return length_scale_law(model, feature_statistics(model, sample(20, 600.0)), methanol(), 1e-4, "powers")


def _hyperparameters(law: LengthScaleLaw) -> FloatArray:
    return np.asarray(law.means + 0.3 * np.random.default_rng(5).standard_normal(len(law.means)))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("kind", "kernel"), KINDS)
@pytest.mark.parametrize("n_partitioned", [0, 3])
def test_gradient_is_the_derivative(kind: FeatureKind, kernel: str, symmetric: bool, n_partitioned: int) -> None:
    data = _data(n_partitioned)
    law = _law(kind, kernel, symmetric, data)
    points = [frame_points(law.model, frame, data.positions) for frame in law.model.frames]
    at = _hyperparameters(law)

    def likelihood(parameters: FloatArray) -> float:
        return log_likelihood(data, law.model, law.kernels(parameters), law.variances(parameters), points)

    value, *by_theta = likelihood_and_gradient(data, law.model, law.kernels(at), law.variances(at), points)
    assert value == pytest.approx(likelihood(at), rel=1e-12)
    gradient = law.gradient(*by_theta)
    for k, step in enumerate(STEP * np.eye(len(at))):
        numeric = (likelihood(at + step) - likelihood(at - step)) / (2.0 * STEP)
        assert gradient[k] == pytest.approx(numeric, rel=2e-5, abs=2e-5 * np.abs(gradient).max())

"""The search for hyperparameters: it ends where the posterior is flat, and the prior holds what the data leave open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fflux_py.gp.joint_covariance import JointData, JointModel
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.molecules.symmetry import no_symmetry, symmetric_local_frames
from fflux_py.training import TrainingConfig
from fflux_py.training.feature_statistics import feature_statistics
from fflux_py.training.length_scale_law import LengthScaleLaw, length_scale_law
from fflux_py.training.length_scales import log_likelihood, search_hyperparameters
from fflux_py.typing import FloatArray
from tests.support.synthetic import label, methanol, sample

CONFIG = TrainingConfig()


def _data(n: int) -> JointData:
    dataset = label(sample(n, 600.0, seed=4))
    fields = (dataset.positions, dataset.energies, dataset.forces, dataset.atomic_energies)
    return JointData(*(np.array(values) for values in fields), np.full_like(dataset.atomic_energies, np.nan))


def _law(data: JointData) -> LengthScaleLaw:
    symmetry = no_symmetry(6)
    frames = symmetric_local_frames(methanol(), symmetry)
    model = JointModel(frames, "unit-vector", KERNELS["squared-exponential"], "periodic", symmetry)
    unit = float(np.var(data.energies)) / 6
    return length_scale_law(model, feature_statistics(model, data.positions), methanol(), unit, "powers")


def _log_posterior(data: JointData, law: LengthScaleLaw, at: FloatArray) -> float:
    return log_likelihood(data, law.model, law.kernels(at), law.variances(at)) + law.log_prior(at)[0]


def test_no_step_along_a_hyperparameter_gains_much() -> None:
    data = _data(8)
    law = _law(data)
    best = search_hyperparameters(data, law, CONFIG)
    top = _log_posterior(data, law, best)
    assert top > _log_posterior(data, law, law.means) + 10.0
    for step in np.concatenate([0.3 * np.eye(len(best)), -0.3 * np.eye(len(best))]):
        assert _log_posterior(data, law, best + step) < top + 0.1


def test_a_narrow_prior_holds_and_a_wide_one_does_not() -> None:
    data = _data(4)
    law = _law(data)
    narrow = replace(law, deviations=np.full_like(law.deviations, 1e-3))
    wide = replace(law, deviations=np.full_like(law.deviations, 1e2))
    assert np.abs(search_hyperparameters(data, narrow, CONFIG) - law.means).max() < 0.02
    moved = [np.abs(search_hyperparameters(data, one, CONFIG) - law.means) for one in (law, wide)]
    assert 0.1 < moved[0].max() < moved[1].max()


def test_prior_is_normal_and_has_its_gradient() -> None:
    law = _law(_data(4))
    at = law.means + 0.7
    value, slope = law.log_prior(at)
    step = 1e-5 * np.eye(len(at))
    numeric = [(law.log_prior(at + h)[0] - law.log_prior(at - h)[0]) / 2e-5 for h in step]
    np.testing.assert_allclose(slope, numeric, rtol=1e-8)
    assert law.log_prior(law.means)[0] == 0.0
    one = law.log_prior(law.means + law.deviations * np.eye(len(at))[3])[0]
    assert np.isclose(one, -0.5)
    assert np.isclose(value, -0.5 * ((0.7 / law.deviations) ** 2).sum())

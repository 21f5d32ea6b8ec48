"""The linear system of a joint fit: data, model and hyperparameters, which go together wherever it is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fflux_py.gp.covariance import Covariance
from fflux_py.gp.joint_covariance import JointData, JointModel
from fflux_py.molecules.dataset import Dataset
from fflux_py.typing import FloatArray, IntArray


@dataclass(frozen=True)
class JointSystem:
    """The covariance of all observations with its noise, and the observations themselves.

    Parameters
    ----------
    data, model
        The training data, and what is modelled.
    kernels
        The kernels of the model's frames.
    variance
        Prior variances of the kernels, hartree^2: one for all, or one for each.
    """

    data: JointData
    model: JointModel
    kernels: Sequence[Covariance]
    variance: float | FloatArray

    @property
    def variances(self) -> list[float]:
        """Prior variance of every kernel, hartree^2."""
        return [float(variance) for variance in np.broadcast_to(self.variance, len(self.kernels))]

    @property
    def n_unknowns(self) -> int:
        """Number of observations, and of rows of the matrix."""
        return self.data.observations.count


def training_data(dataset: Dataset, indices: IntArray) -> JointData:
    """What a joint fit learns from the geometries ``indices`` of a data set."""
    fields = (dataset.positions, dataset.energies, dataset.forces, dataset.atomic_energies, dataset.atomic_errors)
    return JointData(*(np.array(values[indices]) for values in fields))


def image_count(model: JointModel) -> int:
    """Number of images of all frames under the symmetry: the cost of the matrix is proportional to it."""
    return sum(len(model.symmetry.images(frame)[1]) for frame in model.frames)

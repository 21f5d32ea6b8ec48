r"""From a few hyperparameters to the length scales of all features of all frames.

The inverse squared length of the feature h of the class c, which has the variance v and whose atom stands at the mean
distance R from the frame's atom, is

.. math:: \theta_h = \frac{t_c}{\bar v_c} \left(\frac{v_h}{\bar v_c}\right)^{-a}
          \left(\frac{R_h}{\bar R_c}\right)^{-b},

with :math:`\bar v_c` and :math:`\bar R_c` the geometric means over the class, over all frames.  So :math:`\theta_h` is
proportional to :math:`t_c v_h^{-a} R_h^{-b}`.  Free are a factor t for each of the five classes, a, and b for distances
(the angle of the frame is one of them) and for directions.  With a = 1 and b = 0 every feature is measured by its
standard deviation, whatever its atom's distance: the law of earlier models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import CLASSES, FeatureSet
from fflux_py.gp.joint_covariance import JointModel
from fflux_py.training.config import Locality
from fflux_py.training.feature_statistics import FeatureStatistics
from fflux_py.typing import FloatArray, IntArray

_N_CLASSES: Final = len(CLASSES)
_DIRECTIONS: Final = 3
"""The first class of directions in :data:`fflux_py.gp.features.CLASSES`; the classes before are distances."""
# Means and standard deviations of the hyperparameters' normal prior: what the likelihood finds for small molecules.
# The prior variance over that of the data, each atom's share (logarithm); the factors t (logarithms); a and both b.
_VARIANCE: Final = (7.0, 3.0)
_FACTORS: Final = (-6.4, -7.2, -7.8, -8.3, -6.2)
_POWERS: Final = (0.2, -0.7, 1.4)
_DEVIATION: Final = 1.0


@dataclass(frozen=True)
class LengthScaleLaw:
    """The kernels of all frames as functions of the hyperparameters.

    The first hyperparameter is the logarithm of the prior variance, the next five those of the factors t of the
    classes; then come, where they are free, the powers a, b of distances and b of directions.

    Parameters
    ----------
    model
        What is modelled.
    n_atoms
        Number of atoms.
    offsets, design
        Logarithms of theta are ``offsets + design @ hyperparameters``, shapes ``(n_frames, n_features)`` and
        ``(n_frames, n_features, n_hyperparameters)``.
    unit
        What the exponential of the first hyperparameter is multiplied with, hartree^2.
    means, deviations
        Means and standard deviations of the hyperparameters' normal prior, shapes ``(n_hyperparameters,)``.
    """

    model: JointModel
    n_atoms: int
    offsets: FloatArray
    design: FloatArray
    unit: float
    means: FloatArray
    deviations: FloatArray

    def kernels(self, hyperparameters: FloatArray) -> list[Covariance]:
        """The kernels of all frames."""
        azimuths = FeatureSet(self.model.kind, self.n_atoms).azimuths
        thetas = np.exp(self.offsets + self.design @ hyperparameters)
        return [Covariance(theta, azimuths, self.model.kernel, self.model.azimuth) for theta in thetas]

    def variance(self, hyperparameters: FloatArray) -> float:
        """The prior variance of every atom, hartree^2."""
        return self.unit * float(np.exp(hyperparameters[0]))

    def log_prior(self, hyperparameters: FloatArray) -> tuple[float, FloatArray]:
        """Logarithm of the prior density, up to a constant, and its gradient."""
        scaled = (hyperparameters - self.means) / self.deviations
        return -0.5 * float(scaled @ scaled), -scaled / self.deviations

    def gradient(self, by_log_theta: FloatArray, by_log_variance: FloatArray) -> FloatArray:
        """Derivatives by the hyperparameters, from those by the logarithms of all frames' theta and prior variances.

        Shapes ``(n_frames, n_features)`` and ``(n_frames,)`` to ``(n_hyperparameters,)``.
        """
        gradient = np.einsum("fh,fhp->p", by_log_theta, self.design)
        gradient[0] += by_log_variance.sum()
        return np.asarray(gradient)


def length_scale_law(
    model: JointModel, statistics: FeatureStatistics, n_atoms: int, unit: float, locality: Locality
) -> LengthScaleLaw:
    """The law of a model's length scales.

    Parameters
    ----------
    model, statistics, n_atoms
        The model, the statistics of its features, and the number of atoms.
    unit
        The unit of the prior variance, hartree^2: the variance of the total energies over the number of atoms.
    locality
        Which hyperparameters there are.
    """
    classes = FeatureSet(model.kind, n_atoms).classes
    of_classes = np.broadcast_to(np.eye(_N_CLASSES)[classes], (*statistics.variances.shape, _N_CLASSES))
    log_variances, log_distances = np.log(statistics.variances), np.log(statistics.distances)
    mean = _class_means(log_variances, classes)
    offsets = -mean
    columns = [np.zeros((*mean.shape, 1)), of_classes]
    means, count = [_VARIANCE[0], *_FACTORS], _N_CLASSES
    if locality == "none":
        offsets = -log_variances
    else:
        farther = log_distances - _class_means(log_distances, classes)
        of_direction = classes >= _DIRECTIONS
        powers = mean - log_variances, np.where(of_direction, 0.0, -farther), np.where(of_direction, -farther, 0.0)
        columns.append(np.stack(powers, axis=-1))
        means, count = [*means, *_POWERS], count + len(_POWERS)
    design = np.concatenate(columns, axis=-1)
    deviations = np.array([_VARIANCE[1], *[_DEVIATION] * count])
    return LengthScaleLaw(model, n_atoms, offsets, design, unit, np.array(means), deviations)


def _class_means(values: FloatArray, classes: IntArray) -> FloatArray:
    """Means over the features of each class in all frames, in the place of every feature."""
    means = np.zeros(_N_CLASSES)
    for number in np.unique(classes):
        means[number] = values[:, classes == number].mean()
    return np.broadcast_to(means[classes], values.shape)

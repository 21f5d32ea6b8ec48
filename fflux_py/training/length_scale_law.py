r"""From a few hyperparameters to the length scales of all features of all frames.

The inverse squared length of the feature h of the class c, which has the variance v and whose atom stands at the mean
distance R from the frame's atom, is

.. math:: \theta_h = \frac{t_c}{\bar v_c} \left(\frac{v_h}{\bar v_c}\right)^{-a}
          \left(\frac{R_h}{\bar R_c}\right)^{-b},

with :math:`\bar v_c` and :math:`\bar R_c` the geometric means over the class, over all frames.  So :math:`\theta_h` is
proportional to :math:`t_c v_h^{-a} R_h^{-b}`.  Free are a factor t for each of the five classes, a, and b for distances
(the angle of the frame is one of them) and for directions.  With a = 1 and b = 0 every feature is measured by its
standard deviation, whatever its atom's distance: the law of earlier models.

Beside this kernel of all features a second one may stand, a function of the features of the near atoms alone, with a
prior variance, factors and a power a of its own: what is near decides more finely, what is far more coarsely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fflux_py.gp.covariance import Covariance
from fflux_py.gp.features import CLASSES, FeatureSet
from fflux_py.gp.joint_covariance import JointModel
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.molecules.molecule import Molecule
from fflux_py.training.config import Locality
from fflux_py.training.feature_statistics import FeatureStatistics
from fflux_py.typing import BoolArray, FloatArray, IntArray

_N_CLASSES: Final = len(CLASSES)
_DIRECTIONS: Final = 3
"""The first class of directions in :data:`fflux_py.gp.features.CLASSES`; the classes before are distances."""
_NEAR: Final = 2
"""Most bonds from the frame's atom to a near one."""
# Means and standard deviations of the hyperparameters' normal prior, about what the likelihood finds for small
# molecules: logarithms of the prior variance (over that of the data, each atom's share) and of the factors t, then a
# and both b.  First of a kernel that stands alone; then of the global one beside a second, and of that.  The second
# variance is small: from a large one the search ends in a lower maximum.
_GLOBAL: Final = (7.0, -6.4, -7.2, -7.8, -8.3, -6.2, 0.2, -0.7, 1.4)
_BESIDE: Final = (8.5, -7.2, -8.3, -10.0, -12.0, -9.0, 0.8, 0.8, 1.4)
_NEAR_ATOMS: Final = (2.5, -6.0, -5.8, -6.6, -6.0, -4.3, 0.2)
_DEVIATIONS: Final = (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class LengthScaleLaw:
    """The kernels of all frames as functions of the hyperparameters.

    The hyperparameters of a kernel are the logarithm of its prior variance, those of the factors t of the classes, and,
    where they are free, the powers a, b of distances and b of directions; the second kernel has its own, without b,
    after them.

    Parameters
    ----------
    model
        What is modelled; its frames stand once for each of their kernels.
    azimuths
        Features that are azimuths.
    offsets, design
        Logarithms of theta are ``offsets + design @ hyperparameters``, shapes ``(n_kernels, n_features)`` and
        ``(n_kernels, n_features, n_hyperparameters)``.  Offsets of features without influence are minus infinity.
    variances_at
        Hyperparameter that is the logarithm of a kernel's prior variance, shape ``(n_kernels,)``.
    unit
        What its exponential is multiplied with, hartree^2.
    means, deviations
        Means and standard deviations of the hyperparameters' normal prior, shapes ``(n_hyperparameters,)``.
    """

    model: JointModel
    azimuths: IntArray
    offsets: FloatArray
    design: FloatArray
    variances_at: IntArray
    unit: float
    means: FloatArray
    deviations: FloatArray

    def kernels(self, hyperparameters: FloatArray) -> list[Covariance]:
        """The kernels of all frames."""
        thetas = np.exp(self.offsets + self.design @ hyperparameters)
        return [Covariance(theta, self.azimuths, self.model.kernel, self.model.azimuth) for theta in thetas]

    def variances(self, hyperparameters: FloatArray) -> FloatArray:
        """The kernels' prior variances of an atom's energy, hartree^2, shape ``(n_kernels,)``."""
        return np.asarray(self.unit * np.exp(hyperparameters[self.variances_at]))

    def log_prior(self, hyperparameters: FloatArray) -> tuple[float, FloatArray]:
        """Logarithm of the prior density, up to a constant, and its gradient."""
        scaled = (hyperparameters - self.means) / self.deviations
        return -0.5 * float(scaled @ scaled), -scaled / self.deviations

    def gradient(self, by_log_theta: FloatArray, by_log_variance: FloatArray) -> FloatArray:
        """Derivatives by the hyperparameters, from those by the logarithms of all kernels' theta and prior variances.

        Shapes ``(n_kernels, n_features)`` and ``(n_kernels,)`` to ``(n_hyperparameters,)``.
        """
        gradient = np.einsum("fh,fhp->p", by_log_theta, self.design)
        np.add.at(gradient, self.variances_at, by_log_variance)
        return np.asarray(gradient)


@dataclass(frozen=True)
class _Part:
    """One kernel of every frame: offsets and design as of :class:`LengthScaleLaw`, and the prior's means."""

    offsets: FloatArray
    design: FloatArray
    means: tuple[float, ...]


def length_scale_law(
    model: JointModel, statistics: FeatureStatistics, molecule: Molecule, unit: float, locality: Locality
) -> LengthScaleLaw:
    """The law of a model's length scales.

    Parameters
    ----------
    model, statistics, molecule
        The model, each of its frames once; the statistics of its features; and the molecule, whose bonds say which
        atoms are near.
    unit
        The unit of the prior variance, hartree^2: the variance of the total energies over the number of atoms.
    locality
        Which hyperparameters there are.
    """
    columns = FeatureSet(model.kind, molecule.n_atoms)
    if locality == "none":
        of_classes = np.broadcast_to(np.eye(_N_CLASSES)[columns.classes], (*statistics.variances.shape, _N_CLASSES))
        parts = [_Part(-np.log(statistics.variances), _with_variance(of_classes), _GLOBAL[: 1 + _N_CLASSES])]
    else:
        everything = np.ones(statistics.variances.shape, dtype=np.bool_)
        parts = [_part(statistics, columns.classes, everything, _BESIDE if locality == "near" else _GLOBAL)]
    if locality == "near":
        near = np.array([_near_features(frame, columns, molecule) for frame in model.frames])
        parts.append(_part(statistics, columns.classes, near, _NEAR_ATOMS))
    counts = [len(part.means) for part in parts]
    first = np.cumsum([0, *counts])
    n_frames, n_features = statistics.variances.shape
    design = np.zeros((n_frames, len(parts), n_features, first[-1]))
    for k, part in enumerate(parts):
        design[:, k, :, first[k] : first[k + 1]] = part.design
    return LengthScaleLaw(
        model=replace(model, frames=tuple(frame for frame in model.frames for _ in parts)),
        azimuths=columns.azimuths,
        offsets=np.stack([part.offsets for part in parts], axis=1).reshape(-1, n_features),
        design=design.reshape(-1, n_features, first[-1]),
        variances_at=np.tile(first[:-1], n_frames),
        unit=unit,
        means=np.concatenate([part.means for part in parts]),
        deviations=np.concatenate([_DEVIATIONS[:count] for count in counts]),
    )


def _part(statistics: FeatureStatistics, classes: IntArray, used: BoolArray, means: tuple[float, ...]) -> _Part:
    """One kernel of the used features; powers of the distances are free where the prior has means for them."""
    log_variances, log_distances = np.log(statistics.variances), np.log(statistics.distances)
    mean = _class_means(log_variances, classes, used)
    farther = log_distances - _class_means(log_distances, classes, used)
    of_direction = classes >= _DIRECTIONS
    powers = mean - log_variances, np.where(of_direction, 0.0, -farther), np.where(of_direction, -farther, 0.0)
    of_classes = np.broadcast_to(np.eye(_N_CLASSES)[classes], (*mean.shape, _N_CLASSES))
    n_powers = len(means) - 1 - _N_CLASSES
    free = np.concatenate([of_classes, np.stack(powers[:n_powers], axis=-1)], axis=-1)
    design = _with_variance(free) * used[..., None]
    return _Part(np.where(used, -mean, -np.inf), design, means)


def _with_variance(design: FloatArray) -> FloatArray:
    """The design with the prior variance in front, on which theta does not depend."""
    return np.concatenate([np.zeros((*design.shape[:-1], 1)), design], axis=-1)


def _class_means(values: FloatArray, classes: IntArray, used: BoolArray) -> FloatArray:
    """Means over the used features of each class in all frames, in the place of every feature."""
    means = np.zeros(_N_CLASSES)
    for number in np.unique(classes):
        chosen = used & (classes == number)
        means[number] = values[chosen].mean() if chosen.any() else 0.0
    return np.broadcast_to(means[classes], values.shape)


def _near_features(frame: LocalFrame, columns: FeatureSet, molecule: Molecule) -> BoolArray:
    """Which features are of atoms near a frame's atom; those of the frame's own atoms always are."""
    near = np.ones(columns.n_features, dtype=np.bool_)
    for atom, of_atom in columns.columns_of_others(frame).items():
        near[of_atom] = molecule.bonds_between[frame.atom, atom] <= _NEAR
    return near

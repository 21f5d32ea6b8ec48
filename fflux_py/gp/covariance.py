r"""Covariances (kernels) of the Gaussian processes, their values and gradients.

Every kernel is a function of the scaled squared distance :math:`s = \sum_h \theta_h d_h^2`
(:mod:`fflux_py.gp.radial_kernel`) in an *embedding* of the features, where an azimuth :math:`\phi` stands as
:math:`(\cos\phi, \sin\phi)`.

Because :math:`|e^{i\phi} - e^{i\phi'}|^2 = 4 \sin^2((\phi-\phi')/2)`, the squared exponential in this embedding *is*
the periodic kernel :math:`\exp(-4 \theta \sin^2(d/2))` on azimuths: positive semidefinite and smooth.  The field's
``rbf-cyclic`` (the difference wrapped into [-pi, pi)) has a kink at pi and is not positive semidefinite; it is here to
read and to replicate old models only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from scipy.spatial.distance import cdist

from fflux_py.errors import InputError
from fflux_py.gp.radial_kernel import SQUARED_EXPONENTIAL, RadialKernel
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray, IntArray

Azimuth = Literal["periodic", "rbf-cyclic", "rbf"]
AZIMUTHS: Final[tuple[str, ...]] = get_args(Azimuth)


@dataclass(frozen=True)
class Covariance:
    r"""A stationary kernel with one inverse squared length for every feature and unit variance.

    Parameters
    ----------
    theta
        :math:`\theta_h = 1/(2 l_h^2)` in the inverse square of the feature's unit, shape ``(n_features,)``.
    azimuths
        Indices of the features with the period 2 pi.
    kernel
        The correlation as a function of the scaled squared distance (:mod:`fflux_py.gp.radial_kernel`).
    azimuth
        What happens to the azimuths: ``"periodic"`` (default), ``"rbf-cyclic"`` (wrapped difference) or ``"rbf"`` (as
        any other feature).
    """

    theta: FloatArray
    azimuths: IntArray
    kernel: RadialKernel = SQUARED_EXPONENTIAL
    azimuth: Azimuth = "periodic"

    def __post_init__(self) -> None:
        object.__setattr__(self, "theta", read_only(self.theta))
        object.__setattr__(self, "azimuths", read_only(self.azimuths, np.int64))
        if self.azimuth not in AZIMUTHS:
            raise InputError("covariance azimuth", f"one of {', '.join(AZIMUTHS)}", repr(self.azimuth))
        if self.theta.ndim != 1 or not np.isfinite(self.theta).all() or (self.theta < 0).any():
            raise InputError("theta", "one finite, non-negative number for each feature", str(self.theta))

    @property
    def expanded(self) -> IntArray:
        """Azimuths that stand as cosine and sine in the embedding."""
        return self.azimuths if self.azimuth == "periodic" else np.zeros(0, dtype=np.int64)

    def periods(self) -> FloatArray:
        """Period of every embedded coordinate; zero where there is none.  Only ``rbf-cyclic`` has any."""
        period = np.zeros(self.n_embedded)
        if self.azimuth == "rbf-cyclic":
            period[self.azimuths] = 2.0 * np.pi * np.sqrt(self.theta[self.azimuths])
        return period

    @property
    def n_embedded(self) -> int:
        """Number of embedded coordinates."""
        return len(self.theta) + len(self.expanded)

    def embed(self, features: FloatArray) -> FloatArray:
        """Scaled, embedded coordinates, shape ``(..., n_embedded)``: kernels are functions of their distances.

        An azimuth's cosine stands in its own place, its sine is appended at the end.
        """
        scale = np.sqrt(self.theta)
        embedded = features * scale
        if not len(self.expanded):
            return np.asarray(embedded)
        phi, root = features[..., self.expanded], scale[self.expanded]
        embedded[..., self.expanded] = np.cos(phi) * root
        return np.concatenate([embedded, np.sin(phi) * root], axis=-1)

    def matrix(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Kernel matrix between feature vectors, shapes ``(m, n_features)`` and ``(n, n_features)`` to ``(m, n)``."""
        return self.value(self.squared_distances(x, y))

    def value(self, s: FloatArray) -> FloatArray:
        """The kernel as a function of the scaled squared distance."""
        return self.kernel.value(s)

    def slope(self, s: FloatArray) -> FloatArray:
        """dk/ds."""
        return self.kernel.slope(s)

    def curvature(self, s: FloatArray) -> FloatArray:
        """d2k/ds2."""
        return self.kernel.curvature(s)

    def embed_jacobian(self, features: FloatArray, jacobian: FloatArray) -> FloatArray:
        """Derivatives of the embedded coordinates by the positions.

        Parameters
        ----------
        features, jacobian
            Features, shape ``(m, n_features)``, and their derivatives, shape ``(m, n_features, n_atoms, 3)``.

        Returns
        -------
        FloatArray
            Shape ``(m, n_embedded, n_atoms, 3)``.
        """
        scaled = jacobian * np.sqrt(self.theta)[:, None, None]
        if not len(self.expanded):
            return np.asarray(scaled)
        phi = features[:, self.expanded][:, :, None, None]
        rows = scaled[:, self.expanded].copy()
        scaled[:, self.expanded] = -np.sin(phi) * rows
        return np.concatenate([scaled, np.cos(phi) * rows], axis=1)

    def gradient(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Derivative of ``matrix(x, y)`` by the features ``x``, shape ``(m, n, n_features)``.  Plain and slow."""
        difference = self.differences(x, y)
        by_embedded = 2.0 * self.slope((difference**2).sum(-1))[..., None] * difference
        n = len(self.theta)
        scale = np.sqrt(self.theta)
        gradient = by_embedded[..., :n] * scale
        phi = self.expanded
        if len(phi):
            cosine, sine = np.cos(x[:, None, phi]), np.sin(x[:, None, phi])
            gradient[..., phi] = scale[phi] * (by_embedded[..., n:] * cosine - by_embedded[..., phi] * sine)
        return np.asarray(gradient)

    def differences(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Embedded ``x`` minus embedded ``y``, wrapped by the periods, shape ``(m, n, n_embedded)``."""
        difference = self.embed(x)[:, None, :] - self.embed(y)[None, :, :]
        period = self.periods()
        wraps = period > 0
        if wraps.any():
            part = difference[..., wraps]
            difference[..., wraps] = part - period[wraps] * np.floor(part / period[wraps] + 0.5)
        return np.asarray(difference)

    def squared_distances(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Scaled squared distances between feature vectors, shape ``(m, n)``."""
        if self.azimuth == "rbf-cyclic":
            return np.asarray((self.differences(x, y) ** 2).sum(-1))
        return np.asarray(cdist(self.embed(x), self.embed(y), "sqeuclidean"))

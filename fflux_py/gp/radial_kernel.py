r"""Radial kernels: correlations as functions of the scaled squared distance alone.

With :math:`s = \sum_h \theta_h d_h^2` (:mod:`fflux_py.gp.covariance`) and k(0) = 1,

- squared exponential: :math:`k = e^{-s}`,
- Matern-5/2: :math:`k = (1 + \sqrt5 r + 5 r^2/3) e^{-\sqrt5 r}`, :math:`r^2 = 2 s`  (so that
  :math:`\theta = 1/(2 l^2)` in both),
- rational quadratic: :math:`k = (1 + s/\alpha)^{-\alpha}` with :math:`\alpha = 2`, a mixture of squared exponentials of
  many lengths (Rasmussen and Williams 2006, eq. 4.19).  Where s is small it is :math:`1 - s`, as the squared
  exponential is; where s is large it falls as :math:`s^{-2}`, so a model reaches further beyond its data.

Each is one :class:`RadialKernel` in :data:`KERNELS`, and has a counterpart of the same code in
:mod:`fflux_py._compiled.radial_kernels`.  With these two it works in training, dynamics, model files and predictive
deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from fflux_py._compiled import radial_kernels as codes
from fflux_py.errors import InputError
from fflux_py.typing import FloatArray


@dataclass(frozen=True)
class RadialKernel:
    r"""A correlation k(s) of two values at the scaled squared distance s, with k(0) = 1.

    Parameters
    ----------
    name
        As in ``fflux train --kernel`` and in model files.
    code
        Number of the kernel in compiled code (:mod:`fflux_py._compiled.radial_kernels`).
    value, slope, curvature
        k, dk/ds and d2k/ds2 as functions of an array of non-negative s, of the array's shape.  All three are finite at
        s = 0, so that forces have a covariance.
    factorises
        Whether :math:`k(s + t) = k(s)\,k(t)`, as for :math:`e^{-s}` only: then dk/ds = -k, and the sum over the
        permutations of a rotor factorises (:mod:`fflux_py._compiled.covariances`).
    """

    name: str
    code: int
    value: Callable[[FloatArray], FloatArray]
    slope: Callable[[FloatArray], FloatArray]
    curvature: Callable[[FloatArray], FloatArray]
    factorises: bool = False


def _exponential(s: FloatArray) -> FloatArray:
    return np.asarray(np.exp(-s))


def _minus_exponential(s: FloatArray) -> FloatArray:
    return np.asarray(-np.exp(-s))


SQUARED_EXPONENTIAL: Final = RadialKernel(
    "squared-exponential", codes.SQUARED_EXPONENTIAL, _exponential, _minus_exponential, _exponential, factorises=True
)


def _matern52(s: FloatArray) -> FloatArray:
    root = np.sqrt(10.0 * s)
    return np.asarray((1.0 + root + root * root / 3.0) * np.exp(-root))


def _matern52_slope(s: FloatArray) -> FloatArray:
    root = np.sqrt(10.0 * s)
    return np.asarray(-(5.0 / 3.0) * (1.0 + root) * np.exp(-root))


def _matern52_curvature(s: FloatArray) -> FloatArray:
    return np.asarray((25.0 / 3.0) * np.exp(-np.sqrt(10.0 * s)))


MATERN52: Final = RadialKernel("matern52", codes.MATERN52, _matern52, _matern52_slope, _matern52_curvature)


def _rational_quadratic(s: FloatArray) -> FloatArray:
    return np.asarray((1.0 + 0.5 * s) ** -2)


def _rational_quadratic_slope(s: FloatArray) -> FloatArray:
    return np.asarray(-((1.0 + 0.5 * s) ** -3))


def _rational_quadratic_curvature(s: FloatArray) -> FloatArray:
    return np.asarray(1.5 * (1.0 + 0.5 * s) ** -4)


RATIONAL_QUADRATIC: Final = RadialKernel(
    "rational-quadratic",
    codes.RATIONAL_QUADRATIC,
    _rational_quadratic,
    _rational_quadratic_slope,
    _rational_quadratic_curvature,
)


def _matern72(s: FloatArray) -> FloatArray:
    root = np.sqrt(14.0 * s)
    return np.asarray((1.0 + root * (1.0 + root * (0.4 + root / 15.0))) * np.exp(-root))


def _matern72_slope(s: FloatArray) -> FloatArray:
    root = np.sqrt(14.0 * s)
    return np.asarray(-1.4 * (1.0 + root * (1.0 + root / 3.0)) * np.exp(-root))


def _matern72_curvature(s: FloatArray) -> FloatArray:
    root = np.sqrt(14.0 * s)
    return np.asarray((49.0 / 15.0) * (1.0 + root) * np.exp(-root))


MATERN72: Final = RadialKernel("matern72", codes.MATERN72, _matern72, _matern72_slope, _matern72_curvature)

KERNELS: Final[Mapping[str, RadialKernel]] = MappingProxyType(
    {kernel.name: kernel for kernel in (SQUARED_EXPONENTIAL, MATERN52, RATIONAL_QUADRATIC, MATERN72)}
)
"""All radial kernels by their names."""


def radial_kernel(name: str) -> RadialKernel:
    """The kernel with this name.

    Raises
    ------
    InputError
        There is none.
    """
    if name not in KERNELS:
        raise InputError("kernel", f"one of {', '.join(KERNELS)}", repr(name))
    return KERNELS[name]

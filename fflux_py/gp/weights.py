r"""The weights of one atom's training points: in the plain basis, in the derivative basis, and for a polynomial mean.

A prior mean :math:`\mu` is a choice after training, since the weights are solved once for the energies less a centre
and once for a unit mean: :math:`w(\mu) = w_y - (\mu - c)\, w_1` (:mod:`fflux_py.gp.prior_mean`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fflux_py.errors import InputError
from fflux_py.gp.polynomial_mean import PolynomialMean
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray, IntArray


@dataclass(frozen=True)
class Weights:
    r"""What all kinds of weights have in common.

    Parameters
    ----------
    w_y, w_1
        :math:`(K + \nu I)^{-1} (y - c)` (hartree) and :math:`(K + \nu I)^{-1} 1`, shape ``(n_train,)``.
    centre
        The mean c (hartree) at which the weights are w_y.
    """

    w_y: FloatArray
    w_1: FloatArray
    centre: float

    def __post_init__(self) -> None:
        for name in self._arrays():
            object.__setattr__(self, name, read_only(getattr(self, name)))
            shape = getattr(self, name).shape
            if shape[:1] != self.w_y.shape:
                raise InputError(f"atomic model, weights {name}", f"{len(self.w_y)} rows, as of w_y", f"shape {shape}")

    def _arrays(self) -> tuple[str, ...]:
        """Names of the arrays with one row for each training point."""
        return ("w_y", "w_1")

    @property
    def unit_slopes(self) -> FloatArray | None:
        """Slopes for a unit mean, shape ``(n_train, n_embedded)``; None in the plain basis."""
        return None

    def for_mean(self, mean: float) -> FloatArray:
        """Weights w for a prior mean in hartree: hartree, shape ``(n_train,)``."""
        return np.asarray(self.w_y - (mean - self.centre) * self.w_1)

    def slopes_for_mean(self, mean: float) -> FloatArray | None:
        """Slopes u for a prior mean in hartree: hartree, ``(n_train, n_embedded)``; None in the plain basis."""
        return None

    def for_constant_mean(self) -> Weights:
        """The weights for a prior mean that is a constant: these, unless they belong to a polynomial mean."""
        return self

    def permuted(self, orders: IntArray) -> Weights:
        """Weights of all points in all orders of their features, order by order (:func:`permute_columns`)."""
        times = len(orders)
        return PlainWeights(np.tile(self.w_y, times), np.tile(self.w_1, times), self.centre)


@dataclass(frozen=True)
class PlainWeights(Weights):
    """Weights of a model of atomic energies with a constant prior mean: every point carries a number."""


@dataclass(frozen=True)
class DerivativeWeights(Weights):
    r"""Weights of a joint fit (:mod:`fflux_py.gp.joint_fit`): every point carries a number and a vector of slopes.

    The slopes add :math:`\sum_i u_i \cdot \partial_{z'} k(z, z')|_{z_i}` to the energy, z the embedded features.

    Parameters
    ----------
    w_y, w_1, centre
        As of :class:`Weights`.
    u_y, u_1
        Slopes for the data (hartree) and for a unit mean, shape ``(n_train, n_embedded)``.
    """

    u_y: FloatArray
    u_1: FloatArray

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.u_y.ndim != 2 or self.u_y.shape != self.u_1.shape:
            found = f"shapes {self.u_y.shape} and {self.u_1.shape}"
            raise InputError("atomic model, slopes u_y and u_1", "one shape (n_train, n_embedded)", found)

    def _arrays(self) -> tuple[str, ...]:
        return ("w_y", "w_1", "u_y", "u_1")

    @property
    def unit_slopes(self) -> FloatArray:
        """Slopes for a unit mean, shape ``(n_train, n_embedded)``."""
        return self.u_1

    def slopes_for_mean(self, mean: float) -> FloatArray:
        """Slopes u for a prior mean in hartree: hartree, shape ``(n_train, n_embedded)``."""
        return np.asarray(self.u_y - (mean - self.centre) * self.u_1)

    def permuted(self, orders: IntArray) -> DerivativeWeights:
        """Weights and slopes of all points in all orders of their features, order by order."""
        plain = super().permuted(orders)
        u_y, u_1 = (permute_columns(u, orders) for u in (self.u_y, self.u_1))
        return DerivativeWeights(plain.w_y, plain.w_1, self.centre, u_y, u_1)


@dataclass(frozen=True)
class PolynomialWeights(Weights):
    """Weights of a model of atomic energies with the prior mean ``linear`` or ``quadratic``.

    Parameters
    ----------
    w_y, w_1, centre
        As of :class:`Weights`: the way back to a constant mean.
    polynomial
        The part of the mean that is not constant (:mod:`fflux_py.gp.polynomial_mean`).
    w_m
        The weights that go with the whole mean, hartree, shape ``(n_train,)``.
    """

    polynomial: PolynomialMean
    w_m: FloatArray

    def _arrays(self) -> tuple[str, ...]:
        return ("w_y", "w_1", "w_m")

    def for_mean(self, mean: float) -> FloatArray:
        """The weights of the polynomial mean, whose constant ``mean`` was fitted with them."""
        return self.w_m

    def for_constant_mean(self) -> PlainWeights:
        """The weights for a prior mean that is a constant."""
        return PlainWeights(self.w_y, self.w_1, self.centre)

    def permuted(self, orders: IntArray) -> PolynomialWeights:
        """Weights of all points in all orders of their features, order by order."""
        plain = super().permuted(orders)
        return PolynomialWeights(plain.w_y, plain.w_1, self.centre, self.polynomial, np.tile(self.w_m, len(orders)))


def permute_columns(values: FloatArray, orders: IntArray) -> FloatArray:
    """Rows of ``values`` in every order of columns, order by order."""
    return np.asarray(np.swapaxes(values[:, orders], 0, 1).reshape(-1, values.shape[1]))

r"""Prior means that are polynomials in the embedded features: ``linear`` and ``quadratic`` (universal kriging).

With t the embedded features of the training points (:meth:`fflux_py.gp.covariance.Covariance.embed`), centred and
scaled by their spread, the basis is :math:`h = (1, t_1 \ldots t_d)` for a linear mean and :math:`(1, t, t^2)`, without
mixed terms, for a quadratic one.  The coefficients are those of generalised least squares,

.. math:: \beta = (H^T K^{-1} H)^{-1} H^T K^{-1} y, \qquad E = h^T \beta + k^T K^{-1} (y - H \beta)

(Rasmussen and Williams 2006, section 2.7).  Columns that the data do not tell apart (the components of a unit vector,
of which the squares add up to one) share their coefficient in the way of least norm, which leaves all values as they
are.

A polynomial has no bound: where the features leave the data it goes on as it left them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from fflux_py.errors import InputError
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray

Degree = Literal[1, 2]
DEGREES: Final[dict[str, Degree]] = {"linear": 1, "quadratic": 2}
_RANK: Final = 1e-9
_SMALLEST_SPREAD: Final = 1e-12


@dataclass(frozen=True)
class PolynomialMean:
    r"""A mean :math:`h(z)^T \beta` of embedded features z.

    Parameters
    ----------
    degree
        1 (linear) or 2 (quadratic, without mixed terms).
    centre, scale
        Of the embedded features, shape ``(d,)``; a scale of zero leaves the feature out.
    coefficients
        :math:`\beta` in hartree, shape ``(1 + degree * d,)``: constant, linear, quadratic.
    """

    degree: Degree
    centre: FloatArray
    scale: FloatArray
    coefficients: FloatArray

    def __post_init__(self) -> None:
        for name in ("centre", "scale", "coefficients"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
        if self.degree not in (1, 2):
            raise InputError("polynomial mean", "degree 1 or 2", str(self.degree))
        d = len(self.centre)
        if self.scale.shape != (d,) or self.coefficients.shape != (1 + self.degree * d,):
            found = f"{self.scale.shape} and {self.coefficients.shape}"
            raise InputError("polynomial mean", f"{d} scales and {1 + self.degree * d} coefficients", found)

    def value(self, z: FloatArray) -> FloatArray:
        """The mean in hartree, shape ``(m,)``, at embedded features, shape ``(m, d)``."""
        return np.asarray(basis(z, self.degree, self.centre, self.scale) @ self.coefficients)

    def monomials(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Centre c, and the coefficients of z - c and of its square, hartree; each of shape ``(d,)``."""
        d, inverse = len(self.centre), _inverse(self.scale)
        square = self.coefficients[1 + d :] * inverse**2 if self.degree == 2 else np.zeros(d)
        return self.centre, self.coefficients[1 : 1 + d] * inverse, square

    def gradient(self, z: FloatArray) -> FloatArray:
        """Its derivative by the embedded features, hartree, shape ``(m, d)``."""
        d, inverse = len(self.centre), _inverse(self.scale)
        slope = np.broadcast_to(self.coefficients[1 : 1 + d] * inverse, np.shape(z)).copy()
        if self.degree == 2:
            slope += 2.0 * self.coefficients[1 + d :] * inverse**2 * (z - self.centre)
        return slope


def basis(z: FloatArray, degree: Degree, centre: FloatArray, scale: FloatArray) -> FloatArray:
    """Basis functions at embedded features ``(m, d)``, shape ``(m, 1 + degree * d)``."""
    t = (z - centre) * _inverse(scale)
    powers = [np.ones((len(t), 1)), t] + ([t * t] if degree == 2 else [])
    return np.hstack(powers)


def fit(degree: Degree, z: FloatArray, y: FloatArray, factor: FloatArray) -> tuple[PolynomialMean, FloatArray]:
    r"""Coefficients by generalised least squares, and the weights that go with them.

    Parameters
    ----------
    degree
        1 or 2.
    z, y
        Embedded features, shape ``(n, d)``, and energies in hartree, shape ``(n,)``.
    factor
        Lower Cholesky factor of :math:`K + \nu I`, shape ``(n, n)``.

    Returns
    -------
    mean, weights
        The polynomial, and :math:`(K + \nu I)^{-1} (y - H \beta)`, shape ``(n,)``.

    Raises
    ------
    InputError
        Not more points than coefficients.
    """
    centre = z.mean(axis=0)
    scale = z.std(axis=0)
    scale[scale < _SMALLEST_SPREAD * max(float(np.abs(z).max()), 1e-300)] = 0.0
    n_coefficients = 1 + degree * int((scale > 0.0).sum())
    if len(y) <= n_coefficients:
        raise InputError(
            "polynomial mean",
            f"more training points than coefficients ({n_coefficients})",
            f"{len(y)} training points",
            "choose a constant mean, or train on more geometries",
        )
    columns = basis(z, degree, centre, scale)
    shift = float(y.mean())  # energies of atoms are large and nearly equal: fit what differs
    whitened = solve_triangular(factor, np.column_stack([columns, y - shift]), lower=True)
    coefficients = np.linalg.lstsq(whitened[:, :-1], whitened[:, -1], rcond=_RANK)[0]
    weights = cho_solve((factor, True), y - shift - columns @ coefficients)
    coefficients[0] += shift
    return PolynomialMean(degree, centre, scale, coefficients), np.asarray(weights)


def _inverse(scale: FloatArray) -> FloatArray:
    """One over the scale; zero where the feature is left out."""
    return np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0.0)

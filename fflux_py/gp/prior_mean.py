r"""Prior means: the constant that an atom's energy returns to where the data end.

MF1 to MF5 are the five that the field's trainer offers; which formula stands behind each name is our reading of the
published description and is meant so here:

========  ==================================================================
MF1       zero
MF2       mean of the training energies
MF3       median of the training energies
MF4       max + kappa (max - min), kappa 5
MF5       energy of the isolated atom at the labels' level of theory
========  ==================================================================

Besides: ``max``, ``mean+k*range`` (for example ``mean+2*range``), ``gls`` (generalised least squares,
:math:`1^T K^{-1} y / 1^T K^{-1} 1`) and ``constant:VALUE`` (hartree).

The weights are solved once for the centred energies and once for a vector of ones, so a mean is a choice *after*
training: with :math:`E(f) = \bar y + \delta + k^T (w_y - \delta w_1)`, :math:`\delta = \mu - \bar y`.  Its gradient by
the features is zero, so a mean acts on forces only through the weights.  Far from the data k vanishes and E is mu;
inside, :math:`s = k^T w_1` is close to one and E does not depend on mu.  But s overshoots one between sparse data, and
there a high mean digs wells: always relabel visited frames.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.typing import FloatArray

POLYNOMIALS: Final = ("linear", "quadratic")
"""Means of models of atomic energies only (:mod:`fflux_py.gp.polynomial_mean`)."""
NAMES: Final = ("MF1", "MF2", "MF3", "MF4", "MF5", "max", "mean+K*range", "gls", "constant:VALUE", *POLYNOMIALS)
KAPPA: Final = 5.0
_RANGE = re.compile(r"mean\+(?P<k>\d+(?:\.\d*)?)\*range")
_CONSTANT = re.compile(r"constant:(?P<value>[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)")


def check_name(name: str) -> None:
    """Refuse a prior mean that does not exist."""
    fixed = ("MF1", "MF2", "MF3", "MF4", "MF5", "max", "gls", *POLYNOMIALS)
    if name not in fixed and not _RANGE.fullmatch(name) and not _CONSTANT.fullmatch(name):
        raise InputError("prior mean", f"one of {', '.join(NAMES)}", repr(name))


def prior_mean(
    name: str,
    energies: FloatArray,
    isolated: float | None = None,
    w_y: FloatArray | None = None,
    w_1: FloatArray | None = None,
) -> float:
    r"""The constant mu (hartree) of one atom.

    Parameters
    ----------
    name
        One of :data:`NAMES`.
    energies
        The atom's training energies in hartree, shape ``(n_train,)``; NaN where a geometry has no partition.
    isolated
        Energy of the isolated atom, needed by MF5.
    w_y, w_1
        :math:`K^{-1} (y - \bar y)` and :math:`K^{-1} 1`, needed by ``gls``.

    Raises
    ------
    InputError
        An unknown name, or MF5 without isolated-atom energies in the data set.
    """
    check_name(name)
    if name in POLYNOMIALS:
        raise InputError(
            f"prior mean {name}", "a model of atomic energies only", "a fit with forces",
            "train with --no-forces, or choose a constant mean",
        )  # fmt: skip
    energies = energies[np.isfinite(energies)]
    if not len(energies):
        raise InputError(f"prior mean {name}", "at least one atomic energy", "none", "label with a partition")
    low, high, mean = float(energies.min()), float(energies.max()), float(energies.mean())
    simple = {
        "MF1": 0.0,
        "MF2": mean,
        "MF3": float(np.median(energies)),
        "MF4": high + KAPPA * (high - low),
        "max": high,
    }
    if name in simple:
        return simple[name]
    if name == "MF5":
        if isolated is None:
            raise InputError(
                "prior mean MF5",
                "isolated-atom energies in the data set (keys isolated_energy_<element>)",
                "none for this element",
                "label again with 'fflux label', or choose another mean",
            )
        return isolated
    if name == "gls":
        if w_y is None or w_1 is None:
            raise InputError("prior mean gls", "a model with w_y and w_1", "none")
        return mean + float(w_y.sum() / w_1.sum())
    match = _RANGE.fullmatch(name)
    if match:
        return mean + float(match["k"]) * (high - low)
    constant = _CONSTANT.fullmatch(name)
    assert constant is not None
    return float(constant["value"])

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.typing import FloatArray

POLYNOMIALS: Final = ("linear", "quadratic")
"""Means of models of atomic energies only (:mod:`fflux_py.gp.polynomial_mean`)."""
KAPPA: Final = 5.0


@dataclass(frozen=True)
class MeanData:
    r"""What a constant prior mean of one atom is made of.

    Parameters
    ----------
    energies
        The atom's training energies in hartree, shape ``(n,)``, at least one, all finite.
    isolated
        Energy of the isolated atom, hartree.
    w_y, w_1
        :math:`K^{-1} (y - \bar y)` and :math:`K^{-1} 1`.
    number
        The number in the name, such as 2 in ``mean+2*range``; zero where there is none.
    """

    energies: FloatArray
    isolated: float | None = None
    w_y: FloatArray | None = None
    w_1: FloatArray | None = None
    number: float = 0.0


@dataclass(frozen=True)
class ConstantMean:
    """A prior mean that is a constant.

    Parameters
    ----------
    name
        As users write it; a word in capitals stands for a number if there is a ``number``.
    value
        The constant in hartree.
    number
        Pattern of the whole name, with the number as its only group; None: the name is fixed.
    needs_isolated
        Whether it needs the energy of the isolated atom.
    """

    name: str
    value: Callable[[MeanData], float]
    number: re.Pattern[str] | None = None
    needs_isolated: bool = False


def _range(data: MeanData) -> float:
    return float(data.energies.max()) - float(data.energies.min())


def _isolated(data: MeanData) -> float:
    if data.isolated is None:
        raise InputError(
            "prior mean MF5",
            "isolated-atom energies in the data set (keys isolated_energy_<element>)",
            "none for this element",
            "label again with 'fflux label', or choose another mean",
        )
    return data.isolated


def _generalised_least_squares(data: MeanData) -> float:
    if data.w_y is None or data.w_1 is None:
        raise InputError("prior mean gls", "a model with w_y and w_1", "none")
    return float(data.energies.mean()) + float(data.w_y.sum() / data.w_1.sum())


MEANS: Final = (
    ConstantMean("MF1", lambda data: 0.0),
    ConstantMean("MF2", lambda data: float(data.energies.mean())),
    ConstantMean("MF3", lambda data: float(np.median(data.energies))),
    ConstantMean("MF4", lambda data: float(data.energies.max()) + KAPPA * _range(data)),
    ConstantMean("MF5", _isolated, needs_isolated=True),
    ConstantMean("max", lambda data: float(data.energies.max())),
    ConstantMean(
        "mean+K*range",
        lambda data: float(data.energies.mean()) + data.number * _range(data),
        re.compile(r"mean\+(\d+(?:\.\d*)?)\*range"),
    ),
    ConstantMean("gls", _generalised_least_squares),
    ConstantMean(
        "constant:VALUE", lambda data: data.number, re.compile(r"constant:([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)")
    ),
)
"""All prior means that are constants."""
NAMES: Final = (*(mean.name for mean in MEANS), *POLYNOMIALS)


def check_name(name: str) -> None:
    """Refuse a prior mean that does not exist."""
    if name not in POLYNOMIALS:
        _constant_mean(name)


def needs_isolated(name: str) -> bool:
    """Whether a prior mean needs the energies of the isolated atoms."""
    return name not in POLYNOMIALS and _constant_mean(name)[0].needs_isolated


def _constant_mean(name: str) -> tuple[ConstantMean, float]:
    """A mean by its name, and the number in the name."""
    for mean in MEANS:
        if mean.number is None:
            if mean.name == name:
                return mean, 0.0
        elif match := mean.number.fullmatch(name):
            return mean, float(match[1])
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
    mean, number = _constant_mean(name)
    return mean.value(MeanData(energies, isolated, w_y, w_1, number))

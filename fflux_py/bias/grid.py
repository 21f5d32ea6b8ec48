"""Regular grids in the space of collective variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.bias.collective_variables import CollectiveVariable
from fflux_py.errors import InputError
from fflux_py.typing import FloatArray

MOST_POINTS: Final = 20_000_000


@dataclass(frozen=True)
class Grid:
    """Limits and bins of every variable: radian, bohr.

    A torsion goes round the whole circle from -pi to pi and has as many points as bins; other variables have one
    more, both limits included.

    Parameters
    ----------
    variables
        The variables, k of them.
    minima, maxima
        Limits, one for each variable.
    bins
        Number of bins of each variable.
    """

    variables: tuple[CollectiveVariable, ...]
    minima: tuple[float, ...]
    maxima: tuple[float, ...]
    bins: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("variables", "minima", "maxima", "bins"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != len(self.variables):
                raise InputError(f"grid {name}", f"{len(self.variables)} entries", str(len(getattr(self, name))))
        for variable, low, high, bins in zip(self.variables, self.minima, self.maxima, self.bins, strict=True):
            where = f"grid of {variable.label}"
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise InputError(where, "a lower limit below the upper one", f"{low:g} to {high:g}")
            if bins < 2:
                raise InputError(where, "at least 2 bins", str(bins))
            if bins > MOST_POINTS:
                raise InputError(where, f"at most {MOST_POINTS} bins", "more", "give a larger spacing")
            if variable.period and max(abs(low + np.pi), abs(high - np.pi)) > 1e-6:
                raise InputError(where, "the whole circle, -pi to pi", f"{low:g} to {high:g}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of points of each variable."""
        return tuple(b if v.period else b + 1 for v, b in zip(self.variables, self.bins, strict=True))

    @property
    def spacings(self) -> FloatArray:
        """Distance between two points of each variable, ``(k,)``."""
        return np.asarray((np.array(self.maxima) - np.array(self.minima)) / np.array(self.bins))

    def points(self, k: int) -> FloatArray:
        """Points of variable ``k``."""
        return np.asarray(self.minima[k] + self.spacings[k] * np.arange(self.shape[k]))

    def weights(self) -> FloatArray:
        """Weights of an integral over the grid (trapezoidal rule), of its shape."""
        total = np.ones(())
        for k, variable in enumerate(self.variables):
            line = np.full(self.shape[k], self.spacings[k])
            if not variable.period:
                line[[0, -1]] *= 0.5
            total = total[..., None] * line
        return total

    def split(self) -> tuple[Grid, ...]:
        """One grid for each variable."""
        columns = zip(self.variables, self.minima, self.maxima, self.bins, strict=True)
        return tuple(Grid((v,), (low,), (high,), (bins,)) for v, low, high, bins in columns)


def grid_around(
    variables: Sequence[CollectiveVariable],
    sigmas: Sequence[float],
    limits: Sequence[tuple[float, float] | None] | None = None,
    bins_per_sigma: float = 5.0,
) -> Grid:
    """A grid fine enough for hills of width ``sigmas``; a fifth of sigma as in PLUMED.

    Parameters
    ----------
    limits
        Lower and upper limit of each variable; None for a torsion.
    """
    limits = limits or [None] * len(variables)
    low, high, bins = [], [], []
    for variable, sigma, limit in zip(variables, sigmas, limits, strict=True):
        if variable.period:
            limit = (-np.pi, np.pi)
        if limit is None:
            raise InputError(f"grid of {variable.label}", "limits, as it is no torsion", "none", "give its limits")
        low.append(float(limit[0]))
        high.append(float(limit[1]))
        bins.append(int(np.ceil(bins_per_sigma * (high[-1] - low[-1]) / sigma)))
    return Grid(tuple(variables), tuple(low), tuple(high), tuple(bins))


def check_size(shape: Sequence[int]) -> None:
    """Refuse a grid that would not fit the memory."""
    if np.prod(np.array(shape, dtype=np.float64)) > MOST_POINTS:
        found = " x ".join(str(n) for n in shape)
        raise InputError("grid", f"at most {MOST_POINTS} points", found, "bias fewer variables, or one by one")

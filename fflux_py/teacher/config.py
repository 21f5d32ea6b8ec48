"""Settings of a teaching."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fflux_py.errors import InputError
from fflux_py.units import KCAL_MOL


@dataclass(frozen=True, kw_only=True)
class TeachingConfig:
    """How a mean is taught; every setting is checked when the object is made.

    Parameters
    ----------
    minutes
        Processor time of all: labels, training and dynamics.
    labels
        Most labelled geometries before the first training.
    round_labels
        Most labelled geometries of each round of the network's own dynamics.
    rounds
        Rounds of own dynamics.
    force_error
        Mean absolute error of a force component on frames of the network's own dynamics at 1000 K, kcal/mol/angstrom,
        below which no further round is made, and above which the result is called rough.
    ceiling
        Highest energy of a geometry above the relaxed start, hartree; 200 kcal/mol.
    scalars, vectors, hidden
        Sizes of the network: sums over neighbours, sums of unit vectors, units of a layer (a multiple of four).
    seed
        Of all random numbers.
    """

    minutes: float = 10.0
    labels: int = 6000
    round_labels: int = 2000
    rounds: int = 2
    force_error: float = 1.0
    ceiling: float = 200.0 / KCAL_MOL
    scalars: int = 24
    vectors: int = 12
    hidden: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("minutes", "force_error", "ceiling"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise InputError(name, "a positive number", f"{value:g}")
        for name, least in (("labels", 100), ("round_labels", 20), ("scalars", 1), ("vectors", 1), ("hidden", 4)):
            if getattr(self, name) < least:
                raise InputError(name, f"at least {least}", str(getattr(self, name)))
        if self.rounds < 0 or self.seed < 0:
            raise InputError("rounds, seed", "numbers that are not negative", f"{self.rounds}, {self.seed}")
        if self.hidden % 4:
            raise InputError("hidden", "a multiple of four", str(self.hidden))

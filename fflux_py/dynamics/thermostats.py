"""The thermostats that a run can have: names, defaults, and the tables that the compiled loop takes.

What a thermostat does in a step stands in :mod:`fflux_py.dynamics._integrator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.typing import FloatArray

# Codes in compiled code.  A code is never changed or used again: numba keeps what it compiled with the number in it.
NONE: Final = 0
NOSE_HOOVER: Final = 1
RESCALING: Final = 2
LANGEVIN: Final = 3

DEFAULT_THERMOSTAT: Final = "langevin"
"""What every command and every function takes unless it is told otherwise.

Friction and noise act on every atom by itself, so that each vibration has the temperature after a few relaxation times.
A single Nose-Hoover chain acts on all velocities by one factor: in a small stiff molecule at 300 K its stretches, which
hardly exchange energy with anything, keep for hundreds of picoseconds what they began with
(``benchmarks/dynamics/equipartition.py``).
"""

SUZUKI_YOSHIDA_ORDERS: Final = (1, 3, 5, 7)


@dataclass(frozen=True)
class Thermostat:
    """A thermostat.

    Parameters
    ----------
    name
        As in :class:`fflux_py.dynamics.config.MDConfig`, on the command line and in files.
    code
        The number that stands for it in compiled code.
    relaxation_time
        Default relaxation time in femtosecond.
    description
        In words, for reports; ``{chain_length}`` and ``{relaxation_time:g}`` are those of the run.
    """

    name: str
    code: int
    relaxation_time: float
    description: str


_ALL: Final = (
    Thermostat("nose-hoover", NOSE_HOOVER, 20.0,
               "Nosé–Hoover chain of {chain_length}, relaxation time {relaxation_time:g} fs"),
    Thermostat("velocity-rescaling", RESCALING, 100.0,
               "stochastic velocity rescaling, relaxation time {relaxation_time:g} fs"),
    Thermostat("langevin", LANGEVIN, 100.0, "Langevin dynamics (BAOAB), relaxation time {relaxation_time:g} fs"),
    Thermostat("none", NONE, 20.0, "no thermostat"),
)  # fmt: skip

THERMOSTATS: Final[Mapping[str, Thermostat]] = {thermostat.name: thermostat for thermostat in _ALL}
"""All thermostats by their names; ``"none"`` is the microcanonical ensemble."""


def suzuki_yoshida_weights(order: int) -> FloatArray:
    """Weights of the split into 1, 3, 5 or 7 factors, shape ``(order,)``; their sum is one.

    Suzuki, J. Math. Phys. 32, 400 (1991); Yoshida, Phys. Lett. A 150, 262 (1990), solution A of sixth order.
    """
    if order == 1:
        return np.ones(1)
    if order == 3:
        w = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
        return np.array([w, 1.0 - 2.0 * w, w])
    if order == 5:
        w = 1.0 / (4.0 - 4.0 ** (1.0 / 3.0))
        return np.array([w, w, 1.0 - 4.0 * w, w, w])
    outer = np.array([0.784513610477560, 0.235573213359357, -1.17767998417887])
    return np.concatenate([outer, [1.0 - 2.0 * outer.sum()], outer[::-1]])

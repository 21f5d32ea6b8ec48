"""What a molecular dynamics run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fflux_py.errors import InputError

THERMOSTATS: Final = ("nose-hoover", "none")
SUZUKI_YOSHIDA_ORDERS: Final = (1, 3, 5, 7)


@dataclass(frozen=True, kw_only=True)
class MDConfig:
    """Settings of a run; every one is checked when the object is made.

    Parameters
    ----------
    steps
        Number of time steps.
    temperature
        Temperature in kelvin: of the thermostat, and of the initial velocities.  Zero is allowed without a thermostat
        only (a start from rest).
    timestep
        Time step in femtosecond.  In velocity Verlet a vibration of angular frequency w has less kinetic than potential
        energy, by the factor 1 - (w timestep / 2)^2: 2 % less for a stretch of hydrogen (3300 cm^-1) at 0.5 fs, 10 %
        at 1 fs.  As a thermostat holds the kinetic energy, such a stretch is that much too hot.
    thermostat
        ``"nose-hoover"`` (chain; canonical) or ``"none"`` (microcanonical).
    relaxation_time
        Time tau of the thermostat in femtosecond.  It sets the masses of the chain, Q_1 = f kT tau^2 and
        Q_j = kT tau^2 with f degrees of freedom (Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635 (1992)).
    chain_length
        Number of thermostats in the chain.
    suzuki_yoshida_order
        Number of factors (1, 3, 5 or 7) into which the thermostat's part of a step is split.
    report_every
        Steps between two reports (a line of the thermo log, a frame of the trajectory).  Steps after the last multiple
        are run and end in the final state only, so that frames are always equally spaced.
    seed
        Seed of the initial velocities.
    replicas
        Number of independent runs from the same start; replica r draws its velocities from the stream (seed, r).
    exact_temperature
        Scale the initial velocities to ``temperature`` exactly.  By default they stay as drawn, which is what the
        canonical ensemble asks for; a microcanonical run at a wanted temperature is what the scaling is for.
    """

    steps: int
    temperature: float = 300.0
    timestep: float = 0.5
    thermostat: str = "nose-hoover"
    relaxation_time: float = 20.0
    chain_length: int = 4
    suzuki_yoshida_order: int = 3
    report_every: int = 10
    seed: int = 0
    replicas: int = 1
    exact_temperature: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("report_every", 1), ("chain_length", 1), ("replicas", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or value != int(value) or value < least:
                raise InputError(name, f"a whole number of at least {least}", repr(value))
            object.__setattr__(self, name, int(value))
        for name, unit in (("timestep", "fs"), ("relaxation_time", "fs"), ("temperature", "K")):
            value = float(getattr(self, name))
            zero_allowed = name == "temperature" and self.thermostat == "none"
            if not math.isfinite(value) or value < 0.0 or (value == 0.0 and not zero_allowed):
                raise InputError(name, f"a positive number of {unit}", f"{value:g} {unit}")
            object.__setattr__(self, name, value)
        if self.thermostat not in THERMOSTATS:
            raise InputError("thermostat", f"one of {', '.join(THERMOSTATS)}", repr(self.thermostat))
        if self.suzuki_yoshida_order not in SUZUKI_YOSHIDA_ORDERS:
            raise InputError(
                "suzuki_yoshida_order", "one of 1, 3, 5, 7 (factors of the split)", repr(self.suzuki_yoshida_order)
            )

    @property
    def n_reports(self) -> int:
        """Number of reports of a complete run, that of the start included."""
        return self.steps // self.report_every + 1

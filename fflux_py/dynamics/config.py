"""What a molecular dynamics run is asked to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fflux_py.dynamics.thermostats import DEFAULT_THERMOSTAT, SUZUKI_YOSHIDA_ORDERS, THERMOSTATS
from fflux_py.errors import InputError

ACTIONS: Final = ("off", "warn", "save", "stop")
LARGEST_HYDROGEN_MASS: Final = 4.5


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What the guards of a run look at, and what they do; every setting is checked when the object is made.

    Every action is one of ``"off"``, ``"warn"`` (the event is written into ``events.csv`` and told), ``"save"``
    (besides, the frame goes into ``flagged.extxyz``, for labelling) and ``"stop"`` (the replica ends; exit code of its
    own).  An energy or a coordinate that is not finite always stops.

    Parameters
    ----------
    bond, bond_shortest, bond_longest
        A bond leaves these multiples of its length in the model's reference geometry; every step.
    contact, contact_distance
        Two atoms come closer than this, angstrom; every step.
    conserved, conserved_jump
        The conserved quantity is further than this (kcal/mol) from its value at the last report; every step.
    features, features_margin
        A feature of a local frame lies outside the range of its training values, widened at both ends by this share of
        the range; every ``every`` steps.
    deviation, deviation_limit
        The predictive standard deviation of an atomic energy is larger than this, kcal/mol; every ``every`` steps.
    every
        Steps between two looks at features and deviations, which cost as much as some tens of steps.
    """

    bond: str = "stop"
    bond_shortest: float = 0.5
    bond_longest: float = 1.5
    contact: str = "stop"
    contact_distance: float = 0.6
    conserved: str = "warn"
    conserved_jump: float = 5.0
    features: str = "off"
    features_margin: float = 0.1
    deviation: str = "off"
    deviation_limit: float = 1.0
    every: int = 1000

    def __post_init__(self) -> None:
        for name in ("bond", "contact", "conserved", "features", "deviation"):
            if getattr(self, name) not in ACTIONS:
                raise InputError(f"guard {name}", f"one of {', '.join(ACTIONS)}", repr(getattr(self, name)))
        for name in ("bond_shortest", "contact_distance", "conserved_jump", "deviation_limit"):
            object.__setattr__(self, name, _positive(f"guards.{name}", getattr(self, name), ""))
        object.__setattr__(self, "features_margin", _positive("guards.features_margin", self.features_margin, "", True))
        if not (self.bond_shortest < 1.0 < self.bond_longest < math.inf):
            found = f"{self.bond_shortest:g} and {self.bond_longest:g}"
            raise InputError("guards.bond_shortest and bond_longest", "one number below 1 and one above", found)
        object.__setattr__(self, "every", _whole("guards.every", self.every, 1))

    @property
    def inspects(self) -> bool:
        """Whether the features or the deviations are looked at."""
        return self.features != "off" or self.deviation != "off"


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
        ``"langevin"`` (BAOAB, the default), ``"nose-hoover"`` (one chain of the whole kinetic energy) and
        ``"velocity-rescaling"`` (stochastic): all canonical, with the same degrees of freedom
        (:mod:`fflux_py.molecules.mechanics`), but the latter two bring heat into the molecule and not from one of its
        vibrations to another; or ``"none"`` (microcanonical).
    relaxation_time
        Time tau in femtosecond; 20 for the chain, 100 for the others if not given.  It sets the masses of the chain,
        Q_1 = f kT tau^2 and Q_j = kT tau^2 with f degrees of freedom (Martyna, Klein and Tuckerman, J. Chem. Phys. 97,
        2635 (1992)), the decay time of the kinetic energy in velocity rescaling, and the friction 1 / tau of Langevin
        dynamics.
    chain_length
        Number of thermostats in the chain.
    suzuki_yoshida_order
        Number of factors (1, 3, 5 or 7) into which the thermostat's part of a step is split.
    hydrogen_mass
        Mass of a hydrogen atom in dalton, taken from the heavy atom that it is bonded to (hydrogen mass repartitioning:
        Feenstra, Hess and Berendsen, J. Comput. Chem. 20, 786 (1999)); None leaves the masses as they are.  Averages
        over positions stay (but for the factor det I of :mod:`fflux_py.molecules.mechanics`), frequencies do not.
    report_every
        Steps between two reports (a line of the thermo log, a frame of the trajectory).  Steps after the last multiple
        are run and end in the final state only, so that frames are always equally spaced.
    checkpoint_every
        Steps between two checkpoints; each is written at the first report after as many steps.
    seed
        Seed of all random numbers.
    replicas
        Number of independent runs from the same start; replica r draws from the stream (seed, r).
    exact_temperature
        Scale the initial velocities to ``temperature`` exactly.  By default they stay as drawn, which is what the
        canonical ensemble asks for; a microcanonical run at a wanted temperature is what the scaling is for.
    guards
        What is watched.
    """

    steps: int
    temperature: float = 300.0
    timestep: float = 0.5
    thermostat: str = DEFAULT_THERMOSTAT
    relaxation_time: float | None = None
    chain_length: int = 4
    suzuki_yoshida_order: int = 3
    hydrogen_mass: float | None = None
    report_every: int = 10
    checkpoint_every: int = 5000
    seed: int = 0
    replicas: int = 1
    exact_temperature: bool = False
    guards: GuardConfig = field(default_factory=GuardConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "report_every", "checkpoint_every", "chain_length", "replicas"):
            object.__setattr__(self, name, _whole(name, getattr(self, name), 1))
        object.__setattr__(self, "seed", _whole("seed", self.seed, 0))
        if self.thermostat not in THERMOSTATS:
            raise InputError("thermostat", f"one of {', '.join(THERMOSTATS)}", repr(self.thermostat))
        if self.relaxation_time is None:
            object.__setattr__(self, "relaxation_time", THERMOSTATS[self.thermostat].relaxation_time)
        for name, unit in (("timestep", "fs"), ("relaxation_time", "fs"), ("temperature", "K")):
            zero_allowed = name == "temperature" and self.thermostat == "none"
            object.__setattr__(self, name, _positive(name, getattr(self, name), unit, zero_allowed))
        if self.suzuki_yoshida_order not in SUZUKI_YOSHIDA_ORDERS:
            raise InputError(
                "suzuki_yoshida_order", "one of 1, 3, 5, 7 (factors of the split)", repr(self.suzuki_yoshida_order)
            )
        if self.hydrogen_mass is not None:
            mass = float(self.hydrogen_mass)
            if not 1.0 <= mass <= LARGEST_HYDROGEN_MASS:
                found = f"{mass:g} Da"
                raise InputError("hydrogen_mass", f"1 to {LARGEST_HYDROGEN_MASS:g} Da", found)
            object.__setattr__(self, "hydrogen_mass", mass)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> MDConfig:
        """The settings that ``dataclasses.asdict`` made a dictionary of.

        Raises
        ------
        TypeError
            A key that is no setting.
        """
        settings = dict(record)
        guards = GuardConfig(**settings.pop("guards", {}))
        return cls(**settings, guards=guards)

    @property
    def n_reports(self) -> int:
        """Number of reports of a complete run, that of the start included."""
        return self.steps // self.report_every + 1


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not math.isfinite(value) or value != int(value) or value < least:
        raise InputError(name, f"a whole number of at least {least}", repr(value))
    return int(value)


def _positive(name: str, value: Any, unit: str, zero_allowed: bool = False) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0.0 or (number == 0.0 and not zero_allowed):
        expected = f"a positive number of {unit}" if unit else "a positive number"
        raise InputError(name, expected, f"{number:g} {unit}".strip())
    return number

"""Settings of active learning."""

from __future__ import annotations

from dataclasses import dataclass, field

from fflux_py.bias.plumed_input import parse_plumed_input
from fflux_py.certification import CertificationConfig, Limits
from fflux_py.dynamics.thermostats import DEFAULT_THERMOSTAT
from fflux_py.errors import InputError
from fflux_py.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class ImprovementConfig:
    """Settings of active learning.

    Parameters
    ----------
    temperatures
        Kelvin.
    replicas
        Runs at every temperature in every round.
    picoseconds
        Length of a run.
    timestep
        Femtosecond.
    hydrogen_mass
        As in :class:`~fflux_py.dynamics.MDConfig`.
    checks
        Frames, equally spaced, that are labelled at every temperature to assess the round's model, which has not seen
        them.
    batch
        Frames that are chosen to be learnt in every round.
    budget
        Labels that may be computed in all, checks included.
    candidates
        Visited frames of a round for which deviations are computed.
    bias
        Text of a PLUMED input (:mod:`fflux_py.bias.plumed_input`): in every round ``replicas`` runs more from every
        start, with this metadynamics, at its ``TEMP`` or the lowest temperature.  What they visit may be learnt; models
        are assessed by runs without bias only.
    rounds
        Most rounds.
    seed
        Seed of all random numbers; every round has its own runs.
    limits
        What ends the loop, as in a certification.
    training
        Settings of the trainings; those of the model
        (:func:`~fflux_py.active_learning.improvement.training_config_of`) if not given.
    """

    temperatures: tuple[float, ...] = (300.0, 500.0, 1000.0)
    replicas: int = 3
    picoseconds: float = 5.0
    timestep: float = 0.5
    hydrogen_mass: float | None = None
    checks: int = 5
    batch: int = 15
    budget: int = 100
    candidates: int = 300
    bias: str | None = None
    rounds: int = 20
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    training: TrainingConfig | None = None

    def __post_init__(self) -> None:
        for name in ("replicas", "checks", "batch", "candidates", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(name, "at least 1", str(getattr(self, name)))
        self.runs(1).md_config(self.biased_temperature)
        if self.budget < self.checks_of_a_round:
            raise InputError(
                "budget", f"at least {self.checks_of_a_round}, the checks of one round", str(self.budget),
                "check fewer frames or temperatures",
            )  # fmt: skip

    @property
    def checks_of_a_round(self) -> int:
        """Labels by which a model is assessed: those of visited frames, and its minimum."""
        return self.checks * len(self.temperatures) + 1

    @property
    def biased_temperature(self) -> float:
        """Temperature of the biased runs, kelvin."""
        temperature = None if self.bias is None else parse_plumed_input(self.bias, "bias").temperature
        return min(self.temperatures) if temperature is None else temperature

    def runs(self, number: int) -> CertificationConfig:
        """The runs of a round, counted from 1, as those of a certification."""
        return CertificationConfig(
            temperatures=self.temperatures,
            seeds=self.replicas,
            picoseconds=self.picoseconds,
            timestep=self.timestep,
            hydrogen_mass=self.hydrogen_mass,
            frames=self.checks,
            report_fs=10.0,
            thermostat=DEFAULT_THERMOSTAT,
            seed=self.seed + number,
            limits=self.limits,
        )

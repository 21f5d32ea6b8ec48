"""What a build is asked for, and the plan that is told before it begins."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from fflux_py.active_learning.config import ImprovementConfig
from fflux_py.certification import CertificationConfig, Limits
from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import read_json, write_atomically
from fflux_py.training import TrainingConfig

PLAN_FILE: Final = "plan.json"
_SCHEMA: Final = "fflux-build-plan-1"

CHEAP_LABEL_SECONDS: Final = 1.0
"""A label that takes less is cheap: a certificate then labels as many frames as the definition of a stable model."""

BUDGET: Final = 400
CHEAP_BUDGET: Final = 2000
"""Labels that a build may spend, if nothing else is said; cheap ones."""

_LABELLING_SHARE: Final = 0.7
# Bytes for an atom: of the result of a label, and of a frame of the runs.
_BYTES_OF_A_LABEL, _BYTES_OF_A_FRAME = 4000, 60


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Settings of :func:`fflux_py.active_learning.building.build`.

    Parameters
    ----------
    temperatures
        At which the model is to hold, kelvin.
    labels
        Labels that may be spent in all: pilot, rounds of improvement and certificates.  None: 400, or 2000 where a
        label takes less than a second.
    hours
        Wall time, of which 0.7 may go to labels: fewer labels than ``labels`` may follow.  None: no limit.
    pilot, held_out
        Geometries that are sampled with GFN2-xTB, for the first model and for testing.
    picoseconds
        Length of every run of a certificate.
    timestep
        Femtosecond.
    frames
        Visited frames that a certificate labels at every temperature.  None: 100 where a label takes less than a
        second, else 12.
    rounds
        Most rounds of active learning before a certificate.
    cycles
        Most certificates that are tried.
    seed
        Seed of all random numbers.
    limits
        What every certificate is held against.
    training
        Settings of all trainings; the defaults if not given.
    """

    temperatures: tuple[float, ...] = (300.0,)
    labels: int | None = None
    hours: float | None = None
    pilot: int = 60
    held_out: int = 20
    picoseconds: float = 50.0
    timestep: float = 0.5
    frames: int | None = None
    rounds: int = 20
    cycles: int = 4
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    training: TrainingConfig | None = None

    def __post_init__(self) -> None:
        for name, least in (("labels", 1), ("pilot", 10), ("held_out", 2), ("frames", 1), ("rounds", 1), ("cycles", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(name, f"at least {least}", str(value))
        if self.hours is not None and not (math.isfinite(self.hours) and self.hours > 0.0):
            raise InputError("hours", "a positive number", str(self.hours))
        self.certificate(1, 1)

    @property
    def sampled_temperatures(self) -> tuple[float, ...]:
        """Temperatures of the pilot's trajectories: those asked for, and one half as hot again, at least 500 K."""
        return tuple(sorted({*self.temperatures, max(500.0, 1.5 * max(self.temperatures))}))

    def improvement(self, cycle: int, budget: int) -> ImprovementConfig:
        """Rounds of active learning of a cycle, counted from 1; runs become longer with every cycle."""
        return ImprovementConfig(
            temperatures=self.temperatures,
            picoseconds=min(self.picoseconds, 5.0 * 2 ** (cycle - 1)),
            timestep=self.timestep,
            budget=budget,
            rounds=self.rounds,
            seed=self.seed + 1000 * cycle,
            limits=self.limits,
            training=self.training,
        )

    def certificate(self, cycle: int, frames: int) -> CertificationConfig:
        """The certificate at the end of a cycle."""
        return CertificationConfig(
            temperatures=self.temperatures,
            picoseconds=self.picoseconds,
            timestep=self.timestep,
            frames=frames,
            seed=self.seed + 1000 * cycle,
            limits=self.limits,
        )


@dataclass(frozen=True)
class BuildPlan:
    """What a build will do.

    Parameters
    ----------
    molecule, n_atoms
        The molecule.
    reference
        Level of theory of the labels.
    seconds_per_label
        Of the start geometry, labelled to see.
    labels
        Labels that may be spent.
    sampled
        Geometries to sample and label at first; 0 if the labels are there.
    frames
        Visited frames that a certificate labels at every temperature.
    """

    molecule: str
    n_atoms: int
    reference: str
    seconds_per_label: float
    labels: int
    sampled: int
    frames: int

    @property
    def label_hours(self) -> float:
        """Hours of one process for all labels, at most."""
        return self.labels * self.seconds_per_label / 3600.0

    def disk_mb(self, config: BuildConfig) -> float:
        """Megabytes that labels and runs of all cycles take, at most."""
        certificate = config.certificate(1, self.frames)
        frames = certificate.seeds * len(config.temperatures) * 1000.0 * config.picoseconds / certificate.report_fs
        bytes_of_an_atom = self.labels * _BYTES_OF_A_LABEL + config.cycles * frames * _BYTES_OF_A_FRAME
        return self.n_atoms * bytes_of_an_atom / 1e6

    def write(self, folder: Path) -> None:
        """Write ``plan.json``: the measured time of a label is kept, so that a build that is killed goes on alike."""
        write_atomically(folder / PLAN_FILE, json.dumps({"schema": _SCHEMA, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> BuildPlan:
        """Read the plan of a build.

        Raises
        ------
        FileFormatError
            There is none, or no whole one.
        """
        path = folder / PLAN_FILE
        content: dict[str, Any] = read_json(path, "give the folder of 'fflux build'")
        try:
            if content.pop("schema") != _SCHEMA:
                raise KeyError("schema")
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise FileFormatError(str(path), f"the plan of a build ({_SCHEMA})", str(error)) from error


def allowed_labels(config: BuildConfig, seconds_per_label: float, workers: int) -> int:
    """Labels that budget and time allow.

    Raises
    ------
    InputError
        Fewer than pilot, tests and one certificate take.
    """
    least = config.pilot + config.held_out + 4 * config.improvement(1, 10**9).checks_of_a_round
    standard = CHEAP_BUDGET if seconds_per_label < CHEAP_LABEL_SECONDS else BUDGET
    allowed = standard if config.labels is None else config.labels
    if config.hours is not None:
        allowed = min(allowed, int(_LABELLING_SHARE * 3600.0 * config.hours * workers / seconds_per_label))
    if allowed < least:
        raise InputError(
            "labels or hours", f"{least} labels at least", f"{allowed} of {seconds_per_label:.3g} s each",
            "allow more, or ask for fewer temperatures or a smaller pilot",
        )  # fmt: skip
    return allowed

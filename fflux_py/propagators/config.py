"""Training of propagators: settings here, the loop in :mod:`fflux_py.propagators._torch.training`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fflux_py.errors import InputError
from fflux_py.propagators.propagator import KINDS, Propagator, optional_module
from fflux_py.propagators.trajectories import TrajectorySet

Progress = Callable[[int, int], None]

SIZES: Final[Mapping[str, Mapping[str, int]]] = {
    "direct": {"width": 24, "layers": 3, "hidden": 512}, "continuous": {"width": 48, "layers": 2, "hidden": 512},
    "action": {"width": 64},
}  # fmt: skip
"""Default sizes of the networks."""

RATES: Final[Mapping[str, float]] = {"direct": 1e-3, "continuous": 1e-3, "action": 2e-3}
"""Default learning rates at the start."""


@dataclass(frozen=True, kw_only=True)
class PropagatorTraining:
    """How a propagator is trained; every setting is checked when the object is made.

    Parameters
    ----------
    kind
        ``"direct"``, ``"continuous"`` or ``"action"``.
    step
        Time of a step in femtosecond; of a continuous one the longest time, 10 fs at most.
    minutes
        Time of the training, that before a checkpoint included.
    updates
        End after so many updates of the weights, if that comes first; None leaves it to the time.
    batch, learning_rate, width, layers
        Of the optimiser (SOAP, the rate falls with a cosine to zero over the training) and the network; None is the
        default of the kind.
    hidden
        Width of the perceptron in local frames by which direct and continuous predictors start; it has four fifths
        of the training, and batches and a rate of its own.  0 leaves it out; 0 layers leave out the network after it.
    temperature
        Kelvin; the unit of velocities inside the network.
    reversible
        For an action: even in the momenta.  False is a negative control.
    seed
        Of the initial weights and of the order of the data.
    """

    kind: str
    step: float
    minutes: float = 30.0
    updates: int | None = None
    batch: int = 64
    learning_rate: float | None = None
    width: int | None = None
    layers: int | None = None
    hidden: int | None = None
    temperature: float = 300.0
    reversible: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError("kind", f"one of {', '.join(KINDS)}", repr(self.kind))
        rate = RATES[self.kind] if self.learning_rate is None else self.learning_rate
        object.__setattr__(self, "learning_rate", rate)
        positive = ("step", self.step), ("minutes", self.minutes), ("learning_rate", rate), ("K", self.temperature)
        for name, value in positive:
            if not (math.isfinite(value) and value > 0.0):
                raise InputError(name, "a positive number", f"{value:g}")
        if self.kind == "continuous" and self.step > LONGEST_SEGMENT:
            raise InputError("step", f"at most {LONGEST_SEGMENT:g} fs for a continuous predictor", f"{self.step:g} fs")
        for name in ("updates", "batch", "width"):
            whole = getattr(self, name)
            if whole is not None and whole < 1:
                raise InputError(name, "at least 1", str(whole))
        if self.kind == "action" and self.layers is not None:
            raise InputError("layers", "no number for an action (its networks have two)", str(self.layers))
        if self.layers is not None and self.layers < 0:
            raise InputError("layers", "0 or more", str(self.layers))
        if self.layers == 0 and self.hidden == 0:
            raise InputError("layers", "at least 1 with hidden 0", "0", "leave out the network or the perceptron")
        if self.hidden is not None and (self.hidden < 0 or self.kind == "action"):
            raise InputError("hidden", "0 or more, and not for an action", str(self.hidden))
        if not self.reversible and self.kind != "action":
            raise InputError("reversible", "True (only an action can do without)", "False")

    @property
    def settings(self) -> dict[str, Any]:
        """Sizes of the network."""
        sizes: dict[str, Any] = dict(SIZES[self.kind])
        sizes.update({name: value for name in sizes if (value := getattr(self, name)) is not None})
        return sizes if self.kind != "action" else {**sizes, "even": self.reversible}


LONGEST_SEGMENT: Final = 10.0
"""Femtosecond; no longer segments for a continuous predictor: the phase of fast modes is what is hard to learn."""


def train_propagator(
    data: TrajectorySet,
    config: PropagatorTraining,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Propagator:
    """Train a propagator on trajectories.

    Parameters
    ----------
    data
        Trajectories with the masses that the propagator is for.
    config
        What is trained, and how long.
    checkpoint
        A file that is written every minute and at the end; if it is there, the training goes on from it.
    progress
        Called with (seconds done, all seconds).

    Returns
    -------
    The propagator; ``header.metadata`` holds its errors on the test trajectories.

    Raises
    ------
    ModelMismatchError
        The data have no such step; the checkpoint is of another training.
    MissingDependencyError
        torch, e3nn, safetensors or pytorch_optimizer are not installed.
    """
    return optional_module("training").train(data, config, checkpoint, progress)  # type: ignore[no-any-return]


def held_out_errors(propagator: Propagator, data: TrajectorySet, split: str = "test") -> dict[str, float]:
    """Errors of single steps on held-out trajectories.

    Returns
    -------
    ``position_rms_pm`` and ``position_largest_pm`` (of all coordinates), ``velocity_relative`` and
    ``displacement_relative``: root mean square errors over those of velocity and displacement, mass-weighted.
    """
    return optional_module("training").step_errors(propagator, data, split)  # type: ignore[no-any-return]

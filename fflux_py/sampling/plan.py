"""The plan of a sampling: which trajectories run, how long, and how many frames of them are kept."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fflux_py.errors import InputError
from fflux_py.sampling.metadynamics import HillParameters
from fflux_py.units import FEMTOSECOND, KCAL_MOL

BiasKind = Literal["none", "torsions"]


@dataclass(frozen=True)
class TrajectoryClass:
    """Trajectories of one kind, and how many frames to keep of them.

    Parameters
    ----------
    temperature
        Kelvin.
    bias
        ``"none"`` or ``"torsions"`` (well-tempered metadynamics on every torsion of the molecule).
    train_trajectories, test_trajectories
        Number of trajectories of each split.
    train_time, test_time
        Length of one trajectory without equilibration, atomic units of time.
    train_frames, test_frames
        Frames to keep of all trajectories of the split together.
    """

    temperature: float
    bias: BiasKind
    train_trajectories: int
    train_time: float
    train_frames: int
    test_trajectories: int
    test_time: float
    test_frames: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0.0):
            raise InputError("temperature", "a positive number of kelvin", str(self.temperature))
        if self.bias not in ("none", "torsions"):
            raise InputError("bias", "'none' or 'torsions'", repr(self.bias))
        for split in ("train", "test"):
            trajectories, frames = getattr(self, f"{split}_trajectories"), getattr(self, f"{split}_frames")
            if trajectories < 0 or frames < 0 or (trajectories > 0) != (frames > 0) or frames < trajectories:
                raise InputError(f"{split} frames", "at least one frame of every trajectory, or none of both",
                                 f"{frames} frames of {trajectories} trajectories")  # fmt: skip

    @property
    def label(self) -> str:
        """Name of the class in the names of its trajectories."""
        return f"{'wtmetad' if self.bias == 'torsions' else 'nvt'}-{self.temperature:g}K"


def standard_classes(
    temperatures: Sequence[float] = (300.0, 500.0, 1000.0),
    bias_temperatures: Sequence[float] = (300.0, 500.0),
    train_frames: int = 500,
    test_frames: int = 220,
) -> tuple[TrajectoryClass, ...]:
    """Classes with lengths that fit the number of frames wanted.

    Training frames are shared equally.  A biased class gets a third of an unbiased one's test frames, because the
    figures of interest are averages over the unbiased ensembles.  Each unbiased class runs two trajectories for a
    split, each biased class one.  One in six (unbiased) or eight (biased) of the frames at 10 fs is kept for
    training; test frames are 100 or 200 fs apart.  No trajectory is shorter than 1 ps.

    Parameters
    ----------
    temperatures
        Of the unbiased classes, kelvin.
    bias_temperatures
        Of the classes with metadynamics on the torsions, kelvin; empty for a molecule without torsions.
    train_frames, test_frames
        Frames of all classes together; 0 for none.
    """
    kinds: list[tuple[float, BiasKind]] = [(float(t), "none") for t in temperatures]
    kinds += [(float(t), "torsions") for t in bias_temperatures]
    if not kinds:
        raise InputError("temperatures", "at least one temperature", "none")
    train = _shares(train_frames, [1] * len(kinds))
    test = _shares(test_frames, [3 if bias == "none" else 1 for _, bias in kinds])
    classes = []
    for (temperature, bias), n_train, n_test in zip(kinds, train, test, strict=True):
        if not (n_train or n_test):
            continue
        runs, per_train, per_test = (2, 60.0, 100.0) if bias == "none" else (1, 80.0, 200.0)
        lengths = []
        for frames, spacing in ((n_train, per_train), (n_test, per_test)):
            trajectories = min(runs, frames)
            longest = -(-frames // max(trajectories, 1))
            lengths.append((trajectories, max(1000.0, spacing * longest) / FEMTOSECOND, frames))
        classes.append(TrajectoryClass(temperature, bias, *lengths[0], *lengths[1]))
    return tuple(classes)


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``weights``, without a remainder."""
    edges = [round(total * sum(weights[:k]) / sum(weights)) for k in range(len(weights) + 1)]
    return [high - low for low, high in itertools.pairwise(edges)]


@dataclass(frozen=True)
class SamplingConfig:
    """The whole plan.  The defaults suit a small molecule: 500 frames for training and 220 for testing.

    Parameters
    ----------
    classes
        Kinds of trajectories; :func:`standard_classes` makes them for other temperatures and numbers of frames.
    seed
        Seed of everything.
    timestep, friction
        Langevin step (atomic units of time) and friction (inverse); 0.5 fs and 0.01/fs.
    stride
        Steps between two frames to choose from, and between two checks of the bonds.
    equilibration
        Unbiased time before each trajectory, atomic units; 0.5 ps.
    test_spacing
        Smallest time between two test frames, atomic units; 100 fs.
    hills
        Hills of the metadynamics; 1 kcal/mol, 0.35 rad, bias factor 20, one every 20 fs.
    max_restarts
        How often one trajectory that reacts starts again from another seed before sampling gives up.
    """

    classes: tuple[TrajectoryClass, ...] = field(default_factory=standard_classes)
    seed: int = 1
    timestep: float = 0.5 / FEMTOSECOND
    friction: float = 0.01 * FEMTOSECOND
    stride: int = 20
    equilibration: float = 500.0 / FEMTOSECOND
    test_spacing: float = 100.0 / FEMTOSECOND
    hills: HillParameters = field(default_factory=lambda: HillParameters(1.0 / KCAL_MOL, 0.35, 20.0, 40))
    max_restarts: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if not any(c.train_frames or c.test_frames for c in self.classes):
            raise InputError("classes", "at least one class of trajectories with frames to keep", "none")
        if len({c.label for c in self.classes}) != len(self.classes):
            raise InputError("classes", "one class for each temperature and bias", str([c.label for c in self.classes]))
        if self.seed < 0:
            raise InputError("seed", "a number that is not negative", str(self.seed))
        if self.max_restarts < 0:
            raise InputError("max_restarts", "a number that is not negative", str(self.max_restarts))
        for name in ("timestep", "friction", "stride", "equilibration"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(name, "a positive number", str(getattr(self, name)))
        for c in self.classes:
            self._check_lengths(c)

    def _check_lengths(self, c: TrajectoryClass) -> None:
        frame = self.stride * self.timestep
        remedy = "run longer or more trajectories, or ask for fewer frames"
        available = c.train_trajectories * self.steps(c.train_time) // self.stride
        if c.train_frames > available:
            raise InputError(f"{c.label}, train_frames", f"at most {available} frames", str(c.train_frames), remedy)
        if c.test_frames:
            most = -(-c.test_frames // c.test_trajectories)
            spacing = self.steps(c.test_time) // self.stride // most * frame
            if spacing < self.test_spacing * (1.0 - 1e-9):
                raise InputError(
                    f"{c.label}, test_frames", f"test frames at least {self.test_spacing * FEMTOSECOND:g} fs apart",
                    f"{spacing * FEMTOSECOND:g} fs", remedy)  # fmt: skip

    def steps(self, time: float) -> int:
        """Whole number of steps in ``time`` (atomic units)."""
        return round(time / self.timestep)

    def settings(self) -> dict[str, str | int | float]:
        """The plan in words and numbers, for the header of the file."""
        classes = []
        for c in self.classes:
            parts = [
                f"{split} {trajectories} x {time * FEMTOSECOND:.0f} fs {frames} frames"
                for split, trajectories, time, frames in (
                    ("train", c.train_trajectories, c.train_time, c.train_frames),
                    ("test", c.test_trajectories, c.test_time, c.test_frames),
                )
                if trajectories
            ]
            classes.append(f"{c.label}: {', '.join(parts)}")
        settings: dict[str, str | int | float] = {
            "sampling_plan": "; ".join(classes),
            "sampling_seed": self.seed,
            "sampling_timestep_fs": round(self.timestep * FEMTOSECOND, 9),
            "sampling_friction_per_fs": round(self.friction / FEMTOSECOND, 9),
            "sampling_equilibration_fs": round(self.equilibration * FEMTOSECOND, 6),
            "sampling_frame_interval_fs": round(self.stride * self.timestep * FEMTOSECOND, 6),
        }
        if any(c.bias == "torsions" for c in self.classes):
            hills = self.hills
            settings["sampling_hills"] = (
                f"{hills.height * KCAL_MOL:.6g} kcal/mol, {hills.sigma:g} rad, bias factor {hills.bias_factor:g}, "
                f"every {hills.pace * self.timestep * FEMTOSECOND:.6g} fs"
            )
        return settings

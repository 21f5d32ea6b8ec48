"""The plan of a sampling: which trajectories run, how long, and how many frames of them are kept."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fflux_py.bias import BiasSettings, CollectiveVariable, HillParameters
from fflux_py.errors import InputError
from fflux_py.molecules.molecule import Molecule, Torsion
from fflux_py.sampling.distortions import DistortionConfig
from fflux_py.units import FEMTOSECOND, KCAL_MOL

BiasKind = Literal["none", "torsions", "variables"]
_MOST_JOINT = 2
"""A joint bias on more torsions than this does not fill in the time of a sampling; each gets its own."""


@dataclass(frozen=True)
class TrajectoryClass:
    """Trajectories of one kind, and how many frames to keep of them.

    Parameters
    ----------
    temperature
        Kelvin.
    bias
        ``"none"``, ``"torsions"`` (well-tempered metadynamics on the torsions of the plan) or ``"variables"`` (on the
        collective variables of the plan's ``bias``).
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
        if self.bias not in ("none", "torsions", "variables"):
            raise InputError("bias", "'none', 'torsions' or 'variables'", repr(self.bias))
        for split in ("train", "test"):
            trajectories, frames = getattr(self, f"{split}_trajectories"), getattr(self, f"{split}_frames")
            if trajectories < 0 or frames < 0 or (trajectories > 0) != (frames > 0) or frames < trajectories:
                raise InputError(f"{split} frames", "at least one frame of every trajectory, or none of both",
                                 f"{frames} frames of {trajectories} trajectories")  # fmt: skip

    @property
    def label(self) -> str:
        """Name of the class in the names of its trajectories."""
        return f"{'nvt' if self.bias == 'none' else 'wtmetad'}-{self.temperature:g}K"


def standard_classes(
    temperatures: Sequence[float] = (300.0, 500.0, 1000.0),
    bias_temperatures: Sequence[float] = (300.0, 500.0),
    train_frames: int = 500,
    test_frames: int = 220,
    bias: BiasKind = "torsions",
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
    bias
        What the biased classes bias: ``"torsions"`` or ``"variables"``.
    """
    kinds: list[tuple[float, BiasKind]] = [(float(t), "none") for t in temperatures]
    kinds += [(float(t), bias) for t in bias_temperatures]
    if not kinds:
        raise InputError("temperatures", "at least one temperature", "none")
    train = _shares(train_frames, [1] * len(kinds))
    test = _shares(test_frames, [3 if kind == "none" else 1 for _, kind in kinds])
    classes = []
    for (temperature, kind), n_train, n_test in zip(kinds, train, test, strict=True):
        if not (n_train or n_test):
            continue
        runs, per_train, per_test = (2, 60.0, 100.0) if kind == "none" else (1, 80.0, 200.0)
        lengths = []
        for frames, spacing in ((n_train, per_train), (n_test, per_test)):
            trajectories = min(runs, frames)
            longest = -(-frames // max(trajectories, 1))
            lengths.append((trajectories, max(1000.0, spacing * longest) / FEMTOSECOND, frames))
        classes.append(TrajectoryClass(temperature, kind, *lengths[0], *lengths[1]))
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
        Hills of the metadynamics on torsions; 1 kcal/mol, 0.35 rad, bias factor 20, one every 20 fs.
    max_restarts
        How often one trajectory that reacts starts again from another seed before sampling gives up.
    torsions
        Atom indices (from 0) of the torsions to bias; ``None`` for those of all rotatable single bonds but the axes
        of methyl groups, ``molecule.torsions(methyl=False)``.  Random conformers turn these and all other rotatable
        bonds.
    parallel
        Whether every torsion has a bias of its own (PBMETAD); by default from three torsions on, because a joint bias
        on many does not fill.
    bias
        The bias of the classes ``"variables"``, on any torsions, angles and distances.
    distortions
        Distorted geometries to add; None for none.
    minima
        Whether to add the relaxed conformers, each minimum once.
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
    torsions: tuple[Torsion, ...] | None = None
    parallel: bool | None = None
    bias: BiasSettings | None = None
    distortions: DistortionConfig | None = None
    minima: bool = False

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
        if self.torsions is not None:
            object.__setattr__(self, "torsions", tuple(self.torsions))
            if not self.torsions:
                raise InputError("torsions", "at least one torsion, or None for all rotatable bonds", "none")
        if self.bias is None and any(c.bias == "variables" for c in self.classes):
            raise InputError("bias", "variables to bias", "none", "set the plan's bias")
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

    def biased_torsions(self, molecule: Molecule) -> tuple[Torsion, ...]:
        """The torsions of ``molecule`` that are biased.

        Raises
        ------
        InputError
            If a torsion of the plan is not four successive bonded atoms of the molecule, or has a nearly straight
            angle, or if two are one.
        """
        if self.torsions is None:
            return molecule.torsions(methyl=False)
        seen: set[Torsion] = set()
        for atoms in self.torsions:
            name = "torsion " + "-".join(str(a + 1) for a in atoms)
            if len(set(atoms)) != 4 or not all(0 <= a < molecule.n_atoms for a in atoms):
                raise InputError(name, f"four different atoms from 1 to {molecule.n_atoms}", name.split()[1])
            for a, b in itertools.pairwise(atoms):
                if b not in molecule.neighbours[a]:
                    raise InputError(name, "four successive atoms with bonds between them",
                                     f"no bond {molecule.symbols[a]}{a + 1}-{molecule.symbols[b]}{b + 1}")  # fmt: skip
            if molecule.is_straight(*atoms[:3]) or molecule.is_straight(*atoms[1:]):
                raise InputError(name, "angles of its atoms below 165 degrees", "a larger one",
                                 "along a linear group there is no torsion: choose others")  # fmt: skip
            if atoms in seen or atoms[::-1] in seen:
                raise InputError("torsions", "every torsion once", f"{name} twice")
            seen.add(atoms)
        return self.torsions

    def bias_of(self, kind: BiasKind, molecule: Molecule) -> BiasSettings | None:
        """The bias of a class of trajectories of ``molecule``.

        Raises
        ------
        InputError
            If there is nothing to bias, or if a variable has atoms that the molecule does not have.
        """
        if kind == "none":
            return None
        if kind == "variables" and self.bias is not None:
            for variable in self.bias.variables:
                variable.check(molecule.n_atoms)
            return self.bias
        torsions = self.biased_torsions(molecule)
        if not torsions:
            found = f"{molecule.formula} without"
            raise InputError("bias 'torsions'", "a molecule with a torsion", found, "use 'none'")
        parallel = len(torsions) > _MOST_JOINT if self.parallel is None else self.parallel
        return BiasSettings(tuple(CollectiveVariable("torsion", atoms) for atoms in torsions), self.hills, parallel)

    def conformer_torsions(self, molecule: Molecule) -> tuple[Torsion, ...]:
        """The torsions that random conformers turn: every rotatable bond, and the plan's torsions outside rings."""
        torsions = list(molecule.torsions())
        axes = {frozenset(atoms[1:3]) for atoms in torsions}
        for atoms in self.torsions or ():
            if frozenset(atoms[1:3]) not in axes and not molecule.in_ring(*atoms[1:3]):
                axes.add(frozenset(atoms[1:3]))
                torsions.append(atoms)
        return tuple(torsions)

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
            settings["sampling_hills"] = self._hills_in_words(self.hills)
        if self.distortions is not None:
            settings.update(self.distortions.settings())
        return settings

    def bias_settings(self, molecule: Molecule) -> dict[str, str]:
        """What is biased, in words, for the header of the file."""
        settings: dict[str, str] = {}
        for kind in sorted({c.bias for c in self.classes}):
            bias = self.bias_of(kind, molecule)
            if bias is None:
                continue
            words = "one bias each" if bias.parallel else "joint" if len(bias.variables) > 1 else ""
            names = ", ".join("-".join(str(a + 1) for a in v.atoms) for v in bias.variables)
            settings[f"sampling_{kind}"] = f"{names}{f' ({words})' if words else ''}"
            if kind == "variables":
                settings["sampling_bias_hills"] = self._hills_in_words(bias.hills)
        return settings

    def _hills_in_words(self, hills: HillParameters) -> str:
        sigmas = hills.sigma if isinstance(hills.sigma, tuple) else (hills.sigma,)
        unit = "rad" if not isinstance(hills.sigma, tuple) else "rad or bohr"
        return (
            f"{hills.height * KCAL_MOL:.6g} kcal/mol, {' '.join(f'{s:g}' for s in sigmas)} {unit}, "
            f"bias factor {hills.bias_factor:g}, every {hills.pace * self.timestep * FEMTOSECOND:.6g} fs"
        )

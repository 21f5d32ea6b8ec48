"""Teaching: from a molecule to a mean that knows its bonds, torsions and contacts.

Labels of the cheap level at many geometries; training; rounds of the network's own dynamics, whose frames are labelled
and added, and show how wrong it is where it goes; training to the end; and a last look at its own dynamics, which is
what the file tells.  Nothing here imports torch but the module of the training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np

from fflux_py import __version__
from fflux_py._compiled.classical_terms import ClassicalTerms
from fflux_py._compiled.taught_mean import TaughtMeanArrays
from fflux_py.errors import InputError, MissingDependencyError
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.molecules.molecule import Molecule
from fflux_py.sampling.starts import relax
from fflux_py.teacher.classes import atom_classes
from fflux_py.teacher.classical import TermStructure, evaluate_terms, fit_terms
from fflux_py.teacher.config import TeachingConfig
from fflux_py.teacher.geometries import TEMPERATURES, Proposals, first_labels, own_frames
from fflux_py.teacher.labels import LEVEL, Labels, Level
from fflux_py.teacher.teacher_file import Teacher
from fflux_py.typing import FloatArray, Progress
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

# Shares of the time: the first labels, each round of own dynamics, the last look; the training has the rest, of which
# each round is preceded by a part.
_FIRST, _ROUND, _LAST = 0.28, 0.06, 0.03
_BEFORE_ROUND: Final = 0.22
_TERMS_FROM: Final = 1500
_TERMS_CEILING: Final = 150.0 / KCAL_MOL
_LAST_FRAMES: Final = 200
_FEWEST: Final = 50
_FEWEST_OWN: Final = 16


@dataclass(frozen=True)
class OwnErrors:
    """Errors of a network on frames of its own dynamics.

    Parameters
    ----------
    energy, force
        Mean absolute errors at each temperature of :data:`fflux_py.teacher.geometries.TEMPERATURES`: kcal/mol, without
        the mean of all, and kcal/mol/angstrom; NaN where there is no frame.
    frames
        Number of frames.
    outside
        Frames above the ceiling, or without a label.
    """

    energy: tuple[float, ...]
    force: tuple[float, ...]
    frames: int
    outside: int

    @property
    def force_at_1000(self) -> float:
        """That of forces at 1000 K, which decides."""
        return self.force[TEMPERATURES.index(1000.0)]

    def metadata(self) -> dict[str, float | None]:
        """For a file."""
        entries: dict[str, float | None] = {"own_frames": self.frames, "own_frames_outside": self.outside}
        for t, e, f in zip(TEMPERATURES, self.energy, self.force, strict=True):
            entries[f"own_energy_mae_kcal_mol_{t:.0f}K"] = round(e, 4) if np.isfinite(e) else None
            entries[f"own_force_mae_kcal_mol_angstrom_{t:.0f}K"] = round(f, 4) if np.isfinite(f) else None
        return entries


def teach(
    molecule: Molecule,
    config: TeachingConfig | None = None,
    progress: Progress | None = None,
    told: Callable[[str], None] | None = None,
) -> Teacher:
    """Teach a mean for a molecule.

    Parameters
    ----------
    molecule
        A geometry near a minimum; its bonds are those that the mean keeps.
    config
        Settings.
    progress
        Called with the seconds of processor time used, and all.
    told
        Called with lines about what was done.

    Raises
    ------
    MissingDependencyError
        torch, pytorch_optimizer or tblite are not installed.
    InputError
        An element without parameters, or too little time for labels.
    ConvergenceError
        A start that does not relax, or a training that diverges.
    """
    return _Teaching(molecule, config or TeachingConfig(), progress, told or (lambda line: None)).run()


class _Teaching:
    """The state of one teaching."""

    def __init__(
        self, molecule: Molecule, config: TeachingConfig, progress: Progress | None, told: Callable[[str], None]
    ) -> None:
        if molecule.n_atoms < 2:
            raise InputError("molecule", "two atoms or more", str(molecule.n_atoms))
        self._config, self._progress, self._told = config, progress, told
        self._begin, self._seconds = time.process_time(), 60.0 * config.minutes
        self._rng = np.random.default_rng(config.seed)
        self._torch: Any = _training_module()
        self._level = Level(molecule)
        self._molecule = relax(molecule, self._level)
        self._lowest = self._level.energy_and_forces(self._molecule.positions)[0]
        self._level.ceiling = self._lowest + config.ceiling
        self._proposals = Proposals(self._molecule, self._rng)

    def _report(self) -> None:
        if self._progress is not None:
            used = time.process_time() - self._begin
            self._progress(min(int(used), int(self._seconds)), int(self._seconds))

    def _time_left(self, share: float) -> Callable[[], float]:
        """Seconds that are left of a share of the whole, from now on."""
        end = time.process_time() + share * self._seconds

        def left() -> float:
            self._report()
            return end - time.process_time()

        return left

    def run(self) -> Teacher:
        config = self._config
        labels = first_labels(self._proposals, self._level, config.labels, self._time_left(_FIRST), self._rng)
        if len(labels) < _FEWEST:
            raise InputError("minutes", f"time for {_FEWEST} labels", f"{len(labels)} labels", "give more minutes")
        self._told(f"{len(labels)} labels of {self._level.calls} calls of {LEVEL}, {self._used():.0f} s")
        terms, constant = self._fit_terms(labels)
        # what is left of the time but for the rounds and the last look
        seconds = max(self._seconds * (1.0 - config.rounds * _ROUND - _LAST) - self._used(), 1.0)
        sizes = self._torch.Sizes(config.scalars, config.vectors, config.hidden)
        rest, heights = self._rest(labels, terms, constant), labels.energies - self._lowest
        training = self._torch.NetworkTraining(
            atom_classes(self._molecule), sizes, rest, heights, seconds, config.seed
        )  # fmt: skip
        spent, rounds = 0.0, 0
        for _ in range(config.rounds):
            training.train(_BEFORE_ROUND * seconds, self._report)
            spent += _BEFORE_ROUND * seconds
            mean = self._mean(training, terms, constant)
            new, errors = self._own(mean, config.round_labels, _ROUND)
            rounds += 1
            self._told(f"round {rounds}: {_words(errors)}; {self._used():.0f} s")
            training.add(self._rest(new, terms, constant), new.energies - self._lowest)
            labels = labels.joined(new)
            if errors.force_at_1000 < config.force_error:
                break
        training.train(max(seconds - spent, 0.0), self._report)
        mean = self._mean(training, terms, constant)
        _, errors = self._own(mean, _LAST_FRAMES, _LAST)
        self._told(f"in the end: {_words(errors)}; {training.updates} updates, {self._used():.0f} s")
        metadata = {
            "labels": len(labels), "level_calls": self._level.calls, "rounds": rounds, "updates": training.updates,
            "processor_minutes": round(self._used() / 60.0, 3), "seed": config.seed, "program": self._level.program,
            "torch": self._torch.VERSION, "fflux_py": __version__, **errors.metadata(),
        }  # fmt: skip
        return Teacher(self._molecule, mean, metadata)

    def _used(self) -> float:
        return time.process_time() - self._begin

    def _fit_terms(self, labels: Labels) -> tuple[ClassicalTerms, float]:
        low = np.flatnonzero(labels.energies - self._lowest < _TERMS_CEILING)
        chosen = labels.select(self._rng.permutation(low)[:_TERMS_FROM])
        structure = TermStructure.of(self._molecule, self._molecule.positions[None])
        return fit_terms(structure, chosen.positions, chosen.energies, chosen.forces)

    def _rest(self, labels: Labels, terms: ClassicalTerms, constant: float) -> Labels:
        """What the classical terms leave."""
        energies, forces = evaluate_terms(labels.positions, terms)
        return Labels(labels.positions, labels.energies - energies - constant, labels.forces - forces)

    def _mean(self, training: Any, terms: ClassicalTerms, constant: float) -> TaughtMean:
        network, shift = training.network.arrays()
        return TaughtMean(TaughtMeanArrays(terms, network, np.array([constant + shift])), LEVEL)

    def _own(self, mean: TaughtMean, count: int, share: float) -> tuple[Labels, OwnErrors]:
        """Labelled frames of the mean's own dynamics, and its errors there."""
        left = self._time_left(share)
        positions, temperatures = own_frames(mean, self._proposals, self._lowest, count, left, self._rng)
        order = self._rng.permutation(len(positions))[:count]
        rows, warm, outside = [], [], 0
        for n, k in enumerate(order):
            # dynamics and labels share the time about evenly; a few labels there are on the slowest machine
            if n >= _FEWEST_OWN and left() < -0.5 * share * self._seconds:
                break
            label = self._level.label(positions[k])
            if label is None:
                outside += 1
                continue
            rows.append(label)
            warm.append(temperatures[k])
        labels = Labels.stacked(rows, self._molecule.n_atoms)
        return labels, own_errors(mean, labels, np.array(warm), outside)


def own_errors(mean: TaughtMean, labels: Labels, temperatures: FloatArray, outside: int) -> OwnErrors:
    """Errors of a mean on labelled frames of its dynamics at some temperatures (kelvin)."""
    energies, forces = mean.energies_and_forces(labels.positions)
    error = (energies - labels.energies) * KCAL_MOL
    error = np.abs(error - (np.mean(error) if len(error) else 0.0))
    of_forces = np.abs(forces - labels.forces).mean(axis=(1, 2)) * KCAL_MOL_ANGSTROM
    groups = [temperatures == t for t in TEMPERATURES]
    return OwnErrors(
        energy=tuple(float(error[g].mean()) if g.any() else float("nan") for g in groups),
        force=tuple(float(of_forces[g].mean()) if g.any() else float("nan") for g in groups),
        frames=len(labels),
        outside=outside,
    )


def _words(errors: OwnErrors) -> str:
    parts = [f"{t:.0f} K {e:.2f}/{f:.2f}" for t, e, f in zip(TEMPERATURES, errors.energy, errors.force, strict=True)]
    return (
        f"{errors.frames} frames of its own dynamics (and {errors.outside} outside), energy/force MAE "
        f"{', '.join(parts)} kcal/mol, kcal/mol/angstrom"
    )


def _training_module() -> Any:
    """The module of the training, which needs torch.

    Raises
    ------
    MissingDependencyError
        torch or pytorch_optimizer are not installed.
    """
    try:
        return import_module("fflux_py.teacher._torch.training")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "teaching", "torch and pytorch_optimizer", f"no module {error.name!r}", "pip install 'fflux_py[teach]'"
        ) from error

"""Leaving out features without influence, and training geometries: faster forces, at an error that is measured.

The weights of a model belong to its features and geometries, and cancel each other: neither can just be struck out.
The joint fit is solved again without them, at the same length scales and variance (:mod:`fflux_py.training.refit`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import FeatureSet
from fflux_py.molecules.dataset import Dataset
from fflux_py.training.config import SolverSettings
from fflux_py.training.refit import features_left_out, refit, training_rows
from fflux_py.typing import IntArray, Progress, Stage, silent

# Features go only if they have no influence: a geometry less makes a step faster at less of an error.
_FEATURES_GROWTH: Final = 0.02
_SMALL_FIT: Final = 60
# Geometries of the first fit in the search for the fewest, and how near its last two are: by a tenth.
_FIRST: Final = 4
_NEAR: Final = 1.1


@dataclass(frozen=True)
class PruningConfig:
    """What a smaller model may cost, and what goes.

    Parameters
    ----------
    growth
        Largest growth of the mean absolute force error on the geometries to judge by, relative; without effect if
        ``n_train`` is given.
    n_train
        Training geometries to keep; None: as few as ``growth`` allows.
    leave_out
        Kinds of features to leave out (:attr:`~fflux_py.gp.features.FeatureSet.names`); None: those found to have no
        influence (:func:`find_idle_features`).
    n_fit
        Geometries of the small fits that show which features have no influence; None: 60, or two thirds of the training
        geometries if these are fewer.
    solver
        How the fits are solved.

    Raises
    ------
    InputError
        A growth that is negative or not a number, numbers below two, or ``n_fit`` where no features are looked for.
    """

    growth: float = 0.1
    n_train: int | None = None
    leave_out: tuple[str, ...] | None = None
    n_fit: int | None = None
    solver: SolverSettings = field(default_factory=SolverSettings)

    def __post_init__(self) -> None:
        if not 0.0 <= self.growth < math.inf:
            raise InputError("growth", "a number like 0.1", f"{self.growth:g}")
        for name, count in (("n_train", self.n_train), ("n_fit", self.n_fit)):
            if count is not None and count < 2:
                raise InputError(name, "at least two geometries", str(count))
        if self.n_fit is not None and self.leave_out is not None:
            raise InputError("n_fit", "features to be found", "leave_out, which says them", "leave one of them out")


@dataclass(frozen=True)
class PrunedModel:
    """A smaller model.

    Parameters
    ----------
    forcefield
        The model.
    criterion
        By what it was chosen, in words.
    """

    forcefield: ForceField
    criterion: str


def prune(
    forcefield: ForceField,
    dataset: Dataset,
    judges: IntArray,
    config: PruningConfig | None = None,
    stage: Stage = silent,
) -> PrunedModel:
    """Make a model smaller, and so faster: fewer features and training geometries.

    The joint fit is solved again without them, at the same length scales.

    Parameters
    ----------
    forcefield
        A joint fit.
    dataset
        Its training data, and the geometries to judge by.
    judges
        Rows of ``dataset`` that the number of training geometries is chosen by; none should be a training geometry.
    config
        What the model may cost, and what goes.
    stage
        Opens a stage of the work and gives its progress callback.

    Raises
    ------
    InputError
        A model of atomic energies only; data that do not contain its geometries; more geometries asked for than there
        are; nothing that could be left out; or more to leave out than the growth allows.
    """
    config = config or PruningConfig()
    indices = training_rows(forcefield, dataset)
    _check_counts(config, len(indices))
    dropped, which = config.leave_out, "features given"
    if dropped is None:
        n_fit = config.n_fit if config.n_fit is not None else min(_SMALL_FIT, 2 * len(indices) // 3)
        with stage("features without influence") as show:
            dropped = find_idle_features(forcefield, dataset, min(config.growth, _FEATURES_GROWTH), n_fit, show).dropped
        which = f"features without influence ({_FEATURES_GROWTH:g})"
    if config.n_train is not None:
        if config.n_train == len(indices) and set(dropped) <= set(features_left_out(forcefield)):
            raise InputError("n_train", f"fewer than {len(indices)}", str(config.n_train), "nothing else is left out")
        with stage(f"fit to {config.n_train} geometries"):
            kept = choose_evenly(indices, config.n_train)
            return PrunedModel(refit(forcefield, dataset, dropped, kept, config.solver), f"points and {which}")
    return PrunedModel(
        _prune_by_growth(forcefield, dataset, dropped, judges, config, stage),
        f"{_allowed(config)}, {which}, judged by {', '.join(trajectories(dataset, judges))}",
    )


def trajectories(dataset: Dataset, rows: IntArray) -> list[str]:
    """Trajectories that some geometries of a data set are of, in their order."""
    return list(dict.fromkeys(dataset.geometries.source[row] for row in rows))


def _check_counts(config: PruningConfig, available: int) -> None:
    """Refuse more geometries than the model was trained on."""
    if config.n_train is not None and config.n_train > available:
        expected = f"at most the {available} training geometries of the model"
        raise InputError("n_train", expected, str(config.n_train))
    if config.n_fit is not None and config.n_fit >= available:
        expected = f"fewer than the {available} training geometries of the model"
        raise InputError("n_fit", expected, str(config.n_fit))


def _allowed(config: PruningConfig) -> str:
    return f"growth of the force error by {config.growth:g} at most"


def _prune_by_growth(
    forcefield: ForceField,
    dataset: Dataset,
    dropped: tuple[str, ...],
    judges: IntArray,
    config: PruningConfig,
    stage: Stage,
) -> ForceField:
    """Find the fewest training geometries; without features where that is possible."""

    def find(kinds: Sequence[str]) -> ForceField | None:
        limit = (1.0 + config.growth) * force_error(forcefield, dataset, judges)
        with stage("fewest training geometries") as show:
            return find_fewest_geometries(forcefield, dataset, kinds, judges, limit, config.solver, show)

    smaller = find(dropped)
    if smaller is None and config.leave_out is None:  # what holds for small fits need not hold for the whole
        dropped = ()
        smaller = find(dropped)
    allowed = _allowed(config)
    if smaller is None:
        remedy = "allow more with growth, or leave out fewer"
        raise InputError("leave_out", allowed, f"more than that without {', '.join(dropped)}", remedy)
    if smaller is forcefield:
        remedy = "allow more with growth, or say how many with n_train"
        raise InputError("model", f"something to leave out at a {allowed}", "nothing", remedy)
    return smaller


@dataclass(frozen=True)
class IdleFeatures:
    """Kinds of features that can be left out, and what it costs.

    Parameters
    ----------
    dropped
        Kinds of features that are left out (:attr:`~fflux_py.gp.features.FeatureSet.names`).
    kept, total
        Features of a frame that are left, and all.
    error_before, error_after
        Mean absolute error of a force component on the geometries that were held out, of fits to ``n_fit`` geometries
        with all features and without the dropped ones, hartree/bohr.
    n_fit, n_held_out
        Geometries of these fits, and of the errors.
    """

    dropped: tuple[str, ...]
    kept: int
    total: int
    error_before: float
    error_after: float
    n_fit: int
    n_held_out: int


def find_idle_features(
    forcefield: ForceField,
    dataset: Dataset,
    tolerance: float = 0.02,
    n_fit: int = 60,
    progress: Progress | None = None,
) -> IdleFeatures:
    """Find the kinds of features that can be left out, by small fits.

    One after the other, those of which there are most first, while the force error grows by ``tolerance`` at most.

    Parameters
    ----------
    forcefield
        A joint fit, whose length scales are taken.
    dataset
        Its training data: ``n_fit`` of the geometries of the fit are fitted, the others are predicted.
    tolerance
        Largest growth of the mean absolute force error, relative.
    n_fit
        Geometries of the small fits on which this is decided.
    progress
        Called with the number of fits made and of all.

    Raises
    ------
    InputError
        A model of atomic energies only, or data that do not contain its geometries.
    """
    indices = training_rows(forcefield, dataset)
    if len(indices) <= n_fit:
        raise InputError("n_fit", f"fewer than the {len(indices)} geometries of the fit", str(n_fit))
    fitted = choose_evenly(indices, n_fit)
    held_out = indices[~np.isin(indices, fitted)]
    names = FeatureSet(forcefield.atoms[0].feature_kind, dataset.molecule.n_atoms).names
    kinds = list(dict.fromkeys(names))
    n_fits, done = 2 * len(kinds) + 1, 0

    def error(dropped: Sequence[str]) -> float:
        nonlocal done
        value = force_error(refit(forcefield, dataset, dropped, fitted), dataset, held_out)
        done += 1
        if progress is not None:
            progress(done, n_fits)
        return value

    before = error([])
    alone = {name: error([name]) for name in kinds}
    dropped: list[str] = []
    after = before
    for name in sorted(kinds, key=lambda name: (-names.count(name), alone[name])):
        if alone[name] > (1.0 + tolerance) * before:
            continue
        without = error([*dropped, name])
        if without <= (1.0 + tolerance) * before:
            dropped.append(name)
            after = without
    kept = sum(name not in dropped for name in names)
    if progress is not None:
        progress(n_fits, n_fits)
    return IdleFeatures(tuple(dropped), kept, len(names), before, after, n_fit, len(held_out))


def find_fewest_geometries(
    forcefield: ForceField,
    dataset: Dataset,
    dropped: Sequence[str],
    judges: IntArray,
    limit: float,
    settings: SolverSettings | None = None,
    progress: Progress | None = None,
) -> ForceField | None:
    """Find the fit to the fewest of the training geometries, evenly chosen, whose force error is within a limit.

    Numbers are doubled until one is enough, and the gap to the last one that was not is halved until it is a tenth.

    Parameters
    ----------
    forcefield
        A joint fit, whose length scales are taken.
    dataset
        Its training data, and the geometries to judge by.
    dropped
        Kinds of features to leave out (:attr:`~fflux_py.gp.features.FeatureSet.names`).
    judges
        Rows of ``dataset`` to judge by; none of them should be a training geometry.
    limit
        Largest mean absolute error of a force component, hartree/bohr.
    settings
        How to solve.
    progress
        Called with the number of fits made and of as many as there may be.

    Returns
    -------
    None if not even all geometries are enough; ``forcefield`` itself if it takes all and no other features go.
    """
    indices = training_rows(forcefield, dataset)
    most = len(indices)
    n_fits, done = int(np.ceil(np.log2(max(most / _FIRST, 1.0)))) + 4, 0

    def fit(count: int) -> ForceField | None:
        """The fit to so many geometries, if it is good enough."""
        nonlocal done
        if count == most and set(dropped) <= set(features_left_out(forcefield)):
            field = forcefield
        else:
            field = refit(forcefield, dataset, dropped, choose_evenly(indices, count), settings)
        done += 1
        if progress is not None:
            progress(min(done, n_fits), n_fits)
        return field if force_error(field, dataset, judges) <= limit else None

    too_few, enough = 0, min(_FIRST, most)
    best = fit(enough)
    while best is None:
        if enough == most:
            return None
        too_few, enough = enough, min(2 * enough, most)
        best = fit(enough)
    while too_few and enough - too_few > max((_NEAR - 1.0) * too_few, 1.0):
        middle = round(np.sqrt(too_few * enough))
        field = fit(middle)
        if field is None:
            too_few = middle
        else:
            best, enough = field, middle
    if progress is not None:
        progress(n_fits, n_fits)
    return best


def force_error(forcefield: ForceField, dataset: Dataset, rows: IntArray) -> float:
    """Mean absolute error of a force component on some geometries of a data set, hartree/bohr."""
    forces = forcefield.unmatched.compute(dataset.positions[rows])[1]
    assert forces is not None
    return float(np.abs(forces - dataset.forces[rows]).mean())


def choose_evenly(indices: IntArray, count: int) -> IntArray:
    """``count`` of the indices at even distances, from the first to the last: what was learnt last is among them."""
    return np.asarray(indices[np.linspace(0, len(indices) - 1, count).astype(int)])

"""Leaving out features without influence, and training geometries: faster forces, at an error that is measured.

The weights of a model belong to its features and geometries, and cancel each other: neither can just be struck out.
The joint fit is solved again without them, at the same length scales and variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import FeatureKind, directional
from fflux_py.gp.joint_atoms import joint_atoms, joint_frames
from fflux_py.gp.joint_covariance import JointData, JointModel
from fflux_py.molecules.dataset import Dataset
from fflux_py.training.joint_solver import SolverSettings, solve_system
from fflux_py.typing import FloatArray, IntArray

# Geometries of the first fit in the search for the fewest, and how near its last two are: by a tenth.
_FIRST: Final = 4
_NEAR: Final = 1.1
# Bohr between two copies of a geometry, one of which was written in angstrom.
_SAME: Final = 1e-8
_CALIBRATION: Final = "calibration_"


@dataclass(frozen=True)
class Pruning:
    """What can be left out, and what it costs.

    Parameters
    ----------
    dropped
        Kinds of features that are left out (:func:`feature_names`).
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


def feature_names(n_atoms: int, kind: FeatureKind) -> list[str]:
    """Kind of every feature of an atom: first and second bond, chi, and of the other atoms distance and direction."""
    other = ["distance", "x", "y", "z"] if directional(kind) else ["distance", "theta", "phi"]
    return ["first bond", "second bond", "chi", *(other * (n_atoms - 3))]


def prune(
    forcefield: ForceField,
    dataset: Dataset,
    tolerance: float = 0.02,
    n_fit: int = 60,
    progress: Callable[[int, int], None] | None = None,
) -> Pruning:
    """Find the kinds of features that can be left out.

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
    fitted = evenly(indices, n_fit)
    held_out = indices[~np.isin(indices, fitted)]
    names = feature_names(dataset.molecule.n_atoms, forcefield.atoms[0].feature_kind)
    kinds = list(dict.fromkeys(names))
    n_fits, done = 2 * len(kinds) + 1, 0

    def error(dropped: Sequence[str]) -> float:
        nonlocal done
        found = force_error(refit(forcefield, dataset, dropped, fitted), dataset, held_out)
        done += 1
        if progress is not None:
            progress(done, n_fits)
        return found

    before = error([])
    alone = {name: error([name]) for name in kinds}
    dropped: list[str] = []
    after = before
    for name in sorted(kinds, key=lambda name: (-names.count(name), alone[name])):
        if alone[name] > (1.0 + tolerance) * before:
            continue
        now = error([*dropped, name])
        if now <= (1.0 + tolerance) * before:
            dropped.append(name)
            after = now
    kept = sum(name not in dropped for name in names)
    if progress is not None:
        progress(n_fits, n_fits)
    return Pruning(tuple(dropped), kept, len(names), before, after, n_fit, len(held_out))


def fewest_points(
    forcefield: ForceField,
    dataset: Dataset,
    dropped: Sequence[str],
    judged: IntArray,
    limit: float,
    settings: SolverSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ForceField | None:
    """The fit to the fewest of the training geometries, evenly chosen, whose force error is within a limit.

    Numbers are doubled until one is enough, and the gap to the last one that was not is halved until it is a tenth.

    Parameters
    ----------
    forcefield
        A joint fit, whose length scales are taken.
    dataset
        Its training data, and the geometries to judge by.
    dropped
        Kinds of features to leave out (:func:`feature_names`).
    judged
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
            field = refit(forcefield, dataset, dropped, evenly(indices, count), settings)
        done += 1
        if progress is not None:
            progress(min(done, n_fits), n_fits)
        return field if force_error(field, dataset, judged) <= limit else None

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
    forces = forcefield.compute(dataset.positions[rows])[1]
    assert forces is not None
    return float(np.abs(forces - dataset.forces[rows]).mean())


def evenly(indices: IntArray, count: int) -> IntArray:
    """So many of them, at even distances from the first to the last: also what was learnt last is represented."""
    return np.asarray(indices[np.linspace(0, len(indices) - 1, count).astype(int)])


def features_left_out(forcefield: ForceField) -> tuple[str, ...]:
    """Kinds of features (:func:`feature_names`) that have no influence on any atom."""
    names = feature_names(forcefield.molecule.n_atoms, forcefield.atoms[0].feature_kind)
    used = np.any([atom.covariance.theta > 0.0 for atom in forcefield.atoms], axis=0)
    kept = {name for name, is_used in zip(names, used, strict=True) if is_used}
    return tuple(name for name in dict.fromkeys(names) if name not in kept)


def refit(
    forcefield: ForceField,
    dataset: Dataset,
    dropped: Sequence[str],
    indices: IntArray | None = None,
    settings: SolverSettings | None = None,
) -> ForceField:
    """The joint fit without some kinds of features, at the length scales of ``forcefield``.

    The metadata say what is left: ``n_train`` geometries, and no ``features_left_out``.

    Parameters
    ----------
    forcefield
        A joint fit; its calibration does not carry over.
    dataset
        Its training data.
    dropped
        Kinds of features that are left out (:func:`feature_names`).
    indices
        Geometries of ``dataset`` to fit; those of ``forcefield`` if not given.
    settings
        How to solve.
    """
    if indices is None:
        indices = training_rows(forcefield, dataset)
    joint = forcefield.joint
    assert joint is not None
    fields = (dataset.positions, dataset.energies, dataset.forces, dataset.atomic_energies, dataset.atomic_errors)
    data = JointData(*(np.array(values[indices]) for values in fields))
    first = forcefield.atoms[0]
    kind, symmetry = first.feature_kind, joint.operations
    names = np.array(feature_names(forcefield.molecule.n_atoms, kind))
    unknown = set(dropped) - set(names.tolist())
    if unknown:
        raise InputError("dropped", f"some of {', '.join(dict.fromkeys(names.tolist()))}", ", ".join(sorted(unknown)))
    kernels = []
    for atom in forcefield.atoms:
        theta = np.where(np.isin(names, dropped), 0.0, atom.covariance.theta)
        kernels.append(replace(atom.covariance, theta=theta))
    frames = tuple(atom.frame for atom in forcefield.atoms)
    model = JointModel(frames, kind, first.covariance.shape, first.covariance.azimuth, symmetry)
    variance = float(joint.variances[0])
    solution = solve_system(data, model, kernels, variance, settings, None, None)
    symbols = forcefield.molecule.symbols
    isolated = [forcefield.isolated_energies.get(symbols[frame.atom]) for frame in frames]
    atoms = joint_atoms(solution, joint_frames(solution, data, model, kernels), first.mean_name, isolated)
    field = replace(forcefield, atoms=atoms, joint=solution, calibration={})
    metadata = {key: value for key, value in forcefield.metadata.items() if not key.startswith(_CALIBRATION)}
    metadata.update(n_train=len(indices), features_left_out=", ".join(features_left_out(field)) or "none")
    return replace(field, metadata=metadata)


def training_rows(forcefield: ForceField, dataset: Dataset) -> IntArray:
    """Rows of a data set that a joint fit was made from.

    Raises
    ------
    InputError
        A model of atomic energies only, or data that do not contain its geometries with their forces.
    ModelMismatchError
        Data of another molecule.
    """
    if forcefield.joint is None:
        raise InputError(
            "model", "a joint fit of energies and forces", "one of atomic energies only",
            "train it with forces, or on fewer geometries",
        )  # fmt: skip
    if not dataset.has_forces:
        raise InputError("data set", "the training data of the model", "no forces", "give the file of its training")
    forcefield.check_molecule(dataset.molecule)
    same = {positions.tobytes(): k for k, positions in enumerate(np.asarray(dataset.positions))}
    found = []
    for positions in np.ascontiguousarray(forcefield.joint.positions):
        row = same.get(positions.tobytes())
        found.append(_nearest(positions, dataset.positions) if row is None else row)
    missing = found.count(None)
    if missing:
        raise InputError(
            "data set",
            "the training data of the model",
            f"{missing} geometries missing",
            "give the file that the model was trained on",
        )
    return np.array(found, dtype=np.int64)


def _nearest(positions: FloatArray, among: FloatArray) -> int | None:
    """Index of a geometry, which a file may have rounded."""
    distances = np.abs(among - positions).max(axis=(1, 2))
    nearest = int(distances.argmin())
    return nearest if distances[nearest] <= _SAME else None

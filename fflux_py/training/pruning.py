"""Leaving out features without influence: fewer coordinates, so faster forces, at an error that is measured.

The weights of a model belong to its features, and cancel each other: a feature cannot just be struck out.  The joint
fit is solved again without it, at the same length scales and variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fflux_py.dataset import Dataset
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField, joint_atoms
from fflux_py.joint_covariance import JointData, JointModel
from fflux_py.joint_fit import frame_basis
from fflux_py.local_frame import FeatureKind, directional
from fflux_py.potential import FloatArray, IntArray
from fflux_py.training.joint_solution import SolverSettings, solve_system
from fflux_py.training.joint_training import _template


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
    spread = np.linspace(0, len(indices) - 1, n_fit).astype(int)
    fitted, held_out = indices[spread], np.delete(indices, spread)
    names = feature_names(dataset.molecule.n_atoms, forcefield.atoms[0].feature_kind)
    kinds = list(dict.fromkeys(names))
    n_fits, done = 2 * len(kinds) + 1, 0

    def error(dropped: Sequence[str]) -> float:
        nonlocal done
        field = refit(forcefield, dataset, dropped, fitted)
        forces = field.compute(dataset.positions[held_out])[1]
        assert forces is not None
        assert dataset.forces is not None
        done += 1
        if progress is not None:
            progress(done, n_fits)
        return float(np.abs(forces - dataset.forces[held_out]).mean())

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


def refit(
    forcefield: ForceField,
    dataset: Dataset,
    dropped: Sequence[str],
    indices: IntArray | None = None,
    settings: SolverSettings | None = None,
) -> ForceField:
    """The joint fit without some kinds of features, at the length scales of ``forcefield``.

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
    shares: FloatArray = np.broadcast_to(solution.centres, data.atomic_energies.shape)
    own = data.atomic_energies if data.partitioned.any() else shares
    templates = []
    for frame, kernel in zip(frames, kernels, strict=True):
        basis = frame_basis(symmetry, data.positions, frame, kind, kernel)
        energies = np.concatenate([own[:, permutation[frame.atom]] for permutation in basis.permutations])
        templates.append(_template(frame, kind, kernel, basis.features(), energies, variance))
    symbols = forcefield.molecule.symbols
    isolated = [forcefield.isolated_energies.get(symbols[frame.atom]) for frame in frames]
    atoms = joint_atoms(solution, templates, first.mean_name, isolated)
    metadata = {**forcefield.metadata, "features_left_out": ", ".join(dropped) or "none"}
    return replace(forcefield, atoms=atoms, joint=solution, metadata=metadata, calibration={})


def training_rows(forcefield: ForceField, dataset: Dataset) -> IntArray:
    """Rows of a data set that a joint fit was made from.

    Raises
    ------
    InputError
        A model of atomic energies only, or data that do not contain its geometries.
    """
    if forcefield.joint is None:
        raise InputError("model", "a joint fit of energies and forces", "one of atomic energies only")
    rows = {positions.tobytes(): k for k, positions in enumerate(np.asarray(dataset.positions))}
    found = [rows.get(np.ascontiguousarray(p).tobytes()) for p in forcefield.joint.positions]
    if any(k is None for k in found):
        raise InputError(
            "data set", "the training data of the model", f"{sum(k is None for k in found)} geometries missing"
        )
    return np.array(found, dtype=np.int64)

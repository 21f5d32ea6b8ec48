"""A joint fit solved again on fewer geometries or without some features, at the length scales that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import FeatureSet
from fflux_py.gp.joint_covariance import JointModel
from fflux_py.gp.joint_fit import JointFit
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.dataset_order import reorder_dataset
from fflux_py.training.config import SolverSettings
from fflux_py.training.difference import subtract_level
from fflux_py.training.joint import atomic_models
from fflux_py.training.joint_solver import solve_system
from fflux_py.training.joint_system import JointSystem, training_data
from fflux_py.typing import FloatArray, IntArray

# Bohr between two copies of a geometry, one of which was written in angstrom.
_SAME: Final = 1e-8
_CALIBRATION: Final = "calibration_"


def features_left_out(forcefield: ForceField) -> tuple[str, ...]:
    """Kinds of features (:attr:`~fflux_py.gp.features.FeatureSet.names`) that have no influence on any atom."""
    names = FeatureSet(forcefield.atoms[0].feature_kind, forcefield.molecule.n_atoms).names
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
        Kinds of features that are left out (:attr:`~fflux_py.gp.features.FeatureSet.names`).
    indices
        Geometries of ``dataset`` to fit; those of ``forcefield`` if not given.
    settings
        How to solve.

    Raises
    ------
    InputError
        Kinds that do not exist, a model of atomic energies only, or data that do not contain its geometries.
    """
    joint = _joint_fit(forcefield)
    if indices is None:
        indices = training_rows(forcefield, dataset)
    dataset = reorder_dataset(dataset, forcefield.match_or_keep(dataset.molecule))
    data = training_data(dataset, indices)
    if forcefield.taught_mean is not None:
        data, _ = subtract_level(data, forcefield.molecule, forcefield.taught_mean)
    first = forcefield.atoms[0]
    kind, symmetry = first.feature_kind, joint.operations
    names = np.array(FeatureSet(kind, forcefield.molecule.n_atoms).names)
    unknown = set(dropped) - set(names.tolist())
    if unknown:
        raise InputError("dropped", f"some of {', '.join(dict.fromkeys(names.tolist()))}", ", ".join(sorted(unknown)))
    kernels = []
    for atom in forcefield.atoms:
        theta = np.where(np.isin(names, dropped), 0.0, atom.covariance.theta)
        kernels.append(replace(atom.covariance, theta=theta))
    frames = tuple(atom.frame for atom in forcefield.atoms)
    model = JointModel(frames, kind, first.covariance.kernel, first.covariance.azimuth, symmetry, joint.noises)
    system = JointSystem(data, model, kernels, np.array([atom.variance for atom in forcefield.atoms]))
    solution = solve_system(system, settings)
    atoms = atomic_models(system, solution, forcefield.molecule, forcefield.isolated_energies, first.mean_name)
    smaller = replace(forcefield, atoms=atoms, joint=solution, calibration={})
    metadata = {key: value for key, value in forcefield.metadata.items() if not key.startswith(_CALIBRATION)}
    metadata.update(n_train=len(indices), features_left_out=", ".join(features_left_out(smaller)) or "none")
    return replace(smaller, metadata=metadata)


def training_rows(forcefield: ForceField, dataset: Dataset) -> IntArray:
    """Rows of a data set that a joint fit was made from.

    Raises
    ------
    InputError
        A model of atomic energies only, or data that do not contain its geometries with their forces.
    ModelMismatchError
        Data of another molecule.
    """
    joint = _joint_fit(forcefield)
    if not dataset.has_forces:
        raise InputError("data set", "the training data of the model", "no forces", "give the file of its training")
    dataset = reorder_dataset(dataset, forcefield.match_or_keep(dataset.molecule))
    row_of = {positions.tobytes(): k for k, positions in enumerate(np.asarray(dataset.positions))}
    rows = []
    for positions in np.ascontiguousarray(joint.positions):
        row = row_of.get(positions.tobytes())
        rows.append(_nearest(positions, dataset.positions) if row is None else row)
    missing = rows.count(None)
    if missing:
        raise InputError(
            "data set",
            "the training data of the model",
            f"{missing} geometries missing",
            "give the file that the model was trained on",
        )
    return np.array(rows, dtype=np.int64)


def _joint_fit(forcefield: ForceField) -> JointFit:
    """The joint fit of a model, which must have one."""
    if forcefield.joint is None:
        raise InputError(
            "model", "a joint fit of energies and forces", "one of atomic energies only",
            "train it with forces, or on fewer geometries",
        )  # fmt: skip
    return forcefield.joint


def _nearest(positions: FloatArray, among: FloatArray) -> int | None:
    """Index of a geometry, which a file may have rounded."""
    distances = np.abs(among - positions).max(axis=(1, 2))
    nearest = int(distances.argmin())
    return nearest if distances[nearest] <= _SAME else None

"""The distances between atoms that a model has learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.features import FeatureSet
from fflux_py.gp.joint_fit import JointFit
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM

MARGIN: Final = 0.25
"""Part of the width of a distance's range by which a geometry that is believed may leave the range."""
LEAST_MARGIN: Final = 0.1 / ANGSTROM
"""... but at least this (bohr)."""


def distances(positions: FloatArray) -> FloatArray:
    """Distances of all pairs of atoms, bohr, shape ``(..., n_atoms, n_atoms)``."""
    return np.asarray(np.linalg.norm(positions[..., :, None, :] - positions[..., None, :, :], axis=-1))


def distance_ranges(atoms: Sequence[AtomicModel], joint: JointFit | None) -> tuple[FloatArray, FloatArray]:
    """Shortest and longest distance of every pair of atoms over the training geometries of a model.

    Atoms that the model's symmetry exchanges have the same ranges.

    Parameters
    ----------
    atoms, joint
        The atoms' models, and the solution of the joint fit if there is one.

    Returns
    -------
    shortest, longest
        Bohr, shape ``(n_atoms, n_atoms)``, symmetric, zero on the diagonal.
    """
    if joint is not None:
        lengths = distances(joint.positions)
        return _symmetrise(lengths.min(axis=0), lengths.max(axis=0), joint.operations.generators())
    n = atoms[-1].frame.atom + 1
    shortest, longest = np.full((n, n), np.inf), np.zeros((n, n))
    for model in atoms:
        atom, others = model.frame.atom, [model.frame.x_axis, model.frame.xy_plane, *model.frame.others(n)]
        known = FeatureSet(model.feature_kind, n).distances(model.points)
        shortest[atom, others] = np.minimum(shortest[atom, others], known.min(axis=0))
        longest[atom, others] = np.maximum(longest[atom, others], known.max(axis=0))
    np.fill_diagonal(shortest, 0.0)
    return np.minimum(shortest, shortest.T), np.maximum(longest, longest.T)


def believed_distances(atoms: Sequence[AtomicModel], joint: JointFit | None) -> tuple[FloatArray, FloatArray]:
    """The same with the margin by which a geometry may leave the training geometries."""
    shortest, longest = distance_ranges(atoms, joint)
    margin = np.maximum(MARGIN * (longest - shortest), LEAST_MARGIN)
    np.fill_diagonal(margin, 0.0)
    return shortest - margin, longest + margin


def _symmetrise(
    shortest: FloatArray, longest: FloatArray, permutations: Sequence[IntArray]
) -> tuple[FloatArray, FloatArray]:
    """Give all pairs of atoms that permutations exchange the same range, the union of theirs."""
    while True:
        low, high = shortest, longest
        for order in permutations:
            low = np.minimum(low, low[np.ix_(order, order)])
            high = np.maximum(high, high[np.ix_(order, order)])
        if (low == shortest).all() and (high == longest).all():
            return low, high
        shortest, longest = low, high

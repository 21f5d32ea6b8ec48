"""The hands of four-coordinate centres and the sides of bonds, as numbers with a sign."""

from __future__ import annotations

import numpy as np

from fflux_py.typing import FloatArray, IntArray


def handedness(positions: FloatArray, around: IntArray) -> FloatArray:
    """Triple product of the unit vectors from the last of four neighbours to the other three.

    Parameters
    ----------
    positions
        Bohr, shape ``(..., n_atoms, 3)``.
    around
        Neighbours of centres, shape ``(..., 4)``; the result has the shape of both without their last axes.
    """
    corners = np.asarray(positions)[..., around, :]
    arms = corners[..., :3, :] - corners[..., 3:, :]
    arms = arms / np.linalg.norm(arms, axis=-1, keepdims=True)
    return np.asarray(np.einsum("...i,...i->...", arms[..., 0, :], np.cross(arms[..., 1, :], arms[..., 2, :])))


def sides(positions: FloatArray, paths: IntArray) -> FloatArray:
    """Of atoms i-j-k-l: positive for cis, negative for trans, zero where three of them stand on a line."""
    i, j, k, m = np.moveaxis(np.asarray(positions)[..., paths, :], -2, 0)
    return np.asarray((np.cross(j - i, k - j) * np.cross(k - j, m - k)).sum(axis=-1))

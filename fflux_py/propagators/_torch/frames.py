"""Invariants of a molecule by local frames: what the action and the response of the predictors are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """Index arrays: local frames (atom, x axis, xy plane) ``(n_atoms, 3)``, pairs ``(k, 2)``, dihedrals ``(d, 4)``."""

    frames: Tensor
    pairs: Tensor
    dihedrals: Tensor


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / vector.norm(dim=-1, keepdim=True)
    return unit


def local_axes(q: Tensor, frames: Tensor) -> Tensor:
    """Axes of every atom's local frame in rows, shape ``(..., n_atoms, 3, 3)``."""
    at = q[..., frames[:, 0], :]
    x = _unit(q[..., frames[:, 1], :] - at)
    other = q[..., frames[:, 2], :] - at
    y = _unit(other - (other * x).sum(-1, keepdim=True) * x)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-2)


def into_local(axes: Tensor, vectors: Tensor) -> Tensor:
    """Components of vectors ``(..., n_atoms, 3)`` in the local frames whose axes are the rows."""
    inside: Tensor = (axes @ vectors[..., None])[..., 0]
    return inside


def out_of_local(axes: Tensor, components: Tensor) -> Tensor:
    """The vectors ``(..., n_atoms, 3)`` that have these components in the local frames: the inverse."""
    outside: Tensor = (components[..., None, :] @ axes)[..., 0, :]
    return outside


def without_drift(u: Tensor, roots: Tensor) -> Tensor:
    """Mass-weighted velocities ``(..., n_atoms, 3)`` without the motion of the centre of mass."""
    drift = (roots[:, None] * u).sum(-2, keepdim=True) / (roots**2).sum()
    return u - roots[:, None] * drift


def local_velocities(q: Tensor, u: Tensor, roots: Tensor, frames: Tensor) -> Tensor:
    """Components of every atom's mass-weighted velocity in its local frame, shape ``(..., 3 n_atoms)``.

    The motion of the centre of mass is taken out.  Linear in ``u``, invariant to rotation and translation, complete.

    Parameters
    ----------
    q, u, roots, frames
        Positions and mass-weighted velocities ``(..., n_atoms, 3)``, square roots of the masses, local frames.
    """
    return into_local(local_axes(q, frames), without_drift(u, roots)).flatten(-2)


def shape_features(q: Tensor, pairs: Tensor, dihedrals: Tensor) -> Tensor:
    """Inverse distances of all pairs, cosines and sines of all dihedrals, shape ``(..., k + 2 d)``."""
    distance = (q[..., pairs[:, 0], :] - q[..., pairs[:, 1], :]).norm(dim=-1)
    corner = [q[..., dihedrals[:, k], :] for k in range(4)]
    a, axis, c = corner[0] - corner[1], _unit(corner[2] - corner[1]), corner[3] - corner[2]
    a = _unit(a - (a * axis).sum(-1, keepdim=True) * axis)
    c = _unit(c - (c * axis).sum(-1, keepdim=True) * axis)
    cosine, sine = (a * c).sum(-1), (torch.linalg.cross(axis, a) * c).sum(-1)
    return torch.cat([1.0 / distance, cosine, sine], dim=-1)

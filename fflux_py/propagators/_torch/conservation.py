"""The layer that restores momentum and angular momentum, in double precision.

A network that predicts displacements and velocities knows no conservation law.  Here the centre of mass is set to where
it has to be, the momentum to what it was, and a rigid rotation, about the new positions, is added to the velocities so
that the angular momentum is what it was: the smallest change of the velocities, in mass-weighted coordinates, that does
so.  All of it commutes with rotations.
"""

from __future__ import annotations

import torch
from torch import Tensor


def angular_momentum(q: Tensor, v: Tensor, masses: Tensor) -> Tensor:
    """About the centre of mass, shape ``(..., 3)``."""
    total = masses.sum()
    centred = q - (masses[:, None] * q).sum(-2, keepdim=True) / total
    return torch.einsum("i,...ic->...c", masses, torch.linalg.cross(centred, v))


def restore_momenta(
    q: Tensor, v: Tensor, q_next: Tensor, v_next: Tensor, step: Tensor | float, masses: Tensor, angular: bool = True
) -> tuple[Tensor, Tensor]:
    """Positions and velocities after a step, with the momentum and the angular momentum from before it.

    Parameters
    ----------
    q, v, q_next, v_next
        Before and after the step, atomic units, shape ``(..., n_atoms, 3)``.
    step
        Time of the step, a number or of shape ``(...)``.
    masses
        Electron masses, shape ``(n_atoms,)``.
    angular
        Restore the angular momentum too.
    """
    m = masses[:, None]
    total = masses.sum()
    time = torch.as_tensor(step, dtype=q.dtype)[..., None, None]
    drift = (m * v).sum(-2, keepdim=True) / total
    moved = (m * (q_next - q)).sum(-2, keepdim=True) / total
    q_next = q_next - moved + drift * time
    v_next = v_next - (m * v_next).sum(-2, keepdim=True) / total + drift
    if not angular:
        return q_next, v_next
    excess = angular_momentum(q_next, v_next, masses) - angular_momentum(q, v, masses)
    arm = q_next - (m * q_next).sum(-2, keepdim=True) / total
    square = (m * arm * arm).sum((-2, -1))
    inertia = square[..., None, None] * torch.eye(3, dtype=q.dtype) - (m * arm).transpose(-1, -2) @ arm
    rate = torch.linalg.solve(inertia, excess[..., None])[..., 0]
    return q_next, v_next - torch.linalg.cross(rate[..., None, :].expand_as(arm), arm)

"""The graph that both predictors see: all pairs of atoms, and a basis for distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RADIAL = 8
SHORTEST, LONGEST = 1.5, 12.0
"""Range of the radial basis, bohr."""


def complete_graph(n: int) -> tuple[Tensor, Tensor]:
    """Senders and receivers of all ordered pairs, sorted by receiver, so that a sum over senders is a reshape."""
    pairs = torch.tensor([(j, i) for i in range(n) for j in range(n) if i != j])
    return pairs[:, 0], pairs[:, 1]


def radial_basis(distance: Tensor) -> Tensor:
    """Gaussians in the logarithm of the distance (bohr), shape ``(..., RADIAL)``."""
    low, high = math.log(SHORTEST), math.log(LONGEST)
    centres = torch.linspace(low, high, RADIAL, dtype=distance.dtype)
    width = (high - low) / (RADIAL - 1)
    return torch.exp(-(((torch.log(distance)[..., None] - centres) / width) ** 2))

"""The optimiser of all propagators, and its state as tensors with names, for checkpoints without pickle.

SOAP is Adam in the eigenbasis of Shampoo's preconditioner.  What is learned here is a smooth function of a hundred
variables to many digits, by least squares and without noise: curvatures of many sizes, for which the diagonal
preconditioner of Adam is a poor one.

Source: N. Vyas et al., SOAP: Improving and stabilizing Shampoo using Adam, arXiv:2409.11321 (2024); the implementation
is that of pytorch_optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from pytorch_optimizer import SOAP
from torch import Tensor, nn

BASIS_EVERY: Final = 30
"""Updates between two eigenbases; they cost as much as some updates."""

_MOMENTS: Final = ("exp_avg", "exp_avg_sq")
_MATRICES: Final = ("GG", "Q")
"""Of SOAP's state: one for each dimension of a parameter, an empty list where there is none."""


def optimiser_of(net: nn.Module) -> torch.optim.Optimizer:
    """An optimiser of all parameters of a network, without weight decay; each update sets its rate."""
    return SOAP(net.parameters(), lr=1e-3, weight_decay=0.0, precondition_frequency=BASIS_EVERY)


def state_tensors(optimiser: torch.optim.Optimizer, net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the state; parameters that had no gradient yet have none.

    A matrix that lies in columns is transposed and has a t in its name: in another layout products have other last
    bits.
    """
    for name, parameter in net.named_parameters():
        state = optimiser.state.get(parameter, {})
        for key in _MOMENTS:
            if key in state:
                yield f"optimiser/{key}/{name}", state[key]
        for key in _MATRICES:
            for k, matrix in enumerate(state.get(key, ())):
                if len(matrix):
                    transposed = not matrix.is_contiguous()
                    yield f"optimiser/{key}{k}{'t' * transposed}/{name}", matrix.T if transposed else matrix


def restore_state(
    optimiser: torch.optim.Optimizer, net: nn.Module, tensors: Mapping[str, Tensor], updates: int
) -> None:
    """The state of :func:`state_tensors` after some updates, into a new optimiser of the same network."""
    group = optimiser.param_groups[0]
    group["step"] = updates
    for name, parameter in net.named_parameters():
        if f"optimiser/{_MOMENTS[0]}/{name}" not in tensors:
            continue
        # copies: those of a file lie anywhere in memory, and products of numbers out of line have other last bits
        state: dict[str, Any] = {key: tensors[f"optimiser/{key}/{name}"].clone() for key in _MOMENTS}
        for key in _MATRICES:
            state[key] = [_matrix(tensors, f"optimiser/{key}{k}", name) for k in range(max(1, parameter.ndim))]
        state["precondition_frequency"] = group["precondition_frequency"]
        state["shampoo_beta"] = group["betas"][1]
        optimiser.state[parameter] = state


def _matrix(tensors: Mapping[str, Tensor], key: str, name: str) -> Tensor | list[Tensor]:
    if f"{key}t/{name}" in tensors:
        return tensors[f"{key}t/{name}"].clone().T
    return tensors[f"{key}/{name}"].clone() if f"{key}/{name}" in tensors else []

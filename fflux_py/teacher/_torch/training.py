"""Training of the network on what the classical terms leave of the labels.

The optimiser is SOAP (:mod:`fflux_py.propagators._torch.optimiser`).  Its rate rises over the first updates, stays, and
falls with a cosine over the last three fifths of the time.  Forces weigh most; geometries of high energy weigh less.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from pytorch_optimizer import SOAP
from torch import Tensor

from fflux_py.errors import ConvergenceError
from fflux_py.teacher._torch.network import MeanNetwork, Sizes
from fflux_py.teacher.labels import Labels
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import KCAL_MOL

VERSION: Final = f"torch {torch.__version__}"
_RATE, _WARM_UP, _CONSTANT = 3e-3, 100, 0.4
_BATCH: Final = 32
_BASIS_EVERY, _LARGEST_BASIS = 20, 256
# Of the loss: weights of energies and forces (kcal/mol, kcal/mol/bohr), the error beyond which energies count less,
# and the energy (kcal/mol) at which a geometry weighs half.
_ENERGY_WEIGHT, _FORCE_WEIGHT, _LARGE_ERROR, _HALF_WEIGHT = 0.2, 5.0, 10.0, 50.0


class NetworkTraining:
    """A network and its optimiser, trained in pieces with data that grow.

    Parameters
    ----------
    classes, sizes
        Of the network.
    labels
        The first data: what the classical terms leave of energies and forces, hartree and bohr.
    heights
        Energies above the lowest geometry, hartree, for the weights.
    seconds
        Processor time of all pieces together: the course of the rate.
    seed
        Of the initial weights and of the order of the data.
    """

    def __init__(
        self, classes: IntArray, sizes: Sizes, labels: Labels, heights: FloatArray, seconds: float, seed: int
    ) -> None:
        self.network = MeanNetwork(classes, labels.positions, sizes, seed)
        self._random = torch.Generator().manual_seed(seed)
        self._seconds, self._used, self.updates = seconds, 0.0, 0
        self._data: list[Tensor] = []
        self.add(labels, heights)
        self.network.standardise(self._data[0][:512])
        middle = float(np.median(labels.energies)) * KCAL_MOL / len(classes)
        self.network.last_bias.data += middle
        self._optimiser = SOAP(
            self.network.parameters(), lr=_RATE, weight_decay=0.0, precondition_frequency=_BASIS_EVERY,
            max_precondition_dim=_LARGEST_BASIS,
        )  # fmt: skip

    def add(self, labels: Labels, heights: FloatArray) -> None:
        """More data of the same kind."""
        weights = 1.0 / (1.0 + (heights * KCAL_MOL / _HALF_WEIGHT) ** 2)
        energies, forces = labels.energies * KCAL_MOL, labels.forces * KCAL_MOL
        new = [torch.tensor(a, dtype=torch.float32) for a in (labels.positions, energies, forces, weights)]
        self._data = [torch.cat(pair) for pair in zip(self._data, new, strict=True)] if self._data else new

    def train(self, seconds: float, report: Callable[[], None]) -> None:
        """Train for so much processor time.

        Raises
        ------
        ConvergenceError
            A loss that is no number.
        """
        begin = time.process_time()
        start, spent = self._used, 0.0
        while spent < seconds:
            order = torch.randperm(len(self._data[0]), generator=self._random)
            for rows in torch.split(order, _BATCH):
                if len(rows) < min(_BATCH, len(order)):
                    continue
                self._update([part[rows] for part in self._data])
                spent = time.process_time() - begin
                self._used = start + spent
                if spent >= seconds:
                    break
            report()

    def _update(self, batch: list[Tensor]) -> None:
        self._set_rate()
        x, energies, forces, weights = batch
        e, f = self.network.energy_and_forces(x, training=True)
        error = e - energies
        of_energies = error**2 / (1.0 + error.detach().abs() / _LARGE_ERROR)
        of_forces = ((f - forces) ** 2).mean((1, 2))
        loss = (weights * (_ENERGY_WEIGHT * of_energies + _FORCE_WEIGHT * of_forces)).mean()
        if not bool(torch.isfinite(loss)):
            raise ConvergenceError("network of the taught mean", "a finite loss", "NaN", "teach with another seed")
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 100.0)
        self._optimiser.step()
        self.updates += 1

    def _set_rate(self) -> None:
        done = min(self._used / self._seconds, 1.0)
        rate = _RATE * min(1.0, (self.updates + 1) / _WARM_UP)
        if done > _CONSTANT:
            rate *= 0.5 * (1.0 + math.cos(math.pi * (done - _CONSTANT) / (1.0 - _CONSTANT))) + 0.005
        for group in self._optimiser.param_groups:
            group["lr"] = rate

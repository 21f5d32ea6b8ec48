"""The network in PyTorch: the same function as :mod:`fflux_py._compiled.network`, for its training in single precision.

Energies are in kcal/mol, positions in bohr.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fflux_py._compiled.network import LARGEST_Z, N_RADIAL, Network
from fflux_py.teacher.classes import distance_statistics, pair_classes
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import KCAL_MOL

_LEAST_WIDTH: Final = 0.15
"""Of the distances of a pair, bohr: bonds have a tenth of an angstrom."""
_CENTRES: Final = (-2.0, -1.0, 0.0, 1.0, 2.0)


class Sizes(NamedTuple):
    """Sums over neighbours, sums of unit vectors, and units of a layer."""

    scalars: int
    vectors: int
    hidden: int


class MeanNetwork(nn.Module):
    """One energy of all atoms.

    Parameters
    ----------
    classes
        Class of every atom.
    positions
        Geometries (bohr, ``(m, n, 3)``) from which means and widths of the distances are taken.
    sizes
        Of the network.
    seed
        Of the initial weights.
    """

    def __init__(self, classes: IntArray, positions: FloatArray, sizes: Sizes, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        n, n_classes, pairs = len(classes), int(classes.max()) + 1, pair_classes(classes)
        self.classes, self.pairs, self.sizes = classes, pairs, sizes
        self.distance_means, self.distance_widths = distance_statistics(positions, classes, _LEAST_WIDTH)
        others = np.array([[j for j in range(n) if j != i] for i in range(n)])
        rows = np.arange(n)[:, None]
        self._others = torch.tensor(others)
        self._pair = torch.tensor(pairs[rows, others])
        self._class = torch.tensor(classes)
        self._means = torch.tensor(self.distance_means[rows, others], dtype=torch.float32)
        self._inverse = torch.tensor(1.0 / self.distance_widths[rows, others], dtype=torch.float32)
        self._centres = torch.tensor(_CENTRES)
        self._k, self._l = (torch.tensor(index) for index in np.triu_indices(sizes.vectors))
        self.n_inputs = sizes.scalars + len(self._k)
        self.input_means = torch.zeros(n_classes, self.n_inputs)
        self.input_widths = torch.ones(n_classes, self.n_inputs)

        def weights(*shape: int, spread: float) -> nn.Parameter:
            return nn.Parameter(spread * torch.randn(*shape, generator=random))

        h = sizes.hidden
        self.radial_s = weights(int(pairs.max()) + 1, N_RADIAL, sizes.scalars, spread=0.3)
        self.radial_v = weights(int(pairs.max()) + 1, N_RADIAL, sizes.vectors, spread=0.3)
        self.first = weights(n_classes, self.n_inputs, h, spread=self.n_inputs**-0.5)
        self.first_bias = nn.Parameter(torch.zeros(n_classes, 1, h))
        self.second = weights(n_classes, h, h, spread=h**-0.5)
        self.second_bias = nn.Parameter(torch.zeros(n_classes, 1, h))
        self.last = weights(n_classes, h, 1, spread=h**-0.5)
        self.last_bias = nn.Parameter(torch.zeros(n_classes))

    def inputs(self, x: Tensor) -> Tensor:
        """Inputs of the layers, shape ``(n, b, i)``, at positions of the shape ``(b, n, 3)``."""
        b, n = x.shape[:2]
        by_atom = x.transpose(0, 1)
        d = by_atom[self._others].transpose(1, 2) - by_atom[:, :, None]
        r = (d * d).sum(-1).sqrt()
        e = d / r[..., None]
        z = ((r - self._means[:, None]) * self._inverse[:, None]).clamp(-LARGEST_Z, LARGEST_Z)
        gaussians = torch.exp(-0.5 * (z[..., None] - self._centres) ** 2)
        functions = torch.cat([gaussians, torch.tanh(0.5 * z)[..., None]], -1)
        w_s = self.radial_s[self._pair].reshape(n, -1, self.sizes.scalars)
        w_v = self.radial_v[self._pair].reshape(n, -1, self.sizes.vectors)
        scalars = torch.bmm(functions.reshape(n, b, -1), w_s)
        directed = (functions[:, :, None] * e.transpose(2, 3)[..., None]).reshape(n, b * 3, -1)
        v = torch.bmm(directed, w_v).reshape(n, b, 3, self.sizes.vectors)
        products = torch.matmul(v.transpose(2, 3), v)
        return torch.cat([scalars, products[..., self._k, self._l]], -1)

    def energy(self, x: Tensor) -> Tensor:
        """Energies (kcal/mol, ``(b,)``) at positions (bohr, ``(b, n, 3)``)."""
        c = self._class
        h = (self.inputs(x) - self.input_means[c][:, None]) / self.input_widths[c][:, None]
        h = _unit(torch.baddbmm(self.first_bias[c], h, self.first[c]))
        h = _unit(torch.baddbmm(self.second_bias[c], h, self.second[c]))
        atomic = torch.bmm(h, self.last[c])[..., 0] + self.last_bias[c][:, None]
        return atomic.sum(0)

    def energy_and_forces(self, x: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        """Energies, and forces in kcal/mol/bohr; with ``training`` they can be differentiated."""
        x = x.detach().requires_grad_(True)
        energy = self.energy(x)
        (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=training)
        return energy, -gradient

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Take means and widths of the inputs of each class from geometries (bohr, ``(b, n, 3)``)."""
        values = self.inputs(x)
        for c in range(len(self.input_means)):
            of_class = values[self._class == c].reshape(-1, self.n_inputs)
            self.input_means[c] = of_class.mean(0)
            self.input_widths[c] = of_class.std(0) + 1e-3

    def arrays(self) -> tuple[Network, float]:
        """Weights for the compiled network, and the constant that it does not have, hartree."""

        def plain(tensor: Tensor) -> FloatArray:
            return np.ascontiguousarray(tensor.detach().double().numpy())

        widths, means = plain(self.input_widths), plain(self.input_means)
        first = plain(self.first) / widths[:, :, None]
        bias = plain(self.first_bias)[:, 0] - np.einsum("ci,cih->ch", means, first)
        padding = np.zeros((len(first), -self.n_inputs % 4, self.sizes.hidden))
        network = Network(
            classes=np.array(self.classes),
            pair_classes=np.array(self.pairs),
            means=np.array(self.distance_means),
            inverse_widths=1.0 / self.distance_widths,
            radial=np.concatenate([plain(self.radial_s), plain(self.radial_v)], axis=2),
            first=np.concatenate([first, padding], axis=1),
            first_bias=bias,
            second=plain(self.second),
            second_bias=plain(self.second_bias)[:, 0].copy(),
            last=plain(self.last)[:, :, 0] / KCAL_MOL,
            n_vectors=self.sizes.vectors,
        )
        return network, float(plain(self.last_bias)[self.classes].sum()) / KCAL_MOL


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(1.0 + x * x)

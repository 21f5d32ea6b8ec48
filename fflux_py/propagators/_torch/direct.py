"""The direct predictor: an E(3)-equivariant message-passing network from one frame to the next.

Atoms are the nodes of a complete graph.  A node starts with an embedding of its identity and its velocity; an edge has
the spherical harmonics of its direction (l <= 2) and weights from its length and the scalars of its two ends.  Each
layer is a tensor product of the sender's features with the harmonics, summed over senders, and a gate.  The outputs are
two vectors for each atom: what is added to the displacement and to the new velocity, mass-scaled, of a response in
local frames that is found first (:mod:`fflux_py.propagators._torch.response`).  Momentum and angular momentum are
restored at the end.

Source: F. L. Thiemann et al., Force-free molecular dynamics through autoregressive equivariant networks (TrajCast),
arXiv:2503.23794 (2025); layers as in S. Batzner et al., Nat. Commun. 13, 2453 (2022); M. Geiger and T. Smidt, e3nn.
"""

from __future__ import annotations

from typing import Any

import torch
from e3nn import o3
from e3nn.nn import FullyConnectedNet, Gate
from torch import Tensor, nn

from fflux_py.propagators._torch.conservation import restore_momenta
from fflux_py.propagators._torch.frames import Frames
from fflux_py.propagators._torch.graph import RADIAL, complete_graph, radial_basis
from fflux_py.propagators._torch.residual import Residual
from fflux_py.propagators._torch.response import LocalResponse


class Layer(nn.Module):
    """One convolution: tensor product with the harmonics, sum over senders, linear mixing, gate."""

    def __init__(self, irreps: Any, harmonics: Any, edge_inputs: int, n: int) -> None:
        super().__init__()
        scalars = o3.Irreps([(m, ir) for m, ir in irreps if ir.l == 0])
        gated = o3.Irreps([(m, ir) for m, ir in irreps if ir.l > 0])
        gates = o3.Irreps([(gated.num_irreps, "0e")])
        self.gate = Gate(scalars, [torch.nn.functional.silu] * len(scalars), gates, [torch.sigmoid], gated)
        middle: list[Any] = []
        instructions: list[Any] = []
        for a, (multiplicity, ir) in enumerate(irreps):
            for b, (_, edge) in enumerate(harmonics):
                for out in ir * edge:
                    if out in self.gate.irreps_in:
                        instructions.append((a, b, len(middle), "uvu", True))
                        middle.append((multiplicity, out))
        # the linear layer wants equal irreps side by side
        sorted_middle, order, _ = o3.Irreps(middle).sort()
        instructions = [(a, b, order[c], mode, train) for a, b, c, mode, train in instructions]
        self.product = o3.TensorProduct(
            irreps, harmonics, sorted_middle, instructions, shared_weights=False, internal_weights=False
        )
        self.weights = FullyConnectedNet([edge_inputs, 32, self.product.weight_numel], torch.nn.functional.silu)
        self.mix = o3.Linear(sorted_middle.simplify(), self.gate.irreps_in)
        self.keep = o3.Linear(irreps, self.gate.irreps_in)
        self.n = n

    def forward(self, x: Tensor, harmonics: Tensor, edges: Tensor, senders: Tensor) -> Tensor:
        """Node features ``(b, n, d)`` from node features, harmonics and edge inputs ``(b, edges, ...)``."""
        message = self.product(x[:, senders], harmonics, self.weights(edges))
        gathered = message.reshape(x.shape[0], self.n, self.n - 1, -1).sum(2) / (self.n - 1) ** 0.5
        return self.gate(self.mix(gathered) + self.keep(x))  # type: ignore[no-any-return]


class DirectNet(nn.Module):
    """Displacements and new velocities from positions and velocities.

    Parameters
    ----------
    index
        Frames, pairs and dihedrals, for the response that the network corrects.
    masses
        Electron masses, shape ``(n_atoms,)``.
    step, unit
        The step in atomic units of time, and the thermal unit e = sqrt(kT) of mass-weighted velocities.
    width, layers
        Channels of the scalars and vectors (half as many of the others), and convolutions; without any, the response
        is alone.
    hidden
        Width of the response's perceptron; 0 for none.
    """

    senders: Tensor
    receivers: Tensor
    masses: Tensor

    def __init__(
        self, index: Frames, masses: Tensor, step: float, unit: float, width: int = 24, layers: int = 3,
        hidden: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        n = len(masses)
        self.n, self.step, self.unit, self.width, self.layers = n, step, unit, width, layers
        senders, receivers = complete_graph(n)
        self.register_buffer("senders", senders)
        self.register_buffer("receivers", receivers)
        self.register_buffer("masses", masses.double())
        self.response = LocalResponse(index, masses.double().sqrt(), 2, hidden)
        self.residual = Residual(index.frames)
        if not layers:
            return
        # polar vectors alone: displacements and velocities in three dimensions are combinations of such
        hidden = o3.Irreps(f"{width}x0e + {width}x1o")
        self.harmonics = o3.Irreps("1x0e + 1x1o + 1x2e")
        self.embedding = nn.Parameter(torch.randn(n, width))
        self.spreading = nn.Parameter(torch.randn(n, width))
        self.edge_embedding = nn.Parameter(torch.randn(len(senders), RADIAL))
        self.convolutions = nn.ModuleList(
            Layer(hidden, self.harmonics, 2 * RADIAL + 2 * width, n) for _ in range(layers)
        )
        self.out = o3.Linear(hidden, o3.Irreps("2x1o"))
        self.scales = nn.Parameter(torch.zeros(n, 2))  # the response alone at first
        self.mixing = nn.Parameter(torch.zeros(2, n, n))

    def raw(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to the linear response: displacement and velocity, mass-weighted and scaled."""
        root = self.masses.sqrt()[:, None]
        u = (v * root / self.unit).float()
        vector = (q[:, self.receivers] - q[:, self.senders]).float()
        harmonics = o3.spherical_harmonics(self.harmonics, vector, normalize=True, normalization="component")
        radial = radial_basis(vector.norm(dim=-1))
        edges = torch.cat([radial, self.edge_embedding.expand(len(q), -1, -1)], dim=-1)
        vectors = self.spreading[None, :, :, None] * u[:, :, None, :]
        x = torch.cat([self.embedding.expand(len(q), -1, -1), vectors.flatten(2)], dim=-1)
        for layer in self.convolutions:
            scalars = x[..., : self.width]
            ends = torch.cat([edges, scalars[:, self.senders], scalars[:, self.receivers]], dim=-1)
            x = layer(x, harmonics, ends, self.senders)
        # e3nn orders the components of l = 1 as x, y, z
        out = self.out(x).reshape(len(q), self.n, 2, 3) * self.scales[None, :, :, None]
        mixed = torch.einsum("kij,bjc->bikc", self.mixing, u)
        both = out + mixed
        return both[:, :, 0], both[:, :, 1]

    def forward(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and velocities a step later, atomic units, double precision, shape ``(b, n_atoms, 3)``."""
        root = self.masses.sqrt()[:, None]
        with torch.no_grad():
            first = self.response(q, v * root / self.unit)
        moved, fast = first[:, 0], first[:, 1]
        if self.layers:
            more = self.raw(q, v)
            moved, fast = moved + more[0], fast + more[1]
        q_next = q + moved * (self.step * self.unit) / root
        v_next = fast * self.unit / root
        return restore_momenta(q, v, q_next, v_next, self.step, self.masses)

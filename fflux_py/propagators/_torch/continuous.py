"""The predictor that is continuous in time: attention over atoms, equivariant, with the time embedded.

    x(t) = x0 + v0 t (1 - f) + f N(x0, v0, t),    f = 1 - exp(-(t / tau)^2),

is exact at t = 0 in position and velocity whatever the network N says; velocities are its derivative by t, a
Jacobian-vector product.  Atoms carry scalars and vectors.  In every layer each atom attends to all others: the weights
come from scalars and distances, what is gathered are scalars, vectors and unit vectors to the other atoms, and scalars
learn of vectors through inner products, the old velocities among them.  The time enters after the layers that do not
need it, so that many times of one start cost little more than one.  The attention corrects a response in local frames
that is found first, at ten times (:mod:`fflux_py.propagators._torch.response`); between them it is a polynomial in the
time.

Source: F. Ge, Y. Chen and P. O. Dral, Artificial intelligence for direct prediction of molecular dynamics across
chemical space (MDtrajNet-1), arXiv:2505.16301 (2025); the ansatz in time: F. Ge, L. Zhang, Y.-F. Hou, Y. Chen, A. Ullah
and P. O. Dral, J. Phys. Chem. Lett. 14, 7732 (2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fflux_py.propagators._torch.conservation import restore_momenta
from fflux_py.propagators._torch.frames import Frames
from fflux_py.propagators._torch.graph import RADIAL, radial_basis
from fflux_py.propagators._torch.residual import Residual
from fflux_py.propagators._torch.response import LocalResponse

HEADS = 4
WAVES = 4
"""Cosines in the embedding of the time."""

NODES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 1.0)
"""Times of the response in units of the segment, denser at both ends, as a polynomial wants them.

A training takes those frames of its trajectories that lie next to them.
"""


class Attention(nn.Module):
    """One layer: scalars ``(b, n, f)`` and vectors ``(b, n, 3, f)`` to the same.

    Parameters
    ----------
    width
        Number of scalars and of vectors of an atom.
    """

    others: Tensor

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.ends = nn.Linear(width, 2 * HEADS)
        self.weights = nn.Linear(2 * RADIAL, HEADS + 2 * width)
        self.values = nn.Linear(width, width)
        self.mix = nn.Linear(width, 3 * width, bias=False)
        self.update = nn.Sequential(nn.Linear(3 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 3 * width))
        self.register_buffer("others", ~torch.eye(n, dtype=torch.bool))

    def forward(self, s: Tensor, v: Tensor, units: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Layer on scalars, vectors, unit vectors ``(b, n, n, 3)`` from sender to receiver, edges ``(b, n, n, e)``."""
        width = self.width
        pair = self.weights(edges)
        ends = self.ends(s)
        score = ends[:, :, None, :HEADS] + ends[:, None, :, HEADS:] + pair[..., :HEADS]
        score = score.masked_fill(~self.others[None, :, :, None], -torch.inf)
        share = torch.softmax(score, dim=2)
        share = share.repeat_interleave(width // HEADS, dim=-1)
        along, through = share * pair[..., HEADS : HEADS + width], share * pair[..., HEADS + width :]
        values = self.values(s)
        gathered = torch.einsum("bijf,bjf->bif", share, values)
        vectors = torch.einsum("bijf,bjcf->bicf", through, v)
        vectors = vectors + torch.einsum("bijf,bijc,bjf->bicf", along, units, values)
        a, b, c = self.mix(v + vectors).chunk(3, dim=-1)
        update = self.update(torch.cat([s, gathered, (a * b).sum(2)], dim=-1))
        gain, keep, change = update.chunk(3, dim=-1)
        return s + change, v * (1.0 + keep[:, :, None]) + c * gain[:, :, None] + vectors


def interpolation(nodes: Sequence[float]) -> Tensor:
    """Coefficients of the powers 1, t, t^2, ... in the Lagrange polynomials of the nodes, ``(powers, nodes)``."""
    times = torch.tensor(nodes, dtype=torch.float64)
    powers = torch.arange(len(times), dtype=torch.float64)
    matrix: Tensor = torch.linalg.inv(times[:, None] ** powers)
    return matrix


class ContinuousNet(nn.Module):
    """Positions and velocities at any time of a segment.

    Parameters
    ----------
    index
        Frames, pairs and dihedrals, for the response that the network corrects.
    masses
        Electron masses, shape ``(n_atoms,)``.
    segment, unit
        Longest time in atomic units, and the thermal unit e = sqrt(kT) of mass-weighted velocities.
    tau
        Of the ansatz, in units of ``segment``.
    width, layers
        Scalars and vectors of an atom, layers without the time; one more has it.  Without any layer there is not that
        one either, and the response is alone.
    nodes
        Times of the response in units of the segment.
    hidden
        Width of the response's perceptron; 0 for none.
    """

    masses: Tensor
    lagrange: Tensor

    def __init__(
        self, index: Frames, masses: Tensor, segment: float, unit: float, width: int = 48, layers: int = 3,
        tau: float = 0.5, nodes: Sequence[float] = NODES, hidden: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        n = len(masses)
        self.n, self.segment, self.unit, self.tau, self.width, self.layers = n, segment, unit, tau, width, layers
        self.register_buffer("masses", masses.double())
        self.nodes = tuple(nodes)
        self.register_buffer("lagrange", interpolation(nodes))
        self.response = LocalResponse(index, masses.double().sqrt(), len(nodes), hidden)
        self.residual = Residual(index.frames)
        if not layers:
            return
        self.embedding = nn.Parameter(torch.randn(n, width))
        self.spreading = nn.Parameter(torch.randn(n, width))
        self.edge_embedding = nn.Parameter(torch.randn(n, n, RADIAL))
        self.trunk = nn.ModuleList(Attention(n, width) for _ in range(layers))
        self.last = Attention(n, width)
        self.time = nn.Sequential(nn.Linear(WAVES + 1, width), nn.SiLU(), nn.Linear(width, 2 * width))
        last, mixed = nn.Linear(width, width), nn.Linear(width, n * n)
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)
        self.mixing = nn.Sequential(nn.Linear(WAVES + 1, width), nn.SiLU(), mixed)
        for layer in (last, mixed):  # the response alone at first
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode(self, q: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """What does not depend on the time."""
        weighted = v * self.masses.sqrt()[:, None] / self.unit
        with torch.no_grad():
            nodes = self.response(q, weighted)
        powers = torch.einsum("pk,bkic->bpic", self.lagrange, nodes)
        u = weighted.float()
        return (*self.features(q, u), u, powers)

    def features(self, q: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        """Scalars and vectors of the atoms, unit vectors and inputs of the edges; nothing without layers."""
        if not self.layers:
            return ()
        arms = (q[:, :, None] - q[:, None]).float()
        eye = torch.eye(self.n, dtype=torch.float32)[..., None]
        distance = (arms + eye).norm(dim=-1)
        units = arms / distance[..., None]
        edges = torch.cat([radial_basis(distance), self.edge_embedding.expand(len(q), -1, -1, -1)], dim=-1)
        s = self.embedding.expand(len(q), -1, -1)
        x = u[..., None] * self.spreading[None, :, None, :]
        for layer in self.trunk:
            s, x = layer(s, x, units, edges)
        return s, x, units, edges

    def displacement(self, code: tuple[Tensor, ...], t: Tensor) -> Tensor:
        """Mass-weighted displacement in units of ``segment * unit`` at times ``t`` (units of the segment), ``(b,)``."""
        u, powers = code[-2:]
        # Horner's rule, in double precision: the terms of a polynomial cancel
        response = powers[:, -1]
        for k in range(powers.shape[1] - 2, -1, -1):
            response = response * t[:, None, None] + powers[:, k]
        network = response + self.correction(code, t) if self.layers else response
        f = self.switch(t)[:, None, None]
        moved: Tensor = u * t[:, None, None] * (1.0 - f) + f * network
        return moved

    def correction(self, code: tuple[Tensor, ...], t: Tensor) -> Tensor:
        """What the layers add to the response."""
        s, x, units, edges, u = code[:5]
        single = t.to(u.dtype)
        waves = [torch.cos(torch.pi * k * single) for k in range(1, WAVES + 1)]
        embedded = torch.stack([single, *waves], dim=-1)
        shift, scale = self.time(embedded)[:, None].chunk(2, dim=-1)
        s, x = self.last(s + shift, x * (1.0 + scale[:, :, None]), units, edges)
        out = (x * self.head(s)[:, :, None]).mean(-1)
        mixing = self.mixing(embedded).reshape(-1, self.n, self.n)
        corrected: Tensor = out + single[:, None, None] * torch.einsum("bij,bjc->bic", mixing, u)
        return corrected

    def moves(self, order: int) -> Tensor:
        """Displacements at the nodes (order 0), or their rates (1), by the vectors there; ``(nodes, nodes)``."""
        t = torch.tensor(self.nodes, dtype=torch.float64)
        powers = torch.arange(len(t), dtype=torch.float64)
        f = self.switch(t)[:, None]
        values: Tensor = f * (t[:, None] ** powers)
        if order == 1:
            fall = (2.0 * t / self.tau**2)[:, None] * (1.0 - f)
            values = fall * (t[:, None] ** powers) + f * powers * t[:, None] ** (powers - 1.0).clamp_min(0.0)
        return values @ self.lagrange

    def switch(self, t: Tensor) -> Tensor:
        """The f of the ansatz, of times in units of the segment."""
        return -torch.expm1(-((t / self.tau) ** 2))

    def forward(self, q: Tensor, v: Tensor, t: Tensor, code: tuple[Tensor, ...] | None = None) -> tuple[Tensor, Tensor]:
        """Positions and velocities at times ``t`` (atomic units, shape ``(b,)``), momenta restored."""
        code = self.encode(q, v) if code is None else code
        scaled = t / self.segment
        moved, rate = torch.func.jvp(  # type: ignore[misc]
            lambda s: self.displacement(code, s), (scaled,), (torch.ones_like(scaled),)
        )
        root = self.masses.sqrt()[:, None]
        q_next = q + moved * (self.segment * self.unit) / root
        return restore_momenta(q, v, q_next, rate * self.unit / root, t, self.masses)

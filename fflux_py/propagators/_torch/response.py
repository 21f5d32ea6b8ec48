"""Response in local frames: a polynomial that least squares finds in one solution, and a perceptron on top of it.

In every atom's local frame, what a step does is written as a polynomial of second order in the shape x (inverse
distances, cosines and sines of dihedrals) and in s, the velocities of all atoms in their own frames: harmonic motion is
of first order, with constant coefficients, and cubic terms of the potential add the second.  Mirror images are kept
apart: z components of local frames and sines are odd, and an odd component is made of odd terms only, so that the
response commutes with reflections too.  The perceptron has the same variables and the same outputs, for what the
polynomial leaves; it is the mean of itself and of its mirror image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fflux_py.propagators._torch.frames import (
    Frames,
    into_local,
    local_axes,
    local_velocities,
    out_of_local,
    shape_features,
    without_drift,
)

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Relative to the mean diagonal of the normal equations; held-out trajectories choose."""

BLOCK = 256


class LocalResponse(nn.Module):
    """Mass-weighted vectors of every atom (displacements, velocities), from buffers that :meth:`fit` fills.

    Parameters
    ----------
    index
        Frames, pairs and dihedrals.
    roots
        Square roots of the masses, shape ``(n_atoms,)``.
    outputs
        Number of vectors of an atom.
    hidden
        Width of the three hidden layers of the perceptron; 0 for none.
    """

    frames: Tensor
    pairs: Tensor
    dihedrals: Tensor
    roots: Tensor
    centre: Tensor
    spread: Tensor
    upper: Tensor
    upper_odd: Tensor
    even: Tensor
    odd: Tensor
    spread_odd: Tensor
    size: Tensor

    def __init__(self, index: Frames, roots: Tensor, outputs: int, hidden: int = 0) -> None:
        super().__init__()
        for name, part in zip(Frames._fields, index, strict=True):
            self.register_buffer(name, part)
        self.register_buffer("roots", roots)
        n, d = len(roots), len(index.dihedrals)
        self.n, self.n_even, self.outputs = n, len(index.pairs) + d, outputs
        double = torch.float64
        self.register_buffer("centre", torch.zeros(self.n_even, dtype=double))
        self.register_buffer("spread", torch.ones(self.n_even, dtype=double))
        # the even variables are the even features and 2 n velocities, the odd ones the sines and n velocities
        e, o = self.n_even + 2 * n, d + n
        self.register_buffer("upper", torch.triu_indices(e, e))
        self.register_buffer("upper_odd", torch.triu_indices(o, o))
        n_even = 1 + e + self.upper.shape[1] + self.upper_odd.shape[1]
        self.register_buffer("even", torch.zeros(n_even, 2 * n * outputs, dtype=double))
        self.register_buffer("odd", torch.zeros(o + e * o, n * outputs, dtype=double))
        self.perceptron: nn.Sequential | None = None
        if hidden:
            self.perceptron = nn.Sequential(
                nn.Linear(e + o, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden),
                nn.SiLU(), nn.Linear(hidden, 3 * n * outputs),
            )  # fmt: skip
            self.register_buffer("spread_odd", torch.ones(o, dtype=double))
            self.register_buffer("size", torch.ones((), dtype=double))

    def _variables(self, q: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Even and odd variables of geometries."""
        x = shape_features(q, self.pairs, self.dihedrals)
        even, odd = (x[:, : self.n_even] - self.centre) / self.spread, x[:, self.n_even :]
        s = local_velocities(q, u, self.roots, self.frames).reshape(len(q), self.n, 3)
        even = torch.cat([even, s[..., :2].flatten(1)], dim=1)
        return even, torch.cat([odd, s[..., 2]], dim=1)

    def _terms(self, even: Tensor, odd: Tensor) -> tuple[Tensor, Tensor]:
        """Even and odd terms of variables, shapes ``(b, n_even)`` and ``(b, n_odd)``."""
        squares = even[:, self.upper[0]] * even[:, self.upper[1]]
        odd_squares = odd[:, self.upper_odd[0]] * odd[:, self.upper_odd[1]]
        mixed = (even[:, :, None] * odd[:, None]).flatten(1)
        one = torch.ones_like(even[:, :1])
        return torch.cat([one, even, squares, odd_squares], dim=1), torch.cat([odd, mixed], dim=1)

    def _inner(self, q: Tensor, vectors: Tensor) -> Tensor:
        """Local components of vectors, without the motion of the centre of mass, shape ``(b, k, n, 3)``."""
        return into_local(local_axes(q, self.frames)[:, None], without_drift(vectors, self.roots))

    def _local(self, q: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Even and odd local components of vectors ``(b, k, n, 3)``: shapes ``(b, 2 n k)`` and ``(b, n k)``."""
        inner = self._inner(q, vectors)
        return inner[..., :2].flatten(1), inner[..., 2].flatten(1)

    def fit(self, q: Tensor, u: Tensor, vectors: Tensor, held_out: tuple[Tensor, Tensor, Tensor]) -> None:
        """Ridge regression: positions (bohr), mass-weighted velocities ``(b, n, 3)``, the vectors ``(b, k, n, 3)``.

        ``held_out`` is the same of other trajectories.
        """
        x = shape_features(q, self.pairs, self.dihedrals)[:, : self.n_even]
        self.centre.copy_(x.mean(0))
        self.spread.copy_(x.std(0).clamp_min(1e-6))
        held_out_terms = self._terms(*self._variables(*held_out[:2])), self._local(held_out[0], held_out[2])
        for coefficients, part in ((self.even, 0), (self.odd, 1)):
            size = len(coefficients)
            normal = torch.zeros(size, size, dtype=torch.float64)
            right = torch.zeros(size, coefficients.shape[1], dtype=torch.float64)
            for first in range(0, len(q), BLOCK):
                cut = slice(first, first + BLOCK)
                terms = self._terms(*self._variables(q[cut], u[cut]))[part]
                normal.addmm_(terms.T, terms)
                right.addmm_(terms.T, self._local(q[cut], vectors[cut])[part])
            scale, before, best = normal.diagonal().mean(), 0.0, float("inf")
            for ridge in RIDGES:
                normal.diagonal().add_((ridge - before) * scale)
                before = ridge
                solution = torch.cholesky_solve(right, torch.linalg.cholesky(normal))
                error = float((held_out_terms[0][part] @ solution - held_out_terms[1][part]).norm())
                if error < best:
                    best = error
                    coefficients.copy_(solution)
        if self.perceptron is not None:
            self.spread_odd.copy_(self._variables(q, u)[1].std(0).clamp_min(1e-6))
            self.size.copy_(self.remainder(*held_out)[1].std())

    def remainder(self, q: Tensor, u: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What the perceptron learns: its variables, and the local components that the polynomial leaves.

        Shapes ``(b, variables)``, ``(b, k, n, 3)``, in single precision.
        """
        parts = []
        for first in range(0, len(q), BLOCK):
            cut = slice(first, first + BLOCK)
            even, odd = self._variables(q[cut], u[cut])
            inputs = torch.cat([even, odd / self.spread_odd], dim=1)
            remainder = self._inner(q[cut], vectors[cut]) - self._polynomial(even, odd)
            parts.append((inputs.float(), remainder.float()))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def correction(self, inputs: Tensor) -> Tensor:
        """The perceptron's answer in units of ``size``, odd where it has to be, shape ``(b, k, n, 3)``."""
        assert self.perceptron is not None
        n_even = inputs.shape[1] - len(self.spread_odd)
        mirrored = torch.cat([inputs[:, :n_even], -inputs[:, n_even:]], dim=1)
        both = self.perceptron(torch.cat([inputs, mirrored])).reshape(2, len(inputs), self.outputs, self.n, 3)
        flip = torch.tensor([1.0, 1.0, -1.0], dtype=both.dtype)
        answer: Tensor = 0.5 * (both[0] + both[1] * flip)
        return answer

    def _polynomial(self, even: Tensor, odd: Tensor) -> Tensor:
        b, k, n = len(even), self.outputs, self.n
        terms = self._terms(even, odd)
        parts = (terms[0] @ self.even).reshape(b, k, n, 2), (terms[1] @ self.odd).reshape(b, k, n, 1)
        return torch.cat(parts, dim=-1)

    def forward(self, q: Tensor, u: Tensor) -> Tensor:
        """The vectors, shape ``(b, k, n, 3)``, without the motion of the centre of mass."""
        even, odd = self._variables(q, u)
        local = self._polynomial(even, odd)
        if self.perceptron is not None:
            dtype = next(self.perceptron.parameters()).dtype
            local = local + self.size * self.correction(torch.cat([even, odd / self.spread_odd], dim=1).to(dtype))
        return out_of_local(local_axes(q, self.frames)[:, None], local)

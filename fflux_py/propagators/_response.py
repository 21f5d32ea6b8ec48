"""Linear response in local frames: the part of a long step that least squares finds, in one solution.

In every atom's local frame, what a step does is written as a polynomial of second order in the shape x (inverse
distances, cosines and sines of dihedrals) and in s, the velocities of all atoms in their own frames: harmonic motion is
of first order, with constant coefficients, and cubic terms of the potential add the second.  Mirror images are kept
apart: z components of local frames and sines are odd, and an odd component is made of odd terms only, so that the
response commutes with reflections too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fflux_py.propagators._frames import Frames, local_axes, local_velocities, shape_features, without_drift

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

    def __init__(self, index: Frames, roots: Tensor, outputs: int) -> None:
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

    def _terms(self, q: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Even and odd terms of geometries, shapes ``(b, n_even)`` and ``(b, n_odd)``."""
        x = shape_features(q, self.pairs, self.dihedrals)
        even, odd = (x[:, : self.n_even] - self.centre) / self.spread, x[:, self.n_even :]
        s = local_velocities(q, u, self.roots, self.frames).reshape(len(q), self.n, 3)
        even = torch.cat([even, s[..., :2].flatten(1)], dim=1)
        odd = torch.cat([odd, s[..., 2]], dim=1)
        squares = even[:, self.upper[0]] * even[:, self.upper[1]]
        odd_squares = odd[:, self.upper_odd[0]] * odd[:, self.upper_odd[1]]
        mixed = (even[:, :, None] * odd[:, None]).flatten(1)
        one = torch.ones_like(even[:, :1])
        return torch.cat([one, even, squares, odd_squares], dim=1), torch.cat([odd, mixed], dim=1)

    def _local(self, q: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Even and odd local components of vectors ``(b, k, n, 3)``: shapes ``(b, 2 n k)`` and ``(b, n k)``."""
        inner = (local_axes(q, self.frames)[:, None] @ without_drift(vectors, self.roots)[..., None])[..., 0]
        return inner[..., :2].flatten(1), inner[..., 2].flatten(1)

    def fit(self, q: Tensor, u: Tensor, vectors: Tensor, held_out: tuple[Tensor, Tensor, Tensor]) -> None:
        """Ridge regression: positions (bohr), mass-weighted velocities ``(b, n, 3)``, the vectors ``(b, k, n, 3)``.

        ``held_out`` is the same of other trajectories.
        """
        x = shape_features(q, self.pairs, self.dihedrals)[:, : self.n_even]
        self.centre.copy_(x.mean(0))
        self.spread.copy_(x.std(0).clamp_min(1e-6))
        judged = self._terms(*held_out[:2]), self._local(held_out[0], held_out[2])
        for coefficients, part in ((self.even, 0), (self.odd, 1)):
            size = len(coefficients)
            normal = torch.zeros(size, size, dtype=torch.float64)
            right = torch.zeros(size, coefficients.shape[1], dtype=torch.float64)
            for first in range(0, len(q), BLOCK):
                cut = slice(first, first + BLOCK)
                terms = self._terms(q[cut], u[cut])[part]
                normal.addmm_(terms.T, terms)
                right.addmm_(terms.T, self._local(q[cut], vectors[cut])[part])
            scale, before, best = normal.diagonal().mean(), 0.0, float("inf")
            for ridge in RIDGES:
                normal.diagonal().add_((ridge - before) * scale)
                before = ridge
                found = torch.cholesky_solve(right, torch.linalg.cholesky(normal))
                wrong = float((judged[0][part] @ found - judged[1][part]).norm())
                if wrong < best:
                    best = wrong
                    coefficients.copy_(found)

    def forward(self, q: Tensor, u: Tensor) -> Tensor:
        """The vectors, shape ``(b, k, n, 3)``, without the motion of the centre of mass."""
        b, k, n = len(q), self.outputs, self.n
        even, odd = self._terms(q, u)
        local = torch.cat([(even @ self.even).reshape(b, k, n, 2), (odd @ self.odd).reshape(b, k, n, 1)], dim=-1)
        return (local[..., None, :] @ local_axes(q, self.frames)[:, None])[..., 0, :]

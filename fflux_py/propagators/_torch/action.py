"""The learned action: a generating function of the midpoint, and Newton's method that solves for the step.

Coordinates are mass-weighted and in units of the step h: y = sqrt(m) q / (h e), u = p / (sqrt(m) e) with a thermal
unit e = sqrt(kT), so that all numbers are of the order of one.  With the generator S / (h e^2), still called S, the map
z = (y, u) -> z' is

    y' - y = dS/du (zb),    u' - u = -dS/dy (zb),    zb = (z + z') / 2

(the midpoint, or Poincare, generating function).  It is symplectic for any smooth S; it is time-reversible if S is even
in u; it conserves momentum and angular momentum if S is invariant to translation and rotation.  S = T + V gives the
implicit midpoint rule; exact dynamics of a harmonic mode has S = (2 / wh) tan(wh / 2) H, with a pole at wh = pi.

Source: F. Bigi and M. Ceriotti, Learning the action for long-time-step simulations of molecular dynamics,
arXiv:2508.01068 (2025); E. Hairer, C. Lubich and G. Wanner, Geometric Numerical Integration (2006), section VI.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, jacfwd, vmap

from fflux_py.errors import ConvergenceError
from fflux_py.propagators._torch import action_compiled as compiled
from fflux_py.propagators._torch.frames import Frames, local_velocities, shape_features

Generator = Callable[[Tensor, Tensor], Tensor]
"""S(y, u) of one geometry, shapes ``(n_atoms, 3)``; a scalar tensor."""

TOLERANCE = 1e-11
ITERATIONS = 30


class Solved(NamedTuple):
    """End of a step, shapes ``(b, n_atoms, 3)``, the iterations it took, and the largest residual."""

    y: Tensor
    u: Tensor
    iterations: int
    residual: float


def _symplectic_gradient(generator: Generator, n: int) -> Callable[[Tensor], Tensor]:
    """J grad S as a function of one z, shape ``(6 n_atoms,)``."""

    def scalar(z: Tensor) -> Tensor:
        return generator(z[: 3 * n].reshape(n, 3), z[3 * n :].reshape(n, 3))

    def symplectic_gradient(z: Tensor) -> Tensor:
        slope = grad(scalar)(z)
        return torch.cat([slope[3 * n :], -slope[: 3 * n]])

    return symplectic_gradient


def solve_step(
    generator: Generator, y: Tensor, u: Tensor, guess: tuple[Tensor, Tensor] | None = None,
    tolerance: float = TOLERANCE, iterations: int = ITERATIONS,
) -> Solved:  # fmt: skip
    """Solve zb = z + J grad S(zb) / 2 by Newton's method and return z' = 2 zb - z.

    The 6N-dimensional Jacobian 1 - J H / 2 with the Hessian H of S is analytic (automatic differentiation).  It is
    computed afresh whenever an iteration does not reduce the residual a hundredfold, else kept.

    Parameters
    ----------
    generator
        S of one geometry.
    y, u
        Scaled coordinates, double precision, shape ``(b, n_atoms, 3)``.
    guess
        Where the end of the step may be, for example from a direct predictor; free flight if not given.
    tolerance, iterations
        Largest residual that counts as converged, and iterations after which the step is given up.

    Raises
    ------
    ConvergenceError
        Not converged, for example beyond the pole at wh = pi.
    """
    b, n = y.shape[0], y.shape[1]
    gradient = _symplectic_gradient(generator, n)
    gradients, jacobians = vmap(gradient), vmap(jacfwd(gradient))
    z = torch.cat([y.reshape(b, -1), u.reshape(b, -1)], dim=1)
    end = z + torch.cat([z[:, 3 * n :], torch.zeros_like(z[:, 3 * n :])], dim=1)
    if guess is not None:
        end = torch.cat([guess[0].reshape(b, -1), guess[1].reshape(b, -1)], dim=1)
    middle = 0.5 * (z + end)
    unit = torch.eye(6 * n, dtype=z.dtype)
    factors: Any = None
    before = float("inf")
    for iteration in range(iterations):
        residual = middle - z - 0.5 * gradients(middle)
        size = float(residual.abs().max())
        if size < tolerance:
            end = 2.0 * middle - z
            return Solved(end[:, : 3 * n].reshape(b, n, 3), end[:, 3 * n :].reshape(b, n, 3), iteration, size)
        if not size < 1e6:
            break
        if factors is None or size > 1e-2 * before:
            factors = torch.linalg.lu_factor(unit - 0.5 * jacobians(middle))
        before = size
        middle = middle - torch.linalg.lu_solve(*factors, residual[..., None])[..., 0]
    raise _not_converged(iterations, size)


class ActionSolver:
    """The same steps of one trained action, compiled, each begun with the inverse Jacobian that the last one left.

    The residual of a step is below :data:`TOLERANCE` whatever it began with; its last bits depend on that.

    Parameters
    ----------
    net
        The action; its weights are copied.
    """

    def __init__(self, net: ActionNet) -> None:
        self._arrays = net.arrays()
        self._inverse = np.empty((0, 6 * net.n, 6 * net.n))

    def solve(self, y: Tensor, u: Tensor, guess: tuple[Tensor, Tensor] | None = None) -> Solved:
        """As :func:`solve_step`, by Broyden's method (:mod:`fflux_py.propagators._torch.action_compiled`)."""
        b, n = y.shape[0], y.shape[1]
        z = torch.cat([y.reshape(b, -1), u.reshape(b, -1)], dim=1).numpy()
        if guess is None:
            end = z.copy()
            end[:, : 3 * n] += z[:, 3 * n :]
        else:
            end = torch.cat([guess[0].reshape(b, -1), guess[1].reshape(b, -1)], dim=1).numpy()
        fresh = len(self._inverse) != b
        if fresh:
            self._inverse = np.empty((b, 6 * n, 6 * n))
        most, largest = 0, 0.0
        for k in range(b):
            needed, size = compiled.solve(
                z[k], end[k], self._arrays, self._inverse[k], fresh, TOLERANCE, 2 * ITERATIONS
            )
            if not size < TOLERANCE:
                self._inverse = np.empty((0, 6 * n, 6 * n))
                raise _not_converged(2 * ITERATIONS, size)
            most, largest = max(most, needed), max(largest, size)
        solution = torch.from_numpy(end)
        return Solved(solution[:, : 3 * n].reshape(b, n, 3), solution[:, 3 * n :].reshape(b, n, 3), most, largest)


def _not_converged(iterations: int, residual: float) -> ConvergenceError:
    return ConvergenceError(
        "action", f"the step's equations solved in {iterations} iterations", f"residual {residual:.2g}",
        "start nearer (a direct predictor), or use a model of a shorter step: there is a pole at half a period",
    )  # fmt: skip


class ActionNet(nn.Module):
    """S(y, u) = u.u / 2 + V(x) + [s.A(x).s / 2 + B(x) + E(x, s)].

    x are the features of :func:`shape_features`, centred and scaled, s those of :func:`local_velocities`; both are
    invariant to rotation and translation.  V is quadratic in x: a potential, and with the bracket at zero the map is
    the implicit midpoint rule for it.  A and B are one network's outputs, E is another's, symmetrised to
    [N(x, s) + N(x, -s)] / 2, so that S is even in u.

    Parameters
    ----------
    index
        Frames, pairs and dihedrals.
    masses
        Electron masses, shape ``(n_atoms,)``.
    length
        The unit of y in bohr times root mass: h e.
    width
        Of the hidden layers.
    even
        False leaves the symmetrisation out: a negative control that is not time-reversible.
    """

    frames: Tensor
    pairs: Tensor
    dihedrals: Tensor
    roots: Tensor
    centre: Tensor
    spread: Tensor
    lower: Tensor

    def __init__(self, index: Frames, masses: Tensor, length: float, width: int = 64, even: bool = True) -> None:
        super().__init__()
        n = len(masses)
        k = len(index.pairs) + 2 * len(index.dihedrals)
        self.n, self.k, self.width, self.even, self.length = n, k, width, even, length
        for name, part in zip(Frames._fields, index, strict=True):
            self.register_buffer(name, part)
        self.register_buffer("roots", masses.sqrt())
        self.register_buffer("centre", torch.zeros(k, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(k, dtype=torch.float64))
        lower = torch.tril_indices(3 * n, 3 * n)
        self.register_buffer("lower", lower)
        self.linear = nn.Parameter(torch.zeros(k, dtype=torch.float64))
        self.quadratic = nn.Parameter(torch.zeros(k, k, dtype=torch.float64))
        self.metric = nn.Parameter(torch.zeros(lower.shape[1], dtype=torch.float64))
        self.shape_net = _mlp(k, width, lower.shape[1] + 1)
        self.even_net = _mlp(k + 3 * n, width, 1)

    def features(self, y: Tensor) -> Tensor:
        """The features x of scaled coordinates."""
        q = y * self.length / self.roots[:, None]
        return (shape_features(q, self.pairs, self.dihedrals) - self.centre) / self.spread

    def potential(self, x: Tensor) -> Tensor:
        """V of features."""
        return (x * self.linear).sum(-1) + 0.5 * (x * (x @ (self.quadratic + self.quadratic.T))).sum(-1)

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        """S, shape ``(...)``, of scaled coordinates ``(..., n_atoms, 3)``."""
        x = self.features(y)
        s = local_velocities(y / self.roots[:, None], u, self.roots, self.frames)
        kinetic = 0.5 * (u * u).sum((-2, -1))
        return kinetic + self.potential(x) + self.residual(x, s)

    def residual(self, x: Tensor, s: Tensor) -> Tensor:
        """What goes beyond the implicit midpoint rule."""
        out = self.shape_net(x)
        # both halves of a symmetric matrix at once: the diagonal once, the rest twice, with the factor 1/2 outside
        products = s[..., self.lower[0]] * s[..., self.lower[1]]
        value: Tensor = 0.5 * ((self.metric + out[..., 1:]) * products).sum(-1) + out[..., 0]
        forward: Tensor = self.even_net(torch.cat([x, s], dim=-1))[..., 0]
        if not self.even:
            return value + forward
        backward: Tensor = self.even_net(torch.cat([x, -s], dim=-1))[..., 0]
        return value + 0.5 * (forward + backward)

    def arrays(self) -> compiled.ActionArrays:
        """A copy of everything as arrays for the compiled functions."""

        def plain(tensor: Tensor) -> Any:
            return np.array(tensor.detach().numpy(), order="C")

        def layers(net: nn.Sequential) -> compiled.Layers:
            return compiled.Layers(*(plain(part) for part in net.parameters()))

        return compiled.ActionArrays(
            plain(self.frames), plain(self.pairs), plain(self.dihedrals), plain(self.roots), plain(self.centre),
            plain(self.spread), plain(self.lower), plain(self.linear), plain(self.quadratic + self.quadratic.T),
            plain(self.metric), float(self.length), bool(self.even), layers(self.shape_net), layers(self.even_net),
        )  # fmt: skip

    def without_residual(self) -> Generator:
        """The generator with the bracket at zero: the implicit midpoint rule."""
        return lambda y, u: 0.5 * (u * u).sum((-2, -1)) + self.potential(self.features(y))


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Two smooth hidden layers in double precision; the last layer starts small."""
    last = nn.Linear(width, outputs)
    net = nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), last).double()
    with torch.no_grad():
        last.weight.mul_(0.01)
        last.bias.zero_()
    return net


def increments(net: nn.Module, y: Tensor, u: Tensor, graph: bool = False) -> tuple[Tensor, Tensor]:
    """(dS/du, -dS/dy) at midpoints, shapes ``(b, n_atoms, 3)``: what a step adds to y and u."""
    y, u = y.detach().requires_grad_(), u.detach().requires_grad_()
    by_y, by_u = torch.autograd.grad(net(y, u).sum(), (y, u), create_graph=graph)
    return by_u, -by_y


def fit_quadratic(net: ActionNet, y: Tensor, u: Tensor, dy: Tensor, du: Tensor, ridge: float = 1e-6) -> None:
    """Linear least squares for V and for a constant A: the start of training, in one solution.

    Parameters
    ----------
    net
        Changed in place; its networks' small random outputs are left out.
    y, u, dy, du
        Midpoints and increments, shape ``(b, n_atoms, 3)``.
    ridge
        Relative to the mean diagonal of the normal equations.
    """
    x = net.features(y)
    with torch.no_grad():
        net.centre.copy_(net.centre + net.spread * x.mean(0))
        net.spread.copy_(net.spread * x.std(0).clamp_min(1e-6))
    upper = torch.triu_indices(net.k, net.k)
    low = net.lower

    def basis(z: Tensor) -> Tensor:
        """Every term of S that is linear in a parameter."""
        x = net.features(z[0])
        s = local_velocities(z[0] / net.roots[:, None], z[1], net.roots, net.frames)
        return torch.cat([x, x[upper[0]] * x[upper[1]], 0.5 * s[low[0]] * s[low[1]]])

    def columns(z: Tensor) -> Tensor:
        slope = jacfwd(basis)(z)
        return torch.stack([slope[:, 1], -slope[:, 0]], dim=1).flatten(1)

    size = net.k + upper.shape[1] + low.shape[1]
    normal, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for first in range(0, len(y), 32):
        part = slice(first, first + 32)
        rows = vmap(columns)(torch.stack([y[part], u[part]], dim=1)).transpose(1, 2).flatten(0, 1).detach()
        target = torch.stack([dy[part] - u[part], du[part]], dim=1).flatten()
        normal += rows.T @ rows
        right += rows.T @ target
    normal.diagonal().add_(ridge * normal.diagonal().mean())
    solution = torch.linalg.solve(normal, right)
    with torch.no_grad():
        net.linear.copy_(solution[: net.k])
        net.quadratic.zero_()
        net.quadratic[upper[0], upper[1]] = solution[net.k : net.k + upper.shape[1]]
        net.metric.copy_(solution[net.k + upper.shape[1] :])

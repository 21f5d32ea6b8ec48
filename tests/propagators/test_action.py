"""The learned action: exact limits, structure of the map, Newton's method."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fflux_py.errors import ConvergenceError
from fflux_py.typing import FloatArray
from fflux_py.units import FEMTOSECOND, WAVENUMBER
from tests.support.synthetic import methanol

torch = pytest.importorskip("torch")
pytest.importorskip("e3nn")
pytest.importorskip("pytorch_optimizer")
pytest.importorskip("safetensors")

from fflux_py.propagators._torch import action as _action  # noqa: E402
from fflux_py.propagators._torch import action_compiled as compiled  # noqa: E402
from fflux_py.propagators._torch import network as _networks  # noqa: E402
from fflux_py.propagators.propagator import Header  # noqa: E402

ROOT = np.sqrt(np.repeat(methanol().masses, 3))


def spring_frequencies(step_fs: float) -> tuple[FloatArray, FloatArray]:
    """w h of a molecule of springs between all atoms at rest, and its orthonormal mass-weighted modes."""
    molecule = methanol()
    n = molecule.n_atoms
    hessian = np.zeros((n, 3, n, 3))
    for i in range(n):
        for j in range(i):
            arm = molecule.positions[i] - molecule.positions[j]
            length = float(np.linalg.norm(arm))
            block = (0.45 if (j, i) in molecule.bonds else 0.05) * np.exp(2.0 - length) * np.outer(arm, arm) / length**2
            hessian[i, :, i] += block
            hessian[j, :, j] += block
            hessian[i, :, j] -= block
            hessian[j, :, i] -= block
    values, modes = np.linalg.eigh(hessian.reshape(3 * n, 3 * n) / np.outer(ROOT, ROOT))
    return np.sqrt(np.maximum(values, 0.0)) * step_fs / FEMTOSECOND, modes


def quadratic(factors: FloatArray, wh: FloatArray, modes: FloatArray) -> _action.Generator:
    """S = sum over modes of factor (u^2 + (wh)^2 y^2) / 2."""
    kinetic = torch.from_numpy(modes @ np.diag(factors) @ modes.T)
    potential = torch.from_numpy(modes @ np.diag(factors * wh**2) @ modes.T)

    def generator(y: Any, u: Any) -> Any:
        y, u = y.flatten(), u.flatten()
        return 0.5 * (u @ kinetic @ u + y @ potential @ y)

    return generator


def start(seed: int, copies: int = 3) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    y, u = torch.randn(2, copies, 6, 3, dtype=torch.float64, generator=generator)
    return y, u


def flow(y: Any, u: Any, angles: FloatArray, wh: FloatArray, modes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rotation of every mode in its phase plane by an angle; free flight where there is no frequency."""
    a, b = y.numpy().reshape(len(y), -1) @ modes, u.numpy().reshape(len(u), -1) @ modes
    moving = wh > 1e-6
    c, s = np.cos(angles), np.sin(angles)
    over = np.where(moving, s / np.where(moving, wh, 1.0), 1.0)
    a_next, b_next = c * a + over * b, c * b - wh * s * a
    return (a_next @ modes.T).reshape(y.shape), (b_next @ modes.T).reshape(u.shape)


@pytest.mark.parametrize("step", [0.5, 2.0, 4.0])
def test_harmonic_molecule_with_the_tangent_is_exact(step: float) -> None:
    wh, modes = spring_frequencies(step)
    assert wh.max() * FEMTOSECOND / step * WAVENUMBER > 3000.0
    assert 0.3 < wh.max() < math.pi
    factors = np.where(wh > 1e-6, 2.0 / np.maximum(wh, 1e-9) * np.tan(0.5 * wh), 1.0)
    y, u = start(1)
    solved = _action.solve_step(quadratic(factors, wh, modes), y, u)
    q, p = flow(y, u, wh, wh, modes)
    assert np.abs(solved.y.numpy() - q).max() < 1e-8
    assert np.abs(solved.u.numpy() - p).max() < 1e-8


def test_generating_function_of_an_exact_flow_is_the_tangent() -> None:
    """The other way round: the matrix of S from that of the flow, by the Cayley transform, without any formula."""
    wh, _ = spring_frequencies(3.0)
    keep = wh > 1e-6
    for w in wh[keep]:
        matrix = np.array([[np.cos(w), np.sin(w) / w], [-w * np.sin(w), np.cos(w)]])
        symplectic = np.array([[0.0, 1.0], [-1.0, 0.0]])
        hessian = 2.0 * np.linalg.inv(symplectic) @ (matrix - np.eye(2)) @ np.linalg.inv(matrix + np.eye(2))
        wanted = 2.0 / w * np.tan(0.5 * w) * np.diag([w * w, 1.0])
        assert np.abs(hessian - wanted).max() < 1e-8 * np.abs(wanted).max()


def test_kinetic_plus_potential_is_the_implicit_midpoint_rule() -> None:
    """Its frequency is (2/h) arctan(wh/2)."""
    wh, modes = spring_frequencies(4.0)
    y, u = start(2)
    solved = _action.solve_step(quadratic(np.ones_like(wh), wh, modes), y, u)
    q, p = flow(y, u, 2.0 * np.arctan(0.5 * wh), wh, modes)
    assert np.abs(solved.y.numpy() - q).max() < 1e-8
    assert np.abs(solved.u.numpy() - p).max() < 1e-8


def header(**settings: Any) -> Header:
    molecule = methanol()
    return Header("action", molecule, molecule.masses, 2.0, settings={"width": 12, "even": True, **settings})


def random_action(seed: int = 0, strength: float = 0.3, **settings: Any) -> _networks.Network:
    """An action with random weights, large enough for its map to differ much from free flight."""
    head = header(**settings)
    torch.manual_seed(seed)
    net = _networks.build(head)
    y = torch.from_numpy(near_starts(1)[0] * np.sqrt(head.masses)[:, None])
    with torch.no_grad():
        scaled = y / (head.step / FEMTOSECOND * _networks.thermal_unit(head))
        net.centre.copy_(net.features(scaled)[0])
        net.spread.fill_(0.05)
        k = len(net.linear)
        net.quadratic.copy_(strength * torch.diag(torch.rand(k, dtype=torch.float64)))
        net.linear.copy_(0.1 * torch.randn(k, dtype=torch.float64))
        net.metric.copy_(0.1 * torch.randn(net.metric.shape, dtype=torch.float64))
        net.even_net[-1].weight.normal_(0.0, 1.5 * strength)
        net.shape_net[-1].weight.normal_(0.0, 0.1)
    return _networks.Network(head, net)


def near_starts(copies: int, seed: int = 3) -> tuple[FloatArray, FloatArray]:
    molecule = methanol()
    generator = np.random.default_rng(seed)
    root = np.sqrt(molecule.masses)[:, None]
    unit = _networks.thermal_unit(header())
    q = molecule.positions + 0.03 * generator.standard_normal((copies, 6, 3))
    return q, unit * generator.standard_normal((copies, 6, 3)) / root


def test_zero_residual_is_the_implicit_midpoint_rule_of_its_potential() -> None:
    """Against an iteration in Cartesian coordinates and atomic units that knows nothing of generating functions."""
    network = random_action(strength=0.1)
    net, head = network.net, network.header
    with torch.no_grad():
        for part in (net.metric, net.shape_net[-1].weight, net.even_net[-1].weight):
            part.zero_()
    length, unit, root = network.scales()

    def forces(q: FloatArray) -> FloatArray:
        y = torch.from_numpy(q * root / length).requires_grad_()
        energy = net.potential(net.features(y)).sum() * unit**2
        return -torch.autograd.grad(energy, y)[0].numpy() * root / length

    q, v = near_starts(2)
    h, masses = head.step / FEMTOSECOND, head.masses[:, None]
    q_next, v_next = q + h * v, v
    for _ in range(200):
        q_next, v_next = q + 0.5 * h * (v + v_next), v + h / masses * forces(0.5 * (q + q_next))
    found = network.advance(q, v, head.step)
    assert np.abs(q_next - q - h * v).max() > 1e-3
    assert np.abs(found[0] - q_next).max() < 1e-8
    assert np.abs(found[1] - v_next).max() * h < 1e-8


def scaled_step(network: _networks.Network, z: FloatArray) -> FloatArray:
    """The map in scaled coordinates, one z after the other in rows."""
    length, unit, root = network.scales()
    half = z.shape[1] // 2
    q = z[:, :half].reshape(-1, 6, 3) * length / root
    v = z[:, half:].reshape(-1, 6, 3) * unit / root
    q, v = network.advance(q, v, network.header.step)
    return np.concatenate([(q * root / length).reshape(len(z), -1), (v * root / unit).reshape(len(z), -1)], axis=1)


def test_map_is_symplectic() -> None:
    """M^T J M - J with M by differences of sixth order of whole steps, Newton's method and all."""
    network = random_action()
    length, unit, root = network.scales()
    q, v = near_starts(1)
    z = np.concatenate([(q * root / length).ravel(), (v * root / unit).ravel()])
    size, delta = len(z), 2e-3
    weights = {1: 0.75, 2: -0.15, 3: 1.0 / 60.0}
    jacobian = np.zeros((size, size))
    for k, weight in weights.items():
        shift = k * delta * np.eye(size)
        jacobian += weight * (scaled_step(network, z + shift) - scaled_step(network, z - shift)).T / delta
    form = np.kron(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.eye(size // 2))
    free = np.eye(size) + np.kron(np.array([[0.0, 1.0], [0.0, 0.0]]), np.eye(size // 2))
    assert np.abs(jacobian - free).max() > 0.1
    assert np.linalg.norm(jacobian.T @ form @ jacobian - form) < 1e-8


def reversal_error(network: _networks.Network) -> float:
    """Forward, flip the velocities, back: distance from the start in bohr."""
    q, v = near_starts(2)
    step = network.header.step
    a, b = q, v
    for _ in range(5):
        a, b = network.advance(a, b, step)
    b = -b
    for _ in range(5):
        a, b = network.advance(a, b, step)
    return float(np.abs(a - q).max())


def test_even_action_is_reversible() -> None:
    assert reversal_error(random_action()) < 1e-9


def test_action_without_the_symmetry_is_not() -> None:
    assert reversal_error(random_action(even=False)) > 1e-4


def test_momentum_and_angular_momentum_are_conserved_with_net_motion() -> None:
    network = random_action()
    q, v = near_starts(2)
    masses = network.header.masses

    def momenta(q: FloatArray, v: FloatArray) -> FloatArray:
        linear = np.einsum("i,ric->rc", masses, v)
        return np.concatenate([linear, np.einsum("i,ric->rc", masses, np.cross(q, v))], axis=1)

    before, energy = momenta(q, v), (masses[:, None] * v * v).sum()
    assert np.abs(before).max() > 1.0
    for _ in range(12):
        q, v = network.advance(q, v, network.header.step)
    assert np.abs(momenta(q, v) - before).max() < 1e-9
    assert abs((masses[:, None] * v * v).sum() / energy - 1.0) > 1e-3


def test_map_turns_and_moves_with_the_molecule() -> None:
    network = random_action()
    q, v = near_starts(2)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    shift = np.array([7.0, -3.0, 1.0])
    plain = network.advance(q, v, 2.0)
    moved = network.advance(q @ turn.T + shift, v @ turn.T, 2.0)
    assert np.abs(plain[0] @ turn.T + shift - moved[0]).max() < 1e-9
    assert np.abs(plain[1] @ turn.T - moved[1]).max() < 1e-12


@pytest.mark.parametrize("even", [True, False])
def test_compiled_field_is_that_of_automatic_differentiation(even: bool) -> None:
    network = random_action(even=even)
    y, u = scaled(network, 3)
    by_u, by_y = _action.increments(network.net, y, u)
    expected = torch.cat([by_u.flatten(1), by_y.flatten(1)], dim=1).numpy()
    arrays, out = network.net.arrays(), np.empty(expected.shape[1])
    for k, z in enumerate(torch.cat([y.flatten(1), u.flatten(1)], dim=1).numpy()):
        compiled.symplectic_gradient(z, arrays, out)
        np.testing.assert_allclose(out, expected[k], atol=1e-11)


def test_compiled_steps_are_those_of_newton() -> None:
    """Also after many steps on one inverse Jacobian, and when other geometries come in between."""
    network = random_action()
    y, u = scaled(network, 4)
    stepper = _action.ActionSolver(network.net)
    for _ in range(25):
        with torch.no_grad():
            newton = _action.solve_step(network.net, y, u)
        compiled = stepper.solve(y, u)
        assert compiled.residual < _action.TOLERANCE
        assert float((compiled.y - newton.y).abs().max()) < 1e-9
        assert float((compiled.u - newton.u).abs().max()) < 1e-9
        y, u = compiled.y.flip(0), compiled.u.flip(0)
    guided = stepper.solve(y, u, guess=tuple(newton[:2]))
    assert float((guided.y - stepper.solve(y, u).y).abs().max()) < 1e-9


def test_a_step_that_has_no_solution_is_an_error_and_leaves_no_trace() -> None:
    network = random_action()
    y, u = scaled(network, 2)
    stepper = _action.ActionSolver(network.net)
    before = stepper.solve(y, u)
    with pytest.raises(ConvergenceError, match="residual"):
        stepper.solve(y, 1e3 * u)
    assert float((stepper.solve(y, u).y - before.y).abs().max()) < 1e-9


def scaled(network: _networks.Network, copies: int) -> tuple[Any, Any]:
    """Starts near the minimum in the units of an action."""
    length, unit, root = network.scales()
    q, v = near_starts(copies)
    return torch.from_numpy(q * root / length), torch.from_numpy(v * root / unit)


def test_beyond_the_pole_is_an_error() -> None:
    """A quartic wall so steep that the midpoint equation has no solution near, or none at all."""

    def generator(y: Any, u: Any) -> Any:
        return 0.5 * (u * u).sum() - torch.sqrt(1.0 + (y * y).sum()) * (u * u).sum() * 40.0

    y, u = start(4, 1)
    with pytest.raises(ConvergenceError, match="action"):
        _action.solve_step(generator, 5.0 * y, 5.0 * u, iterations=8)


def test_least_squares_finds_a_quadratic_action() -> None:
    """Data from an action that is linear in the fitted parameters: recovered, also where it was not fitted."""
    network = random_action(strength=0.2)
    with torch.no_grad():
        network.net.shape_net[-1].weight.zero_()
        network.net.even_net[-1].weight.zero_()
    length, unit, root = network.scales()
    q, v = near_starts(40)
    y, u = torch.from_numpy(q * root / length), torch.from_numpy(v * root / unit)
    dy, du = _action.increments(network.net, y, u)
    torch.manual_seed(1)
    other = _networks.build(network.header)
    with torch.no_grad():
        other.shape_net[-1].weight.zero_()
        other.even_net[-1].weight.zero_()
    _action.fit_quadratic(other, y[:30], u[:30], dy[:30], du[:30], ridge=1e-12)
    found = _action.increments(other, y[30:], u[30:])
    assert float((found[0] - dy[30:]).norm() / (dy[30:] - u[30:]).norm()) < 0.05
    assert float((found[1] - du[30:]).norm() / du[30:].norm()) < 0.05

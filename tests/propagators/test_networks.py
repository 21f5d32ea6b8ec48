"""The predictors' symmetries and conservation laws, training, and the model file."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fflux_py.propagators
from fflux_py.errors import FileFormatError, InputError, MissingDependencyError, ModelMismatchError
from fflux_py.propagators.config import PropagatorTraining, held_out_errors, train_propagator
from fflux_py.propagators.propagator import Header, load_propagator
from fflux_py.propagators.trajectories import TrajectorySet
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, FEMTOSECOND
from tests.support.synthetic import MethanolPotential, methanol

torch = pytest.importorskip("torch")
pytest.importorskip("e3nn")
pytest.importorskip("pytorch_optimizer")
pytest.importorskip("safetensors")

from fflux_py.propagators._torch import network as _networks  # noqa: E402
from fflux_py.propagators._torch.frames import local_axes  # noqa: E402

STEPS = {"direct": 4.0, "continuous": 8.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "direct": {"width": 8, "layers": 2, "hidden": 8}, "continuous": {"width": 8, "layers": 1, "hidden": 8},
    "action": {"width": 8, "even": True},
}  # fmt: skip


def network(kind: str, seed: int = 0, **others: int) -> _networks.Network:
    """Untrained, with weights large enough to bend the path of every atom."""
    molecule = methanol()
    head = Header(kind, molecule, molecule.masses, STEPS.get(kind, 2.0), settings={**SETTINGS[kind], **others})
    torch.manual_seed(seed)
    net = _networks.build(head)
    if kind != "action":
        for part in (net.response.even, net.response.odd):
            part.normal_(0.0, 0.02)
        with torch.no_grad():  # the last layers, which a training starts from zero
            for parameter in net.parameters():
                if not parameter.any():
                    parameter.normal_(0.0, 0.1)
    return _networks.Network(head, net)


def starts(copies: int, seed: int = 1) -> tuple[FloatArray, FloatArray]:
    molecule, generator = methanol(), np.random.default_rng(seed)
    spread = np.sqrt(BOLTZMANN * 300.0 / molecule.masses)[:, None]
    q = molecule.positions + 0.1 * generator.standard_normal((copies, 6, 3))
    return q, spread * generator.standard_normal((copies, 6, 3))


def momenta(q: FloatArray, v: FloatArray) -> FloatArray:
    masses = methanol().masses
    centre = np.einsum("i,ric->rc", masses, q)[:, None] / masses.sum()
    turning = np.einsum("i,ric->rc", masses, np.cross(q - centre, v))
    return np.concatenate([np.einsum("i,ric->rc", masses, v), turning], axis=1)


@pytest.mark.parametrize("others", [{}, {"layers": 0}])
@pytest.mark.parametrize("kind", ["direct", "continuous"])
def test_predictions_turn_mirror_and_move_with_the_molecule(kind: str, others: dict[str, int]) -> None:
    model = network(kind, **others)
    q, v = starts(3)
    step = 0.75 * STEPS[kind] if kind == "continuous" else STEPS[kind]
    plain = model.advance(q, v, step)
    free = q + v * step / FEMTOSECOND
    assert np.abs(plain[0] - free).max() > 1e-2
    for sign in (1.0, -1.0):
        turn = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
        turn *= sign * np.sign(np.linalg.det(turn))
        shift = np.array([1.0, -2.0, 3.0])
        moved = model.advance(q @ turn.T + shift, v @ turn.T, step)
        moved_by = np.abs(plain[0] - q).max()
        assert np.abs(plain[0] @ turn.T + shift - moved[0]).max() < 1e-5 * moved_by
        assert np.abs(plain[1] @ turn.T - moved[1]).max() < 1e-5 * np.abs(plain[1]).max()


@pytest.mark.parametrize("others", [{}, {"layers": 0}])
@pytest.mark.parametrize("kind", ["direct", "continuous"])
def test_momenta_and_the_path_of_the_centre_are_kept(kind: str, others: dict[str, int]) -> None:
    model = network(kind, **others)
    q, v = starts(3)
    before, masses = momenta(q, v), methanol().masses
    q_next, v_next = model.advance(q, v, STEPS[kind])
    assert np.abs(before).max() > 1.0
    assert np.abs(momenta(q_next, v_next) - before).max() < 1e-6
    centre = np.einsum("i,ric->rc", masses, q_next - q) / masses.sum()
    drift = before[:, :3] / masses.sum() * STEPS[kind] / FEMTOSECOND
    assert np.abs(centre - drift).max() < 1e-9


def test_continuous_starts_where_it_is_and_as_fast() -> None:
    model = network("continuous")
    q, v = starts(2)
    frames, speeds = model.path(q, v, np.array([1e-9, 4.0]))
    assert np.abs(frames[0] - q).max() < 1e-9
    assert np.abs(speeds[0] - v).max() < 1e-6 * np.abs(v).max()
    assert np.abs(frames[1] - q).max() > 1e-2


@pytest.mark.parametrize("others", [{}, {"layers": 0}])
def test_continuous_velocities_are_the_derivative_of_the_positions(others: dict[str, int]) -> None:
    """Before the momenta are restored, and in double precision, where a difference means something."""
    net = network("continuous", **others).net
    code = tuple(part.double() for part in net.encode(*(torch.from_numpy(part) for part in starts(2))))
    net.double()
    t, delta = torch.tensor([0.3, 0.7], dtype=torch.float64), 1e-5
    _, rate = torch.func.jvp(lambda s: net.displacement(code, s), (t,), (torch.ones_like(t),))
    slope = (net.displacement(code, t + delta) - net.displacement(code, t - delta)) / (2.0 * delta)
    assert float((slope - rate).detach().abs().max()) < 1e-6
    assert float(rate.detach().abs().max()) > 0.1


@cache
def short_trajectories() -> TrajectorySet:
    """Velocity Verlet in plain NumPy on the analytic potential."""
    molecule, potential, generator = methanol(), MethanolPotential(), np.random.default_rng(2)
    step, copies, frames = 0.25 / FEMTOSECOND, 40, 33
    masses = molecule.masses[:, None]
    spread = np.sqrt(BOLTZMANN * 300.0 / masses)
    q = np.repeat(molecule.positions[None], copies, axis=0)
    v = spread * generator.standard_normal(q.shape)
    forces = potential.compute(q)[1]
    stored = [(q, v)]
    for k in range(4 * frames):
        v = v + 0.5 * step / masses * forces
        q = q + step * v
        forces = potential.compute(q)[1]
        v = v + 0.5 * step / masses * forces
        if k % 4 == 3:
            stored.append((q, v))
    positions, velocities = (np.stack([s[i] for s in stored], axis=1) for i in (0, 1))
    split = np.array([0] * 30 + [1] * 5 + [2] * 5)
    return TrajectorySet(molecule, molecule.masses, 1.0, positions, velocities, np.full(copies, 300.0), split)


@pytest.mark.parametrize("kind", ["direct", "continuous"])
def test_training_learns(kind: str) -> None:
    """A short training beats free flight; its errors on held-out trajectories are in the header."""
    settings: dict[str, Any] = {"width": 16, "layers": 2 if kind == "direct" else 1, "batch": 32}
    config = PropagatorTraining(kind=kind, step=4.0, updates=20, minutes=10.0, **settings)
    model = train_propagator(short_trajectories(), config)
    errors = held_out_errors(model, short_trajectories())
    pairs = short_trajectories().pairs(4.0, "test")
    root = np.sqrt(methanol().masses)[:, None]
    free = np.linalg.norm(root * (pairs.velocities - pairs.next_velocities))
    assert errors["velocity_relative"] < 0.9 * free / np.linalg.norm(root * pairs.next_velocities)
    assert errors["velocity_relative"] == model.header.metadata["velocity_relative"]
    # the noise is as large as the error on the validation trajectories, in the mean
    pairs = short_trajectories().pairs(4.0, "validation")
    wrong = held_out_errors(model, short_trajectories(), "validation")["velocity_relative"]
    wanted = wrong * np.linalg.norm(root * pairs.next_velocities) / np.sqrt(len(pairs.positions))
    normal = np.random.default_rng(0).standard_normal((4000, 6, 3))
    noise = model.velocity_noise(np.repeat(pairs.positions[:1], 4000, axis=0), normal)  # type: ignore[attr-defined]
    assert np.sqrt(((root * noise) ** 2).sum((1, 2)).mean()) == pytest.approx(wanted, rel=0.05)


def test_noise_has_the_covariance_of_the_errors_in_every_orientation_and_no_handedness() -> None:
    generator = np.random.default_rng(0)
    residual = network("direct").net.residual
    q = torch.from_numpy(np.repeat(starts(1)[0], 20000, axis=0))
    mixing = torch.from_numpy(0.3 * generator.standard_normal((18, 18)))
    local = torch.from_numpy(generator.standard_normal((20000, 18))) @ mixing
    axes = local_axes(q[:1], residual.frames)
    wrong = (local.reshape(-1, 6, 1, 3) @ axes)[:, :, 0]
    residual.fit(q, wrong)
    normal = torch.from_numpy(generator.standard_normal((20000, 6, 3)))
    noise = residual(q, normal)
    found, wanted = ((part.flatten(1).T @ part.flatten(1) / 20000).numpy() for part in (noise, wrong))
    z = torch.zeros(6, 3, dtype=torch.float64)
    z[:, 2] = 1.0
    out_of_plane = torch.block_diag(*(z[:, None] @ axes[0])[:, 0][:, None])
    mirror = (torch.eye(18) - 2.0 * out_of_plane.T @ out_of_plane).numpy()
    wanted = 0.5 * (wanted + mirror @ wanted @ mirror)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    turn = torch.from_numpy(np.linalg.qr(generator.standard_normal((3, 3)))[0])
    if torch.linalg.det(turn) < 0.0:
        turn = -turn
    assert (residual(q[:5] @ turn.T, normal[:5]) - noise[:5] @ turn.T).abs().max() < 1e-10


def test_interrupted_training_is_the_same_training(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"kind": "continuous", "step": 4.0, "width": 8, "layers": 1, "batch": 8, "minutes": 1e4}
    place = tmp_path / "x.checkpoint"
    whole = train_propagator(short_trajectories(), PropagatorTraining(updates=6, learning_rate=1e-3, **settings))
    # the learning rate falls with the part done, of which the interrupted one has to know the whole
    part = PropagatorTraining(updates=6, learning_rate=1e-3, **settings)

    class Interrupted(Exception):
        pass

    def stop(done: int, total: int) -> None:
        stop.calls += 1  # type: ignore[attr-defined]
        if stop.calls == 3:  # type: ignore[attr-defined]
            raise Interrupted

    stop.calls = 0  # type: ignore[attr-defined]
    import fflux_py.propagators._torch.training as loop

    every, loop.CHECKPOINT_EVERY = loop.CHECKPOINT_EVERY, 0.0
    try:
        with pytest.raises(Interrupted):
            train_propagator(short_trajectories(), part, place, stop)
    finally:
        loop.CHECKPOINT_EVERY = every
    resumed = train_propagator(short_trajectories(), part, place)
    q, v = starts(2)
    assert np.array_equal(whole.advance(q, v, 4.0)[0], resumed.advance(q, v, 4.0)[0])
    other = PropagatorTraining(updates=8, seed=1, **settings)
    with pytest.raises(ModelMismatchError, match="checkpoint"):
        train_propagator(short_trajectories(), other, place)


@pytest.mark.parametrize("kind", ["direct", "continuous"])
def test_without_layers_the_response_is_alone_and_learns(kind: str, tmp_path: Path) -> None:
    """A predictor without layers is one with layers whose last weights are zero, and training makes it better."""
    alone, whole = network(kind, layers=0), network(kind)
    missing = whole.net.load_state_dict(alone.net.state_dict(), strict=False)
    assert missing.missing_keys
    assert not missing.unexpected_keys
    last = [whole.net.scales, whole.net.mixing] if kind == "direct" else [
        *whole.net.head[-1].parameters(), *whole.net.mixing[-1].parameters()]  # fmt: skip
    before = whole.advance(*starts(2), STEPS[kind])
    for parameter in last:
        parameter.data.zero_()
    ends = alone.advance(*starts(2), STEPS[kind]), whole.advance(*starts(2), STEPS[kind])
    assert np.abs(ends[0][0] - ends[1][0]).max() < 1e-6
    assert np.abs(before[0] - ends[1][0]).max() > 1e-4
    settings: dict[str, Any] = {"kind": kind, "step": 8.0, "hidden": 32, "layers": 0, "minutes": 1e4}
    errors = []
    for updates in (1, 400):
        model = train_propagator(short_trajectories(), PropagatorTraining(updates=updates, **settings))
        errors.append(held_out_errors(model, short_trajectories(), "train")["velocity_relative"])
    assert errors[1] < 0.95 * errors[0]
    _networks.save(model, tmp_path / "x.safetensors")  # type: ignore[arg-type]
    q, v = starts(2)
    assert np.array_equal(
        load_propagator(tmp_path / "x.safetensors").advance(q, v, 8.0)[0], model.advance(q, v, 8.0)[0]
    )


def test_state_of_the_optimiser_survives_a_file(tmp_path: Path) -> None:
    """Over two eigenbases, with a parameter whose gradients begin after the file was written."""
    from safetensors.torch import load_file, save_file

    from fflux_py.propagators._torch import optimiser as _optimiser

    class Small(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.bias = torch.nn.Parameter(torch.randn(3))
            self.matrix = torch.nn.Parameter(torch.randn(4, 3))
            self.cube = torch.nn.Parameter(torch.randn(2, 3, 4))
            self.late = torch.nn.Parameter(torch.randn(3, 3))

        def loss(self, k: int) -> Any:
            x = torch.randn(4, generator=torch.Generator().manual_seed(k))
            y = x @ self.matrix + self.bias + torch.einsum("aij,j->ai", self.cube, x).sum(0)
            return (y**2).sum() if k < 40 else ((y @ self.late) ** 2).sum()

    def move(net: Any, optimiser: Any, first: int, last: int) -> None:
        for group in optimiser.param_groups:
            group["lr"] = 1e-2
        for k in range(first, last):
            optimiser.zero_grad()
            net.loss(k).backward()
            optimiser.step()

    whole, part = Small(), Small()
    optimiser = _optimiser.optimiser_of(whole)
    move(whole, optimiser, 0, 35)
    assert not any("late" in name for name, _ in _optimiser.state_tensors(optimiser, whole))
    state = {name: tensor.contiguous() for name, tensor in _optimiser.state_tensors(optimiser, whole)}
    save_file(state, tmp_path / "state.safetensors")
    part.load_state_dict({name: tensor.clone() for name, tensor in whole.state_dict().items()})
    restored = _optimiser.optimiser_of(part)
    _optimiser.restore_state(restored, part, load_file(tmp_path / "state.safetensors"), 35)
    start = whole.late.detach().clone()
    move(whole, optimiser, 35, 70)
    move(part, restored, 35, 70)
    for one, other in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(whole.late, start)


def test_training_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("training", "optimiser"):
        monkeypatch.delitem(sys.modules, f"fflux_py.propagators._torch.{name}", raising=False)
        monkeypatch.delattr(fflux_py.propagators, name, raising=False)
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(MissingDependencyError, match=r"pytorch_optimizer.*fflux_py\[propagate\]"):
        train_propagator(short_trajectories(), PropagatorTraining(kind="direct", step=4.0))


@pytest.mark.parametrize("kind", ["direct", "continuous"])
def test_perceptron_learns_what_the_polynomial_leaves(kind: str) -> None:
    """Thirty short trajectories are enough to show that targets, units and loss are right, not to generalise."""
    from fflux_py.propagators._torch import training as _training

    data, config = short_trajectories(), PropagatorTraining(kind=kind, step=8.0, hidden=32)
    settings = {**config.settings, **({"nodes": [0.25, 0.5, 0.75, 1.0]} if kind == "continuous" else {})}
    header = Header(kind, data.molecule, data.masses, 8.0, settings=settings)
    torch.manual_seed(0)
    net = _networks.build(header)
    _training._fit_response(net, data, header, config)
    inputs, left = net.response.remainder(*_training._response_data(net, data, header, config, "train", 200))
    loss = _training._local_loss(net, data, header, config)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.response.perceptron.parameters(), lr=1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        loss(generator).backward()
        optimiser.step()
    with torch.no_grad():
        after = left - net.response.size * net.response.correction(inputs)
    assert float(after.norm()) < 0.7 * float(left.norm())


def test_rates_at_the_nodes_belong_to_the_displacements() -> None:
    """What the perceptron is weighed by: displacements and rates that the ansatz makes of the vectors at the nodes."""
    net = network("continuous").net
    with torch.no_grad():
        code = tuple(part.double() for part in net.encode(*(torch.from_numpy(part) for part in starts(2))))
        net.double()
        powers = code[5]
        vectors = torch.stack([sum(powers[:, p] * t**p for p in range(powers.shape[1])) for t in net.nodes], dim=1)
        free = (*code[:5], torch.zeros_like(powers))
        t = torch.tensor(net.nodes, dtype=torch.float64)
        many = tuple(part[:1].expand(len(t), *part.shape[1:]) for part in code)
        none = tuple(part[:1].expand(len(t), *part.shape[1:]) for part in free)
        found = []
        for each in (many, none):
            found.append(torch.func.jvp(lambda s, c=each: net.displacement(c, s), (t,), (torch.ones_like(t),)))
    for order in (0, 1):
        expected = torch.einsum("mk,kic->mic", net.moves(order), vectors[0])
        assert float((found[0][order] - found[1][order] - expected).abs().max()) < 1e-7
        assert float(expected.abs().max()) > 1e-3


def test_response_is_found_without_the_motion_of_the_centre() -> None:
    """Vectors that are of first and of second order in local frames, on geometries that it was not fitted to."""
    net = network("direct").net.response
    q, v = starts(900)
    roots = np.sqrt(methanol().masses)
    u = v * roots[:, None] / np.sqrt(BOLTZMANN * 300.0)
    drift = np.einsum("i,ric->rc", roots, u)[:, None] / (roots**2).sum()
    inner = u - roots[:, None] * drift
    # one over the distance of the heavy atoms is one of the features
    scaled = inner / np.linalg.norm(q[:, 0] - q[:, 1], axis=1)[:, None, None]
    at, fast, wanted = (torch.from_numpy(part) for part in (q, u, np.stack([inner, scaled], axis=1)))
    net.fit(at[:800], fast[:800], wanted[:800], (at[800:850], fast[800:850], wanted[800:850]))
    with torch.no_grad():
        wrong = net(at[850:], fast[850:]) - wanted[850:]
    assert float(wrong.norm() / wanted[850:].norm()) < 1e-3
    shifted = torch.from_numpy(u + 3.0 * roots[:, None] * np.array([1.0, -1.0, 2.0]))
    with torch.no_grad():
        assert float((net(at, shifted) - net(at, fast)).abs().max()) < 1e-9


@pytest.mark.parametrize("kind", ["direct", "continuous", "action"])
def test_file_holds_the_whole_model(kind: str, tmp_path: Path) -> None:
    model, path = network(kind), tmp_path / "model.safetensors"
    _networks.save(model, path)
    again = load_propagator(path)
    assert again.header.molecule.symbols == methanol().symbols
    assert np.array_equal(again.header.masses, methanol().masses)
    q, v = starts(2)
    if kind == "action":
        a, b = torch.from_numpy(q), torch.from_numpy(v)
        assert torch.equal(model.net(a, b), again.net(a, b))  # type: ignore[attr-defined]
    else:
        assert np.array_equal(model.advance(q, v, STEPS[kind])[1], again.advance(q, v, STEPS[kind])[1])


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    model, path = network("direct"), tmp_path / "model.safetensors"
    _networks.save(model, path)
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    flipped = bytearray(whole)
    flipped[8 + size + 10] ^= 1
    newer = json.loads(whole[8 : 8 + size])
    newer["__metadata__"]["fflux_py"] = newer["__metadata__"]["fflux_py"].replace('"schema": 2', '"schema": 9')
    text = json.dumps(newer).encode()
    broken = {
        "checksum": bytes(flipped), "truncated": whole[:-5], "other": b"PK" + whole, "empty": b"",
        "schema": len(text).to_bytes(8, "little") + text + whole[8 + size :],
    }  # fmt: skip
    for name, data in broken.items():
        path.write_bytes(data)
        with pytest.raises(FileFormatError) as caught:
            load_propagator(path)
        assert "\n" not in str(caught.value), name


def test_wrong_molecule_masses_and_steps_are_refused() -> None:
    model = network("direct")
    molecule = methanol()
    order = [1, 0, 2, 3, 4, 5]
    swapped = type(molecule)(tuple(molecule.symbols[k] for k in order), molecule.positions[order])
    with pytest.raises(ModelMismatchError, match="atom 1"):
        model.header.check(swapped)
    heavy = np.array(molecule.masses)
    heavy[5] *= 3.0
    with pytest.raises(ModelMismatchError, match="mass of atom 6"):
        model.header.check(molecule, heavy)
    q, v = starts(1)
    with pytest.raises(ModelMismatchError, match="4 fs as in the model"):
        model.advance(q, v, 2.0)
    with pytest.raises(ModelMismatchError, match="up to 8 fs"):
        network("continuous").advance(q, v, 9.0)
    with pytest.raises(InputError, match="guide"):
        _networks.Network(model.header, model.net, model)


def test_settings_are_checked() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"kind": "indirect", "step": 1.0}, {"kind": "direct", "step": 0.0}, {"kind": "continuous", "step": 11.0},
        {"kind": "action", "step": 1.0, "layers": 3}, {"kind": "direct", "step": 1.0, "layers": -1},
        {"kind": "direct", "step": 1.0, "layers": 0, "hidden": 0}, {"kind": "direct", "step": 1.0, "reversible": False},
    )  # fmt: skip
    for settings in wrong:
        with pytest.raises(InputError):
            PropagatorTraining(**settings)
    with pytest.raises(ModelMismatchError, match="multiple of 1 fs"):
        train_propagator(short_trajectories(), PropagatorTraining(kind="direct", step=2.5))

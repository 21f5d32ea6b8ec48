"""The loop that trains: SOAP with a cosine, checkpoints, errors on held-out trajectories."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fflux_py.errors import ConvergenceError, ModelMismatchError
from fflux_py.files import write_atomically
from fflux_py.propagators._torch.action import ActionNet, fit_quadratic, increments
from fflux_py.propagators._torch.continuous import NODES, ContinuousNet
from fflux_py.propagators._torch.direct import DirectNet
from fflux_py.propagators._torch.network import Network, build, pack, thermal_unit, unpack
from fflux_py.propagators._torch.optimiser import optimiser_of, restore_state, state_tensors
from fflux_py.propagators.config import PropagatorTraining
from fflux_py.propagators.propagator import Header, Propagator
from fflux_py.propagators.trajectories import TrajectorySet
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, FEMTOSECOND

Progress = Callable[[int, int], None]
Loss = Callable[[torch.Generator], Tensor]
Stages = Sequence[tuple[float, float, Loss]]
"""Losses one after the other: where each begins, as a part of the training, its learning rate at its start, itself."""

CHECKPOINT_EVERY: Final = 60.0
"""Seconds between two checkpoints."""

FIT_SIZE: Final = 600
"""Pairs for the linear least squares that an action starts from; each has as many equations as coordinates."""

RESIDUAL_SIZE: Final = 4096
"""Pairs of validation trajectories on which the covariance of the errors is found."""

RESPONSE_SIZE: Final = 30000
"""Pairs for the least squares that the other predictors start from."""

PERCEPTRON_SIZE: Final = 400_000
"""Pairs that the perceptron in local frames learns from."""

PERCEPTRON_BATCH: Final = 512
PERCEPTRON_RATE: Final = 6e-3
PERCEPTRON_SHARE: Final = 0.8
"""Part of the training that the perceptron has."""

WARM_UP: Final = 0.02
"""Part of a stage in which the rate rises, while the optimiser knows little of the curvatures."""

N_TEST_PAIRS: Final = 256
"""Pairs on which errors are computed."""


def train(
    data: TrajectorySet, config: PropagatorTraining, checkpoint: Path | None, progress: Progress | None
) -> Network:
    """See :func:`fflux_py.propagators.config.train_propagator`."""
    frames, settings = data.frames_in(config.step), config.settings
    if config.kind == "continuous":
        settings["nodes"] = sorted({max(1, round(node * frames)) / frames for node in NODES})
    metadata = {"trajectories": data.digest(), "seed": config.seed}
    header = Header(config.kind, data.molecule, data.masses, config.step, config.temperature, settings, metadata)
    # the seed must fix the initial weights, and nothing outside may notice
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = build(header)
    training = _Training(header, net, config, checkpoint)
    if not training.restored:
        if isinstance(net, ActionNet):
            _fit_action(net, data, header, config)
        elif isinstance(net, DirectNet | ContinuousNet):
            _fit_response(net, data, header, config)
    training.run(_stages(net, data, header, config), progress)
    if isinstance(net, DirectNet | ContinuousNet):
        _fit_residual(net, data, header)
    errors: dict[str, Any]
    try:
        errors = step_errors(Network(header, net), data, "test")
    except ConvergenceError:
        # an action that is hardly trained; it can be looked at, and trained on
        errors = {"steps_converge": False}
    done = {**metadata, **errors, "training_minutes": training.seconds / 60.0, "updates": training.updates}
    header = Header(config.kind, data.molecule, data.masses, config.step, config.temperature, settings, done)
    return Network(header, net)


class _Training:
    """Weights and optimiser on their way; what a checkpoint holds."""

    def __init__(self, header: Header, net: nn.Module, config: PropagatorTraining, checkpoint: Path | None) -> None:
        self.header, self.net, self.config, self.checkpoint = header, net, config, checkpoint
        self.optimiser = optimiser_of(net)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.updates, self.seconds = 0, 0.0
        self.restored = checkpoint is not None and checkpoint.exists()
        if self.restored:
            self._restore()

    def run(self, stages: Stages, progress: Progress | None) -> None:
        """Update the weights until the time or the number of updates is reached."""
        config, total = self.config, 60.0 * self.config.minutes
        begin, before = time.monotonic(), self.seconds
        saved = self.seconds
        starts = [first for first, _, _ in stages] + [1.0]
        while self.seconds < total and (config.updates is None or self.updates < config.updates):
            part = self.updates / config.updates if config.updates else 0.0
            part = min(1.0, max(part, self.seconds / total))
            number = max(k for k in range(len(stages)) if starts[k] <= part)
            _, rate, loss = stages[number]
            part = (part - starts[number]) / (starts[number + 1] - starts[number])
            for group in self.optimiser.param_groups:
                group["lr"] = rate * min(1.0, part / WARM_UP) * (0.5 * (1.0 + math.cos(math.pi * part)) + 1e-3)
            self.optimiser.zero_grad()
            value = loss(self.generator)
            if not bool(torch.isfinite(value)):
                raise ConvergenceError("training", "a finite loss", "NaN", "lower --learning-rate")
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimiser.step()
            self.updates += 1
            self.seconds = before + time.monotonic() - begin
            if progress is not None:
                progress(min(round(self.seconds), round(total)), round(total))
            if self.checkpoint is not None and self.seconds - saved > CHECKPOINT_EVERY:
                self._save()
                saved = self.seconds
        if self.checkpoint is not None:
            self._save()

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on; its length may differ."""
        settings = asdict(self.config)
        kept = {k: v for k, v in settings.items() if k not in ("minutes", "updates", "learning_rate", "batch")}
        return {**kept, "optimiser": "SOAP"}

    def _save(self) -> None:
        assert self.checkpoint is not None
        tensors = {f"net/{k}": v for k, v in self.net.state_dict().items()}
        tensors.update(state_tensors(self.optimiser, self.net))
        tensors["generator"] = self.generator.get_state()
        extra = {"training": self._identity(), "updates": self.updates, "seconds": self.seconds}
        write_atomically(self.checkpoint, pack(self.header, tensors, extra))

    def _restore(self) -> None:
        assert self.checkpoint is not None
        header, tensors, content = unpack(self.checkpoint)
        same_data = header.metadata.get("trajectories") == self.header.metadata["trajectories"]
        if content.get("training") != self._identity() or not same_data:
            raise ModelMismatchError(
                str(self.checkpoint), "a checkpoint of this training and these trajectories", "another one",
                "remove it, or name another checkpoint",
            )  # fmt: skip
        self.net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net/")})
        self.generator.set_state(tensors["generator"])
        self.updates, self.seconds = int(content["updates"]), float(content["seconds"])
        restore_state(self.optimiser, self.net, tensors, self.updates)


def _stages(net: nn.Module, data: TrajectorySet, header: Header, config: PropagatorTraining) -> Stages:
    """What is learned one after the other: a perceptron in local frames, if there is one, then the network."""
    assert config.learning_rate is not None
    whole = _losses(data, net, header, config)
    if isinstance(net, ActionNet) or not header.settings.get("hidden"):
        return ((0.0, config.learning_rate, whole),)
    local = _local_loss(net, data, header, config)
    if not header.settings["layers"]:
        return ((0.0, PERCEPTRON_RATE, local),)
    return (0.0, PERCEPTRON_RATE, local), (PERCEPTRON_SHARE, config.learning_rate, whole)


def _local_loss(net: Any, data: TrajectorySet, header: Header, config: PropagatorTraining) -> Loss:
    """The loss of the perceptron on a random batch, weighed as :func:`_losses` weighs displacement and velocity."""
    response = net.response

    @cache
    def prepare() -> tuple[Tensor, Tensor, Tensor]:
        """Variables, what is to be learned, and its weights: made when the stage begins, which may be over already."""
        with torch.no_grad():
            inputs, remainder = response.remainder(*_response_data(net, data, header, config, "train", PERCEPTRON_SIZE))
            # by displacement and velocity, from the vectors of the response
            metric = torch.diag(torch.tensor([3.0, 1.0]))
            if isinstance(net, ContinuousNet):
                metric = torch.cat([3.0 * net.moves(0), net.moves(1)]).float()
        return inputs, remainder / response.size.float(), metric

    def loss(generator: torch.Generator) -> Tensor:
        inputs, remainder, metric = prepare()
        chosen = torch.randint(len(inputs), (PERCEPTRON_BATCH,), generator=generator)
        error = response.correction(inputs[chosen]) - remainder[chosen]
        value: Tensor = (torch.einsum("mk,bkic->bmic", metric, error) ** 2).mean()
        return value

    return loss


def _losses(data: TrajectorySet, net: nn.Module, header: Header, config: PropagatorTraining) -> Loss:
    """The loss of a random batch, in units in which all coordinates count alike."""
    root = torch.from_numpy(np.sqrt(data.masses)[:, None])
    unit = thermal_unit(header)
    members = data.members("train")
    positions = torch.from_numpy(data.positions[members])
    velocities = torch.from_numpy(data.velocities[members])
    frames = data.frames_in(config.step)

    def batch(generator: torch.Generator, count: Tensor) -> tuple[Tensor, ...]:
        """Starts and ends ``count`` intervals apart, half of them reversed in time."""
        which = torch.randint(len(members), (config.batch,), generator=generator)
        room = data.n_frames - count
        first = (torch.rand(config.batch, generator=generator) * room).long().clamp(max=data.n_frames - 1)
        backward = torch.rand(config.batch, generator=generator) < 0.5
        start, end = torch.where(backward, first + count, first), torch.where(backward, first, first + count)
        sign = torch.where(backward, -1.0, 1.0)[:, None, None].double()
        return (positions[which, start], sign * velocities[which, start],
                positions[which, end], sign * velocities[which, end])  # fmt: skip

    def prediction_loss(generator: torch.Generator) -> Tensor:
        count = torch.full((config.batch,), frames)
        if header.kind == "continuous":
            count = torch.randint(1, frames + 1, (config.batch,), generator=generator)
        q, v, q_next, v_next = batch(generator, count)
        time_of = count * (data.interval / FEMTOSECOND)
        ends = net(q, v, time_of.double()) if header.kind == "continuous" else net(q, v)
        scale = root / unit
        by_velocity = (scale * (ends[1] - v_next)) ** 2
        # one error of position counts as the error of velocity that makes it in a third of the longest step
        by_position = (scale * (ends[0] - q_next) * (3.0 * FEMTOSECOND / header.step)) ** 2
        loss: Tensor = by_velocity.mean() + by_position.mean()
        return loss

    def action_loss(generator: torch.Generator) -> Tensor:
        q, v, q_next, v_next = batch(generator, torch.full((config.batch,), frames))
        y, u, dy, du = _midpoints(header, root, q, v, q_next, v_next)
        by_u, by_y = increments(net, y, u, graph=True)
        return ((by_u - dy) ** 2).mean() + ((by_y - du) ** 2).mean()

    return action_loss if header.kind == "action" else prediction_loss


def _midpoints(header: Header, root: Tensor, *ends: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scaled midpoints and increments of pairs: what an action is trained on, without solving anything."""
    q, v, q_next, v_next = ends
    unit = thermal_unit(header)
    length = header.step / FEMTOSECOND * unit
    by_length, by_unit = root / length, root / unit
    return (
        0.5 * (q + q_next) * by_length,
        0.5 * (v + v_next) * by_unit,
        (q_next - q) * by_length,
        (v_next - v) * by_unit,
    )


def _fit_action(net: ActionNet, data: TrajectorySet, header: Header, config: PropagatorTraining) -> None:
    pairs = data.pairs(config.step, "train")
    chosen = np.random.default_rng(config.seed).permutation(len(pairs.positions))[:FIT_SIZE]
    root = torch.from_numpy(np.sqrt(data.masses)[:, None])
    fit_quadratic(net, *_midpoints(header, root, *(torch.from_numpy(part[chosen]) for part in pairs)))


def _fit_response(
    net: DirectNet | ContinuousNet, data: TrajectorySet, header: Header, config: PropagatorTraining
) -> None:
    """Least squares for what the network corrects: at the end of the step, or at the nodes of a segment."""
    train = _response_data(net, data, header, config, "train", RESPONSE_SIZE)
    net.response.fit(*train, _response_data(net, data, header, config, "validation", RESPONSE_SIZE // 20))


def _fit_residual(net: DirectNet | ContinuousNet, data: TrajectorySet, header: Header) -> None:
    """Fit the covariance of the errors of whole steps, on the validation trajectories."""
    pairs = data.pairs(header.step, "validation")
    chosen = np.random.default_rng(0).permutation(len(pairs.positions))[:RESIDUAL_SIZE]
    q, v, _, v_next = (part[chosen] for part in pairs)
    ends = _advance(Network(header, net), q, v)
    errors = (v_next - ends[1]) * np.sqrt(data.masses)[:, None] / thermal_unit(header)
    net.residual.fit(torch.from_numpy(ends[0]), torch.from_numpy(errors))


def _advance(propagator: Propagator, q: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Take a whole step from many pairs."""
    step = propagator.header.step
    ends = [propagator.advance(q[k : k + 32], v[k : k + 32], step) for k in range(0, len(q), 32)]
    return np.concatenate([end[0] for end in ends]), np.concatenate([end[1] for end in ends])


def _response_data(
    net: nn.Module, data: TrajectorySet, header: Header, config: PropagatorTraining, split: str, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, mass-weighted velocities, and what the response is to give, of random frames of a part."""
    frames, members = data.frames_in(config.step), data.members(split)
    generator = np.random.default_rng(config.seed)
    room = data.n_frames - frames
    chosen = generator.permutation(len(members) * room)[:size]
    # half of them reversed in time
    sign = np.where(generator.random(len(chosen)) < 0.5, -1, 1)
    which, first = members[chosen // room], chosen % room + np.where(sign < 0, frames, 0)
    root = np.sqrt(data.masses)[:, None]
    unit = thermal_unit(header)
    length = header.step / FEMTOSECOND * unit

    def at(count: int) -> tuple[Tensor, Tensor]:
        """Mass-weighted displacement and velocity after some intervals."""
        moved = data.positions[which, first + sign * count] - data.positions[which, first]
        fast = data.velocities[which, first + sign * count] * sign[:, None, None]
        return torch.from_numpy(moved * root / length), torch.from_numpy(fast * root / unit)

    q, u = torch.from_numpy(data.positions[which, first]), at(0)[1]
    if isinstance(net, DirectNet):
        return q, u, torch.stack(at(frames), dim=1)
    assert isinstance(net, ContinuousNet)
    targets = []
    for node in net.nodes:
        count = round(node * frames)
        t = torch.tensor(count / frames, dtype=torch.float64)
        f = float(net.switch(t))
        targets.append((at(count)[0] - u * t * (1.0 - f)) / f)
    return q, u, torch.stack(targets, dim=1)


def step_errors(propagator: Propagator, data: TrajectorySet, split: str) -> dict[str, float]:
    """See :func:`fflux_py.propagators.config.held_out_errors`."""
    header = propagator.header
    header.check(data.molecule, data.masses)
    pairs = data.pairs(header.step, split)
    chosen = np.random.default_rng(0).permutation(len(pairs.positions))[:N_TEST_PAIRS]
    q, v, q_next, v_next = (part[chosen] for part in pairs)
    ends = _advance(propagator, q, v)
    root = np.sqrt(header.masses)[:, None]
    error_q, error_v = ends[0] - q_next, ends[1] - v_next

    def relative(error: Any, exact: Any) -> float:
        return float(np.linalg.norm(root * error) / np.linalg.norm(root * exact))

    picometre = 100.0 * ANGSTROM
    return {
        "position_rms_pm": float(np.sqrt((error_q**2).mean())) * picometre,
        "position_largest_pm": float(np.abs(error_q).max()) * picometre,
        "displacement_relative": relative(error_q, q_next - q),
        "velocity_relative": relative(error_v, v_next),
    }

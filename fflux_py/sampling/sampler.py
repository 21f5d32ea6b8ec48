"""From a molecule to the geometries that will be labelled.

Every class of trajectories (thermostatted at one temperature, with or without a bias) runs some trajectories for
training and others for testing.  They share nothing: every trajectory has its own conformer, its own seed and its own
bias.  Training frames are chosen for diversity, test frames at equal spacing in time, so that errors on them are
averages over the ensemble.  Distorted geometries and relaxed conformers may be added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from fflux_py.bias import Metadynamics
from fflux_py.errors import ConvergenceError, GeometryError, InputError, SimulationStopped
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.potential import PotentialEnergy
from fflux_py.molecules.preflight import check_molecule
from fflux_py.sampling.distortions import DistortionConfig, MarkedGeometry, extra_frames
from fflux_py.sampling.plan import SamplingConfig, TrajectoryClass
from fflux_py.sampling.selection import evenly_spaced, farthest_points, pair_features
from fflux_py.sampling.starts import random_conformer, relax
from fflux_py.sampling.thermostatted import LangevinConfig, LangevinRun, run_langevin
from fflux_py.typing import FloatArray

Progress = Callable[[int, int], None]


class BiasedRun(NamedTuple):
    """A biased trajectory at its end: name, bias with all hills, kept frames (bohr) and the time between them
    (a.u.).
    """

    source: str
    bias: Metadynamics
    positions: FloatArray
    interval: float
    timestep: float


class _Trajectory(NamedTuple):
    """One trajectory of the plan."""

    kind: TrajectoryClass
    split: Literal["train", "test"]
    number: int
    steps: int

    @property
    def source(self) -> str:
        return f"{self.kind.label}-s{self.number}"


def sample(
    molecule: Molecule,
    config: SamplingConfig | None = None,
    progress: Progress | None = None,
    potential: Callable[[Molecule], PotentialEnergy] | None = None,
    record: Callable[[BiasedRun], None] | None = None,
) -> GeometrySet:
    """Sample geometries of a molecule for training and testing.

    Parameters
    ----------
    molecule
        Start geometry; it is relaxed first, and its bonds then are the bonds that every frame must have.
    config
        The plan; the defaults if not given.
    progress
        Called with (steps done, steps in total); a distorted geometry counts as a step.
    potential
        Makes the energy function of a molecule; GFN2-xTB if not given.
    record
        Called with every biased trajectory when it is done, to keep its hills.

    Returns
    -------
    GeometrySet
        Frames in a mixed order in which any first part holds the classes and splits in proportion, each turned and
        moved onto the reference geometry (the relaxed start), marked with trajectory, temperature and split.
        ``metadata["sampling_restarts"]`` counts the runs that were thrown away because the molecule reacted or the
        energy failed, and ``metadata["sampling_restarted"]`` says which and why.

    Raises
    ------
    InputError, GeometryError
        If the molecule fails a check of :func:`fflux_py.molecules.preflight.check_molecule`, or has an odd number of
        electrons, and ``potential`` is not given.
    SimulationStopped
        If one trajectory fails more often than ``config.max_restarts``.
    ConvergenceError
        If the start geometry does not relax.
    """
    check_molecule(molecule)
    config = config or SamplingConfig()
    make = potential or _gfn2
    energy = make(molecule)
    reference = _relax_start(molecule, energy)
    metadata = {"sampling": getattr(energy, "program", type(energy).__name__), **config.settings()}
    metadata.update(config.bias_settings(reference))
    plan = _plan(config)
    distortions = config.distortions or DistortionConfig(0)
    n_tried = distortions.n_tried(reference) * distortions.n_conformers
    counter = _Counter(sum(t.steps for t in plan) + n_tried, progress)
    extra: list[MarkedGeometry] = []
    if config.distortions is not None or config.minima:
        torsions = config.conformer_torsions(reference)
        extra = extra_frames(reference, make, torsions, distortions, config.minima, config.seed, counter)
        counter.finished += n_tried
    frames: dict[_Trajectory, FloatArray] = {}
    failures: list[str] = []
    for trajectory in plan:
        run, stops = _run_trajectory(reference, make, config, trajectory, counter)
        frames[trajectory] = run.positions
        if record is not None and isinstance(run, BiasedRun):
            record(run)
        failures += stops
        counter.finished += trajectory.steps
    metadata["sampling_restarts"] = len(failures)
    if failures:
        metadata["sampling_restarted"] = "; ".join(failures)
    return _collect(reference, config, plan, frames, extra, metadata)


def _relax_start(molecule: Molecule, energy: PotentialEnergy) -> Molecule:
    reference = relax(molecule, energy)
    if reference.bonds != molecule.bonds:
        raise InputError(f"start geometry of {molecule.name!r}", f"bonds that relaxation keeps, {molecule.bonds}",
                         f"{reference.bonds} after it", "start from a better geometry")  # fmt: skip
    return reference


def _gfn2(molecule: Molecule) -> PotentialEnergy:
    from fflux_py.sampling.gfn2 import GFN2

    electrons = int(molecule.numbers.sum()) - molecule.charge
    if electrons % 2:
        raise InputError(
            f"charge of {molecule.name!r}", "an even number of electrons (closed shell)",
            f"{electrons} electrons at charge {molecule.charge}", "give the charge; open shells are not supported",
        )  # fmt: skip
    return GFN2(molecule)


def _plan(config: SamplingConfig) -> list[_Trajectory]:
    plan: list[_Trajectory] = []
    for kind in config.classes:
        for _ in range(kind.train_trajectories):
            plan.append(_Trajectory(kind, "train", len(plan) + 1, config.steps(kind.train_time)))
        for _ in range(kind.test_trajectories):
            plan.append(_Trajectory(kind, "test", len(plan) + 1, config.steps(kind.test_time)))
    return plan


class _Counter:
    """Adds the steps of finished trajectories and of the running one up for the progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress, self.finished = total, progress, 0

    def __call__(self, done: int, _: int) -> None:
        if self.progress is not None:
            self.progress(self.finished + done, self.total)


def _run_trajectory(
    reference: Molecule,
    make: Callable[[Molecule], PotentialEnergy],
    config: SamplingConfig,
    trajectory: _Trajectory,
    counter: _Counter,
) -> tuple[LangevinRun | BiasedRun, list[str]]:
    """Run one trajectory; return it, and why earlier attempts were thrown away."""
    stops: list[str] = []
    for attempt in range(config.max_restarts + 1):
        # The seed depends on nothing but the place in the plan, so that trajectories may run in any order.
        rng = np.random.default_rng([config.seed, trajectory.number, attempt])
        try:
            return _run_once(reference, make(reference), config, trajectory, rng, counter), stops
        except (SimulationStopped, ConvergenceError, GeometryError) as stop:
            stops.append(f"{trajectory.source}: {stop.where}: {stop.found}")
    raise SimulationStopped(
        f"trajectory {trajectory.source}",
        f"one of {config.max_restarts + 1} runs that keeps the bonds",
        f"none, the last: {stops[-1]}",
        "lower the temperature or the bias",
    )


def _run_once(
    reference: Molecule,
    potential: PotentialEnergy,
    config: SamplingConfig,
    trajectory: _Trajectory,
    rng: np.random.Generator,
    counter: _Counter,
) -> LangevinRun | BiasedRun:
    kind = trajectory.kind
    start = random_conformer(reference, potential, config.conformer_torsions(reference), rng)

    def settings(steps: int) -> LangevinConfig:
        stride = min(config.stride, steps)
        return LangevinConfig(kind.temperature, steps, stride, config.timestep, config.friction)

    warm = run_langevin(start, potential, settings(max(1, config.steps(config.equilibration))), rng)
    plan = config.bias_of(kind.bias, reference)
    bias = plan.build(kind.temperature) if plan is not None else None
    run = run_langevin(
        start.with_positions(warm.positions[-1]),
        potential,
        settings(trajectory.steps),
        rng,
        bias=bias,
        velocities=warm.velocities[-1],
        progress=counter,
    )
    if bias is None:
        return run
    interval = config.timestep * min(config.stride, trajectory.steps)
    return BiasedRun(trajectory.source, bias, run.positions, interval, config.timestep)


class _Marked(NamedTuple):
    """A chosen geometry with its marks."""

    positions: FloatArray
    source: str
    temperature: float
    split: str


def _collect(
    reference: Molecule,
    config: SamplingConfig,
    plan: Sequence[_Trajectory],
    frames: dict[_Trajectory, FloatArray],
    extra: Sequence[MarkedGeometry],
    metadata: Mapping[str, str | int | float],
) -> GeometrySet:
    """Choose the frames of every class and split, mix them, and mark them."""
    rng = np.random.default_rng([config.seed, 0])

    def mark(positions: FloatArray, t: _Trajectory) -> _Marked:
        return _Marked(positions, t.source, t.kind.temperature, t.split)

    groups: list[list[_Marked]] = []
    for kind in config.classes:
        train = [(x, t) for t in plan if t.kind is kind and t.split == "train" for x in frames[t]]
        if train:
            features = pair_features(np.array([x for x, _ in train]), config.conformer_torsions(reference))
            chosen = farthest_points(features, kind.train_frames, int(rng.integers(len(train))))
            groups.append([mark(*train[k]) for k in chosen])
        tests = [t for t in plan if t.kind is kind and t.split == "test"]
        for k, t in enumerate(tests):
            share = kind.test_frames // len(tests) + (k < kind.test_frames % len(tests))
            groups.append([mark(frames[t][i], t) for i in evenly_spaced(len(frames[t]), share)])
    for split in ("train", "test"):
        added = [_Marked(x.positions, x.source, np.nan, x.split) for x in extra if x.split == split]
        groups += [added] if added else []
    chosen_frames = _mix(groups, rng)
    return GeometrySet(
        molecule=reference,
        positions=np.array([_align(reference, x.positions) for x in chosen_frames]),
        source=tuple(x.source for x in chosen_frames),
        temperature=np.array([x.temperature for x in chosen_frames]),
        split=tuple(x.split for x in chosen_frames),
        metadata=metadata,
    )


def _mix(groups: Sequence[list[_Marked]], rng: np.random.Generator) -> list[_Marked]:
    """Shuffle every group, then merge them so that any first part holds all of them in proportion."""
    ranked: list[tuple[float, _Marked]] = []
    for group in groups:
        order = rng.permutation(len(group))
        offset = rng.uniform()
        ranked += [((rank + offset) / len(group), group[k]) for rank, k in enumerate(order)]
    return [frame for _, frame in sorted(ranked, key=lambda entry: entry[0])]


def _align(reference: Molecule, positions: FloatArray) -> FloatArray:
    """Move and rotate positions onto the reference by mass-weighted least squares."""
    masses = reference.masses
    centre = masses @ reference.positions / masses.sum()
    arm = positions - masses @ positions / masses.sum()
    if reference.n_atoms == 1:
        return np.asarray(arm + centre)
    rotation, _ = Rotation.align_vectors(reference.positions - centre, arm, weights=masses / masses.max())
    return np.asarray(rotation.apply(arm) + centre)

"""The computations of ``fflux demo``, one function for each stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fflux_py.cli._paths import reading
from fflux_py.cli._progress import Callback, progress

if TYPE_CHECKING:
    from fflux_py.analysis.criteria import Criterion
    from fflux_py.analysis.runs import Run
    from fflux_py.analysis.validate import Validation
    from fflux_py.forcefield import ForceField
    from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
    from fflux_py.molecules.dataset import Dataset
    from fflux_py.molecules.molecule import Molecule
    from fflux_py.optimization.search import OptimizationResult

MINIMUM_FILE: Final = "minimum_b3lyp_converged.xyz"
"""The minimum at the level of theory of the labels, beside the shipped data."""

FMAX_EV_ANGSTROM: Final = 1e-3


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Parameters
    ----------
    n_train
        Training geometries.
    timestep
        Femtosecond.
    runs
        Temperature (K), length (ps) and steps between reports of every run.
    relabelled
        Visited frames of every run that are labelled again.
    """

    n_train: int
    timestep: float
    runs: tuple[tuple[float, float, int], ...]
    relabelled: int = 0


FULL: Final = Plan(n_train=400, timestep=0.5, runs=((300.0, 100.0, 40), (1000.0, 20.0, 20)), relabelled=6)
QUICK: Final = Plan(n_train=60, timestep=0.5, runs=((300.0, 4.0, 10), (1000.0, 1.0, 10)))


@dataclass(frozen=True)
class Shipped:
    """The shipped data of one molecule.

    Parameters
    ----------
    dataset
        Labelled geometries.
    start
        Start geometry.
    minimum
        The minimum next to it, optimised at the labels' level of theory.
    """

    dataset: Dataset
    start: Molecule
    minimum: Molecule


class Clock:
    """Tells what is being done and how long it took."""

    def __init__(self, total: int) -> None:
        self.seconds: dict[str, float] = {}
        self._total = total

    @contextmanager
    def stage(self, name: str, words: str) -> Iterator[Callback]:
        """Time a stage; its progress is shown on a terminal, its duration is a line on standard error."""
        begin = time.perf_counter()
        number = len(self.seconds) + 1
        with progress(f"{number}/{self._total} {words}") as show:
            yield show
        self.seconds[name] = round(time.perf_counter() - begin, 1)
        sys.stderr.write(f"{number}/{self._total} {words}: {self.seconds[name]:.1f} s\n")
        sys.stderr.flush()


def load(folder: Path) -> Shipped:
    """Read the shipped data."""
    from fflux_py.molecules import shipped_data
    from fflux_py.molecules.dataset import Dataset
    from fflux_py.molecules.extended_xyz import read_molecule

    data, start, minimum = folder / shipped_data.DATA, folder / shipped_data.START, folder / MINIMUM_FILE
    with reading(data):
        dataset = Dataset.read(data)
    molecules = []
    for path in (start, minimum):
        with reading(path):
            molecules.append(read_molecule(path))
    return Shipped(dataset, *molecules)


def train(shipped: Shipped, plan: Plan, output: Path, threads: int, show: Callback) -> ForceField:
    """Train and keep the model."""
    from fflux_py import model_file, training

    available = shipped.dataset.geometries.split.count("train")
    config = training.TrainingConfig(n_train=min(plan.n_train, available), threads_per_worker=threads)
    model = training.train(shipped.dataset, config, show)
    model_file.save(model, output / "model.npz")
    return model


def validate(model: ForceField, shipped: Shipped, show: Callback) -> Validation:
    """Compare with the held-out trajectories."""
    from fflux_py.analysis.validate import validate as compare

    return compare(model, shipped.dataset, progress=show)


def optimise(model: ForceField, shipped: Shipped, output: Path, show: Callback) -> OptimizationResult:
    """Search the minimum from the start geometry and keep it."""
    from fflux_py.molecules.extended_xyz import write_molecule
    from fflux_py.optimization.search import optimize
    from fflux_py.units import EV, EV_ANGSTROM

    result = optimize(model, shipped.start, FMAX_EV_ANGSTROM / EV_ANGSTROM, progress=show)
    marks = {"model_energy_ev": result.energy * EV, "converged": result.converged}
    write_molecule(output / "minimum.xyz", result.molecule, marks)
    return result


def simulate(
    model: ForceField, start: Molecule, plan: Plan, number: int, output: Path, seed: int, show: Callback
) -> Run:
    """Run molecular dynamics; a run that a guard stops is a result, and is told as such."""
    from fflux_py.analysis.runs import read_run
    from fflux_py.dynamics import MDConfig, run_nvt
    from fflux_py.errors import SimulationStopped

    temperature, length_ps, report_every = plan.runs[number]
    steps = round(1000.0 * length_ps / plan.timestep)
    config = MDConfig(
        steps=steps, temperature=temperature, timestep=plan.timestep, report_every=report_every, seed=seed
    )
    folder = output / f"nvt-{temperature:g}K"
    try:
        run_nvt(model, start, config, folder, show)
    except SimulationStopped as stop:
        sys.stderr.write(f"{temperature:g} K: {stop}\n")
    return read_run(folder)


def check_energy(model: ForceField, runs: Sequence[Run], show: Callback) -> tuple[tuple[Criterion, ...], ...]:
    """Criteria of energy conservation from the end of every run; none for a run that a guard stopped."""
    from fflux_py.analysis import energy_conservation as conservation

    criteria: list[tuple[Criterion, ...]] = []
    for k, run in enumerate(runs):
        if run.status != "completed":
            criteria.append(())
            continue
        piece = conservation.run_piece(model, run, k, show)
        drift = conservation.drift_criterion([conservation.piece_drift(piece)], piece.length_ps, group=run.label)
        fluctuations = conservation.energy_fluctuations(model, run)
        criteria.append((drift, conservation.fluctuation_criterion(*fluctuations, run.label)))
    return tuple(criteria)


def relabel(
    model: ForceField, shipped: Shipped, runs: Sequence[Run], plan: Plan, output: Path, workers: int, show: Callback
) -> Validation | None:
    """Label frames that the runs visited at the level of theory of the data, and compare; None without PySCF."""
    import numpy as np

    from fflux_py.analysis.runs import EQUILIBRATION
    from fflux_py.analysis.validate import validate as compare
    from fflux_py.errors import MissingDependencyError
    from fflux_py.iqa import campaign
    from fflux_py.molecules.dataset import GeometrySet

    frames, temperatures = [], []
    for run in runs:
        last = len(run.trajectory) - 1
        # Not the first report: it is the minimum, which is compared on its own.
        first = min(max(int(EQUILIBRATION * last), 1), last)
        chosen = np.unique(np.linspace(first, last, plan.relabelled).astype(int))
        frames.append(run.trajectory.positions[chosen])
        temperatures += [run.config.temperature] * len(chosen)
    geometries = GeometrySet(
        molecule=model.molecule,
        positions=np.concatenate(frames),
        source=tuple(f"nvt-{temperature:g}K-visited" for temperature in temperatures),
        temperature=np.array(temperatures),
        split=("test",) * len(temperatures),
    )
    try:
        data = campaign.label(
            geometries, _level(shipped.dataset), "none", output / "relabelled", workers=workers, progress=show
        )
    except MissingDependencyError:
        return None
    data.write(output / "relabelled.extxyz")
    return compare(model, data, split=None)


def _level(dataset: Dataset) -> LevelOfTheory:
    """The level of theory of a data set, from its header."""
    from fflux_py.certification.labellers import level_of

    return level_of(dataset.metadata)

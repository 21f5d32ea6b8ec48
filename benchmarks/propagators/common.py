"""Models, starts and runs that the rows share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # read by the libraries when they are imported

import numpy as np
from matplotlib.figure import Figure

from fflux_py import model_file
from fflux_py.analysis.report.drawing import to_png
from fflux_py.errors import ConvergenceError, SimulationStopped
from fflux_py.files import write_atomically
from fflux_py.forcefield import ForceField
from fflux_py.molecules import shipped_data
from fflux_py.molecules.normal_modes import NormalModes, normal_modes
from fflux_py.optimization.search import optimize
from fflux_py.propagators.equipartition import EquipartitionMonitor
from fflux_py.propagators.propagator import Propagator, load_propagator, networks
from fflux_py.propagators.run import Propagation, PropagationConfig, propagate
from fflux_py.propagators.trajectories import TrajectorySet
from fflux_py.typing import FloatArray

TEMPERATURE = 300.0


@dataclass
class Setting:
    """Everything that a row needs.

    Parameters
    ----------
    data
        Trajectories, of which the held-out ones serve as starts.
    models
        Propagators by kind and step, one for each seed.
    picoseconds, replicas
        Length and number of the runs.
    correct_variance
        Whether predictors under a thermostat have noise of their own error added.
    pictures
        Folder of the pictures that rows draw.
    """

    data: TrajectorySet
    models: Mapping[str, Sequence[Propagator]]
    picoseconds: float
    replicas: int
    correct_variance: bool = False
    pictures: Path | None = None
    _canonical: dict[int, tuple[Propagation | str, EquipartitionMonitor]] = field(default_factory=dict)

    @classmethod
    def read(
        cls, trajectories: Path, files: Sequence[Path], picoseconds: float, replicas: int, correct_variance: bool,
        pictures: Path | None,
    ) -> Setting:  # fmt: skip
        networks().use_threads(1)
        data = TrajectorySet.load(trajectories)
        models: dict[str, list[Propagator]] = {}
        for file in files:
            model = load_propagator(file)
            model.header.check(data.molecule, data.masses)
            settings = model.header.settings
            other = "" if settings.get("even", True) else "_not_even"
            other += "" if settings.get("layers", True) else "_no_layers"
            name = f"{model.header.kind}_{model.header.step:g}fs{other}"
            models.setdefault(name, []).append(model)
        return cls(data, models, picoseconds, replicas, correct_variance, pictures)

    def of(self, *kinds: str, even: bool = True) -> list[tuple[str, Sequence[Propagator]]]:
        """Groups of models of some kinds."""
        return [
            (name, models) for name, models in self.models.items()
            if models[0].header.kind in kinds and models[0].header.settings.get("even", True) == even
        ]  # fmt: skip

    @cached_property
    def forcefield(self) -> ForceField:
        return model_file.load(shipped_data.path("malondialdehyde") / shipped_data.MODEL)

    @cached_property
    def modes(self) -> NormalModes:
        minimum = optimize(self.forcefield, self.forcefield.molecule).molecule
        return normal_modes(self.forcefield, np.array(minimum.positions), self.data.masses)

    def starts(self, count: int, first: int = 0) -> tuple[FloatArray, FloatArray]:
        """Thermal starts at 300 K that no model has seen; ``first`` leaves out some."""
        held_out = np.flatnonzero((self.data.split > 0) & (self.data.temperatures == TEMPERATURE))
        if len(held_out) == 0:
            raise SystemExit(f"--trajectories: expected some at {TEMPERATURE:g} K, found none")
        # first all first frames; the last ones, a trajectory's length later, only if there are not enough
        frames = [(k, f) for f in (0, self.data.n_frames - 1) for k in held_out]
        if first + count > len(frames):
            raise SystemExit(f"--replicas: expected at most {len(frames)} starts, found {first + count}")
        chosen = frames[first : first + count]
        return (np.array([self.data.positions[c] for c in chosen]), np.array([self.data.velocities[c] for c in chosen]))

    def draw(self, name: str, figure: Figure) -> None:
        """Write a picture if they are wanted."""
        if self.pictures is not None:
            self.pictures.mkdir(parents=True, exist_ok=True)
            write_atomically(self.pictures / f"{name}.png", to_png(figure, dpi=120))

    def canonical(self, model: Propagator) -> tuple[Propagation | str, EquipartitionMonitor]:
        """Langevin dynamics with a frame every 10 fs, once for each model."""
        if id(model) not in self._canonical:
            monitor = EquipartitionMonitor(self.data.molecule, self.data.masses, self.modes)
            self._canonical[id(model)] = self.run(model, "langevin", self.picoseconds, 10.0, monitor=monitor), monitor
        return self._canonical[id(model)]

    def run(
        self, model: Propagator, ensemble: str, picoseconds: float, report_fs: float, with_energy: bool = False,
        monitor: EquipartitionMonitor | None = None, replicas: int | None = None,
        correct_energy: bool = False, first: int = 0,
    ) -> Propagation | str:  # fmt: skip
        """A run, or why it ended early: 'apart' or 'not converged'."""
        step = model.header.step
        every = max(1, round(report_fs / step))
        fill_in = max(1, round(step / report_fs)) if model.header.kind == "continuous" else 1
        steps = max(every, round(1000.0 * picoseconds / step))
        config = PropagationConfig(
            steps=steps, step=step, ensemble=ensemble, temperature=TEMPERATURE,
            report_every=every, fill_in=fill_in,
            correct_energy=correct_energy,
            correct_variance=self.correct_variance and ensemble != "nve" and model.header.kind != "action",
        )  # fmt: skip
        q, v = self.starts(replicas or self.replicas, first)
        try:
            return propagate(model, q, v, config, self.forcefield if with_energy or correct_energy else None, monitor)
        except SimulationStopped:
            return "came apart"
        except ConvergenceError:
            return "Newton did not converge"


def over_seeds(values: Sequence[float | str]) -> str:
    """Mean and standard error of a figure over the seeds; what failed is counted."""
    numbers = np.array([v for v in values if not isinstance(v, str)])
    failed = [v for v in values if isinstance(v, str)]
    words = f" ({len(failed)} of {len(values)} seeds: {failed[0]})" if failed else ""
    if not len(numbers):
        return f"none{words}"
    error = f" +- {numbers.std(ddof=1) / np.sqrt(len(numbers)):.2g}" if len(numbers) > 1 else " (one seed)"
    return f"{numbers.mean():.4g}{error}{words}"


def show(figures: Mapping[str, object]) -> None:
    """Print figures, whose names end in their units."""
    for name, value in figures.items():
        print(f"{name:<70} {value:.4g}" if isinstance(value, float) else f"{name:<70} {value}", flush=True)

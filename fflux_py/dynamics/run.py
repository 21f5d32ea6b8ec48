"""Molecular dynamics of one free molecule: the loop in compiled code, Python at the reports only.

All replicas of a run go side by side.  At every report each writes a frame and a line; checkpoints hold all of them in
one file (:mod:`fflux_py.dynamics.checkpoint`), from which :func:`resume` goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fflux_py.bias.plumed_input import PlumedInput
from fflux_py.dynamics import _integrator as compiled
from fflux_py.dynamics import checkpoint as checkpoints
from fflux_py.dynamics import guards
from fflux_py.dynamics.checkpoint import Checkpoint, ReplicaRecord
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.engine import Engine, initial_state, restored_state, system_of
from fflux_py.dynamics.guards import GuardEvent, GuardTripped, Inspector
from fflux_py.dynamics.output import RunFolder
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.dynamics.reports import Report, ReportsInMemory
from fflux_py.dynamics.run_bias import RunBias, input_of
from fflux_py.dynamics.trajectory import FINAL_FILE, STOPPED_FILE, Trajectory
from fflux_py.errors import GeometryError, InputError
from fflux_py.files import remove_leftovers
from fflux_py.forcefield import ForceField
from fflux_py.molecules.molecule import Molecule, check_same_molecule
from fflux_py.units import ANGSTROM, BOLTZMANN

Progress = Callable[[int, int], None]
OnEvent = Callable[[GuardEvent], None]


def run_nvt(
    forcefield: ForceField | CompiledPotential,
    start: Molecule,
    config: MDConfig,
    folder: Path | None = None,
    progress: Progress | None = None,
    replica: int = 0,
    *,
    on_event: OnEvent | None = None,
    model: str = "",
    bias: PlumedInput | str | None = None,
) -> Trajectory:
    """Run one replica at constant temperature; NVE with ``config.thermostat == "none"``.

    Momentum and angular momentum are zero and stay so; every thermostat holds the 3N - 6 degrees of freedom that remain
    (:mod:`fflux_py.molecules.mechanics`).

    Parameters
    ----------
    forcefield
        A force field, or any compiled potential.
    start
        Start geometry; elements, order and charge as in the model.
    config
        The run; its ``replicas`` is for :func:`run_replicas`.
    folder
        Where the files of the run are written while it goes (:mod:`fflux_py.dynamics.output`); None writes nothing and
        keeps the reports in memory.
    progress
        Called with (steps done, all steps) at every report.
    replica
        Number of the stream of random numbers.
    on_event
        Called with every event of a guard, also of one that stops the run.
    model
        Path of the model's file, for :func:`resume` and ``run.json``.
    bias
        A metadynamics to run on: a PLUMED input, or its text (:mod:`fflux_py.bias.plumed_input`).  Its HILLS and COLVAR
        files go into the folder; energies of the reports are those without it.

    Returns
    -------
    The reports; with a folder read back from its files, where positions have single precision.

    Raises
    ------
    GuardTripped
        A guard ended the run; its exit code says which.
    ModelMismatchError, InputError, GeometryError
        The start is another molecule or distorted beyond the limits; the folder holds another run; the disk is full.
    """
    run = _Run.new(forcefield, start, config, (replica,), folder, (".",), model, 1, bias)
    return run.finish(progress, on_event)[0]


def run_replicas(
    forcefield: ForceField | CompiledPotential,
    start: Molecule,
    config: MDConfig,
    folder: Path | None = None,
    progress: Progress | None = None,
    *,
    threads: int = 1,
    on_event: OnEvent | None = None,
    model: str = "",
    bias: PlumedInput | str | None = None,
) -> tuple[Trajectory, ...]:
    """Run ``config.replicas`` replicas side by side; the same bits on any number of threads.

    Each replica has a bias of its own, or all are walkers of one if the PLUMED input says so.  One replica writes to
    ``folder`` itself, several to ``folder/replica-000`` and so on.  A replica that a guard stops does not keep the
    others from running; the first error is raised at the end.  ``progress`` counts the steps of all replicas;
    everything else is as in :func:`run_nvt`.
    """
    numbers = tuple(range(config.replicas))
    places = (".",) if config.replicas == 1 else tuple(f"replica-{r:03d}" for r in numbers)
    run = _Run.new(forcefield, start, config, numbers, folder, places, model, threads, bias)
    return run.finish(progress, on_event)


def resume(
    forcefield: ForceField | CompiledPotential,
    folder: Path,
    steps: int | None = None,
    progress: Progress | None = None,
    *,
    threads: int = 1,
    on_event: OnEvent | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> tuple[Trajectory, ...]:
    """Go on with a run from its last checkpoint: bit for bit the run that was never interrupted.

    Outputs are cut to the checkpoint, so that no frame is lost and none is there twice.

    Parameters
    ----------
    forcefield
        The model of the run.
    folder
        The folder that the run was started with.
    steps
        Steps of the whole run, those already done included; what was asked for at the start if not given.
    progress, threads, on_event
        As in :func:`run_replicas`.
    on_notice
        Called with one line if the last checkpoint cannot be used and the one before is taken.

    Raises
    ------
    ModelMismatchError
        Another model than the run's; nothing was touched.
    FileFormatError
        No checkpoint that can be used.
    InputError
        The run is still going, or fewer steps than were done.
    """
    found, notice = checkpoints.usable(folder)
    if notice and on_notice is not None:
        on_notice(notice)
    potential = CompiledPotential.of(forcefield)
    found.check_model(potential.digest(), str(folder))
    config = found.config if steps is None else replace(found.config, steps=steps)
    if config.steps < found.step:
        raise InputError("steps", f"at least the {found.step} that were done", str(config.steps))
    return _Run.resumed(forcefield, found, config, folder, threads).finish(progress, on_event)


class _Run:
    """A run in progress; made by :meth:`new` or :meth:`resumed`, done by :meth:`finish`."""

    def __init__(
        self,
        forcefield: ForceField | CompiledPotential,
        start: Molecule,
        config: MDConfig,
        numbers: tuple[int, ...],
        state: compiled.State,
        folder: Path | None,
        model: str,
        threads: int,
        bias: PlumedInput | None,
    ) -> None:
        self._start, self._config, self._numbers = start, config, numbers
        self._folder, self._model = folder, model
        self._potential = CompiledPotential.of(forcefield)
        self._digest = self._potential.digest()
        self._inspector = _inspector_of(forcefield, config)
        system = system_of(self._potential.molecule, config)
        self._bias = None if bias is None else RunBias(bias, start, config, numbers)
        self._engine = Engine(self._potential, system, state, threads, self._bias)
        self._outputs: list[RunFolder | None] = [None] * len(numbers)
        # of replicas whose output is closed, and of all their places
        self._records: list[ReplicaRecord] = []
        self._first_conserved = np.full(len(numbers), np.nan)
        self._memory = [ReportsInMemory(config, start.n_atoms) for _ in numbers] if folder is None else []
        self._stops: dict[int, GuardTripped] = {}
        self._done = self._last_checkpoint = 0
        self._resumed = False

    @classmethod
    def new(
        cls,
        forcefield: ForceField | CompiledPotential,
        start: Molecule,
        config: MDConfig,
        numbers: tuple[int, ...],
        folder: Path | None,
        places: Sequence[str],
        model: str,
        threads: int,
        bias: PlumedInput | str | None,
    ) -> _Run:
        """A run at its start; all checks are made before any file is."""
        potential = CompiledPotential.of(forcefield)
        check_same_molecule(potential.molecule, start)
        system = system_of(potential.molecule, config)
        state = initial_state(potential, start, system, config, numbers)
        plumed = None if bias is None else input_of(bias)
        home = None if folder is None else Path(folder)
        run = cls(forcefield, start, config, numbers, state, home, model, threads, plumed)
        if home is not None:
            if (home / checkpoints.CHECKPOINT_FILE).exists():
                found = f"{checkpoints.CHECKPOINT_FILE} of another run"
                raise InputError(
                    str(folder), "a new or empty folder", found, "choose another folder, or resume that run"
                )
            description = run._description()
            for r, (place, number) in enumerate(zip(places, numbers, strict=True)):
                output = RunFolder(home / place, start, config, number, description)
                run._outputs[r] = output
                run._records.append(output.state(home))
            if run._bias is not None:
                run._bias.begin(home, places)
        return run

    @classmethod
    def resumed(
        cls,
        forcefield: ForceField | CompiledPotential,
        found: Checkpoint,
        config: MDConfig,
        folder: Path,
        threads: int,
    ) -> _Run:
        """A run at a checkpoint, its outputs cut to it."""
        potential = CompiledPotential.of(forcefield)
        if potential.memory is not None:
            if found.memory is None or found.memory.shape != potential.memory.shape:
                raise InputError(
                    "memory of the potential", f"shape {potential.memory.shape}", "another in the checkpoint"
                )
            potential.memory[...] = found.memory
        numbers = tuple(record.number for record in found.replicas)
        plumed = None if found.bias is None else input_of(found.bias.text)
        state = restored_state(found)
        run = cls(forcefield, found.molecule, config, numbers, state, folder, found.model, threads, plumed)
        run._done = run._last_checkpoint = found.step
        run._resumed = True
        run._records = list(found.replicas)
        run._first_conserved[:] = found.first_conserved
        description = run._description()
        for r, record in enumerate(found.replicas):
            if found.active[r]:
                continuation = (record, float(found.first_conserved[r]), found.step)
                run._outputs[r] = RunFolder(
                    folder / record.folder, found.molecule, config, record.number, description, continuation
                )
        remove_leftovers(folder)
        if run._bias is not None and found.bias is not None:
            run._bias.restore(found.bias, folder, [record.folder for record in found.replicas])
        return run

    def finish(self, progress: Progress | None, on_event: OnEvent | None) -> tuple[Trajectory, ...]:
        """Run to the end; the trajectories of the replicas, or the error of the first one that was stopped."""
        config, state = self._config, self._engine.state
        total = config.steps * len(self._numbers)
        try:
            if not self._resumed:
                self._act_of_bias()
                self._report()
                self._checkpoint()
            if progress is not None:
                progress(self._done * len(self._numbers), total)
            while self._done < config.steps and state.active.any():
                block = self._block()
                self._engine.advance(self._done, block)
                self._done += block
                self._handle_events(on_event)
                self._act_of_bias()
                if self._done % config.report_every == 0:
                    self._report()
                if self._checkpoint_due():
                    self._checkpoint()
                if progress is not None:
                    progress(self._done * len(self._numbers), total)
            self._complete()
        except BaseException:
            for output in self._outputs:
                if output is not None:
                    # on a full disk run.json keeps its last state, "running"
                    with contextlib.suppress(InputError):
                        output.close("interrupted", self._done)
            raise
        finally:
            self._engine.close()
            if self._bias is not None:
                self._bias.close()
        return self._trajectories()

    def _block(self) -> int:
        """Steps until the next report, inspection or end."""
        ends = [self._config.steps, (self._done // self._config.report_every + 1) * self._config.report_every]
        if self._inspector is not None:
            every = self._config.guards.every
            ends.append((self._done // every + 1) * every)
        if self._bias is not None:
            ends.append(self._bias.next_stop(self._done))
        return min(ends) - self._done

    def _act_of_bias(self) -> None:
        """Print variables and put down hills, where they are due."""
        if self._bias is not None:
            self._bias.after_step(self._done, self._engine.state)

    def _report(self) -> None:
        """A frame and a line of every replica that runs; jumps of the conserved quantity count from here."""
        engine, step = self._engine, self._done
        state, system = engine.state, engine.system
        for r in np.flatnonzero(state.active):
            kinetic = float(state.kinetic[r])
            conserved = engine.conserved(int(r))
            state.reference[r] = conserved
            if step == 0:
                self._first_conserved[r] = conserved
            temperature = 2.0 * kinetic / (system.degrees_of_freedom * BOLTZMANN)
            potential = float(state.potential[r]) - (0.0 if self._bias is None else float(self._bias.energies[r]))
            report = Report(step, potential, kinetic, conserved, temperature)
            output = self._outputs[r]
            if output is not None:
                output.report(step, state.positions[r], *report[1:])
            else:
                self._memory[r].add(report, state.positions[r])

    def _handle_events(self, on_event: OnEvent | None) -> None:
        engine, config = self._engine, self._config
        state = engine.state
        time = self._done * config.timestep
        inspect = self._inspector if self._done % config.guards.every == 0 else None
        for r, number in enumerate(self._numbers):
            if engine.events.counts[r].any():
                seen = guards.compiled_events(
                    engine.events, r, number, engine.system, self._potential.molecule, config.guards, config.timestep
                )
                for event in seen:
                    self._handle(r, event, on_event)
            if inspect is not None and state.active[r]:
                for event in inspect.events(state.positions[r], state.velocities[r], number, self._done, time):
                    self._handle(r, event, on_event)

    def _handle(self, r: int, event: GuardEvent, on_event: OnEvent | None) -> None:
        output = self._outputs[r]
        if event.kind == "energy" and self._bias is not None:
            event = self._bias.named(event)
        if r not in self._stops:
            if output is not None:
                output.event(event)
            if event.action == "stop":
                self._engine.state.active[r] = 0
                self._stops[r] = self._stopped(r, event)
        if on_event is not None:
            on_event(event)

    def _stopped(self, r: int, event: GuardEvent) -> GuardTripped:
        """The error of a replica that ends here; its frame is saved and its files are closed."""
        stop, output = event.error(), self._outputs[r]
        if np.isfinite(event.positions).all():
            with contextlib.suppress(GeometryError):
                stop.frame = self._start.with_positions(event.positions)
        if output is not None:
            if stop.frame is not None:
                path = output.write_state(STOPPED_FILE, event.positions, event.velocities, event.step)
                stop.args = (f"{stop.args[0]}; the frame is in {path}",)
            output.close("stopped", event.step, str(stop))
            if self._folder is not None:
                self._records[r] = output.state(self._folder)
            self._outputs[r] = None
        return stop

    def _checkpoint_due(self) -> bool:
        if self._done == self._config.steps:
            return True
        at_report = self._done % self._config.report_every == 0
        return at_report and self._done - self._last_checkpoint >= self._config.checkpoint_every

    def _checkpoint(self) -> None:
        if self._folder is None:
            return
        for r, output in enumerate(self._outputs):
            if output is not None:
                output.sync()
                self._records[r] = output.state(self._folder)
        state = self._engine.state
        arrays = {name: getattr(state, name) for name in checkpoints.STATE_ARRAYS}
        Checkpoint(
            step=self._done,
            config=self._config,
            molecule=self._start,
            model_sha256=self._digest,
            model=self._model,
            replicas=tuple(self._records),
            first_conserved=self._first_conserved,
            memory=self._potential.memory,
            bias=None if self._bias is None else self._bias.record(),
            **arrays,
        ).write(self._folder)
        self._last_checkpoint = self._done

    def _complete(self) -> None:
        state = self._engine.state
        for r, output in enumerate(self._outputs):
            if output is not None:
                output.write_state(FINAL_FILE, state.positions[r], state.velocities[r], self._done)
                output.close("completed", self._done)

    def _trajectories(self) -> tuple[Trajectory, ...]:
        for r, stop in self._stops.items():
            stop.trajectory = self._trajectory(r)
        if self._stops:
            r, first = next(iter(sorted(self._stops.items())))
            if len(self._numbers) > 1:
                which = f"replica {self._numbers[r]} ({len(self._stops)} of {len(self._numbers)} stopped)"
                first.args = (f"{which}: {first.args[0]}",)
            raise first
        return tuple(self._trajectory(r) for r in range(len(self._numbers)))

    def _trajectory(self, r: int) -> Trajectory:
        number, seed = self._numbers[r], self._config.seed
        if self._folder is None:
            return self._memory[r].trajectory(self._start, self._config, number)
        return Trajectory.read(self._folder / self._records[r].folder, seed, number)

    def _description(self) -> Mapping[str, object]:
        """What run.json says about model and limits."""
        system, limits = self._engine.system, self._config.guards
        labels = [guards.label(self._potential.molecule, int(i), int(j)) for i, j in system.bonds]
        table = np.round(np.stack([system.bond_minima, system.bond_maxima], axis=1) * ANGSTROM, 6)
        return {
            "model": self._model,
            "model_sha256": self._digest,
            "degrees_of_freedom": system.degrees_of_freedom,
            "bias": None if self._bias is None else self._bias.plumed.text,
            "guards": {
                "bond_limits_angstrom": dict(zip(labels, table.tolist(), strict=True)),
                "contact_angstrom": round(limits.contact_distance, 6),
            },
        }


def _inspector_of(forcefield: ForceField | CompiledPotential, config: MDConfig) -> Inspector | None:
    """What looks at features and deviations; None if nothing is to be looked at."""
    if not config.guards.inspects:
        return None
    if isinstance(forcefield, CompiledPotential):
        raise InputError(
            "guards", "a force field, which knows its training data", "a bare potential",
            "switch the guards 'features' and 'deviation' off",
        )  # fmt: skip
    return Inspector(forcefield, config.guards)

"""Molecular dynamics of one free molecule: the loop in compiled code, Python at the reports only.

All replicas of a run go side by side.  At every report each writes a frame and a line; checkpoints hold all of them in
one file (:mod:`fflux_py.dynamics.checkpoint`), from which :func:`resume` goes on.  What defines a run is in
:mod:`fflux_py.dynamics.setup`, what is kept of it in :mod:`fflux_py.dynamics.recorder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from fflux_py.bias.plumed_input import PlumedInput
from fflux_py.dynamics import guards
from fflux_py.dynamics._signals import DeferredSignals
from fflux_py.dynamics.checkpoint import Checkpoint, read_newest_checkpoint
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.engine import Engine
from fflux_py.dynamics.guards import GuardEvent, Inspector
from fflux_py.dynamics.potentials import CompiledPotential
from fflux_py.dynamics.recorder import Recorder
from fflux_py.dynamics.run_bias import plumed_input_of
from fflux_py.dynamics.setup import RunSetup
from fflux_py.dynamics.trajectory import Trajectory
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.molecules.molecule import Molecule

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
        Start geometry.  Its atoms are matched with those of a force field; the whole run is in their order and hand.
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
    setup = RunSetup(
        forcefield=forcefield, start=start, config=config, replicas=(replica,), folder=folder, model=model,
        bias=None if bias is None else plumed_input_of(bias),
    )  # fmt: skip
    return _run(setup, None, progress, on_event)[0]


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
    replicas = tuple(range(config.replicas))
    setup = RunSetup(
        forcefield=forcefield, start=start, config=config, replicas=replicas, folder=folder,
        subfolders=(".",) if len(replicas) == 1 else tuple(f"replica-{r:03d}" for r in replicas),
        model=model, threads=threads, bias=None if bias is None else plumed_input_of(bias),
    )  # fmt: skip
    return _run(setup, None, progress, on_event)


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
    checkpoint, notice = read_newest_checkpoint(folder)
    if notice and on_notice is not None:
        on_notice(notice)
    checkpoint.check_model(CompiledPotential.of(forcefield).digest(), str(folder))
    config = checkpoint.config if steps is None else replace(checkpoint.config, steps=steps)
    if config.steps < checkpoint.step:
        raise InputError("steps", f"at least the {checkpoint.step} that were done", str(config.steps))
    setup = RunSetup.of_checkpoint(forcefield, checkpoint, config, folder, threads)
    return _run(setup, checkpoint, progress, on_event)


def _run(
    setup: RunSetup, checkpoint: Checkpoint | None, progress: Progress | None, on_event: OnEvent | None
) -> tuple[Trajectory, ...]:
    """Run from the start or from a checkpoint to the end; raise the error of the first replica that a guard stops.

    Ctrl-C and SIGTERM wait until the next report, where a checkpoint is written.
    """
    config, n_replicas = setup.config, len(setup.replicas)
    inspector, engine = setup.make_inspector(), setup.start_engine(checkpoint)
    state, bias = engine.state, engine.bias
    step = 0 if checkpoint is None else checkpoint.step
    recorder, reported = None, False
    with DeferredSignals() as signals:
        try:
            if checkpoint is None:
                recorder = Recorder.begin(setup, engine)
                if bias is not None:
                    bias.after_step(0, state)
                recorder.report(0)
                recorder.write_checkpoint(0)
            else:
                recorder = Recorder.resume(setup, engine, checkpoint)
            if progress is not None:
                progress(step * n_replicas, config.steps * n_replicas)
            if checkpoint is not None and checkpoint.events is not None and step == config.steps:
                _tell_events(setup, engine, inspector, recorder, step, on_event)
            while step < config.steps and state.active.any():
                n_steps = _next_stop(setup, engine, step) - step
                reported = False
                engine.advance(step, n_steps)
                step += n_steps
                if step == config.steps < _end_of_block(setup, engine, step - 1):
                    recorder.hold_records()
                _tell_events(setup, engine, inspector, recorder, step, on_event)
                if bias is not None:
                    bias.after_step(step, state)
                if step % config.report_every == 0:
                    recorder.report(step)
                    reported = True
                if recorder.checkpoint_is_due(step):
                    recorder.write_checkpoint(step)
                if progress is not None:
                    progress(step * n_replicas, config.steps * n_replicas)
                if reported:
                    signals.deliver()
            recorder.complete(step)
        except BaseException as error:
            if recorder is not None:
                recorder.interrupt(step, reported and isinstance(error, KeyboardInterrupt))
            raise
        finally:
            engine.close()
    return recorder.trajectories()


def _next_stop(setup: RunSetup, engine: Engine, step: int) -> int:
    """The step after ``step`` at which the loop stops for a report, an inspection, the bias, or the end."""
    return min(setup.config.steps, _end_of_block(setup, engine, step))


def _end_of_block(setup: RunSetup, engine: Engine, step: int) -> int:
    """The step after ``step`` at which a run without end stops."""
    config = setup.config
    stops = [(step // config.report_every + 1) * config.report_every]
    if config.guards.inspects:
        stops.append((step // config.guards.every + 1) * config.guards.every)
    if engine.bias is not None:
        stops.append(engine.bias.next_stop(step))
    return min(stops)


def _tell_events(
    setup: RunSetup,
    engine: Engine,
    inspector: Inspector | None,
    recorder: Recorder,
    step: int,
    on_event: OnEvent | None,
) -> None:
    """Keep the events of the last block of steps, and hand them to whoever asked for them."""
    for r, event in _events(setup, engine, inspector, step):
        recorder.record_event(r, event)
        if on_event is not None:
            on_event(event)


def _events(
    setup: RunSetup, engine: Engine, inspector: Inspector | None, step: int
) -> Iterator[tuple[int, GuardEvent]]:
    """Events of the last block of steps by the index of their replica; one that was stopped meanwhile has no more."""
    config, state = setup.config, engine.state
    if step % config.guards.every:
        inspector = None
    for r, number in enumerate(setup.replicas):
        if engine.events.counts[r].any():
            for event in guards.compiled_events(
                engine.events, r, number, engine.system, setup.potential.molecule, config.guards, config.timestep
            ):
                if event.kind == "energy" and engine.bias is not None:
                    event = engine.bias.explain_event(event)
                yield r, event
        if inspector is not None and state.active[r]:
            time = step * config.timestep
            for event in inspector.events(state.positions[r], state.velocities[r], number, step, time):
                yield r, event

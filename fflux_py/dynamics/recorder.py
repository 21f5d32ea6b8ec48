"""What is kept of a run: reports in files or in memory, events of the guards, checkpoints, how it ended."""

from __future__ import annotations

import contextlib

import numpy as np

from fflux_py.dynamics import checkpoint as checkpoints
from fflux_py.dynamics._integrator import Events
from fflux_py.dynamics.checkpoint import Checkpoint, ReplicaRecord
from fflux_py.dynamics.engine import Engine
from fflux_py.dynamics.guards import GuardEvent, GuardTripped
from fflux_py.dynamics.output import RunFolder
from fflux_py.dynamics.reports import Report, ReportsInMemory
from fflux_py.dynamics.setup import RunSetup
from fflux_py.dynamics.trajectory import FINAL_FILE, MODES_FILE, STOPPED_FILE, Trajectory
from fflux_py.errors import GeometryError, InputError
from fflux_py.files import remove_leftovers
from fflux_py.molecules.normal_modes import write_modes
from fflux_py.units import BOLTZMANN


class Recorder:
    """Keeps what a run produces; :meth:`begin` makes new files, :meth:`resume` opens those of a checkpoint.

    Parameters
    ----------
    setup
        The run.
    engine
        Its replicas, whose state is recorded.
    """

    def __init__(self, setup: RunSetup, engine: Engine) -> None:
        self._setup, self._engine = setup, engine
        n = len(setup.replicas)
        self._folders: list[RunFolder | None] = [None] * n
        """Open files of the replicas that run."""
        self._records: list[ReplicaRecord] = []
        """What a checkpoint has to know of the files of every replica, closed ones too."""
        self._first_conserved = np.full(n, np.nan)
        in_memory = range(n if setup.folder is None else 0)
        self._memory = [ReportsInMemory(setup.config, setup.start.n_atoms) for _ in in_memory]
        self._stops: dict[int, GuardTripped] = {}
        self._last_checkpoint = 0
        self._block_is_cut = False

    @classmethod
    def begin(cls, setup: RunSetup, engine: Engine) -> Recorder:
        """Make the files of a new run, if it writes any.

        Raises
        ------
        InputError
            The folder holds another run, or cannot be written to.
        """
        recorder = cls(setup, engine)
        base = setup.folder
        if base is None:
            return recorder
        if (base / checkpoints.CHECKPOINT_FILE).exists():
            found = f"{checkpoints.CHECKPOINT_FILE} of another run"
            raise InputError(str(base), "a new or empty folder", found, "choose another folder, or resume that run")
        description, modes = setup.description(), setup.normal_modes()
        for r, (subfolder, number) in enumerate(zip(setup.subfolders, setup.replicas, strict=True)):
            folder = RunFolder(base / subfolder, setup.start, setup.config, number, description)
            if modes is not None:
                write_modes(folder.folder / MODES_FILE, modes)
            recorder._folders[r] = folder
            recorder._records.append(folder.record(base))
        if engine.bias is not None:
            engine.bias.begin(base, setup.subfolders)
        return recorder

    @classmethod
    def resume(cls, setup: RunSetup, engine: Engine, checkpoint: Checkpoint) -> Recorder:
        """Open the files of a run and cut them to a checkpoint; put its hills back."""
        recorder = cls(setup, engine)
        assert setup.folder is not None
        recorder._last_checkpoint = checkpoint.step
        recorder._records = list(checkpoint.replicas)
        recorder._first_conserved[:] = checkpoint.first_conserved
        description = setup.description()
        for r, record in enumerate(checkpoint.replicas):
            if checkpoint.active[r]:
                continuation = (record, float(checkpoint.first_conserved[r]), checkpoint.step)
                recorder._folders[r] = RunFolder(
                    setup.folder / record.folder, setup.start, setup.config, record.number, description, continuation
                )
        remove_leftovers(setup.folder)
        if engine.bias is not None and checkpoint.bias is not None:
            engine.bias.restore(checkpoint.bias, setup.folder, setup.subfolders)
        return recorder

    def report(self, step: int) -> None:
        """A frame and a line of every replica that runs; jumps of the conserved quantity count from here."""
        state, system, bias = self._engine.state, self._engine.system, self._engine.bias
        for r in np.flatnonzero(state.active):
            kinetic = float(state.kinetic[r])
            conserved = self._engine.conserved(int(r))
            state.reference[r] = conserved
            if step == 0:
                self._first_conserved[r] = conserved
            temperature = 2.0 * kinetic / (system.degrees_of_freedom * BOLTZMANN)
            potential = float(state.potential[r]) - (0.0 if bias is None else float(bias.energies[r]))
            report = Report(step, potential, kinetic, conserved, temperature)
            folder, velocities = self._folders[r], self._engine.velocities_of_report(int(r), step)
            if folder is not None:
                folder.write_report(report, state.positions[r], velocities)
            else:
                self._memory[r].add(report, state.positions[r], velocities)

    def record_event(self, r: int, event: GuardEvent) -> None:
        """Keep an event of the r-th replica; end the replica if that is what the guard does."""
        if r in self._stops:
            return
        folder = self._folders[r]
        if folder is not None:
            folder.write_event(event)
        if event.action == "stop":
            self._engine.state.active[r] = 0
            self._stops[r] = self._stop(r, event)

    def hold_records(self) -> None:
        """Let the last checkpoint speak of the files as they are now: the block of steps that ends here is cut short.

        A longer run goes on with the block, and tells its events once.
        """
        self._block_is_cut = True
        self._note_files()

    def _note_files(self) -> None:
        for r, folder in enumerate(self._folders):
            if folder is not None:
                folder.sync()
                assert self._setup.folder is not None
                self._records[r] = folder.record(self._setup.folder)

    def write_checkpoint(self, step: int) -> None:
        """Write a checkpoint into the folder of the run; all files are synced to the disk before."""
        setup, state, bias = self._setup, self._engine.state, self._engine.bias
        if setup.folder is None:
            return
        if not self._block_is_cut:
            self._note_files()
        Checkpoint(
            step=step,
            config=setup.config,
            molecule=setup.start,
            model_sha256=setup.digest,
            model=setup.model,
            replicas=tuple(self._records),
            first_conserved=self._first_conserved,
            memory=setup.potential.memory,
            bias=None if bias is None else bias.record(),
            events=self._cut_block() if self._block_is_cut else None,
            **{name: getattr(state, name) for name in checkpoints.STATE_ARRAYS},
        ).write(setup.folder)
        self._last_checkpoint = step

    def _cut_block(self) -> Events:
        """The events of a block that is cut short, without those of replicas that a guard stopped."""
        events = Events._make(array.copy() for array in self._engine.events)
        events.counts[self._engine.state.active == 0] = 0
        return events

    def checkpoint_is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be written: at the end, and at the first report after so many steps."""
        config = self._setup.config
        if step == config.steps:
            return True
        return step % config.report_every == 0 and step - self._last_checkpoint >= config.checkpoint_every

    def complete(self, step: int) -> None:
        """Write the final state of every replica that is left, and close its files."""
        state, masses = self._engine.state, self._engine.system.masses
        for r, folder in enumerate(self._folders):
            if folder is not None:
                folder.write_state(FINAL_FILE, state.positions[r], state.velocities[r], masses, step)
                folder.close("completed", step)

    def interrupt(self, step: int, reported: bool) -> None:
        """Close the files of a run that an error ends.

        Parameters
        ----------
        step
            Steps done.
        reported
            Whether the state is that of a report, from which the run can go on: it becomes a checkpoint.
        """
        # on a full disk run.json keeps its last state, "running"
        with contextlib.suppress(InputError):
            if reported and step != self._last_checkpoint:
                self.write_checkpoint(step)
        for folder in self._folders:
            if folder is not None:
                with contextlib.suppress(InputError):
                    folder.close("interrupted", step)

    def trajectories(self) -> tuple[Trajectory, ...]:
        """The trajectories of all replicas.

        Raises
        ------
        GuardTripped
            The error of the first replica that a guard stopped.
        """
        for r, stop in self._stops.items():
            stop.trajectory = self._trajectory(r)
        replicas = self._setup.replicas
        if self._stops:
            r, first = min(self._stops.items())
            if len(replicas) > 1:
                which = f"replica {replicas[r]} ({len(self._stops)} of {len(replicas)} stopped)"
                first.args = (f"{which}: {first.args[0]}",)
            raise first
        return tuple(self._trajectory(r) for r in range(len(replicas)))

    def _trajectory(self, r: int) -> Trajectory:
        setup = self._setup
        if setup.folder is None:
            return self._memory[r].trajectory(setup.start, setup.config, setup.replicas[r])
        return Trajectory.read(setup.folder / self._records[r].folder, setup.config.seed, setup.replicas[r])

    def _stop(self, r: int, event: GuardEvent) -> GuardTripped:
        """The error of a replica that ends here; its frame is saved and its files are closed."""
        stop, folder = event.error(), self._folders[r]
        if np.isfinite(event.positions).all():
            with contextlib.suppress(GeometryError):
                stop.frame = self._setup.start.with_positions(event.positions)
        if folder is not None:
            if stop.frame is not None:
                masses = self._engine.system.masses
                path = folder.write_state(STOPPED_FILE, event.positions, event.velocities, masses, event.step)
                stop.args = (f"{stop.args[0]}; the frame is in {path}",)
            folder.close("stopped", event.step, str(stop))
            assert self._setup.folder is not None
            self._records[r] = folder.record(self._setup.folder)
            self._folders[r] = None
        return stop

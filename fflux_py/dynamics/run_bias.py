"""Metadynamics of a run: one bias for every replica or one for all, hills at their pace, HILLS and COLVAR as it goes.

The bias acts in the compiled loop (:func:`fflux_py.bias._compiled.add_bias`); a hill comes down between two of its
blocks.  It counts for the positions at which it is put down: energy and forces there are those with the hill, and what
it adds to the energy is booked as heat, so that the conserved quantity stays one.  Several walkers of one bias put
their hills down in the order of their numbers.  So a run is the same, bit for bit, on any number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py.bias import _compiled
from fflux_py.bias.grid import grid_around
from fflux_py.bias.metadynamics import Metadynamics, compiled_variables
from fflux_py.bias.plumed_files import domain, head_lines, hills_lines, row_line
from fflux_py.bias.plumed_input import PlumedInput, parse_plumed_input
from fflux_py.dynamics import trajectory as names
from fflux_py.dynamics._integrator import State
from fflux_py.dynamics.checkpoint import BiasRecord
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.guards import GuardEvent
from fflux_py.dynamics.line_file import LineFile
from fflux_py.errors import GeometryError, InputError
from fflux_py.files import write_atomically
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import FEMTOSECOND

PLUMED_FILE: Final = "plumed.dat"
"""The input of the bias, in the folder of the run."""

_COLVAR_NUMBER: Final = "%.9f"


def plumed_input_of(bias: PlumedInput | str) -> PlumedInput:
    """A PLUMED input, or what its text says."""
    return parse_plumed_input(bias, "bias") if isinstance(bias, str) else bias


class RunBias:
    """The biases of the replicas of a run.

    Parameters
    ----------
    plumed
        Variables, hills, files.
    molecule
        What is biased.
    config
        The run.
    numbers
        Numbers of the replicas.

    Raises
    ------
    InputError
        The input is made for another temperature or molecule, or lacks a grid; file names that collide.
    """

    def __init__(self, plumed: PlumedInput, molecule: Molecule, config: MDConfig, numbers: Sequence[int]) -> None:
        if plumed.temperature is not None and plumed.temperature != config.temperature:
            raise InputError("bias, TEMP", f"the temperature of the run, {config.temperature:g} K",
                             f"{plumed.temperature:g}", "change one of them")  # fmt: skip
        for variable in plumed.variables:
            variable.check(molecule.n_atoms)
        self.plumed, self.temperature = plumed, config.temperature
        self._timestep = config.timestep / FEMTOSECOND
        self._numbers = tuple(numbers)
        self._biases = [_with_grid(plumed, config.temperature) for _ in range(1 if plumed.walkers else len(numbers))]
        first = self._biases[0].arrays()
        self.tables = np.zeros((len(self._biases), *first.table.shape))
        for bias, table in zip(self._biases, self.tables, strict=True):
            bias.keep_in(table)
        self._common = first
        self._variables = compiled_variables(plumed.variables)
        self.energies = np.zeros(len(numbers))
        self._offsets = np.zeros(len(self._biases))
        self._uses_offset = any(
            {f"{plumed.label}.rct", f"{plumed.label}.rbias"} & set(each.columns) for each in plumed.prints
        )
        self._hills: list[list[LineFile]] = []
        self._prints: list[list[LineFile]] = []
        self._folder: Path | None = None
        _check_names(plumed)

    @property
    def pace(self) -> int:
        """Steps between two hills."""
        return self.plumed.bias.hills.pace

    @property
    def biases(self) -> tuple[Metadynamics, ...]:
        """The bias of every replica, or the one of all."""
        return tuple(self._biases)

    def of_group(self, part: slice) -> _compiled.BiasOfReplicas:
        """What the compiled loop takes for a group of replicas."""
        tables = self.tables if self.plumed.walkers else self.tables[part]
        return _compiled.BiasOfReplicas(self._common, tables, self.energies[part])

    def next_stop(self, done: int) -> int:
        """The first step after ``done`` at which there is something to do."""
        strides = [self.pace, *(each.stride for each in self.plumed.prints if self._prints)]
        return min((done // stride + 1) * stride for stride in strides)

    def begin(self, folder: Path, subfolders: Sequence[str]) -> None:
        """Make the files of a new run."""
        write_atomically(folder / PLUMED_FILE, self.plumed.text)
        self._open(folder, subfolders, None)
        for b, files in enumerate(self._hills):
            for file, head in zip(files, self._hills_heads(b), strict=True):
                file.write_lines(head)
        for files in self._prints:
            for file, each in zip(files, self.plumed.prints, strict=True):
                printed = [v for v in self.plumed.variables if v.label in each.columns]
                file.write_lines(head_lines(["time", *each.columns], domain(printed)))

    def restore(self, record: BiasRecord, folder: Path, subfolders: Sequence[str]) -> None:
        """Put the hills of a checkpoint back and cut the files to it."""
        ends = np.cumsum(record.counts)
        for bias, end, count in zip(self._biases, ends, record.counts, strict=True):
            bias.restore(record.centres[end - count : end], record.heights[end - count : end])
        self.energies[:] = record.energies
        if self._uses_offset:
            self._offsets[:] = [bias.offset() for bias in self._biases]
        self._open(folder, subfolders, record.sizes)

    def record(self) -> BiasRecord:
        """What a checkpoint has to know; all files are synced to the disk."""
        sizes = {}
        for file in self._files():
            file.sync()
            assert self._folder is not None
            sizes[os.path.relpath(file.path, self._folder)] = file.size
        return BiasRecord(
            self.plumed.text,
            sizes,
            np.array([bias.n_hills for bias in self._biases]),
            np.concatenate([bias.centres for bias in self._biases]),
            np.concatenate([bias.heights for bias in self._biases]),
            self.energies.copy(),
        )

    def close(self) -> None:
        """Close the files."""
        for file in self._files():
            file.close()

    def after_step(self, step: int, state: State) -> None:
        """Print what is due at this step, then put down the hills that are due; the state goes on with them."""
        running = [int(r) for r in np.flatnonzero(state.active)]
        self._print(step, state.positions, running)
        if step == 0 or step % self.pace:
            return
        before = {r: self._at(r, state.positions[r]) for r in running}
        for r in running:
            b = self._index(r)
            self._biases[b].deposit(state.positions[r])
            if self._hills:
                newest = self._biases[b].newest_hill(step * self._timestep)
                for file, hills in zip(self._hills[b], newest, strict=True):
                    file.write_lines(hills_lines(hills, self.plumed.units)[1])
        if self._uses_offset:
            for b in {self._index(r) for r in running}:
                self._offsets[b] = self._biases[b].offset()
        for r in running:
            (old, old_forces), (new, new_forces) = before[r], self._at(r, state.positions[r])
            state.forces[r] += new_forces - old_forces
            state.potential[r] += new - old
            state.heat[r] += new - old
            self.energies[r] = new

    def explain_event(self, event: GuardEvent) -> GuardEvent:
        """An event of an energy that is not a number, in the words of the bias if it is the bias's."""
        try:
            self._biases[0].energy_and_forces(event.positions)
        except GeometryError as error:
            return replace(event, place=error.where, expected=error.expected, found=error.found)
        return event

    def _index(self, r: int) -> int:
        return 0 if self.plumed.walkers else r

    def _at(self, r: int, positions: FloatArray) -> tuple[float, FloatArray]:
        energy, forces = _compiled.energy_and_forces(positions, self._biases[self._index(r)].arrays())
        return float(energy), forces

    def _print(self, step: int, positions: FloatArray, running: Sequence[int]) -> None:
        due = [k for k, each in enumerate(self.plumed.prints) if step % each.stride == 0] if self._prints else []
        for r in running if due else ():
            values = _compiled.values_of(positions[r], *self._variables)
            numbers = {v.label: x * self.plumed.units.of(v)
                       for v, x in zip(self.plumed.variables, values, strict=True)}  # fmt: skip
            bias, offset = float(self.energies[r]), float(self._offsets[self._index(r)])
            for name, energy in (("bias", bias), ("rct", offset), ("rbias", bias - offset)):
                numbers[f"{self.plumed.label}.{name}"] = energy * self.plumed.units.energy
            time = step * self._timestep * self.plumed.units.time
            for k in due:
                row = [time, *(numbers[name] for name in self.plumed.prints[k].columns)]
                self._prints[r][k].write_lines([row_line(row, _COLVAR_NUMBER)])

    def _open(self, folder: Path, subfolders: Sequence[str], sizes: Mapping[str, int] | None) -> None:
        self._folder = folder

        def open_file(subfolder: str, name: str) -> LineFile:
            path = folder / subfolder / name
            return LineFile(path, None if sizes is None else sizes[os.path.relpath(path, folder)])

        of_hills = ["."] if self.plumed.walkers else list(subfolders)
        self._hills = [[open_file(subfolder, name) for name in self.plumed.files] for subfolder in of_hills]
        self._prints = [[open_file(subfolder, each.file) for each in self.plumed.prints] for subfolder in subfolders]

    def _hills_heads(self, b: int) -> Iterator[list[str]]:
        for hills in self._biases[b].hills(self._timestep):
            yield hills_lines(hills, self.plumed.units)[0]

    def _files(self) -> Iterator[LineFile]:
        for files in (*self._hills, *self._prints):
            yield from files


def _with_grid(plumed: PlumedInput, temperature: float) -> Metadynamics:
    """The bias without hills; on a grid also if the input has none."""
    settings = plumed.bias
    if settings.grid is not None:
        return settings.build(temperature)
    for variable in settings.variables:
        if not variable.period:
            raise InputError(f"bias on {variable.label}", "GRID_MIN and GRID_MAX, as it is no torsion", "none")
    grid = grid_around(settings.variables, settings.hills.sigmas(settings.variables))
    return Metadynamics(settings.variables, settings.hills, temperature, settings.parallel, grid)


def _check_names(plumed: PlumedInput) -> None:
    """Refuse files that would not lie in the folder of the run, or on top of one another."""
    taken = {names.RUN_FILE, names.THERMO_FILE, names.EVENTS_FILE, names.TRAJECTORY_FILE, names.VELOCITIES_FILE,
             names.MODES_FILE, names.TOPOLOGY_FILE, names.START_FILE, names.FINAL_FILE, names.STOPPED_FILE,
             names.FLAGGED_FILE, names.ASE_FILE, PLUMED_FILE}  # fmt: skip
    for name in (*plumed.files, *(each.file for each in plumed.prints)):
        if os.path.basename(name) != name or name in (".", "..") or name.startswith("checkpoint"):
            raise InputError("bias, FILE", "a name without folders", name)
        if name in taken:
            raise InputError("bias, FILE", "a name for each file", f"{name}, which is taken")
        taken.add(name)

"""Labelling many geometries: results named by their content, so that a killed campaign loses nothing.

A result belongs to (elements, positions, charge, level of theory, partition, schema); their SHA-256 names it.  It has a
file of its own while the campaign is open, and stands in an archive when it is closed
(:mod:`fflux_py.iqa.result_folder`).  Any number of runs may share the folder: a geometry is computed under a lock that
the system releases when its owner dies.  A geometry whose SCF fails leaves a result with the reason.  It is not tried
again, and is not in the data set.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from fflux_py.errors import ConvergenceError, FFLUXError, GeometryError, InputError
from fflux_py.files import sha256
from fflux_py.iqa._workers import Refusal, run_in_processes, run_on
from fflux_py.iqa.label_dataset import build_dataset
from fflux_py.iqa.labelling import SCHEMA, Label, label_geometry
from fflux_py.iqa.partition import NO_PARTITION, check_partition
from fflux_py.iqa.result_archive import canonical
from fflux_py.iqa.result_folder import ISOLATED_ATOMS, ResultFolder
from fflux_py.iqa.scf.free_atoms import compute_isolated_atoms
from fflux_py.iqa.scf.functionals import check_atomic_energies
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.iqa.scf.orbitals import OrbitalFile
from fflux_py.iqa.scf.preflight import check_level
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.preflight import check_electrons, check_molecule
from fflux_py.typing import FloatArray

_DECIMALS: Final = 9
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Resources:
    """Where a campaign computes; labels do not depend on it.

    Parameters
    ----------
    workers
        Processes, started by spawn.
    threads_per_worker
        Threads of each process; recorded in its results.
    executor
        Where to run the geometries instead of in processes of this run; the executor's own thread settings hold.
    """

    workers: int = 1
    threads_per_worker: int = 1
    executor: Executor | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "threads_per_worker"):
            if getattr(self, name) < 1:
                raise InputError(name, "at least 1", str(getattr(self, name)))


@dataclass(frozen=True)
class Campaign:
    """Geometries of one molecule, and how they are labelled.

    Parameters
    ----------
    geometries
        What to label, one geometry at least.
    level
        Level of theory.
    partition
        Name of a partition, or ``none``.
    folder
        Where the results are and go; :meth:`run` makes it if it is missing.
    n_partitioned
        Only the first so many geometries are partitioned; the others get energies and forces, and atomic energies only
        if the folder has them already.  None: all.
    keep_orbitals
        Leave the occupied orbitals of every geometry in ``folder``.  Another partition of the geometry at the same
        level, in the same folder, then needs no SCF; orbitals that are there are always used.
    keep_unstable
        Keep labels of geometries whose restricted solution is unstable (:mod:`fflux_py.iqa.scf.stability`); else they
        are recorded as failed.  The first geometry's solution is always looked into, the others' where the gap is
        small.

    Raises
    ------
    InputError
        An argument that is wrong.
    """

    geometries: GeometrySet
    level: LevelOfTheory
    partition: str
    folder: Path
    n_partitioned: int | None = None
    keep_orbitals: bool = False
    keep_unstable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        check_partition(self.partition)
        if len(self.geometries) == 0:
            raise InputError("geometries", "at least one", "none")
        if self.n_partitioned is not None and self.n_partitioned < 0:
            raise InputError("n_partitioned", "at least 0", str(self.n_partitioned))

    def run(
        self,
        resources: Resources | None = None,
        array: tuple[int, int] = (0, 1),
        progress: Callable[[int, int], None] | None = None,
    ) -> Dataset:
        """Label the geometries that have no result yet, and return the data set of all that have a label.

        Parameters
        ----------
        resources
            Where to compute; by default in one process with one thread.
        array
            ``(i, n)``: compute only the geometries k with k mod n = i, the share of member i of a job array of n.
        progress
            Called with the number of geometries done (computed, read from the folder or failed) and their total.

        Raises
        ------
        InputError
            A wrong argument, a molecule or a level of theory that fails a check, a folder that cannot be written to,
            or no geometry that could be labelled.
        GeometryError
            A molecule of several pieces, or of three and more without local frames if there is a partition.
        FileFormatError
            A damaged archive.
        MissingDependencyError
            PySCF is not installed.
        """
        molecule = self.geometries.molecule
        if molecule.n_atoms > 2:
            check_molecule(molecule, local_frames=self.partition != NO_PARTITION)
        else:  # labels of one and two atoms are figures of their own, though no model can be made of them
            check_electrons(molecule)
        if self.partition != NO_PARTITION:
            check_atomic_energies(self.level.method)
        check_level(molecule, self.level)
        resources = resources or Resources()
        if not 0 <= array[0] < array[1]:
            raise InputError("array", "(i, n) with 0 <= i < n", str(tuple(array)))
        self._results.make()
        isolated = self._isolated_energies()
        tasks = self._tasks()[array[0] :: array[1]]
        _run_until_finished({task.key: task for task in tasks}, resources, progress)
        return self._collect(isolated)

    def collect(self) -> Dataset:
        """Return the data set of the geometries that have a label in the folder; compute none.

        The metadata count the geometries that failed and those that have no result yet.

        Raises
        ------
        InputError
            No geometry has a label in the folder.
        FileFormatError
            A damaged archive.
        """
        return self._collect(self._isolated_energies() if self.folder.is_dir() else {})

    def failures(self) -> dict[int, str]:
        """Reasons of the geometries that could not be labelled, by their index."""
        reasons = {}
        for index, task in enumerate(self._tasks()):
            result = task.result()
            if result is not None and "failure" in result:
                reasons[index] = str(result["failure"])
        return reasons

    def close(self) -> Path:
        """Put all results of the folder, of whatever geometry and level, into one archive and remove their files.

        Every result comes back from the archive to the last bit before its file is removed.  Later runs read the
        archive; what they add has files of its own, until the campaign is closed again.  Orbitals stay.

        Returns
        -------
        The archive.

        Raises
        ------
        InputError
            A geometry without a result, or a result file that is damaged.
        """
        missing = sum(task.result() is None for task in self._tasks())
        if missing:
            raise InputError(str(self.folder), "a result of every geometry", f"{missing} without", "label them first")
        self._results.pack()
        return self._results.archive_path

    @property
    def _results(self) -> ResultFolder:
        return ResultFolder(self.folder)

    def _tasks(self) -> list[_Task]:
        """One of each geometry.  Beyond ``n_partitioned``, without a partition if that has no label yet."""
        molecule = self.geometries.molecule
        tasks = [
            _Task(
                molecule.symbols,
                self.geometries.positions[index],
                molecule.charge,
                f"{molecule.name} geometry {index + 1}",
                self.level,
                self.partition,
                str(self.folder),
                self.keep_orbitals,
                index == 0,
                self.keep_unstable,
            )
            for index in range(len(self.geometries))
        ]
        count = len(tasks) if self.n_partitioned is None else self.n_partitioned
        rest = [
            task if "label" in (task.result() or {}) else replace(task, partition=NO_PARTITION)
            for task in tasks[count:]
        ]
        return [*tasks[:count], *rest]

    def _collect(self, isolated: dict[str, float]) -> Dataset:
        labels: list[Label] = []
        indices: list[int] = []
        failed = missing = 0
        reason = "the results give the reason of a failure"
        for index, task in enumerate(self._tasks()):
            result = task.result()
            if result is None:
                missing += 1
            elif "failure" in result:
                failed += 1
                reason = f"the last failed because of this: {result['failure']}"
            else:
                labels.append(Label.from_dict(result["label"]))
                indices.append(index)
        if not labels:
            raise InputError(
                str(self.folder),
                f"labels of {len(self.geometries)} geometries",
                f"none ({failed} failed, {missing} without a result)",
                f"label the geometries with this level and partition; {reason}",
            )
        counts = {"failed_geometries": failed, "missing_geometries": missing}
        return build_dataset(self.geometries.select(indices), labels, self.level, self.partition, isolated, counts)

    def _isolated_energies(self) -> dict[str, float]:
        """Energies of the free atoms, from the folder or computed and put there."""
        symbols = self.geometries.molecule.symbols
        content = {"symbols": sorted(set(symbols)), "level": self.level.as_dict(), "schema": SCHEMA}
        name = f"{ISOLATED_ATOMS}{sha256(canonical(content))}"
        result = self._results.read(name)
        if result is None:
            try:
                energies: dict[str, float] = compute_isolated_atoms(symbols, self.level)
                result = {**content, "units": "hartree", "energies": energies}
            except (ConvergenceError, InputError) as error:  # only models of the MF5 mean need these energies
                result = {**content, "failure": str(error), "energies": {}}
            self._results.write(name, result)
        return {str(k): float(v) for k, v in result["energies"].items()}


def label(
    geometries: GeometrySet,
    level: LevelOfTheory,
    partition: str,
    folder: str | os.PathLike[str],
    workers: int = 1,
    threads_per_worker: int = 1,
    executor: Executor | None = None,
    keep_orbitals: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Label ``geometries`` and return the data set of all that have a label.

    The short way to :meth:`Campaign.run`; a share of a job array and atomic energies of the first geometries only are
    to be had from :class:`Campaign`.

    Parameters
    ----------
    geometries, level, partition, folder, keep_orbitals
        See :class:`Campaign`.
    workers, threads_per_worker, executor
        See :class:`Resources`.
    progress
        Called with the number of geometries done (computed, read from the folder or failed) and their total.

    Raises
    ------
    InputError
        A wrong argument, a folder that cannot be written to, or no geometry that could be labelled.
    FileFormatError
        A damaged archive of labels in the folder.
    MissingDependencyError
        PySCF is not installed.
    """
    campaign = Campaign(geometries, level, partition, Path(folder), keep_orbitals=keep_orbitals)
    return campaign.run(Resources(workers, threads_per_worker, executor), progress=progress)


@dataclass(frozen=True)
class _Task:
    """One geometry to label; everything in it can be sent to another process."""

    symbols: tuple[str, ...]
    positions: FloatArray
    charge: int
    name: str
    level: LevelOfTheory
    partition: str
    folder: str
    keep_orbitals: bool = False
    judge_always: bool = False
    keep_unstable: bool = False

    @property
    def key(self) -> str:
        """Name of the result; positions count to 1e-9 bohr."""
        positions = (np.round(self.positions, _DECIMALS) + 0.0).tolist()
        content = {
            "symbols": list(self.symbols),
            "positions": [[f"{x:.{_DECIMALS}f}" for x in row] for row in positions],
            "charge": self.charge,
            "level": self.level.as_dict(),
            "partition": self.partition,
            "schema": SCHEMA,
        }
        return sha256(canonical(content))

    @property
    def results(self) -> ResultFolder:
        return ResultFolder(Path(self.folder))

    def result(self) -> dict[str, Any] | None:
        return self.results.read(self.key)


def _run_until_finished(
    tasks: dict[str, _Task], resources: Resources, progress: Callable[[int, int], None] | None
) -> None:
    """Run what has no result yet until everything has one, here or in another run that shares the folder."""
    waiting = {key: task for key, task in tasks.items() if task.result() is None}

    def report() -> None:
        if progress is not None:
            progress(len(tasks) - len(waiting), len(tasks))

    report()
    while waiting:
        before = len(waiting)
        for task, outcome in _run(list(waiting.values()), resources):
            if isinstance(outcome, Refusal):
                raise outcome.error()
            if outcome:
                del waiting[task.key]
                report()
        if len(waiting) == before:
            # Other runs hold the locks of all that is left.
            time.sleep(_POLL_SECONDS)


def _run(tasks: list[_Task], resources: Resources) -> Iterator[tuple[_Task, bool | Refusal]]:
    if resources.executor is not None:
        return run_on(resources.executor, _label_and_write, tasks)
    return run_in_processes(_label_and_write, tasks, min(resources.workers, len(tasks)), resources.threads_per_worker)


def _label_and_write(task: _Task) -> bool | Refusal:
    """Label one geometry and write its result; False if another process is at it."""
    try:
        with task.results.lock(task.key) as owned:
            if not owned:
                return False
            if task.result() is None:
                task.results.write(task.key, _label_or_record_failure(task))
            return True
    except FFLUXError as error:
        return Refusal.of(error)


def _label_or_record_failure(task: _Task) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "symbols": list(task.symbols),
        "positions": task.positions.tolist(),
        "charge": task.charge,
        "level": task.level.as_dict(),
        "partition": task.partition,
        "units": "bohr, hartree, e, s",
    }
    try:
        molecule = Molecule(task.symbols, task.positions, task.charge, task.name)
        orbitals = OrbitalFile(molecule, task.level, Path(task.folder))
        before = (replace(task, partition=NO_PARTITION).result() or {}).get("label")
        earlier = Label.from_dict(before) if before else None
        result = label_geometry(
            molecule,
            task.level,
            task.partition,
            orbitals,
            task.keep_orbitals,
            earlier,
            task.judge_always,
            task.keep_unstable,
        )
    except (ConvergenceError, GeometryError) as error:
        return {**inputs, "failure": str(error)}
    return {**inputs, "label": result.as_dict()}

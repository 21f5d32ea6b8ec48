"""Labelling many geometries: one result file each, named by its content, so that a killed campaign loses nothing.

A result belongs to (elements, positions, charge, level of theory, partition, schema); their SHA-256 names its file.
Any number of runs may share the folder: a geometry is computed under a lock that the system releases when its owner
dies.  Geometries whose SCF fails leave a file with the reason, are not tried again, and are not in the data set.
Needs a POSIX system (file locks).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from fflux_py.errors import ConvergenceError, FFLUXError, GeometryError, InputError
from fflux_py.files import sha256, write_atomically
from fflux_py.iqa._workers import Refusal, run_in_processes, run_on
from fflux_py.iqa.label import SCHEMA, Label, label_geometry
from fflux_py.iqa.partition import NO_PARTITION, check_partition
from fflux_py.iqa.scf._pyscf import load_pyscf
from fflux_py.iqa.scf.electronic_structure import LevelOfTheory
from fflux_py.iqa.scf.free_atoms import isolated_atom_energies
from fflux_py.iqa.scf.orbitals import OrbitalFile
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

_DECIMALS: Final = 9
_POLL_SECONDS: Final = 1.0


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
        return sha256(_canonical(content))

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.key}.json"


def label(
    geometries: GeometrySet,
    level: LevelOfTheory,
    partition: str,
    folder: str | os.PathLike[str],
    workers: int = 1,
    threads_per_worker: int = 1,
    executor: Executor | None = None,
    array: tuple[int, int] = (0, 1),
    keep_orbitals: bool = False,
    progress: Callable[[int, int], None] | None = None,
    n_partitioned: int | None = None,
) -> Dataset:
    """Label ``geometries`` and return the data set of all that have a label.

    Parameters
    ----------
    geometries
        What to label.
    level
        Level of theory.
    partition
        Name of a partition, or ``none``.
    folder
        Where the result files are and go; made if missing.
    workers
        Processes, started by spawn.
    threads_per_worker
        Threads of each process; recorded in its results.
    executor
        Where to run the geometries instead of in processes of this run; the executor's own thread settings hold.
    array
        ``(i, n)``: label only the geometries k with k mod n = i, the share of member i of a job array of n.
    keep_orbitals
        Leave the occupied orbitals of every geometry in ``folder``.  Another partition of the geometry at the same
        level, in the same folder, then needs no SCF; orbitals that are there are always used.
    progress
        Called with the number of geometries done (computed, found or failed) and their total.
    n_partitioned
        Only the first so many geometries are partitioned; the others get energies and forces, and atomic energies only
        if the folder has them already.  None: all.

    Raises
    ------
    InputError
        A wrong argument, a folder that cannot be written to, or no geometry that could be labelled.
    """
    _check_arguments(geometries, partition, workers, threads_per_worker, array, n_partitioned)
    target = _made(folder)
    isolated = _isolated_energies(geometries.molecule, level, target)
    tasks = _tasks(geometries, level, partition, target, n_partitioned, keep_orbitals)[array[0] :: array[1]]

    def run(todo: list[_Task]) -> Iterator[tuple[_Task, bool | Refusal]]:
        if executor is not None:
            return run_on(executor, _compute, todo)
        return run_in_processes(_compute, todo, min(workers, len(todo)), threads_per_worker)

    _finish({task.key: task for task in tasks}, run, progress)
    return _collect(geometries, level, partition, target, isolated, n_partitioned)


def _finish(
    tasks: dict[str, _Task],
    run: Callable[[list[_Task]], Iterator[tuple[_Task, bool | Refusal]]],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Run what has no result yet until everything has one, here or in another run that shares the folder."""
    waiting = {key: task for key, task in tasks.items() if _read_result(task.path) is None}

    def report() -> None:
        if progress is not None:
            progress(len(tasks) - len(waiting), len(tasks))

    report()
    while waiting:
        before = len(waiting)
        for task, outcome in run(list(waiting.values())):
            if isinstance(outcome, Refusal):
                raise outcome.error()
            if outcome:
                del waiting[task.key]
                report()
        if len(waiting) == before:
            # Other runs hold the locks of all that is left.
            time.sleep(_POLL_SECONDS)


def collect(
    geometries: GeometrySet,
    level: LevelOfTheory,
    partition: str,
    folder: str | os.PathLike[str],
    n_partitioned: int | None = None,
) -> Dataset:
    """Return the data set of those geometries that have a result in ``folder``, computing none of them.

    ``n_partitioned`` is that of :func:`label`.  The metadata count the geometries that failed and those that have no
    result yet.

    Raises
    ------
    InputError
        No geometry has a label in the folder.
    """
    check_partition(partition)
    target = Path(folder)
    isolated = _isolated_energies(geometries.molecule, level, target) if target.is_dir() else {}
    return _collect(geometries, level, partition, target, isolated, n_partitioned)


def failures(
    geometries: GeometrySet,
    level: LevelOfTheory,
    partition: str,
    folder: str | os.PathLike[str],
    n_partitioned: int | None = None,
) -> dict[int, str]:
    """Reasons of the geometries that could not be labelled, by their index; arguments as of :func:`label`."""
    found = {}
    for index, task in enumerate(_tasks(geometries, level, partition, Path(folder), n_partitioned)):
        result = _read_result(task.path)
        if result is not None and "failure" in result:
            found[index] = str(result["failure"])
    return found


def _compute(task: _Task) -> bool | Refusal:
    """Label one geometry and write its file; False if another process is at it."""
    try:
        with _lock(task.path.with_suffix(".lock")) as owned:
            if not owned:
                return False
            if _read_result(task.path) is None:
                _write_result(task.path, _label_or_failure(task))
            return True
    except FFLUXError as error:
        return Refusal.of(error)


def _label_or_failure(task: _Task) -> dict[str, Any]:
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
        before = (_read_result(replace(task, partition=NO_PARTITION).path) or {}).get("label")
        earlier = Label.from_dict(before) if before else None
        result = label_geometry(molecule, task.level, task.partition, orbitals, task.keep_orbitals, earlier)
    except (ConvergenceError, GeometryError) as error:
        return {**inputs, "failure": str(error)}
    return {**inputs, "label": result.as_dict()}


def _collect(
    geometries: GeometrySet,
    level: LevelOfTheory,
    partition: str,
    folder: Path,
    isolated: Mapping[str, float],
    n_partitioned: int | None,
) -> Dataset:
    labels: list[Label] = []
    indices: list[int] = []
    failed = missing = 0
    for index, task in enumerate(_tasks(geometries, level, partition, folder, n_partitioned)):
        result = _read_result(task.path)
        if result is None:
            missing += 1
        elif "failure" in result:
            failed += 1
        else:
            labels.append(Label.from_dict(result["label"]))
            indices.append(index)
    if not labels:
        raise InputError(
            str(folder),
            f"labels of {len(geometries)} geometries",
            f"none ({failed} failed, {missing} without a result)",
            "label the geometries with this level and partition; the result files give the reason of a failure",
        )
    counts = {"failed_geometries": failed, "missing_geometries": missing}
    return Dataset(
        geometries=geometries.select(indices),
        energies=np.array([entry.energy for entry in labels]),
        forces=np.array([entry.forces for entry in labels]),
        atomic_energies=np.array([entry.atomic_energies for entry in labels]),
        atomic_errors=np.array([entry.atomic_errors for entry in labels]),
        charges=np.array([entry.charges for entry in labels]),
        metadata={**_metadata(level, partition, labels), **counts},
        isolated_energies=isolated,
    )


def _metadata(level: LevelOfTheory, partition: str, labels: list[Label]) -> dict[str, str | int | float]:
    versions = sorted({f"{name} {version}" for entry in labels for name, version in entry.versions.items()})
    metadata: dict[str, str | int | float] = {
        "method": level.method,
        "basis": level.basis,
        "basis_functions": "cartesian" if level.cartesian else "spherical",
        "partition": partition,
        "density_fit": level.auxiliary_basis if level.density_fit else "none",
        "grid": f"pyscf level {level.grid_level}",
        "scf_convergence": level.convergence,
        "forces": "analytic, with grid response",
        "label_schema": SCHEMA,
        "programs": ", ".join(versions),
        "threads": ", ".join(str(n) for n in sorted({entry.threads for entry in labels})),
        "label_wall_time_s": round(math.fsum(t for entry in labels for t in entry.wall_times.values()), 1),
    }
    if partition != "none":
        metadata["kinetic_energy_density"] = "G (positive definite)"
    return metadata


def _check_arguments(
    geometries: GeometrySet,
    partition: str,
    workers: int,
    threads_per_worker: int,
    array: tuple[int, int],
    n_partitioned: int | None,
) -> None:
    load_pyscf()
    check_partition(partition)
    if len(geometries) == 0:
        raise InputError("geometries", "at least one", "none")
    for name, number in (("workers", workers), ("threads_per_worker", threads_per_worker)):
        if number < 1:
            raise InputError(name, "at least 1", str(number))
    if not 0 <= array[0] < array[1]:
        raise InputError("array", "(i, n) with 0 <= i < n", str(tuple(array)))
    if n_partitioned is not None and n_partitioned < 0:
        raise InputError("n_partitioned", "at least 0", str(n_partitioned))


def _tasks(
    geometries: GeometrySet,
    level: LevelOfTheory,
    partition: str,
    folder: Path,
    n_partitioned: int | None = None,
    keep_orbitals: bool = False,
) -> list[_Task]:
    """One of each geometry.  Beyond the first ``n_partitioned``, without a partition if that has no label yet."""
    molecule = geometries.molecule
    tasks = [
        _Task(
            molecule.symbols,
            geometries.positions[index],
            molecule.charge,
            f"{molecule.name} geometry {index + 1}",
            level,
            partition,
            str(folder),
            keep_orbitals,
        )
        for index in range(len(geometries))
    ]
    count = len(tasks) if n_partitioned is None else n_partitioned
    rest = [task if _has_label(task.path) else replace(task, partition="none") for task in tasks[count:]]
    return [*tasks[:count], *rest]


def _has_label(path: Path) -> bool:
    return "label" in (_read_result(path) or {})


def _isolated_energies(molecule: Molecule, level: LevelOfTheory, folder: Path) -> dict[str, float]:
    """Energies of the free atoms, from the folder or computed and put there."""
    content = {"symbols": sorted(set(molecule.symbols)), "level": level.as_dict(), "schema": SCHEMA}
    path = folder / f"isolated-atoms-{sha256(_canonical(content))}.json"
    result = _read_result(path)
    if result is None:
        try:
            energies: dict[str, float] = isolated_atom_energies(molecule.symbols, level)
            result = {**content, "units": "hartree", "energies": energies}
        except ConvergenceError as error:
            result = {**content, "failure": str(error), "energies": {}}
        _write_result(path, result)
    return {str(k): float(v) for k, v in result["energies"].items()}


def _made(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(path), "a folder to write to", error.strerror or str(error)) from error
    return path


def _write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write ``result`` with the checksum by which a damaged file is found out."""
    digest = sha256(_canonical(result))
    write_atomically(path, json.dumps({"sha256": digest, "result": result}, indent=1) + "\n")


def _read_result(path: Path) -> dict[str, Any] | None:
    """Return the result in ``path``, or None if there is no file or it is damaged (then it is to be computed again)."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        result: dict[str, Any] = stored["result"]
        whole = stored["sha256"] == sha256(_canonical(result))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(str(path), "a readable result file", error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError):
        return None
    return result if whole else None


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold the lock ``path``, or yield False if another process holds it; the system frees it when its owner dies."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise InputError(str(path), "a place to write", error.strerror or str(error), "free space") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        # Only its owner removes it; who opened it meanwhile finds the result when it gets the lock.
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)

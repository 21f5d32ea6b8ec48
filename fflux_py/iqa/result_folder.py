"""The folder of a campaign's results: one file each while it is open, one archive when it is closed.

A result is what JSON keeps exactly.  Its file ``NAME.json`` holds it with its SHA-256, is written whole or not at all,
and counts as missing if it is damaged: then the result is computed again.  A closed campaign has all results in one
archive (:mod:`fflux_py.iqa.result_archive`); a damaged archive is refused.  Where both are there, the file counts.
Needs a POSIX system (file locks).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from fflux_py.errors import InputError
from fflux_py.files import read_bytes, sha256, write_atomically
from fflux_py.iqa.result_archive import Result, ResultArchive, canonical, read_archive, write_archive

ARCHIVE: Final = "labels.npz.xz"
"""Name of the archive in its folder."""

ISOLATED_ATOMS: Final = "isolated-atoms-"
"""How the names of the results of free atoms begin."""


@dataclass(frozen=True)
class ResultFolder:
    """Results by name, in files and in an archive.

    Parameters
    ----------
    path
        The folder; it need not exist for reading.
    """

    path: Path

    def make(self) -> None:
        """Make the folder if it is missing.

        Raises
        ------
        InputError
            It cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(str(self.path), "a folder to write to", error.strerror or str(error)) from error

    @property
    def archive_path(self) -> Path:
        """Where the archive is, or would be."""
        return self.path / ARCHIVE

    def file_of(self, name: str) -> Path:
        """Where the file of a result is, or would be."""
        return self.path / f"{name}.json"

    def names(self) -> tuple[str, ...]:
        """Names of all results, in files and in the archive, in alphabetical order."""
        archive = self._archive()
        return tuple(sorted({*(archive.names if archive else ()), *(path.stem for path in self._files())}))

    def read(self, name: str) -> Result | None:
        """Return the result of this name, or None if there is none or its file is damaged.

        Raises
        ------
        InputError
            A file that the system does not let us read.
        FileFormatError
            A damaged archive.
        """
        result = _read_file(self.file_of(name))
        if result is None:
            archive = self._archive()
            result = archive.result(name) if archive else None
        return result

    def write(self, name: str, result: Mapping[str, Any]) -> None:
        """Write the file of a result, with the checksum by which damage is noticed."""
        content = {"sha256": sha256(canonical(result)), "result": result}
        write_atomically(self.file_of(name), json.dumps(content, indent=1) + "\n")

    def pack(self) -> int:
        """Put all results into the archive, then remove their files; return how many the archive holds.

        Orbitals stay where they are.

        Raises
        ------
        InputError
            A damaged file, or a folder without results.
        """
        results: dict[str, Result] = {}
        files = self._files()
        for name in self.names():
            result = self.read(name)
            if result is None:
                remedy = "label again, which computes it again, or remove the file"
                raise InputError(str(self.file_of(name)), "a whole result file", "a damaged one", remedy)
            results[name] = result
        if not results:
            raise InputError(str(self.path), "results to put into an archive", "none", "label geometries first")
        write_archive(self.archive_path, results)
        for path in files:
            # A file that has changed meanwhile stays, and counts.
            if _read_file(path) == results[path.stem]:
                path.unlink()
        return len(results)

    @contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Hold the lock of a result, or yield False if another process does; the system frees it when its owner dies.

        Raises
        ------
        InputError
            The folder cannot be written to.
        """
        path = self.path / f"{name}.lock"
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

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("*.json"))

    def _archive(self) -> ResultArchive | None:
        try:
            status = self.archive_path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(str(self.archive_path), "a readable file", error.strerror or str(error)) from error
        return _read_archive_once(self.archive_path, status.st_mtime_ns, status.st_size)


def holds_results(path: Path) -> bool:
    """Whether ``path`` is an archive of results by its name, or a folder with results."""
    if not path.is_dir():
        return path.name.endswith(".npz.xz")
    named = (entry.stem.removeprefix(ISOLATED_ATOMS) for entry in path.glob("*.json"))
    return (path / ARCHIVE).is_file() or any(len(name) == 64 for name in named)


@lru_cache(maxsize=4)
def _read_archive_once(path: Path, modified: int, size: int) -> ResultArchive:
    """The archive, read again when the file is another one."""
    return read_archive(path)


def _read_file(path: Path) -> Result | None:
    """Return the result in ``path``, or None if there is no file or it is damaged."""
    try:
        stored = json.loads(read_bytes(path))
        result: Result = stored["result"]
        whole = stored["sha256"] == sha256(canonical(result))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(str(path), "a readable result file", error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return result if whole else None

"""Text files that grow line by line while a run goes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fflux_py.errors import InputError


class LineFile:
    """A text file, one write for each line; new, or an old one that is cut to ``size`` bytes."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        self.path = path
        self.size = size or 0
        try:
            self._stream = open(path, "xb" if size is None else "r+b", buffering=0)
            if size is not None:
                self._stream.truncate(size)
                self._stream.seek(size)
        except OSError as error:
            raise InputError(str(path), "a new file", error.strerror or str(error), "choose another folder") from error

    def write(self, line: str) -> None:
        """Append one line."""
        data = line.encode() + b"\n"
        try:
            done = self._stream.write(data)
        except OSError as error:
            raise _full(self.path, error.strerror or str(error)) from error
        if done != len(data):
            raise _full(self.path, f"room for {done} of {len(data)} bytes")
        self.size += len(data)

    def write_lines(self, lines: Iterable[str]) -> None:
        """Append several lines."""
        for line in lines:
            self.write(line)

    def sync(self) -> None:
        """Bring everything that was written to the disk."""
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise _full(self.path, error.strerror or str(error)) from error

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _full(path: Path, found: str) -> InputError:
    return InputError(str(path), "room for the log", found, "free space, then go on with 'fflux resume'")

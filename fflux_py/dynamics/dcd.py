"""Trajectory files in the DCD format of CHARMM: little endian, angstrom, float32, no unit cell.

Every frame is one write, followed by the new frame count in the header, so that a run that is killed leaves a file that
every reader takes.  A new file must not exist; an old one is opened only to be cut to the size that a checkpoint knows.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from fflux_py.errors import FileFormatError, InputError
from fflux_py.files import read_bytes
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, FEMTOSECOND

# CHARMM's unit of time, sqrt(dalton angstrom^2 mol / kcal), in femtosecond (AKMA).
_AKMA: Final = 48.88821290839616
_CONTROL: Final = "<i4s9if10ii"
_TITLE_LENGTH: Final = 80
_LARGEST: Final = 2**31 - 1
"""What a counter of the format can hold; those of a longer run stay there, which no reader minds."""


def header(n_atoms: int, interval: int, timestep: float, title: str, n_frames: int = 0) -> bytes:
    """Header of a DCD file.

    Parameters
    ----------
    interval
        Steps between frames.  If the format cannot hold them, one step of their whole time is written.
    timestep
        Atomic units of time.
    """
    if interval > _LARGEST:
        interval, timestep = 1, timestep * interval
    # icntrl: number of frames, first step, interval, steps, ..., fixed atoms; time step; cell flag, ...; version 24
    control = struct.pack(
        _CONTROL, 84, b"CORD", *_counters(n_frames, interval), 0, 0, 0, 0, 0,
        timestep * FEMTOSECOND / _AKMA, *[0] * 9, 24, 84,
    )  # fmt: skip
    text = title.encode("ascii", "replace")[:_TITLE_LENGTH].ljust(_TITLE_LENGTH)
    return (
        control
        + struct.pack("<ii", 4 + _TITLE_LENGTH, 1)
        + text
        + struct.pack("<i", 4 + _TITLE_LENGTH)
        + struct.pack("<iii", 4, n_atoms, 4)
    )


def _counters(n_frames: int, interval: int) -> tuple[int, int, int, int]:
    """Number of frames, first step, steps between frames, and all steps."""
    return min(n_frames, _LARGEST), 0, interval, min(max(n_frames - 1, 0) * interval, _LARGEST)


def frame(positions: FloatArray) -> bytes:
    """One frame: three Fortran records with x, y and z of positions in bohr, shape ``(n_atoms, 3)``."""
    table = np.ascontiguousarray((positions * ANGSTROM).T, dtype="<f4")
    length = struct.pack("<i", table.shape[1] * 4)
    return b"".join(length + axis.tobytes() + length for axis in table)


class DCDWriter:
    """A trajectory that grows frame by frame.

    Parameters
    ----------
    path
        A file that does not exist yet, or with ``size`` one that does.
    n_atoms, interval, timestep, title
        As in :func:`header`.
    size
        Bytes that an existing file is cut to by :meth:`truncate`, which must be called before the first frame.
    """

    def __init__(
        self, path: Path, n_atoms: int, interval: int, timestep: float, title: str, size: int | None = None
    ) -> None:
        self.path = path
        self.n_frames = 0
        self._interval = interval if interval <= _LARGEST else 1
        start = header(n_atoms, interval, timestep, title)
        try:
            self._stream = open(path, "xb" if size is None else "r+b", buffering=0)
        except OSError as error:
            raise InputError(str(path), "a new file", error.strerror or str(error), "choose another folder") from error
        self.size = len(start) if size is None else size
        if size is None:
            self._put(start)
        else:
            self.n_frames = (size - len(start)) // (3 * (4 * n_atoms + 8))

    @property
    def descriptor(self) -> int:
        """File descriptor, for a lock."""
        return self._stream.fileno()

    def truncate(self) -> None:
        """Cut an existing file to the size that was given, and let its header say so."""
        os.ftruncate(self._stream.fileno(), self.size)
        self._stream.seek(self.size)
        self._count()

    def sync(self) -> None:
        """Bring the frames to the disk."""
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise self._full(error.strerror or str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, positions: FloatArray) -> None:
        """Append positions in bohr, shape ``(n_atoms, 3)``."""
        data = frame(positions)
        self._put(data)
        self.size += len(data)
        self.n_frames += 1
        self._count()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _count(self) -> None:
        n_frames, _, _, steps = _counters(self.n_frames, self._interval)
        self._put(struct.pack("<i", n_frames), 8)
        self._put(struct.pack("<i", steps), 20)

    def _put(self, data: bytes, offset: int | None = None) -> None:
        try:
            descriptor = self._stream.fileno()
            done = os.write(descriptor, data) if offset is None else os.pwrite(descriptor, data, offset)
        except OSError as error:
            raise self._full(error.strerror or str(error)) from error
        if done != len(data):
            raise self._full(f"room for {done} of {len(data)} bytes")

    def _full(self, found: str) -> InputError:
        remedy = "free space, then go on with 'fflux resume'"
        return InputError(str(self.path), "room for the trajectory", found, remedy)


@dataclass(frozen=True)
class DCDFile:
    """Content of a DCD file: positions in bohr, shape ``(m, n_atoms, 3)``, steps between frames, time step in a.u."""

    positions: FloatArray
    interval: int
    timestep: float


def read_dcd(path: str | os.PathLike[str]) -> DCDFile:
    """Read a DCD file that this module wrote; a frame that was cut off at the end is left out."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise FileFormatError(str(path), "a DCD file", error.strerror or str(error), "check the path") from error
    size = len(header(0, 0, 0.0, ""))
    if len(data) < size or data[:8] != struct.pack("<i", 84) + b"CORD" or data[92:100] != struct.pack("<ii", 84, 1):
        raise FileFormatError(str(path), "a DCD file of fflux_py", "another kind of file", "check the path")
    interval = struct.unpack_from("<i", data, 16)[0]
    timestep = struct.unpack_from("<f", data, 44)[0] * _AKMA / FEMTOSECOND
    n_atoms = struct.unpack_from("<i", data, size - 8)[0]
    if n_atoms < 0:
        raise FileFormatError(str(path), "a number of atoms", str(n_atoms), "the file is damaged")
    record = 4 * n_atoms + 8
    n_frames = (len(data) - size) // (3 * record)
    body = np.frombuffer(data, dtype="<i4", count=n_frames * 3 * record // 4, offset=size)
    table = body.reshape(n_frames, 3, n_atoms + 2)
    if n_frames and not (table[:, :, [0, -1]] == 4 * n_atoms).all():
        raise FileFormatError(str(path), f"records of {4 * n_atoms} bytes", "others", "the file is damaged")
    values = table[:, :, 1:-1].copy().view("<f4").astype(np.float64)
    return DCDFile(np.ascontiguousarray(values.transpose(0, 2, 1)) / ANGSTROM, interval, timestep)

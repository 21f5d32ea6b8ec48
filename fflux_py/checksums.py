"""One checksum for files of arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def arrays_sha256(arrays: Mapping[str, NDArray[Any]], before: bytes = b"") -> str:
    """Hexadecimal SHA-256 of ``before``, then of names, types, shapes and bytes of arrays in the order of the names."""
    state = hashlib.sha256(before)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        state.update(array.tobytes())
    return state.hexdigest()

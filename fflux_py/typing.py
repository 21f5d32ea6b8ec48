"""Types of arrays, and of functions that are told of progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Called with the number of steps done and their total.
Progress = Callable[[int, int], None]

# Opens a stage of the work by its name; gives its progress callback.
Stage = Callable[[str], AbstractContextManager[Progress]]


@contextmanager
def silent(_: str) -> Iterator[Progress]:
    """A stage that nobody watches."""
    yield lambda done, total: None

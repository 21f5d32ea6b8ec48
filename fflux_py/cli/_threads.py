"""The number of threads of a command and the folder of compiled code, set in this one place."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from fflux_py.errors import InputError

_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

CACHE_VARIABLE: Final = "NUMBA_CACHE_DIR"
"""Where numba keeps compiled code; without it, beside the package."""


def use_cache(folder: Path) -> None:
    """Let numba keep compiled code in ``folder``, in this process and in those that it starts.

    As with threads, before numba is loaded; one that is loaded already takes the folder for functions that are defined
    from now on.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(folder), "a folder to write to", error.strerror or str(error), "choose another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(str(folder), "a folder to write to", "no permission", "choose another")
    os.environ[CACHE_VARIABLE] = str(folder.resolve())
    if "numba" in sys.modules:
        import numba

        numba.config.CACHE_DIR = os.environ[CACHE_VARIABLE]  # type: ignore[attr-defined]


def use_threads(threads: int) -> None:
    """Let BLAS, OpenMP and numba use ``threads`` threads in this process and in the processes that it starts.

    The libraries read the variables when they are loaded.  So a command calls this before it imports anything heavy;
    what is loaded already (in an interpreter that ran other things before) is set through its own function where it
    has one.
    """
    os.environ.update(dict.fromkeys(_VARIABLES, str(threads)))
    # OpenBLAS's idle threads spin for 2^26 cycles before they sleep, which on a busy machine takes the cores from those
    # that work: a training of 60 geometries took 41 s instead of 8 s.  Sleep at once.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    if "numba" in sys.modules:
        import numba

        largest = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        numba.set_num_threads(min(threads, largest))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)

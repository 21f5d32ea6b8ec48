"""The number of threads of a command and the folder of compiled code, set in this one place."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from fflux_py.errors import InputError
from fflux_py.threads import set_threads

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
    """Let BLAS, OpenMP, numba and force evaluations use ``threads`` threads (:func:`fflux_py.threads.set_threads`).

    A command calls this before it imports anything heavy.
    """
    set_threads(threads)

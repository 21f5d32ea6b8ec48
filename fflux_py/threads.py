"""Threads of everything numerical: BLAS, OpenMP (and with it PySCF), numba and our own force evaluations.

PySCF's own loops and PyTorch, which ignore these once they are loaded, are set where they are imported.
:func:`processor_times` measures what one thread spends.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Final

from fflux_py.errors import InputError

_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OWN: Final = "FFLUX_NUM_THREADS"


def set_threads(threads: int) -> None:
    """Use ``threads`` threads in this process and in the processes that it starts.

    Libraries read the environment when they are loaded; those that are loaded already are set through their own
    functions (BLAS and OpenMP by threadpoolctl, if it is installed).

    Raises
    ------
    InputError
        Less than one thread.
    """
    if threads < 1:
        raise InputError("threads", "at least one", str(threads))
    os.environ.update(dict.fromkeys((*_VARIABLES, _OWN), str(threads)))
    # OpenBLAS's idle threads spin for 2^26 cycles before they sleep, which on a busy machine takes the cores from those
    # that work: a training of 60 geometries took 41 s instead of 8 s.  Sleep at once.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    if "numba" in sys.modules:
        import numba

        largest = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        numba.set_num_threads(min(threads, largest))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
    if "numpy" in sys.modules and importlib.util.find_spec("threadpoolctl") is not None:
        importlib.import_module("threadpoolctl").threadpool_limits(limits=threads)


def get_threads() -> int:
    """Threads of our own force evaluations: those of :func:`set_threads`, else one."""
    value = os.environ.get(_OWN, "1")
    return int(value) if re.fullmatch(r"[1-9]\d{0,8}", value, re.ASCII) else 1


def processor_times(*functions: Callable[[], object], seconds: float = 0.1, rounds: int = 5) -> tuple[float, ...]:
    """Processor time (seconds) of one call of each function in this thread.

    Each is called so often in a row that the clock advances by ``seconds`` (some tick every ten milliseconds, some
    every nanosecond); the functions take turns, and the least of ``rounds`` rows counts, so that neither a coarse clock
    nor a busy machine matters much.

    Parameters
    ----------
    functions
        What to time; called without arguments at least ``rounds + 1`` times.
    seconds
        Least processor time of a row, positive.
    rounds
        Number of rows of each.
    """
    if not seconds > 0.0 or rounds < 1:
        raise ValueError(f"seconds, rounds: expected both positive, found {seconds}, {rounds}")
    numbers = [1] * len(functions)
    for k, function in enumerate(functions):
        while (spent := _row(function, numbers[k])) < seconds:
            # not more than tenfold: the first tick can come early
            numbers[k] *= 10 if spent <= 0.1 * seconds else 2
    rows = [[_row(function, number) / number for function, number in zip(functions, numbers, strict=True)]
            for _ in range(rounds)]  # fmt: skip
    return tuple(min(column) for column in zip(*rows, strict=True))


def _row(function: Callable[[], object], number: int) -> float:
    begin = time.thread_time()
    for _ in range(number):
        function()
    return time.thread_time() - begin

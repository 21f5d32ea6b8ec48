"""Processor time of short functions, on machines whose clocks of processor time tick coarsely too."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["processor_times"]


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

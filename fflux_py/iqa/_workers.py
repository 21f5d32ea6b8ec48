"""Worker processes that have their own thread count, end with their parent, and hand back errors as values."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

from fflux_py.errors import FFLUXError, InputError
from fflux_py.iqa.scf.electronic_structure import use_threads

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Refusal:
    """An error of this package as plain data, which crosses process boundaries whole."""

    kind: type[FFLUXError]
    where: str
    expected: str
    found: str
    remedy: str

    @classmethod
    def of(cls, error: FFLUXError) -> Refusal:
        """Return ``error`` as data."""
        return cls(type(error), error.where, error.expected, error.found, error.remedy)

    def error(self) -> FFLUXError:
        """Return the error again."""
        return self.kind(self.where, self.expected, self.found, self.remedy)


def run_in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, threads: int
) -> Iterator[tuple[Task, Result]]:
    """Apply ``function`` to ``tasks`` in spawned processes; yield tasks and results as they come.

    Whatever ends the iteration early (an error, Ctrl-C, the death of this process) ends the workers at once: they watch
    a pipe whose other end only this process holds.

    Raises
    ------
    InputError
        A worker was killed from outside.
    """
    context = multiprocessing.get_context("spawn")
    watched, alive = context.Pipe(duplex=False)
    with _thread_environment(threads):
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(watched, threads))
        finished = False
        try:
            yield from run_on(pool, function, tasks)
            finished = True
        except BrokenProcessPool as error:
            raise InputError(
                "workers",
                "processes that run to their end",
                "one that was killed",
                "use fewer workers if memory was short, and start again: finished results are kept",
            ) from error
        finally:
            if not finished:
                alive.close()
            pool.shutdown(wait=finished, cancel_futures=True)
            alive.close()
            watched.close()


def run_on(
    executor: Executor, function: Callable[[Task], Result], tasks: Sequence[Task]
) -> Iterator[tuple[Task, Result]]:
    """Apply ``function`` to ``tasks`` on ``executor``; yield tasks and results as they come."""
    futures: dict[Future[Result], Task] = {executor.submit(function, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            with suppress(NotImplementedError):  # Parsl's futures cannot be cancelled
                if not future.done():
                    future.cancel()


def _start(watched: Connection, threads: int) -> None:
    """Prepare a worker: threads, no Ctrl-C of its own, and its end with its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    use_threads(threads)


def _end_with_parent(watched: Connection) -> None:
    """Wait until the parent's end of the pipe is closed, and end the process without further ado."""
    try:
        watched.recv()
    except EOFError:
        os._exit(1)


@contextmanager
def _thread_environment(threads: int) -> Iterator[None]:
    """Set the variables from which a starting process takes its number of threads, and put them back."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

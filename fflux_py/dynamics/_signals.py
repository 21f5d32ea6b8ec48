"""Signals that ask a run to end wait until its files are whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Final, Self

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


class DeferredSignals:
    """A context in which Ctrl-C and SIGTERM wait for :meth:`deliver`.

    Only signals that a Python function handles are deferred: a signal that ends the process at once, or that is
    ignored, goes on to do so.  A second signal does not wait.  Signals arrive in the main thread alone; in any other
    thread the context does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._waiting: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._defer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if error is None:
            self.deliver()

    def deliver(self) -> None:
        """Call the handler of a signal that waits; that of Ctrl-C raises ``KeyboardInterrupt``."""
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            self._restore()
            signal.raise_signal(number)

    def _defer(self, number: int, frame: FrameType | None) -> None:
        first = self._waiting is None
        self._waiting = number
        if not first:
            self.deliver()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

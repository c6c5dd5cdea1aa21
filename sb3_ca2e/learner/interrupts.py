"""SIGINT and SIGTERM while a model learns: obeyed where nothing is half done, not lost if a library swallows them."""

import contextlib
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

#: Signals that end learning, with the handlers that leave it to Python and to the system what they do.
_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
#: Seconds after which another signal means that somebody does not want to wait; sooner it is the same once more, as
#: from a terminal and from a launcher that hands on what it gets.
AGAIN = 1.0


class Terminated(SystemExit):
    """SIGTERM came: raised for what is to be cleaned up before the process ends by it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)  # as a shell would say it


class Interrupts:
    """
    Takes the place of the handlers of SIGINT and SIGTERM in the main thread, unless they are the user's own.

    An exception that is raised anywhere may leave a transition half committed, and is now and then swallowed: C
    code that asks whether an object has an attribute clears every error. So it is kept for :meth:`check`. When all is
    cleaned up, SIGINT is a ``KeyboardInterrupt``, and SIGTERM ends the process as it would have.
    """

    def __init__(self) -> None:
        #: when the first of each came
        self._came: dict[int, float] = {}
        self._immediate = False
        self._at_once = _Immediate(self)
        self._replaced: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number, default in _DEFAULTS.items():
                if signal.getsignal(number) is default:
                    self._replaced[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._replaced.items():
            if signal.getsignal(number) == self._handle:  # else a callback has put its own there
                signal.signal(number, handler)
        if signal.SIGTERM in self._came:
            signal.raise_signal(signal.SIGTERM)
        if not isinstance(error, KeyboardInterrupt):
            self.check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now, first = time.monotonic(), not self._came
        self._came.setdefault(number, now)
        if (first and self._immediate) or now - min(self._came.values()) > AGAIN:
            self.check()

    def check(self) -> None:
        """
        Between two transitions.

        :raises KeyboardInterrupt: if it is due
        :raises Terminated: if SIGTERM has come
        """
        if self._came:
            raise Terminated if signal.SIGTERM in self._came else KeyboardInterrupt

    def immediate(self) -> contextlib.AbstractContextManager[None]:
        """
        :return: a context that is interrupted at once: code of others, or waiting, that may take long and leaves
            nothing half done
        """
        return self._at_once


class _Immediate(contextlib.AbstractContextManager[None]):
    """Of :meth:`Interrupts.immediate`; entered for each tick, where a generator would take as long as the callback."""

    def __init__(self, interrupts: Interrupts):
        self._interrupts = interrupts

    def __enter__(self) -> None:
        self._interrupts._immediate = True
        try:
            self._interrupts.check()
        except BaseException:
            self._interrupts._immediate = False
            raise

    def __exit__(self, *error: object) -> None:
        self._interrupts._immediate = False


class DeferredSignals:
    """
    A context that no handler of SIGINT or SIGTERM disturbs, not even a user's own: each that comes is called when it
    ends. For what would leave processes behind if it were done by half.
    """

    def __init__(self) -> None:
        #: the signals that have come
        self.came: set[int] = set()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        try:
            for number in _DEFAULTS:
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    signal.signal(number, self._keep)
        except BaseException:  # raised by a handler that had still been there
            self._restore()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.ExitStack() as all_of_it:  # whatever handlers raise
            for number in self.came:
                all_of_it.callback(signal.raise_signal, number)
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self.came.add(number)

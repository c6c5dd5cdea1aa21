"""
SIGINT and SIGTERM while a model learns: handled when nothing is half done, and not lost if a library swallows them.
"""

import contextlib
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

#: Signals that end learning, and their default handlers.
_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
#: Seconds after which a second signal means that the user does not want to wait; an earlier one is a duplicate, for
#: example from both a terminal and a launcher that forwards signals.
AGAIN = 1.0


class Terminated(SystemExit):
    """SIGTERM was received: raised so that everything is cleaned up before the process ends by it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)  # the exit status that a shell reports


class Interrupts:
    """
    Context that replaces the default handlers of SIGINT and SIGTERM in the main thread; user-defined handlers stay.

    An exception raised at any point could leave a transition half committed, and may be swallowed: C code that checks
    for an attribute clears all errors. So it is postponed until :meth:`check`. After the cleanup, SIGINT raises
    ``KeyboardInterrupt``, and SIGTERM ends the process as usual.
    """

    def __init__(self) -> None:
        #: time of the first signal of each kind
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
            if signal.getsignal(number) == self._handle:  # otherwise a callback has replaced it
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
        Raise a postponed interrupt; call it between two transitions.

        :raises KeyboardInterrupt: if SIGINT was received
        :raises Terminated: if SIGTERM was received
        """
        if self._came:
            raise Terminated if signal.SIGTERM in self._came else KeyboardInterrupt

    def immediate(self) -> contextlib.AbstractContextManager[None]:
        """
        Return a context in which signals interrupt at once.

        :return: context for waiting, or for user code, that may take long and leaves nothing half done
        """
        return self._at_once


class _Immediate(contextlib.AbstractContextManager[None]):
    """Context of :meth:`Interrupts.immediate`; a class, as a generator would take as long as the callback of a tick."""

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
    Context that defers all handlers of SIGINT and SIGTERM, including user-defined ones, to its end.

    For operations that would leave processes behind if interrupted.
    """

    def __init__(self) -> None:
        #: signals received
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
        except BaseException:  # raised by a handler not yet replaced
            self._restore()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.ExitStack() as all_of_it:  # handlers may raise
            for number in self.came:
                all_of_it.callback(signal.raise_signal, number)
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self.came.add(number)

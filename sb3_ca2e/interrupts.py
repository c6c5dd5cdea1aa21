"""Ctrl-C while a model learns: raised where nothing is half done, and not lost where a library swallows it."""

import contextlib
import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Interrupts:
    """
    Takes SIGINT's place in the main thread, unless its handler is the user's own.

    An exception that is raised anywhere may leave a transition half committed, and is now and then swallowed: C
    code that asks whether an object has an attribute clears every error. So it is kept for :meth:`check`.
    """

    def __init__(self) -> None:
        self.pending = False
        self._immediate = False
        self._replaced = False

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._replaced = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._replaced:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind is None:
            self.check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.pending = self.pending, True
        if self._immediate or again:  # who presses twice does not want to wait
            raise KeyboardInterrupt

    def check(self) -> None:
        """
        Between two transitions.

        :raises KeyboardInterrupt: if it is due
        """
        if self.pending:
            raise KeyboardInterrupt

    def immediate(self) -> contextlib.AbstractContextManager[None]:
        """
        :return: a context that is interrupted at once: code of others, or waiting, that may take long and leaves
            nothing half done
        """
        return _Immediate(self)


class _Immediate(contextlib.AbstractContextManager[None]):
    """Of :meth:`Interrupts.immediate`; entered for each tick, where a generator would take as long as the callback."""

    def __init__(self, interrupts: Interrupts):
        self._interrupts = interrupts

    def __enter__(self) -> None:
        self._interrupts._immediate = True
        try:
            self._interrupts.check()
        except KeyboardInterrupt:
            self._interrupts._immediate = False
            raise

    def __exit__(self, *error: object) -> None:
        self._interrupts._immediate = False

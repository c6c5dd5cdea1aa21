"""An actor process from its start to its end, as the learner sees it."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from typing import Self

from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.actors.heartbeat import Phase
from sb3_ca2e.actors.spec import WorkerSpec
from sb3_ca2e.transport.shared_memory.block_buffers import BlockBuffers
from sb3_ca2e.transport.shared_memory.fork_client import ForkServer
from sb3_ca2e.transport.shared_memory.memory import shared_file
from sb3_ca2e.transport.shared_memory.pipe_messages import MessageReader
from sb3_ca2e.transport.shared_memory.process_handle import Handle
from sb3_ca2e.transport.shared_memory.restarts import STALLED

#: Seconds between two looks at an actor's signs of life.
LOOK = 0.25
#: Seconds after its last word within which the server says how an actor ended.
NO_REPORT = 1.0


class ActorProcess:
    """
    An actor process. Another one takes its place when it ends.

    :param spec: what it runs
    :param buffers: where it writes its blocks and gives its signs of life
    :param wake: writing end of the pipe that wakes it
    :param messages: reading end of the pipe through which it announces its blocks
    """

    def __init__(self, spec: WorkerSpec, buffers: BlockBuffers, wake: int, messages: int):
        self.spec, self.buffers, self.wake, self.messages = spec, buffers, wake, messages
        self._reader = MessageReader(messages)
        self.handle: Handle | None = None
        #: the server that it was forked from has ended
        self.orphan = False
        #: handovers that have arrived, and those of them that the actor may overwrite
        self.received = self.consumed = 0
        #: handovers that the others did not wait for, as it was not there to make them
        self.excused = 0
        #: the others do not wait for it now
        self.lags = spec.life > 0
        #: what it said of its failure
        self.failure: Handover | None = None
        self.granted_at = self._begun = time.monotonic()
        self._closed_at: float | None = None
        self._suspect = -1.0, 0.0

    @classmethod
    def begin(cls, server: ForkServer, serial: int, spec: WorkerSpec, payload: bytes, fds: Sequence[int]) -> Self:
        """
        Ask the server for an actor process.

        :param server: the server
        :param serial: what they call it
        :param spec: what it runs
        :param payload: the same, pickled
        :param fds: descriptors of the board and, where the learner's process infers, of the exchange and its pipes
        :return: its life
        :raises ServerGone: if the server has ended
        """
        size = BlockBuffers.size(spec.layout, len(spec.slots))
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            theirs.callback(os.close, spec_fd := shared_file(len(payload), "spec"))
            os.pwrite(spec_fd, payload, 0)
            theirs.callback(os.close, buffers_fd := shared_file(size, "blocks"))
            buffers = BlockBuffers(spec.layout, spec.slots, buffers_fd)
            wake_read, wake_write = os.pipe()
            theirs.callback(os.close, wake_read)
            ours.callback(os.close, wake_write)
            messages_read, messages_write = os.pipe()
            theirs.callback(os.close, messages_write)
            ours.callback(os.close, messages_read)
            os.set_blocking(wake_write, False)
            board, *exchange = fds
            server.spawn(serial, [spec_fd, board, buffers_fd, wake_read, messages_write, *exchange])
            ours.pop_all()
        return cls(spec, buffers, wake_write, messages_read)

    @property
    def position(self) -> int:
        """How many handovers it has come along, which the others keep in step with."""
        return self.excused + self.consumed

    def receive(self) -> list[Handover]:
        """
        :return: the announcements that have arrived
        """
        messages, closed = self._reader.receive()
        if closed and self._closed_at is None:
            self._closed_at = time.monotonic()
        return messages

    @property
    def closed(self) -> bool:
        """It can't announce anything any more."""
        return self._closed_at is not None

    def lost(self, now: float) -> bool:
        """
        :param now: a time of ``time.monotonic()``
        :return: whether it has ended and nobody will say how
        """
        return self._closed_at is not None and (self.orphan or now - self._closed_at > NO_REPORT)

    def silence(self, now: float, credit: int) -> float:
        """
        :param now: a time of ``time.monotonic()``
        :param credit: handovers that it may have begun
        :return: seconds since its last sign of life; none while it rightly waits
        """
        pulse = self.buffers.pulse
        if pulse.phase is not Phase.WAITING:
            return now - (pulse.time or self._begun)
        return now - max(pulse.time, self.granted_at) if credit > self.received else 0.0

    def stalls(self, silence: float) -> bool:
        """
        :param silence: seconds since its last sign of life
        :return: whether the others are to go on without it; they do wait while environments are first made
        """
        if self.received == 0 and (self.spec.life > 0 or self.buffers.pulse.phase is Phase.MAKING):
            return self.lags
        return silence > STALLED

    def hung(self, now: float, silence: float) -> bool:
        """
        :param now: a time of ``time.monotonic()``
        :param silence: seconds since its last sign of life
        :return: whether that is too long, twice in a row: all processes may have stood still, this one too
        """
        pulse = self.buffers.pulse
        if silence <= self.spec.supervision.limit(pulse.phase):
            return False
        if self._suspect[0] != pulse.time:
            self._suspect = pulse.time, now
        return now > self._suspect[1]

    def description(self, what: str) -> str:
        """
        :param what: what happened to it
        :return: a sentence that names it, and what it was doing
        """
        spec = self.spec
        who = f"Actor process {spec.process} (slots {spec.slots}, life {spec.life}, seed {spec.seed})"
        return f"{who} {what} {self.buffers.pulse.doing}."

    def end(self) -> None:
        """Close its channels and kill it, if it is still there."""
        if self.handle is not None:
            self.handle.kill()
            self.handle.close()
            self.handle = None
        os.close(self.wake)
        os.close(self.messages)


def how_it_ended(code: int | None) -> str:
    """
    :param code: exit status or, negative, signal of a process; None if it is not known
    :return: a verb for a message
    """
    if code is None:
        return "ended (how was not told: the server that it was forked from had ended before)"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"

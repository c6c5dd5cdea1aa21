"""The learner's view of one actor process, from start to end."""

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

#: Seconds between two checks of heartbeats.
LOOK = 0.25
#: Seconds after an actor closed its pipe within which the server should report how it ended.
NO_REPORT = 1.0


class ActorProcess:
    """
    An actor process; when it ends, another object takes its place.

    :param spec: description of what it runs
    :param buffers: memory for its blocks and its heartbeat
    :param wake: write end of the pipe that wakes it
    :param messages: read end of the pipe through which it announces its blocks
    """

    def __init__(self, spec: WorkerSpec, buffers: BlockBuffers, wake: int, messages: int):
        self.spec, self.buffers, self.wake, self.messages = spec, buffers, wake, messages
        self._reader = MessageReader(messages)
        self.handle: Handle | None = None
        #: whether the server that it was forked from has ended
        self.orphan = False
        #: numbers of handovers that have arrived, and of those that the actor may overwrite
        self.received = self.consumed = 0
        #: number of handovers that it missed, and for which the others did not wait
        self.excused = 0
        #: whether the others currently don't wait for it
        self.lags = spec.life > 0
        #: its report of its own failure
        self.failure: Handover | None = None
        self.granted_at = self._begun = time.monotonic()
        self._closed_at: float | None = None
        self._suspect = -1.0, 0.0

    @classmethod
    def begin(cls, server: ForkServer, serial: int, spec: WorkerSpec, payload: bytes, fds: Sequence[int]) -> Self:
        """
        Ask the server for a new actor process.

        :param server: server to fork it from
        :param serial: number that identifies it to the server
        :param spec: description of what it runs
        :param payload: pickled description
        :param fds: file descriptors of the control block, the two files of orders and, with inference on the learner's
            device, of the exchange and its pipes
        :return: the process
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
            board, orders, more_orders, *exchange = fds
            own = buffers_fd, wake_read, messages_write
            server.spawn(serial, [spec_fd, board, orders, more_orders, *own, *exchange])
            ours.pop_all()
        return cls(spec, buffers, wake_write, messages_read)

    @property
    def position(self) -> int:
        """Number of handovers, by which the processes keep in step."""
        return self.excused + self.consumed

    def receive(self) -> list[Handover]:
        """
        Read announcements without waiting.

        :return: the announcements that have arrived
        """
        messages, closed = self._reader.receive()
        if closed and self._closed_at is None:
            self._closed_at = time.monotonic()
        return messages

    @property
    def closed(self) -> bool:
        """Whether its pipe is closed, so that it can't announce anything more."""
        return self._closed_at is not None

    def lost(self, now: float) -> bool:
        """
        Check whether it has ended unreported.

        :param now: current ``time.monotonic()``
        :return: whether it has ended and the server will not report how
        """
        return self._closed_at is not None and (self.orphan or now - self._closed_at > NO_REPORT)

    def silence(self, now: float, credit: int) -> float:
        """
        Return how long it has been silent.

        :param now: current ``time.monotonic()``
        :param credit: number of handovers that it may have begun
        :return: seconds since its last heartbeat; 0 while it waits for the learner
        """
        pulse = self.buffers.pulse
        if pulse.phase is not Phase.WAITING:
            return now - (pulse.time or self._begun)
        return now - max(pulse.time, self.granted_at) if credit > self.received else 0.0

    def stalls(self, silence: float) -> bool:
        """
        Check whether the others should continue without it; they do wait while environments are first created.

        :param silence: seconds since its last heartbeat
        :return: True to continue without it
        """
        if self.received == 0 and (self.spec.life > 0 or self.buffers.pulse.phase is Phase.MAKING):
            return self.lags
        return silence > STALLED

    def hung(self, now: float, silence: float) -> bool:
        """
        Check whether it counts as hung: silent for too long at two checks in a row, as all processes may have been
        suspended.

        :param now: current ``time.monotonic()``
        :param silence: seconds since its last heartbeat
        :return: True if it hangs
        """
        pulse = self.buffers.pulse
        if silence <= self.spec.supervision.limit(pulse.phase):
            return False
        if self._suspect[0] != pulse.time:
            self._suspect = pulse.time, now
        return now > self._suspect[1]

    def description(self, what: str) -> str:
        """
        Describe what happened to it, for a message.

        :param what: what happened, a verb phrase
        :return: a sentence with its slots, and with what it was doing
        """
        spec = self.spec
        who = f"Actor process {spec.process} (slots {spec.slots}, life {spec.life}, seed {spec.seed})"
        return f"{who} {what} {self.buffers.pulse.doing}."

    def end(self) -> None:
        """Close its pipes and kill it if it still runs."""
        if self.handle is not None:
            self.handle.kill()
            self.handle.close()
            self.handle = None
        os.close(self.wake)
        os.close(self.messages)


def how_it_ended(code: int | None) -> str:
    """
    Describe how a process ended, for a message.

    :param code: exit status, or negative signal number; None if unknown
    :return: a verb phrase
    """
    if code is None:
        return "ended (exit status unknown: the server that it was forked from had ended before)"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"

"""Starts, watches and stops the actors; their only owner."""

import collections
import contextlib
import json
import os
import pathlib
import selectors
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Protocol

import cloudpickle

from sb3_ca2e.actors.actor import Actor, ActorSpec
from sb3_ca2e.actors.device_inference import DeviceInference
from sb3_ca2e.actors.transport import BUFFERS, BlockBuffers, Board, Handover, MessageReader, shared_file
from sb3_ca2e.replay.block import Block

#: Seconds that the server has to end before it is killed.
SHUTDOWN = 10.0


class ActorError(RuntimeError):
    """
    An actor failed; the message names the slot, its seed and the cause.

    What was committed stays in the memory, and the model can be used and saved.
    """


class ActorPool(Protocol):
    """What the learner knows of its actors."""

    board: Board

    @property
    def n_processes(self) -> int:
        """Actor processes; 0 where actors share the learner's."""

    def collect(self, wait: bool = True) -> tuple[Handover, list[Block]] | None:
        """
        The next blocks. Those handed out before are the actors' to overwrite from now on.

        :param wait: sleep until there are some; else return None where there are none
        :return: the announcement and a block for each slot of that actor
        :raises ActorError: if an actor failed
        """

    def stop(self) -> None:
        """End the actors. May be called twice."""


class SyncActors:
    """
    All slots in this process, collecting when asked: the same actor code, repeatable bit for bit.

    :param spec: the slots
    """

    def __init__(self, spec: ActorSpec):
        self.board = Board(spec.n_slots, spec.n_parameters)
        self._spec = spec
        self._actor: Actor | None = None

    @property
    def n_processes(self) -> int:
        return 0

    def collect(self, wait: bool = True) -> tuple[Handover, list[Block]] | None:
        try:
            if self._actor is None:
                self._actor = Actor(self._spec, self.board, BlockBuffers(self._spec.layout, self._spec.slots))
                self._actor.open()
            handover = self._actor.collect()
        except Exception as error:
            failed_slot = self._actor.collecting if self._actor is not None else -1
            failure = Handover(self._spec.process, error=traceback.format_exc(), failed_slot=failed_slot)
            raise _failed(self._spec, failure) from error
        return handover, self._actor.buffers.blocks(handover.sequence, handover.n_rows)

    def stop(self) -> None:
        if self._actor is not None:
            self._actor.close()
            self._actor = None


class AsyncActors:
    """
    Actor processes, forked from a server of ours.

    With ``rate_limit``, no process is more than two blocks ahead of the slowest, and blocks count as consumed
    once the learner has done the updates that they ask for; so neither side runs away from the other.

    :param specs: one a process
    :param rate_limit: bound how far actors run ahead of each other
    :param inference: where their networks run, None for the actors themselves
    """

    def __init__(self, specs: Sequence[ActorSpec], rate_limit: bool = True, inference: DeviceInference | None = None):
        self._specs, self._rate_limit, self._inference = list(specs), rate_limit, inference
        self._selector = selectors.DefaultSelector()
        self._ready: collections.deque[Handover | ActorError] = collections.deque()
        self._consumed = [0] * len(specs)
        self._handed_out: Handover | None = None
        self._exit_codes: dict[int, int] = {}
        self._fds: list[int] = []
        self._wake: list[int] = []
        self._readers: list[MessageReader] = []
        self._server: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._buffers: list[BlockBuffers] = []
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    # Starting.

    def _start(self) -> None:
        first = self._specs[0]
        board_fd = self._keep(shared_file(Board.size(first.n_slots, first.n_parameters), "board"))
        self.board = Board(first.n_slots, first.n_parameters, board_fd)
        for spec in self._specs:
            self.board.grant(spec.process, BUFFERS)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._server = _start_server(theirs)
        self._selector.register(self._control, selectors.EVENT_READ)
        if self._inference is not None:
            self._inference.start()
            self._selector.register(self._inference.alarm, selectors.EVENT_READ, self._inference)
        for spec in self._specs:
            self._spawn(spec, board_fd)

    def _spawn(self, spec: ActorSpec, board_fd: int) -> None:
        layout = spec.layout
        buffers_fd = self._keep(shared_file(BlockBuffers.size(layout, len(spec.slots)), "blocks"))
        self._buffers.append(BlockBuffers(layout, spec.slots, buffers_fd))
        payload = cloudpickle.dumps(spec)
        spec_fd = self._keep(shared_file(len(payload), "spec"))
        os.pwrite(spec_fd, payload, 0)
        wake_read, wake_write = os.pipe()
        messages_read, messages_write = os.pipe()
        os.set_blocking(wake_write, False)
        self._wake.append(self._keep(wake_write))
        self._readers.append(MessageReader(self._keep(messages_read)))
        self._selector.register(messages_read, selectors.EVENT_READ, spec.process)
        assert self._control is not None
        fds, theirs = [spec_fd, board_fd, buffers_fd, wake_read, messages_write], [wake_read, messages_write]
        if self._inference is not None:
            fds += self._inference.connect(spec.process)
            theirs.append(fds[-1])
        try:
            socket.send_fds(self._control, [f"{spec.process:16d}".encode()], fds)
        finally:
            for fd in theirs:
                os.close(fd)

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    # Collecting.

    @property
    def n_processes(self) -> int:
        return len(self._specs)

    def collect(self, wait: bool = True) -> tuple[Handover, list[Block]] | None:
        self._release()
        self._receive(0.0)
        while not self._ready:
            if not wait:
                return None
            self._receive(None)
        ready = self._ready.popleft()
        if isinstance(ready, ActorError):  # in its turn: what was handed over before it is kept
            raise ready
        self._handed_out = handover = ready
        return handover, self._buffers[handover.process].blocks(handover.sequence, handover.n_rows)

    def _release(self) -> None:
        """Let actors overwrite the blocks handed out before."""
        if self._handed_out is None:
            return
        self._consumed[self._handed_out.process] += 1
        self._handed_out = None
        slowest = min(self._consumed)
        for process, consumed in enumerate(self._consumed):
            credit = (slowest if self._rate_limit else consumed) + BUFFERS
            if credit > self.board.credit(process):
                self.board.grant(process, credit)
                _poke(self._wake[process])

    def _receive(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._control:
                self._server_spoke(socket.MSG_DONTWAIT)  # an actor's end, below, may have been told already
                continue
            if key.data is self._inference:
                assert self._inference is not None
                self._selector.unregister(key.fileobj)
                self._ready.append(ActorError(self._inference.error))
                continue
            messages, closed = self._readers[key.data].receive()
            for message in messages:
                failed = message.error is not None
                self._ready.append(_failed(self._specs[message.process], message) if failed else message)
            if closed:
                self._selector.unregister(key.fileobj)
                self._ready.append(self._died(key.data))

    def _server_spoke(self, flags: int = 0) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(4096, flags)
        except BlockingIOError:
            return
        if not data:
            raise ActorError("The server that actors are forked from has ended; see its output above.")
        for report in data.decode().split(";")[:-1]:
            process, code = map(int, report.split())
            self._exit_codes[process] = code

    def _died(self, process: int) -> ActorError:
        """Its pipe is closed: wait for the server to say how it ended."""
        while process not in self._exit_codes:
            self._server_spoke()
        code = self._exit_codes[process]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        spec = self._specs[process]
        return ActorError(
            f"Actor process {process} (slots {spec.slots}, seed {spec.seed}) {how}. What it had handed over is kept. "
            + ("The system may be short of memory: lower n_actors or buffer_size." if code == -signal.SIGKILL else "")
        )

    # Stopping.

    def stop(self) -> None:
        if hasattr(self, "board"):
            self.board.stop()
        for fd in self._wake:
            _poke(fd)
        if self._inference is not None:
            self._inference.stop()
        # An actor may be in the middle of an announcement that nobody will read: let it fail.
        self._selector.close()
        while self._fds:
            os.close(self._fds.pop())
        self._wake.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            try:
                self._server.wait(SHUTDOWN)
            except subprocess.TimeoutExpired:  # pragma: no cover - the server kills its actors long before
                warnings.warn("The actors' server did not end in time and was killed.", stacklevel=2)
                self._server.kill()
                self._server.wait()
            self._server = None


def _failed(spec: ActorSpec, message: Handover) -> ActorError:
    slot = f"slot {message.failed_slot}" if message.failed_slot >= 0 else f"slots {spec.slots}"
    return ActorError(f"Actor process {spec.process}, {slot}, seed {spec.seed}, failed:\n{message.error}")


def _poke(fd: int) -> None:
    with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it has enough to read, or is gone
        os.write(fd, b"\0")


def _start_server(control: socket.socket) -> subprocess.Popen:
    """Start the server with this process's import path; the user's ``__main__`` is never imported."""
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        "from sb3_ca2e.actors.server import main; main(int(sys.argv[2]))"
    )
    path = [entry or str(pathlib.Path.cwd()) for entry in sys.path]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(path), str(control.fileno())],
        pass_fds=[control.fileno()],
        env={**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )

"""Starts, watches, replaces and stops actor processes."""

import collections
import contextlib
import os
import selectors
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np

from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.actors.orders import Order
from sb3_ca2e.actors.snapshot import ActorsState
from sb3_ca2e.actors.spec import WorkerSpec
from sb3_ca2e.errors import ActorError, ActorWarning
from sb3_ca2e.replay.block import Block
from sb3_ca2e.transport.shared_memory.actor_process import LOOK, ActorProcess, how_it_ended
from sb3_ca2e.transport.shared_memory.block_buffers import BUFFERS
from sb3_ca2e.transport.shared_memory.control_block import ControlBlock
from sb3_ca2e.transport.shared_memory.fork_client import ForkServer, ServerGone, Started
from sb3_ca2e.transport.shared_memory.fork_server import NICENESS
from sb3_ca2e.transport.shared_memory.inference_server import InferenceServer
from sb3_ca2e.transport.shared_memory.limits import check_descriptors
from sb3_ca2e.transport.shared_memory.memory import shared_file
from sb3_ca2e.transport.shared_memory.order_files import OrderFiles
from sb3_ca2e.transport.shared_memory.parking import lease, park
from sb3_ca2e.transport.shared_memory.restarts import GRACE, KILLED, RestartBudget


@dataclass
class _Process:
    """
    A process of the pool through all its lives.

    :param spec: what it runs
    :param payload: the same, pickled
    :param budget: how often it may be replaced
    :param life: the running process, None while it is down
    :param position: position at which its last life ended
    :param due: time at which to start it again
    """

    spec: WorkerSpec
    payload: bytes
    budget: RestartBudget
    life: ActorProcess | None = None
    position: int = 0
    due: float = 0.0


class AsyncActors:
    """
    Actor processes, forked from a server and replaced when they end or hang.

    With ``rate_limit``, no process is more than two blocks ahead of the slowest live one, and blocks count as consumed
    once the learner has made the updates for them; so neither side runs ahead of the other.

    :param specs: one for each process
    :param rate_limit: whether to bound how far actors run ahead of each other and of the learner
    :param inference: server that runs their networks; None if actors run them
    :raises OSError: if the limit of file descriptors is too low
    :raises MemoryError: if shared memory can't be reserved
    """

    def __init__(self, specs: Sequence[WorkerSpec], rate_limit: bool = True, inference: InferenceServer | None = None):
        check_descriptors(len(specs), n_more=len(specs) if inference is not None else 0)
        self._rate_limit, self._inference = rate_limit, inference
        layout = cloudpickle.dumps(inference.layout if inference is not None else None)
        restarts = specs[0].supervision.restarts
        self._processes = [_Process(spec, layout + cloudpickle.dumps(spec), RestartBudget(restarts)) for spec in specs]
        self._selector = selectors.DefaultSelector()
        self._ready: collections.deque[tuple[ActorProcess, Handover] | ActorError] = collections.deque()
        self._handed_out: ActorProcess | None = None
        self._n_lives = 0
        self._serials: dict[int, ActorProcess] = {}
        self._server: ForkServer | None = None
        self._server_budget = RestartBudget(restarts)
        self._server_due = self._looked = 0.0
        first = specs[0]
        self._board_fd: int | None = shared_file(ControlBlock.size(first.n_slots, first.n_parameters), "board")
        self._board = ControlBlock(first.n_slots, first.n_parameters, self._board_fd)
        self._orders = OrderFiles(self._board.orders)
        try:
            if inference is not None:
                inference.start()
                self._selector.register(inference.alarm, selectors.EVENT_READ, inference)
            self._start_due(time.monotonic())
        except BaseException:
            self.stop()
            raise

    @property
    def n_processes(self) -> int:
        return len(self._processes)

    @property
    def restarts(self) -> dict[int, int]:
        return {slot: each.budget.used for each in self._processes if each.budget.used for slot in each.spec.slots}

    @property
    def _lives(self) -> list[ActorProcess]:
        """The processes that are up."""
        return [each.life for each in self._processes if each.life is not None]

    @property
    def version(self) -> int:
        return self._board.version

    def publish(self, parameters: np.ndarray) -> None:
        self._board.publish(parameters)

    def set_progress(self, progress: float) -> None:
        self._board.set_progress(progress)

    def retire(self, slot: int) -> None:
        self._board.retire(slot)

    def prepare(self, order: Order) -> Callable[[], object]:
        return self._orders.prepare(order)

    def order(self, order: Order) -> None:
        self.prepare(order)()

    def state(self) -> ActorsState | None:
        return None  # they never stop between two steps to be saved

    # Starting.

    def _start_due(self, now: float) -> None:
        """Start the server and the processes that are down and whose time has come."""
        try:
            if self._server is None and now >= self._server_due:
                self._server = ForkServer(NICENESS) if self._server_budget.used else lease()
                self._selector.register(self._server, selectors.EVENT_READ)
                for life in self._lives:
                    if life.handle is not None:
                        self._server.adopt(life.handle)
            for process in self._processes:
                if self._server is not None and process.life is None and now >= process.due:
                    self._spawn(process, self._server)
        except ServerGone:
            self._server_ended("")

    def _spawn(self, process: _Process, server: ForkServer) -> None:
        spec = process.spec
        position = max([process.position, *self._slowest(spec.process)])
        made = position * spec.block_size * spec.n_slots
        changes: dict[str, Any] = {"life": process.budget.used, "begun": spec.begun + made}
        payload = process.payload + cloudpickle.dumps(changes)
        assert self._board_fd is not None
        self._n_lives += 1
        self._board.grant(spec.process, 0)
        exchange = self._inference.connect(spec.process) if self._inference is not None else ()
        fds = [self._board_fd, *self._orders.fds, *exchange]
        try:
            life = ActorProcess.begin(server, self._n_lives, replace(spec, **changes), payload, fds)
        finally:
            if self._inference is not None:
                os.close(fds[-1])
        life.excused = position
        process.life = self._serials[self._n_lives] = life
        self._selector.register(life.messages, selectors.EVENT_READ, life)
        self._grant()

    # Collecting.

    def collect(self, wait: bool = True) -> tuple[Handover, list[Block]] | None:
        self._release()
        self._receive(0.0)
        self._watch()
        while not self._ready:
            if not wait:
                return None
            self._receive(LOOK)
            self._watch()
        ready = self._ready.popleft()
        if isinstance(ready, ActorError):  # in its turn, after blocks handed over before
            raise ready
        self._handed_out, handover = ready
        return handover, self._handed_out.buffers.blocks(handover.sequence, handover.n_rows)

    def _release(self) -> None:
        """Let actors overwrite the blocks returned before."""
        if self._handed_out is not None:
            self._handed_out.consumed += 1
            self._handed_out = None
            self._grant()

    def _slowest(self, but: int = -1) -> list[int]:
        """Return the position of the slowest process that the others wait for, or nothing."""
        others = [life.position for life in self._lives if not life.lags and life.spec.process != but]
        return [min(others)] if others else []

    def _grant(self) -> None:
        """Let each process run as far as allowed."""
        slowest = self._slowest() if self._rate_limit else []
        for life in self._lives:
            credit = min([life.consumed, *(position - life.excused for position in slowest)]) + BUFFERS
            if credit > self._board.credit(life.spec.process):
                self._board.grant(life.spec.process, credit)
                life.granted_at = time.monotonic()
                _poke(life.wake)

    def _receive(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._server_spoke()
            elif isinstance(key.data, InferenceServer):
                self._selector.unregister(key.fileobj)
                self._ready.append(ActorError(key.data.error))
            elif key.data in self._lives:  # not yet replaced
                self._take(key.data)

    def _take(self, life: ActorProcess) -> None:
        """Read the announcements of a process."""
        for message in life.receive():
            if message.error is not None:
                life.failure = message
            elif message.late:
                self._failed(life, "was silent for too long, then continued; its block is discarded. It was last seen")
                return
            else:
                life.received += 1
                self._processes[message.process].budget.worked()
                self._ready.append((life, message))
                if life.received == 1:
                    self._set_lag(life, False)
        if life.closed:
            self._unregister(life)

    def _server_spoke(self) -> None:
        assert self._server is not None
        try:
            for report in self._server.reports():
                life = self._serials.get(report.serial)
                if isinstance(report, Started):
                    self._server_budget.worked()
                    if life is None:  # already given up
                        report.handle.kill()
                        report.handle.close()
                    else:
                        life.handle = report.handle
                elif life is not None:
                    self._ended(life, report.code)
        except ServerGone:
            self._server_ended("")

    # Watching.

    def _watch(self) -> None:
        """Check for silent processes, and start those that are down."""
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked = now
            for life in self._lives:
                self._look_at(life, now)
        if self._server is None or any(process.life is None for process in self._processes):
            self._start_due(now)

    def _look_at(self, life: ActorProcess, now: float) -> None:
        silence = life.silence(now, self._board.credit(life.spec.process))
        if life.lost(now):
            self._ended(life, None)
        elif not life.hung(now, silence):
            self._set_lag(life, life.stalls(silence))
        elif life.handle is not None:
            self._failed(life, f"gave no sign of life for {silence:.1f} s and was killed")
        elif self._server is not None:
            self._server_ended(f"did not start an actor within {silence:.1f} s and was killed; it ")

    def _set_lag(self, life: ActorProcess, lags: bool) -> None:
        """Continue without a stalled process, or include it again at the position of the others."""
        if life.lags == lags:
            return
        life.lags = lags
        if not lags:
            life.excused += max([0, *(position - life.position for position in self._slowest(life.spec.process))])
        self._grant()

    def _ended(self, life: ActorProcess, code: int | None) -> None:
        """Take what an ended process had announced, and replace it."""
        self._take(life)
        if life in self._lives:
            self._failed(life, how_it_ended(code), code)

    def _failed(self, life: ActorProcess, what: str, code: int | None = None) -> None:
        """Give up a process and start another one, unless it failed too often."""
        process, now = self._processes[life.spec.process], time.monotonic()
        description = life.description(what) if life.failure is None else life.spec.told(life.failure)
        self._give_up(life)
        if life.failure is not None and life.failure.hopeless:
            process.due = float("inf")
            self._ready.append(ActorError(f"{description}\nRestarting it would not help.{_kept(code)}"))
            return
        delay = process.budget.failed(now, raised=life.failure is not None)
        if delay is None:
            process.due = float("inf")
            self._ready.append(ActorError(f"{description}\nThis was {process.budget.history}.{_kept(code)}"))
            return
        process.due = now + delay
        replaced = f"It is replaced (replacement {process.budget.used}); its episodes start anew.{_kept(code)}"
        warnings.warn(f"{description}\n{replaced}", ActorWarning, stacklevel=2)

    def _give_up(self, life: ActorProcess) -> None:
        process = self._processes[life.spec.process]
        process.position, process.life = life.excused + life.received, None
        self._serials = {serial: each for serial, each in self._serials.items() if each is not life}
        self._unregister(life)
        life.end()
        self._grant()

    def _unregister(self, life: ActorProcess) -> None:
        with contextlib.suppress(KeyError):  # already unregistered when it closed its end
            self._selector.unregister(life.messages)

    def _server_ended(self, what: str) -> None:
        """Start another server; actors continue, except those whose start was not reported yet."""
        server, self._server = self._server, None
        assert server is not None
        self._selector.unregister(server)
        code, now = server.kill(), time.monotonic()
        for life in self._lives:
            life.orphan = True
            if life.handle is None:
                self._give_up(life)
                self._processes[life.spec.process].due = now
        if server.expired:
            self._server_due = now
            return
        delay = self._server_budget.failed(now, raised=code != -signal.SIGKILL)
        message = f"The server that actors are forked from {what}{how_it_ended(code)}; see its output above."
        if delay is None:
            self._server_due = float("inf")
            history = self._server_budget.history
            self._ready.append(ActorError(f"{message}\nThis was {history}.{_kept(code)}{_MEMORY_LIMIT}"))
            return
        self._server_due = now + delay
        warnings.warn(f"{message}\nIt is replaced; its actors continue.", ActorWarning, stacklevel=2)

    # Stopping.

    def stop(self, keep_server: bool = False) -> None:
        self._board.stop()
        self._selector.close()
        lives = self._lives
        for life in lives:
            _poke(life.wake)
        server, self._server = self._server, None
        handles = [life.handle for life in lives if life.handle is not None]
        for life in lives:
            life.handle = None
            life.end()  # an actor that is writing an announcement fails then: nobody would read it
        for process in self._processes:
            process.life = None
        if self._board_fd is not None:
            os.close(self._board_fd)
            self._board_fd = None
        self._orders.close()
        if self._inference is not None:
            self._inference.stop()
        if server is not None:
            handles += park(server) if keep_server and not self._server_budget.used else server.stop()
        deadline = time.monotonic() + GRACE
        for handle in handles:  # if the server did not, or has ended
            if not handle.ended(deadline):
                handle.kill()
                handle.ended(deadline + KILLED)
            handle.close()


def _kept(code: int | None) -> str:
    """Say what is kept, and what may help."""
    hint = " The system may be short of memory: lower n_actors or buffer_size." if code == -9 else ""
    return f" Data handed over before is kept.{hint}"


#: The usual reason for a server that can't start.
_MEMORY_LIMIT = " If it lacked memory to start, look for a limit: `ulimit -v` in the shell, or that of a container."


def _poke(fd: int) -> None:
    with contextlib.suppress(BlockingIOError, BrokenPipeError):  # it has unread bytes, or has ended
        os.write(fd, b"\0")

"""Actors in the learner's own process."""

import contextlib
import traceback
from collections.abc import Callable, Iterator

import numpy as np

from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.actors.heartbeat import Phase
from sb3_ca2e.actors.orders import Numbered, Order
from sb3_ca2e.actors.snapshot import ActorsState, restore, state_of
from sb3_ca2e.actors.spec import WorkerSpec
from sb3_ca2e.actors.worker import Worker
from sb3_ca2e.common import copying
from sb3_ca2e.envs.order_log import OrderLog
from sb3_ca2e.errors import ActorError
from sb3_ca2e.replay.block import Block, BlockLayout


class InProcessHeartbeat:
    """A :class:`~sb3_ca2e.actors.heartbeat.Heartbeat` that nobody watches: it only knows the slot, for errors."""

    slot, late = 0, False

    def beat(self, slot: int) -> None:
        self.slot = slot

    def enter(self, phase: Phase) -> None:
        pass


class InProcessPort:
    """
    A :class:`~sb3_ca2e.actors.port.Port` within one process, with one block for each slot.

    :param layout: layout of a block
    :param slots: indices of the slots
    """

    stopped = False

    def __init__(self, layout: BlockLayout, slots: list[int]):
        self._layout, self._slots = layout, slots
        self._views = [layout.views(np.zeros(layout.n_bytes, dtype=np.uint8)) for _ in slots]
        self._parameters = np.zeros(0, dtype=np.float32)
        self._retired: set[int] = set()
        self.pulse = InProcessHeartbeat()
        self.version, self.progress = 0, 0.0
        self.log = OrderLog(copying.dumps)

    def show(self, parameters: np.ndarray, version: int) -> None:
        """
        Provide newer parameters.

        :param parameters: ``(n_parameters,)`` float32
        :param version: their version
        """
        self._parameters, self.version = parameters.copy(), version

    def retire(self, slot: int) -> None:
        """
        Mark a slot's prior agent as retired.

        :param slot: prior slot that becomes a nature slot at its next episode
        """
        self._retired.add(slot)

    def read(self, out: np.ndarray) -> int:
        out[...] = self._parameters
        return self.version

    def retired(self, slot: int) -> bool:
        return slot in self._retired

    @property
    def newest_order(self) -> int:
        return self.log.newest

    def orders(self, since: int) -> list[Numbered]:
        return [(each.number, copying.loads(*each.pickled)) for each in self.log.entries if each.number > since]

    def views(self, sequence: int) -> list[dict[str, np.ndarray]]:
        return self._views

    def blocks(self, n_rows: list[int]) -> list[Block]:
        """
        Return the written blocks.

        :param n_rows: number of rows written for each slot
        :return: the blocks
        """
        return [self._layout.block(*each) for each in zip(self._slots, self._views, n_rows, strict=True)]


class SyncActors:
    """
    All slots in this process, which collect when asked: the same actor code, reproducible bit for bit.

    :param spec: description of the slots
    """

    def __init__(self, spec: WorkerSpec):
        self._spec, self._port = spec, InProcessPort(spec.layout, spec.slots)
        self._actor: Worker | None = None

    @property
    def n_processes(self) -> int:
        return 0

    @property
    def restarts(self) -> dict[int, int]:
        return {}

    @property
    def version(self) -> int:
        return self._port.version

    def publish(self, parameters: np.ndarray) -> None:
        self._port.show(parameters, self._port.version + 1)

    def set_progress(self, progress: float) -> None:
        self._port.progress = progress

    def retire(self, slot: int) -> None:
        self._port.retire(slot)

    def prepare(self, order: Order) -> Callable[[], object]:
        return self._port.log.prepare(order)

    def order(self, order: Order) -> None:
        self.prepare(order)()

    def collect(self, wait: bool = True) -> tuple[Handover, list[Block]] | None:
        with self._failures():
            handover = self._opened().collect()
        return handover, self._port.blocks(handover.n_rows)

    def _opened(self) -> Worker:
        if self._actor is None:
            self._actor = Worker(self._spec, self._port)
            self._actor.open()
        return self._actor

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn exceptions into an error that names the slot."""
        try:
            yield
        except Exception as error:  # environments may raise anything
            failed_slot = self._actor.collecting if self._actor is not None else -1
            failure = Handover(self._spec.process, error=traceback.format_exc(), failed_slot=failed_slot)
            raise ActorError(self._spec.told(failure)) from error

    def state(self) -> ActorsState | None:
        return state_of(self._actor) if self._actor is not None else None

    def restore(self, state: ActorsState, version: int, parameters: np.ndarray) -> None:
        """
        Open the environments and continue from a saved state.

        :param state: state of the same slots
        :param version: version of the parameters published last
        :param parameters: ``(n_parameters,)`` float32, the parameters published last
        """
        self._port.show(parameters, version)
        with self._failures():
            restore(self._opened(), state)

    def stop(self, keep_server: bool = False) -> None:
        if self._actor is not None:
            self._actor.close()
            self._actor = None

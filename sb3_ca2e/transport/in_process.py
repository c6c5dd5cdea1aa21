"""Actors in the learner's own process."""

import contextlib
import traceback
from collections.abc import Iterator

from sb3_ca2e.actors.actor import Actor
from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.actors.snapshot import ActorsState, restore, state_of
from sb3_ca2e.actors.spec import ActorSpec
from sb3_ca2e.errors import ActorError
from sb3_ca2e.replay.block import Block
from sb3_ca2e.transport.shared_memory.block_buffers import BlockBuffers
from sb3_ca2e.transport.shared_memory.control_block import Board
from sb3_ca2e.transport.shared_memory.pool import _told


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

    @property
    def restarts(self) -> dict[int, int]:
        return {}

    def collect(self, wait: bool = True) -> tuple[Handover, list[Block]] | None:
        with self._failures():
            actor = self._opened()
            handover = actor.collect()
        return handover, actor.buffers.blocks(handover.sequence, handover.n_rows)

    def _opened(self) -> Actor:
        if self._actor is None:
            self._actor = Actor(self._spec, self.board, BlockBuffers(self._spec.layout, self._spec.slots))
            self._actor.open()
        return self._actor

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Say which slot failed."""
        try:
            yield
        except Exception as error:  # whatever an environment raises
            failed_slot = self._actor.collecting if self._actor is not None else -1
            failure = Handover(self._spec.process, error=traceback.format_exc(), failed_slot=failed_slot)
            raise ActorError(_told(self._spec, failure)) from error

    def state(self) -> ActorsState | None:
        return state_of(self._actor) if self._actor is not None else None

    def restore(self, state: ActorsState) -> None:
        """
        Open the environments, and go on from there.

        :param state: of the same slots
        """
        with self._failures():
            restore(self._opened(), state)

    def stop(self, keep_server: bool = False) -> None:
        if self._actor is not None:
            self._actor.close()
            self._actor = None

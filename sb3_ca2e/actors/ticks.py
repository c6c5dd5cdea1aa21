"""What SB3's callbacks see: transitions in the order in which they were made, ``n_envs`` at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_ca2e.actors.transport import Handover
from sb3_ca2e.replay.block import PRIOR, TERMINATED, TRANSITION, TRUNCATED, Block


@dataclass
class Tick:
    """
    ``n_envs`` committed transitions, what SB3 calls a step of its vectorized environment.

    :param rewards: ``(n_envs,)`` raw rewards
    :param dones: ``(n_envs,)`` whether an episode ended
    :param infos: one dictionary each
    :param actor_ids: ``(n_envs,)`` slots
    :param actor_kinds: "nature" or "prior" each
    :param n_episodes: how many ended
    """

    rewards: np.ndarray
    dones: np.ndarray
    infos: list[dict[str, Any]]
    actor_ids: np.ndarray
    actor_kinds: list[str]
    n_episodes: int


class Ticks:
    """
    Transitions that wait for their tick.

    :param n_envs: transitions in a tick
    """

    def __init__(self, n_envs: int):
        self.n_envs = n_envs
        self._rewards, self._slots = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
        self._dones = np.zeros(0, dtype=bool)
        # Of these single entries are looked at, which lists are faster at.
        self._ended: list[bool] = []
        self._kinds: list[str] = []
        self._infos: list[dict[str, Any] | None] = []
        self._next = 0

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self._infos) - self._next

    def extend(self, handover: Handover, blocks: list[Block]) -> None:
        """
        Line up the transitions of slots that stepped together: first steps first, and among them first slots.

        :param handover: what came with the blocks
        :param blocks: one a slot
        """
        made = [np.flatnonzero(block.flags & TRANSITION) for block in blocks]
        counts = [len(rows) for rows in made]
        steps = np.concatenate([np.arange(count) for count in counts])
        order = np.argsort(steps, kind="stable")
        positions = np.repeat(np.arange(len(blocks)), counts)[order]
        flags = np.concatenate([block.flags[rows] for block, rows in zip(blocks, made, strict=True)])[order]
        rewards = np.concatenate([block.rewards[rows] for block, rows in zip(blocks, made, strict=True)])[order]
        slots = np.array([block.slot for block in blocks])[positions]
        told = self._next
        self._rewards = np.concatenate([self._rewards[told:], rewards])
        self._slots = np.concatenate([self._slots[told:], slots])
        self._dones = np.concatenate([self._dones[told:], flags & (TERMINATED | TRUNCATED) > 0])
        self._ended = self._dones.tolist()
        self._kinds = self._kinds[told:] + ["prior" if prior else "nature" for prior in (flags & PRIOR).tolist()]
        keys = zip(steps[order].tolist(), positions.tolist(), strict=True)
        self._infos = self._infos[told:] + [handover.infos.get(key) for key in keys]
        self._next = 0

    def pop(self) -> Tick:
        """
        :return: the next tick; there must be enough transitions
        """
        part = slice(self._next, self._next + self.n_envs)
        self._next = part.stop
        return Tick(
            self._rewards[part],
            self._dones[part],
            [dict(info) if info else {} for info in self._infos[part]],
            self._slots[part],
            self._kinds[part],
            sum(self._ended[part]),
        )

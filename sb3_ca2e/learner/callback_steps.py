"""Steps for SB3's callbacks: transitions in the order in which they were made, ``n_envs`` at a time."""

import collections
from typing import Any, NamedTuple

import numpy as np

from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.replay.block import PRIOR, TERMINATED, TRANSITION, TRUNCATED, Block


class Tick(NamedTuple):
    """
    ``n_envs`` committed transitions, one step of SB3's vectorized environment.

    :param rewards: ``(n_envs,)`` raw rewards
    :param dones: ``(n_envs,)`` whether an episode ended
    :param infos: one dictionary for each transition
    :param actor_ids: ``(n_envs,)`` slot of each transition
    :param actor_kinds: "nature" or "prior" for each transition
    :param n_episodes: number of episodes that ended
    """

    rewards: np.ndarray
    dones: np.ndarray
    infos: list[dict[str, Any]]
    actor_ids: np.ndarray
    actor_kinds: list[str]
    n_episodes: int


class CallbackSteps:
    """
    Queue of transitions that wait for their tick.

    A callback takes microseconds for each transition anyway, so ticks are made for all transitions of a block at once.

    :param n_envs: number of transitions in a tick
    """

    def __init__(self, n_envs: int):
        self.n_envs = n_envs
        self._ready: collections.deque[Tick] = collections.deque()
        # Transitions left over, fewer than a tick.
        self._rewards, self._flags = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.uint8)
        self._slots, self._infos = np.zeros(0, dtype=np.int64), list[dict[str, Any]]()

    def state(self) -> dict[str, Any]:
        """
        Return the waiting transitions.

        :return: the state, for :meth:`restore`
        """
        ready = list(self._ready)
        ended = np.concatenate([*(tick.dones for tick in ready), self._flags & (TERMINATED | TRUNCATED) > 0])
        priors = [kind == "prior" for tick in ready for kind in tick.actor_kinds] + (self._flags & PRIOR > 0).tolist()
        return {
            "_rewards": np.concatenate([*(tick.rewards for tick in ready), self._rewards]),
            "_flags": TRANSITION | TRUNCATED * ended.astype(np.uint8) | PRIOR * np.array(priors, dtype=np.uint8),
            "_slots": np.concatenate([*(tick.actor_ids for tick in ready), self._slots]),
            "_infos": [info for tick in ready for info in tick.infos] + self._infos,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """
        Restore waiting transitions; the size of ticks may have changed.

        :param state: result of :meth:`state`
        """
        vars(self).update(state)
        self._make()

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self._ready) * self.n_envs + len(self._infos)

    def extend(self, handover: Handover, blocks: list[Block]) -> None:
        """
        Append the transitions of slots that stepped together, ordered by step, then by slot.

        :param handover: announcement of the blocks
        :param blocks: one block for each slot
        """
        made = [np.flatnonzero(block.flags & TRANSITION) for block in blocks]
        counts = [len(rows) for rows in made]
        steps = np.concatenate([np.arange(count) for count in counts])
        order = np.argsort(steps, kind="stable")
        positions = np.repeat(np.arange(len(blocks)), counts)[order]
        rewards = np.concatenate([block.rewards[rows] for block, rows in zip(blocks, made, strict=True)])[order]
        flags = np.concatenate([block.flags[rows] for block, rows in zip(blocks, made, strict=True)])[order]
        self._rewards = np.concatenate([self._rewards, rewards])
        self._flags = np.concatenate([self._flags, flags])
        self._slots = np.concatenate([self._slots, np.array([block.slot for block in blocks])[positions]])
        infos: list[dict[str, Any]] = [{} for _ in range(len(order))]
        if handover.infos:  # few steps have infos
            ranks, starts = np.argsort(order), np.cumsum(counts) - counts
            for (t, position), info in handover.infos.items():
                if t < counts[position]:
                    infos[ranks[starts[position] + t]] = dict(info)
        self._infos += infos
        self._make()

    def _make(self) -> None:
        """Make ticks of all complete groups of transitions."""
        n_ticks, n_envs = len(self._infos) // self.n_envs, self.n_envs
        n = n_ticks * n_envs
        flags = self._flags[:n].reshape(n_ticks, n_envs)
        dones = flags & (TERMINATED | TRUNCATED) > 0
        kinds = np.where(flags & PRIOR, "prior", "nature").tolist()
        self._ready += map(
            Tick,
            self._rewards[:n].reshape(n_ticks, n_envs),
            dones,
            [self._infos[start : start + n_envs] for start in range(0, n, n_envs)],
            self._slots[:n].reshape(n_ticks, n_envs),
            kinds,
            dones.sum(axis=1).tolist(),
        )
        self._rewards, self._flags, self._slots = self._rewards[n:], self._flags[n:], self._slots[n:]
        del self._infos[:n]

    def pop(self) -> Tick | None:
        """
        Remove and return the next tick.

        :return: the tick, None if there are too few transitions
        """
        return self._ready.popleft() if self._ready else None

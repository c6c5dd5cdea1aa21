"""Conversion of single steps, as SB3's ``ReplayBuffer.add`` takes them, to blocks."""

from typing import Any

import numpy as np

from sb3_ca2e.replay.block import TERMINATED, TRANSITION, TRUNCATED, Block, ObservationColumn
from sb3_ca2e.replay.stacks import by_key

Observations = np.ndarray | dict[str, np.ndarray]


class StepBlocks:
    """
    Makes a block of each environment's step, and detects steps that do not continue the previous one.

    :param columns: how observations are stored, without stacking
    :param n_envs: number of environments; each is a slot
    :param action_dim: number of elements of an action
    :param handle_timeouts: distinguish episodes that a time limit cut from those that terminated
    """

    def __init__(self, columns: dict[str, ObservationColumn], n_envs: int, action_dim: int, handle_timeouts: bool):
        self.columns = columns
        self.n_envs = n_envs
        self.action_dim = action_dim
        self.handle_timeouts = handle_timeouts
        #: the observation after each slot's last step, unless an episode ended with it
        self._newest: dict[int, dict[str, np.ndarray]] = {}

    def forget(self) -> None:
        """Treat the next step of every slot as the continuation of nothing."""
        self._newest.clear()

    def blocks(
        self,
        obs: Observations,
        next_obs: Observations,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> list[tuple[Block, bool]]:
        """
        Make the blocks of a step; parameters as in SB3's ``ReplayBuffer.add``.

        :return: for each environment its block, without priorities yet, and whether it continues the last one
        """
        before, after = self._arrays(obs), self._arrays(next_obs)
        actions = np.asarray(action).reshape((self.n_envs, self.action_dim))
        blocks = []
        for slot in range(self.n_envs):
            first = {key: values[slot] for key, values in before.items()}
            last = {key: values[slot] for key, values in after.items()}
            newest = self._newest.pop(slot, None)
            # SB3 does not tell its buffer when learn() starts again, but the observations show it.
            continues = newest is None or all(np.array_equal(newest[key], first[key]) for key in first)
            ended = np.uint8(0)
            if done[slot]:
                timeout = self.handle_timeouts and infos[slot].get("TimeLimit.truncated", False)
                ended = TRUNCATED if timeout else TERMINATED
            else:
                self._newest[slot] = {key: np.array(value) for key, value in last.items()}
            # After an episode's last frame, a copy of it takes the place of the unknown closing frame.
            n_rows = 2 if ended else 1
            block = Block(
                slot=slot,
                frames={key: np.stack([first[key], *[last[key]] * n_rows]) for key in first},
                actions=np.stack([actions[slot]] * n_rows),
                rewards=np.array([reward[slot], 0.0][:n_rows], dtype=np.float32),
                flags=np.array([TRANSITION | ended, 0][:n_rows], dtype=np.uint8),
                ages=np.zeros(n_rows + 1, dtype=np.uint8),
                priorities=np.ones(n_rows),
            )
            blocks.append((block, continues))
        return blocks

    def _arrays(self, obs: Observations) -> dict[str, np.ndarray]:
        arrays = by_key(obs)
        return {key: np.reshape(arrays[key], (self.n_envs, *c.frame_shape)) for key, c in self.columns.items()}

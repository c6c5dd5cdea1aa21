"""An environment in which every step can be told from all others, and the audit of a memory that was filled from it."""

import struct
import time
import zlib

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_ca2e.algorithms.base import CA2EMixin
from sb3_ca2e.replay.block import TRANSITION
from tests import inside

N_ACTIONS = 4


def digest(*numbers: int) -> int:
    """24 bits, which float32 holds."""
    return zlib.crc32(struct.pack(f"<{len(numbers)}q", *numbers)) & 0xFFFFFF


def length(key: int, episode: int) -> int:
    """Steps of an episode."""
    return 1 + digest(key, episode) % 30


class Ledger(gym.Env):
    """
    Observations are (key, episode, step, digest of the three); rewards are digests of these and the action. The key
    comes from the generator, which each copy begins anew: it names one life of one slot.
    """

    def __init__(self):
        self.observation_space = spaces.Box(0, 2**24, (4,), np.float32)
        self.action_space = spaces.Discrete(N_ACTIONS)
        self.key = self.episode = -1
        self.t = 0
        self.born = {"born": time.monotonic()}

    def _observation(self) -> np.ndarray:
        return np.array([self.key, self.episode, self.t, digest(self.key, self.episode, self.t)], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.key < 0:
            self.key = int(self.np_random.integers(2**24))
        self.episode += 1
        self.t = 0
        return self._observation(), {}

    def step(self, action):
        reward = float(digest(self.key, self.episode, self.t, int(action)))
        self.t += 1
        over = self.t == length(self.key, self.episode)
        info, self.born = self.born, {}
        return self._observation(), reward, over and self.episode % 2 == 0, over and self.episode % 2 == 1, info


def audit(model: CA2EMixin, broken_off: bool = False) -> int:
    """
    Assert that a memory holds whole transitions, each once, of every life of every slot all from its first to its
    last; of a memory that could not hold them all, that those are whole.

    :param model: that has learned from :class:`Ledger`, with ``n_steps=1``
    :param broken_off: episodes may lack their ends, and some all of their steps
    :return: how many lives its memory has seen
    """
    memory = model.replay_buffer
    assert memory.n_steps == 1
    storage, n_counted = inside.storage(memory), model.num_timesteps
    held = (storage.rows.flags & int(TRANSITION)).nonzero().flatten()
    everything = storage.n_committed <= memory.capacity
    # What a callback ended is committed by the block and counted by the step.
    ahead = model.n_slots * model.local_buffer_size
    assert len(held) == memory.size()
    assert not everything or n_counted <= len(held) <= n_counted + ahead
    batch = memory.samples_at(held)
    before, after = batch.observations.long().tolist(), batch.next_observations.long().tolist()
    rest = (batch.actions.flatten().tolist(), batch.rewards.flatten().tolist(), batch.dones.flatten().tolist())
    steps: dict[int, dict[int, list[int]]] = {}
    for (key, episode, t, check), (*to, to_check), action, reward, done in zip(before, after, *rest, strict=True):
        assert check == digest(key, episode, t), "a torn observation"
        assert to == [key, episode, t + 1], "a transition from one episode into another"
        assert to_check == digest(*to), "a torn next observation"
        assert reward == digest(key, episode, t, action), "a reward of another step or action"
        assert done == (t + 1 == length(key, episode) and episode % 2 == 0), "an end that was none"
        steps.setdefault(key, {}).setdefault(episode, []).append(t)
    for key, episodes in steps.items() if everything else ():
        assert broken_off or sorted(episodes) == list(range(len(episodes))), "an episode is missing"
        for episode, ts in episodes.items():
            whole = episode < len(episodes) - 1 and not broken_off
            assert sorted(ts) == list(range(length(key, episode) if whole else len(ts))), "a step is missing, or twice"
    priorities = storage.rows.priorities[held]
    assert bool((priorities > 0).all())
    return len(steps)

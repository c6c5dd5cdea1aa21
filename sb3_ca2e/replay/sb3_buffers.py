"""Conversion from and to SB3's own replay buffers."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_ca2e.replay.block import (
    TERMINATED,
    TRANSITION,
    TRUNCATED,
    Block,
    ObservationColumn,
    described,
    lead_frames,
)
from sb3_ca2e.replay.stacks import by_key, stacked

#: Steps in a block, about as many as an actor hands over at a time.
BLOCK_STEPS = 64

Arrays = dict[str, np.ndarray]


def check_readable(buffer: Any, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Check that a memory with these spaces can read a buffer.

    :param buffer: the buffer
    :param observation_space: the memory's observation space
    :param action_space: the memory's action space
    :raises TypeError: if the buffer's class is not supported
    :raises ValueError: if the buffer's spaces differ
    """
    if type(buffer) not in (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer):
        raise TypeError(
            f"The buffer is a {type(buffer).__name__}, which may store other data than SB3's ReplayBuffer, "
            "DictReplayBuffer and NStepReplayBuffer. Only these three can be read."
        )
    _check_spaces(buffer, observation_space, action_space)


def check_writable(buffer: Any, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Check that a buffer can store single transitions of many slots.

    :param buffer: the buffer
    :param observation_space: the transitions' observation space
    :param action_space: the transitions' action space
    :raises TypeError: if the buffer's class is not supported
    :raises ValueError: if the buffer's spaces differ or its options do not allow it
    """
    if type(buffer) not in (ReplayBuffer, DictReplayBuffer):
        raise TypeError(
            f"The buffer is a {type(buffer).__name__}. Consecutive transitions of the memory come from different "
            "actors, which only SB3's ReplayBuffer and DictReplayBuffer can store."
        )
    if buffer.optimize_memory_usage:
        raise ValueError(
            "With optimize_memory_usage=True, a buffer uses the next transition's observation as next_observation, but "
            "consecutive transitions of the memory come from different actors. Leave that argument at False."
        )
    _check_spaces(buffer, observation_space, action_space)


def _check_spaces(buffer: ReplayBuffer, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    for name, theirs, ours in (
        ("observations", buffer.observation_space, observation_space),
        ("actions", buffer.action_space, action_space),
    ):
        if theirs != ours:
            raise ValueError(
                f"The buffer has {name} of {theirs}, but the memory has {ours}. Both must have the same spaces."
            )


def blocks_of(buffer: ReplayBuffer, columns: dict[str, ObservationColumn], n_most: int) -> Iterator[tuple[Block, bool]]:
    """
    Make blocks of a buffer's transitions, as :class:`~sb3_ca2e.replay.steps.StepBlocks` does of single steps.

    :param buffer: a buffer that passed :func:`check_readable`
    :param columns: how the memory stores observations
    :param n_most: largest number of transitions wanted, the newest ones
    :return: each block, without priorities yet, and whether it continues the last one of its slot
    :raises ValueError: if the columns can't store the observations
    """
    contents = _Contents(buffer, columns)
    positions = contents.positions[-max(-(-n_most // buffer.n_envs), 1) :]
    for start in range(0, len(positions), BLOCK_STEPS):
        part = positions[start : start + BLOCK_STEPS]
        for slot in range(buffer.n_envs):
            goes_on = contents.goes_on(part, positions[np.arange(start, start + len(part)) - 1], slot)
            goes_on[0] &= start > 0
            edges = [0, *np.flatnonzero(~goes_on[1:]) + 1, len(part)]
            for first, last in pairwise(edges):
                yield contents.block(part[first:last], slot), bool(goes_on[first])


class _Contents:
    """
    A buffer's transitions by position and environment.

    :param buffer: the buffer
    :param columns: how the memory stores observations
    """

    def __init__(self, buffer: ReplayBuffer, columns: dict[str, ObservationColumn]):
        self.buffer, self.columns, self.lead = buffer, columns, lead_frames(columns)
        #: buffers of older SB3 versions have no timeouts
        self.timeouts = getattr(buffer, "timeouts", np.zeros(buffer.dones.shape, np.float32))
        shared = buffer.optimize_memory_usage
        self.positions = np.arange(buffer.pos)
        if buffer.full:
            # An observation shared by two transitions is overwritten before the older transition is.
            self.positions = (buffer.pos + np.arange(int(shared), buffer.buffer_size)) % buffer.buffer_size
        self._before = by_key(buffer.observations)
        self._after = self._before if shared else by_key(buffer.next_observations)

    def before(self, positions: np.ndarray, slot: int) -> Arrays:
        """Return ``(n, *shape)`` observations before steps, for each key."""
        return self._of(self._before, positions, slot)

    def after(self, positions: np.ndarray, slot: int) -> Arrays:
        """Return ``(n, *shape)`` observations after steps, for each key."""
        shift = int(self.buffer.optimize_memory_usage)
        return self._of(self._after, (positions + shift) % self.buffer.buffer_size, slot)

    def _of(self, arrays: Any, positions: np.ndarray, slot: int) -> Arrays:
        return {
            key: arrays[key][positions, slot].reshape(len(positions), *column.shape)
            for key, column in self.columns.items()
        }

    def ended(self, positions: np.ndarray, slot: int) -> np.ndarray:
        """Return ``(n,)`` bool, whether an episode ended with that step."""
        return np.asarray(self.buffer.dones[positions, slot] > 0)

    def goes_on(self, positions: np.ndarray, earlier: np.ndarray, slot: int) -> np.ndarray:
        """
        Tell which steps follow the steps before them.

        :param positions: ``(n,)`` positions of steps
        :param earlier: ``(n,)`` positions of the steps before them
        :param slot: the environment
        :return: ``(n,)`` bool, whether a step continues the step before or begins an episode after an end
        """
        came, went_on = self.after(earlier, slot), self.before(positions, slot)
        same = [(came[key] == went_on[key]).reshape(len(positions), -1).all(axis=1) for key in self.columns]
        return np.asarray(self.ended(earlier, slot) | np.logical_and.reduce(same))

    def block(self, positions: np.ndarray, slot: int) -> Block:
        """
        Make a block of consecutive steps.

        :param positions: ``(n,)`` positions of steps, each of which follows the one before
        :param slot: the environment
        :return: their block
        """
        ended = self.ended(positions, slot)
        truncated = ended & (self.timeouts[positions, slot] > 0)
        n_rows = len(positions) + int(np.count_nonzero(ended))
        # The end of an episode is followed by a row for the last observation. The closing frame is the slot's current
        # observation; it has no meaning if an episode has just ended.
        rows = np.arange(len(positions)) + np.cumsum(ended) - ended
        before, after = self.before(positions, slot), self.after(positions, slot)
        seen = {key: np.zeros((n_rows + 1, *values.shape[1:]), values.dtype) for key, values in before.items()}
        for key, values in seen.items():
            values[rows + 1] = after[key]
            values[rows] = before[key]
        actions = np.zeros((n_rows, self.buffer.action_dim), self.buffer.actions.dtype)
        rewards, flags = np.zeros(n_rows, np.float32), np.zeros(n_rows, np.uint8)
        actions[rows] = self.buffer.actions[positions, slot]
        rewards[rows] = self.buffer.rewards[positions, slot]
        flags[rows] = TRANSITION | np.where(truncated, TRUNCATED, np.where(ended, TERMINATED, np.uint8(0)))
        frames, ages = self._frames(seen), self._ages(seen)
        self._check(frames, ages, seen)
        return Block(slot, frames, actions, rewards, flags, ages, np.ones(n_rows))

    def _frames(self, seen: Arrays) -> Arrays:
        """Return the newest frame of each observation, preceded by the older frames of the first one."""
        frames = {}
        for key, column in self.columns.items():
            *older, newest = _split(seen[key], column)
            lead = np.zeros((self.lead, *column.frame_shape), column.dtype)
            for back, frame in enumerate(reversed(older), start=1):
                lead[-back] = frame[0]
            frames[key] = np.concatenate([lead, newest.astype(column.dtype)])
        return frames

    def _ages(self, seen: Arrays) -> np.ndarray:
        """Count the older frames in each observation: those after the zeros with which an episode begins."""
        ages = np.zeros(len(next(iter(seen.values()))), np.uint8)
        for key, column in self.columns.items():
            for back, frame in enumerate(reversed(_split(seen[key], column))):
                is_there = frame.reshape(len(frame), -1).any(axis=1)
                ages[is_there] = np.maximum(ages[is_there], back)
        return ages

    def _check(self, frames: Arrays, ages: np.ndarray, seen: Arrays) -> None:
        """Check that the memory will rebuild the observations."""
        for key, column in self.columns.items():
            own = frames[key][self.lead + 1 - column.n_stack :]
            if not np.array_equal(stacked(own, ages, column), seen[key]):
                raise ValueError(
                    f"The buffer's observations can't be stored as {described(self.columns)}: rebuilt from these "
                    "frames, they would differ. Create the memory for the same environment with the same wrappers."
                )


def _split(observations: np.ndarray, column: ObservationColumn) -> list[np.ndarray]:
    """Split stacks into their ``(n, *frame_shape)`` frames, the oldest first."""
    if column.n_stack == 1:
        return [observations]
    return np.split(observations, column.n_stack, axis=column.batch_axis)

"""SB3's own replay buffers: what can be taken over from them, and written to them."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_ca2e.replay.block import (
    OBSERVATION,
    TERMINATED,
    TRANSITION,
    TRUNCATED,
    Block,
    ObservationColumn,
    described,
    lead_frames,
)
from sb3_ca2e.replay.stacks import stacked

#: Steps in a block, about as many as an actor hands over at once.
BLOCK_STEPS = 64

Arrays = dict[str, np.ndarray]


def check_readable(buffer: Any, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Check that a memory of these spaces can take over what a buffer holds.

    :param buffer: the buffer
    :param observation_space: of the memory
    :param action_space: of the memory
    :raises TypeError: if its class is none of those whose contents are known
    :raises ValueError: if its spaces are others
    """
    if type(buffer) not in (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer):
        raise TypeError(
            f"The buffer is a {type(buffer).__name__}, which may hold more or other things than SB3's ReplayBuffer, "
            "DictReplayBuffer and NStepReplayBuffer: only these are taken over."
        )
    _check_spaces(buffer, observation_space, action_space)


def check_writable(buffer: Any, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Check that a buffer can hold single transitions of many slots.

    :param buffer: the buffer
    :param observation_space: of the transitions
    :param action_space: of the transitions
    :raises TypeError: if its class is none of those that can
    :raises ValueError: if its spaces are others, or its options do not allow it
    """
    if type(buffer) not in (ReplayBuffer, DictReplayBuffer):
        raise TypeError(
            f"The buffer is a {type(buffer).__name__}. The memory's transitions are those of many actors, of which one "
            "does not continue the one before: only SB3's ReplayBuffer and DictReplayBuffer can hold them."
        )
    if buffer.optimize_memory_usage:
        raise ValueError(
            "A buffer with optimize_memory_usage=True takes the observation of the next transition for the one after a "
            "step, and transitions of many actors do not continue one another. Leave that argument at False."
        )
    _check_spaces(buffer, observation_space, action_space)


def _check_spaces(buffer: ReplayBuffer, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    for name, theirs, ours in (
        ("observations", buffer.observation_space, observation_space),
        ("actions", buffer.action_space, action_space),
    ):
        if theirs != ours:
            raise ValueError(
                f"The buffer is made for {name} of {theirs}, the memory for {ours}: both must be of one environment."
            )


def blocks_of(buffer: ReplayBuffer, columns: dict[str, ObservationColumn], n_most: int) -> Iterator[tuple[Block, bool]]:
    """
    Make blocks of what a buffer holds, as :class:`~sb3_ca2e.replay.steps.StepBlocks` does of single steps.

    :param buffer: as :func:`check_readable` wants it
    :param columns: how the memory stores observations
    :param n_most: number of transitions that are wanted at most, the newest
    :return: for each block, without priorities yet, whether it goes on where the last one of its slot ended
    :raises ValueError: if observations can't be stored so
    """
    plain = _Plain(buffer, columns)
    positions = plain.positions[-max(-(-n_most // buffer.n_envs), 1) :]
    for start in range(0, len(positions), BLOCK_STEPS):
        part = positions[start : start + BLOCK_STEPS]
        for slot in range(buffer.n_envs):
            goes_on = plain.goes_on(part, positions[np.arange(start, start + len(part)) - 1], slot)
            goes_on[0] &= start > 0
            edges = [0, *np.flatnonzero(~goes_on[1:]) + 1, len(part)]
            for first, last in pairwise(edges):
                yield plain.block(part[first:last], slot), bool(goes_on[first])


class _Plain:
    """
    What a buffer holds, by position and environment.

    :param buffer: the buffer
    :param columns: how the memory stores observations
    """

    def __init__(self, buffer: ReplayBuffer, columns: dict[str, ObservationColumn]):
        self.buffer, self.columns, self.lead = buffer, columns, lead_frames(columns)
        #: buffers from before SB3 knew of time limits have none
        self.timeouts = getattr(buffer, "timeouts", np.zeros(buffer.dones.shape, np.float32))
        shared = buffer.optimize_memory_usage
        self.positions = np.arange(buffer.pos)
        if buffer.full:
            # An observation that two transitions share is overwritten before the older one of them is.
            self.positions = (buffer.pos + np.arange(int(shared), buffer.buffer_size)) % buffer.buffer_size
        is_dict = isinstance(buffer.observation_space, spaces.Dict)
        self._before: Any = buffer.observations if is_dict else {OBSERVATION: buffer.observations}
        self._after = self._before
        if not shared:
            self._after = buffer.next_observations if is_dict else {OBSERVATION: buffer.next_observations}

    def before(self, positions: np.ndarray, slot: int) -> Arrays:
        """``(n, *shape)`` observations before steps, for each key."""
        return self._of(self._before, positions, slot)

    def after(self, positions: np.ndarray, slot: int) -> Arrays:
        """``(n, *shape)`` observations after steps, for each key."""
        shift = int(self.buffer.optimize_memory_usage)
        return self._of(self._after, (positions + shift) % self.buffer.buffer_size, slot)

    def _of(self, arrays: Any, positions: np.ndarray, slot: int) -> Arrays:
        return {
            key: arrays[key][positions, slot].reshape(len(positions), *column.shape)
            for key, column in self.columns.items()
        }

    def ended(self, positions: np.ndarray, slot: int) -> np.ndarray:
        """``(n,)`` bool, an episode ended with that step."""
        return np.asarray(self.buffer.dones[positions, slot] > 0)

    def goes_on(self, positions: np.ndarray, earlier: np.ndarray, slot: int) -> np.ndarray:
        """
        :param positions: ``(n,)`` of steps
        :param earlier: ``(n,)`` of the step before each
        :param slot: the environment
        :return: ``(n,)`` bool, the step continues the one before, or begins an episode after an end
        """
        came, went_on = self.after(earlier, slot), self.before(positions, slot)
        same = [(came[key] == went_on[key]).reshape(len(positions), -1).all(axis=1) for key in self.columns]
        return np.asarray(self.ended(earlier, slot) | np.logical_and.reduce(same))

    def block(self, positions: np.ndarray, slot: int) -> Block:
        """
        :param positions: ``(n,)`` of consecutive steps, of which each goes on from the one before
        :param slot: the environment
        :return: their block
        """
        ended = self.ended(positions, slot)
        truncated = ended & (self.timeouts[positions, slot] > 0)
        n_rows = len(positions) + int(np.count_nonzero(ended))
        # Behind an end comes a row for the last observation. The row behind all is where the slot stands, or of no
        # meaning if an episode has just ended.
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
        """The newest frame of each observation, and ahead of them the older ones of the first."""
        frames = {}
        for key, column in self.columns.items():
            *older, newest = _split(seen[key], column)
            lead = np.zeros((self.lead, *column.frame_shape), column.dtype)
            for back, frame in enumerate(reversed(older), start=1):
                lead[-back] = frame[0]
            frames[key] = np.concatenate([lead, newest.astype(column.dtype)])
        return frames

    def _ages(self, seen: Arrays) -> np.ndarray:
        """How many older frames there are in each observation: all behind the zeros with which an episode begins."""
        ages = np.zeros(len(next(iter(seen.values()))), np.uint8)
        for key, column in self.columns.items():
            for back, frame in enumerate(reversed(_split(seen[key], column))):
                is_there = frame.reshape(len(frame), -1).any(axis=1)
                ages[is_there] = np.maximum(ages[is_there], back)
        return ages

    def _check(self, frames: Arrays, ages: np.ndarray, seen: Arrays) -> None:
        """Check that the memory will rebuild what has been seen."""
        for key, column in self.columns.items():
            own = frames[key][self.lead + 1 - column.n_stack :]
            if not np.array_equal(stacked(own, ages, column), seen[key]):
                raise ValueError(
                    f"The buffer's observations can't be stored as {described(self.columns)}: rebuilt from that they "
                    "would be others. The memory must be made for the same environment with the same wrappers."
                )


def _split(observations: np.ndarray, column: ObservationColumn) -> list[np.ndarray]:
    """``(n, *frame_shape)`` frames of each stack, the oldest first."""
    if column.n_stack == 1:
        return [observations]
    return np.split(observations, column.n_stack, axis=column.batch_axis)

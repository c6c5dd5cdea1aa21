"""The rows that a slot hands over, in the layout of the memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ca2e.common.packed_arrays import Field, size_of, views_of

# Row flags. A row without TRANSITION only holds a frame: the last observation of an episode.
TRANSITION = np.uint8(1)
TERMINATED = np.uint8(2)
TRUNCATED = np.uint8(4)
PRIOR = np.uint8(8)
ENDED = TERMINATED | TRUNCATED

Frames = dict[str, np.ndarray]


@dataclass(frozen=True)
class ObservationColumn:
    """
    How one observation array is stored: one frame per row, ``n_stack`` frames per observation.

    :param frame_shape: shape of the frame that one environment step adds
    :param dtype: dtype of the frame
    :param n_stack: frames in an observation; older frames come first, zeros stand for frames before the episode's start
    :param axis: axis along which frames are concatenated, not counting the batch axis
    """

    frame_shape: tuple[int, ...]
    dtype: np.dtype
    n_stack: int = 1
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an observation with all its frames."""
        shape = list(self.frame_shape)
        if self.n_stack > 1:
            shape[self.axis] *= self.n_stack
        return tuple(shape)

    @property
    def batch_axis(self) -> int:
        """The axis of the frames in a batch of observations."""
        return self.axis % max(len(self.frame_shape), 1) + 1

    def __str__(self) -> str:
        stack = f"stacks of {self.n_stack} along axis {self.axis}, " if self.n_stack > 1 else ""
        return f"{stack}frames {self.frame_shape} of {self.dtype}"


#: The key of the only column if the observation space is not a ``Dict``. It has brackets because goal environments use
#: the key "observation".
OBSERVATION = "<observation>"
#: The key of the column that stores which actions are allowed, beside those of the observations.
ACTION_MASK = "<action_mask>"


def observation_columns(space: spaces.Space, n_stack: int = 1, axis: int = 0) -> dict[str, ObservationColumn]:
    """
    Return the columns that store the observations of a space.

    :param space: the learner's observation space (with stacked frames)
    :param n_stack: number of frames in an observation
    :param axis: axis along which they are concatenated, not counting the batch axis
    :return: one column per key; the only key is :data:`OBSERVATION` unless the space is a ``Dict``
    """
    boxes = space.spaces if isinstance(space, spaces.Dict) else {OBSERVATION: space}
    columns = {}
    for key, box in boxes.items():
        shape = list(box.shape or ())
        if n_stack > 1:
            shape[axis] //= n_stack
        assert box.dtype is not None
        columns[key] = ObservationColumn(tuple(shape), np.dtype(box.dtype), n_stack, axis)
    return columns


def mask_column(n_actions: int) -> ObservationColumn:
    """
    Return the column that stores which actions each observation allows.

    :param n_actions: number of actions
    :return: the column, for the key :data:`ACTION_MASK`
    """
    return ObservationColumn((n_actions,), np.dtype(np.bool_))


def described(columns: dict[str, ObservationColumn]) -> str:
    """
    Describe columns for a message.

    :param columns: by key
    :return: the description
    """
    names = {OBSERVATION: "", ACTION_MASK: "action masks: "}
    return ", ".join(f"{names.get(key, f'{key!r}: ')}{column}" for key, column in columns.items())


def lead_frames(columns: dict[str, ObservationColumn]) -> int:
    """Return the number of frames that must precede a row so that its stack can be rebuilt."""
    return max(column.n_stack for column in columns.values()) - 1


@dataclass
class Block:
    """
    Consecutive steps of one slot: whole episodes or parts of them.

    A row holds a frame and the step taken from it. An episode that ends inside the block adds a row without
    :data:`TRANSITION`, which holds its last frame. An episode that breaks off because its next step was invalid has
    such a row too, but no flag that marks an end. The closing frame follows the last row; it is the slot's current
    frame, and the slot's next block begins with it.

    :param slot: the slot that made the steps
    :param frames: for each key ``(lead + n_rows + 1, *frame_shape)``: the lead frames, one frame per row, and the
        closing frame
    :param actions: ``(n_rows, action_dim)``, as the learner stores them
    :param rewards: ``(n_rows,)`` float32, raw
    :param flags: ``(n_rows,)`` uint8
    :param ages: ``(n_rows + 1,)`` uint8: number of frames of the same episode that precede the row, at most ``lead``
    :param priorities: ``(n_rows,)`` float64, positive for transitions
    """

    slot: int
    frames: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    flags: np.ndarray
    ages: np.ndarray
    priorities: np.ndarray

    def __len__(self) -> int:
        """Count the transitions."""
        return int(np.count_nonzero(self.flags & TRANSITION))

    def first(self, n_transitions: int) -> "Block":
        """
        Return the part of the block that holds its first transitions.

        :param n_transitions: number of transitions to keep; with ``len(self)`` or more, all of them
        :return: a view of this block
        """
        starts = np.flatnonzero(self.flags & TRANSITION)
        if n_transitions >= len(starts):
            return self
        n_rows = int(starts[n_transitions])
        lead = len(next(iter(self.frames.values()))) - len(self.flags) - 1
        frames = {key: frames[: lead + n_rows + 1] for key, frames in self.frames.items()}
        columns = {name: getattr(self, name)[:n_rows] for name in ("actions", "rewards", "flags", "priorities")}
        return replace(self, frames=frames, ages=self.ages[: n_rows + 1], **columns)


def plain(observations: dict[str, Any]) -> Any:
    """
    Convert observations to the form that SB3's policies take.

    :param observations: by key
    :return: a dictionary, or the only array
    """
    return observations.get(OBSERVATION, observations)


@dataclass(frozen=True)
class BlockLayout:
    """
    Memory layout of the block of one slot.

    :param columns: observation columns by key
    :param n_steps: transitions in a block; as many rows again are reserved for the ends of episodes
    :param action_shape: shape of a stored action
    :param action_dtype: dtype of a stored action
    """

    columns: dict[str, ObservationColumn]
    n_steps: int
    action_shape: tuple[int, ...]
    action_dtype: np.dtype

    @property
    def lead(self) -> int:
        """Number of frames before the first row."""
        return lead_frames(self.columns)

    def _fields(self) -> Iterator[Field]:
        rows = 2 * self.n_steps
        yield "priorities", (rows,), np.dtype(np.float64)
        yield "actions", (rows, *self.action_shape), self.action_dtype
        yield "rewards", (rows,), np.dtype(np.float32)
        yield "flags", (rows,), np.dtype(np.uint8)
        yield "ages", (rows + 1,), np.dtype(np.uint8)
        for key, column in self.columns.items():
            yield f"frames/{key}", (self.lead + rows + 1, *column.frame_shape), column.dtype

    @property
    def n_bytes(self) -> int:
        """Size of one block, in bytes."""
        return size_of(self._fields())

    def views(self, memory: np.ndarray) -> dict[str, np.ndarray]:
        """
        Return views of a block's fields.

        :param memory: ``(n_bytes,)`` uint8
        :return: one array for each field, views of ``memory``
        """
        return views_of(memory, self._fields())

    def block(self, slot: int, views: dict[str, np.ndarray], n_rows: int) -> Block:
        """
        Return a block as the learner reads it.

        :param slot: index of the slot
        :param views: fields as :meth:`views` returns them
        :param n_rows: number of rows written
        :return: the block, a view too
        """
        frames = {key: views[f"frames/{key}"][: self.lead + n_rows + 1] for key in self.columns}
        return Block(
            slot,
            frames,
            views["actions"][:n_rows],
            views["rewards"][:n_rows],
            views["flags"][:n_rows],
            views["ages"][: n_rows + 1],
            views["priorities"][:n_rows],
        )


def check_priorities(low: float, high: float) -> None:
    """
    Refuse values that would corrupt the sums.

    :param low: the smallest priority, or NaN if any is NaN
    :param high: the largest priority
    :raises ValueError: if a priority is negative or not finite
    """
    if not (low >= 0.0 and high < float("inf")):
        raise ValueError(
            f"Priorities must be finite and not negative, but they range from {low} to {high}. "
            "Check the rewards, observations and network parameters for NaN and infinity."
        )

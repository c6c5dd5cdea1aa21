"""What an actor writes into its blocks: rows, and priorities (Algorithm 2 of the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.actors.normalization import Normalizer
from sb3_ca2e.actors.observations import Frames, plain
from sb3_ca2e.replay.block import PRIOR, TERMINATED, TRANSITION, TRUNCATED, ObservationColumn
from sb3_ca2e.replay.n_step import n_step_return
from sb3_ca2e.replay.stacks import stacked

#: Added to absolute TD errors, so that every transition keeps a chance.
PRIORITY_FLOOR = 1e-6
# As Python's own numbers, with which it reckons faster.
_TRANSITION, _TERMINATED, _TRUNCATED, _PRIOR = map(int, (TRANSITION, TERMINATED, TRUNCATED, PRIOR))
_NO_FLAGS = np.uint8(0)


@dataclass
class Steps:
    """
    One slot's block as the networks see it, for :meth:`Behaviour.evaluate`.

    :param frames: for each key ``(lead + n_rows + 1, *frame_shape)``
    :param ages: ``(n_rows + 1,)``
    :param columns: how observations are stacked
    :param normalizer: what the learner normalises with, or None
    :param actions: ``(n_rows + 1, action_dim)``, zero where no step was taken
    :param outputs: ``(n_rows + 1, ...)`` what :meth:`Behaviour.act` returned beside the actions
    """

    frames: Frames
    ages: np.ndarray
    columns: dict[str, ObservationColumn]
    normalizer: Normalizer | None
    actions: th.Tensor
    outputs: th.Tensor

    @cached_property
    def observations(self) -> Any:
        """``(n_rows + 1, ...)`` observations, built only for algorithms that need them."""
        batch = {key: stacked(self.frames[key], self.ages, column) for key, column in self.columns.items()}
        return as_tensors(batch, self.ages, self.columns, self.normalizer)


def as_tensors(
    batch: Frames, ages: np.ndarray, columns: dict[str, ObservationColumn], normalizer: Normalizer | None
) -> Any:
    """
    :param batch: for each key ``(batch, *shape)`` raw observations
    :param ages: ``(batch,)`` frames of the episode that precede each
    :param columns: how they are stacked
    :param normalizer: what the learner normalises with, or None
    :return: what the networks take
    """
    if normalizer is not None:
        batch = normalizer.observations(batch, ages, columns)
    tensors: dict[str, Any] = {key: th.as_tensor(array) for key, array in batch.items()}
    return plain(tensors)


class Recorder:
    """
    Writes the rows of one slot's block in place.

    :param views: the block's fields
    :param older: the frames before the first row that its stack reaches back to
    :param newest: the frame of the first row
    :param age: steps since the episode began
    :param prior: the steps are a prior agent's
    """

    def __init__(self, views: dict[str, np.ndarray], older: list[Frames], newest: Frames, age: int, prior: bool):
        self.views, self.lead, self.prior = views, len(older), prior
        self.frames = {key: views[f"frames/{key}"] for key in newest}
        self.actions, self.rewards = views["actions"], views["rewards"]
        self.flags, self.ages = views["flags"], views["ages"]
        self.n_rows = 0
        self.outputs: list[Any] = [None] * len(self.ages)
        self.terminal: list[tuple[int, Frames, int]] = []
        for row, frames in enumerate(older):
            for key, frame in frames.items():
                self.frames[key][row] = frame
        self.frame(newest, age)

    def frame(self, frames: Frames, age: int) -> None:
        """
        The frame of the row that comes next.

        :param frames: it
        :param age: steps since the episode began
        """
        for key, frame in frames.items():
            self.frames[key][self.lead + self.n_rows] = frame
        self.ages[self.n_rows] = min(age, self.lead)

    def step(self, action: Any, reward: float, terminated: bool, truncated: bool, outputs: np.ndarray) -> None:
        """
        A step from the frame that stands there.

        :param action: as the learner stores it
        :param reward: raw reward
        :param terminated: the episode ended here, worth nothing more
        :param truncated: it was cut off here
        :param outputs: what the networks said about the observation
        """
        row = self.n_rows
        self.actions[row] = action
        self.rewards[row] = reward
        ended = _TERMINATED if terminated else _TRUNCATED if truncated else 0
        self.flags[row] = _TRANSITION | ended | (_PRIOR if self.prior else 0)
        self.outputs[row] = outputs
        self.n_rows += 1

    def end_episode(self, observation: Frames, age: int) -> None:
        """
        Keep the frame that stands there as the episode's last.

        :param observation: the whole last observation
        :param age: steps since the episode began
        """
        row = self.n_rows
        self.flags[row], self.rewards[row], self.actions[row] = 0, 0, 0
        self.terminal.append((row, observation, age))
        self.n_rows += 1

    def steps(self, columns: dict[str, ObservationColumn], normalizer: Normalizer | None) -> Steps:
        """
        :param columns: how observations are stacked
        :param normalizer: what the learner normalises with, or None
        :return: the block as the networks see it
        """
        n = self.n_rows
        self.actions[n:] = 0
        return Steps(
            {key: frames[: self.lead + n + 1] for key, frames in self.frames.items()},
            self.ages[: n + 1],
            columns,
            normalizer,
            th.as_tensor(self.actions[: n + 1]) if n < len(self.actions) else _with_zero(self.actions),
            th.as_tensor(np.stack(self.outputs[: n + 1])),
        )


def write_priorities(
    recorders: Sequence[Recorder],
    rewards: Sequence[np.ndarray],
    q_taken: Sequence[th.Tensor],
    values: Sequence[th.Tensor],
    n_steps: int,
    gamma: float,
) -> None:
    """
    Priorities |R + gamma^k v(s_k) - q(s, a)| of the slots' blocks, with as many steps as the memory would use now.

    :param recorders: the blocks
    :param rewards: of each ``(n_rows,)`` as the learner trains on them
    :param q_taken: of each ``(n_rows + 1,)`` q(s, a)
    :param values: of each ``(n_rows + 1,)`` the value to bootstrap from
    :param n_steps: multi-step length
    :param gamma: discount factor
    """
    # A row for the closing frame, on which no step was taken, keeps returns from reaching into the next block.
    flags = th.as_tensor(np.concatenate([np.append(each.flags[: each.n_rows], _NO_FLAGS) for each in recorders]))
    known = th.as_tensor(np.concatenate([np.append(each, each.dtype.type(0)) for each in rewards]))
    rows = th.arange(len(flags))
    window = (rows[:, None] + th.arange(n_steps)).clamp(max=len(flags) - 1)
    available = flags[window] & _TRANSITION > 0
    ended = flags[window] & (_TERMINATED | _TRUNCATED) > 0
    returns, length = n_step_return(known[window], ended, available, gamma)
    bootstrapped = flags[(rows + length - 1).clamp(min=0)] & _TERMINATED == 0
    targets = returns + bootstrapped * gamma**length * th.cat(tuple(values))[rows + length]
    error = (targets - th.cat(tuple(q_taken))).abs().double() + PRIORITY_FLOOR
    priorities = th.where(flags & _TRANSITION > 0, error, 0.0).numpy()
    start = 0
    for each in recorders:
        each.views["priorities"][: each.n_rows] = priorities[start : start + each.n_rows]
        start += each.n_rows + 1


def _with_zero(actions: np.ndarray) -> th.Tensor:
    return th.as_tensor(np.concatenate([actions, np.zeros_like(actions[:1])]))

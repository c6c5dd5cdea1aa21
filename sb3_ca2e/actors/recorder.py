"""What an actor writes into its blocks: rows, and priorities (Algorithm 2 of the paper)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ca2e.actors.normalization import Normalizer
from sb3_ca2e.actors.observations import Frames, plain
from sb3_ca2e.replay.block import PRIOR, TERMINATED, TRANSITION, TRUNCATED, ObservationColumn
from sb3_ca2e.replay.n_step import n_step_return
from sb3_ca2e.replay.stacks import stacked

#: Added to absolute TD errors, so that every transition keeps a chance.
PRIORITY_FLOOR = 1e-6


@dataclass
class Steps:
    """
    The blocks of slots as the networks see them, for :meth:`Behaviour.evaluate`, one behind the other. Behind the rows
    of each comes one for the frame that closes it.

    :param frames: of each block, for each key ``(lead + n_rows + 1, *frame_shape)``
    :param ages: of each block ``(n_rows + 1,)``
    :param columns: how observations are stacked
    :param normalizer: what the learner normalises with, or None
    :param actions: ``(rows, action_dim)``, zero where no step was taken
    :param outputs: ``(rows, ...)`` what :meth:`Behaviour.act` returned beside the actions
    """

    frames: list[Frames]
    ages: list[np.ndarray]
    columns: dict[str, ObservationColumn]
    normalizer: Normalizer | None
    actions: th.Tensor
    outputs: th.Tensor

    @cached_property
    def observations(self) -> Any:
        """``(rows, ...)`` observations, built only for algorithms that need them."""
        blocks = list(zip(self.frames, self.ages, strict=True))
        batch = {
            key: np.concatenate([stacked(frames[key], ages, column) for frames, ages in blocks])
            for key, column in self.columns.items()
        }
        return as_tensors(batch, np.concatenate(self.ages), self.columns, self.normalizer)


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


class Ending(NamedTuple):
    """
    The last observation of an episode, on which no step was taken.

    :param row: where its frame stands
    :param terminated: the episode is worth nothing more; else it was cut off here
    :param observation: the whole of it
    :param age: steps of the episode
    """

    row: int
    terminated: bool
    observation: Frames
    age: int


class Recorder:
    """
    Writes the rows of one slot's block in place: frames and rewards as they come, all else when it is full.

    :param views: the block's fields
    :param older: the frames before the first row that its stack reaches back to
    :param newest: the frame of the first row
    :param age: steps since the episode began
    :param prior: the steps are a prior agent's
    """

    def __init__(self, views: dict[str, np.ndarray], older: list[Frames], newest: Frames, age: int, prior: bool):
        self.views, self.lead, self.prior = views, len(older), prior
        self.frames = {key: views[f"frames/{key}"] for key in newest}
        self.n_rows = 0
        self.endings: list[Ending] = []
        self._age, self._rewards = age, list[float]()
        self._n_prior = 0  # rows of a prior agent that has retired in this block
        for row, frames in enumerate(older):
            for key, frame in frames.items():
                self.frames[key][row] = frame
        self._write(newest)

    def step(self, reward: float, frames: Frames) -> None:
        """
        A step from the frame that stands there.

        :param reward: raw reward
        :param frames: what it led to
        """
        self._rewards.append(reward)
        self.n_rows += 1
        self._write(frames)

    def end_episode(self, terminated: bool, observation: Frames, age: int) -> None:
        """
        Keep the frame that stands there as the episode's last.

        :param terminated: the episode is worth nothing more; else it was cut off
        :param observation: the whole last observation
        :param age: steps since the episode began
        """
        self.endings.append(Ending(self.n_rows, terminated, observation, age))
        self.n_rows += 1

    def begin_episode(self, frames: Frames, prior: bool) -> None:
        """
        :param frames: the first of the episode
        :param prior: the steps are a prior agent's from now on
        """
        if self.prior and not prior:
            self._n_prior = self.n_rows
        self.prior = prior
        self._write(frames)

    def _write(self, frames: Frames) -> None:
        row = self.lead + self.n_rows
        for key, frame in frames.items():
            self.frames[key][row] = frame

    def close(self, actions: np.ndarray) -> np.ndarray:
        """
        Write what is left: all but the priorities.

        :param actions: ``(steps, action_dim)`` as the learner stores them
        :return: ``(steps,)`` rows of the steps
        """
        n_rows, ends = self.n_rows, [ending.row for ending in self.endings]
        made = np.ones(n_rows, dtype=bool)
        made[ends] = False
        rows = np.flatnonzero(made)
        flags = self.views["flags"][:n_rows]
        flags[:] = TRANSITION
        flags[: n_rows if self.prior else self._n_prior] |= PRIOR
        flags[ends] = 0
        for ending in self.endings:
            flags[ending.row - 1] |= TERMINATED if ending.terminated else TRUNCATED
        for name, of_steps in (("rewards", self._rewards), ("actions", actions)):
            column = self.views[name][:n_rows]
            column[ends] = 0
            column[rows] = of_steps
        self._write_ages([*ends, n_rows])
        return rows

    def _write_ages(self, ends: list[int]) -> None:
        """Frames of the same episode that precede each row, the closing one included, counted up to the lead."""
        start, age = 0, self._age
        for end in ends:
            self.views["ages"][start : end + 1] = np.minimum(np.arange(age, age + end + 1 - start), self.lead)
            start, age = end + 1, 0


class Blocks:
    """
    The blocks of all slots of a process, one behind the other as in :class:`Steps`.

    :param recorders: the blocks
    :param actions: ``(steps, slots, action_dim)`` as the learner stores them
    :param outputs: ``(steps, slots, ...)`` what the networks said about the observations
    :param last_outputs: ``(slots, ...)`` about those of the closing frames
    :param end_outputs: ``(endings, ...)`` about those at the ends of episodes, in the order of the recorders
    """

    def __init__(
        self,
        recorders: Sequence[Recorder],
        actions: np.ndarray,
        outputs: np.ndarray,
        last_outputs: np.ndarray,
        end_outputs: np.ndarray,
    ):
        self._recorders = recorders
        self._starts = np.cumsum([0, *(recorder.n_rows + 1 for recorder in recorders)])
        n_rows = self._starts[-1]
        # A row for the closing frame, on which no step was taken, keeps returns from reaching into the next block.
        self.flags = np.zeros(n_rows, dtype=np.uint8)
        self.rewards = np.zeros(n_rows, dtype=np.float32)
        self._actions = np.zeros((n_rows, *actions.shape[2:]), dtype=actions.dtype)
        self._outputs = np.empty((n_rows, *outputs.shape[2:]), dtype=outputs.dtype)
        self._outputs[self._starts[1:] - 1] = last_outputs
        ends = [start + ending.row for start, each in self._placed() for ending in each.endings]
        self._outputs[ends] = end_outputs
        for position, (start, recorder) in enumerate(self._placed()):
            rows = start + recorder.close(actions[:, position])
            self._outputs[rows] = outputs[:, position]
            part = slice(start, start + recorder.n_rows)
            for name, joined in (("flags", self.flags), ("rewards", self.rewards), ("actions", self._actions)):
                joined[part] = recorder.views[name][: recorder.n_rows]

    def _placed(self) -> Iterator[tuple[int, Recorder]]:
        return zip(self._starts[:-1].tolist(), self._recorders, strict=True)

    def steps(self, columns: dict[str, ObservationColumn], normalizer: Normalizer | None) -> Steps:
        """
        :param columns: how observations are stacked
        :param normalizer: what the learner normalises with, or None
        :return: the blocks as the networks see them
        """
        return Steps(
            [
                {key: frames[: each.lead + each.n_rows + 1] for key, frames in each.frames.items()}
                for each in self._recorders
            ],
            [each.views["ages"][: each.n_rows + 1] for each in self._recorders],
            columns,
            normalizer,
            th.as_tensor(self._actions),
            th.as_tensor(self._outputs),
        )

    def write_priorities(
        self, rewards: np.ndarray, q_taken: th.Tensor, values: th.Tensor, n_steps: int, gamma: float
    ) -> None:
        """
        Priorities |R + gamma^k v(s_k) - q(s, a)|, with as many steps as the memory would use now.

        :param rewards: ``(rows,)`` as the learner trains on them
        :param q_taken: ``(rows,)`` q(s, a)
        :param values: ``(rows,)`` the value to bootstrap from
        :param n_steps: multi-step length
        :param gamma: discount factor
        """
        flags, known = th.as_tensor(self.flags), th.as_tensor(rewards)
        rows = th.arange(len(flags))
        window = (rows[:, None] + th.arange(n_steps)).clamp(max=len(flags) - 1)
        available = flags[window] & int(TRANSITION) > 0
        ended = flags[window] & int(TERMINATED | TRUNCATED) > 0
        returns, length = n_step_return(known[window], ended, available, gamma)
        bootstrapped = flags[(rows + length - 1).clamp(min=0)] & int(TERMINATED) == 0
        targets = returns + bootstrapped * gamma**length * values[rows + length]
        error = (targets - q_taken).abs().double() + PRIORITY_FLOOR
        priorities = th.where(flags & int(TRANSITION) > 0, error, 0.0).numpy()
        for start, recorder in self._placed():
            recorder.views["priorities"][: recorder.n_rows] = priorities[start : start + recorder.n_rows]

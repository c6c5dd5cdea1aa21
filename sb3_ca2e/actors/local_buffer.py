"""The local buffer: collects an actor's steps and writes blocks with priorities (Algorithm 2 of the paper)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ca2e.actors.inference import Steps
from sb3_ca2e.actors.observations import Observations
from sb3_ca2e.envs.normalization import Normalizer
from sb3_ca2e.replay.block import (
    ACTION_MASK,
    PRIOR,
    TERMINATED,
    TRANSITION,
    TRUNCATED,
    BlockLayout,
    Frames,
    ObservationColumn,
)
from sb3_ca2e.replay.n_step import PRIORITY_FLOOR


class Ending(NamedTuple):
    """
    The last observation of an episode, on which no step was taken.

    :param position: position of the slot
    :param seen: its newest frame, as :class:`LocalBuffer` keeps it
    :param observation: the whole observation
    :param age: number of steps of the episode
    """

    position: int
    seen: dict[str, Any]
    observation: Frames
    age: int


class LocalBuffer:
    """
    Collects the steps of all slots of a process, and writes them into their blocks when these are full.

    :param observations: current observations of the slots, read at each step
    :param layout: layout of a block
    :param n_slots: number of slots of the process
    """

    def __init__(self, observations: Observations, layout: BlockLayout, n_slots: int):
        self._observations, self._lead = observations, layout.lead
        self.n_steps = 0
        #: number of steps of each slot left out of its block
        self.n_refused = [0] * n_slots
        self.endings: list[Ending] = []
        # Observations before each step and after the last, and the data of each step, indexed by step and slot.
        n = layout.n_steps
        frames = {f"frames/{key}": newest for key, newest in observations.newest.items()}
        self._seen = {name: np.zeros((n + 1, *newest.shape), newest.dtype) for name, newest in frames.items()}
        self._newest: dict[str, Any] = frames
        self._seen["ages"] = np.zeros((n + 1, n_slots), np.int64)
        self._actions = np.zeros((n, n_slots, *layout.action_shape), layout.action_dtype)
        self._rewards = np.zeros((n, n_slots), np.float32)
        self._flags = np.zeros((n, n_slots), np.uint8)
        self._outputs: np.ndarray | None = None  # created once their shape is known
        self._views: Sequence[dict[str, np.ndarray]] = []

    def begin(self, views: Sequence[dict[str, np.ndarray]], ages: list[int], prior: list[bool]) -> None:
        """
        Begin new blocks with the current observations.

        :param views: fields of each slot's block
        :param ages: steps since each slot's episode began
        :param prior: whether a prior agent plays in each slot
        """
        self._views, self.n_steps = views, 0
        self.n_refused = [0] * len(views)
        self.endings.clear()
        self._flags[:] = np.where(prior, TRANSITION | PRIOR, TRANSITION)
        for position, fields in enumerate(views) if self._lead else ():
            for row, frames in enumerate(self._observations.older(position)):
                for key, frame in frames.items():
                    fields[f"frames/{key}"][row] = frame
        self._see(ages)

    def step(self, actions: np.ndarray, outputs: np.ndarray, rewards: list[float], ages: list[int]) -> None:
        """
        Record a step of all slots that led to the current observations.

        :param actions: ``(slots, ...)`` stored actions
        :param outputs: ``(slots, ...)`` network outputs for the observations before
        :param rewards: raw reward of each slot
        :param ages: steps since each slot's episode began
        """
        if self._outputs is None:
            self._outputs = np.zeros((len(self._actions), *outputs.shape), outputs.dtype)
        t = self.n_steps
        self._actions[t] = actions.reshape(self._actions.shape[1:])
        self._outputs[t], self._rewards[t] = outputs, rewards
        self.n_steps += 1
        self._see(ages)

    def _see(self, ages: list[int]) -> None:
        for name, newest in self._newest.items():
            self._seen[name][self.n_steps] = newest
        self._seen["ages"][self.n_steps] = ages

    def end_episode(self, position: int, terminated: bool, age: int) -> None:
        """
        Mark the current step as the last of an episode, which ends with the current observation.

        :param position: position of the slot
        :param terminated: whether the episode terminated; otherwise it was truncated
        :param age: number of steps of the episode
        """
        self._flags[self.n_steps, position] |= TERMINATED if terminated else TRUNCATED
        seen: dict[str, Any] = {name: newest[position].copy() for name, newest in self._newest.items()}
        self.endings.append(
            Ending(position, {**seen, "ages": min(age, self._lead)}, self._observations.of(position), age)
        )

    def refuse(self, position: int) -> None:
        """
        Leave out the current step.

        The observation before it becomes the last of the episode so far, a frame without a step.

        :param position: position of the slot
        """
        self._flags[self.n_steps, position] = 0
        self.n_refused[position] += 1

    def prior_retired(self, position: int) -> None:
        """
        Mark the steps after the current one as those of a nature slot.

        :param position: position of the slot
        """
        self._flags[self.n_steps + 1 :, position] = TRANSITION

    def close(self, last_outputs: np.ndarray, end_outputs: np.ndarray) -> "Blocks":
        """
        Write everything except the priorities.

        :param last_outputs: ``(slots, ...)`` network outputs for the current observations
        :param end_outputs: ``(endings, ...)`` network outputs for the last observations of episodes
        :return: the blocks
        """
        n = self.n_steps
        ended = self._flags[:n] & (TERMINATED | TRUNCATED) > 0
        n_rows = n + ended.sum(axis=0)
        # Each episode that ends inserts a row for its last observation.
        rows = np.arange(n)[:, None] + np.cumsum(ended, axis=0) - ended
        end_rows = (rows + 1)[ended]  # by step and slot, the order of self.endings
        np.minimum(self._seen["ages"], self._lead, out=self._seen["ages"])
        for name, seen in self._seen.items():
            self._write(name, seen, rows, n_rows, end_rows)
        blocks = Blocks(self._views, n_rows, self._lead)
        outputs = self._outputs[:n] if self._outputs is not None else last_outputs[None][:0]
        blocks.fill(rows, self._flags[:n], self._rewards[:n], self._actions[:n], outputs)
        blocks.outputs[blocks.starts + n_rows] = last_outputs
        blocks.outputs[end_rows + blocks.starts[[ending.position for ending in self.endings]]] = end_outputs
        return blocks

    def _write(self, name: str, seen: np.ndarray, rows: np.ndarray, n_rows: np.ndarray, end_rows: np.ndarray) -> None:
        """Write a field of the observations: the rows of steps, those of endings, and the one behind the last."""
        columns = [fields[name][self._lead if name != "ages" else 0 :] for fields in self._views]
        for position, column in enumerate(columns):
            column[rows[:, position]] = seen[: self.n_steps, position]
            column[n_rows[position]] = seen[self.n_steps, position]
        for ending, row in zip(self.endings, end_rows, strict=True):
            columns[ending.position][row] = ending.seen[name]


class Blocks:
    """
    The blocks of the slots of a process, one after another as in :class:`Steps`.

    :param views: fields of each slot's block
    :param n_rows: ``(slots,)`` number of rows of each block
    :param lead: number of frames before the first row
    """

    def __init__(self, views: Sequence[dict[str, np.ndarray]], n_rows: np.ndarray, lead: int):
        self._views, self.n_rows, self._lead = views, n_rows, lead
        self.starts = np.cumsum(n_rows + 1) - (n_rows + 1)

    def fill(
        self, rows: np.ndarray, flags: np.ndarray, rewards: np.ndarray, actions: np.ndarray, outputs: np.ndarray
    ) -> None:
        """
        Write flags, rewards and actions; rows without a step stay zero.

        :param rows: ``(steps, slots)`` row of each step in the slot's block
        :param flags: ``(steps, slots)``
        :param rewards: ``(steps, slots)`` raw
        :param actions: ``(steps, slots, action_dim)`` stored actions
        :param outputs: ``(steps, slots, ...)`` network outputs before each step
        """

        def placed(of_steps: np.ndarray) -> np.ndarray:
            joined = np.zeros((total, *of_steps.shape[2:]), of_steps.dtype)
            joined[rows] = of_steps
            return joined

        rows, total = rows + self.starts, int((self.n_rows + 1).sum())
        # A row for the closing frame, on which no step was taken, keeps returns from reaching into the next block.
        self.flags, self.rewards, self.actions = placed(flags), placed(rewards), placed(actions)
        self.outputs = placed(outputs)
        self._write("flags", self.flags)
        self._write("rewards", self.rewards)
        self._write("actions", self.actions)

    def _write(self, name: str, joined: np.ndarray) -> None:
        for fields, start, n_rows in zip(self._views, self.starts.tolist(), self.n_rows.tolist(), strict=True):
            fields[name][:n_rows] = joined[start : start + n_rows]

    def steps(self, columns: dict[str, ObservationColumn], normalizer: Normalizer | None) -> Steps:
        """
        Return the blocks as network input.

        :param columns: how observations are stacked
        :param normalizer: the learner's normalisation, or None
        :return: the blocks as consecutive steps
        """
        blocks = list(zip(self._views, self.n_rows.tolist(), strict=True))
        return Steps(
            [{key: fields[f"frames/{key}"][: self._lead + n + 1] for key in columns} for fields, n in blocks],
            [fields["ages"][: n + 1] for fields, n in blocks],
            columns,
            normalizer,
            th.as_tensor(self.actions),
            th.as_tensor(self.outputs),
            self._action_masks(),
        )

    def _action_masks(self) -> th.Tensor | None:
        key = f"frames/{ACTION_MASK}"
        if key not in self._views[0]:
            return None
        blocks = zip(self._views, self.n_rows.tolist(), strict=True)
        return th.from_numpy(np.concatenate([fields[key][self._lead : self._lead + n + 1] for fields, n in blocks]))

    def write_priorities(
        self, rewards: np.ndarray, q_taken: np.ndarray, values: np.ndarray, n_steps: int, gamma: float
    ) -> None:
        """
        Write priorities |R + gamma^k v(s_k) - q(s, a)|, with the multi-step length that the memory currently uses.

        :param rewards: ``(rows,)`` rewards as the learner trains on them
        :param q_taken: ``(rows,)`` q(s, a)
        :param values: ``(rows,)`` the value to bootstrap from
        :param n_steps: multi-step length
        :param gamma: discount factor
        """
        returns, length = n_step_returns(rewards, self.flags, n_steps, gamma)
        last = np.arange(len(returns)) + length - 1
        bootstrapped = self.flags[last] & TERMINATED == 0
        # Every step has a row behind its last one.
        targets = returns + bootstrapped * gamma**length * values.take(last + 1, mode="clip")
        errors = np.abs(targets - q_taken).astype(np.float64) + PRIORITY_FLOOR
        self._write("priorities", np.where(self.flags & TRANSITION > 0, errors, 0.0))


def n_step_returns(rewards: np.ndarray, flags: np.ndarray, n_steps: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute :func:`~sb3_ca2e.replay.n_step.n_step_return` for each of consecutive rows.

    A row without a transition ends what is known.

    :param rewards: ``(n_rows,)``
    :param flags: ``(n_rows,)`` uint8; the last row is no transition
    :param n_steps: multi-step length
    :param gamma: discount factor of one step
    :return: ``(n_rows,)`` returns and ``(n_rows,)`` int64 number of steps in each, 1 where there is no transition
    """
    goes_on = flags & (TRANSITION | TERMINATED | TRUNCATED) == TRANSITION
    goes_on[:-1] &= flags[1:] & TRANSITION > 0
    returns, length, used = rewards.copy(), np.ones(len(rewards), dtype=np.int64), goes_on.copy()
    for step in range(1, n_steps):
        if step >= len(rewards):
            break
        if step > 1:
            used[: 1 - step] &= goes_on[step - 1 :]
        returns[:-step] += used[:-step] * rewards.dtype.type(gamma**step) * rewards[step:]
        length += used
    return returns, length

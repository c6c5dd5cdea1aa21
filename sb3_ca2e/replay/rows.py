"""The physical rows of the memory: columns on a torch device, and what is read from them."""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ca2e.replay.block import ENDED, PRIOR, TERMINATED, TRANSITION, ObservationColumn
from sb3_ca2e.replay.columns import _zeros, put, take
from sb3_ca2e.replay.sum_tree import SumTree


class HostColumns(NamedTuple):
    """Columns on the CPU as NumPy arrays, which compiled code takes; to make them anew for each batch takes time."""

    flags: np.ndarray
    rewards: np.ndarray
    successors: np.ndarray
    inserted_at: np.ndarray
    ages: np.ndarray
    #: of the priorities, a binary tree
    sums: np.ndarray


class Rows:
    """
    Columns of ``n_rows`` rows. The frame that follows the step of row p is that of row p + 1.

    One row more, the sentinel, has zero frames and is no transition: where a chain of steps or a stack
    of frames goes no further.

    :param n_rows: number of rows
    :param observation_columns: how observations are stored
    :param action_dim: elements of an action
    :param action_dtype: their dtype
    :param device: torch device
    """

    def __init__(
        self,
        n_rows: int,
        observation_columns: dict[str, ObservationColumn],
        action_dim: int,
        action_dtype: np.dtype,
        device: th.device | str,
    ):
        self.observation_columns = observation_columns
        self.sentinel = n_rows

        def zeros(dtype: np.dtype | type, *shape: int) -> th.Tensor:
            return _zeros((n_rows + 1, *shape), np.dtype(dtype), device)

        self.frames = {key: zeros(column.dtype, *column.frame_shape) for key, column in observation_columns.items()}
        self.actions = zeros(action_dtype, action_dim)
        self.rewards = zeros(np.float32)
        self.flags = zeros(np.uint8)
        self._flag_bits = th.tensor([TRANSITION, ENDED, TERMINATED, PRIOR], dtype=th.uint8, device=device)
        self.ages = zeros(np.uint8)
        #: number of transitions ever committed when the row was
        self.inserted_at = zeros(np.int64)
        #: rows of the next step of the same slot
        self.successors = zeros(np.int64)
        th.arange(1, n_rows + 2, out=self.successors).clamp_(max=n_rows)
        #: priority^alpha, zero unless the row is a transition
        self._set_tree(n_rows + 1)
        #: number of transitions ever committed
        self.n_committed = th.zeros((), dtype=th.int64, device=device)
        #: the largest of the priorities written, and how many were refused; of these, those that are known of
        self.tally = th.tensor([0.0, 0.0], dtype=th.float64, device=device)
        self.n_refused_known = 0

    def _set_tree(self, capacity: int) -> None:
        """Make an empty tree of the kind that is fast where the columns are."""
        self.host: HostColumns | None = None
        self.priorities: SumTree
        if not self.flags.is_cpu:
            self.priorities = SumTree(capacity, self.device)
            return
        # Who never has a memory, an actor for instance, need not wait until numba is imported.
        from sb3_ca2e.replay.binary_sum_tree import BinarySumTree

        self.priorities = tree = BinarySumTree(capacity)
        self.host = HostColumns(
            flags=self.flags.numpy(),
            rewards=self.rewards.numpy(),
            successors=self.successors.numpy(),
            inserted_at=self.inserted_at.numpy(),
            ages=self.ages.numpy(),
            sums=tree.sums,
        )

    _COLUMNS = ("actions", "rewards", "flags", "ages", "inserted_at", "successors")

    @property
    def device(self) -> th.device:
        """Where the rows are."""
        return self.flags.device

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        columns = [*self.frames.values(), *(getattr(self, name) for name in self._COLUMNS)]
        return sum(int(column.nbytes) for column in columns) + self.priorities.nbytes

    def to(self, device: th.device | str) -> None:
        """
        Move the rows.

        :param device: torch device
        """
        self.frames = {key: frames.to(device) for key, frames in self.frames.items()}
        for name in (*self._COLUMNS, "_flag_bits", "n_committed", "tally"):
            setattr(self, name, getattr(self, name).to(device))
        priorities = self.priorities[: len(self.priorities)].cpu().numpy()
        self._set_tree(len(priorities))
        self.priorities.assign(0, priorities)

    def read_flags(self, rows: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        What the flags of rows say.

        :param rows: int64, of any shape
        :return: of the same shape: is a transition, ended an episode, terminated it, was made by a prior agent
        """
        return self.flags.take(rows).unsqueeze(-1).bitwise_and(self._flag_bits).bool().unbind(-1)

    def windows(self, rows: th.Tensor, n_steps: int) -> th.Tensor:
        """
        Rows of consecutive steps of one slot.

        :param rows: ``(batch,)`` int64 rows of the first steps
        :param n_steps: steps in a window
        :return: ``(batch, n_steps)`` int64; from the first row on that is no transition they mean nothing
        """
        windows = [rows]
        for _ in range(n_steps - 1):
            windows.append(self.successors.take(windows[-1]))
        return th.stack(windows, dim=1)

    def observations(self, rows: th.Tensor) -> dict[str, th.Tensor]:
        """
        Observations with their frame stacks rebuilt, as the environment returned them.

        :param rows: ``(batch,)`` int64
        :return: for each key ``(batch, *shape)``
        """
        observations = {}
        for key, column in self.observation_columns.items():
            frames = self.frames[key]
            if column.n_stack == 1:
                observations[key] = take(frames, rows)
                continue
            stack = self._stacks(rows, column.n_stack)
            stacked = take(frames, stack.view(-1)).view(*stack.shape, *column.frame_shape)
            axis = column.axis % len(column.frame_shape)
            observations[key] = stacked.movedim(1, axis + 1).reshape(len(rows), *column.shape)
        return observations

    def _stacks(self, rows: th.Tensor, n_stack: int) -> th.Tensor:
        """Rows of the frames of stacks, ``(batch, n_stack)``, the oldest first."""
        if self.host is not None:
            from sb3_ca2e.replay import kernels

            return th.from_numpy(kernels.stacks(rows.numpy(), self.host.ages, n_stack))
        back = th.arange(n_stack - 1, -1, -1, device=rows.device)
        # Before an episode's first frame come zeros, and those are the sentinel's.
        in_episode = back <= self.ages.take(rows).unsqueeze(1)
        return th.where(in_episode, rows.unsqueeze(1) - back, self.sentinel)

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """
        All columns of consecutive rows, to be saved.

        :param start: the first row
        :param stop: behind the last row
        :return: an array for each column, a view of it if it is on the CPU
        """
        columns = {f"frames.{key}": frames for key, frames in self.frames.items()}
        columns |= {name: getattr(self, name) for name in self._COLUMNS} | {"priorities": self.priorities[:]}
        return {name: column[start:stop].cpu().numpy() for name, column in columns.items()}

    def restore(self, start: int, columns: dict[str, np.ndarray]) -> None:
        """
        Put back what :meth:`read` returned.

        :param start: the first row
        :param columns: an array for each column
        """
        for name, values in columns.items():
            if name == "priorities":
                self.priorities.assign(start, values)
            elif name.startswith("frames."):
                put(start, (self.frames[name.removeprefix("frames.")], values))
            else:
                put(start, (getattr(self, name), values))

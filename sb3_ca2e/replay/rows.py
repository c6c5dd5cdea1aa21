"""The physical rows of the memory: columns on a torch device, and what is read from them."""

import numpy as np
import torch as th

from sb3_ca2e.replay.block import PRIOR, TERMINATED, TRANSITION, TRUNCATED, ObservationColumn
from sb3_ca2e.replay.sum_tree import SumTree

ENDED = TERMINATED | TRUNCATED


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

        def zeros(*shape: int, dtype: th.dtype) -> th.Tensor:
            return th.zeros((n_rows + 1, *shape), dtype=dtype, device=device)

        # Frames are not initialised: pages of the host's memory that are never written are never used.
        self.frames = {
            key: th.empty((n_rows + 1, *column.frame_shape), dtype=_torch_dtype(column.dtype), device=device)
            for key, column in observation_columns.items()
        }
        for frames in self.frames.values():
            frames[self.sentinel] = 0
        self.actions = zeros(action_dim, dtype=_torch_dtype(action_dtype))
        self.rewards = zeros(dtype=th.float32)
        self.flags = zeros(dtype=th.uint8)
        self._flag_bits = th.tensor([TRANSITION, ENDED, TERMINATED, PRIOR], dtype=th.uint8, device=device)
        self.ages = zeros(dtype=th.uint8)
        #: number of transitions ever committed when the row was
        self.inserted_at = zeros(dtype=th.int64)
        #: rows of the next step of the same slot
        self.successors = th.arange(1, n_rows + 2, dtype=th.int64, device=device).clamp_(max=n_rows)
        #: priority^alpha, zero unless the row is a transition
        self.priorities = _sum_tree(n_rows + 1, device)

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
        for name in (*self._COLUMNS, "_flag_bits"):
            setattr(self, name, getattr(self, name).to(device))
        priorities = self.priorities
        self.priorities = _sum_tree(len(priorities), device)
        self.priorities.assign(0, priorities[: len(priorities)].cpu().numpy())

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
            back = th.arange(column.n_stack - 1, -1, -1, device=rows.device)
            # Before an episode's first frame come zeros, and those are the sentinel's.
            in_episode = back <= self.ages.take(rows).unsqueeze(1)
            stack = th.where(in_episode, rows.unsqueeze(1) - back, self.sentinel)
            stacked = take(frames, stack.view(-1)).view(*stack.shape, *column.frame_shape)
            axis = column.axis % len(column.frame_shape)
            observations[key] = stacked.movedim(1, axis + 1).reshape(len(rows), *column.shape)
        return observations

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
                put(self.frames[name.removeprefix("frames.")], start, values)
            else:
                put(getattr(self, name), start, values)


def put(column: th.Tensor, start: int, values: np.ndarray) -> None:
    """
    Write consecutive rows of a column.

    :param column: ``(n_rows, *shape)``
    :param start: the first row
    :param values: ``(n, *shape)``
    """
    rows = column[start : start + len(values)]
    if column.is_cpu:
        rows.numpy()[...] = values
    else:
        rows.copy_(th.tensor(values))


def take(column: th.Tensor, rows: th.Tensor) -> th.Tensor:
    """
    Copies of rows of a column.

    :param column: ``(n_rows, *shape)``
    :param rows: ``(batch,)`` int64
    :return: ``(batch, *shape)``
    """
    if column.is_cpu:
        return th.from_numpy(column.numpy().take(rows.numpy(), axis=0))  # three times as fast as PyTorch's
    return column.index_select(0, rows)


def _sum_tree(capacity: int, device: th.device | str) -> SumTree:
    """The kind of tree that is fast on a device."""
    if th.device(device).type != "cpu":
        return SumTree(capacity, device)
    # Who never has a memory, an actor for instance, need not wait until numba is imported.
    from sb3_ca2e.replay.binary_sum_tree import BinarySumTree

    return BinarySumTree(capacity)


def _torch_dtype(dtype: np.dtype) -> th.dtype:
    return th.from_numpy(np.empty(0, dtype)).dtype

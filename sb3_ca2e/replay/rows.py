"""The rows of the memory: what a backend offers, and what it shares with the other one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import numpy as np
import torch as th

from sb3_ca2e.replay.block import ObservationColumn
from sb3_ca2e.replay.sum_tree import SumTree

#: Of rewards of single steps, as ``VecNormalize.normalize_reward``.
NormalizeRewards = Callable[[np.ndarray], np.ndarray]


class Rows(ABC):
    """
    Columns of rows, and their priorities. The frame that follows the step of row p is that of row p + 1.

    The last row, the sentinel, has zero frames and is no transition: where a chain of steps or a stack of frames goes
    no further.

    There are two backends: ``HostRows`` on the CPU, by compiled code, and ``DeviceRows`` elsewhere, by operations on
    tensors. ``rows_on`` in ``storage.py`` chooses between them.

    :param segment_rows: rows of a segment
    :param observation_columns: how observations are stored
    :param columns: ``(n_rows + 1, *shape)`` tensors by name, all on one device
    :param generations: ``(n_segments,)`` int64, how often each segment has been freed, on the same device
    """

    #: priority^alpha, zero unless the row is a transition
    priorities: SumTree

    def __init__(
        self,
        segment_rows: int,
        observation_columns: dict[str, ObservationColumn],
        columns: dict[str, th.Tensor],
        generations: th.Tensor,
    ):
        self.segment_rows, self.observation_columns = segment_rows, observation_columns
        self.columns, self.generations = columns, generations
        self.frames = {key: columns[f"frames.{key}"] for key in observation_columns}
        self.actions, self.rewards, self.flags = columns["actions"], columns["rewards"], columns["flags"]
        self.ages = columns["ages"]
        #: number of transitions ever committed when the row was
        self.inserted_at = columns["inserted_at"]
        #: rows of the next step of the same slot
        self.successors = columns["successors"]
        self.device = self.flags.device
        self.sentinel = len(self.flags) - 1

    @classmethod
    def empty(
        cls,
        segment_rows: int,
        n_rows: int,
        observation_columns: dict[str, ObservationColumn],
        action_dim: int,
        action_dtype: np.dtype,
        device: th.device | str,
    ) -> Self:
        """
        Reserve rows.

        :param segment_rows: rows of a segment
        :param n_rows: rows of all segments
        :param observation_columns: how observations are stored
        :param action_dim: elements of an action
        :param action_dtype: their dtype
        :param device: torch device
        :return: rows without transitions
        """

        def zeros(dtype: np.dtype | type, *shape: int) -> th.Tensor:
            return cls._zeros((n_rows + 1, *shape), np.dtype(dtype), device)

        frames = {f"frames.{key}": zeros(c.dtype, *c.frame_shape) for key, c in observation_columns.items()}
        columns = {
            **frames,
            "actions": zeros(action_dtype, action_dim),
            "rewards": zeros(np.float32),
            "flags": zeros(np.uint8),
            "ages": zeros(np.uint8),
            "inserted_at": zeros(np.int64),
            "successors": zeros(np.int64),
        }
        th.arange(1, n_rows + 2, out=columns["successors"]).clamp_(max=n_rows)
        generations = th.zeros(n_rows // segment_rows, dtype=th.int64, device=device)
        return cls(segment_rows, observation_columns, columns, generations)

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        tensors = [*self.columns.values(), self.generations]
        return sum(int(tensor.nbytes) for tensor in tensors) + self.priorities.nbytes

    def on(self, device: th.device | str, backend: "type[Rows]") -> "Rows":
        """
        Move the rows.

        :param device: torch device
        :param backend: the class for it
        :return: the same rows there; these are not to be used any more
        """
        columns = {name: column.to(device) for name, column in self.columns.items()}
        moved = backend(self.segment_rows, self.observation_columns, columns, self.generations.to(device))
        moved.priorities.assign(0, self.priorities[: len(self.priorities)].cpu().numpy())
        return moved

    def observations(self, rows: th.Tensor) -> dict[str, th.Tensor]:
        """
        Read observations with their frame stacks rebuilt, as the environment returned them.

        :param rows: ``(batch,)`` int64
        :return: for each key ``(batch, *shape)``
        """
        observations = {}
        for key, column in self.observation_columns.items():
            frames = self.frames[key]
            if column.n_stack == 1:
                observations[key] = self.take(frames, rows)
                continue
            stack = self._stacks(rows, column.n_stack)
            stacked = self.take(frames, stack.view(-1)).view(*stack.shape, *column.frame_shape)
            observations[key] = stacked.movedim(1, column.batch_axis).reshape(len(rows), *column.shape)
        return observations

    def generations_of(self, rows: th.Tensor) -> th.Tensor:
        """
        Look up how often the segments of rows have been freed.

        :param rows: ``(batch,)`` int64
        :return: ``(batch,)`` int64
        """
        return self.generations.take(rows // self.segment_rows)

    def look_up(self, name: str, rows: np.ndarray) -> np.ndarray:
        """
        Read rows of a column.

        :param name: of the column
        :param rows: int64 array of any shape
        :return: a copy, an array of that shape and the column's
        """
        values: np.ndarray = self.columns[name][th.from_numpy(rows).to(self.device)].cpu().numpy()
        return values

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """
        Read all columns of consecutive rows, to save them.

        :param start: the first row
        :param stop: behind the last row
        :return: an array for each column, a view of it on the CPU
        """
        columns = {**self.columns, "priorities": self.priorities[:]}
        return {name: column[start:stop].cpu().numpy() for name, column in columns.items()}

    def write(self, start: int, columns: dict[str, np.ndarray]) -> None:
        """
        Write consecutive rows.

        :param start: the first row
        :param columns: ``(n, *shape)`` values by the column's name, some or all of what :meth:`read` gives
        """
        self._copy(start, {name: values for name, values in columns.items() if name != "priorities"})
        # Rows become transitions that can be drawn when all their fields are there.
        if "priorities" in columns:
            self.priorities.assign(start, columns["priorities"])

    # What a backend adds.

    @staticmethod
    @abstractmethod
    def _zeros(shape: tuple[int, ...], dtype: np.dtype, device: th.device | str) -> th.Tensor:
        """A new column."""

    @abstractmethod
    def _copy(self, start: int, columns: dict[str, np.ndarray]) -> None:
        """Write consecutive rows of columns; the values are free to change afterwards."""

    @abstractmethod
    def _stacks(self, rows: th.Tensor, n_stack: int) -> th.Tensor:
        """Rows of the frames of stacks, ``(batch, n_stack)``, the oldest first."""

    @abstractmethod
    def take(self, column: th.Tensor, rows: th.Tensor) -> th.Tensor:
        """
        Copy rows of a column.

        :param column: ``(n_rows + 1, *shape)``
        :param rows: ``(batch,)`` int64
        :return: ``(batch, *shape)``
        """

    @abstractmethod
    def count(self, n_committed: int) -> None:
        """
        Take note of the number of transitions ever committed, from which ages are computed.

        :param n_committed: that number
        """

    @abstractmethod
    def multi_steps(
        self,
        indices: th.Tensor,
        n_steps: int,
        gamma: float,
        beta: float | th.Tensor,
        normalize: NormalizeRewards | None = None,
    ) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        """
        Form the multi-step transitions that begin with the steps of rows.

        :param indices: ``(batch,)`` int64 rows
        :param n_steps: steps in a return
        :param gamma: discount factor of one step
        :param beta: exponent of the importance-sampling weights, a scalar tensor where it changes within a recording
        :param normalize: what to do to rewards before they are summed
        :return: ``(2 batch,)`` int64 rows of the observations, then of the next observations; and the fields of
            ``PrioritizedReplaySamples`` but for observations, actions and indices
        """

    @abstractmethod
    def reprioritize(
        self, rows: th.Tensor, generations: th.Tensor, priorities: th.Tensor, alpha: float
    ) -> tuple[float, int]:
        """
        Set priorities of sampled rows, leaving out those that have been overwritten since. Where a priority is NaN,
        infinite or negative the row keeps the one that it has, and that is counted.

        :param rows: ``(batch,)`` int64
        :param generations: ``(batch,)`` int64, of the rows when they were sampled
        :param priorities: ``(batch,)`` float64
        :param alpha: exponent of the priorities
        :return: as of :meth:`look_at_written`, what is known at once
        """

    @abstractmethod
    def look_at_written(self) -> tuple[float, int]:
        """
        Look at the priorities written, as far as the device has come: nothing waits for it.

        :return: the largest, and the number of those left out since this was last told
        """

"""The rows of the memory: columns of tensors, and what is read from them and written to them."""

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import torch as th

from sb3_ca2e.common.transfers import copy_all, dtype_of
from sb3_ca2e.replay.block import ENDED, PRIOR, TERMINATED, TRANSITION, ObservationColumn
from sb3_ca2e.replay.n_step import n_step_return
from sb3_ca2e.replay.sum_tree import SumTree


class Terms(NamedTuple):
    """
    How transitions are formed of single steps.

    :param n_steps: steps in a return
    :param gamma: discount factor of one step
    :param beta: exponent of the importance-sampling weights, a scalar tensor where it changes within a recording
    :param normalize: applied to rewards before they are summed, as ``VecNormalize.normalize_reward``
    """

    n_steps: int
    gamma: float
    beta: float | th.Tensor
    normalize: Callable[[np.ndarray], np.ndarray] | None


class Rows:
    """
    Columns of rows, and their priorities. The frame that follows the step of row p is that of row p + 1.

    The last row, the sentinel, has zero frames and is no transition: where a chain of steps or a stack of frames goes
    no further.

    This is the backend of a device such as a GPU: operations on tensors, for which the CPU never waits unless it asks
    for an array. They work on the CPU too, where :class:`~sb3_ca2e.replay.host_rows.HostRows` is faster.

    :param segment_rows: rows of a segment
    :param observation_columns: how observations are stored
    :param columns: ``(n_rows + 1, *shape)`` tensors by name
    :param generations: ``(n_segments,)`` int64, how often each segment has been freed
    :param n_committed: ``(1,)`` int64, the number of transitions ever committed
    """

    #: Whether a CUDA graph can hold what is done to them.
    recordable = True

    def __init__(
        self,
        segment_rows: int,
        observation_columns: dict[str, ObservationColumn],
        columns: dict[str, th.Tensor],
        generations: th.Tensor,
        n_committed: th.Tensor,
    ):
        self.segment_rows, self.observation_columns, self.columns = segment_rows, observation_columns, columns
        self.generations, self.n_committed = generations, n_committed
        self.frames = {key: columns[f"frames.{key}"] for key in observation_columns}
        self.actions, self.rewards, self.flags = columns["actions"], columns["rewards"], columns["flags"]
        self.ages = columns["ages"]
        #: number of transitions ever committed when the row was
        self.inserted_at = columns["inserted_at"]
        #: rows of the next step of the same slot
        self.successors = columns["successors"]
        self.sentinel, self.device = len(self.flags) - 1, self.flags.device
        self._flag_bits = th.tensor([TRANSITION, ENDED, TERMINATED, PRIOR], dtype=th.uint8, device=self.device)
        #: priority^alpha, zero unless the row is a transition
        self.priorities = self._empty_tree()
        #: the largest of the priorities written, and how many were left out
        self.tally = th.zeros(2, dtype=th.float64, device=self.device)
        #: the tally where the CPU reads it: a GPU copies it there while nobody waits
        pin = self.device.type == "cuda"
        self.written = th.zeros(2, dtype=th.float64, device="cpu" if pin else self.device, pin_memory=pin)
        self._n_refused_known = 0

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

        columns = {f"frames.{key}": zeros(c.dtype, *c.frame_shape) for key, c in observation_columns.items()}
        columns |= {"actions": zeros(action_dtype, action_dim), "rewards": zeros(np.float32), "flags": zeros(np.uint8)}
        columns |= {"ages": zeros(np.uint8), "inserted_at": zeros(np.int64), "successors": zeros(np.int64)}
        th.arange(1, n_rows + 2, out=columns["successors"]).clamp_(max=n_rows)
        generations, n_committed = (th.zeros(n, dtype=th.int64, device=device) for n in (n_rows // segment_rows, 1))
        return cls(segment_rows, observation_columns, columns, generations, n_committed)

    @staticmethod
    def _zeros(shape: tuple[int, ...], dtype: np.dtype, device: th.device | str) -> th.Tensor:
        return th.zeros(shape, dtype=dtype_of(np.empty(0, dtype)), device=device)

    def _empty_tree(self) -> SumTree:
        return SumTree(len(self.flags), self.device)

    def on(self, device: th.device | str, backend: "type[Rows]") -> "Rows":
        """
        Move the rows.

        :param device: torch device
        :param backend: the class for it
        :return: the same rows there; these are not to be used any more
        """
        columns = {name: column.to(device) for name, column in self.columns.items()}
        counts = self.generations.to(device), self.n_committed.to(device)
        moved = backend(self.segment_rows, self.observation_columns, columns, *counts)
        moved.priorities.assign(0, self.priorities[: len(self.priorities)].cpu().numpy())
        return moved

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        tensors = [*self.columns.values(), self.generations]
        return sum(int(tensor.nbytes) for tensor in tensors) + self.priorities.nbytes

    # Arrays: for these the CPU waits.

    def look_up(self, name: str, rows: np.ndarray) -> np.ndarray:
        """
        Read rows of a column.

        :param name: of the column
        :param rows: int64 array of any shape
        :return: a copy, of that shape and the column's
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
        Write consecutive rows. Nothing waits for the device.

        :param start: the first row
        :param columns: ``(n, *shape)`` values of some or all columns that :meth:`read` gives, free to change afterwards
        """
        self._copy(start, {name: values for name, values in columns.items() if name != "priorities"})
        # Rows become transitions that can be drawn when all their fields are there.
        if "priorities" in columns:
            self.priorities.assign(start, columns["priorities"])

    def _copy(self, start: int, columns: dict[str, np.ndarray]) -> None:
        copy_all([(self.columns[name][start : start + len(values)], values) for name, values in columns.items()])

    # Batches.

    def take(self, column: th.Tensor, rows: th.Tensor) -> th.Tensor:
        """
        Copy rows of a column.

        :param column: ``(n_rows + 1, *shape)``
        :param rows: ``(batch,)`` int64
        :return: ``(batch, *shape)``
        """
        return column.index_select(0, rows)

    def generations_of(self, rows: th.Tensor) -> th.Tensor:
        """
        Look up how often the segments of rows have been freed.

        :param rows: ``(batch,)`` int64
        :return: ``(batch,)`` int64
        """
        return self.generations.take(rows // self.segment_rows)

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

    def _stacks(self, rows: th.Tensor, n_stack: int) -> th.Tensor:
        """Rows of the frames of stacks, ``(batch, n_stack)``, the oldest first."""
        back = th.arange(n_stack - 1, -1, -1, device=rows.device)
        # Before an episode's first frame come zeros, and those are the sentinel's.
        in_episode = back <= self.ages.take(rows).unsqueeze(1)
        return th.where(in_episode, rows.unsqueeze(1) - back, self.sentinel)

    def multi_steps(self, indices: th.Tensor, terms: Terms) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        """
        Form the multi-step transitions that begin with the steps of rows.

        :param indices: ``(batch,)`` int64 rows
        :param terms: how
        :return: ``(2 batch,)`` int64 rows of the observations, then of the next observations; and the fields of
            ``PrioritizedReplaySamples`` but for observations, actions and indices
        """
        n_steps, gamma, beta, normalize = terms
        # From the first row on that is no transition, the rows of a window mean nothing.
        steps = [indices]
        for _ in range(n_steps - 1):
            steps.append(self.successors.take(steps[-1]))
        windows = th.stack(steps, dim=1)
        flags = self.flags.take(windows).unsqueeze(-1).bitwise_and(self._flag_bits).bool()
        available, ended, terminated, prior = flags.unbind(-1)
        rewards = self.rewards.take(windows)
        if normalize is not None:
            rewards = th.from_numpy(normalize(rewards.cpu().numpy())).to(rewards.device)
        returns, n_used = n_step_return(rewards, ended, available, gamma)
        last_step = n_used.unsqueeze(1) - 1
        priorities = self.priorities[indices]
        return th.cat([indices, windows.gather(1, last_step).squeeze(1) + 1]), {
            "rewards": returns.unsqueeze(1),
            "discounts": (gamma ** n_used.unsqueeze(1)).float(),
            "dones": terminated.gather(1, last_step).float(),
            # (N P(j))^-beta / max_j (N P(j))^-beta: the number N of transitions and the total cancel.
            "weights": ((priorities.min() / priorities) ** beta).float().unsqueeze(1),
            "prior": prior[:, 0],
            "ages": self.n_committed - self.inserted_at.take(indices),
            "generations": self.generations_of(indices),
        }

    # Priorities.

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
        :return: as of :meth:`look_at_written`
        """
        self.write_priorities(rows, generations, priorities, alpha)
        self.report_written()
        return 0.0, 0  # look_at_written() tells later

    def write_priorities(self, rows: th.Tensor, generations: th.Tensor, priorities: th.Tensor, alpha: float) -> None:
        """:meth:`reprioritize` by operations on tensors alone, which a CUDA graph can hold."""
        powers = priorities**alpha
        sound = (priorities >= 0.0) & (priorities < float("inf")) & (powers < float("inf"))
        largest = th.maximum(self.tally[0], th.where(sound, priorities, 0.0).max())
        self.tally.copy_(th.stack([largest, self.tally[1] + (~sound).sum()]))
        is_current = (self.generations_of(rows) == generations) & sound
        # The sentinel, no transition, takes the place of overwritten rows, and keeps its priority of zero.
        rows = th.where(is_current, rows, self.sentinel)
        self.priorities.write(rows, th.where(is_current, powers, 0.0))

    def priority_tensors(self) -> list[th.Tensor]:
        """
        :return: what :meth:`write_priorities` writes
        """
        return [self.priorities.leaves, self.priorities.nodes, self.tally]

    def report_written(self) -> None:
        """Have the tally of the priorities written sent to where :meth:`look_at_written` reads it."""
        self.written.copy_(self.tally, non_blocking=True)

    def look_at_written(self) -> tuple[float, int]:
        """
        Look at the tally of the priorities written, as far as the device has come: nothing waits for it.

        :return: the largest, and the number of those left out that have not been told of yet
        """
        largest, refused = self.written.tolist()
        n_new, self._n_refused_known = int(refused) - self._n_refused_known, int(refused)
        return largest, n_new

"""The rows of the memory, in columns of tensors, and the operations on them."""

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import torch as th

from sb3_ca2e.common.transfers import copy_all, dtype_of
from sb3_ca2e.replay.block import ENDED, PRIOR, TERMINATED, TRANSITION, ObservationColumn
from sb3_ca2e.replay.n_step import n_step_return
from sb3_ca2e.replay.sum_tree import SumTree

#: Number of rows of all segments, how observations are stored, number of elements of an action, dtype of actions.
Layout = tuple[int, dict[str, ObservationColumn], int, np.dtype]


class Terms(NamedTuple):
    """
    How multi-step transitions are formed from single steps.

    :param n_steps: number of steps in a return
    :param gamma: discount factor of one step
    :param beta: exponent of the importance-sampling weights; a scalar tensor if it varies within a recorded CUDA graph
    :param normalize: a function applied to rewards before they are summed, such as ``VecNormalize.normalize_reward``
    """

    n_steps: int
    gamma: float
    beta: float | th.Tensor
    normalize: Callable[[np.ndarray], np.ndarray] | None


class Rows:
    """
    Columns of rows and their priorities. Row p + 1 holds the frame that follows the step of row p.

    The last row is the sentinel, which ends chains of steps and stacks of frames: it has zero frames and no transition.

    This is the backend for GPUs. It uses operations on tensors, and the CPU waits for the device only to read arrays.
    It also works on the CPU, where :class:`~sb3_ca2e.replay.host_rows.HostRows` overrides what compiled code does
    faster.

    :param segment_rows: number of rows of a segment
    :param observation_columns: how observations are stored
    :param columns: ``(n_rows + 1, *shape)`` tensors by name
    :param generations: ``(n_segments,)`` int64, how often each segment has been freed
    :param n_committed: ``(1,)`` int64, the number of transitions ever committed
    """

    #: Whether a CUDA graph can record sampling and setting priorities.
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
        #: ``n_committed`` when the row was written
        self.inserted_at = columns["inserted_at"]
        #: rows of the next step of the same slot
        self.successors = columns["successors"]
        self.sentinel, self.device = len(self.flags) - 1, self.flags.device
        self._flag_bits = th.tensor([TRANSITION, ENDED, TERMINATED, PRIOR], dtype=th.uint8, device=self.device)
        #: priority^alpha, zero for rows without a transition
        self.priorities = self._empty_tree()
        #: largest priority written, and number of invalid ones
        self.tally = th.zeros(2, dtype=th.float64, device=self.device)
        pin = self.device.type == "cuda"
        #: the tally's copy in CPU memory, to which a GPU writes asynchronously
        self.written = th.zeros(2, dtype=th.float64, device="cpu" if pin else self.device, pin_memory=pin)
        self._n_refused_known = 0

    @classmethod
    def empty(cls, segment_rows: int, layout: Layout, device: th.device | str) -> Self:
        """
        Reserve rows.

        :param segment_rows: number of rows of a segment
        :param layout: number of rows, columns and actions
        :param device: PyTorch device
        :return: rows without transitions
        """
        n_rows, observation_columns, action_dim, action_dtype = layout

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
        Move the rows to a device.

        :param device: PyTorch device
        :param backend: the class for that device
        :return: the rows on the device; do not use the old ones afterwards
        """
        columns = {name: column.to(device) for name, column in self.columns.items()}
        counts = self.generations.to(device), self.n_committed.to(device)
        moved = backend(self.segment_rows, self.observation_columns, columns, *counts)
        moved.priorities.assign(0, self.priorities[: len(self.priorities)].cpu().numpy())
        return moved

    @property
    def nbytes(self) -> int:
        """Number of bytes reserved."""
        tensors = [*self.columns.values(), self.generations]
        return sum(int(tensor.nbytes) for tensor in tensors) + self.priorities.nbytes

    # Arrays. Reading them waits for the device, writing does not.

    def look_up(self, name: str, rows: np.ndarray) -> np.ndarray:
        """
        Read rows of a column.

        :param name: name of the column
        :param rows: int64 array of any shape
        :return: ``(*rows.shape, *shape)`` copies
        """
        return np.asarray(self.columns[name][th.from_numpy(rows).to(self.device)].cpu())

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """
        Read all columns of consecutive rows, to save them.

        :param start: the first row
        :param stop: the row after the last one
        :return: ``(stop - start, *shape)`` array for each column and the priorities; on the CPU, views
        """
        columns = {**self.columns, "priorities": self.priorities[:]}
        return {name: column[start:stop].cpu().numpy() for name, column in columns.items()}

    def restore(self, start: int, columns: dict[str, np.ndarray]) -> None:
        """
        Write what :meth:`read` returned.

        :param start: the first row
        :param columns: ``(n, *shape)`` array for each column and the priorities
        """
        self.write(start, {name: values for name, values in columns.items() if name != "priorities"})
        self.priorities.assign(start, columns["priorities"])

    def write(self, start: int, columns: dict[str, np.ndarray]) -> None:
        """
        Write consecutive rows, without their priorities: set these afterwards, so that only complete rows are drawn.

        :param start: the first row
        :param columns: ``(n, *shape)`` values of any of the columns; they may be changed afterwards
        """
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
        """Return the ``(batch, n_stack)`` rows of the frames of stacks, the oldest first."""
        back = th.arange(n_stack - 1, -1, -1, device=rows.device)
        # The sentinel's zeros stand for frames before the episode's start.
        in_episode = back <= self.ages.take(rows).unsqueeze(1)
        return th.where(in_episode, rows.unsqueeze(1) - back, self.sentinel)

    def multi_steps(self, indices: th.Tensor, terms: Terms) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        """
        Form the multi-step transitions that begin in given rows.

        :param indices: ``(batch,)`` int64 rows
        :param terms: how to form them
        :return: ``(2 batch,)`` int64 rows of the observations, then of the next observations; and all fields of
            ``PrioritizedReplaySamples`` except observations, actions and indices
        """
        n_steps, gamma, beta, normalize = terms
        # In a window, the rows after the first one without a transition have no meaning.
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
        Set priorities of sampled rows. Rows that have been overwritten since are skipped. A priority that is NaN,
        infinite or negative is counted, and its row keeps the old one.

        :param rows: ``(batch,)`` int64
        :param generations: ``(batch,)`` int64, generations of the rows when they were sampled
        :param priorities: ``(batch,)`` float64
        :param alpha: exponent of the priorities
        :return: as from :meth:`look_at_written`
        """
        self.write_priorities(rows, generations, priorities, alpha)
        self.report_written()
        return 0.0, 0  # look_at_written() reports them later

    def write_priorities(self, rows: th.Tensor, generations: th.Tensor, priorities: th.Tensor, alpha: float) -> None:
        """Do what :meth:`reprioritize` does without reporting it. A CUDA graph can record this."""
        powers = priorities**alpha
        sound = (priorities >= 0.0) & (priorities < float("inf")) & (powers < float("inf"))
        largest = th.maximum(self.tally[0], th.where(sound, priorities, 0.0).max())
        self.tally.copy_(th.stack([largest, self.tally[1] + (~sound).sum()]))
        is_current = (self.generations_of(rows) == generations) & sound
        # The sentinel replaces overwritten rows, and keeps its priority of zero.
        rows = th.where(is_current, rows, self.sentinel)
        self.priorities.write(rows, th.where(is_current, powers, 0.0))

    def priority_tensors(self) -> list[th.Tensor]:
        """
        List the tensors that :meth:`write_priorities` writes.

        :return: the tensors
        """
        return [self.priorities.leaves, self.priorities.nodes, self.tally]

    def report_written(self) -> None:
        """Send the tally to the CPU, where :meth:`look_at_written` reads it."""
        self.written.copy_(self.tally, non_blocking=True)

    def look_at_written(self) -> tuple[float, int]:
        """
        Read the tally that the device has sent so far, without waiting for it.

        :return: the largest priority written, and the number of invalid ones since the last call
        """
        largest, refused = self.written.tolist()
        n_new, self._n_refused_known = int(refused) - self._n_refused_known, int(refused)
        return largest, n_new

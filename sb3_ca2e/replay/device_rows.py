"""The memory's rows on a device such as a GPU, read and written by operations on tensors, without waiting for it."""

from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.common.transfers import copy_all, dtype_of
from sb3_ca2e.replay.block import ENDED, PRIOR, TERMINATED, TRANSITION
from sb3_ca2e.replay.n_step import n_step_return
from sb3_ca2e.replay.rows import NormalizeRewards, Rows
from sb3_ca2e.replay.sum_tree import SumTree


class DeviceRows(Rows):
    """Parameters as of :class:`~sb3_ca2e.replay.rows.Rows`. Works on any device; on the CPU, it is slower."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        device, is_cuda = self.device, self.device.type == "cuda"
        self.priorities = SumTree(len(self.flags), device)
        self._flag_bits = th.tensor([TRANSITION, ENDED, TERMINATED, PRIOR], dtype=th.uint8, device=device)
        self._n_committed = th.zeros((), dtype=th.int64, device=device)
        #: the largest of the priorities written, and how many were left out
        self.tally = th.zeros(2, dtype=th.float64, device=device)
        #: where the CPU reads the tally: copied there behind its back
        self.written = th.zeros(2, dtype=th.float64, device="cpu" if is_cuda else device, pin_memory=is_cuda)
        self._n_refused_known = 0

    @staticmethod
    def _zeros(shape: tuple[int, ...], dtype: np.dtype, device: th.device | str) -> th.Tensor:
        return th.zeros(shape, dtype=dtype_of(np.empty(0, dtype)), device=device)

    def _copy(self, start: int, columns: dict[str, np.ndarray]) -> None:
        copy_all([(self.columns[name][start : start + len(values)], values) for name, values in columns.items()])

    def _stacks(self, rows: th.Tensor, n_stack: int) -> th.Tensor:
        back = th.arange(n_stack - 1, -1, -1, device=rows.device)
        # Before an episode's first frame come zeros, and those are the sentinel's.
        in_episode = back <= self.ages.take(rows).unsqueeze(1)
        return th.where(in_episode, rows.unsqueeze(1) - back, self.sentinel)

    def take(self, column: th.Tensor, rows: th.Tensor) -> th.Tensor:
        return column.index_select(0, rows)

    def count(self, n_committed: int) -> None:
        self._n_committed.fill_(n_committed)

    def multi_steps(
        self,
        indices: th.Tensor,
        n_steps: int,
        gamma: float,
        beta: float | th.Tensor,
        normalize: NormalizeRewards | None = None,
    ) -> tuple[th.Tensor, dict[str, th.Tensor]]:
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
            "ages": self._n_committed - self.inserted_at.take(indices),
            "generations": self.generations_of(indices),
        }

    def reprioritize(
        self, rows: th.Tensor, generations: th.Tensor, priorities: th.Tensor, alpha: float
    ) -> tuple[float, int]:
        self.write_priorities(rows, generations, priorities, alpha)
        self.report_written()
        return 0.0, 0  # later, look_at_written() tells

    def write_priorities(self, rows: th.Tensor, generations: th.Tensor, priorities: th.Tensor, alpha: float) -> None:
        """:meth:`reprioritize` without a word to the CPU: a CUDA graph can hold it."""
        powers = priorities**alpha
        sound = (priorities >= 0.0) & (priorities < float("inf")) & (powers < float("inf"))
        largest = th.maximum(self.tally[0], th.where(sound, priorities, 0.0).max())
        self.tally.copy_(th.stack([largest, self.tally[1] + (~sound).sum()]))
        is_current = (self.generations_of(rows) == generations) & sound
        # The sentinel, no transition, takes the place of overwritten rows, and keeps its priority of zero.
        rows = th.where(is_current, rows, self.sentinel)
        self.priorities.write(rows, th.where(is_current, powers, 0.0))

    def report_written(self) -> None:
        """Have the tally of the priorities written sent to where :meth:`look_at_written` reads it."""
        self.written.copy_(self.tally, non_blocking=True)

    def look_at_written(self) -> tuple[float, int]:
        largest, refused = self.written.tolist()
        n_new, self._n_refused_known = int(refused) - self._n_refused_known, int(refused)
        return largest, n_new

    def priority_tensors(self) -> list[th.Tensor]:
        """
        :return: what :meth:`write_priorities` writes
        """
        return [self.priorities.leaves, self.priorities.nodes, self.tally]

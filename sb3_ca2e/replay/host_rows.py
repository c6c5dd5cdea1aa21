"""The memory's rows on the CPU, with compiled code. Importing this module imports numba."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.replay import kernels
from sb3_ca2e.replay.block import check_priorities
from sb3_ca2e.replay.rows import Rows, Terms
from sb3_ca2e.replay.sum_tree import SumTree


class BinarySumTree(SumTree):
    """
    A sum tree on the CPU whose nodes have two children. Setting or finding a leaf takes one step for each of about
    twenty levels, which compiled code does faster than a single operation on tensors.

    The leaves have the same order as in the parent class, so the same random numbers draw the same leaves, except for
    draws that lie within rounding error of the border between two leaves.

    :param capacity: number of leaves, all zero at first
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        size = 1 << (capacity - 1).bit_length()
        #: the root at 1, the children of i at 2 i and 2 i + 1, the leaves from ``size`` on
        self.sums = np.zeros(2 * size)
        self.nodes, self.leaves = th.from_numpy(self.sums).split(size)

    @property
    def total(self) -> th.Tensor:
        return th.tensor(self.sums[1])

    def assign(self, start: int, values: np.ndarray) -> None:
        if len(values) == 0:
            return
        check_priorities(float(values.min()), float(values.max()))
        first = len(self.leaves) + start
        self.sums[first : first + len(values)] = values
        kernels.sum_up(self.sums, start, start + len(values))

    def update(self, indices: th.Tensor, values: th.Tensor) -> None:
        check_priorities(*kernels.set_leaves(self.sums, np.ascontiguousarray(indices), np.ascontiguousarray(values)))

    def write(self, indices: th.Tensor, values: th.Tensor) -> None:
        self.update(indices, values)  # checking the values costs nothing here

    def sample(self, batch_size: int, generator: th.Generator) -> th.Tensor:
        draws = th.rand(batch_size, dtype=th.float64, generator=generator).numpy()
        draws *= self.sums[1]
        return th.from_numpy(kernels.find(self.sums, draws))


class HostRows(Rows):
    """The backend for the CPU; parameters as in :class:`~sb3_ca2e.replay.rows.Rows`."""

    recordable = False
    priorities: BinarySumTree

    def __init__(self, *args: Any):
        super().__init__(*args)
        # Arrays are what compiled code takes. Creating them for each batch would take time.
        self._arrays = {name: column.numpy() for name, column in self.columns.items()}
        self._generations, self._n_committed = self.generations.numpy(), self.n_committed.numpy()
        arrays = self._arrays
        followed = arrays["flags"], arrays["rewards"], arrays["successors"], arrays["inserted_at"]
        self._followed = *followed, self.priorities.sums, self._generations, self.segment_rows

    @staticmethod
    def _zeros(shape: tuple[int, ...], dtype: np.dtype, device: th.device | str) -> th.Tensor:
        # Unlike PyTorch, NumPy asks for large pages, from which random rows are read faster. A page takes up RAM when
        # it is first written.
        return th.from_numpy(np.zeros(shape, dtype))

    def _empty_tree(self) -> BinarySumTree:
        return BinarySumTree(len(self.flags))

    def write(self, start: int, columns: dict[str, np.ndarray]) -> None:
        for name, values in columns.items():
            self._arrays[name][start : start + len(values)] = values

    def take(self, column: th.Tensor, rows: th.Tensor) -> th.Tensor:
        return th.from_numpy(column.numpy().take(rows.numpy(), axis=0))  # three times as fast as PyTorch's

    def _stacks(self, rows: th.Tensor, n_stack: int) -> th.Tensor:
        return th.from_numpy(kernels.stacks(rows.numpy(), self._arrays["ages"], n_stack))

    def multi_steps(self, indices: th.Tensor, terms: Terms) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        n_steps, gamma, beta, normalize = terms
        batch_size = indices.shape[0]  # Tensor.__len__ is slow Python code
        # Few arrays, because creating one and its tensor takes as long as filling it for a small batch.
        floats, integers = np.empty((4, batch_size, 1), np.float32), np.empty((5, batch_size), np.int64)
        prior, step_rewards = np.empty(batch_size, np.bool_), np.empty((batch_size, n_steps), np.float32)
        powers, written = _powers(gamma, n_steps), (floats, integers, prior, step_rewards)
        kernels.multi_steps(indices.numpy(), *self._followed, self._n_committed[0], powers, float(beta), *written)
        if normalize is not None:
            used = np.arange(n_steps) < integers[4, :, None]
            np.sum(normalize(step_rewards) * used * powers[0, :n_steps], axis=1, out=floats[0, :, 0])
        fields = dict(zip(("rewards", "discounts", "dones", "weights"), th.from_numpy(floats).unbind(), strict=True))
        fields["ages"], fields["generations"] = th.from_numpy(integers[2]), th.from_numpy(integers[3])
        fields["prior"] = th.from_numpy(prior)
        return th.from_numpy(integers[:2].ravel()), fields

    def reprioritize(
        self, rows: th.Tensor, generations: th.Tensor, priorities: th.Tensor, alpha: float
    ) -> tuple[float, int]:
        # NumPy's own conversion of tensors is slower.
        batch = rows.contiguous().numpy(), generations.contiguous().numpy(), priorities.contiguous().numpy()
        return kernels.reprioritize(self.priorities.sums, *batch, alpha, self._generations, self.segment_rows)

    def look_at_written(self) -> tuple[float, int]:
        return 0.0, 0  # reprioritize() has reported them


@lru_cache
def _powers(gamma: float, n_steps: int) -> np.ndarray:
    """
    Compute powers of gamma in the same way as ``Rows.multi_steps``.

    :param gamma: discount factor of one step
    :param n_steps: number of steps in a return
    :return: ``(2, n_steps + 1)`` float32, factors of rewards and of values
    """
    exponents = th.arange(n_steps + 1)
    return th.stack([(gamma ** exponents.double()).float(), (gamma**exponents).float()]).numpy()

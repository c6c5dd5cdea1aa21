"""Proportional sampling on the CPU, by compiled code."""

import numpy as np
import torch as th

from sb3_ca2e.replay import kernels
from sb3_ca2e.replay.sum_tree import SumTree, check_priorities


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

"""Proportional sampling: leaves are drawn with probabilities proportional to their values."""

import numpy as np
import torch as th

from sb3_ca2e.common.transfers import copy_to, moved
from sb3_ca2e.replay.block import check_priorities

#: Leaves per node. One cumulative sum over all nodes and one over the leaves of each drawn node need fewer operations
#: on tensors than the levels of a binary tree. One million leaves have 8,000 nodes.
LEAVES_PER_NODE = 128


class SumTree:
    """
    Non-negative float64 leaves, and nodes that hold the sums of their leaves.

    A changed node is recomputed from its leaves, never corrected by a difference, so rounding errors do not add up.

    :param capacity: number of leaves, all zero at first
    :param device: PyTorch device
    """

    def __init__(self, capacity: int, device: th.device | str = "cpu"):
        self.capacity = capacity
        n_nodes = -(-capacity // LEAVES_PER_NODE)
        self.nodes = th.zeros(n_nodes, dtype=th.float64, device=device)
        self.leaves = th.zeros(n_nodes * LEAVES_PER_NODE, dtype=th.float64, device=device)

    @property
    def total(self) -> th.Tensor:
        """Sum of all leaves, a scalar tensor."""
        return self.nodes.sum()

    @property
    def nbytes(self) -> int:
        """Number of bytes reserved."""
        return self.nodes.nbytes + self.leaves.nbytes

    def __len__(self) -> int:
        return self.capacity

    def __getitem__(self, indices: th.Tensor | slice) -> th.Tensor:
        return self.leaves[indices]

    def assign(self, start: int, values: np.ndarray) -> None:
        """
        Set consecutive leaves.

        :param start: index of the first leaf
        :param values: ``(n,)`` values of the leaves
        """
        if len(values) == 0:
            return
        check_priorities(float(values.min()), float(values.max()))
        stop = start + len(values)
        copy_to(self.leaves[start:stop], values)
        first, last = start // LEAVES_PER_NODE, (stop - 1) // LEAVES_PER_NODE
        self.nodes[first : last + 1] = self.leaves.view(-1, LEAVES_PER_NODE)[first : last + 1].sum(dim=1)

    def update(self, indices: th.Tensor, values: th.Tensor) -> None:
        """
        Set any leaves. If an index is repeated, the largest of its values counts, which is the same on every device;
        "the last one" would not be.

        :param indices: ``(n,)`` int64
        :param values: ``(n,)`` float64
        """
        if len(indices) == 0:
            return
        check_priorities(*th.stack(th.aminmax(values)).tolist())  # read from their device at once
        self.write(indices, values)

    def write(self, indices: th.Tensor, values: th.Tensor) -> None:
        """
        Set any leaves like :meth:`update`, without checking the values, for which the CPU would have to wait.

        :param indices: ``(n,)`` int64
        :param values: ``(n,)`` float64, finite and not negative
        """
        self.leaves.scatter_reduce_(0, indices, values, "amax", include_self=False)
        nodes = indices // LEAVES_PER_NODE
        self.nodes[nodes] = self.leaves.view(-1, LEAVES_PER_NODE).index_select(0, nodes).sum(dim=1)

    def sample(self, batch_size: int, generator: th.Generator) -> th.Tensor:
        """
        Draw leaves independently, each with probability value / total.

        :param batch_size: number of draws
        :param generator: source of random numbers, which are made on its device: a generator on the CPU draws the same
            from a tree on any device
        :return: ``(batch_size,)`` int64 indices of leaves with positive values
        """
        draws = th.rand(batch_size, dtype=th.float64, generator=generator, device=generator.device)
        return self.find(moved(draws, self.leaves.device))

    def find(self, draws: th.Tensor) -> th.Tensor:
        """
        Find the leaves that random numbers draw.

        :param draws: ``(batch,)`` float64 from 0 to 1, on the tree's device
        :return: ``(batch,)`` int64 indices of leaves with positive values
        """
        sums = _cumulative(self.nodes)
        draws = draws * sums[-1]
        nodes = _children_at(sums, draws)
        remainders = draws - sums[nodes - 1] * (nodes > 0)
        sums = _cumulative(self.leaves.view(-1, LEAVES_PER_NODE).index_select(0, nodes))
        return nodes * LEAVES_PER_NODE + _children_at(sums, remainders.unsqueeze(1)).squeeze(1)


def _cumulative(shares: th.Tensor) -> th.Tensor:
    return _raised_by_shares(shares.cumsum(dim=-1), shares)


def _raised_by_shares(sums: th.Tensor, shares: th.Tensor) -> th.Tensor:
    """
    Undo the effect of rounding. A parallel scan rounds each sum differently, so a sum may exceed the previous one
    where the share is zero, or be smaller.

    :param sums: ``(..., n_children)`` cumulative sums
    :param shares: ``(..., n_children)``
    :return: ``(..., n_children)`` sums that never decrease, and increase only where the share is positive
    """
    return th.where(shares > 0, sums, 0.0).cummax(dim=-1).values


def _children_at(sums: th.Tensor, values: th.Tensor) -> th.Tensor:
    """
    Find the children whose shares contain values.

    :param sums: ``(..., n_children)`` cumulative sums of the children's shares
    :param values: ``(..., n_values)`` from 0 to the last sum, or above it due to rounding
    :return: ``(..., n_values)`` indices of children with positive shares
    """
    # A child with a positive share raised the first sum above a value, or the first sum as large as the last.
    children = th.searchsorted(sums, values, right=True)
    return th.minimum(children, th.searchsorted(sums, sums[..., -1:].contiguous()))

"""
Row-by-row operations of a memory on the CPU, compiled by numba. The first import on a machine compiles them, which
takes seconds; later imports read numba's cache in a fraction of a second.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from sb3_ca2e.replay.block import ENDED, PRIOR, TERMINATED, TRANSITION

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(signature: str) -> Callable[[Function], Function]:
    """Compile for one signature, at import rather than with the first batch."""

    def compiled(function: Function) -> Function:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            return cast(Function, numba.njit(signature, cache=True, **options)(function))
        except RuntimeError:  # there is no writable folder for a cache
            return cast(Function, numba.njit(signature, **options)(function))

    return compiled


@_compiled("void(float64[::1], int64, int64)")
def sum_up(sums: np.ndarray, start: int, stop: int) -> None:
    """
    Recompute the sums above consecutive leaves.

    :param sums: ``(2 size,)`` sums of a binary tree: the root at 1, the children of i at 2 i and 2 i + 1, the leaves
        from ``size`` on
    :param start: the first leaf
    :param stop: behind the last leaf
    """
    first, last = len(sums) // 2 + start, len(sums) // 2 + stop - 1
    while first > 1:
        first >>= 1
        last >>= 1
        for node in range(first, last + 1):
            sums[node] = sums[2 * node] + sums[2 * node + 1]


@_compiled("int64[::1](float64[::1], float64[::1])")
def find(sums: np.ndarray, values: np.ndarray) -> np.ndarray:
    """
    Find the leaves whose shares contain values. A leaf of zero is never found.

    :param sums: as of :func:`sum_up`, the root is not zero
    :param values: ``(n,)`` from 0 to the root, or above it due to rounding; overwritten
    :return: ``(n,)`` the leaves
    """
    size, width = len(sums) // 2, 1
    nodes = np.ones(len(values), dtype=np.int64)
    while width < size:
        # All draws go down a level before any goes on: their cache misses overlap.
        for i in range(len(nodes)):
            left = 2 * nodes[i]
            share = sums[left]
            # Numbers, not branches: which way a draw goes can't be predicted.
            right = np.int64(values[i] >= share) & np.int64(sums[left + 1] > 0.0)
            values[i] -= share * right
            nodes[i] = left + right
        width *= 2
    return nodes - size


@_compiled("UniTuple(float64, 2)(float64[::1], int64[::1], float64[::1])")
def set_leaves(sums: np.ndarray, leaves: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """
    Set leaves and recompute the sums above them, unless a value is NaN, infinite or negative.

    :param sums: as of :func:`sum_up`
    :param leaves: ``(n,)``; the largest of the values of a leaf counts
    :param values: ``(n,)``
    :return: the smallest and the largest of the values, NaN if there is one among them; infinity and 0 of none
    """
    low, high = np.inf, 0.0
    for value in values:
        if np.isnan(value):
            return value, value
        low, high = min(low, value), max(high, value)
    if not (low >= 0.0 and high < np.inf):
        return low, high
    width = len(sums) // 2
    nodes = leaves + width
    for node in nodes:
        if not width <= node < len(sums):
            raise IndexError("a leaf that the sum tree does not have")
    sums[nodes] = 0.0
    for i in range(len(nodes)):
        sums[nodes[i]] = max(sums[nodes[i]], values[i])
    while width > len(nodes):
        width >>= 1
        for i in range(len(nodes)):
            nodes[i] >>= 1
            sums[nodes[i]] = sums[2 * nodes[i]] + sums[2 * nodes[i] + 1]
    # The levels nearer to the root have fewer nodes than leaves were set.
    for node in range(width - 1, 0, -1):
        sums[node] = sums[2 * node] + sums[2 * node + 1]
    return low, high


@_compiled("Tuple((float64, int64))(float64[::1], int64[::1], int64[::1], float64[::1], float64, int64[::1], int64)")
def reprioritize(
    sums: np.ndarray,
    rows: np.ndarray,
    generations: np.ndarray,
    priorities: np.ndarray,
    alpha: float,
    segment_generations: np.ndarray,
    segment_rows: int,
) -> tuple[float, int]:
    """
    Set priorities of sampled rows. Skip rows that have been overwritten since, and priorities that are NaN, infinite or
    negative.

    :param sums: of priority^alpha, as of :func:`sum_up`
    :param rows: ``(batch,)``
    :param generations: ``(batch,)`` of their segments when they were sampled
    :param priorities: ``(batch,)``
    :param alpha: exponent of the priorities
    :param segment_generations: ``(n_segments,)`` how often each segment has been freed
    :param segment_rows: rows of a segment
    :return: the largest valid priority, and the number of invalid ones
    """
    current, powers = np.empty_like(rows), np.empty_like(priorities)
    n_current, n_refused, largest = 0, 0, 0.0
    for i in range(len(rows)):
        segment = rows[i] // segment_rows
        if not 0 <= segment < len(segment_generations):
            raise IndexError("a row that the memory does not have")
        power = priorities[i] ** alpha
        if not (0.0 <= priorities[i] < np.inf and power < np.inf):
            n_refused += 1
            continue
        largest = max(largest, priorities[i])
        if segment_generations[segment] == generations[i]:
            current[n_current], powers[n_current] = rows[i], power
            n_current += 1
    set_leaves(sums, current[:n_current], powers[:n_current])
    return largest, n_refused


@_compiled(
    "void(int64[::1], uint8[::1], float32[::1], int64[::1], int64[::1], float64[::1], int64[::1], int64, int64,"
    " float32[:,::1], float64, float32[:,:,::1], int64[:,::1], bool_[::1], float32[:,::1])"
)
def multi_steps(
    rows: np.ndarray,
    flags: np.ndarray,
    rewards: np.ndarray,
    successors: np.ndarray,
    inserted_at: np.ndarray,
    sums: np.ndarray,
    segment_generations: np.ndarray,
    segment_rows: int,
    n_committed: int,
    powers: np.ndarray,
    beta: float,
    floats: np.ndarray,
    integers: np.ndarray,
    prior: np.ndarray,
    step_rewards: np.ndarray,
) -> None:
    """
    Follow the steps from given rows to the end of the episode, of the window or of the stored steps.

    :param rows: ``(batch,)`` rows of the first steps
    :param flags: ``(n_rows + 1,)`` column of the memory, as are ``rewards``, ``successors`` and ``inserted_at``
    :param rewards: ``(n_rows + 1,)``
    :param successors: ``(n_rows + 1,)``
    :param inserted_at: ``(n_rows + 1,)``
    :param sums: of priority^alpha, as of :func:`sum_up`
    :param segment_generations: ``(n_segments,)`` how often each segment has been freed
    :param segment_rows: rows of a segment
    :param n_committed: transitions ever committed
    :param powers: ``(2, n_steps + 1)`` powers of gamma, to multiply rewards and values with
    :param beta: exponent of the importance-sampling weights
    :param floats: ``(4, batch, 1)`` returns, discounts, dones and weights; written, as are all following arguments
    :param integers: ``(5, batch)`` rows of the observations and of the next ones, ages, generations, numbers of steps
    :param prior: ``(batch,)`` made by a prior agent
    :param step_rewards: ``(batch, n_steps)`` rewards of the steps, zero behind the last
    """
    for row in rows:
        if not 0 <= row < len(flags):
            raise IndexError("a row that the memory does not have")
    size, smallest = len(sums) // 2, np.inf
    for row in rows:
        smallest = min(smallest, sums[size + row])
    # Columns one after the other, so that the cache misses of many rows overlap.
    integers[2] = n_committed - inserted_at[rows]
    prior[:] = flags[rows] & PRIOR != 0
    step_rewards[:, 0] = rewards[rows]
    for i in range(len(rows)):
        row, step = rows[i], 0
        # (N P(j))^-beta / max_j (N P(j))^-beta: the number N of transitions and the total cancel.
        floats[3, i, 0] = (smallest / sums[size + row]) ** beta
        integers[3, i] = segment_generations[row // segment_rows]
        total = step_rewards[i, 0] * powers[0, 0]
        step_rewards[i, 1:] = 0.0
        while step + 1 < step_rewards.shape[1] and not flags[row] & ENDED:
            # Only the last data row of a segment, before its tail, leads elsewhere: a cache miss less for the others.
            successor = row + 1 if (row + 2) % segment_rows else successors[row]
            if not flags[successor] & TRANSITION:
                break
            row, step = successor, step + 1
            step_rewards[i, step] = rewards[row]
            total += rewards[row] * powers[0, step]
        floats[0, i, 0], floats[1, i, 0] = total, powers[1, step + 1]
        floats[2, i, 0] = 1.0 if flags[row] & TERMINATED else 0.0
        integers[0, i], integers[1, i], integers[4, i] = rows[i], row + 1, step + 1


@_compiled("int64[:,::1](int64[::1], uint8[::1], int64)")
def stacks(rows: np.ndarray, ages: np.ndarray, n_stack: int) -> np.ndarray:
    """
    Return the rows of the frames of stacks. The sentinel stands for frames before the episode's start.

    :param rows: ``(batch,)``
    :param ages: ``(n_rows + 1,)`` column of the memory
    :param n_stack: frames in a stack
    :return: ``(batch, n_stack)`` rows, the oldest frame first
    """
    frames = np.empty((len(rows), n_stack), dtype=np.int64)
    for i in range(len(rows)):
        for back in range(n_stack):
            frames[i, n_stack - 1 - back] = rows[i] - back if back <= ages[rows[i]] else len(ages) - 1
    return frames

"""What a sampled batch says, but for observations and actions: returns of several steps, weights, origins."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ca2e.replay.n_step import n_step_return
from sb3_ca2e.replay.storage import SegmentStorage

#: Of rewards of single steps, as ``VecNormalize.normalize_reward``.
Normalize = Callable[[np.ndarray], np.ndarray]


class MultiSteps(NamedTuple):
    """
    Fields of ``PrioritizedReplaySamples``, on the device of the memory, and:

    :param rows: ``(2 batch,)`` int64 rows of the observations, then of the next observations
    """

    rows: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    dones: th.Tensor
    weights: th.Tensor
    prior: th.Tensor
    ages: th.Tensor
    generations: th.Tensor


class Terms(NamedTuple):
    """
    How transitions are formed of single steps.

    :param n_steps: steps in a return
    :param gamma: discount factor of one step
    :param beta: exponent of the importance-sampling weights, a scalar tensor where it changes within a recording
    :param normalize: what to do to rewards before they are summed
    """

    n_steps: int
    gamma: float
    beta: float | th.Tensor
    normalize: Normalize | None


def multi_steps(storage: SegmentStorage, indices: th.Tensor, terms: Terms) -> MultiSteps:
    """
    Form the multi-step transitions that begin with the steps of rows.

    :param storage: the memory
    :param indices: ``(batch,)`` int64 rows
    :param terms: how
    :return: the transitions
    """
    form = tensor_multi_steps if storage.rows.host is None else compiled_multi_steps
    return form(storage, indices, terms)


def tensor_multi_steps(storage: SegmentStorage, indices: th.Tensor, terms: Terms) -> MultiSteps:
    """:func:`multi_steps` on any device."""
    rows = storage.rows
    n_steps, gamma, beta, normalize = terms
    windows = rows.windows(indices, n_steps)
    available, ended, terminated, prior = rows.read_flags(windows)
    rewards = rows.rewards.take(windows)
    if normalize is not None:
        rewards = th.from_numpy(normalize(rewards.cpu().numpy())).to(rewards.device)
    returns, n_used = n_step_return(rewards, ended, available, gamma)
    last_step = n_used.unsqueeze(1) - 1
    priorities = rows.priorities[indices]
    return MultiSteps(
        rows=th.cat([indices, windows.gather(1, last_step).squeeze(1) + 1]),
        rewards=returns.unsqueeze(1),
        discounts=(gamma ** n_used.unsqueeze(1)).float(),
        dones=terminated.gather(1, last_step).float(),
        # (N P(j))^-beta / max_j (N P(j))^-beta: the number N of transitions and the total cancel.
        weights=((priorities.min() / priorities) ** beta).float().unsqueeze(1),
        prior=prior[:, 0],
        ages=rows.n_committed - rows.inserted_at.take(indices),
        generations=storage.generations_of(indices),
    )


def compiled_multi_steps(storage: SegmentStorage, indices: th.Tensor, terms: Terms) -> MultiSteps:
    """:func:`multi_steps` on the CPU."""
    # Imported when the memory was made: who has none need not wait for numba.
    from sb3_ca2e.replay import kernels

    n_steps, gamma, beta, normalize = terms
    columns, batch_size = storage.rows.host, indices.shape[0]  # Tensor.__len__ is Python, as long as an operation
    assert columns is not None
    # Few arrays: to make one, and a tensor of it, takes as long as to fill it for a small batch.
    floats, integers = np.empty((4, batch_size, 1), np.float32), np.empty((5, batch_size), np.int64)
    prior, step_rewards = np.empty(batch_size, np.bool_), np.empty((batch_size, n_steps), np.float32)
    powers = _powers(gamma, n_steps)
    kernels.multi_steps(
        indices.numpy(),
        columns.flags,
        columns.rewards,
        columns.successors,
        columns.inserted_at,
        columns.sums,
        storage.generations.numpy(),
        storage.segment_rows,
        storage.n_committed,
        powers,
        float(beta),
        floats,
        integers,
        prior,
        step_rewards,
    )
    if normalize is not None:
        used = np.arange(n_steps) < integers[4, :, None]
        np.sum(normalize(step_rewards) * used * powers[0, :n_steps], axis=1, out=floats[0, :, 0])
    rewards, discounts, dones, weights = th.from_numpy(floats).unbind()
    rows = th.from_numpy(integers[:2].ravel())
    ages, generations = th.from_numpy(integers[2]), th.from_numpy(integers[3])
    return MultiSteps(rows, rewards, discounts, dones, weights, th.from_numpy(prior), ages, generations)


@lru_cache
def _powers(gamma: float, n_steps: int) -> np.ndarray:
    """
    Powers of gamma, computed as by :func:`tensor_multi_steps`.

    :param gamma: discount factor of one step
    :param n_steps: steps in a return
    :return: ``(2, n_steps + 1)`` float32, to multiply rewards and values with
    """
    exponents = th.arange(n_steps + 1)
    return th.stack([(gamma ** exponents.double()).float(), (gamma**exponents).float()]).numpy()

"""Multi-step returns of a sampled batch, and of consecutive rows, from which actors compute priorities."""

import numpy as np
import torch as th

from sb3_ca2e.replay.block import TERMINATED, TRANSITION, TRUNCATED


def n_step_return(
    rewards: th.Tensor, ended: th.Tensor, available: th.Tensor, gamma: float
) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute the discounted sum of the rewards up to the end of the episode, of the window or of the available steps.

    :param rewards: ``(batch, n_steps)`` rewards of consecutive steps of one slot
    :param ended: ``(batch, n_steps)`` bool, whether the episode ended with that step
    :param available: ``(batch, n_steps)`` bool, whether the step is stored; the first always is
    :param gamma: discount factor of one step
    :return: ``(batch,)`` returns R = sum of gamma^k r_{t+k+1} and ``(batch,)`` int64 number of steps in each
    """
    before_end = th.cumsum(ended, dim=1) - ended.long() == 0
    used = before_end & th.cummin(available.byte(), dim=1).values.bool()
    powers = gamma ** th.arange(rewards.shape[1], dtype=th.float64, device=rewards.device)
    return (rewards * used * powers.to(rewards.dtype)).sum(dim=1), used.sum(dim=1)


def n_step_returns(rewards: np.ndarray, flags: np.ndarray, n_steps: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute :func:`n_step_return` for each of consecutive rows. A row without a transition ends the available steps.

    :param rewards: ``(n_rows,)``
    :param flags: ``(n_rows,)`` uint8; the last row is not a transition
    :param n_steps: number of steps in a return
    :param gamma: discount factor of one step
    :return: ``(n_rows,)`` returns and ``(n_rows,)`` int64 number of steps in each, 1 where there is no transition
    """
    goes_on = flags & (TRANSITION | TERMINATED | TRUNCATED) == TRANSITION
    goes_on[:-1] &= flags[1:] & TRANSITION > 0
    returns, length, used = rewards.copy(), np.ones(len(rewards), dtype=np.int64), goes_on.copy()
    for step in range(1, n_steps):
        if step >= len(rewards):
            break
        if step > 1:
            used[: 1 - step] &= goes_on[step - 1 :]
        returns[:-step] += used[:-step] * rewards.dtype.type(gamma**step) * rewards[step:]
        length += used
    return returns, length


#: Added to absolute TD errors, so that every transition can be drawn.
PRIORITY_FLOOR = 1e-6

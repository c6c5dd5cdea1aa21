"""Multi-step returns of a sampled batch, and the floor of priorities."""

import torch as th


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


#: Added to absolute TD errors, so that every transition can be drawn.
PRIORITY_FLOOR = 1e-6

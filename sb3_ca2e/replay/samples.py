"""The batches that the memory returns."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import TensorDict

from sb3_ca2e.common.transfers import moved


class PrioritizedReplaySamples(NamedTuple):
    """
    The fields of SB3's ``ReplayBufferSamples``, followed by those of prioritized sampling.

    :param observations: ``(batch, *obs_shape)``, one tensor per key for ``Dict`` spaces
    :param actions: ``(batch, action_dim)``
    :param next_observations: ``(batch, *obs_shape)`` after the last step of the return
    :param dones: ``(batch, 1)`` float32, 1 where the episode terminated with that step (truncation does not count)
    :param rewards: ``(batch, 1)`` float32, sum of the discounted rewards of up to ``n_steps`` steps
    :param discounts: ``(batch, 1)`` float32, gamma to the power of the number of steps used
    :param weights: ``(batch, 1)`` float32 importance-sampling weights, the largest is 1
    :param indices: ``(batch,)`` int64 rows, for :meth:`PrioritizedReplayBuffer.update_priorities`
    :param generations: ``(batch,)`` int64, distinguish a row from what overwrites it later
    :param prior: ``(batch,)`` bool, whether a prior agent made the transition
    :param ages: ``(batch,)`` int64 number of transitions stored since
    :param action_masks: ``(batch, n_actions)`` bool, which actions ``observations`` allow; None without action masks
    :param next_action_masks: ``(batch, n_actions)`` bool, which actions ``next_observations`` allow, all where the
        episode terminated; None without action masks
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    next_observations: th.Tensor | TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    weights: th.Tensor
    indices: th.Tensor
    generations: th.Tensor
    prior: th.Tensor
    ages: th.Tensor
    action_masks: th.Tensor | None = None
    next_action_masks: th.Tensor | None = None

    def to(self, device: th.device) -> "PrioritizedReplaySamples":
        """
        Move the samples to a device.

        :param device: PyTorch device
        :return: the samples on that device
        """
        # Checking the device of every field takes too long.
        if self.rewards.device == device or (self.rewards.is_cpu and device.type == "cpu"):
            return self
        return self.holding(moved(tensor, device) for tensor in self.tensors())

    def tensors(self) -> list[th.Tensor]:
        """
        List the tensors.

        :return: all fields that are not None; a dict's tensors one by one
        """
        tensors: list[th.Tensor] = []
        for field in self:
            if field is not None:
                tensors.extend(field.values() if isinstance(field, dict) else (field,))
        return tensors

    def holding(self, tensors: Iterable[th.Tensor]) -> "PrioritizedReplaySamples":
        """
        Replace the tensors.

        :param tensors: new tensors, in the order of :meth:`tensors`
        :return: samples that hold them
        """
        rest = iter(tensors)
        given = (field for field in self if field is not None)  # those that may be None come last
        fields: Any = ({key: next(rest) for key in field} if isinstance(field, dict) else next(rest) for field in given)
        return PrioritizedReplaySamples(*fields)

"""A prior agent's policy, as it acts in a slot."""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from sb3_ca2e.priors.preprocessing import Preprocessing

#: Package of policies with a recurrent state.
RECURRENT = "sb3_contrib.common.recurrent"


@dataclass(frozen=True)
class LoadedPrior:
    """
    The policy of a prior agent, and what is done to the observations of the learner's environment before.

    :param name: name of the agent in messages
    :param policy: its policy, in evaluation mode
    :param preprocessing: from observations of the learner's environment to the policy's
    :param action_space: action space of the learner's environment
    :param deterministic: whether it acts deterministically unless asked otherwise
    """

    name: str
    policy: BasePolicy
    preprocessing: Preprocessing
    action_space: spaces.Space
    deterministic: bool

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool | None = None,
    ) -> tuple[np.ndarray, Any]:
        """
        Choose actions; see :meth:`~sb3_ca2e.PriorAgent.predict`.

        :param observation: ``(batch, *shape)`` raw observations of the learner's environment
        :param state: state returned by the step before; None at the first
        :param episode_start: ``(batch,)`` whether an episode begins
        :param deterministic: None for the agent's own choice
        :return: ``(batch, ...)`` environment actions and the new state
        """
        chosen = self.deterministic if deterministic is None else deterministic
        observation, state = self.preprocessing(observation, state, episode_start)
        actions, _ = self.policy.predict(observation, deterministic=chosen)
        if isinstance(self.action_space, spaces.Box):
            actions = np.clip(actions, self.action_space.low, self.action_space.high).astype(actions.dtype)
        return actions, state

    def on_device(self, device: th.device) -> "LoadedPrior":
        """
        Copy the agent to a device.

        :param device: PyTorch device
        :return: a copy with its networks on the device
        """
        return replace(self, policy=deepcopy(self.policy).to(device))


def refuse_recurrent(name: str, modules: list[str]) -> None:
    """
    Refuse a recurrent policy.

    Transitions of priors are learned from one at a time, without the state that the policy had when it acted.

    :param name: name of the agent
    :param modules: modules of the policy's classes
    :raises ValueError: if one of them is recurrent
    """
    if any(module.startswith(RECURRENT) for module in modules):
        raise ValueError(
            f"{name} has a recurrent policy, which can't be a prior agent. Give an agent without memory, e.g. of PPO "
            "or DQN, trained on stacked frames if necessary."
        )

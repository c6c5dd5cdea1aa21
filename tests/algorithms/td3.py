"""TD3 on CA2E's hooks: what another algorithm of SB3 takes. No other module knows of it."""

from typing import Any

import torch as th
from stable_baselines3 import TD3

from sb3_ca2e.actors.exploration import Exploration, noise_ladder
from sb3_ca2e.actors.inference import Steps
from sb3_ca2e.algorithms.base import CA2EMixin
from sb3_ca2e.learner.update import Networks, Result
from sb3_ca2e.replay import PrioritizedReplaySamples


class CA2ETD3(CA2EMixin, TD3):
    """
    Twin Delayed DDPG with Compound Asynchronous Exploration and Exploitation.

    :param policy: as in SB3
    :param env: as in SB3
    :param n_steps: steps of a multi-step return
    :param others: further arguments of SB3's TD3, and those that CA2E adds
    """

    def __init__(self, policy: Any, env: Any, n_steps: int = 3, **others: Any):
        super().__init__(policy, env, n_steps=n_steps, **others)

    def trained_networks(self) -> tuple[dict[str, th.nn.Module], dict[str, th.optim.Optimizer]]:
        """
        :return: the networks that :meth:`update` names, and the optimisers of those that it optimises
        """
        modules = {name: getattr(self, name) for name in ("actor", "critic", "actor_target", "critic_target")}
        return modules, {"actor": self.actor.optimizer, "critic": self.critic.optimizer}

    def update(self, networks: Networks, batch: PrioritizedReplaySamples) -> Result:
        """
        One step of both critics and, every ``policy_delay`` steps, of the actor and the targets.

        :param networks: actor, critic, and their targets
        :param batch: the batch
        :return: ``(batch,)`` TD errors of the first critic, and what to log
        """
        observations = batch.observations
        with th.no_grad():
            noise = (th.randn_like(batch.actions) * self.target_policy_noise).clamp(
                -self.target_noise_clip, self.target_noise_clip
            )
            next_actions = (networks("actor_target")(batch.next_observations) + noise).clamp(-1, 1)
            next_q_values = _smallest(networks("critic_target")(batch.next_observations, next_actions))
            target_q_values = batch.rewards + (1 - batch.dones) * batch.discounts * next_q_values

        def critic_loss(critic: Any) -> tuple[th.Tensor, th.Tensor]:
            td_errors = [target_q_values - q_values for q_values in critic(observations, batch.actions)]
            return th.stack([(batch.weights * e.square()).mean() for e in td_errors]).sum(), td_errors[0].detach()

        loss, td_errors = networks.optimize("critic", critic_loss)
        if self._n_updates % self.policy_delay == 0:
            critic = networks("critic")
            networks.optimize("actor", lambda actor: (-critic(observations, actor(observations))[0].mean(), ()))
            networks.polyak_update("critic_target", "critic", self.tau)
            networks.polyak_update("actor_target", "actor", self.tau)
        return td_errors.flatten(), {"critic_loss": loss}

    def published_modules(self) -> dict[str, th.nn.Module]:
        """
        :return: the networks that actors need
        """
        return {"actor": self.actor, "critic": self.critic}

    def explorations(self) -> list[Exploration]:
        """
        :return: the exploration of each slot
        """
        return list(noise_ladder(self.n_slots, self.action_space, self.action_noise))

    @staticmethod
    def act(modules: dict[str, Any], observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param modules: the published networks
        :param observations: ``(slots, ...)``
        :return: ``(slots, action_dim)`` greedy actions, and the same again for :meth:`evaluate`
        """
        actions = modules["actor"](observations)
        return actions, actions

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        :param modules: the published networks
        :param steps: a block, with the greedy actions that :meth:`act` gave
        :return: ``(rows,)`` q(s, a) of the actions taken and ``(rows,)`` q(s, pi(s)) to bootstrap from
        """
        critic = modules["critic"]
        greedy = _smallest(critic(steps.observations, steps.outputs))
        return critic.q1_forward(steps.observations, steps.actions).flatten(), greedy.flatten()


def _smallest(q_values: tuple[th.Tensor, ...]) -> th.Tensor:
    return th.cat(q_values, dim=1).min(dim=1, keepdim=True).values

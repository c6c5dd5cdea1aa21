"""CA2E-DDPG: deterministic policy gradients from multi-step returns, with many actors."""

from typing import Any, ClassVar, Unpack

import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate
from torch.utils._pytree import tree_map

from sb3_ca2e.actors.action_samples import own_samples
from sb3_ca2e.actors.exploration import Exploration, GaussianNoise, noise_ladder
from sb3_ca2e.actors.inference import Steps
from sb3_ca2e.algorithms.arguments import CA2EArguments
from sb3_ca2e.algorithms.base import CA2EMixin
from sb3_ca2e.learner.update import Networks, Result
from sb3_ca2e.policies import CA2EDDPGCnnPolicy, CA2EDDPGMultiInputPolicy, CA2EDDPGPolicy, l2_penalty
from sb3_ca2e.replay.memory import PrioritizedReplaySamples


class CA2EDDPG(CA2EMixin, DDPG):
    """
    Deep Deterministic Policy Gradient with Compound Asynchronous Exploration and Exploitation.

    Takes the arguments of :class:`stable_baselines3.DDPG`, with the same meaning, followed by its own.

    :param learning_rate: learning rate of the critic
    :param actor_learning_rate: learning rate of the actor, or a schedule
    :param critic_l2: weight of the critic's L2 penalty, half the sum of its squared weights
    :param action_noise: noise that is copied for each slot; None for Gaussian noise on actions scaled to [-1, 1],
        with sigma spaced evenly from 0.05 to 0.4 over the slots
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CA2EDDPGPolicy,
        "CnnPolicy": CA2EDDPGCnnPolicy,
        "MultiInputPolicy": CA2EDDPGMultiInputPolicy,
    }

    action_spaces = (spaces.Box,)
    called_by_sb3: ClassVar[dict[str, tuple[str, ...]]] = {"actor": ("set_training_mode",), "critic": ("q1_forward",)}
    compilable = True
    update_settings = ("critic_l2", "tau")
    checked = (*CA2EMixin.checked, "policy_delay", "target_noise_clip")

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | Any,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 3,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        actor_learning_rate: float | Schedule = 1e-4,
        critic_l2: float = 1e-2,
        **ca2e: Unpack[CA2EArguments],
    ) -> None:
        self.actor_learning_rate = actor_learning_rate
        self.critic_l2 = critic_l2
        self._own_noise = action_noise is None
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
            **ca2e,
        )

    def check_changes(self) -> None:
        """
        Check attributes that may have been changed since construction, among them those that SB3's DDPG has of TD3.

        :raises TypeError: if an attribute has the wrong type
        :raises ValueError: if the model can't learn with it
        """
        super().check_changes()
        if self.policy_delay != 1 or self.target_noise_clip != 0.0:
            raise ValueError(
                f"policy_delay={self.policy_delay} and target_noise_clip={self.target_noise_clip} belong to TD3, but "
                "CA2EDDPG updates its actor every time and adds no noise to targets: leave them at 1 and 0.0."
            )

    # What runs in the learner (Algorithm 3).

    def update(self, networks: Networks, batch: PrioritizedReplaySamples) -> Result:
        """
        Make one step of critic and actor on a prioritized batch of n-step transitions.

        y = sum_{k<n} gamma^k r_{t+k+1} + gamma^n q(s_{t+n}, pi(s_{t+n}; omega^-); theta^-); the actor ascends
        q(s, pi(s; omega); theta).

        :param networks: theta, ``critic``, omega, ``actor``, and their targets
        :param batch: the batch
        :return: ``(batch,)`` TD errors y - q(s_t, a_t; theta), from which the new priorities come, and scalars to log
        """
        observations, next_observations = batch.observations, batch.next_observations
        with th.no_grad():
            next_actions = networks("actor_target")(next_observations)
            next_q_values = smallest(networks("critic_target")(next_observations, next_actions))
            target_q_values = batch.rewards + (1 - batch.dones) * batch.discounts * next_q_values

        def weighted_square(critic: th.nn.Module) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
            td_errors = [target_q_values - q_values for q_values in critic(observations, batch.actions)]
            loss = sum((batch.weights * error.square()).mean() for error in td_errors)
            penalty = self.critic_l2 * l2_penalty(critic) if self.critic_l2 else 0.0
            return loss + penalty, (td_errors[0].detach(), loss.detach())

        _, (td_errors, critic_loss) = networks.optimize("critic", weighted_square)

        def negative_value(actor: th.nn.Module) -> tuple[th.Tensor, tuple[()]]:
            return -networks("critic")(observations, actor(observations))[0].mean(), ()

        actor_loss, _ = networks.optimize("actor", negative_value)
        networks.polyak_update("critic_target", "critic", self.tau)
        networks.polyak_update("actor_target", "actor", self.tau)
        return td_errors.flatten(), {"critic_loss": critic_loss, "actor_loss": actor_loss}

    def trained_networks(self) -> tuple[dict[str, th.nn.Module], dict[str, th.optim.Optimizer]]:
        """
        Return the networks that an update reads or changes.

        :return: the networks by the names that :meth:`update` uses, and the optimizers of those that it optimizes
        """
        modules = {name: getattr(self, name) for name in ("actor", "critic", "actor_target", "critic_target")}
        return modules, {"actor": self.actor.optimizer, "critic": self.critic.optimizer}

    def published_modules(self) -> dict[str, th.nn.Module]:
        """
        Return the networks that actors need.

        :return: networks by name
        """
        return {"actor": self.policy.actor, "critic": self.critic}  # SB3 acts with the policy's

    def explorations(self) -> list[Exploration]:
        """
        Return the exploration of each slot.

        :return: ``n_slots`` explorations
        """
        assert isinstance(self.action_space, spaces.Box)
        self._own_noise &= self.action_noise is None
        if self.action_noise is None and not self._own_noise:  # as in SB3, if it has been set to None since
            samples = own_samples(self.action_space, self.n_slots)
            return [GaussianNoise(self.action_space.shape, 0.0, samples=own) for own in samples]
        return list[Exploration](noise_ladder(self.n_slots, self.action_space, self.action_noise))

    # What runs in the actors (Algorithms 1.2 and 2).

    @staticmethod
    def act(modules: dict[str, Any], observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Choose greedy actions.

        :param modules: the published networks
        :param observations: ``(slots, ...)``
        :return: ``(slots, action_dim)`` greedy actions in [-1, 1], and the same again, kept for the priorities
        """
        actions = modules["actor"](observations)
        return actions, actions

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the values from which priorities come.

        :param modules: the published networks
        :param steps: a block, with the greedy actions that :meth:`act` returned
        :return: ``(rows,)`` q(s, a) of the actions taken and ``(rows,)`` q(s, pi(s)) to bootstrap from
        """
        # One pass for both actions: in small networks, most of the time is Python's overhead between layers.
        twice = tree_map(lambda observations: th.cat([observations, observations]), steps.observations)
        q_values = modules["critic"](twice, th.cat([steps.actions, steps.outputs]))
        n_rows = len(steps.actions)
        return q_values[0][:n_rows].flatten(), smallest(q_values)[n_rows:].flatten()

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """Set the learning rates: SB3 uses one for both optimizers, here the actor has its own."""
        super()._update_learning_rate(self.critic.optimizer)
        actor_rate = FloatSchedule(self.actor_learning_rate)(self._current_progress_remaining)
        self.logger.record("train/actor_learning_rate", actor_rate)
        update_learning_rate(self.actor.optimizer, actor_rate)


def smallest(q_values: tuple[th.Tensor, ...]) -> th.Tensor:
    """
    Return the minimum over the critics.

    :param q_values: ``(batch, 1)`` for each critic (DDPG has one unless ``policy_kwargs`` asks for more)
    :return: ``(batch, 1)``
    """
    return q_values[0] if len(q_values) == 1 else th.cat(q_values, dim=1).min(dim=1, keepdim=True).values

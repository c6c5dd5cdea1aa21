"""CA2E-DQN: double Q-learning from multi-step returns, with many actors."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Unpack

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from sb3_ca2e.actors.action_samples import own_samples
from sb3_ca2e.actors.exploration import Exploration, epsilon_ladder, replace_forbidden
from sb3_ca2e.actors.inference import Steps
from sb3_ca2e.algorithms.arguments import CA2EArguments
from sb3_ca2e.algorithms.base import CA2EMixin
from sb3_ca2e.algorithms.checks import check_choice
from sb3_ca2e.envs.action_masks import batch_of_masks
from sb3_ca2e.learner.update import Networks, Result
from sb3_ca2e.policies import CA2EDQNCnnPolicy, CA2EDQNMultiInputPolicy, CA2EDQNPolicy
from sb3_ca2e.replay.memory import PrioritizedReplaySamples

#: Losses of TD errors by name.
LOSSES = {"huber": nn.functional.smooth_l1_loss, "squared": nn.functional.mse_loss}


class CA2EDQN(CA2EMixin, DQN):
    """
    Deep Q-Network with Compound Asynchronous Exploration and Exploitation.

    Takes the arguments of :class:`stable_baselines3.DQN`, with the same meaning, followed by its own. Several defaults
    differ: 8 actors, 3-step returns, double Q-learning, prioritized sampling, the networks and the exploration.

    :param double_q: let the online network choose the action whose value the target network gives
    :param loss: of a TD error, which importance weights multiply: ``"huber"``, smooth L1 as in SB3's DQN, or
        ``"squared"``, as in the paper
    :param exploration_initial_eps: epsilon at the start: one number for all slots, a list with one per slot, or None
        for values spaced evenly from 1.0 to 0.2
    :param exploration_final_eps: epsilon at the end: one number for all slots, or a list with one per slot
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CA2EDQNPolicy,
        "CnnPolicy": CA2EDQNCnnPolicy,
        "MultiInputPolicy": CA2EDQNMultiInputPolicy,
    }

    action_spaces = (spaces.Discrete,)
    called_by_sb3: ClassVar[dict[str, tuple[str, ...]]] = {"q_net": ("_predict", "set_training_mode")}
    compilable = True
    update_settings = ("double_q", "loss", "max_grad_norm")
    checked = (*CA2EMixin.checked, "loss")
    before_saved: ClassVar[dict[str, Any]] = {"loss": "squared"}

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | Any,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 3,
        target_update_interval: int = 10000,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float | Sequence[float] | None = None,
        exploration_final_eps: float | Sequence[float] = 0.1,
        max_grad_norm: float = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        double_q: bool = True,
        loss: str = "huber",
        **ca2e: Unpack[CA2EArguments],
    ) -> None:
        self.double_q, self.loss = double_q, loss
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
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            exploration_fraction=exploration_fraction,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
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
        Check attributes that may have been changed since construction.

        :raises TypeError: if an attribute has the wrong type
        :raises ValueError: if the model can't learn with it
        """
        super().check_changes()
        check_choice(self, "loss")

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions; see :meth:`stable_baselines3.dqn.dqn.DQN.predict`.

        :param observation: one observation or ``(batch, ...)``
        :param state: unused, as is ``episode_start``
        :param episode_start: unused
        :param deterministic: whether to act greedily instead of epsilon-greedily
        :param action_masks: ``(n_actions,)`` or ``(batch, n_actions)`` booleans, or 0 and 1, which actions are
            allowed, as in SB3-Contrib's ``MaskablePPO``; None for all, also if the model has learned with masks
        :return: actions, and ``state``
        :raises ValueError: if the masks have another shape or other values, or allow no action
        """
        if action_masks is None:
            return super().predict(observation, state, episode_start, deterministic)
        self.policy.set_training_mode(False)
        observations, vectorized = self.policy.obs_to_tensor(observation)
        n_rows = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        masks = batch_of_masks(action_masks, n_rows, int(self.action_space.n))  # type: ignore[attr-defined]
        if not deterministic and np.random.rand() < self.exploration_rate:
            actions = np.array([self.action_space.sample() for _ in masks])
            actions = replace_forbidden(actions, masks, np.random.rand(n_rows))
        else:
            with th.no_grad():
                q_values = allowed(self.q_net(observations), th.as_tensor(masks, device=self.device))
            actions = q_values.argmax(dim=1).cpu().numpy()
        return actions if vectorized else actions.squeeze(axis=0), state

    # What runs in the learner (Algorithm 3).

    def update(self, networks: Networks, batch: PrioritizedReplaySamples) -> Result:
        """
        Make one step on the loss of a prioritized batch of n-step transitions.

        y = sum_{k<n} gamma^k r_{t+k+1} + gamma^n q(s_{t+n}, argmax_a q(s_{t+n}, a; theta); theta^-), over allowed a

        :param networks: theta, ``q_net``, and theta^-, ``q_net_target``
        :param batch: the batch
        :return: ``(batch,)`` TD errors y - q(s_t, a_t; theta), from which the new priorities come, and scalars to log
        """
        with th.no_grad():
            next_q_values = networks("q_net_target")(batch.next_observations)
            chooser = networks("q_net")(batch.next_observations) if self.double_q else next_q_values
            best = allowed(chooser, batch.next_action_masks).argmax(dim=1, keepdim=True)
            next_q_values = next_q_values.gather(1, best)
            target_q_values = batch.rewards + (1 - batch.dones) * batch.discounts * next_q_values

        def weighted_loss(q_net: nn.Module) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
            q_values = q_net(batch.observations).gather(1, batch.actions.long())
            of_each = LOSSES[self.loss](q_values, target_q_values, reduction="none")
            return (batch.weights * of_each).mean(), ((target_q_values - q_values).detach(), q_values.detach())

        loss, (td_errors, q_values) = networks.optimize("q_net", weighted_loss, self.max_grad_norm)
        return td_errors.flatten(), {"loss": loss, "q_value": q_values.mean()}

    def trained_networks(self) -> tuple[dict[str, nn.Module], dict[str, th.optim.Optimizer]]:
        """
        Return the networks that an update reads or changes.

        :return: the networks by the names that :meth:`update` uses, and the optimizers of those that it optimizes
        """
        modules: dict[str, nn.Module] = {"q_net": self.q_net, "q_net_target": self.q_net_target}
        return modules, {"q_net": self.policy.optimizer}

    def published_modules(self) -> dict[str, nn.Module]:
        """
        Return the networks that actors need.

        :return: networks by name
        """
        return {"q_net": self.policy.q_net}  # with which SB3 acts

    def explorations(self) -> list[Exploration]:
        """
        Return the exploration of each slot.

        :return: ``n_slots`` explorations
        """
        if len(self._ladder) != self.n_slots:  # the user has set n_actors since
            self._set_up_exploration()
            self._nature_slots_changed()
        one_rate: dict[str, Any] = {}
        if not self._explores_by_ladder():
            if self._collector is None:  # SB3 begins with the rate that an earlier learn() ended with, for one step
                remaining = 1.0 - self.num_timesteps / max(self._total_timesteps, 1)
                self.exploration_rate = self.exploration_schedule(remaining)
            rate = float(self.exploration_rate)
            one_rate = {"initial": rate, "final": rate, "fraction": 0.0}
        samples = own_samples(self.action_space, self.n_slots)
        return [replace(each, samples=own, **one_rate) for each, own in zip(self._ladder, samples, strict=True)]

    # What runs in the actors (Algorithms 1.2 and 2).

    @staticmethod
    def act(
        modules: dict[str, Any], observations: th.Tensor, action_masks: th.Tensor | None = None
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Choose greedy actions.

        :param modules: the published networks
        :param observations: ``(slots, ...)``
        :param action_masks: ``(slots, n_actions)`` bool, which actions are allowed; None for all
        :return: ``(slots,)`` greedy actions and ``(slots, n_actions)`` Q-values, kept for the priorities
        """
        q_values = modules["q_net"](observations)
        return allowed(q_values, action_masks).argmax(dim=1), q_values

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the values from which priorities come.

        :param modules: the published networks
        :param steps: a block, with the Q-values that :meth:`act` returned
        :return: ``(rows,)`` q(s, a) of the actions taken and ``(rows,)`` max_a q(s, a) over allowed actions, to
            bootstrap from
        """
        q_values = steps.outputs
        return q_values.gather(1, steps.actions).flatten(), allowed(q_values, steps.action_masks).max(dim=1).values

    # Exploration.

    def _setup_model(self) -> None:
        super()._setup_model()
        self._show_mean_epsilon()

    def _set_up_exploration(self) -> None:
        """Set the epsilons of all slots; as in SB3, changes of the arguments have no effect afterwards."""
        n_actions = int(self.action_space.n)  # type: ignore[attr-defined]
        starts, ends = self.exploration_initial_eps, self.exploration_final_eps
        fraction, space = self.exploration_fraction, self.action_space
        self._ladder = epsilon_ladder(self.n_slots, n_actions, starts, ends, fraction, space)

    def _explores_by_ladder(self) -> bool:
        """Tell whether the user has left ``exploration_schedule`` alone; another one holds for all nature slots."""
        schedule, values = self._mean_epsilon
        return self.exploration_schedule is schedule and vars(schedule) == values

    def _exploration_settings(self) -> Any:
        return None if self._explores_by_ladder() else self.exploration_rate

    def _nature_slots_changed(self) -> None:
        if self._explores_by_ladder():
            self._show_mean_epsilon()

    def _show_mean_epsilon(self) -> None:
        """Set ``exploration_rate``, which SB3's ``predict`` uses, to the mean epsilon of the nature slots."""
        ladder = [self._ladder[slot] for slot in self._nature_slots()]
        initial = sum(each.initial for each in ladder) / len(ladder)
        final = sum(each.final for each in ladder) / len(ladder)
        self.exploration_schedule = schedule = LinearSchedule(initial, final, ladder[0].fraction)
        self._mean_epsilon = schedule, dict(vars(schedule))


def allowed(q_values: th.Tensor, action_masks: th.Tensor | None) -> th.Tensor:
    """
    Lower the values of forbidden actions to minus infinity.

    :param q_values: ``(batch, n_actions)``
    :param action_masks: ``(batch, n_actions)`` bool, which actions are allowed; None for all
    :return: ``(batch, n_actions)``
    """
    return q_values if action_masks is None else q_values.masked_fill(~action_masks, -th.inf)

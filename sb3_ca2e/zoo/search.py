"""What the RL Zoo's ``-optimize`` searches: its spaces of DQN and DDPG, and CA2E's own arguments."""

from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_offpolicy_params, sample_dqn_params, sample_td3_params

Hyperparams = dict[str, Any]


def sample_ca2e_dqn_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: Hyperparams
) -> Hyperparams:
    """
    :param trial: the trial
    :param n_actions: unused
    :param n_envs: environments of the run
    :param additional_args: as the zoo passes them; ``her_kwargs`` holds the ``replay_buffer_kwargs`` of the run
    :return: arguments of :class:`~sb3_ca2e.CA2EDQN` to try
    """
    hyperparams: Hyperparams = sample_dqn_params(trial, n_actions, n_envs, additional_args)
    return {**hyperparams, **_sample_memory(trial, additional_args)}


def sample_ca2e_ddpg_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: Hyperparams
) -> Hyperparams:
    """
    :param trial: the trial
    :param n_actions: dimension of the actions
    :param n_envs: environments of the run
    :param additional_args: as the zoo passes them; ``her_kwargs`` holds the ``replay_buffer_kwargs`` of the run
    :return: arguments of :class:`~sb3_ca2e.CA2EDDPG` to try
    """
    hyperparams: Hyperparams = sample_td3_params(trial, n_actions, n_envs, additional_args)
    own = {
        "actor_learning_rate": trial.suggest_float("actor_learning_rate", 1e-5, 0.002, log=True),
        "critic_l2": trial.suggest_float("critic_l2", 1e-6, 1e-1, log=True),
    }
    return {**hyperparams, **own, **_sample_memory(trial, additional_args)}


def _sample_memory(trial: optuna.Trial, additional_args: Hyperparams) -> Hyperparams:
    """Length of the returns, and how much priorities count (0: not at all)."""
    n_steps = trial.suggest_int("n_steps", 1, 10, log=True)
    alpha = trial.suggest_float("alpha", 0.0, 1.0)
    return {"n_steps": n_steps, "replay_buffer_kwargs": {**additional_args["her_kwargs"], "alpha": alpha}}


def convert_params(sampled_params: Hyperparams) -> Hyperparams:
    """
    :param sampled_params: the parameters of a trial, as the study keeps them
    :return: the hyperparameters that they stand for, as in a YAML file
    """
    remaining = {name: value for name, value in sampled_params.items() if name != "alpha"}
    if remaining.get("noise_type", "") is None:  # CA2E's own noise, one for each slot
        del remaining["noise_type"], remaining["noise_std"]
    hyperparams: Hyperparams = convert_offpolicy_params(remaining)
    return {**hyperparams, "replay_buffer_kwargs": {"alpha": sampled_params["alpha"]}}


SAMPLERS = {"ca2e_dqn": sample_ca2e_dqn_params, "ca2e_ddpg": sample_ca2e_ddpg_params}
CONVERTERS = dict.fromkeys(SAMPLERS, convert_params)

"""Search spaces for the RL Zoo's ``-optimize``: those of DQN and DDPG, and CA2E's own arguments."""

from typing import Any

from optuna import Trial
from rl_zoo3.hyperparams_opt import convert_offpolicy_params, sample_dqn_params, sample_td3_params

Hyperparams = dict[str, Any]


def sample_ca2e_dqn_params(trial: Trial, n_actions: int, n_envs: int, additional_args: Hyperparams) -> Hyperparams:
    """
    Sample hyperparameters of CA2EDQN.

    :param trial: trial of Optuna
    :param n_actions: unused
    :param n_envs: number of environments of the run
    :param additional_args: passed by the zoo; ``her_kwargs`` holds the run's ``replay_buffer_kwargs``
    :return: arguments of :class:`~sb3_ca2e.CA2EDQN`
    """
    hyperparams: Hyperparams = sample_dqn_params(trial, n_actions, n_envs, additional_args)
    return {**hyperparams, **_sample_memory(trial, additional_args)}


def sample_ca2e_ddpg_params(trial: Trial, n_actions: int, n_envs: int, additional_args: Hyperparams) -> Hyperparams:
    """
    Sample hyperparameters of CA2EDDPG.

    :param trial: trial of Optuna
    :param n_actions: dimension of the actions
    :param n_envs: number of environments of the run
    :param additional_args: passed by the zoo; ``her_kwargs`` holds the run's ``replay_buffer_kwargs``
    :return: arguments of :class:`~sb3_ca2e.CA2EDDPG`
    """
    hyperparams: Hyperparams = sample_td3_params(trial, n_actions, n_envs, additional_args)
    own = {
        "actor_learning_rate": trial.suggest_float("actor_learning_rate", 1e-5, 0.002, log=True),
        "critic_l2": trial.suggest_float("critic_l2", 1e-6, 1e-1, log=True),
    }
    return {**hyperparams, **own, **_sample_memory(trial, additional_args)}


def _sample_memory(trial: Trial, additional_args: Hyperparams) -> Hyperparams:
    """Sample the multi-step length and the exponent of priorities (0 disables them)."""
    n_steps = trial.suggest_int("n_steps", 1, 10, log=True)
    alpha = trial.suggest_float("alpha", 0.0, 1.0)
    return {"n_steps": n_steps, "replay_buffer_kwargs": {**additional_args["her_kwargs"], "alpha": alpha}}


def convert_params(sampled_params: Hyperparams) -> Hyperparams:
    """
    Convert the parameters of a trial to hyperparameters.

    :param sampled_params: parameters as the study stores them
    :return: hyperparameters as in a YAML file
    """
    remaining = {name: value for name, value in sampled_params.items() if name != "alpha"}
    if remaining.get("noise_type", "") is None:  # CA2E's own noise, one for each slot
        del remaining["noise_type"], remaining["noise_std"]
    hyperparams: Hyperparams = convert_offpolicy_params(remaining)
    return {**hyperparams, "replay_buffer_kwargs": {"alpha": sampled_params["alpha"]}}


SAMPLERS = {"ca2e_dqn": sample_ca2e_dqn_params, "ca2e_ddpg": sample_ca2e_ddpg_params}
CONVERTERS = dict.fromkeys(SAMPLERS, convert_params)

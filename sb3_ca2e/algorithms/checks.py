"""Checks of a user's arguments; errors say what was wrong, what was expected, and what to do."""

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_ca2e.algorithms.hooks import Hooks
from sb3_ca2e.common.misspelt import suggestion
from sb3_ca2e.envs.action_masks import ActionMasks
from sb3_ca2e.replay.memory import PrioritizedReplayBuffer

#: Arguments that take one of a few values, where an algorithm has them.
_CHOICES: dict[str, tuple[bool | str, ...]] = {
    "rate_limit": (True, False),
    "compile": (True, False, "auto"),
    "inference": ("actor", "device", "auto"),
    "execution": ("async", "sync"),
    "double_q": (True, False),
    "loss": ("huber", "squared"),
}


#: Arguments of the memory that the model gives it.
GIVEN_TO_MEMORY = {"buffer_size", "observation_space", "action_space", "device", "n_envs", "n_steps", "gamma"}
GIVEN_TO_MEMORY |= {"columns", "normalize_frames", "optimize_memory_usage", "seed"}


def check_env_type(env: Any) -> None:
    """
    Refuse what is no single environment and no ``VecEnv`` of SB3.

    :param env: the environment
    :raises TypeError: if it is one of gymnasium's vector environments, or several environments
    """
    if isinstance(env, gym.vector.VectorEnv | list | tuple):
        raise TypeError(
            f"env takes one environment or a VecEnv of Stable-Baselines3, not a {type(env).__name__}; give the id and "
            "n_actors, or make_vec_env()."
        )


def check_kind(env: Any, algorithm: type[Hooks]) -> None:
    """
    Check that an algorithm can learn in an environment.

    :param env: the environment
    :param algorithm: class of the algorithm
    :raises TypeError: if it is one of gymnasium's vector environments, or several environments
    :raises ValueError: if the algorithm does not learn actions of this kind
    """
    check_env_type(env)
    action_space = getattr(env, "action_space", None)
    if action_space is None:
        return
    if not isinstance(action_space, algorithm.action_spaces):
        learns = " or ".join(kind.__name__ for kind in algorithm.action_spaces)
        others = {spaces.Discrete: "use CA2EDQN", spaces.Box: "use CA2EDDPG"}
        raise ValueError(
            f"{algorithm.__name__} learns {learns} actions, but this environment has {action_space}: "
            f"{others.get(type(action_space), 'wrap the environment so that they agree')}."
        )


def check_masks(algorithm: type[Hooks], action_masks: ActionMasks) -> None:
    """
    Check that an algorithm keeps to an environment's action masks.

    :param algorithm: class of the algorithm
    :param action_masks: how the environment says which actions it allows
    :raises TypeError: if the algorithm would take forbidden actions
    """
    if action_masks.source is not None and "action_masks" not in inspect.signature(algorithm.act).parameters:
        raise TypeError(
            f"This environment says which actions it allows, in {action_masks}, but {algorithm.__name__}.act does not "
            "take them: give it a third parameter action_masks, and use the masks in evaluate() and update() too; or "
            "leave the masks out of the environment."
        )


def check_space(action_space: spaces.Space) -> None:
    """
    Check an action space.

    :param action_space: the environment's action space
    :raises ValueError: if it has no finite bounds, or is discrete and does not start at 0
    """
    if isinstance(action_space, spaces.Discrete) and action_space.start != 0:
        raise ValueError(
            f"Policies number actions from 0, but those of {action_space} start at {action_space.start}: declare "
            f"Discrete({action_space.n}) in the environment, and add {action_space.start} in step()."
        )
    if isinstance(action_space, spaces.Box) and not _is_bounded(action_space):
        raise ValueError(
            f"Actions need finite bounds, which {action_space} does not have: actions are scaled to [-1, 1] between "
            "them. Declare bounds in the environment, or wrap it in gymnasium.wrappers.RescaleAction or a wrapper of "
            "your own."
        )


def check_observations(space: spaces.Space, name: str = "Observations") -> None:
    """
    Check an observation space.

    :param space: the observation space
    :param name: name of the observations in a message
    :raises ValueError: if it is discrete and does not start at 0
    """
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            check_observations(part, f"Observations {key!r}")
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start):
        raise ValueError(
            f"{name} of {space} start at {space.start}, but policies number observations from 0: declare a space "
            "without a start in the environment, and subtract it."
        )


def _is_bounded(space: spaces.Box) -> bool:
    """Whether the distances between the bounds are finite; those of the largest floats are not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(space.high - space.low).all())


def as_list(name: str, value: Any, of_what: str, one: type | UnionType) -> list[Any]:
    """
    Check an argument that takes a list.

    :param name: the argument's name
    :param value: the argument's value
    :param of_what: what it should be a list of
    :param one: types of a single element, which the user may have forgotten to put into a list
    :return: the list
    :raises TypeError: if it is not a list
    """
    if isinstance(value, one):
        raise TypeError(f"{name} takes a list of {of_what}; write [{value!r}].")
    if not isinstance(value, Iterable) or isinstance(value, Mapping) or None in (values := list(value)):
        raise TypeError(f"{name} takes a list of {of_what}, not {value!r}; leave it out for none.")
    return values


def check(model: Any) -> None:
    """
    Check the arguments of a model together.

    :param model: a learner of this package; its attributes are the arguments as given, except ``train_freq``, which is
        SB3's tuple
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if the model can't learn with these arguments
    """
    if not hasattr(model, "n_envs"):
        raise ValueError("env is None: give an id, an environment or a VecEnv; CA2E needs it to create the model.")
    if not isinstance(model.replay_buffer_kwargs, Mapping):
        raise TypeError(f"replay_buffer_kwargs takes a dictionary, not {model.replay_buffer_kwargs!r}.")
    _check_each(model)
    if model.n_slots <= len(model.prior_agents):
        raise ValueError(
            f"{len(model.prior_agents)} prior agents leave no nature slot of n_actors={model.n_slots}; each prior "
            f"takes one slot, and the learner needs at least one: set n_actors >= {len(model.prior_agents) + 1}."
        )
    if model.execution == "async" and sys.platform == "win32":
        raise ValueError(
            "execution='async' forks actor processes, which Windows can't. Give execution='sync', which learns in one "
            "process, or use the Windows Subsystem for Linux."
        )
    memory = model.replay_buffer_class
    if not (memory is None or (isinstance(memory, type) and issubclass(memory, PrioritizedReplayBuffer))):
        raise ValueError(
            f"replay_buffer_class={getattr(memory, '__name__', repr(memory))} can't store blocks of actors; "
            "leave it out, or subclass sb3_ca2e.PrioritizedReplayBuffer."
        )
    _check_memory_arguments(memory or PrioritizedReplayBuffer, model.replay_buffer_kwargs)
    check_train_freq(model.train_freq)


def check_train_freq(train_freq: Any) -> None:
    """
    Check how often the learner updates; SB3 reads it before each round, so it may have been replaced since.

    :param train_freq: SB3's ``TrainFreq``
    :raises TypeError: if it is none
    :raises ValueError: if it is no number of steps
    """
    if not isinstance(train_freq, TrainFreq):
        raise TypeError(
            f"train_freq of a model is a TrainFreq, not {train_freq!r}: set it to TrainFreq(4, "
            "TrainFrequencyUnit.STEP), both from stable_baselines3.common.type_aliases."
        )
    if train_freq.unit != TrainFrequencyUnit.STEP:
        raise ValueError(
            f"train_freq=({train_freq.frequency}, 'episode') is not supported: many actors are in many episodes at "
            "once. Give a number of steps."
        )
    if not _is_whole(train_freq.frequency) or train_freq.frequency < 1:
        raise ValueError(f"train_freq must be a whole number of at least 1, not {train_freq.frequency!r}.")


def check_memory(memory: Any) -> None:
    """
    Check the memory that actors fill; the user may have replaced it.

    :param memory: ``replay_buffer`` of a model
    :raises TypeError: if actors can't fill it
    """
    if not isinstance(memory, PrioritizedReplayBuffer):
        raise TypeError(
            f"replay_buffer was set to a {type(memory).__name__}, but actors fill a PrioritizedReplayBuffer: keep the "
            "model's own, and copy transitions into it with model.replay_buffer.add_from(buffer)."
        )


def _check_memory_arguments(memory: type[PrioritizedReplayBuffer], given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(memory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    own = [name for name in parameters if name not in GIVEN_TO_MEMORY]
    for name in given:
        if name in GIVEN_TO_MEMORY:
            raise ValueError(f"replay_buffer_kwargs has {name!r}, which the model sets itself: leave it out.")
        if name not in own:
            raise TypeError(
                f"replay_buffer_kwargs has {name!r}, which {memory.__name__} does not take. {suggestion(name, own)}"
            )


def check_learn(total_timesteps: Any, callback: Any, log_interval: Any) -> int:
    """
    Check the arguments of ``learn``.

    :param total_timesteps: number of transitions, whole or not, as in SB3
    :param callback: callback, list of callbacks, function or None
    :param log_interval: number of episodes or None
    :return: ``total_timesteps``, rounded up
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if ``log_interval`` is not a number of episodes
    """
    if not _is_number(total_timesteps) or not np.isfinite(total_timesteps):
        raise TypeError(f"total_timesteps must be a number of transitions, such as 100_000, not {total_timesteps!r}.")
    if log_interval is not None and not _is_count(log_interval):
        raise ValueError(f"log_interval must be a whole number of at least 1, or None, not {log_interval!r}.")
    for each in callback if isinstance(callback, list) else [callback] if callback is not None else []:
        if isinstance(each, type) and issubclass(each, BaseCallback):
            raise TypeError(f"callback takes a callback, not its class: write {each.__name__}(...).")
        if not (isinstance(each, BaseCallback) or (callable(each) and each is callback)):
            raise TypeError(
                f"callback takes a callback of Stable-Baselines3, a list of them, or a function, not {each!r}"
                + (" in a list." if isinstance(callback, list) else ".")
            )
    first: int = math.ceil(total_timesteps)
    return first


def _check_each(model: Any) -> None:
    """Check the arguments one by one; an algorithm need not have them all."""

    def require(expected: str, holds: Callable[[Any], bool], *names: str) -> None:
        for name in names:
            if hasattr(model, name) and not holds(value := getattr(model, name)):
                given = "n_actors" if name == "n_slots" else name.lstrip("_")
                raise ValueError(f"{given} must be {expected}, not {value!r}.")

    counts = ("local_buffer_size", "actor_update_interval", "prior_patience", "n_steps", "buffer_size", "batch_size")
    require("a whole number of at least 1", _is_count, *counts, "n_slots")
    require("a whole number of at least 1", lambda value: value is None or _is_count(value), "n_processes")
    numbers = ("exploration_fraction", "gamma", "learning_starts", "target_update_interval", "tau")
    require("a number", lambda value: _is_number(value) and not np.isnan(value), *numbers)
    require("a whole number", lambda value: isinstance(value, int | np.integer), "gradient_steps", "_stats_window_size")
    require("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0, "actor_restarts")
    seconds = "a number of seconds, or None"
    require(seconds, lambda value: value is None or (_is_number(value) and value > 0), "actor_timeout")
    require("a finite number", lambda value: _is_number(value) and np.isfinite(value), "prior_alpha")
    require("a number above 0 and below 1", lambda value: _is_number(value) and 0 < value < 1, "prior_confidence")
    require("a finite number of at least 0", _is_amount, "critic_l2")
    schedule = "a schedule such as stable_baselines3.common.utils.LinearSchedule(1e-3, 0.0, 1.0)"
    rates = ("learning_rate", "actor_learning_rate")
    require(f"a number of at least 0, or {schedule}", lambda value: callable(value) or _is_amount(value), *rates)
    for name in _CHOICES:
        if hasattr(model, name):
            check_choice(model, name)
    for name in {"alpha", "beta"} & model.replay_buffer_kwargs.keys():
        if not _is_amount(value := model.replay_buffer_kwargs[name]):
            raise ValueError(f"replay_buffer_kwargs has {name}={value!r}; it must be a finite number of at least 0.")


def check_choice(model: Any, name: str) -> None:
    """
    Check an argument that takes one of a few values.

    :param model: model with the attribute
    :param name: name of the attribute
    :raises ValueError: if it has another value
    """
    choices, value = _CHOICES[name], getattr(model, name)
    if not (isinstance(value, str | bool | np.bool_) and value in choices):
        *first, last = map(repr, choices)
        raise ValueError(f"{name} must be {', '.join(first)} or {last}, not {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and bool(value >= 1)


def _is_amount(value: Any) -> bool:
    return _is_number(value) and bool(0 <= value < np.inf)

"""Errors in what a user passes: they say what was wrong, what was expected, and what to do."""

import difflib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_ca2e.replay.memory import PrioritizedReplayBuffer

if TYPE_CHECKING:
    from sb3_ca2e.algorithm import CA2EMixin


def refuse_misspelt(algorithm: type, given: Mapping[str, Any]) -> None:
    """
    Tell the nearest right name, which Python itself does not.

    :param algorithm: the class
    :param given: keyword arguments for its constructor
    :raises TypeError: if it does not take one of them
    """
    parameters = inspect.signature(algorithm).parameters
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
        for name in given.keys() - parameters.keys():
            nearest = difflib.get_close_matches(name, parameters, n=1, cutoff=0.5)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else f"It takes {', '.join(parameters)}."
            raise TypeError(f"{algorithm.__name__} takes no argument {name!r}. {hint}")


def check_space(action_space: spaces.Space) -> None:
    """
    :param action_space: of the environment
    :raises ValueError: if it has no finite bounds
    """
    if isinstance(action_space, spaces.Box) and not _is_bounded(action_space):
        raise ValueError(
            f"Actions need finite bounds, those of {action_space} are not: actions are scaled to [-1, 1] between them. "
            "Declare bounds in the environment, or wrap it in gymnasium.wrappers.RescaleAction or a wrapper of your "
            "own."
        )


def _is_bounded(space: spaces.Box) -> bool:
    """Whether the distances between the bounds are finite, which those of the largest numbers are not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(space.high - space.low).all())


def check(model: "CA2EMixin") -> None:
    """
    :param model: with its arguments as they were given, but for ``train_freq``, which is SB3's tuple
    :raises ValueError: if it can't learn with them
    """
    counts = ("local_buffer_size", "actor_update_interval", "prior_patience", "n_steps", "n_slots")
    for name in (*counts, *(["n_processes"] if model.n_processes is not None else [])):
        value = getattr(model, name)
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            name = name.replace("n_slots", "n_actors")
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if model.compile not in (True, False, "auto"):
        raise ValueError(f"compile must be True, False or 'auto', not {model.compile!r}.")
    if not isinstance(model.actor_restarts, int) or model.actor_restarts < 0:
        raise ValueError(f"actor_restarts must be a whole number of at least 0, not {model.actor_restarts!r}.")
    if model.actor_timeout is not None and not model.actor_timeout > 0:
        raise ValueError(f"actor_timeout must be a number of seconds, or None, not {model.actor_timeout!r}.")
    if model.inference not in ("actor", "device", "auto"):
        raise ValueError(f"inference must be 'actor', 'device' or 'auto', not {model.inference!r}.")
    if model.execution not in ("async", "sync"):
        raise ValueError(f"execution must be 'async' or 'sync', not {model.execution!r}.")
    if model.n_slots <= len(model.prior_agents):
        raise ValueError(
            f"{len(model.prior_agents)} prior agents leave no nature slot of n_actors={model.n_slots}; each prior "
            f"takes one slot, and the learner needs at least one: set n_actors >= {len(model.prior_agents) + 1}."
        )
    if not (model.replay_buffer_class is None or issubclass(model.replay_buffer_class, PrioritizedReplayBuffer)):
        raise ValueError(
            f"replay_buffer_class={model.replay_buffer_class.__name__} can't take blocks from actors; "
            "leave it out, or subclass sb3_ca2e.PrioritizedReplayBuffer."
        )
    assert isinstance(model.train_freq, TrainFreq)
    if model.train_freq.unit != TrainFrequencyUnit.STEP:
        raise ValueError(
            f"train_freq=({model.train_freq.frequency}, 'episode') can't be held: many actors are in many episodes "
            "at once. Give a number of steps."
        )

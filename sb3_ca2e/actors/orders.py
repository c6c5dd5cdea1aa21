"""Orders from the learner to all actors: calls of environments, and settings of the workers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import gymnasium as gym

from sb3_ca2e.actors.exploration import Exploration


@dataclass(frozen=True)
class EnvCall:
    """
    A call of ``VecEnv.env_method``.

    :param method: name of the method
    :param args: its arguments
    :param kwargs: its keyword arguments
    :param indices: indices of the user's environments, from 0, in the order of the calls
    """

    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    indices: tuple[int, ...]

    def __str__(self) -> str:
        return f"env_method({self.method!r}, ...)"

    def carry_out(self, env: gym.Env) -> None:
        """
        Do to an environment what ``DummyVecEnv`` does to its own.

        :param env: the environment with the user's wrappers
        """
        env.get_wrapper_attr(self.method)(*self.args, **self.kwargs)


@dataclass(frozen=True)
class SetAttribute:
    """
    A call of ``VecEnv.set_attr``.

    :param name: name of the attribute
    :param value: its value
    :param indices: indices of the user's environments, from 0
    """

    name: str
    value: Any
    indices: tuple[int, ...]

    def __str__(self) -> str:
        return f"set_attr({self.name!r}, ...)"

    def carry_out(self, env: gym.Env) -> None:
        """
        Do to an environment what ``DummyVecEnv`` does to its own.

        :param env: the environment with the user's wrappers
        """
        setattr(env, self.name, self.value)


@dataclass(frozen=True)
class Settings:
    """
    What workers use from their next block on; None leaves a setting as it is.

    :param explorations: exploration of every slot, prior slots included
    :param gamma: discount factor of the priorities
    :param warmup: the model's number of timesteps until which nature actors act at random
    """

    explorations: tuple[Exploration, ...] | None = None
    gamma: float | None = None
    warmup: int | None = None

    def __str__(self) -> str:
        return "a setting of the actors (exploration, action noise, gamma or learning_starts)"

    def given(self) -> dict[str, Any]:
        """
        Return the settings to change.

        :return: values by name
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def updated(self, newer: "Settings") -> "Settings":
        """
        Combine with newer settings.

        :param newer: settings that take precedence
        :return: settings that have the same effect as these followed by the newer ones
        """
        return replace(self, **newer.given())


Order = EnvCall | SetAttribute | Settings

#: An order with its number; numbers increase, and those of replaced orders are missing.
Numbered = tuple[int, Order]


def calls_of(orders: Iterable[Numbered], env_index: int) -> list[EnvCall | SetAttribute]:
    """
    Select the calls of one of the user's environments.

    :param orders: orders
    :param env_index: index of the environment
    :return: its calls in their order, as often as they were made
    """
    calls = [order for _, order in orders if not isinstance(order, Settings)]
    return [order for order in calls for _ in range(order.indices.count(env_index))]


def settings_of(orders: Sequence[Numbered]) -> Settings:
    """
    Combine the settings among orders.

    :param orders: orders
    :return: the settings; those that nothing changes are None
    """
    combined = Settings()
    for _, order in orders:
        if isinstance(order, Settings):
            combined = combined.updated(order)
    return combined

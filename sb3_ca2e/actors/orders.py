"""Orders from the learner to all actors: calls of environments, and settings of the workers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.envs.calls import Call, EnvCall, SetAttribute, for_env
from sb3_ca2e.envs.order_log import LoggedOrder

__all__ = ["Call", "EnvCall", "Numbered", "Order", "SetAttribute", "Settings", "calls_of", "settings_of"]


@dataclass(frozen=True)
class Settings(LoggedOrder):
    """
    What workers use from their next block on; None leaves a setting as it is.

    :param explorations: exploration of every slot, prior slots included
    :param gamma: discount factor of the priorities
    :param n_steps: multi-step length of the priorities
    :param warmup: the model's number of timesteps until which nature actors act at random
    :param raises_on_nan: whether a step that is not finite is an error, as a ``VecCheckNan`` may ask
    """

    explorations: tuple[Exploration, ...] | None = None
    gamma: float | None = None
    n_steps: int | None = None
    warmup: int | None = None
    raises_on_nan: bool | None = None

    limited: ClassVar[bool] = False

    def __str__(self) -> str:
        return "a setting of the actors (exploration, action noise, gamma, n_steps or learning_starts)"

    def given(self) -> dict[str, Any]:
        """
        Return the settings to change.

        :return: values by name
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def replaces(self, older: Any) -> bool:
        return isinstance(older, Settings) and older.given().keys() <= self.given().keys()

    def without_values(self) -> Self:  # explorations may be large
        return replace(self, explorations=None if self.explorations is None else ())


Order = Call | Settings

#: An order with its number; numbers increase, and those of replaced orders are missing.
Numbered = tuple[int, Order]


def calls_of(orders: Iterable[Numbered], env_index: int) -> list[Call]:
    """
    Select the calls of one of the user's environments.

    :param orders: orders
    :param env_index: index of the environment
    :return: its calls in their order, as often as they were made
    """
    return for_env((order for _, order in orders if not isinstance(order, Settings)), env_index)


def settings_of(orders: Sequence[Numbered]) -> dict[str, Any]:
    """
    Combine the settings among orders.

    :param orders: orders
    :return: newest values by name
    """
    combined: dict[str, Any] = {}
    for _, order in orders:
        if isinstance(order, Settings):
            combined |= order.given()
    return combined

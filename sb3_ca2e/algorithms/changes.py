"""What callbacks change of a model while it learns: collector and actors follow, or it is refused."""

import operator
from typing import Any

from sb3_ca2e.actors.orders import Settings
from sb3_ca2e.algorithms.construction import Construction
from sb3_ca2e.common.network_parts import NetworkParts, kinds_of
from sb3_ca2e.envs.recipe import EnvRecipe
from sb3_ca2e.learner.collector import Collector

#: Attributes that actors are made from.
_FIXED = ("env", "action_space", "observation_space", "_vec_normalize_env")


class Changes:
    """
    Compares a model with what its collector and its actors know.

    :param model: model that learns
    :param collector: the collector of its actors, which have just been started
    :param recipe: how the actors build environments
    """

    def __init__(self, model: Construction, collector: Collector, recipe: EnvRecipe):
        self._model, self._collector, self._recipe = model, collector, recipe
        self._read = operator.attrgetter(*_FIXED, *model.checked)
        self._accepted = self._read(model)
        self._networks = model.published_modules()
        self._parts, self._kinds = NetworkParts(self._networks.values()), kinds_of(self._networks)
        self._sent = model.actor_settings()

    def check(self) -> None:
        """
        Refuse changes that nothing can follow; called after each round of callbacks, and before blocks are collected.

        :raises RuntimeError: if an attribute was replaced that actors are made from
        :raises TypeError: if an attribute has the wrong type
        :raises ValueError: if the model can't learn with an attribute
        """
        values = self._read(self._model)
        if all(map(operator.is_, values, self._accepted)):  # as after nearly every step
            return
        for name, value, accepted in zip(_FIXED, values, self._accepted, strict=False):
            if value is not accepted:
                raise RuntimeError(
                    f"{name} was replaced while learn() is running, but actors are made from the earlier one. Replace "
                    "it between two calls of learn(); an environment with set_env()."
                )
        self._model.check_changes()
        self._accepted = values

    def follow(self) -> None:
        """
        Let collector and actors follow; called before blocks are collected.

        :raises RuntimeError: if an attribute was replaced that actors are made from, or a network by one of another
            kind
        :raises TypeError: if an attribute has the wrong type, or ``action_noise`` is no action noise
        :raises ValueError: if the model can't learn with an attribute, the memory stores other observations, or a
            setting can't be sent to actors
        """
        self.check()
        if self._model.replay_buffer is not self._collector.memory:
            self._model.replay_buffer.check_layout(self._recipe.stored_columns, self._recipe.normalizes_frames)
            self._collector.use(self._model.replay_buffer)
        self._follow_networks()
        self._send_settings()

    def _follow_networks(self) -> None:
        networks = self._model.published_modules()
        if not self._parts.replaced() and all(map(operator.is_, networks.values(), self._networks.values())):
            return
        if kinds_of(networks) != self._kinds:
            raise RuntimeError(
                f"A network among {', '.join(networks)} was replaced by one with other layers while learn() is "
                "running, but actors have the earlier one and get nothing but its parameters. Replace it between two "
                "calls of learn()."
            )
        self._collector.publish_from(networks)
        self._networks, self._parts = networks, NetworkParts(networks.values())

    def _send_settings(self) -> None:
        settings: dict[str, Any] = self._model.actor_settings()
        changed = {name: value for name, value in settings.items() if value != self._sent[name]}
        if not changed:
            return
        if "explorations" in changed:
            self._collector.explorations = self._model.explorations()
            changed["explorations"] = tuple(self._collector.explorations)
        self._collector.pool.order(Settings(**changed))
        self._sent = settings

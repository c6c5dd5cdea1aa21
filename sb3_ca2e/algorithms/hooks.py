"""The hooks that an algorithm implements; :class:`~sb3_ca2e.algorithms.base.CA2EMixin` does the rest."""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces

from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.actors.inference import Steps
from sb3_ca2e.learner.update import Networks, Result
from sb3_ca2e.replay.samples import PrioritizedReplaySamples


class Hooks:
    """Six methods: two run in actors, two run in the learner, and two tell actors what to run and how to explore."""

    def published_modules(self) -> dict[str, th.nn.Module]:
        """
        Return the networks that actors need.

        :return: networks to act and to compute priorities, by name
        """
        raise NotImplementedError

    def explorations(self) -> list[Exploration]:
        """
        Return the exploration of each slot.

        :return: ``n_slots`` explorations
        """
        raise NotImplementedError

    @staticmethod
    def act(modules: dict[str, Any], observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Choose greedy actions.

        For environments with action masks, take them as a third parameter ``action_masks``: ``(batch, n_actions)``
        bool, or None without masks. The outputs must not depend on them.

        :param modules: copies of the published networks
        :param observations: ``(batch, ...)``
        :return: ``(batch, ...)`` greedy actions, as the learner stores them, and outputs that :meth:`evaluate` receives
        """
        raise NotImplementedError

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the values from which priorities ``|R + gamma^k v(s_k) - q(s, a)|`` come.

        :param modules: copies of the published networks
        :param steps: consecutive steps of one slot
        :return: ``(rows,)`` q(s, a) and ``(rows,)`` the value v(s)
        """
        raise NotImplementedError

    #: classes of action spaces that the algorithm supports
    action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (spaces.Space,)
    #: by attribute of the policy, methods of this network that SB3's ``learn`` calls and that the hooks leave out
    called_by_sb3: ClassVar[dict[str, tuple[str, ...]]] = {}
    #: whether :meth:`update` does the same in every call, so that it can be compiled
    compilable: ClassVar[bool] = False
    #: names of the model's attributes that :meth:`update` reads
    update_settings: ClassVar[tuple[str, ...]] = ()

    def trained_networks(self) -> tuple[dict[str, th.nn.Module], dict[str, th.optim.Optimizer]]:
        """
        Return the networks that an update reads or changes.

        :return: the networks by the names that :meth:`update` uses, and the optimizers of those that it optimizes
        """
        raise NotImplementedError

    def update(self, networks: Networks, batch: PrioritizedReplaySamples) -> Result:
        """
        Make one step on the losses.

        :param networks: the networks of :meth:`trained_networks`
        :param batch: a prioritized batch
        :return: ``(batch,)`` TD errors, and scalars to log under ``train/``
        """
        raise NotImplementedError

"""What an algorithm supplies, for :class:`~sb3_ca2e.algorithms.base.CA2EMixin` to do the rest."""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces

from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.actors.inference import Steps
from sb3_ca2e.learner.update import Networks, Result
from sb3_ca2e.replay.samples import PrioritizedReplaySamples


class Hooks:
    """Six methods: two that actors run, two that learning runs, and two that tell who acts and how it explores."""

    def published_modules(self) -> dict[str, th.nn.Module]:
        """
        :return: the networks that actors need to act and to compute priorities
        """
        raise NotImplementedError

    def explorations(self) -> list[Exploration]:
        """
        :return: the exploration of each of the ``n_slots`` slots
        """
        raise NotImplementedError

    @staticmethod
    def act(modules: dict[str, Any], observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param modules: copies of the published networks
        :param observations: ``(batch, ...)``
        :return: ``(batch, ...)`` greedy actions, as the learner stores them, and what :meth:`evaluate` is to get
        """
        raise NotImplementedError

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: Steps) -> tuple[th.Tensor, th.Tensor]:
        """
        :param modules: copies of the published networks
        :param steps: consecutive steps of one slot
        :return: ``(rows,)`` q(s, a) and ``(rows,)`` the value of s, for ``|R + gamma^k v(s_k) - q(s, a)|``
        """
        raise NotImplementedError

    #: kinds of actions that it learns
    action_spaces: ClassVar[tuple[type[spaces.Space], ...]] = (spaces.Space,)
    #: whether :meth:`update` does the same at every call, so that it can be compiled
    compilable: ClassVar[bool] = False
    #: the model's settings that :meth:`update` reads
    update_settings: ClassVar[tuple[str, ...]] = ()

    def trained_networks(self) -> tuple[dict[str, th.nn.Module], dict[str, th.optim.Optimizer]]:
        """
        :return: the networks that :meth:`update` names, and the optimisers of those that it optimises
        """
        raise NotImplementedError

    def update(self, networks: Networks, batch: PrioritizedReplaySamples) -> Result:
        """
        :param networks: by the names of :meth:`trained_networks`
        :param batch: a prioritized batch
        :return: ``(batch,)`` TD errors, and scalars to log under ``train/``
        """
        raise NotImplementedError

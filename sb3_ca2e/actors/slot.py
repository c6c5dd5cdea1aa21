"""A slot: an environment and the policy that plays in it."""

import enum
from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.actors.observations import allowed_actions
from sb3_ca2e.actors.spec import WorkerSpec
from sb3_ca2e.envs.slot_monitor import SlotMonitor
from sb3_ca2e.envs.vector_slots import VecEnvSlot
from sb3_ca2e.priors.loaded import LoadedPrior


class Playing(enum.IntEnum):
    """Who plays in a slot."""

    NATURE = 0
    PRIOR = 1
    #: a prior agent at the start of an episode
    PRIOR_STARTS = 2

    @classmethod
    def of(cls, prior: bool, age: int) -> "Playing":
        """
        Return who plays in a slot.

        :param prior: whether a prior agent plays
        :param age: steps since the episode began
        :return: who plays
        """
        return cls.NATURE if not prior else cls.PRIOR if age > 0 else cls.PRIOR_STARTS


#: While there are prior agents, a nature slot plays every ``GREEDY_EVERY``-th game without exploration, to measure the
#: learner; more often where games are long.
GREEDY_EVERY = 10


class Slot:
    """
    One environment with the policy that plays in it.

    :param index: index among all slots
    :param env: its environment
    :param exploration: how it explores as a nature slot
    :param prior: prior agent, or None for a nature slot
    :param seed: seed of the exploration
    :param asked: arguments of its first ``reset``
    :param spec: what the actor process runs
    """

    def __init__(
        self,
        index: int,
        env: SlotMonitor | VecEnvSlot,
        exploration: Exploration,
        prior: LoadedPrior | None,
        seed: int,
        asked: Mapping[str, Any],
        spec: WorkerSpec,
    ):
        self.index, self.env, self.exploration, self.prior = index, env, exploration, prior
        self.rng = np.random.default_rng(seed)
        self.state: Any = None
        self.games = 0
        self.greedy, self.greedy_after = False, spec.greedy_after
        self.age = self.explored = 0
        self.action_masks = spec.recipe.action_masks
        self.begin(**asked)
        self._new_game()

    def begin(self, **asked: Any) -> None:
        """
        Reset the environment.

        :param asked: arguments of ``reset``
        """
        self.raw, info = self.env.reset(**asked)
        #: which actions the first observation allows; None without action masks
        self.mask = allowed_actions(self.action_masks, self.env, info)

    def reset(self, game_over: bool, retired: bool) -> None:
        """
        Begin the next episode.

        :param game_over: whether the last episode ended its game (Atari's lives are episodes of one game)
        :param retired: whether the prior agent has been beaten or fails; the slot is a nature slot from now on
        """
        self.begin()
        self.explored = 0 if self.greedy else self.explored + self.age
        self.age, self.state = 0, None
        self.exploration.reset()
        if retired and self.prior is not None:
            self.prior, game_over, self.games = None, True, 0
            self.env.prior_retired()
        if game_over:
            self._new_game()

    def _new_game(self) -> None:
        self.games += 1
        measures = self.prior is None and self.greedy_after is not None
        self.greedy = measures and (self.games % GREEDY_EVERY == 0 or self.explored >= (self.greedy_after or 0))

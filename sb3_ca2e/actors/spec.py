"""What an actor is to do, as its process is told."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.actors.actions import stored_action
from sb3_ca2e.actors.block_layout import BlockLayout
from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.actors.heartbeat import Supervision
from sb3_ca2e.actors.steps import ActorCore
from sb3_ca2e.common.layers import copy_of
from sb3_ca2e.envs.recipe import EnvRecipe
from sb3_ca2e.priors.agent import PriorAgent


@dataclass(frozen=True)
class WorkerSpec:
    """
    All that one actor process is started with; plain data and modules, pickled once.

    :param process: index of the process
    :param slots: indices of its slots
    :param n_slots: slots of all processes
    :param seed: seed of the run; each slot derives its own
    :param recipe: how to build the environments
    :param behaviour: the algorithm's hooks
    :param modules: the learner's networks, on the CPU
    :param explorations: one a slot of this process
    :param priors: the prior agent of each slot of this process, or None
    :param n_steps: multi-step length
    :param gamma: discount factor
    :param block_size: transitions in a block
    :param update_interval: transitions that a slot makes between two looks for newer parameters
    :param warmup: transitions of all slots for which nature actors act at random
    :param n_learns: how often the model had learned before; each time sees new episodes
    :param info_keys: entries of ``info`` that reach the learner's callbacks
    :param statistics: those of VecNormalize at the start, as :meth:`Statistics.publish` gives them
    :param supervision: how long it may be silent
    :param life: how often its process has been replaced; each life sees new episodes
    :param asked: what the first ``reset`` of each slot of this process is given, as the user asked: seed and options
    """

    process: int
    slots: list[int]
    n_slots: int
    seed: int
    recipe: EnvRecipe
    core: type[ActorCore]
    modules: dict[str, th.nn.Module]
    explorations: list[Exploration]
    priors: list[PriorAgent | None]
    n_steps: int
    gamma: float
    block_size: int
    update_interval: int
    warmup: int = 0
    n_learns: int = 0
    info_keys: tuple[str, ...] = ()
    statistics: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    supervision: Supervision = field(default_factory=Supervision)
    life: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_parameters(self) -> int:
        """Numbers that the learner publishes."""
        return FlatParameters(self.modules).size + len(self.statistics)

    @property
    def layout(self) -> BlockLayout:
        """Layout of the blocks that its slots fill."""
        return BlockLayout(self.recipe.columns, self.block_size, *stored_action(self.recipe.action_space))

    def told(self, failure: Handover) -> str:
        """
        :param failure: what the actor said of its failure
        :return: for a message to the user
        """
        slot = f"slot {failure.failed_slot}" if failure.failed_slot >= 0 else f"slots {self.slots}"
        return f"Actor process {self.process}, {slot}, life {self.life}, seed {self.seed}, failed:\n{failure.error}"

    def seed_of(self, slot: int) -> int:
        """
        :param slot: index of a slot
        :return: the seed that its environment and exploration are made with
        """
        return int(np.random.SeedSequence([self.seed, slot, self.n_learns, self.life]).generate_state(1)[0])


def for_actors(module: th.nn.Module) -> th.nn.Module:
    """
    :param module: a network of the learner
    :return: a copy on the CPU
    """
    return copy_of(module).cpu().train(False)

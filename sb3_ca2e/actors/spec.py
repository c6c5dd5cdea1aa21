"""The description from which an actor process is started."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th

from sb3_ca2e.actors.actions import stored_action
from sb3_ca2e.actors.exploration import Exploration
from sb3_ca2e.actors.flat_parameters import FlatParameters
from sb3_ca2e.actors.handover import Handover
from sb3_ca2e.actors.heartbeat import Supervision
from sb3_ca2e.actors.inference import ActorCore
from sb3_ca2e.common.layers import copy_of
from sb3_ca2e.envs.recipe import EnvRecipe
from sb3_ca2e.priors.loaded import LoadedPrior
from sb3_ca2e.replay.block import BlockLayout


@dataclass(frozen=True)
class WorkerSpec:
    """
    Everything that one actor process needs to start: plain data and modules, pickled once.

    :param process: index of the process
    :param slots: indices of its slots among all slots
    :param n_slots: number of slots of all processes
    :param seed: seed of the run; each slot derives its own
    :param recipe: how to build the environments
    :param core: the algorithm's actor hooks
    :param modules: copies of the learner's networks on the CPU
    :param explorations: exploration of each slot of this process
    :param priors: prior agent of each slot of this process, or None
    :param n_steps: multi-step length
    :param gamma: discount factor
    :param block_size: transitions in a block
    :param update_interval: transitions of a slot between two checks for newer parameters
    :param greedy_after: number of exploring steps of a slot after which it plays a game without exploration at the
        latest; None if there is no prior agent to be compared with
    :param warmup: the model's number of timesteps until which nature actors act at random
    :param begun: the model's number of timesteps when the process begins its first block
    :param n_learns: number of earlier calls of ``learn``; each call sees new episodes
    :param info_keys: entries of ``info`` passed to the learner's callbacks
    :param statistics: initial statistics of VecNormalize, as :meth:`Statistics.publish` returns them
    :param supervision: restarts and timeouts
    :param life: number of times its process has been replaced; each life sees new episodes
    :param asked: seed and options that the user set for the first ``reset`` of each slot of this process
    """

    process: int
    slots: list[int]
    n_slots: int
    seed: int
    recipe: EnvRecipe
    core: type[ActorCore]
    modules: dict[str, th.nn.Module]
    explorations: list[Exploration]
    priors: list[LoadedPrior | None]
    n_steps: int
    gamma: float
    block_size: int
    update_interval: int
    supervision: Supervision
    greedy_after: int | None = None
    warmup: int = 0
    begun: int = 0
    n_learns: int = 0
    info_keys: tuple[str, ...] = ()
    statistics: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    life: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_parameters(self) -> int:
        """Number of elements that the learner publishes."""
        return FlatParameters(self.modules).size + len(self.statistics)

    @property
    def layout(self) -> BlockLayout:
        """Layout of the blocks that its slots fill."""
        return BlockLayout(self.recipe.stored_columns, self.block_size, *stored_action(self.recipe.action_space))

    def told(self, failure: Handover) -> str:
        """
        Describe a failure for the user.

        :param failure: handover with the actor's error
        :return: text for a message
        """
        slot = f"slot {failure.failed_slot}" if failure.failed_slot >= 0 else f"slots {self.slots}"
        return f"Actor process {self.process}, {slot}, life {self.life}, seed {self.seed}, failed:\n{failure.error}"

    def seed_of(self, slot: int) -> int:
        """
        Derive the seed of a slot.

        :param slot: index of a slot
        :return: seed of its environment and exploration
        """
        return int(np.random.SeedSequence([self.seed, slot, self.n_learns, self.life]).generate_state(1)[0])


def for_actors(module: th.nn.Module) -> th.nn.Module:
    """
    Copy a network to the CPU for actors.

    :param module: network of the learner
    :return: a copy on the CPU in evaluation mode
    """
    return copy_of(module).cpu().train(False)

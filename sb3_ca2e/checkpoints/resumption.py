"""What a run is in the middle of, beside its model and its memory: taken with a checkpoint, and put back."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.replay.memory import PrioritizedReplayBuffer

if TYPE_CHECKING:
    from sb3_ca2e.actors.snapshot import ActorsState
    from sb3_ca2e.learner.collector import Collector


@dataclass(frozen=True)
class Snapshot:
    """
    A run between two rounds of collecting and updating.

    :param random: states of random numbers
    :param collector: what :meth:`Collector.state` gave, None outside of ``learn``
    :param actors: state of the actors, None where it can't be had
    """

    random: dict[str, Any]
    collector: dict[str, Any] | None
    actors: "ActorsState | None"


def random_states(action_space: spaces.Space) -> dict[str, Any]:
    """
    :param action_space: the model's
    :return: states of all random numbers that the learner's process draws; the memory keeps its own
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_initialized() else [],
        "action_space": action_space.np_random.bit_generator.state,
    }


def set_random_states(states: dict[str, Any], action_space: spaces.Space) -> None:
    """
    :param states: what :func:`random_states` returned
    :param action_space: the model's
    """
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    th.set_rng_state(states["torch"])
    if th.cuda.is_available() and len(states["cuda"]) == th.cuda.device_count():
        th.cuda.set_rng_state_all(states["cuda"])
    action_space.np_random.bit_generator.state = states["action_space"]


@dataclass
class Resumption:
    """
    What is still to be put back when a resumed model learns again.

    :param snapshot: the run
    :param memory: as it was loaded, None without one
    :param normalize: statistics of ``VecNormalize``, None without any
    :param changed: attributes of the model were changed, which slots in the middle of episodes might not notice
    """

    snapshot: Snapshot
    memory: PrioritizedReplayBuffer | None
    normalize: VecNormalize | None
    changed: bool = False

    def set_statistics(self, normalize: VecNormalize | None) -> None:
        """
        :param normalize: the user's wrapper, None without one
        :raises ValueError: if it does not fit the one that was saved
        """
        if self.normalize is None:
            return
        if normalize is None:
            raise ValueError(
                "The checkpoint was saved with VecNormalize. Wrap the environment in VecNormalize as it was wrapped "
                "then; its statistics are put back."
            )
        for name in ("obs_rms", "ret_rms"):
            ours, theirs = getattr(normalize, name, None), getattr(self.normalize, name, None)
            if _shapes(ours) != _shapes(theirs):
                raise ValueError(
                    f"The checkpoint's VecNormalize has {name} of shape {_shapes(theirs)}, the environment's "
                    f"{_shapes(ours)}. Wrap the environment as it was wrapped then."
                )
            setattr(normalize, name, theirs)
        self.normalize = None

    def slots(self, execution: str, n_slots: int, memory: PrioritizedReplayBuffer) -> "ActorsState | None":
        """
        :param execution: of the resumed model
        :param n_slots: of the resumed model
        :param memory: of the resumed model
        :return: the slots' state, None if they can't go on with their episodes
        """
        actors = self.snapshot.actors
        alike = actors is not None and execution == "sync" and len(actors.slots) == n_slots
        return actors if alike and memory is self.memory and not self.changed else None

    def put_back(self, collector: "Collector", slots: "ActorsState | None", action_space: spaces.Space) -> None:
        """
        Put a run back to where it was, once its actors are there.

        :param collector: new actors, and the memory
        :param slots: those that go on with their episodes, None if all begin new ones
        :param action_space: the model's
        """
        known = self.snapshot.collector
        if known is not None and self.memory is collector.memory:
            collector.restore(known)
        if known is not None and slots is not None:
            collector.restore_actors(known, slots)
        else:
            collector.cut_streams()
        set_random_states(self.snapshot.random, action_space)


def _shapes(statistics: Any) -> Any:
    if isinstance(statistics, dict):
        return {key: _shapes(each) for key, each in statistics.items()}
    return None if statistics is None else statistics.mean.shape

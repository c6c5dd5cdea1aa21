"""The state of a run besides its model and memory: saved with a checkpoint and restored."""

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
    State of a run between two rounds of collecting and updating.

    :param random: states of random generators
    :param collector: result of :meth:`Collector.state`, None outside ``learn``
    :param actors: state of the actors, None if unavailable
    """

    random: dict[str, Any]
    collector: dict[str, Any] | None
    actors: "ActorsState | None"


def random_states(action_space: spaces.Space) -> dict[str, Any]:
    """
    Return the states of all random generators of the learner's process, except the memory's own.

    :param action_space: the model's action space
    :return: the states
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
    Restore the states of random generators.

    :param states: result of :func:`random_states`
    :param action_space: the model's action space
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
    State to restore when a resumed model learns again.

    :param snapshot: state of the run
    :param memory: loaded memory, or None
    :param normalize: saved ``VecNormalize``, or None
    :param changed: whether attributes of the model were changed, which slots within episodes might not take over
    """

    snapshot: Snapshot
    memory: PrioritizedReplayBuffer | None
    normalize: VecNormalize | None
    changed: bool = False

    def set_statistics(self, normalize: VecNormalize | None) -> None:
        """
        Restore the statistics of ``VecNormalize``.

        :param normalize: the user's wrapper, or None
        :raises ValueError: if it does not match the saved one
        """
        if self.normalize is None:
            return
        if normalize is None:
            raise ValueError(
                "The checkpoint was saved with VecNormalize. Wrap the environment in it: its statistics are restored."
            )
        for name in ("obs_rms", "ret_rms"):
            ours, theirs = getattr(normalize, name, None), getattr(self.normalize, name, None)
            if _shapes(ours) != _shapes(theirs):
                raise ValueError(
                    f"The checkpoint's VecNormalize has {name} of shape {_shapes(theirs)}, the environment's "
                    f"{_shapes(ours)}. Wrap the environment as before."
                )
            setattr(normalize, name, theirs)
        self.normalize = None

    def slots(self, execution: str, n_slots: int, memory: PrioritizedReplayBuffer) -> "ActorsState | None":
        """
        Return the state of slots that can continue their episodes.

        :param execution: ``execution`` of the resumed model
        :param n_slots: number of slots of the resumed model
        :param memory: memory of the resumed model
        :return: the state, None if they can't
        """
        actors = self.snapshot.actors
        alike = actors is not None and execution == "sync" and len(actors.slots) == n_slots
        return actors if alike and memory is self.memory and not self.changed else None

    def put_back(self, collector: "Collector", slots: "ActorsState | None", action_space: spaces.Space) -> None:
        """
        Restore the run once its actors exist.

        :param collector: collector of the new actors
        :param slots: state of slots that continue their episodes, None if all begin new ones
        :param action_space: the model's action space
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

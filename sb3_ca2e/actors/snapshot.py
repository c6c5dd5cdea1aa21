"""Saves and restores running actors in the learner's process, if their environments can be pickled."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle

from sb3_ca2e.actors.exploration import EpsilonGreedy, Exploration, GaussianNoise, NoiseProcess, samples_of
from sb3_ca2e.actors.orders import Call
from sb3_ca2e.actors.worker import Worker
from sb3_ca2e.envs.slot_monitor import SlotMonitor
from sb3_ca2e.envs.vector_slots import VecEnvSlot


@dataclass(frozen=True)
class ActorsState:
    """
    State of the slots of a process.

    :param environments: pickled environment of each slot
    :param rngs: state of each slot's random generator
    :param explorations: exploration of each slot
    :param slots: other attributes of each slot
    :param priors: whether a prior agent plays in each slot
    :param observations: current observations and action masks by key
    :param parameters: parameters that the actor acts with
    :param counters: counters of the actor
    :param warmup: number of transitions, of all slots since the first block, for which nature actors act at random
    :param calls: for each slot what it has to repeat before its next episode
    """

    environments: list[bytes]
    rngs: list[Any]
    explorations: list[Exploration]
    slots: list[dict[str, Any]]
    priors: list[bool]
    observations: dict[str, np.ndarray]
    parameters: np.ndarray
    counters: dict[str, int]
    warmup: int
    calls: Sequence[list[Call]] = ()


#: Attributes of a slot that are restored in place, because other objects hold them too, or that the model decides.
_NOT_SAVED = ("env", "prior", "rng", "exploration", "greedy_after")
_COUNTERS = ("version", "sequence", "steps")


def state_of(actor: Worker) -> ActorsState | None:
    """
    Return the state of an actor.

    :param actor: an actor between two blocks
    :return: its state, or None if an environment can't be pickled
    """
    try:
        environments = [_pickled(_inside(slot.env)) for slot in actor.slots]
        calls = [actor.due_in(position)[0] for position in range(len(actor.slots))]
        cloudpickle.dumps(calls)
    except Exception:  # pickling the user's environment may raise anything
        return None
    return ActorsState(
        environments,
        [slot.rng.bit_generator.state for slot in actor.slots],
        [slot.exploration for slot in actor.slots],
        [{name: value for name, value in vars(slot).items() if name not in _NOT_SAVED} for slot in actor.slots],
        [slot.prior is not None for slot in actor.slots],
        actor.observations.held,
        actor.flat,
        {name: getattr(actor, name) for name in _COUNTERS},
        actor.spec.warmup - actor.spec.begun,
        calls,
    )


def restore(actor: Worker, state: ActorsState) -> None:
    """
    Restore the state of an actor.

    :param actor: actor with open environments
    :param state: state of an actor with the same slots
    """
    for position, slot in enumerate(actor.slots):
        assert isinstance(slot.env, SlotMonitor)
        if slot.env.owned:
            slot.env.env.close()
        slot.env.owned = True  # a copy continues the episode of the user's environment
        slot.env.env = cloudpickle.loads(state.environments[position])
        slot.rng.bit_generator.state = state.rngs[position]
        _restore_exploration(slot.exploration, state.explorations[position])
        if (samples := samples_of(slot.exploration)) is not None:
            samples.begin(slot.env)
        vars(slot).update(state.slots[position])
    for key, batch in state.observations.items():
        actor.observations.held[key][...] = batch
    actor.flat[: len(state.parameters)] = state.parameters  # older snapshots have no settings of VecNormalize
    for name, value in state.counters.items():
        setattr(actor, name, value)
    actor.calls_seen = [0] * len(actor.slots)  # what was called since concerned the environments replaced above
    actor.calls_due = [*state.calls] or [[] for _ in actor.slots]
    actor.spec = replace(actor.spec, begun=actor.spec.warmup - state.warmup)
    actor.show_who_explores()


def _restore_exploration(exploration: Exploration, saved: Exploration) -> None:
    """Restore the state of an exploration; its settings are the model's."""
    if (samples := samples_of(saved)) is not None:
        vars(exploration)["samples"] = samples
    if isinstance(exploration, NoiseProcess) and isinstance(saved, NoiseProcess):
        exploration.take_state(saved)
    elif not isinstance(exploration, EpsilonGreedy | GaussianNoise):  # these have none
        vars(exploration).update(vars(saved))


def _inside(env: SlotMonitor | VecEnvSlot) -> gym.Env:
    """Return the environment inside the monitor, which has open files."""
    if isinstance(env, VecEnvSlot):
        raise TypeError("A native vector environment does not give the states of single environments.")
    return env.env


def _pickled(env: gym.Env) -> bytes:
    buffer = io.BytesIO()
    _StatePickler(buffer).dump(env)
    return buffer.getvalue()


class _StatePickler(cloudpickle.Pickler):
    """
    Refuses environments that would be restored without their state: gymnasium's C environments pickle only their
    constructor arguments.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, EzPickle) and type(obj).__getstate__ is EzPickle.__getstate__:
            raise TypeError(f"{type(obj).__name__} pickles its arguments and not its state.")
        return super().reducer_override(obj)

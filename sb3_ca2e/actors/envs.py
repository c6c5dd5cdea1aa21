"""From the user's environment to a picklable builder for each slot, and to the observations that a slot sees."""

import contextlib
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecTransposeImage

from sb3_ca2e.replay.block import OBSERVATION, ObservationColumn, observation_columns


class BuilderVecEnv(DummyVecEnv):
    """
    A ``DummyVecEnv`` that keeps the functions its environments were made with, so that actors can make more.

    :param env_fns: functions that each return a new environment
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env]]):
        super().__init__(env_fns)
        self.env_fns = env_fns


@dataclass(frozen=True)
class EnvRecipe:
    """
    What an actor needs to make the environment of a slot and to see what the learner's policy sees.

    :param builders: pickled environments or functions; slot ``i`` uses ``builders[i % len(builders)]``
    :param registered: pickled specs of the ids that the user's process knows beside gymnasium's own
    :param observation_space: the learner's observation space, frames stacked and channels first
    :param action_space: the environment's action space
    :param transpose: images come with their channels last and are turned around
    :param n_stack: frames in an observation
    :param stack_axis: axis along which they are concatenated
    """

    builders: tuple[bytes, ...]
    registered: tuple[bytes, ...]
    observation_space: spaces.Space
    action_space: spaces.Space
    transpose: bool = False
    n_stack: int = 1
    stack_axis: int = 0

    @property
    def columns(self) -> dict[str, ObservationColumn]:
        """How the memory stores the observations."""
        return observation_columns(self.observation_space, self.n_stack, self.stack_axis)

    def build(self, slot: int) -> gym.Env:
        """
        Make the environment of a slot, with a :class:`Monitor` that counts whole, unclipped games.

        :param slot: index of the slot
        :return: the environment
        """
        for registered in self.registered:
            with contextlib.suppress(Exception):  # where it matters, gym.make will say that the id is unknown
                spec = cloudpickle.loads(registered)
                if spec.id not in gym.registry and isinstance(spec.entry_point, str):
                    # Whoever registers ids when imported would warn that they are there if it came later.
                    importlib.import_module(spec.entry_point.partition(":")[0].partition(".")[0])
                gym.registry.setdefault(spec.id, spec)
        made = cloudpickle.loads(self.builders[slot % len(self.builders)])
        env = made if isinstance(made, gym.Env) else made()
        return env if is_wrapped(env, Monitor) else Monitor(env)


def as_env(env: Any) -> Any:
    """
    Let a function that makes an environment stand for one, as ids, environments and ``VecEnv`` do in SB3.

    :param env: what the user passed
    :return: a ``VecEnv`` that keeps the function, or ``env`` itself
    """
    if callable(env) and not isinstance(env, gym.Env | VecEnv):
        return BuilderVecEnv([lambda: Monitor(env())])
    return env


def recipe_from(env: VecEnv) -> EnvRecipe:
    """
    Take the user's (vectorized) environment apart.

    :param env: the model's environment, as SB3 wrapped it
    :return: the recipe by which every slot gets its own copy
    :raises ValueError: naming the wrapper or environment that actors can't rebuild, and the way out
    """
    if not isinstance(env.observation_space, spaces.Box):
        raise ValueError(
            f"CA2E stores Box observations (vectors or images); this environment's are {env.observation_space}. "
            "Wrap it in gymnasium.wrappers.FlattenObservation, or use SB3's own algorithm."
        )
    base, wrappers = _unwrap(env)
    transpose, n_stack, stack_axis = False, 1, 0
    for wrapper in wrappers:
        if isinstance(wrapper, VecFrameStack):
            if n_stack > 1:
                raise ValueError("The environment has two VecFrameStack wrappers; keep one with the product of both.")
            n_stack = wrapper.stacked_obs.n_stack
            stack_axis = wrapper.stacked_obs.repeat_axis % len(wrapper.observation_space.shape or ())
        elif isinstance(wrapper, VecTransposeImage):
            transpose = not wrapper.skip
            if transpose:  # (height, width, channel) becomes (channel, height, width)
                stack_axis = (stack_axis + 1) % 3
        else:
            raise ValueError(
                f"Actors can't rebuild the wrapper {type(wrapper).__name__}; they know VecFrameStack and "
                "VecTransposeImage. Apply what it does as a gymnasium wrapper inside each environment instead."
            )
    return EnvRecipe(
        _builders(base), _registered(), env.observation_space, env.action_space, transpose, n_stack, stack_axis
    )


def _unwrap(env: VecEnv) -> tuple[DummyVecEnv, list[VecEnv]]:
    """The environment without its wrappers, and the wrappers, innermost first."""
    wrappers: list[VecEnv] = []
    while not isinstance(env, DummyVecEnv):
        if not hasattr(env, "venv"):
            raise ValueError(
                f"Actors can't copy environments out of a {type(env).__name__}. Pass an id, a gymnasium.Env, a "
                "function that makes one, or a DummyVecEnv (make_vec_env's default): CA2E runs them in processes of "
                "its own."
            )
        wrappers.insert(0, env)
        env = env.venv
    return env, wrappers


def _builders(base: DummyVecEnv) -> tuple[bytes, ...]:
    return tuple(_builder(*each) for each in zip(base.envs, getattr(base, "env_fns", base.envs), strict=True))


def _builder(env: gym.Env, made: gym.Env | Callable[[], gym.Env]) -> bytes:
    try:
        return _dumps(made)
    except Exception as error:
        what, way_out = ("it", "Pass a function that makes the environment instead, e.g. lambda: MyEnv(...)")
        if made is not env:
            what, way_out = ("the function that makes it", "Let that function make what it needs instead of holding it")
        raise ValueError(
            f"Actors need copies of {env}, and {what} can't be pickled ({type(error).__name__}: {error}). {way_out}, "
            "or give BuilderVecEnv from sb3_ca2e a list of such functions."
        ) from error


def _registered() -> tuple[bytes, ...]:
    """The ids that functions may hand to ``gym.make``, but that an actor would not know."""
    pickled = []
    for spec in gym.registry.values():
        entry = spec.entry_point
        module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
        if not module.startswith("gymnasium."):
            with contextlib.suppress(Exception):
                pickled.append(_dumps(spec))
    return tuple(pickled)


class _EnvPickler(cloudpickle.Pickler):
    """Makes the wrappers anew that hold an episode under way, or, as ``Monitor`` may, an open file."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Monitor):
            return Monitor, (obj.env, None, obj.allow_early_resets, obj.reset_keywords, tuple(obj.info_keywords))
        if type(obj) is EpisodicLifeEnv:
            return EpisodicLifeEnv, (obj.env,)
        return super().reducer_override(obj)


def _dumps(env: Any) -> bytes:
    buffer = io.BytesIO()
    _EnvPickler(buffer).dump(env)
    return buffer.getvalue()


class Observations:
    """
    The current observation of each slot of an actor, as one batch.

    Stacks frames exactly as SB3's ``VecFrameStack`` does: older frames first, zeros before an episode's first.

    :param recipe: the environment's recipe
    :param n_slots: slots of this actor
    """

    def __init__(self, recipe: EnvRecipe, n_slots: int):
        column = recipe.columns[OBSERVATION]
        self.column = column
        self._transpose = recipe.transpose
        self.batch = np.zeros((n_slots, *column.shape), dtype=column.dtype)
        frame_size = column.frame_shape[column.axis] if column.n_stack > 1 else 0
        before: tuple[slice, ...] = (slice(None),) * column.axis
        self._newest = (*before, slice(-frame_size, None)) if frame_size else ()
        self._older = (*before, slice(None, -frame_size))
        self._kept = (*before, slice(frame_size, None))

    def frame(self, raw: Any) -> np.ndarray:
        """
        :param raw: what the environment returned
        :return: the frame in the learner's layout
        """
        frame = np.asarray(raw, dtype=self.column.dtype)
        return frame.transpose(2, 0, 1) if self._transpose else frame

    def reset(self, slot: int, frame: np.ndarray) -> None:
        """Begin an episode.

        :param slot: position in the batch
        :param frame: its first frame
        """
        observation = self.batch[slot]
        observation[...] = 0
        observation[self._newest] = frame

    def push(self, slot: int, frame: np.ndarray) -> None:
        """
        Go one step on.

        :param slot: position in the batch
        :param frame: the newest frame
        """
        observation = self.batch[slot]
        if self.column.n_stack > 1:
            observation[self._older] = observation[self._kept].copy()
        observation[self._newest] = frame

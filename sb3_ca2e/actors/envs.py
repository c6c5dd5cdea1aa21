"""From the user's environment to a picklable builder for each slot, and to the observations that a slot sees."""

import contextlib
import dataclasses
import importlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_ca2e.actors.monitors import SlotMonitor, file_of
from sb3_ca2e.actors.normalization import Normalization
from sb3_ca2e.replay.block import OBSERVATION, ObservationColumn

#: Frames in a stack: how many of them belong to the episode is kept in a byte.
MOST_FRAMES = 256


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
    :param columns: how observations are stored: raw, in the learner's layout
    :param action_space: the environment's action space
    :param transposed: keys of images that come with their channels last and are turned around
    :param normalization: what a ``VecNormalize`` does, None without one
    :param ranges: smallest and largest values of each key that is discrete, in any shape
    :param monitor_file: monitor file of a ``VecMonitor``
    :param info_keywords: what a ``VecMonitor`` puts down with each episode
    :param env_id: the environment's id, if it has one
    """

    builders: tuple[bytes, ...]
    registered: tuple[bytes, ...]
    columns: dict[str, ObservationColumn]
    action_space: spaces.Space
    transposed: frozenset[str] = frozenset()
    normalization: Normalization | None = None
    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    monitor_file: str | None = None
    info_keywords: tuple[str, ...] = ()
    env_id: str | None = None

    @property
    def normalizes_frames(self) -> bool:
        """Whether a ``VecNormalize`` has statistics of single frames, which are stacked afterwards."""
        return self.normalization is not None and self.normalization.of_frames

    def build(self, slot: int, prior: bool = False) -> SlotMonitor:
        """
        Make the environment of a slot, with a :class:`Monitor` that counts whole, unclipped games.

        :param slot: index of the slot
        :param prior: a prior agent plays, which names of monitor files tell
        :return: the environment
        """
        for registered in self.registered:
            with contextlib.suppress(Exception):  # where it matters, gym.make will say that the id is unknown
                spec = cloudpickle.loads(registered)
                if spec.id not in gym.registry and isinstance(spec.entry_point, str):
                    # Whoever registers ids when imported would warn that they are there if it came later.
                    importlib.import_module(spec.entry_point.partition(":")[0].partition(".")[0])
                gym.registry.setdefault(spec.id, spec)

        def make() -> gym.Env:
            made: Any = cloudpickle.loads(self.builders[slot % len(self.builders)])
            env: gym.Env = made if isinstance(made, gym.Env) else made()
            return env

        return SlotMonitor(make, slot, prior, self.monitor_file, self.info_keywords)


def as_env(env: Any) -> Any:
    """
    Let a function that makes an environment stand for one, as ids, environments and ``VecEnv`` do in SB3.

    :param env: what the user passed
    :return: a ``VecEnv`` that keeps the function, or ``env`` itself
    """
    if callable(env) and not isinstance(env, gym.Env | VecEnv):
        return BuilderVecEnv([lambda: _monitored_once(env())])
    return env


def _monitored_once(env: gym.Env) -> gym.Env:
    return env if is_wrapped(env, Monitor) else Monitor(env)


def recipe_from(env: VecEnv) -> EnvRecipe:
    """
    Take the user's (vectorized) environment apart.

    :param env: the model's environment, as SB3 wrapped it
    :return: the recipe by which every slot gets its own copy
    :raises ValueError: naming the wrapper or environment that actors can't rebuild, and the way out
    :raises NotImplementedError: if SB3 does not support the observation space
    """
    get_obs_shape(env.observation_space)  # refuses spaces that SB3 does not support
    base, wrappers = _unwrap(env)
    n_stack, axes = 1, dict.fromkeys(_boxes(env.observation_space), 0)
    transposed: frozenset[str] = frozenset()
    normalize: VecNormalize | None = None
    of_frames = False
    file: str | None = None
    info_keywords: tuple[str, ...] = ()
    for wrapper in wrappers:
        if isinstance(wrapper, VecFrameStack):
            if n_stack > 1:
                raise ValueError("The environment has two VecFrameStack wrappers; keep one with the product of both.")
            n_stack, axes = wrapper.stacked_obs.n_stack, _stack_axes(wrapper)
            if n_stack > MOST_FRAMES:
                raise ValueError(f"VecFrameStack of {n_stack} frames: actors stack at most {MOST_FRAMES}; take fewer.")
            of_frames = normalize is not None
        elif isinstance(wrapper, VecTransposeImage):
            transposed = _transposed(wrapper)
            # (height, width, channel) becomes (channel, height, width)
            axes = {key: (axis + 1) % 3 if key in transposed else axis for key, axis in axes.items()}
        elif isinstance(wrapper, VecNormalize):
            if normalize is not None:
                raise ValueError("The environment has two VecNormalize wrappers; keep one.")
            normalize = wrapper
        elif isinstance(wrapper, VecMonitor):
            file, info_keywords = file_of(wrapper), tuple(wrapper.info_keywords)
        elif not isinstance(wrapper, VecCheckNan):
            raise ValueError(
                f"Actors can't rebuild the wrapper {type(wrapper).__name__}; they know VecFrameStack, "
                "VecTransposeImage, VecNormalize, VecMonitor and VecCheckNan. Apply what it does as a gymnasium "
                "wrapper inside each environment instead."
            )
    normalization = Normalization.of(normalize, of_frames) if normalize is not None else None
    if normalization is not None and transposed & normalization.shapes.keys():
        raise ValueError(
            f"VecNormalize normalises images ({', '.join(sorted(transposed))}), which policies scale themselves; "
            "give it norm_obs=False, or norm_obs_keys without them."
        )
    raw = _boxes(base.observation_space)
    columns = {key: column(box, raw[key], n_stack, axes[key]) for key, box in _boxes(env.observation_space).items()}
    ranges = {key: limits for key, part in raw.items() if (limits := _range(part)) is not None}
    builders, env_id = _builders(base)
    return EnvRecipe(
        builders,
        _registered(),
        columns,
        env.action_space,
        transposed,
        normalization,
        ranges,
        file,
        info_keywords,
        env_id,
    )


def _range(space: spaces.Space) -> tuple[np.ndarray, np.ndarray] | None:
    """The smallest and the largest values of a discrete space, None of any other."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape), np.ones(space.shape)
    return None


def _boxes(space: spaces.Space) -> dict[str, spaces.Space]:
    """The spaces of a ``Dict``, or a space that is none under the name of its only column."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}


def column(space: spaces.Space, raw: spaces.Space, n_stack: int, axis: int) -> ObservationColumn:
    """
    :param space: space of the learner's observations
    :param raw: space of the environment's, whose dtype is stored
    :param n_stack: frames in an observation
    :param axis: axis along which they are concatenated
    :return: how they are stored
    """
    shape = list(space.shape or ())
    if n_stack == 1:
        axis = 0  # without a meaning, and the same for all
    else:
        shape[axis] //= n_stack
    assert raw.dtype is not None
    return ObservationColumn(tuple(shape), np.dtype(raw.dtype), n_stack, axis)


def _stack_axes(wrapper: VecFrameStack) -> dict[str, int]:
    stacks = wrapper.stacked_obs
    parts = getattr(stacks, "sub_stacked_observations", {OBSERVATION: stacks})
    return {key: part.repeat_axis % len(part.stacked_shape) for key, part in parts.items()}


def _transposed(wrapper: VecTransposeImage) -> frozenset[str]:
    if wrapper.skip:
        return frozenset()
    return frozenset(getattr(wrapper, "image_space_keys", [OBSERVATION]))


def _unwrap(env: VecEnv) -> tuple[DummyVecEnv | SubprocVecEnv, list[VecEnv]]:
    """The environment without its wrappers, and the wrappers, innermost first."""
    wrappers: list[VecEnv] = []
    while not isinstance(env, DummyVecEnv | SubprocVecEnv):
        if not hasattr(env, "venv"):
            raise ValueError(
                f"Actors can't copy environments out of a {type(env).__name__}. Pass an id, a gymnasium.Env, a "
                "function that makes one, or a DummyVecEnv (make_vec_env's default): CA2E runs them in processes of "
                "its own."
            )
        wrappers.insert(0, env)
        env = env.venv
    return env, wrappers


def _builders(base: DummyVecEnv | SubprocVecEnv) -> tuple[tuple[bytes, ...], str | None]:
    """Builders of all environments, and the id of the first."""
    if isinstance(base, SubprocVecEnv):
        builders, ids = zip(*(_fetched(base, index) for index in range(base.num_envs)), strict=True)
        return builders, ids[0]
    made = getattr(base, "env_fns", base.envs)
    return tuple(_builder(*each) for each in zip(base.envs, made, strict=True)), _id(base.envs[0])


def _id(env: gym.Env) -> str | None:
    return env.spec.id if env.spec is not None else None


def _builder(env: gym.Env, made: gym.Env | Callable[[], gym.Env]) -> bytes:
    try:
        return _dumps(made)
    except Exception as error:
        what, way_out = ("it", "Pass a function that makes the environment instead, e.g. lambda: MyEnv(...)")
        if made is not env:
            what, way_out = ("the function that makes it", "Let that function make what it needs instead of holding it")
        raise ValueError(_no_copies(f"copies of {env}, and {what}", error, way_out)) from error


def _no_copies(of_what: str, error: Exception | str, way_out: str) -> str:
    reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return (
        f"Actors need {of_what} can't be pickled ({reason}). {way_out}, or give BuilderVecEnv from sb3_ca2e a list of "
        "such functions."
    )


def _fetched(base: SubprocVecEnv, index: int) -> tuple[bytes, str | None]:
    """A copy of the environment of a worker process, and its id."""
    base.env_is_wrapped(_Ask(), index)  # type: ignore[arg-type]
    copied = base.env_method("__enter__", indices=index)[0]  # gymnasium's returns the environment itself
    if isinstance(copied, str):
        name = f"copies of environment {index} of the SubprocVecEnv, and it"
        way_out = "Pass a function that makes the environment instead: CA2E runs it in processes of its own"
        raise ValueError(_no_copies(name, copied, way_out))
    builder, env_id = copied
    return builder, env_id


class _Ask:
    """
    Prepares a worker of a ``SubprocVecEnv`` when it arrives there.

    What a worker sends is pickled without cloudpickle, and what can't be pickled so ends it: an environment
    whose class comes from a script or a function, or a ``Monitor`` with its open file. This lets it send the
    copy that actors need in the place of the environment, or else the reason.
    """

    wanted = False

    def __reduce__(self) -> Any:
        return _prepare_worker, ()


def _prepare_worker() -> type[Monitor]:
    kinds: list[type] = [gym.Env]
    for kind in kinds:  # which grows meanwhile
        ForkingPickler.register(kind, _sent)
        kinds.extend(kind.__subclasses__())
    _Ask.wanted = True
    return Monitor  # what the worker is to look for among its wrappers; nobody reads its answer


def _sent(env: gym.Env) -> Any:
    """How a prepared worker pickles environments: a copy for actors the first time, as ever afterwards."""
    if not _Ask.wanted:
        return env.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    _Ask.wanted = False
    try:
        return tuple, ((_dumps(env), _id(env)),)
    except Exception as error:
        return str, (f"{type(error).__name__}: {error}",)


def _registered() -> tuple[bytes, ...]:
    """The ids that functions may hand to ``gym.make``, but that an actor would not know."""
    pickled = []
    for spec in gym.registry.values():
        entry = spec.entry_point
        module = entry if isinstance(entry, str) else getattr(entry, "__module__", "")
        if not module.startswith("gymnasium."):
            with contextlib.suppress(Exception):
                if isinstance(entry, str) and module.startswith("__main__"):
                    creator: Any = load_env_creator(entry)
                    spec = dataclasses.replace(spec, entry_point=creator)  # an actor's main module is another
                pickled.append(_dumps(spec))
    return tuple(pickled)


class _EnvPickler(cloudpickle.Pickler):
    """Makes the wrappers anew that hold an episode under way, or, as ``Monitor`` may, an open file."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Monitor):
            return Monitor, (
                obj.env,
                file_of(obj),
                obj.allow_early_resets,
                obj.reset_keywords,
                tuple(obj.info_keywords),
            )
        if type(obj) is EpisodicLifeEnv:
            return EpisodicLifeEnv, (obj.env,)
        return super().reducer_override(obj)


def _dumps(env: Any) -> bytes:
    buffer = io.BytesIO()
    _EnvPickler(buffer).dump(env)
    return buffer.getvalue()


class _Stack:
    """
    The current observation of one key for each slot of an actor.

    Stacks frames exactly as SB3's ``VecFrameStack`` does: older frames first, zeros before an episode's first.

    :param column: how it is stored
    :param n_slots: slots of this actor
    """

    def __init__(self, column: ObservationColumn, n_slots: int):
        self.column = column
        self.batch = np.zeros((n_slots, *column.shape), dtype=column.dtype)
        frame_size = column.frame_shape[column.axis] if column.n_stack > 1 else 0
        before: tuple[slice, ...] = (slice(None),) * column.axis
        self._newest: Any = (*before, slice(-frame_size, None)) if frame_size else ...
        self._older = (*before, slice(None, -frame_size))
        self._kept = (*before, slice(frame_size, None))

    def reset(self, slot: int, frame: np.ndarray) -> None:
        if self.column.n_stack > 1:
            self.batch[slot] = 0
        self.push(slot, frame, shift=False)

    def push(self, slot: int, frame: np.ndarray, shift: bool = True) -> None:
        if self.column.n_stack == 1:
            self.batch[slot] = frame
            return
        observation = self.batch[slot]
        if shift:
            observation[self._older] = observation[self._kept].copy()
        observation[self._newest] = frame


Frames = dict[str, np.ndarray]


class Observations:
    """
    The current observation of each slot of an actor, as one batch.

    :param recipe: the environment's recipe
    :param n_slots: slots of this actor
    """

    def __init__(self, recipe: EnvRecipe, n_slots: int):
        self.columns = recipe.columns
        self._ranges = recipe.ranges
        self._transposed = recipe.transposed
        self._stacks = {key: _Stack(column, n_slots) for key, column in recipe.columns.items()}
        self.batch = {key: stack.batch for key, stack in self._stacks.items()}

    def frames(self, raw: Any) -> Frames:
        """
        :param raw: what the environment returned
        :return: the frame of each key in the learner's layout
        :raises ValueError: if one does not fit the environment's observation space, or is not finite
        """
        parts = raw if isinstance(raw, dict) else {OBSERVATION: raw}
        if missing := [key for key in self.columns if key not in parts]:
            raise ValueError(
                f"The environment returned an observation without {missing[0]!r}, a key of its space. Correct the "
                "environment, or the space that it declares."
            )
        return {key: self._frame(key, column, parts[key]) for key, column in self.columns.items()}

    def _frame(self, key: str, column: ObservationColumn, raw: Any) -> np.ndarray:
        frame = np.asarray(raw)
        if key in self._transposed and frame.ndim == 3:
            frame = frame.transpose(2, 0, 1)
        name = "" if key == OBSERVATION else f" {key!r}"
        if frame.shape != column.frame_shape or not _holds(column.dtype, frame):
            raise ValueError(
                f"The environment returned an observation{name} of shape {np.shape(raw)} and dtype {frame.dtype}, "
                f"which does not fit its observation space (frames {column.frame_shape} of {column.dtype}). Correct "
                "the environment, or the space that it declares."
            )
        if column.dtype.kind == "f" and not np.isfinite(frame.astype(column.dtype, copy=False)).all():
            raise ValueError(
                f"The environment returned an observation{name} that is not finite, {frame}. Learning would be lost "
                "from there on: correct the environment, or let the episode end before its state diverges."
            )
        if key in self._ranges:
            low, high = self._ranges[key]
            if (frame < low).any() or (frame > high).any():
                raise ValueError(
                    f"The environment returned an observation{name} of {frame}, which lies outside of its observation "
                    f"space (from {low} to {high}). Correct the environment, or the space that it declares."
                )
        return frame

    def reset(self, slot: int, frames: Frames) -> None:
        """
        Begin an episode.

        :param slot: position in the batch
        :param frames: its first frame
        """
        for key, stack in self._stacks.items():
            stack.reset(slot, frames[key])

    def push(self, slot: int, frames: Frames) -> None:
        """
        Go one step on.

        :param slot: position in the batch
        :param frames: the newest frame
        """
        for key, stack in self._stacks.items():
            stack.push(slot, frames[key])

    def of(self, slot: int) -> Frames:
        """
        :param slot: position in the batch
        :return: a copy of its observation
        """
        return {key: batch[slot].copy() for key, batch in self.batch.items()}

    def past(self, slot: int) -> tuple[list[Frames], Frames]:
        """
        :param slot: position in the batch
        :return: the older frames of its observation, and the newest
        """
        n_stack = max(column.n_stack for column in self.columns.values())
        parts = {
            key: np.split(self.batch[key][slot], n_stack, column.axis) if n_stack > 1 else [self.batch[key][slot]]
            for key, column in self.columns.items()
        }
        *older, newest = [{key: part[i] for key, part in parts.items()} for i in range(n_stack)]
        return older, newest


def _holds(dtype: np.dtype, frame: np.ndarray) -> bool:
    """Whether the dtype of a space can hold the values that an environment returned, in whatever type."""
    if frame.dtype == dtype or frame.dtype.kind not in "biuf":
        return frame.dtype == dtype
    with np.errstate(invalid="ignore"):  # of NaN as a whole number
        return dtype.kind == "f" or bool((frame.astype(dtype) == frame).all())


def plain(observations: dict[str, Any]) -> Any:
    """
    :param observations: by key
    :return: as SB3's policies take them: a dictionary, or the only array
    """
    return observations.get(OBSERVATION, observations)

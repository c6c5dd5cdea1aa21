"""From the user's environment to a recipe by which each slot builds its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
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
from stable_baselines3.common.vec_env.patch_gym import _patch_env
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_ca2e.envs.action_masks import ActionMasks
from sb3_ca2e.envs.builder_vec_env import BuilderVecEnv
from sb3_ca2e.envs.calls import for_env
from sb3_ca2e.envs.copies import patches
from sb3_ca2e.envs.copies.generators import ProcessGenerators, renew
from sb3_ca2e.envs.copies.pickling import Builder, env_builder, fetched, function_builder, loaded, register, registered
from sb3_ca2e.envs.exact import overridden
from sb3_ca2e.envs.identity import EnvIdentity, identity_of_vec, layers_of
from sb3_ca2e.envs.native.vec_env import NativeVecEnv, built
from sb3_ca2e.envs.normalization import Normalization
from sb3_ca2e.envs.process_state import ProcessState
from sb3_ca2e.envs.slot_monitor import EpisodeFiles, SlotMonitor, file_of
from sb3_ca2e.envs.vector_slots import SharedVecEnv, VecEnvSlot
from sb3_ca2e.replay.block import ACTION_MASK, OBSERVATION, ObservationColumn, mask_column

#: Vectorized environments that actors can copy.
Base = DummyVecEnv | SubprocVecEnv | NativeVecEnv

#: Most frames in a stack: the number of those that belong to the episode is stored in a byte.
MOST_FRAMES = 256


@dataclass(frozen=True)
class EnvRecipe:
    """
    Everything that an actor needs to build a slot's environment and to see what the learner's policy sees.

    :param builders: pickled environments or functions; slot ``i`` uses ``builders[i % len(builders)]``. A native vector
        environment has one function, which makes the environments of all slots of a process
    :param registered: pickled specs of the ids that the user's process has registered beyond gymnasium's own
    :param columns: how observations are stored: raw, in the learner's layout
    :param action_space: the environment's action space
    :param transposed: keys of images whose channels are last and are moved first
    :param normalization: settings of a ``VecNormalize``, or None
    :param ranges: lowest and highest values of each discrete key, in any shape
    :param monitor_file: monitor file of a ``VecMonitor``
    :param info_keywords: entries of ``info`` that a ``VecMonitor`` logs with each episode
    :param identity: identity of the environment
    :param native: whether a native vector environment steps all slots of a process at once
    :param own: the user's own environments, one for each slot, stepped in the user's process instead of copies
    :param begun: what the reset of each of these returned, with which the slots begin
    :param patches: changes to the environments' classes, for processes that import the classes again
    :param process: settings of the user's process for actor processes, or None
    :param raises_on_nan: whether a ``VecCheckNan`` raises an exception
    :param calls: pickled calls that environments made by functions have to repeat, or None
    :param action_masks: how to read which actions are allowed
    """

    builders: tuple[Builder, ...]
    registered: tuple[bytes, ...]
    columns: dict[str, ObservationColumn]
    action_space: spaces.Space
    transposed: frozenset[str] = frozenset()
    normalization: Normalization | None = None
    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    monitor_file: str | None = None
    info_keywords: tuple[str, ...] = ()
    identity: EnvIdentity = field(default_factory=EnvIdentity)
    native: bool = False
    own: tuple[gym.Env, ...] = ()
    begun: tuple[Any, ...] = ()
    patches: tuple[bytes, ...] = ()
    process: ProcessState | None = None
    raises_on_nan: bool = False
    calls: Builder | None = None
    action_masks: ActionMasks = field(default_factory=ActionMasks)

    @property
    def stored_columns(self) -> dict[str, ObservationColumn]:
        """Columns of observations and, if there are any, of action masks."""
        if self.action_masks.source is None:
            return self.columns
        return {**self.columns, ACTION_MASK: mask_column(self.action_masks.n_actions)}

    @property
    def normalizes_frames(self) -> bool:
        """Whether a ``VecNormalize`` has statistics of single frames, which are stacked afterwards."""
        return self.normalization is not None and self.normalization.of_frames

    def env_of(self, slot: int) -> int:
        """
        Return which of the user's environments a slot stands for.

        :param slot: index of the slot
        :return: index of the environment
        """
        return slot % (len(self.own) or len(self.builders))

    def _repeat_calls(self, env: SlotMonitor | VecEnvSlot, slot: int) -> None:
        if self.calls is not None:
            for call in for_env(loaded(self.calls), self.env_of(slot)):
                call.carry_out(env)

    def build_together(self, slots: Sequence[int], priors: Sequence[bool], seed: int) -> SharedVecEnv | None:
        """
        Make the environments of all slots of a process, if they are stepped at once.

        :param slots: indices of the slots
        :param priors: whether a prior agent plays in each slot
        :param seed: seed of the first slot; the other slots follow
        :return: one environment for each slot, or None if :meth:`build` makes each
        """
        if not self.native:
            return None
        register(self.registered)
        venv = built(loaded(self.builders[0]), len(slots), seed)
        filenames = [self.monitor_file] if self.monitor_file is not None else []
        env_id = str(self.identity.env_id)
        filed = zip(slots, priors, strict=True)
        files = [EpisodeFiles(filenames, env_id, (), self.info_keywords, *each) for each in filed]
        together = SharedVecEnv(venv, files)
        for slot, seat in zip(slots, together.seats, strict=True):
            self._repeat_calls(seat, slot)
        return together

    def build(
        self, slot: int, prior: bool = False, seed: int = 0, process: ProcessGenerators | None = None
    ) -> SlotMonitor:
        """
        Make the environment of a slot, with a :class:`Monitor` that counts whole games with unclipped rewards.

        :param slot: index of the slot
        :param prior: whether a prior agent plays, which appears in the names of monitor files
        :param seed: seed of the environment's random generators
        :param process: the other random generators of this process
        :return: the environment
        """
        process = process or ProcessGenerators(alone=False)
        register(self.registered)

        def make() -> gym.Env:
            if self.own:
                return self.own[slot]
            if process.alone:
                patches.apply(self.patches)
            made: Any = loaded(self.builders[slot % len(self.builders)])
            done = renew(made, seed)
            if not isinstance(made, gym.Env):
                kept = process.of_user()
                made = _patch_env(made())
                done |= renew(made, seed, kept)
            process.renew(seed, done)
            env: gym.Env = made
            return env

        begun = self.begun[slot] if self.begun else None
        env = SlotMonitor(make, slot, prior, self.monitor_file, self.info_keywords, not self.own, begun)
        self._repeat_calls(env, slot)
        return env


def copies_of(base: Base, here: bool) -> tuple[tuple[Builder, ...], tuple[bytes, ...]]:
    """
    Pickle the environments, or the functions that make them.

    :param base: a vectorized environment without its wrappers
    :param here: whether they are loaded in this process
    :return: builders for :func:`loaded`, and for :func:`patches.apply` changes to the environments' classes
    :raises ValueError: if something can't be copied; the message names it and the remedy
    """
    if isinstance(base, NativeVecEnv):
        return (function_builder(base.build, "given to NativeVecEnv", here),), ()
    if isinstance(base, SubprocVecEnv):
        of_workers = [fetched(base, index) for index in range(base.num_envs)]
        changed = dict.fromkeys(patch for *_, own in of_workers for patch in own)
        return tuple(builder for builder, *_ in of_workers), tuple(changed)
    if isinstance(base, BuilderVecEnv) and base.makes_new:
        functions = [function_builder(each, "that makes the environment", here) for each in base.env_fns]
        return tuple(functions), patches.patches_of(base.kinds)
    return tuple(env_builder(env, here) for env in base.envs), patches.patches_of(patches.kinds_of(base.envs))


def _calls_to_repeat(base: Base, here: bool) -> Builder | None:
    """Pickle what was called on environments that functions make anew; copies of environments have it in them."""
    if isinstance(base, NativeVecEnv) or (isinstance(base, BuilderVecEnv) and base.makes_new):
        return base.journal.builder(here)
    return None


def identity_from(env: VecEnv) -> EnvIdentity:
    """
    Return the identity of the user's (vectorized) environment.

    :param env: the model's environment, as SB3 wrapped it
    :return: identity of the first of its environments
    """
    base, _ = unwrapped(env)
    if isinstance(base, SubprocVecEnv):
        return fetched(base, 0)[1]
    return base.identity if isinstance(base, BuilderVecEnv) and base.makes_new else identity_of_vec(base)


def recipe_from(
    env: VecEnv, copies: bool = True, own: bool = False, here: bool = False, begun: tuple[Any, ...] = ()
) -> EnvRecipe:
    """
    Build a recipe from the user's (vectorized) environment.

    :param env: the model's environment, as SB3 wrapped it
    :param copies: whether to make copies; otherwise the recipe only describes observations and actions
    :param here: whether the copies are for this process
    :param own: step the user's environments themselves, which are in this process, instead of copies
    :param begun: what :func:`~sb3_ca2e.envs.model_env.first_resets` returned for them
    :return: the recipe by which each slot builds its environment
    :raises ValueError: if actors can't rebuild a wrapper or an environment; the message names it and the remedy
    :raises NotImplementedError: if SB3 does not support the observation space
    """
    get_obs_shape(env.observation_space)  # refuses spaces that SB3 does not support
    base, wrappers = unwrapped(env)
    n_stack, axes = 1, dict.fromkeys(_boxes(env.observation_space), 0)
    transposed: frozenset[str] = frozenset()
    normalize: VecNormalize | None = None
    of_frames = raises_on_nan = False
    file: str | None = None
    info_keywords: tuple[str, ...] = ()
    for wrapper in wrappers:
        _check_exact(wrapper)
        if isinstance(wrapper, VecFrameStack):
            _check_exact(wrapper.stacked_obs)
            if n_stack > 1:
                raise ValueError("The environment has two VecFrameStack wrappers; keep one with the product of both.")
            n_stack, axes = wrapper.stacked_obs.n_stack, _stack_axes(wrapper)
            if n_stack > MOST_FRAMES:
                raise ValueError(f"VecFrameStack of {n_stack} frames: actors stack at most {MOST_FRAMES}; use fewer.")
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
        elif isinstance(wrapper, VecCheckNan):
            raises_on_nan = raises_on_nan or wrapper.raise_exception
        else:
            raise ValueError(
                f"Actors can't rebuild the wrapper {type(wrapper).__name__}; they know VecFrameStack, "
                "VecTransposeImage, VecNormalize, VecMonitor and VecCheckNan. Do the same in a gymnasium wrapper "
                "inside each environment instead."
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
    _check_exact(base)
    if copies and not own and isinstance(base, DummyVecEnv) and not getattr(base, "released", False):
        for each in base.envs:
            _refuse_running_statistics(each)
    builders, changed = copies_of(base, here) if copies and not own else ((), ())
    identity = identity_from(base) if copies else EnvIdentity()  # a worker pickles its environment to tell it
    native = isinstance(base, NativeVecEnv)
    return EnvRecipe(
        builders,
        registered() if builders else (),
        columns,
        env.action_space,
        transposed,
        normalization,
        ranges,
        file,
        info_keywords,
        identity,
        native,
        tuple(base.envs) if own and isinstance(base, DummyVecEnv) else (),
        begun,
        changed,
        ProcessState() if builders and not here else None,
        raises_on_nan,
        _calls_to_repeat(base, here) if builders else None,
        ActionMasks.of(base, env.action_space),
    )


def _refuse_running_statistics(env: gym.Env) -> None:
    """Refuse wrappers that keep running statistics, which would differ between copies."""
    for layer in layers_of(env):
        if isinstance(layer, _RUNNING) and layer.update_running_mean:
            raise ValueError(
                f"{type(layer).__name__} keeps statistics: each actor's copy would have its own, and {env} would get "
                "none of them. Use VecNormalize around the vectorized environment, whose statistics cover all actors."
            )


_RUNNING = (gym.wrappers.NormalizeObservation, gym.wrappers.NormalizeReward)


#: Classes that actors reimplement.
_KNOWN = (
    *(BuilderVecEnv, DummyVecEnv, SubprocVecEnv, NativeVecEnv),
    *(VecFrameStack, StackedObservations, VecTransposeImage, VecNormalize, VecMonitor, VecCheckNan),
)


def _check_exact(part: VecEnv | StackedObservations) -> None:
    """Refuse subclasses of the user's that actors would replace by their parent."""
    known = next((kind for kind in _KNOWN if isinstance(part, kind)), None)
    if known is not None and (name := overridden(part, known)) is not None:
        raise ValueError(
            f"Actors reimplement {known.__name__} and would leave out {name}, which overrides a part of it. Do the "
            "same in a gymnasium wrapper inside each environment instead."
        )


def _range(space: spaces.Space) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the lowest and highest values of a discrete space, None for any other."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape), np.ones(space.shape)
    return None


def _boxes(space: spaces.Space) -> dict[str, spaces.Space]:
    """Return the parts of a ``Dict`` space, or any other space under the name of its only column."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}


def column(space: spaces.Space, raw: spaces.Space, n_stack: int, axis: int) -> ObservationColumn:
    """
    Describe how an observation is stored.

    :param space: space of the learner's observations
    :param raw: space of the environment's observations, whose dtype is stored
    :param n_stack: number of frames in an observation
    :param axis: axis along which they are concatenated
    :return: the column
    """
    shape = list(space.shape or ())
    if n_stack == 1:
        axis = 0  # unused; equal for all columns
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


def unwrapped(env: VecEnv) -> tuple[Base, list[VecEnv]]:
    """
    Take the wrappers off that actors rebuild.

    :param env: a vectorized environment
    :return: the environment without them, and the wrappers, innermost first
    """
    wrappers: list[VecEnv] = []
    while not isinstance(env, Base):
        if not hasattr(env, "venv"):
            raise ValueError(
                f"Actors can't copy environments out of a {type(env).__name__}. Pass an id, a gymnasium.Env, a "
                "function that makes one, a DummyVecEnv (make_vec_env's default), or a NativeVecEnv from sb3_ca2e with "
                f"a function that makes a {type(env).__name__}: CA2E runs them in processes of its own."
            )
        wrappers.insert(0, env)
        env = env.venv
    return env, wrappers

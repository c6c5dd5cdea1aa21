"""Applies the preprocessing that an agent was trained with to observations of the learner's environment."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_ca2e.envs.identity import EnvIdentity
from sb3_ca2e.priors.trained_on import DEFAULT_TIME_LIMIT, TrainedOn
from sb3_ca2e.replay.block import OBSERVATION, plain

#: Wrappers that belong to environments: their effect shows in the observation space, or is invisible to policies.
OF_ENVIRONMENTS = frozenset({"AtariWrapper", "AtariPreprocessing", "Monitor", "TimeLimit"})
#: Key of dictionary observations to which TimeFeatureWrapper appends the time.
TIMED_KEY = "observation"
#: Sizes of Ant's observation: the part that agents up to Ant-v3 used; with contact forces, which were all zero then;
#: and the sizes of today's Ant, with 0, 78 or 84 contact forces.
ANT_SIZE, OLD_ANT_SIZE, ANT_SIZES = 27, 111, (27, 105, 111)


class State(NamedTuple):
    """
    State of a prior agent between steps.

    :param ages: ``(batch,)`` steps since the episode began
    :param stacks: by key ``(batch, *shape)`` stacked frames
    """

    ages: np.ndarray
    stacks: dict[str, np.ndarray]


class Preprocessing:
    """
    Converts raw observations of the learner's environment to those that an agent's policy was trained on.

    :param trained_on: preprocessing at training, from the agent's files
    :param own: observation space of the agent's policy
    :param live: the learner's observation space, with frames stacked if the learner stacks them
    :param identity: identity of the learner's environment
    :raises ValueError: if the observations can't be converted
    """

    def __init__(self, trained_on: TrainedOn, own: spaces.Space, live: spaces.Space, identity: EnvIdentity):
        _refuse_missing(trained_on, identity)
        self.trained_on = trained_on
        self._time_limit = identity.max_episode_steps or trained_on.time_limit or DEFAULT_TIME_LIMIT
        normalized_frames = trained_on.n_stack > 1 and trained_on.of_frames and trained_on.statistics is not None
        self._frames: dict[str, _Frame] = {}
        if trained_on.old_ant or normalized_frames or not alike(own, live):
            self._frames = self._frames_between(own, live)
        self._check_normalized(own, live)

    def _frames_between(self, own: spaces.Space, live: spaces.Space) -> "dict[str, _Frame]":
        """Determine how each part of an observation is converted, frame by frame."""
        parts = _parts(live)
        frames = {
            key: _Frame.between(self.trained_on, key, part, parts[key]) if key in parts else None
            for key, part in _parts(own).items()
        }
        known = {key: frame for key, frame in frames.items() if frame is not None}
        if type(own) is not type(live) or len(known) < len(frames):
            raise ValueError(_mismatch(self.trained_on, own, live))
        return known

    def _check_normalized(self, own: spaces.Space, live: spaces.Space) -> None:
        """Check the shapes of statistics by converting an observation of zeros."""
        observation = {key: np.zeros((1, *(part.shape or ())), part.dtype) for key, part in _parts(live).items()}
        try:
            made, _ = self(plain(observation), None, None)
        except ValueError as error:
            raise ValueError(f"{_mismatch(self.trained_on, own, live)} (its statistics: {error})") from error
        shapes = {key: array.shape[1:] for key, array in _arrays(made).items()}
        if any(shapes[key] != part.shape for key, part in _parts(own).items()):
            raise ValueError(_mismatch(self.trained_on, own, live))

    def __call__(
        self, observation: Any, state: State | None, episode_start: np.ndarray | None
    ) -> tuple[Any, State | None]:
        """
        Convert observations.

        :param observation: ``(batch, *shape)`` raw observations, or a dictionary of them
        :param state: state returned by the step before; None at the first
        :param episode_start: ``(batch,)`` whether an episode begins; None means only at the first step
        :return: input of the policy, and the state for the next step, None if there is none
        """
        arrays = _arrays(observation)
        if not self._frames:
            return plain(self._normalized(arrays)), None
        arrays = {key: _last(arrays[key], frame.size, frame.axis) for key, frame in self._frames.items()}
        n = len(next(iter(arrays.values())))
        if state is None:
            state, episode_start = State(np.zeros(n, dtype=np.int64), {}), np.ones(n, dtype=bool)
        starts = np.zeros(n, dtype=bool) if episode_start is None else np.asarray(episode_start, dtype=bool)
        ages = np.where(starts, 0, state.ages + 1)
        remaining = 1 - ages / self._time_limit
        arrays = {key: frame.changed(arrays[key], remaining) for key, frame in self._frames.items()}
        if self.trained_on.of_frames:
            arrays = self._normalized(arrays)
        stacks = {}
        if self.trained_on.n_stack > 1:
            for key, frame in self._frames.items():
                stacks[key] = frame.stacked(state.stacks.get(key), arrays[key], starts, self.trained_on.n_stack)
            arrays = stacks
        if not self.trained_on.of_frames:
            arrays = self._normalized(arrays)
        return plain(arrays), State(ages, stacks)

    def _normalized(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.trained_on.statistics is None:
            return arrays
        return _arrays(self.trained_on.statistics.normalize_obs(plain(arrays)))


@dataclass(frozen=True)
class _Frame:
    """
    How one frame of an observation becomes input of the policy.

    :param axis: axis along which frames are stacked, including the batch axis
    :param size: size of a raw frame along the axis
    :param timed: whether the time feature is appended
    :param old_ant: whether zeros replace contact forces
    """

    axis: int
    size: int
    timed: bool
    old_ant: bool

    @classmethod
    def between(cls, trained_on: TrainedOn, key: str, own: spaces.Space, live: spaces.Space) -> "_Frame | None":
        """
        Determine how frames are converted.

        :param trained_on: preprocessing at training, from the agent's files
        :param key: key of the observation
        :param own: the policy's space
        :param live: the learner's space
        :return: the conversion, None if there is none
        """
        if not (isinstance(own, spaces.Box) and isinstance(live, spaces.Box) and live.shape and own.shape):
            return None
        axis = 0 if is_image_space(own) else len(own.shape) - 1
        if is_image_space(own) != is_image_space(live) or _across(own, axis) != _across(live, axis):
            return None
        n_live, n_own = live.shape[axis], own.shape[axis] // trained_on.n_stack
        has_time = trained_on.time_limit is not None and key in (OBSERVATION, TIMED_KEY) and len(own.shape) == 1
        for timed in (True, False) if has_time else (False,):  # False: the environment already appends it
            old_ant = trained_on.old_ant and n_own - timed == OLD_ANT_SIZE
            for size in ANT_SIZES if old_ant else (n_own - timed,):
                if n_live in (size, size * trained_on.n_stack):
                    return cls(axis + 1, size, timed, old_ant)
        return None

    def changed(self, frames: np.ndarray, remaining: np.ndarray) -> np.ndarray:
        """
        Convert frames before normalisation.

        :param frames: ``(batch, *frame_shape)`` raw frames
        :param remaining: ``(batch,)`` remaining fraction of the episode's time
        :return: ``(batch, *frame_shape)`` frames as the agent was trained on, before normalisation
        """
        if self.old_ant:
            zeros = np.zeros((len(frames), OLD_ANT_SIZE - ANT_SIZE), dtype=frames.dtype)
            frames = np.concatenate([frames[:, :ANT_SIZE], zeros], axis=1)
        if self.timed:
            frames = np.concatenate([frames, remaining[:, None].astype(frames.dtype)], axis=1)
        return frames

    def stacked(self, older: np.ndarray | None, frames: np.ndarray, starts: np.ndarray, n_stack: int) -> np.ndarray:
        """
        Append frames to stacks, as ``VecFrameStack`` does: zeros before an episode's first frame.

        :param older: ``(batch, *shape)`` stacks of the step before, None at the first
        :param frames: ``(batch, *frame_shape)`` newest frames
        :param starts: ``(batch,)`` whether an episode begins
        :param n_stack: number of frames in a stack
        :return: ``(batch, *shape)`` new stacks
        """
        if older is None:
            older = np.concatenate([np.zeros_like(frames)] * n_stack, axis=self.axis)
        kept = _last(older, (n_stack - 1) * frames.shape[self.axis], self.axis)
        begins = starts.reshape(-1, *[1] * (frames.ndim - 1))
        return np.concatenate([np.where(begins, np.zeros_like(kept), kept), frames], axis=self.axis)


def alike(own: spaces.Space, live: spaces.Space) -> bool:
    """
    Compare a policy's space with an environment's; bounds of a Box may differ, images and vectors may not.

    :param own: space of the policy
    :param live: space of the environment
    :return: whether they are compatible
    """
    if isinstance(own, spaces.Dict) and isinstance(live, spaces.Dict):
        return own.keys() == live.keys() and all(alike(part, live[key]) for key, part in own.items())
    if isinstance(own, spaces.Box) and isinstance(live, spaces.Box):
        return own.shape == live.shape and is_image_space(own) == is_image_space(live)
    return own == live


def _refuse_missing(trained_on: TrainedOn, identity: EnvIdentity) -> None:
    present = OF_ENVIRONMENTS | identity.wrappers
    missing = [name for name in trained_on.wrappers if name.rpartition(".")[2] not in present]
    if missing:
        raise ValueError(
            f"was trained with {', '.join(missing)}, which this environment lacks and a prior agent can't add: it adds "
            "only TimeFeatureWrapper and frame stacks. Wrap the environment too."
        )


def _mismatch(trained_on: TrainedOn, own: spaces.Space, live: spaces.Space) -> str:
    steps = f" ({', '.join(trained_on.describe())})" if trained_on.describe() else ""
    return (
        f"was trained on observations {own}{steps}, this environment's are {live}. "
        "Give an agent of an environment with these spaces, or wrap the environment so that they agree."
    )


def _parts(space: spaces.Space) -> dict[str, spaces.Space]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {OBSERVATION: space}


def _arrays(observation: Any) -> dict[str, np.ndarray]:
    return observation if isinstance(observation, dict) else {OBSERVATION: np.asarray(observation)}


def _across(space: spaces.Box, axis: int) -> list[int]:
    return [n for each, n in enumerate(space.shape) if each != axis]


def _last(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Return the last entries along an axis."""
    return array[(slice(None),) * axis + (slice(array.shape[axis] - size, None),)]

"""Reads the statistics of a saved ``VecNormalize`` without executing anything in the file."""

import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_ca2e.priors.reader.archive import MIB, open_plain
from sb3_ca2e.priors.reader.arrays import array_of, number_of
from sb3_ca2e.priors.reader.errors import Unreadable, refusing
from sb3_ca2e.priors.reader.pickle_values import Call, Symbol, describe
from sb3_ca2e.priors.reader.pickles import decode
from sb3_ca2e.priors.reader.spaces import SYMBOLS as SPACE_SYMBOLS
from sb3_ca2e.replay.normalization import normalized

VEC_NORMALIZE = Symbol("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize")
RUNNING_MEAN_STD = Symbol("stable_baselines3.common.running_mean_std", "RunningMeanStd")

SYMBOLS = SPACE_SYMBOLS | {VEC_NORMALIZE, RUNNING_MEAN_STD}

MAX_FILE = MIB


@dataclass(frozen=True)
class Moments:
    """
    A running mean and variance in read-only arrays.

    :param mean: mean of each element
    :param var: variance of each element
    """

    mean: np.ndarray
    var: np.ndarray

    def __post_init__(self) -> None:
        finite = np.isfinite(self.mean).all() and np.isfinite(self.var).all()
        if self.mean.shape != self.var.shape or not finite or (self.var < 0).any():
            raise Unreadable("its running means and variances are invalid")
        self.mean.setflags(write=False)
        self.var.setflags(write=False)


@dataclass(frozen=True)
class NormalizationStatistics:
    """
    Fixed statistics and settings of SB3's ``VecNormalize``.

    :param observations: moments of observations, by key for dictionaries; None if they are not normalised
    :param returns: moments of discounted returns, which scale rewards; None if they are not scaled
    :param clip_obs: largest absolute value of a normalised observation
    :param clip_reward: largest absolute value of a normalised reward
    :param epsilon: added to variances to avoid division by zero
    :param gamma: discount of the returns
    """

    observations: Moments | Mapping[str, Moments] | None
    returns: Moments | None
    clip_obs: float
    clip_reward: float
    epsilon: float
    gamma: float

    @property
    def norm_obs(self) -> bool:
        """Whether observations are normalised."""
        return self.observations is not None

    @property
    def norm_obs_keys(self) -> list[str] | None:
        """Normalised keys of dictionary observations."""
        return list(self.observations) if isinstance(self.observations, Mapping) else None

    def normalize_obs(self, observation: Any) -> Any:
        """
        Normalise observations as ``VecNormalize.normalize_obs`` does.

        :param observation: ``(batch, *shape)`` raw observations, or a dictionary of them
        :return: the normalised observations
        """
        if self.observations is None:
            return observation
        if isinstance(self.observations, Moments):
            return self._normalized(observation, self.observations)
        changed = {key: self._normalized(observation[key], each) for key, each in self.observations.items()}
        return {**observation, **changed}

    def _normalized(self, values: np.ndarray, moments: Moments) -> np.ndarray:
        return normalized(values, moments.mean, moments.var, self.epsilon, self.clip_obs)


def read_vec_normalize(path: pathlib.Path) -> NormalizationStatistics:
    """
    Read the statistics in a file of ``VecNormalize.save`` without executing anything in it.

    :param path: path of the ``vecnormalize.pkl``
    :return: the statistics
    :raises UntrustedAgentError: if it can't be read this way; the message names the offending content
    :raises OSError: if the file can't be opened
    """
    with refusing(path):
        with open_plain(path, MAX_FILE) as file:
            value = decode(file.read(), SYMBOLS, "VecNormalize").value
        if not (isinstance(value, Call) and value.calls(VEC_NORMALIZE) and isinstance(value.state, dict)):
            raise Unreadable(f"it holds {describe(value)}, not a VecNormalize")
        state = value.state
        return NormalizationStatistics(
            _observation_moments(state) if _flag(state, "norm_obs") else None,
            _moments_of(state["ret_rms"]) if _flag(state, "norm_reward") else None,
            *(_positive(state, name) for name in ("clip_obs", "clip_reward", "epsilon", "gamma")),
        )


def _observation_moments(state: dict[str, Any]) -> Moments | Mapping[str, Moments]:
    found = state["obs_rms"]
    if not isinstance(found, dict):
        return _moments_of(found)
    keys = state.get("norm_obs_keys")
    chosen = list(found) if keys is None else keys  # before SB3 1.3 all entries were normalised
    if not isinstance(chosen, list) or not all(isinstance(key, str) and key in found for key in chosen):
        raise Unreadable(f"its norm_obs_keys are {describe(keys)}, not keys of its statistics")
    return {key: _moments_of(found[key]) for key in chosen}


def _moments_of(value: Any) -> Moments:
    if not (isinstance(value, Call) and value.calls(RUNNING_MEAN_STD) and isinstance(value.state, dict)):
        raise Unreadable(f"{describe(value)} is not a valid RunningMeanStd")
    mean, var = (_floats(value.state[name]) for name in ("mean", "var"))
    return Moments(mean, var)


def _floats(value: Any) -> np.ndarray:
    """Convert to an array: updates of a scalar mean leave plain numbers."""
    array = np.asarray(value) if isinstance(value, int | float) else array_of(value)
    return array.astype(np.float64)


def _flag(state: dict[str, Any], name: str) -> bool:
    if not isinstance(state[name], bool):
        raise Unreadable(f"its {name} is {describe(state[name])}")
    flag: bool = state[name]
    return flag


def _positive(state: dict[str, Any], name: str) -> float:
    number = float(number_of(state[name]))
    if math.isnan(number) or number <= 0:
        raise Unreadable(f"its {name} is {number}")
    return number

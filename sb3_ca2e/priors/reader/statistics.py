"""Reads the statistics of a saved ``VecNormalize`` without executing anything in the file."""

import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_ca2e.priors.reader import spaces
from sb3_ca2e.priors.reader.archive import MIB, open_plain
from sb3_ca2e.priors.reader.errors import Unreadable, refusing
from sb3_ca2e.priors.reader.pickles import Call, Symbol, decode, describe
from sb3_ca2e.priors.reader.spaces import array_of, number_of
from sb3_ca2e.replay.block import OBSERVATION, plain
from sb3_ca2e.replay.normalization import normalized
from sb3_ca2e.replay.stacks import by_key

VEC_NORMALIZE = Symbol("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize")
RUNNING_MEAN_STD = Symbol("stable_baselines3.common.running_mean_std", "RunningMeanStd")

SYMBOLS = spaces.SYMBOLS | {VEC_NORMALIZE, RUNNING_MEAN_STD}

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
    Fixed statistics and settings by which SB3's ``VecNormalize`` normalises observations.

    :param observations: moments of each key that is normalised; ``OBSERVATION`` for spaces without keys
    :param clip_obs: largest absolute value of a normalised observation
    :param epsilon: added to variances to avoid division by zero
    """

    observations: Mapping[str, Moments]
    clip_obs: float
    epsilon: float

    def normalize_obs(self, observation: Any) -> Any:
        """
        Normalise observations as ``VecNormalize.normalize_obs`` does.

        :param observation: ``(batch, *shape)`` raw observations, or a dictionary of them
        :return: the normalised observations
        """
        arrays = dict(by_key(observation))
        for key, each in self.observations.items():
            arrays[key] = normalized(arrays[key], each.mean, each.var, self.epsilon, self.clip_obs)
        return plain(arrays)


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
        return NormalizationStatistics(
            _observation_moments(value.state), _positive(value.state, "clip_obs"), _positive(value.state, "epsilon")
        )


def _observation_moments(state: dict[str, Any]) -> dict[str, Moments]:
    if not isinstance(state["norm_obs"], bool):
        raise Unreadable(f"its norm_obs is {describe(state['norm_obs'])}")
    if not state["norm_obs"]:
        return {}
    found, keys = state["obs_rms"], state.get("norm_obs_keys")
    if not isinstance(found, dict):
        return {OBSERVATION: _moments_of(found)}
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


def _positive(state: dict[str, Any], name: str) -> float:
    number = float(number_of(state[name]))
    if math.isnan(number) or number <= 0:
        raise Unreadable(f"its {name} is {number}")
    return number

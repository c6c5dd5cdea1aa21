"""The formula of SB3's ``VecNormalize``, for the statistics of the learner, of actors and of prior agents."""

from functools import partial

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.replay.block import OBSERVATION, ObservationColumn, plain
from sb3_ca2e.replay.stacks import by_key, each_frame


def normalized(
    values: np.ndarray, mean: np.ndarray | float, variance: np.ndarray, epsilon: float, clip: float
) -> np.ndarray:
    """
    Normalise as ``VecNormalize`` does.

    :param values: ``(batch, *shape)`` raw values
    :param mean: mean of each element
    :param variance: variance of each element
    :param epsilon: keeps divisors positive
    :param clip: largest absolute value of the result
    :return: ``(batch, *shape)`` float32
    """
    return np.asarray(np.clip((values - mean) / np.sqrt(variance + epsilon), -clip, clip), np.float32)


def observation_statistics(normalize: VecNormalize) -> dict[str, RunningMeanStd]:
    """
    Return the statistics of each observation key that has any.

    :param normalize: the user's wrapper
    :return: statistics by key
    """
    statistics = vars(normalize).get("obs_rms")  # missing if it was made with norm_obs=False
    return by_key(statistics) if statistics is not None else {}


def normalized_keys(normalize: VecNormalize) -> set[str]:
    """
    Return the observation keys that are normalised now; ``norm_obs`` and ``norm_obs_keys`` may be changed.

    :param normalize: the user's wrapper
    :return: the keys
    """
    if not normalize.norm_obs:
        return set()
    return {OBSERVATION} if normalize.norm_obs_keys is None else set(normalize.norm_obs_keys)


def normalize_observations(
    arrays: dict[str, np.ndarray],
    ages: np.ndarray,
    columns: dict[str, ObservationColumn],
    env: VecNormalize,
    of_frames: bool,
) -> dict[str, np.ndarray]:
    """
    Normalise observations as the user's wrapper does.

    :param arrays: for each key ``(batch, *shape)`` raw observations
    :param ages: ``(batch,)`` number of frames of the episode that precede each
    :param columns: how frames are stacked
    :param env: the user's wrapper
    :param of_frames: whether its statistics are of single frames, which are stacked afterwards
    :return: for each key ``(batch, *shape)``, float32 where there are statistics
    """
    statistics = observation_statistics(env)
    if of_frames:
        changed = dict(arrays)
        for key in normalized_keys(env):
            mean, variance = statistics[key].mean, statistics[key].var
            change = partial(normalized, mean=mean, variance=variance, epsilon=env.epsilon, clip=env.clip_obs)
            changed[key] = each_frame(change, arrays[key], ages, columns[key])
    else:
        changed = by_key(env.normalize_obs(plain(arrays)))
    # The dtype stays when a callback switches normalisation off, so that updates need not be compiled again.
    return {key: np.asarray(array, np.float32) if key in statistics else array for key, array in changed.items()}

"""
VecNormalize among many actors.

The memory stores raw data. The statistics live in the user's own ``VecNormalize``, which the learner updates with
exactly the data that it stores. Actors receive them with the parameters, and normalise as the learner does.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.replay.block import ObservationColumn
from sb3_ca2e.replay.normalization import normalized, observation_statistics
from sb3_ca2e.replay.stacks import each_frame


@dataclass(frozen=True)
class Normalization:
    """
    Settings of a ``VecNormalize``, without its statistics.

    :param shapes: shape of the statistics of each normalised observation key
    :param of_frames: whether the statistics are those of single frames, which are stacked afterwards
    :param norm_reward: whether rewards are divided by the standard deviation of returns
    :param clip_obs: largest absolute value of a normalised observation
    :param clip_reward: largest absolute value of a normalised reward
    :param epsilon: added to variances to keep divisors positive
    """

    shapes: dict[str, tuple[int, ...]]
    of_frames: bool
    norm_reward: bool
    clip_obs: float
    clip_reward: float
    epsilon: float

    @classmethod
    def of(cls, normalize: VecNormalize, of_frames: bool) -> "Normalization":
        """
        Read the settings of a ``VecNormalize``.

        :param normalize: the user's wrapper
        :param of_frames: whether a ``VecFrameStack`` lies above it
        :return: its settings
        """
        shapes = {key: tuple(rms.mean.shape) for key, rms in observation_statistics(normalize).items()}
        clip_obs, clip_reward = float(normalize.clip_obs), float(normalize.clip_reward)
        return cls(shapes, of_frames, normalize.norm_reward, clip_obs, clip_reward, float(normalize.epsilon))

    @property
    def size(self) -> int:
        """Number of elements of published statistics."""
        return sum(2 * int(np.prod(shape)) for shape in self.shapes.values()) + 1

    def views(self, statistics: np.ndarray) -> "Normalizer":
        """
        Return a normalizer that reads published statistics.

        :param statistics: ``(size,)`` float32, where statistics are written
        :return: the normalizer
        """
        return Normalizer(self, statistics)


class Normalizer:
    """
    Normalises with published statistics.

    :param normalization: settings
    :param statistics: ``(size,)`` float32, read at each call
    """

    def __init__(self, normalization: Normalization, statistics: np.ndarray):
        self.normalization = normalization
        self.moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        offset = 0
        for key, shape in normalization.shapes.items():
            n = int(np.prod(shape))
            mean, variance = statistics[offset : offset + 2 * n].reshape(2, *shape)
            self.moments[key] = mean, variance
            offset += 2 * n
        self._return_variance = statistics[offset:]

    def observations(
        self, batch: dict[str, np.ndarray], ages: np.ndarray, columns: dict[str, ObservationColumn]
    ) -> dict[str, np.ndarray]:
        """
        Normalise observations.

        :param batch: by key ``(batch, *shape)`` raw observations
        :param ages: ``(batch,)`` number of preceding frames of the episode
        :param columns: how observations are stacked
        :return: by key ``(batch, *shape)``, float32 where normalised
        """
        changed, how = dict(batch), self.normalization
        for key, (mean, variance) in self.moments.items():
            change = partial(normalized, mean=mean, variance=variance, epsilon=how.epsilon, clip=how.clip_obs)
            changed[key] = each_frame(change, batch[key], ages, columns[key]) if how.of_frames else change(batch[key])
        return changed

    def rewards(self, rewards: np.ndarray) -> np.ndarray:
        """
        Normalise rewards.

        :param rewards: raw rewards
        :return: rewards as the learner trains on them
        """
        if not self.normalization.norm_reward:
            return rewards
        how = self.normalization
        return normalized(rewards, 0.0, self._return_variance, how.epsilon, how.clip_reward)

"""
VecNormalize among many actors.

The memory keeps raw data. The statistics live in the user's own ``VecNormalize``, which the learner updates with
exactly what it stores; actors get them with the parameters, to see and to rate what the learner would.
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
    What a ``VecNormalize`` does, without its statistics.

    :param shapes: shape of the statistics of each observation key that is normalised
    :param of_frames: the statistics are of single frames, which are stacked afterwards
    :param norm_reward: rewards are divided by the standard deviation of returns
    :param clip_obs: largest absolute value of an observation
    :param clip_reward: largest absolute value of a reward
    :param epsilon: keeps divisors positive
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
        :param normalize: the user's wrapper
        :param of_frames: a ``VecFrameStack`` lies above it
        :return: what it does
        """
        shapes = {key: tuple(rms.mean.shape) for key, rms in observation_statistics(normalize).items()}
        clip_obs, clip_reward = float(normalize.clip_obs), float(normalize.clip_reward)
        return cls(shapes, of_frames, normalize.norm_reward, clip_obs, clip_reward, float(normalize.epsilon))

    @property
    def size(self) -> int:
        """Numbers that :func:`publish` gives."""
        return sum(2 * int(np.prod(shape)) for shape in self.shapes.values()) + 1

    def views(self, statistics: np.ndarray) -> "Normalizer":
        """
        :param statistics: ``(size,)`` float32, where published statistics are written
        :return: what applies them
        """
        return Normalizer(self, statistics)


class Normalizer:
    """
    Applies published statistics.

    :param normalization: what to do
    :param statistics: ``(size,)`` float32, read each time
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
        :param batch: for each key ``(batch, *shape)`` raw observations
        :param ages: ``(batch,)`` frames of the episode that precede each
        :param columns: how they are stacked
        :return: for each key ``(batch, *shape)``, float32 where normalised
        """
        changed, how = dict(batch), self.normalization
        for key, (mean, variance) in self.moments.items():
            change = partial(normalized, mean=mean, variance=variance, epsilon=how.epsilon, clip=how.clip_obs)
            changed[key] = each_frame(change, batch[key], ages, columns[key]) if how.of_frames else change(batch[key])
        return changed

    def rewards(self, rewards: np.ndarray) -> np.ndarray:
        """
        :param rewards: raw
        :return: as the learner trains on them
        """
        if not self.normalization.norm_reward:
            return rewards
        how = self.normalization
        return normalized(rewards, 0.0, self._return_variance, how.epsilon, how.clip_reward)

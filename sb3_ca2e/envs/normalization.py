"""
VecNormalize among many actors.

The memory stores raw data. The statistics live in the user's own ``VecNormalize``, which the learner updates with
exactly the data that it stores. Actors receive them with the parameters, and normalise as the learner does. They
receive its settings too, because a callback may change them.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.replay.block import ObservationColumn
from sb3_ca2e.replay.normalization import normalized, normalized_keys, observation_statistics
from sb3_ca2e.replay.stacks import each_frame


@dataclass(frozen=True)
class Normalization:
    """
    What of a ``VecNormalize`` stays as it is, so without its statistics and its settings.

    :param shapes: shape of the statistics of each observation key
    :param of_frames: whether the statistics are those of single frames, which are stacked afterwards
    """

    shapes: dict[str, tuple[int, ...]]
    of_frames: bool

    @classmethod
    def of(cls, normalize: VecNormalize, of_frames: bool) -> "Normalization":
        """
        Describe a ``VecNormalize``.

        :param normalize: the user's wrapper
        :param of_frames: whether a ``VecFrameStack`` lies above it
        :return: the description
        """
        shapes = {key: tuple(rms.mean.shape) for key, rms in observation_statistics(normalize).items()}
        return cls(shapes, of_frames)

    @property
    def size(self) -> int:
        """Number of elements that :meth:`publish` returns."""
        return sum(2 * int(np.prod(shape)) for shape in self.shapes.values()) + 1 + _N_SETTINGS + len(self.shapes)

    def publish(self, normalize: VecNormalize) -> np.ndarray:
        """
        Return the statistics and settings for actors.

        :param normalize: the user's wrapper, whose settings a callback may have changed
        :return: ``(size,)`` float32, for :meth:`views`
        """
        statistics, keys = observation_statistics(normalize), normalized_keys(normalize)
        moments = [np.ravel(part) for key in self.shapes for part in (statistics[key].mean, statistics[key].var)]
        settings = [normalize.norm_reward, normalize.clip_obs, normalize.clip_reward, normalize.epsilon]
        switches = [key in keys for key in self.shapes]
        return np.concatenate([*moments, [normalize.ret_rms.var], settings, switches]).astype(np.float32)

    def views(self, statistics: np.ndarray) -> "Normalizer":
        """
        Return a normalizer that reads what was published.

        :param statistics: ``(size,)`` float32, where :meth:`publish`'s result is written
        :return: the normalizer
        """
        return Normalizer(self, statistics)


#: Settings that are published besides a switch for each observation key: norm_reward, clip_obs, clip_reward, epsilon.
_N_SETTINGS = 4


class Normalizer:
    """
    Normalises with published statistics and settings.

    :param normalization: description of them
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
        self._return_variance = statistics[offset : offset + 1]
        self._settings = statistics[offset + 1 : offset + 1 + _N_SETTINGS]
        self._switches = statistics[offset + 1 + _N_SETTINGS :]

    def observations(
        self, batch: dict[str, np.ndarray], ages: np.ndarray, columns: dict[str, ObservationColumn]
    ) -> dict[str, np.ndarray]:
        """
        Normalise observations.

        :param batch: by key ``(batch, *shape)`` raw observations
        :param ages: ``(batch,)`` number of preceding frames of the episode
        :param columns: how observations are stacked
        :return: by key ``(batch, *shape)``, float32 where there are statistics
        """
        changed, of_frames = dict(batch), self.normalization.of_frames
        _, clip, _, epsilon = self._settings
        for (key, (mean, variance)), switched_on in zip(self.moments.items(), self._switches, strict=True):
            if not switched_on:
                changed[key] = np.asarray(batch[key], np.float32)
                continue
            change = partial(normalized, mean=mean, variance=variance, epsilon=epsilon, clip=clip)
            changed[key] = each_frame(change, batch[key], ages, columns[key]) if of_frames else change(batch[key])
        return changed

    def rewards(self, rewards: np.ndarray) -> np.ndarray:
        """
        Normalise rewards.

        :param rewards: raw rewards
        :return: rewards as the learner trains on them
        """
        norm_reward, _, clip, epsilon = self._settings
        return normalized(rewards, 0.0, self._return_variance, epsilon, clip) if norm_reward else rewards

"""Consecutive steps of actors as network input."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch as th

from sb3_ca2e.envs.normalization import Normalizer
from sb3_ca2e.replay.block import Frames, ObservationColumn, plain
from sb3_ca2e.replay.stacks import stacked


@dataclass
class Steps:
    """
    Blocks of slots as network input for :meth:`ActorCore.evaluate`, one after another.

    The rows of each block are followed by one for the frame that closes it.

    :param frames: for each block, by key ``(lead + n_rows + 1, *frame_shape)``
    :param ages: for each block ``(n_rows + 1,)``
    :param columns: how observations are stacked
    :param normalizer: the learner's normalisation, or None
    :param actions: ``(rows, action_dim)``, zero where no step was taken
    :param outputs: ``(rows, ...)`` outputs that :meth:`ActorCore.act` returned with the actions
    """

    frames: list[Frames]
    ages: list[np.ndarray]
    columns: dict[str, ObservationColumn]
    normalizer: Normalizer | None
    actions: th.Tensor
    outputs: th.Tensor

    @cached_property
    def observations(self) -> Any:
        """``(rows, ...)`` observations, built only for algorithms that need them."""
        blocks = list(zip(self.frames, self.ages, strict=True))
        batch = {
            key: np.concatenate([stacked(frames[key], ages, column) for frames, ages in blocks])
            for key, column in self.columns.items()
        }
        return as_tensors(batch, np.concatenate(self.ages), self.columns, self.normalizer)


def as_tensors(
    batch: Frames, ages: np.ndarray, columns: dict[str, ObservationColumn], normalizer: Normalizer | None
) -> Any:
    """
    Convert observations to network input.

    :param batch: by key ``(batch, *shape)`` raw observations
    :param ages: ``(batch,)`` number of preceding frames of the episode
    :param columns: how observations are stored
    :param normalizer: the learner's normalisation, or None
    :return: a tensor or a dictionary of tensors
    """
    if normalizer is not None:
        batch = normalizer.observations(batch, ages, columns)
    tensors: dict[str, Any] = {key: th.as_tensor(array) for key, array in batch.items()}
    return plain(tensors)


class ActorCore(Protocol):
    """The hooks of an algorithm that run in actors; see :class:`~sb3_ca2e.algorithms.base.CA2EMixin`."""

    @staticmethod
    def act(modules: dict[str, Any], observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]: ...

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: Steps) -> tuple[th.Tensor, th.Tensor]: ...

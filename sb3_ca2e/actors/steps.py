"""Consecutive steps of actors, as networks see them."""

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
    The blocks of slots as the networks see them, for :meth:`ActorCore.evaluate`, one behind the other. Behind the rows
    of each comes one for the frame that closes it.

    :param frames: of each block, for each key ``(lead + n_rows + 1, *frame_shape)``
    :param ages: of each block ``(n_rows + 1,)``
    :param columns: how observations are stacked
    :param normalizer: what the learner normalises with, or None
    :param actions: ``(rows, action_dim)``, zero where no step was taken
    :param outputs: ``(rows, ...)`` what :meth:`ActorCore.act` returned beside the actions
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
    :param batch: for each key ``(batch, *shape)`` raw observations
    :param ages: ``(batch,)`` frames of the episode that precede each
    :param columns: how they are stacked
    :param normalizer: what the learner normalises with, or None
    :return: what the networks take
    """
    if normalizer is not None:
        batch = normalizer.observations(batch, ages, columns)
    tensors: dict[str, Any] = {key: th.as_tensor(array) for key, array in batch.items()}
    return plain(tensors)


class ActorCore(Protocol):
    """The hooks of an algorithm that run in the actors; see :class:`~sb3_ca2e.algorithms.base.CA2EMixin`."""

    @staticmethod
    def act(modules: dict[str, Any], observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]: ...

    @staticmethod
    def evaluate(modules: dict[str, Any], steps: Steps) -> tuple[th.Tensor, th.Tensor]: ...

"""Observations by the keys of their columns, and frame stacks, built from consecutive rows and changed by frames."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sb3_ca2e.replay.block import OBSERVATION, ObservationColumn


def by_key(observations: Any) -> dict[str, Any]:
    """
    Return observations, or something about them, as a dictionary; see :func:`~sb3_ca2e.replay.block.plain`.

    :param observations: those of SB3, a dictionary only if the observation space is one
    :return: by key of the columns
    """
    return observations if isinstance(observations, dict) else {OBSERVATION: observations}


def stacked(frames: np.ndarray, ages: np.ndarray, column: ObservationColumn) -> np.ndarray:
    """
    Build the observations of consecutive rows: older frames first, zeros for frames before the episode's start.

    :param frames: ``(n_stack - 1 + n_rows, *frame_shape)`` frames of the rows, preceded by the lead frames
    :param ages: ``(n_rows,)`` number of frames of the episode that precede each row
    :param column: how frames are stacked
    :return: ``(n_rows, *shape)``
    """
    lead, n_rows = column.n_stack - 1, len(ages)
    if lead == 0:
        return frames
    parts = [_known(frames[lead - back : lead - back + n_rows], ages, back) for back in range(lead, -1, -1)]
    return np.concatenate(parts, axis=column.batch_axis)


def each_frame(
    change: Callable[[np.ndarray], np.ndarray], observations: np.ndarray, ages: np.ndarray, column: ObservationColumn
) -> np.ndarray:
    """
    Change the frames of stacks one by one; zeros for frames before the episode's start stay zero.

    :param change: takes and returns ``(batch, *frame_shape)``
    :param observations: ``(batch, *shape)``
    :param ages: ``(batch,)`` number of frames of the episode that precede each observation
    :param column: how frames are stacked
    :return: ``(batch, *shape)``
    """
    if column.n_stack == 1:
        return change(observations)
    parts = np.split(observations, column.n_stack, axis=column.batch_axis)
    backs = range(column.n_stack - 1, -1, -1)
    changed = [_known(change(part), ages, back) for part, back in zip(parts, backs, strict=True)]
    return np.concatenate(changed, axis=column.batch_axis)


def _known(frames: np.ndarray, ages: np.ndarray, back: int) -> np.ndarray:
    """Zero the frames, ``back`` steps before the observation, where the episode had not begun."""
    known = (ages >= back).reshape(-1, *[1] * (frames.ndim - 1))
    return np.where(known, frames, 0).astype(frames.dtype)

"""Conversion between the environment's actions and stored actions."""

from typing import Any

import numpy as np
from gymnasium import spaces


def stored_action(space: spaces.Space) -> tuple[tuple[int, ...], np.dtype]:
    """
    Return shape and dtype of a stored action.

    :param space: an action space
    :return: shape and dtype
    """
    if isinstance(space, spaces.Box):
        return (int(np.prod(space.shape)),), np.dtype(np.float32)
    return (1,), np.dtype(np.int64)


class ActionScale:
    """
    Converts between an environment's actions and stored ones; stored ``Box`` actions are flat and scaled to [-1, 1].

    :param space: the environment's action space
    """

    def __init__(self, space: spaces.Space):
        self._box = space if isinstance(space, spaces.Box) else None
        if self._box is not None:
            self._low, self._span = self._box.low, self._box.high - self._box.low

    def unscaled(self, stored: np.ndarray) -> list[Any]:
        """
        Convert stored actions to the environment's.

        :param stored: ``(slots, ...)`` stored actions
        :return: one action for each slot, NumPy scalars or arrays as in SB3; the environment may modify them
        """
        if self._box is None:
            return list(stored)
        return list(self._low + 0.5 * (stored.reshape(-1, *self._low.shape) + 1.0) * self._span)

    def bounded(self, action: Any) -> Any:
        """
        Clip an action to the environment's bounds.

        An agent trained with wider bounds must not exceed them: the stored action must be the one that was taken.

        :param action: action of an agent
        :return: the nearest valid action
        """
        return action if self._box is None else np.clip(action, self._box.low, self._box.high)

    def scaled(self, action: Any) -> Any:
        """
        Convert an environment's action to a stored one.

        :param action: action within the bounds
        :return: the stored action
        """
        if self._box is None:
            return action
        span = np.where(self._span > 0, self._span, 1)  # low == high must not give NaN
        return (2.0 * ((action - self._low) / span) - 1.0).reshape(-1)

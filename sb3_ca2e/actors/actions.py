"""Actions as environments take them, and as the learner stores them."""

from typing import Any

import numpy as np
from gymnasium import spaces


def stored_action(space: spaces.Space) -> tuple[tuple[int, ...], np.dtype]:
    """
    :param space: an action space
    :return: shape and dtype of an action as the learner stores it
    """
    if isinstance(space, spaces.Box):
        return (int(np.prod(space.shape)),), np.dtype(np.float32)
    return (1,), np.dtype(np.int64)


class ActionScale:
    """
    Between the actions of an environment and those that the learner stores, of a ``Box`` flat and scaled to [-1, 1].

    :param space: the environment's action space
    """

    def __init__(self, space: spaces.Space):
        self._box = space if isinstance(space, spaces.Box) else None
        if self._box is not None:
            self._low, self._span = self._box.low, self._box.high - self._box.low
            self._is_scaled = bool((self._low == -1).all() and (self._box.high == 1).all())

    def unscaled(self, stored: np.ndarray) -> list[Any]:
        """
        :param stored: ``(slots, ...)`` as the learner stores them
        :return: one for the environment of each slot, which may write into it: numbers are NumPy's, as SB3's are
        """
        if self._box is None:
            return list(stored)
        if self._is_scaled:
            return list(stored.reshape(-1, *self._low.shape).copy())
        return list(self._low + 0.5 * (stored.reshape(-1, *self._low.shape) + 1.0) * self._span)

    def bounded(self, action: Any) -> Any:
        """
        An agent trained with wider bounds must not leave the environment's: what is stored is what was done.

        :param action: of an agent
        :return: the nearest that the environment takes
        """
        return action if self._box is None else np.clip(action, self._box.low, self._box.high)

    def scaled(self, action: Any) -> Any:
        """
        :param action: of the environment, within its bounds
        :return: as the learner stores it
        """
        if self._box is None:
            return action
        span = np.where(self._span > 0, self._span, 1)  # what can't be chosen must not become NaN
        return (2.0 * ((action - self._low) / span) - 1.0).reshape(-1)

"""Counts invalid steps (with numbers that are not finite), which are left out."""

import math
from typing import Any

import numpy as np

from sb3_ca2e.errors import NotFiniteError, UnrecoverableError

#: Consecutive refused steps after which a slot is given up.
MOST_IN_A_ROW = 10
#: Consecutive failures after which a prior agent is given up.
PRIOR_FAILURES = 3
#: Rewards are stored as float32.
LARGEST_REWARD = float(np.finfo(np.float32).max)


class InvalidSteps:
    """
    Counts refused steps and refused first observations of episodes, for each slot of a process.

    :param n_slots: number of slots of the process
    """

    def __init__(self, n_slots: int):
        #: by position of the slot: number since its last valid step
        self.in_a_row = [0] * n_slots
        #: by position of the slot: number in this block, and the reason for the last
        self.of_block: dict[int, tuple[int, str]] = {}

    def accepted(self, position: int) -> None:
        """
        Note a valid step.

        :param position: position of the slot
        """
        self.in_a_row[position] = 0

    def refused(self, position: int, error: NotFiniteError) -> None:
        """
        Count a refused step.

        :param position: position of the slot
        :param error: why it was refused
        :raises UnrecoverableError: if too many in a row were refused
        """
        self.in_a_row[position] += 1
        count, _ = self.of_block.get(position, (0, ""))
        self.of_block[position] = count + 1, str(error)
        if self.in_a_row[position] >= MOST_IN_A_ROW:
            raise UnrecoverableError(f"{error} This happened {MOST_IN_A_ROW} times in a row.") from error


def finite_reward(reward: Any) -> float:
    """
    Convert a reward to a float.

    :param reward: what an environment returned
    :return: the reward
    :raises NotFiniteError: if it is not finite, or too large for float32, in which it is stored
    :raises UnrecoverableError: if it is not a number
    """
    try:
        value = float(reward)
    except (TypeError, ValueError) as error:
        raise UnrecoverableError(
            f"The environment returned the reward {reward!r}, which is not a number. Correct the environment."
        ) from error
    if not abs(value) <= LARGEST_REWARD:
        raise NotFiniteError(
            f"The environment returned the reward {value}. Rewards must be finite, as learning would not recover "
            "from it: correct the environment, or let the episode end before its state diverges."
        )
    return value


def not_finite(actions: np.ndarray) -> list[int]:
    """
    Find actions that are not finite.

    :param actions: ``(slots, ...)`` stored actions
    :return: positions of the slots whose actions are not finite
    """
    # The sum of squares takes a third of the time of isfinite(...).all(), but may overflow for finite numbers.
    if actions.dtype.kind != "f" or math.isfinite(np.vdot(actions, actions)) or np.isfinite(actions).all():
        return []
    positions: list[int] = np.flatnonzero(~np.isfinite(actions).reshape(len(actions), -1).all(axis=1)).tolist()
    return positions

"""What slots give that can't be learned from: steps with numbers that are not finite are left out, and counted."""

import math
from typing import Any

import numpy as np

from sb3_ca2e.errors import NotFiniteError, UnrecoverableError

#: A slot of which so many steps in a row were refused will give no others.
MOST_IN_A_ROW = 10
#: A prior agent that fails so often in a row is of no use.
PRIOR_FAILURES = 3
#: Rewards are kept in float32.
LARGEST_REWARD = float(np.finfo(np.float32).max)


class InvalidSteps:
    """
    The steps, and the first observations of episodes, that were refused in a block of each slot of a process.

    :param n_slots: slots of the process
    """

    def __init__(self, n_slots: int):
        #: by position of the slot, how many since its last step that can be learned from
        self.in_a_row = [0] * n_slots
        #: by position of the slot: how many, and why the last one was
        self.of_block: dict[int, tuple[int, str]] = {}

    def accepted(self, position: int) -> None:
        """
        :param position: of a slot whose step can be learned from
        """
        self.in_a_row[position] = 0

    def refused(self, position: int, error: NotFiniteError) -> None:
        """
        :param position: of a slot
        :param error: what was wrong
        :raises UnrecoverableError: if nothing else comes from it any more
        """
        self.in_a_row[position] += 1
        count, _ = self.of_block.get(position, (0, ""))
        self.of_block[position] = count + 1, str(error)
        if self.in_a_row[position] >= MOST_IN_A_ROW:
            raise UnrecoverableError(f"{error} This was the {MOST_IN_A_ROW}. time in a row.") from error


def finite_reward(reward: Any) -> float:
    """
    :param reward: what an environment returned
    :return: the number
    :raises NotFiniteError: if it is none that float32, in which it is kept, can hold
    :raises UnrecoverableError: if it is no number
    """
    try:
        value = float(reward)
    except (TypeError, ValueError) as error:
        raise UnrecoverableError(
            f"The environment returned the reward {reward!r}, which is not a number. Correct the environment."
        ) from error
    if not abs(value) <= LARGEST_REWARD:
        raise NotFiniteError(
            f"The environment returned the reward {value}. Rewards must be finite, and learning would be lost from "
            "there on: correct the environment, or let the episode end before its state diverges."
        )
    return value


def not_finite(actions: np.ndarray) -> list[int]:
    """
    :param actions: ``(slots, ...)`` as the learner stores them
    :return: positions of the slots whose actions are not finite
    """
    # The sum of squares takes a third of the time of isfinite and all; of finite numbers it may be infinite.
    if actions.dtype.kind != "f" or math.isfinite(np.vdot(actions, actions)) or np.isfinite(actions).all():
        return []
    positions: list[int] = np.flatnonzero(~np.isfinite(actions).reshape(len(actions), -1).all(axis=1)).tolist()
    return positions

"""
What the environments of an actor return, checked: observations as one batch, rewards, action masks, counts of invalid
steps.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_ca2e.envs.action_masks import INFO, METHOD, ActionMasks, booleans
from sb3_ca2e.errors import NotFiniteError, UnrecoverableError
from sb3_ca2e.replay.block import ACTION_MASK, OBSERVATION, Frames, ObservationColumn

if TYPE_CHECKING:
    from sb3_ca2e.envs.recipe import EnvRecipe
    from sb3_ca2e.priors.loaded import LoadedPrior

#: Consecutive refused steps after which a slot is given up.
MOST_IN_A_ROW = 10
#: Consecutive failures after which a prior agent is given up.
PRIOR_FAILURES = 3
#: Rewards are stored as float32.
LARGEST_REWARD = float(np.finfo(np.float32).max)


class _Stack:
    """
    The current observation of one key for each slot of an actor.

    Stacks frames exactly as SB3's ``VecFrameStack`` does: older frames first, zeros before an episode's first.

    :param column: how it is stored
    :param n_slots: number of slots of this actor
    :param any_value: whether all finite values of the dtype belong to the space
    """

    def __init__(self, column: ObservationColumn, n_slots: int, any_value: bool):
        self.column = column
        self.batch = np.zeros((n_slots, *column.shape), dtype=column.dtype)
        frame_size = column.frame_shape[column.axis] if column.n_stack > 1 else 0
        before: tuple[slice, ...] = (slice(None),) * column.axis
        self.newest = self.batch[(slice(None), *before, slice(-frame_size, None))] if frame_size else self.batch
        self._older = (*before, slice(None, -frame_size))
        self._kept = (*before, slice(frame_size, None))
        self._zeros = np.zeros(column.frame_shape, column.dtype) if column.dtype.kind == "f" else None
        self._any_value = any_value

    def accepts(self, raw: Any) -> bool:
        """Whether a quick check shows that an observation is a valid frame."""
        if not self._any_value or type(raw) is not np.ndarray:
            return False
        # Compare with ==: a dtype unpickled from another process is equal but not identical.
        if raw.dtype != self.column.dtype or raw.shape != self.column.frame_shape:
            return False
        # Zero times NaN or infinity is not zero. This is much faster than isfinite(...).all() and gives no warning.
        return self._zeros is None or bool(np.vdot(raw, self._zeros) == 0.0)

    def reset(self, slot: int, frame: np.ndarray) -> None:
        if self.column.n_stack > 1:
            self.batch[slot] = 0
        self.push(slot, frame, shift=False)

    def push(self, slot: int, frame: np.ndarray, shift: bool = True) -> None:
        if self.column.n_stack == 1:
            self.batch[slot] = frame
            return
        if shift:
            observation = self.batch[slot]
            observation[self._older] = observation[self._kept].copy()
        self.newest[slot] = frame


class Observations:
    """
    The current observation of each slot of an actor, as one batch.

    :param recipe: the environment's recipe
    :param n_slots: number of slots of this actor
    """

    def __init__(self, recipe: "EnvRecipe", n_slots: int):
        self.columns = recipe.columns
        self._ranges = recipe.ranges
        self._transposed = recipe.transposed
        self._stacks = {
            key: _Stack(column, n_slots, key not in recipe.ranges) for key, column in recipe.columns.items()
        }
        self._only = self._stacks.get(OBSERVATION)
        self.batch = {key: stack.batch for key, stack in self._stacks.items()}
        #: newest frames by key, ``(slots, *frame_shape)``, views of the batch; with action masks, also those
        self.newest = {key: stack.newest for key, stack in self._stacks.items()}
        #: ``(slots, n_actions)`` bool, which actions each observation allows; None without action masks
        self.action_masks: np.ndarray | None = None
        if (mask := recipe.stored_columns.get(ACTION_MASK)) is not None:
            self.newest[ACTION_MASK] = self.action_masks = np.ones((n_slots, *mask.shape), mask.dtype)

    @property
    def held(self) -> dict[str, np.ndarray]:
        """Everything that a resumed actor needs: the observations by key and, if there are any, the action masks."""
        return self.batch if self.action_masks is None else {**self.batch, ACTION_MASK: self.action_masks}

    def frames(self, raw: Any) -> Frames:
        """
        Convert an observation to frames.

        :param raw: observation that the environment returned
        :return: frame of each key in the learner's layout
        :raises UnrecoverableError: if it does not fit the observation space
        :raises NotFiniteError: if it is not finite
        """
        parts = raw if isinstance(raw, dict) else {OBSERVATION: raw}
        if missing := [key for key in self.columns if key not in parts]:
            raise UnrecoverableError(
                f"The environment returned an observation without {missing[0]!r}, a key of its space. Correct the "
                "environment, or the space that it declares."
            )
        return {key: self._frame(key, column, parts[key]) for key, column in self.columns.items()}

    def _frame(self, key: str, column: ObservationColumn, raw: Any) -> np.ndarray:
        frame = np.asarray(raw)
        if key in self._transposed and frame.ndim == 3:
            frame = frame.transpose(2, 0, 1)
        name = "" if key == OBSERVATION else f" {key!r}"
        if frame.shape != column.frame_shape or not _holds(column.dtype, frame):
            raise UnrecoverableError(
                f"The environment returned an observation{name} of shape {np.shape(raw)} and dtype {frame.dtype}, "
                f"which does not fit its observation space (frames {column.frame_shape} of {column.dtype}). Correct "
                "the environment, or the space that it declares."
            )
        if column.dtype.kind == "f" and not np.isfinite(frame.astype(column.dtype, copy=False)).all():
            raise NotFiniteError(
                f"The environment returned an observation{name} that is not finite, {frame}. Learning would not "
                "recover from it: correct the environment, or let the episode end before its state diverges."
            )
        if key in self._ranges:
            low, high = self._ranges[key]
            if (frame < low).any() or (frame > high).any():
                raise UnrecoverableError(
                    f"The environment returned an observation{name} of {frame}, which lies outside of its observation "
                    f"space (from {low} to {high}). Correct the environment, or the space that it declares."
                )
        return frame

    def reset(self, slot: int, raw: Any) -> None:
        """
        Begin an episode.

        :param slot: position in the batch
        :param raw: first observation
        :raises ValueError: as :meth:`frames`; nothing has changed then
        """
        for key, frame in self.frames(raw).items():
            self._stacks[key].reset(slot, frame)

    def push(self, slot: int, raw: Any) -> None:
        """
        Advance by one step.

        :param slot: position in the batch
        :param raw: observation that the environment returned
        :raises ValueError: as :meth:`frames`; nothing has changed then
        """
        stack = self._only
        if stack is not None and stack.accepts(raw):
            stack.push(slot, raw)
            return
        for key, frame in self.frames(raw).items():
            self._stacks[key].push(slot, frame)

    def of(self, slot: int) -> Frames:
        """
        Copy the observation of a slot.

        :param slot: position in the batch
        :return: the observation by key
        """
        return {key: batch[slot].copy() for key, batch in self.batch.items()}

    def older(self, slot: int) -> list[Frames]:
        """
        Return all stacked frames of a slot except the newest.

        :param slot: position in the batch
        :return: frames, oldest first
        """
        n_stack = max(column.n_stack for column in self.columns.values())
        parts = {key: np.split(self.batch[key][slot], n_stack, column.axis) for key, column in self.columns.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(n_stack - 1)]


def _holds(dtype: np.dtype, frame: np.ndarray) -> bool:
    """Whether a dtype can represent the values of an observation exactly; any floating-point dtype counts."""
    if frame.dtype == dtype or frame.dtype.kind not in "biuf":
        return frame.dtype == dtype
    with np.errstate(invalid="ignore"):  # of NaN as a whole number
        return dtype.kind == "f" or bool((frame.astype(dtype) == frame).all())


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


def allowed_actions(masks: ActionMasks, env: Any, info: Any) -> np.ndarray | None:
    """
    Return which actions an environment allows now.

    :param masks: how to read them
    :param env: environment that has just been reset or stepped
    :param info: the info that it returned
    :return: ``(n_actions,)`` bool; None without action masks
    :raises UnrecoverableError: if the environment gives no valid mask, or one where none was expected
    """
    in_info = isinstance(info, dict) and INFO in info
    if masks.source is None:
        if in_info and masks.n_actions:
            raise UnrecoverableError(
                f"The environment returned info[{INFO!r}], but its first reset() did not. For action masks, return it "
                f"with each reset() and step(), or give the environment a method {METHOD}(). To allow all actions, "
                "remove it from the infos in a wrapper."
            )
        return None
    if masks.source == "info":
        if not in_info:
            raise UnrecoverableError(
                f"The environment returned an info without {INFO!r}, which an earlier one had. Return it with each "
                "reset() and step(), except where the episode terminates."
            )
        return _valid_mask(masks, info[INFO])
    method = env.get_wrapper_attr(METHOD)
    if not callable(method):
        raise UnrecoverableError(f"The environment's {METHOD} is {method!r}, but must be a method without arguments.")
    return _valid_mask(masks, method())


def _valid_mask(masks: ActionMasks, raw: Any) -> np.ndarray:
    """Convert a mask to booleans; refuse any that does not say which actions are allowed, or allows none."""
    mask = np.asarray(raw)
    allowed = booleans(mask) if mask.shape == (masks.n_actions,) else None
    if allowed is None:
        raise UnrecoverableError(
            f"The action mask from {masks} is {raw!r}, expected an array of {masks.n_actions} booleans (or 0 and 1), "
            "one for each action, True where it is allowed. Correct the environment."
        )
    if not allowed.any():
        raise UnrecoverableError(
            f"The action mask from {masks} allows no action. Let the episode terminate where no action is left, or "
            "allow one that does nothing."
        )
    return allowed


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


def unsound_action(prior: "LoadedPrior | None") -> str:
    """
    Describe an action that is not finite.

    :param prior: the prior agent that chose it; None for the learner's policy
    :return: text for a message
    """
    if prior is not None:
        return f"The prior agent {prior.name} chose an action that is not finite: use another one."
    return (
        "The learner's policy chose an action that is not finite. Lower the learning rates, or bound observations "
        "and rewards."
    )

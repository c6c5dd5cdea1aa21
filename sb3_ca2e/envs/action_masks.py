"""Which actions an environment allows: where it says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_ca2e.envs.builder_vec_env import ACTION_MASKS as METHOD
from sb3_ca2e.envs.builder_vec_env import BuilderVecEnv
from sb3_ca2e.envs.native.vec_env import NativeVecEnv

#: Entry of the infos of ``reset`` and ``step``, as in gymnasium's Taxi.
INFO = "action_mask"


@dataclass(frozen=True)
class ActionMasks:
    """
    How to read which actions an environment allows.

    :param n_actions: number of actions; 0 if they are not discrete, and masks are not read
    :param source: whether a method or the infos of ``reset`` and ``step`` tell; None if all actions are allowed
    """

    n_actions: int = 0
    source: Literal["method", "info"] | None = None

    @classmethod
    def of(cls, base: VecEnv, action_space: spaces.Space) -> Self:
        """
        Look for action masks.

        :param base: a vectorized environment without its wrappers; the infos of its last reset are considered
        :param action_space: its action space
        :return: how to read its masks
        :raises ValueError: if it is a native vector environment whose environments have the method
        """
        if not isinstance(action_space, spaces.Discrete):
            return cls()
        n_actions = int(action_space.n)
        if _has_method(base):
            if isinstance(base, NativeVecEnv):
                raise ValueError(
                    f"The environments in a NativeVecEnv have a method {METHOD}(), but are reset before it could be "
                    "asked for the last observation of an episode: give the masks in the infos of reset() and step(), "
                    f"as info[{INFO!r}], or pass the environment itself."
                )
            return cls(n_actions, "method")
        in_info = any(isinstance(info, dict) and INFO in info for info in reset_infos(base))
        return cls(n_actions, "info" if in_info else None)

    def __str__(self) -> str:
        return f"the environment's method {METHOD}()" if self.source == "method" else f"info[{INFO!r}]"


def booleans(masks: np.ndarray) -> np.ndarray | None:
    """
    Convert action masks to booleans, but no logits or counts, whose truth values may mean the opposite.

    :param masks: booleans, or 0 and 1
    :return: bool, of the same shape; None if there are other values
    """
    allowed = masks.astype(np.bool_) if masks.dtype.kind in "biuf" else masks
    return allowed if allowed.dtype == np.bool_ and (masks == allowed).all() else None


def batch_of_masks(action_masks: Any, n_rows: int, n_actions: int) -> np.ndarray:
    """
    Check action masks that a user passes with observations.

    :param action_masks: ``(n_rows, n_actions)`` booleans, or 0 and 1; any shape with as many elements
    :param n_rows: number of observations
    :param n_actions: number of actions
    :return: ``(n_rows, n_actions)`` bool
    :raises ValueError: if there are more or fewer, or other values, or a row allows no action
    """
    given = np.asarray(action_masks)
    if given.size != n_rows * n_actions or given.shape[-1:] != (n_actions,):
        raise ValueError(
            f"action_masks has the shape {given.shape}, expected {(n_rows, n_actions)}: one boolean for each of "
            f"{n_actions} actions with each of {n_rows} observations."
        )
    masks = booleans(given.reshape(n_rows, n_actions))
    if masks is None:
        raise ValueError(
            f"action_masks is {action_masks!r}, expected booleans (or 0 and 1), one for each action, True where it is "
            "allowed. Convert logits of 0 and -inf, for example, with np.isfinite()."
        )
    if not masks.any(axis=1).all():
        raise ValueError("action_masks allows no action for an observation: mark at least one in each row.")
    return masks


def reset_infos(venv: VecEnv) -> Sequence[Any]:
    """
    Return the infos of the last resets in a vectorized environment.

    :param venv: the vectorized environment; wrappers are passed over
    :return: one for each environment
    """
    return getattr(venv.unwrapped, "reset_infos", None) or [{}] * venv.num_envs


def _has_method(base: VecEnv) -> bool:
    if isinstance(base, BuilderVecEnv) and base.makes_new:
        return base.has_action_masks  # its environments may have been released
    # Others may answer anything for an attribute that they do not have.
    return isinstance(base.unwrapped, DummyVecEnv | SubprocVecEnv) and base.has_attr(METHOD)

"""Random actions from a ``sample`` of the user's, where SB3 would ask ``action_space.sample()``."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_ca2e.actors.actions import ActionScale
from sb3_ca2e.common import copying
from sb3_ca2e.envs.exact import from_elsewhere
from sb3_ca2e.errors import UnrecoverableError


class ActionSamples:
    """
    Random actions of a slot, drawn one by one: ``sample`` may depend on what the environment has set on its space.

    :param space: the slot's copy of the action space
    """

    def __init__(self, space: spaces.Discrete | spaces.Box):
        self._space, self._scale = space, ActionScale(space)

    def begin(self, env: Any, seed: int | None = None) -> None:
        """
        Draw from the slot's own space from now on.

        :param env: the slot's environment
        :param seed: seed of the space; None changes nothing
        """
        space = getattr(env, "action_space", None)
        of_all = isinstance(env, gym.Env) and space is getattr(type(env.unwrapped), "action_space", None)
        # The environment's own space, as in SB3, unless other slots have it too or it draws in another way.
        if type(space) is type(self._space) and not of_all and _how(space) == _how(self._space):
            self._space = space
        if seed is not None:
            self._space.seed(seed)

    def draw(self, n: int) -> np.ndarray:
        """
        Draw actions.

        :param n: number of actions
        :return: ``(n,)`` or ``(n, action_dim)`` stored actions
        :raises UnrecoverableError: if ``sample`` returns no action of the space
        """
        if isinstance(self._space, spaces.Discrete):
            return np.array([self._sample() for _ in range(n)], dtype=np.int64)
        actions = np.empty((n, math.prod(self._space.shape)), dtype=np.float32)
        for action in actions:
            action[...] = self._scale.scaled(self._sample())
        return actions

    def _sample(self) -> np.ndarray:
        space = self._space
        sampled = space.sample()
        action = np.asarray(sampled)
        fits = action.shape == space.shape and action.dtype.kind in ("iuf" if isinstance(space, spaces.Box) else "iu")
        if fits:
            action = action.astype(space.dtype)
            low, high = (0, space.n - 1) if isinstance(space, spaces.Discrete) else (space.low, space.high)
            fits = bool(np.all((low <= action) & (action <= high)))
        if not fits:
            raise UnrecoverableError(
                f"{type(space).__name__}.sample() returned {sampled!r}, which is no action of {space}. Correct it, or "
                "declare the space that it draws from."
            )
        return action


def _how(space: spaces.Space) -> tuple[str | None, bool]:
    """Return which method of the user's a space draws with, and whether it is the object's own; None for none."""
    return from_elsewhere(space, ("sample", "np_random"), ("gymnasium",)), "sample" in vars(space)


def own_samples(space: spaces.Space | None, n_slots: int) -> list[ActionSamples | None]:
    """
    Copy an action space for each slot if it draws in a way of the user's.

    :param space: the model's action space
    :param n_slots: number of slots
    :return: for each slot, what draws its random actions; None if the space draws as gymnasium's
    :raises ValueError: if it can't be copied
    """
    name = _how(space)[0] if space is not None else None
    if name is None:
        return [None] * n_slots
    try:
        return [ActionSamples(copying.copy(space)) for _ in range(n_slots)]
    except Exception as error:  # pickling what a user defined may raise anything
        raise ValueError(
            f"Each actor needs a copy of the action space to call {name}, but it can't be pickled "
            f"({type(error).__name__}: {error}). Let it hold plain data, and leave out what can't be pickled in "
            "__getstate__."
        ) from error

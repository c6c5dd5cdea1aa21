"""Exploration: one setting a slot, so that every nature actor explores in its own way."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise


class Exploration(Protocol):
    """How one slot departs from its greedy action. Actions are as the learner stores them."""

    def rate(self, progress: float) -> float:
        """
        :param progress: share of the training that is done, 0 to 1
        :return: the strength of exploration now, for logs: epsilon, or the noise's standard deviation
        """

    def explore(self, greedy: Any, progress: float, rng: np.random.Generator) -> Any:
        """
        :param greedy: the policy's own action
        :param progress: share of the training that is done, 0 to 1
        :param rng: the slot's random numbers
        :return: the action to take
        """

    def random(self, rng: np.random.Generator) -> Any:
        """
        :param rng: the slot's random numbers
        :return: a uniform action, for the time before learning starts
        """

    def reset(self) -> None:
        """Called at the start of an episode."""


@dataclass(frozen=True)
class EpsilonGreedy:
    """
    A random action with probability epsilon, annealed linearly.

    :param n_actions: number of actions
    :param initial: epsilon at the start
    :param final: epsilon once ``fraction`` of the training is done
    :param fraction: share of the training over which epsilon is annealed
    """

    n_actions: int
    initial: float
    final: float
    fraction: float

    def rate(self, progress: float) -> float:
        done = min(progress / self.fraction, 1.0) if self.fraction > 0 else 1.0
        return self.initial + done * (self.final - self.initial)

    def explore(self, greedy: Any, progress: float, rng: np.random.Generator) -> Any:
        return self.random(rng) if rng.random() < self.rate(progress) else greedy

    def random(self, rng: np.random.Generator) -> Any:
        return rng.integers(self.n_actions)

    def reset(self) -> None:
        pass


@dataclass
class GaussianNoise:
    """
    Independent Gaussian noise on actions in [-1, 1].

    :param shape: shape of the environment's actions, which the learner stores flat
    :param sigma: standard deviation
    """

    shape: tuple[int, ...]
    sigma: float

    def rate(self, progress: float) -> float:
        return self.sigma

    def explore(self, greedy: Any, progress: float, rng: np.random.Generator) -> Any:
        noise = self.sigma * rng.standard_normal(greedy.shape, dtype=np.float32)
        return np.minimum(np.maximum(greedy + noise, -1.0), 1.0)  # np.clip takes as long as all of this

    def random(self, rng: np.random.Generator) -> Any:
        return rng.uniform(-1.0, 1.0, self.shape).astype(np.float32).reshape(-1)

    def reset(self) -> None:
        pass


@dataclass
class NoiseProcess(GaussianNoise):
    """
    A noise of the user's own, a copy for each slot.

    :param noise: the noise, in units of actions scaled to [-1, 1] as in SB3
    """

    noise: ActionNoise = field(kw_only=True)

    def explore(self, greedy: Any, progress: float, rng: np.random.Generator) -> Any:
        noise = np.broadcast_to(self.noise(), self.shape).reshape(-1)
        return np.clip(greedy + noise, -1.0, 1.0).astype(np.float32)

    def reset(self) -> None:
        self.noise.reset()


def epsilon_ladder(
    n_slots: int,
    n_actions: int,
    initial: float | Sequence[float] | None,
    final: float | Sequence[float],
    fraction: float,
) -> list[EpsilonGreedy]:
    """
    One epsilon-greedy setting a slot.

    :param n_slots: number of slots
    :param n_actions: number of actions
    :param initial: epsilon at the start: evenly from 1.0 to 0.2 if None, one for all, or a list with one a slot
    :param final: epsilon at the end: one for all, or a list with one a slot
    :param fraction: share of the training over which epsilon is annealed
    :return: the settings, in the order of the slots
    """
    spread = np.linspace(1.0, 0.2, n_slots).tolist() if initial is None else initial
    starts = per_slot("exploration_initial_eps", spread, n_slots)
    ends = per_slot("exploration_final_eps", final, n_slots)
    return [
        EpsilonGreedy(n_actions, float(start), float(end), fraction) for start, end in zip(starts, ends, strict=True)
    ]


def noise_ladder(n_slots: int, action_space: spaces.Box, noise: ActionNoise | None) -> list[GaussianNoise]:
    """
    One action noise a slot.

    :param n_slots: number of slots
    :param action_space: the action space
    :param noise: a noise to copy for each slot; None for Gaussian noise with sigma evenly from 0.05 to 0.4
    :return: the settings, in the order of the slots
    :raises ValueError: if its values do not have the shape of actions
    """
    shape = action_space.shape
    if noise is None:
        return [GaussianNoise(shape, float(sigma)) for sigma in np.linspace(0.05, 0.4, n_slots)]
    if isinstance(noise, VectorizedActionNoise):
        noise = noise.base_noise  # each slot has its own anyway
    _check_noise(noise, shape)
    sigma = float(np.mean(getattr(noise, "_sigma", np.nan)))
    return [NoiseProcess(shape, sigma, noise=deepcopy(noise)) for _ in range(n_slots)]


def _check_noise(noise: ActionNoise, shape: tuple[int, ...]) -> None:
    random_state = np.random.get_state()  # from which SB3's noises draw
    value = np.shape(deepcopy(noise)())
    np.random.set_state(random_state)
    try:
        np.broadcast_to(np.empty(value), shape)
    except ValueError as error:
        raise ValueError(
            f"action_noise gives values of shape {value}, expected {shape}, the shape of an action: make it with a "
            "mean and a sigma of that shape."
        ) from error


def per_slot(name: str, value: float | Sequence[float], n_slots: int) -> np.ndarray:
    """
    Spread a setting over the slots.

    :param name: the argument's name, for the error
    :param value: a probability for all, or one a slot
    :param n_slots: number of slots
    :return: ``(n_slots,)``
    :raises ValueError: if a list has another length, or a value lies outside 0 to 1
    """
    values = np.atleast_1d(np.asarray(value, dtype=float))
    if values.shape not in ((1,), (n_slots,)):
        raise ValueError(f"{name} has {len(values)} values for {n_slots} slots; pass one number or one for each slot.")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name}={value!r} is no probability; pass numbers from 0 to 1.")
    return np.broadcast_to(values, (n_slots,))

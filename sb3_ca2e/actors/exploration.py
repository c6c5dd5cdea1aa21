"""Exploration: each slot has its own setting."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import cloudpickle
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise

from sb3_ca2e.actors.action_samples import ActionSamples, own_samples


class Exploration(Protocol):
    """Exploration strategy of one slot. Actions are stored actions; the slots of a process use the same class."""

    #: whether the noise of a whole block can be drawn before its first step
    drawn_ahead: ClassVar[bool]

    def rate(self, progress: float) -> float:
        """
        Return the current strength of exploration, for logs.

        :param progress: fraction of the training that is done, 0 to 1
        :return: epsilon, or the standard deviation of the noise
        """

    def draw_noise(self, n: int, progress: float, rng: np.random.Generator) -> np.ndarray:
        """
        Draw the noise of the next steps.

        :param n: number of steps
        :param progress: fraction of the training that is done, 0 to 1
        :param rng: the slot's random generator
        :return: ``(n, ...)`` noise for :meth:`perturb`
        """

    @staticmethod
    def perturb(greedy: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """
        Apply noise to greedy actions.

        :param greedy: ``(slots, ...)`` greedy actions
        :param noise: ``(slots, ...)`` noise from :meth:`draw_noise`
        :return: ``(slots, ...)`` the actions to take, a new array
        """

    def random(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """
        Draw uniform actions, used before learning starts.

        :param n: number of steps
        :param rng: the slot's random generator
        :return: ``(n, ...)`` actions
        """

    def reset(self) -> None:
        """Begin an episode."""


@dataclass(frozen=True)
class EpsilonGreedy:
    """
    Epsilon-greedy exploration with linearly annealed epsilon.

    :param n_actions: number of actions
    :param initial: epsilon at the start
    :param final: epsilon after ``fraction`` of the training
    :param fraction: fraction of the training over which epsilon is annealed
    :param samples: draws random actions in a way of the user's; None for uniform ones
    """

    n_actions: int
    initial: float
    final: float
    fraction: float
    samples: ActionSamples | None = field(default=None, kw_only=True)

    drawn_ahead: ClassVar[bool] = True

    def rate(self, progress: float) -> float:
        done = min(progress / self.fraction, 1.0) if self.fraction > 0 else 1.0
        return self.initial + done * (self.final - self.initial)

    def draw_noise(self, n: int, progress: float, rng: np.random.Generator) -> np.ndarray:
        explores = rng.random(n) < self.rate(progress)
        if self.samples is not None:
            return np.array([self.samples.draw(1)[0] if each else -1 for each in explores])
        return np.where(explores, self.random(n, rng), -1)

    @staticmethod
    def perturb(greedy: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return np.where(noise < 0, greedy, noise)

    def random(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self.samples.draw(n) if self.samples is not None else rng.integers(self.n_actions, size=n)

    def reset(self) -> None:
        pass


@dataclass
class GaussianNoise:
    """
    Independent Gaussian noise on actions in [-1, 1].

    :param shape: shape of the environment's actions; stored actions are flat
    :param sigma: standard deviation
    :param samples: draws random actions in a way of the user's; None for uniform ones
    """

    shape: tuple[int, ...]
    sigma: float
    samples: ActionSamples | None = field(default=None, kw_only=True)

    drawn_ahead: ClassVar[bool] = True

    def rate(self, progress: float) -> float:
        return self.sigma

    def draw_noise(self, n: int, progress: float, rng: np.random.Generator) -> np.ndarray:
        noise = rng.standard_normal((n, math.prod(self.shape)), dtype=np.float32)
        noise *= self.sigma
        return noise

    @staticmethod
    def perturb(greedy: np.ndarray, noise: np.ndarray) -> np.ndarray:
        # Takes a quarter of the time of np.clip.
        actions: np.ndarray = np.minimum(np.maximum(greedy + noise, -1.0), 1.0)
        return actions

    def random(self, n: int, rng: np.random.Generator) -> np.ndarray:
        if self.samples is not None:
            return self.samples.draw(n)
        return rng.uniform(-1.0, 1.0, (n, math.prod(self.shape))).astype(np.float32)

    def reset(self) -> None:
        pass


@dataclass
class NoiseProcess(GaussianNoise):
    """
    The user's action noise, copied for each slot.

    It is called once a step, as its state may change, and reset at the end of each episode.

    :param noise: noise in units of actions scaled to [-1, 1], as in SB3
    :param state: names of the attributes that change when it is called or reset
    :param original: ``id`` of the user's noise
    """

    noise: ActionNoise = field(kw_only=True)
    state: tuple[str, ...] = ()
    original: int = 0

    drawn_ahead: ClassVar[bool] = False

    def draw_noise(self, n: int, progress: float, rng: np.random.Generator) -> np.ndarray:
        noises = np.empty((n, *self.shape), dtype=np.float32)
        for noise in noises:
            noise[...] = self.noise()
        return noises.reshape(n, math.prod(self.shape))

    def random(self, n: int, rng: np.random.Generator) -> np.ndarray:
        actions = super().random(n, rng)
        # SB3 adds noise before learning starts too. Added to uniform actions, it would gain nothing.
        return actions if self.samples is None else self.perturb(actions, self.draw_noise(n, 0.0, rng))

    def reset(self) -> None:
        self.noise.reset()

    def go_on_from(self, before: Exploration) -> None:
        """
        Take over the state of an earlier copy of the same noise: the user has changed other attributes.

        :param before: what the slot explored with
        """
        if isinstance(before, NoiseProcess) and before.original == self.original:
            self.take_state(before)

    def take_state(self, saved: "NoiseProcess") -> None:
        """
        Take over what changes when a noise is called or reset.

        :param saved: an earlier copy; nothing is taken from a noise of another class
        """
        if type(saved.noise) is type(self.noise):
            vars(self.noise).update({name: getattr(saved.noise, name) for name in self.state})


def samples_of(exploration: Exploration) -> ActionSamples | None:
    """
    Return what draws the random actions of a slot.

    :param exploration: the slot's exploration
    :return: draws in a way of the user's; None if the exploration draws them itself
    """
    samples: ActionSamples | None = getattr(exploration, "samples", None)
    return samples


def replace_forbidden(actions: np.ndarray, masks: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """
    Replace forbidden actions by allowed ones, drawn uniformly.

    :param actions: ``(n,)`` actions
    :param masks: ``(n, n_actions)`` bool, which actions are allowed, at least one in each row
    :param draws: ``(n,)`` uniform random numbers from 0 to 1
    :return: ``(n,)`` allowed actions
    """
    nth = np.floor(draws * masks.sum(axis=1))  # among the allowed ones, counted from 0
    others = (masks.cumsum(axis=1) > nth[:, None]).argmax(axis=1)
    return np.where(np.take_along_axis(masks, actions[:, None], axis=1)[:, 0], actions, others)


def epsilon_ladder(
    n_slots: int,
    n_actions: int,
    initial: float | Sequence[float] | None,
    final: float | Sequence[float],
    fraction: float,
    action_space: spaces.Space | None = None,
) -> list[EpsilonGreedy]:
    """
    Create one epsilon-greedy setting for each slot.

    :param n_slots: number of slots
    :param n_actions: number of actions
    :param initial: initial epsilon, one for all slots or a list with one for each; None spaces them evenly from 1.0 to
        0.2
    :param final: final epsilon, one for all slots or a list with one for each
    :param fraction: fraction of the training over which epsilon is annealed
    :param action_space: draws random actions if it has a ``sample`` of the user's; None for uniform ones
    :return: the settings in the order of the slots
    """
    spread = np.linspace(1.0, 0.2, n_slots).tolist() if initial is None else initial
    starts = per_slot("exploration_initial_eps", spread, n_slots)
    ends = per_slot("exploration_final_eps", final, n_slots)
    return [
        EpsilonGreedy(n_actions, float(start), float(end), fraction, samples=each)
        for start, end, each in zip(starts, ends, own_samples(action_space, n_slots), strict=True)
    ]


def noise_ladder(n_slots: int, action_space: spaces.Box, noise: ActionNoise | None) -> list[GaussianNoise]:
    """
    Create one action noise for each slot.

    :param n_slots: number of slots
    :param action_space: the action space; draws random actions if it has a ``sample`` of the user's
    :param noise: noise to copy for each slot; None for Gaussian noise with sigma evenly spaced from 0.05 to 0.4
    :return: the settings in the order of the slots
    :raises TypeError: if ``noise`` is not an action noise
    :raises ValueError: if its values do not have the shape of actions
    """
    shape, samples = action_space.shape, own_samples(action_space, n_slots)
    if noise is None:
        sigmas = np.linspace(0.05, 0.4, n_slots)
        return [GaussianNoise(shape, float(sigma), samples=own) for sigma, own in zip(sigmas, samples, strict=True)]
    if not isinstance(noise, ActionNoise):
        raise TypeError(f"action_noise takes an ActionNoise of SB3, such as NormalActionNoise, not {noise!r}.")
    # Each slot has its own anyway; those of a vectorized noise may differ
    of_envs = noise.noises if isinstance(noise, VectorizedActionNoise) else [noise]
    processes = [_process(each, shape) for each in of_envs]
    return [replace(deepcopy(processes[slot % len(processes)]), samples=own) for slot, own in enumerate(samples)]


def _process(noise: ActionNoise, shape: tuple[int, ...]) -> NoiseProcess:
    """Look at a noise, and check the shape of its values."""
    random_state = np.random.get_state()  # SB3's noises draw from it
    called = deepcopy(noise)
    called.reset()
    value = np.shape(called())
    np.random.set_state(random_state)
    try:
        np.broadcast_to(np.empty(value), shape)
    except ValueError as error:
        raise ValueError(
            f"action_noise gives values of shape {value}, expected {shape}, the shape of an action: make it with a "
            "mean and a sigma of that shape."
        ) from error
    before = {name: cloudpickle.dumps(each) for name, each in vars(noise).items()}
    state = tuple(name for name, each in vars(called).items() if cloudpickle.dumps(each) != before.get(name))
    sigma = float(np.mean(getattr(noise, "_sigma", np.nan)))
    return NoiseProcess(shape, sigma, noise=noise, state=state, original=id(noise))


def per_slot(name: str, value: float | Sequence[float], n_slots: int) -> np.ndarray:
    """
    Broadcast a probability to all slots.

    :param name: name of the argument, for the error
    :param value: one probability for all slots, or one for each
    :param n_slots: number of slots
    :return: ``(n_slots,)``
    :raises ValueError: if a list has another length, or a value lies outside [0, 1]
    """
    values = np.atleast_1d(np.asarray(value, dtype=float))
    if values.shape not in ((1,), (n_slots,)):
        raise ValueError(f"{name} has {len(values)} values for {n_slots} slots; pass one number or one for each slot.")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name}={value!r} is not a probability; pass numbers from 0 to 1.")
    return np.broadcast_to(values, (n_slots,))

"""Play episodes of a model side by side, without exploration."""

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecNormalize


class Player(Protocol):
    """What :func:`play` needs: SB3's models and prior agents have it."""

    def predict(self, observation: np.ndarray, *, deterministic: bool) -> tuple[np.ndarray, Any]: ...


def play(
    model: Player,
    make_env: Callable[[], gym.Env[Any, Any]],
    seed: int,
    n_episodes: int,
    normalization: VecNormalize | None = None,
) -> list[float]:
    """
    Returns of deterministic episodes.

    :param model: plays; one without memory, as all episodes go through it at once
    :param make_env: makes an environment
    :param seed: of the first episode's environment; the next ones follow it
    :param n_episodes: how many
    :param normalization: of the observations that the model was trained on
    :return: a return for each episode
    """
    envs = [make_env() for _ in range(n_episodes)]
    observations = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
    returns = [0.0] * n_episodes
    running = list(range(n_episodes))
    while running:
        seen: Any = np.stack([observations[i] for i in running])
        if normalization is not None:
            seen = normalization.normalize_obs(seen)
        actions, _ = model.predict(seen, deterministic=True)
        ended = set()
        for i, action in zip(running, actions, strict=True):
            observations[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += float(reward)
            if terminated or truncated:
                ended.add(i)
        running = [i for i in running if i not in ended]
    for env in envs:
        env.close()
    return returns

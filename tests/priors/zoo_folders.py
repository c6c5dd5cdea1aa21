"""Agents in the RL Zoo's folders, and the environments that they are trained on."""

import copy
import pathlib
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import yaml
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_wrapper

#: Episodes of the environment are at most so long.
TIME_LIMIT = 12
TIME_FEATURE = "sb3_contrib.common.wrappers.TimeFeatureWrapper"


class Drift(gym.Env):
    """
    Observations drift with the actions; episodes end at random.

    :param space: of the observations
    """

    def __init__(self, space: spaces.Space | None = None):
        self._space = space or spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.observation_space = copy.deepcopy(self._space)  # TimeFeatureWrapper writes into it
        self.action_space = spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.drift = 0.0
        return self._observation(), {}

    def step(self, action):
        self.drift += float(action) - 2
        return self._observation(), float(self.np_random.normal()), bool(self.np_random.random() < 0.1), False, {}

    def _observation(self):
        if isinstance(self._space, spaces.Dict):
            return {key: self._part(space) for key, space in self._space.items()}
        return self._part(self._space)

    def _part(self, space):
        if space.dtype == np.uint8:
            return self.np_random.integers(256, size=space.shape, dtype=np.uint8)
        return (5 + self.drift + 3 * self.np_random.normal(size=space.shape)).astype(space.dtype)


VECTORS = spaces.Box(-np.inf, np.inf, (3,), np.float64)
DICTIONARY = spaces.Dict({"observation": VECTORS, "goal": spaces.Box(-np.inf, np.inf, (2,), np.float32)})
IMAGES = spaces.Box(0, 255, (36, 36, 1), np.uint8)
SPACES = {"vectors": VECTORS, "dictionaries": DICTIONARY, "images": IMAGES}
for _name, _space in SPACES.items():
    gym.register(
        f"Drift{_name}-v0", Drift, max_episode_steps=TIME_LIMIT, disable_env_checker=True, kwargs={"space": _space}
    )


def drifts(space: str, n_envs: int = 1, seed: int = 0, wrapper: Any = lambda env: env) -> VecEnv:
    """
    :param space: name of an observation space
    :param n_envs: environments
    :param seed: of the first
    :param wrapper: around each
    :return: environments that play the same episodes whenever they are asked for
    """
    venv = DummyVecEnv([lambda: wrapper(gym.make(f"Drift{space}-v0"))] * n_envs)
    venv.seed(seed)
    return venv


def model_on(venv: VecEnv) -> PPO:
    """
    :param venv: what stands between the environment and the policy
    :return: a model whose actions depend on what it sees
    """
    policy = "MultiInputPolicy" if isinstance(venv.observation_space, spaces.Dict) else "MlpPolicy"
    if venv.observation_space.dtype == np.uint8:
        policy = "CnnPolicy"
    model = PPO(policy, venv, seed=0, device="cpu", n_steps=8, batch_size=8)
    with th.no_grad():  # untrained networks say nearly the same of everything
        for parameter in model.policy.parameters():
            parameter += 0.3 * th.randn_like(parameter)
    return model


def learn_statistics(venv: VecEnv) -> None:
    """
    :param venv: environments with a ``VecNormalize`` among their wrappers, which then stays as it is
    """
    venv.reset()
    venv.action_space.seed(0)
    for _ in range(30):
        venv.step(np.array([venv.action_space.sample() for _ in range(venv.num_envs)]))
    unwrap_vec_wrapper(venv, VecNormalize).training = False


def save_in_zoo(folder: pathlib.Path, model: PPO, env_id: str, config: dict[str, Any] | str) -> pathlib.Path:
    """
    :param folder: a zoo
    :param model: what to save
    :param env_id: its environment
    :param config: the ``config.yml``, or its text
    :return: the run's folder, as the RL Zoo leaves it
    """
    run = folder / "ppo" / f"{env_id}_1"
    (run / env_id).mkdir(parents=True)
    model.save(run / f"{env_id}.zip")
    text = config if isinstance(config, str) else yaml.safe_dump(config)
    (run / env_id / "config.yml").write_text(text)
    if (normalize := model.get_vec_normalize_env()) is not None:
        normalize.save(str(run / env_id / "vecnormalize.pkl"))
    return run


def as_the_zoo_writes(config: dict[str, Any]) -> str:
    """
    :param config: hyperparameters
    :return: YAML with the tag that the RL Zoo's files carry
    """
    pairs = yaml.safe_dump([[[key, value] for key, value in config.items()]])
    return "!!python/object/apply:collections.OrderedDict\n" + pairs

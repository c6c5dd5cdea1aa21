"""The usual stacks of vectorized environments: learned on, played on, saved and learned on again, as with SB3."""

from collections.abc import Callable, Iterator

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    sync_envs_normalization,
)

from sb3_ca2e import CA2EDDPG, CA2EDQN
from tests.toy import RandomWalk

pytestmark = pytest.mark.usefixtures("_forkserver")


class Pictures(gym.ObservationWrapper):
    """A random walk seen as images, and beside its vectors where asked for."""

    def __init__(self, env: gym.Env, with_vectors: bool = False):
        super().__init__(env)
        self.with_vectors = with_vectors
        image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        self.observation_space = (
            spaces.Dict({"camera": image, "vector": env.observation_space}) if with_vectors else image
        )

    def observation(self, observation):
        image = np.full((36, 36, 1), np.clip(128 + 40 * observation[0], 0, 255), np.uint8)
        return {"camera": image, "vector": observation} if self.with_vectors else image


def walks(continuous: bool = False, wrapper: Callable | None = None, n_envs: int = 2, **kwargs) -> VecEnv:
    return make_vec_env(RandomWalk, n_envs, 0, env_kwargs={"continuous": continuous}, wrapper_class=wrapper, **kwargs)


def bare(continuous: bool = False) -> VecEnv:
    return DummyVecEnv([lambda: RandomWalk(continuous)] * 2)


def images() -> VecEnv:
    return walks(wrapper=Pictures)


def dictionaries() -> VecEnv:
    return walks(wrapper=lambda env: Pictures(env, with_vectors=True))


def in_workers(**kwargs) -> VecEnv:
    return walks(vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "forkserver"}, **kwargs)


STACKS = {
    "make_vec_env": walks,
    "one": lambda: walks(n_envs=1),
    "no monitor": bare,
    "monitored": lambda: VecMonitor(bare()),
    "checked": lambda: VecCheckNan(walks()),
    "frames": lambda: VecFrameStack(walks(), 3),
    "normalized": lambda: VecNormalize(walks()),
    "normalized frames": lambda: VecFrameStack(VecNormalize(walks()), 3),
    "normalized stacks": lambda: VecNormalize(VecFrameStack(walks(), 3)),
    "all": lambda: VecFrameStack(VecNormalize(VecCheckNan(VecMonitor(bare()))), 2),
    "all, outermost monitored": lambda: VecMonitor(VecCheckNan(VecNormalize(VecFrameStack(bare(), 2)))),
    "workers": lambda: in_workers(),
    "workers, normalized frames": lambda: VecFrameStack(VecNormalize(in_workers()), 2),
    "images": images,
    "stacked images": lambda: VecFrameStack(images(), 4),
    "stacked images, turned": lambda: VecTransposeImage(VecFrameStack(images(), 4)),
    "turned images, stacked": lambda: VecCheckNan(VecFrameStack(VecTransposeImage(images()), 4)),
    "images, normalized rewards": lambda: VecNormalize(VecFrameStack(images(), 2), norm_obs=False),
    "dictionaries": dictionaries,
    "stacked dictionaries": lambda: VecFrameStack(VecCheckNan(dictionaries()), 3),
    "normalized dictionaries": lambda: VecNormalize(VecFrameStack(dictionaries(), 2), norm_obs_keys=["vector"]),
    "continuous": lambda: walks(continuous=True),
    "continuous, normalized": lambda: VecNormalize(walks(continuous=True)),
    "continuous, normalized frames": lambda: VecFrameStack(VecNormalize(VecMonitor(bare(continuous=True))), 3),
    "continuous, dictionaries": lambda: walks(continuous=True, wrapper=lambda env: Pictures(env, True)),
    "continuous, workers": lambda: VecNormalize(in_workers(continuous=True)),
}


def chain(env: VecEnv) -> Iterator[type]:
    yield type(env)
    while hasattr(env, "venv"):
        env = env.venv
        yield type(env)


def learner(env: VecEnv, ours: bool, **kwargs):
    continuous = isinstance(env.action_space, spaces.Box)
    algorithm = [[sb3.DQN, sb3.DDPG], [CA2EDQN, CA2EDDPG]][ours][continuous]
    policy, features = "MlpPolicy", {}
    if isinstance(env.observation_space, spaces.Dict):
        policy, features = "MultiInputPolicy", {"cnn_output_dim": 4}
    elif env.observation_space.dtype == np.uint8:
        policy, features = "CnnPolicy", {"features_dim": 4}
    common = {"buffer_size": 500, "learning_starts": 60, "train_freq": 20, "batch_size": 8, "seed": 0, "device": "cpu"}
    policy_kwargs = {"net_arch": [8], "features_extractor_kwargs": features}
    return algorithm(policy, env, policy_kwargs=policy_kwargs, **common, **kwargs)


def parameters_of(model) -> th.Tensor:
    return th.cat([parameter.detach().flatten().clone() for parameter in model.policy.parameters()])


def play(model) -> tuple[list[tuple], np.ndarray]:
    """What SB3's users see of their environment, and what the model does in it at last."""
    env, seen = model.get_env(), []
    if (normalize := model.get_vec_normalize_env()) is not None:
        normalize.training = False
    observations = env.reset()
    for _ in range(20):
        actions, state = model.predict(observations, deterministic=True)
        observations, rewards, dones, infos = env.step(actions)
        parts = observations if isinstance(observations, dict) else {"": observations}
        shapes = {key: (part.dtype, part.shape) for key, part in parts.items()}
        seen.append((shapes, actions.dtype, actions.shape, rewards.dtype, dones.dtype, len(infos), state))
    if normalize is not None:
        normalize.training = True
    return seen, model.predict(observations, deterministic=True)[0]


@pytest.mark.parametrize("name", STACKS)
def test_a_model_learns_plays_is_saved_and_learns_on(name, tmp_path):
    envs = [STACKS[name]() for _ in range(3)]
    try:
        execution = "async" if name == "all" else "sync"
        model = learner(envs[0], ours=True, execution=execution, n_actors=3, n_processes=2, local_buffer_size=10)
        oracle = learner(envs[1], ours=False)
        start = parameters_of(model)
        model.learn(320)
        assert model.num_timesteps == model.replay_buffer.size() == 320
        assert th.isfinite(parameters_of(model)).all()
        assert not th.equal(parameters_of(model), start)
        assert list(chain(model.get_env())) == list(chain(oracle.get_env()))
        assert play(model)[0] == play(oracle)[0]

        model.save(tmp_path / "model")
        loaded = type(model).load(tmp_path / "model", env=envs[2])
        sync_envs_normalization(model.get_env(), loaded.get_env())
        for each in (model, loaded):
            each.get_env().seed(1)
        np.testing.assert_array_equal(play(loaded)[1], play(model)[1])
        loaded.learn(120, reset_num_timesteps=False)
        assert loaded.num_timesteps == 440
        assert th.isfinite(parameters_of(loaded)).all()
        assert not th.equal(parameters_of(loaded), parameters_of(model))
    finally:
        for env in envs:
            env.close()

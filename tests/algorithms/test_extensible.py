"""Another algorithm on the hooks: TD3, in a file of its own."""

import pathlib

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import sb3_ca2e
from sb3_ca2e import PriorAgent
from tests.algorithms import td3
from tests.algorithms.td3 import CA2ETD3


def test_an_algorithm_takes_one_short_file():
    assert len(pathlib.Path(td3.__file__).read_text().splitlines()) <= 120
    package = pathlib.Path(sb3_ca2e.__file__).parent
    assert [path for path in package.rglob("*.py") if CA2ETD3.__name__ in path.read_text()] == []


def test_it_has_priors_retirement_and_saving(tmp_path):
    prior = PriorAgent(PPO("MlpPolicy", "Pendulum-v1", device="cpu"), mean_reward=1e9)
    ca2e = {"prior_agents": [prior], "n_actors": 3, "execution": "sync", "local_buffer_size": 20}
    model = CA2ETD3("MlpPolicy", "Pendulum-v1", **ca2e, learning_starts=60, train_freq=10, seed=0)
    model.learn(300)
    assert model._n_updates == 24
    assert model.replay_buffer.prior_fraction == 1 / 3
    assert [row["kind"] for row in model.actor_stats] == ["nature", "nature", "prior"]
    model.save(tmp_path / "model")
    loaded = CA2ETD3.load(tmp_path / "model", env=make_vec_env("Pendulum-v1", 1))
    observation = np.ones((1, 3), dtype=np.float32)
    np.testing.assert_array_equal(loaded.predict(observation)[0], model.predict(observation)[0])
    loaded.prior_agents = [prior]
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 360


@pytest.mark.extended
def test_it_learns_pendulum():
    model = CA2ETD3(
        "MlpPolicy",
        "Pendulum-v1",
        n_actors=4,
        execution="sync",
        learning_starts=500,
        batch_size=64,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
    )
    env = Monitor(gym.make("Pendulum-v1"))
    env.reset(seed=0)
    untrained, _ = evaluate_policy(model, env, 10)
    model.learn(4000)
    trained, _ = evaluate_policy(model, env, 10)
    assert untrained < -900
    assert trained > -800, f"{untrained} before, {trained} after"

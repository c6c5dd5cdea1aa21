"""EnvPool's environments, where it is installed."""

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_ca2e import CA2EDDPG, CA2EDQN, make_envpool_env

pytest.importorskip("envpool", reason="EnvPool is not installed")
# EnvPool's own spaces, in the user's process
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning"),
    pytest.mark.usefixtures("_patient"),
]


def outside(observation: np.ndarray) -> bool:
    """Whether a pole has fallen, or its cart left the track."""
    return bool(abs(observation[0]) > 2.4 or abs(observation[2]) > np.deg2rad(12))


def test_episodes_end_where_poles_fall_and_begin_upright():
    env = make_envpool_env("CartPole-v1", 3, seed=1)
    rng, ends = np.random.default_rng(0), 0
    returns = np.zeros(3)
    assert (np.abs(env.reset()) <= 0.05).all()
    for _ in range(120):
        observations, rewards, dones, infos = env.step(rng.integers(2, size=3))
        returns += rewards
        for index, (done, info) in enumerate(zip(dones, infos, strict=True)):
            assert done == ("episode" in info)
            if done:
                assert outside(info["terminal_observation"])
                assert (np.abs(observations[index]) <= 0.05).all()
                assert info["episode"]["r"] == info["episode"]["l"] == returns[index]
                assert not info["TimeLimit.truncated"]
                returns[index], ends = 0, ends + 1
            else:
                assert not outside(observations[index])
    assert ends > 6
    env.close()


def test_episodes_that_are_cut_off():
    env = make_envpool_env("Pendulum-v1", 2, seed=1)
    env.reset()
    for step in range(1, 401):
        _, _, dones, infos = env.step(np.zeros((2, 1), np.float32))
        assert dones.all() == (step % 200 == 0)
        assert all(info["TimeLimit.truncated"] for info in infos) if dones.all() else not dones.any()
    env.close()


def test_seeds():
    def first(seed: int) -> np.ndarray:
        env = make_envpool_env("CartPole-v1", 3, seed=seed)
        observations = env.reset()
        env.close()
        return observations

    assert len(np.unique(first(1), axis=0)) == 3
    np.testing.assert_array_equal(first(1), first(1))
    assert (first(1) != first(50)).any()
    env = make_envpool_env("CartPole-v1", 3, seed=50)
    env.reset()
    env.seed(1)
    np.testing.assert_array_equal(env.reset(), first(1))
    env.close()


class Watch(BaseCallback):
    """Lives lost, and returns of games."""

    def __init__(self):
        super().__init__()
        self.lives, self.games = 0, []

    def _on_step(self):
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if "episode" in info:
                self.games.append(info["episode"]["r"])
            else:
                self.lives += done
        return True


def test_atari_in_actors():
    """Qbert scores 25 points and more at once; games are counted, and not lives."""
    settings = {"stack_num": 1, "episodic_life": True, "reward_clip": True}
    env = VecFrameStack(make_envpool_env("Qbert-v5", 2, seed=0, **settings), 4)
    model = CA2EDQN("CnnPolicy", env, n_processes=2, learning_starts=2000, buffer_size=2000, device="cpu", seed=0)
    watch = Watch()
    model.learn(1400, watch)
    assert len(watch.games) >= 2
    assert watch.lives >= 3 * len(watch.games)
    assert max(watch.games) >= 25
    assert all(score % 25 == 0 for score in watch.games)


def test_continuous_actions_in_actors():
    env = make_envpool_env("Hopper-v5", 4, seed=0)
    model = CA2EDDPG("MlpPolicy", env, n_processes=2, learning_starts=100, buffer_size=2000, device="cpu", seed=0)
    watch = Watch()
    model.learn(600, watch)
    assert model._n_updates > 0
    assert len(watch.games) > 4

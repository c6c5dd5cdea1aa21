"""What the first ``reset`` of each slot is given, and what tells apart slots and lives when one fails."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ca2e import CA2EDQN, ActorError
from sb3_ca2e.errors import ActorWarning
from tests.toy import RandomWalk, dqn

pytestmark = pytest.mark.usefixtures("_one_server")


class Asked(gym.Env):
    """Observes the seed and the options that it was given last, and how often it has been reset."""

    observation_space, action_space = spaces.Box(-9, 1e9, (3,), np.float64), spaces.Discrete(2)

    def __init__(self):
        self.n_resets = 0

    def reset(self, *, seed=None, options=None):
        super().reset()
        self.n_resets += 1
        given = -1 if seed is None else seed, -1 if options is None else options["level"], self.n_resets
        self.given, self.t = np.array(given, np.float64), 0
        return self.given, {}

    def step(self, action):
        self.t += 1
        return self.given, 0.0, False, self.t >= 5, {}


def given(model):
    """What resets were given: seeds and options by the number of the reset."""
    rows = model.replay_buffer.sample(3000).observations.numpy()
    return {tuple(row) for row in np.unique(rows, axis=0).tolist()}


def first(model):
    """What the first resets of slots were given; copies go on counting where the user's environment stood."""
    fewest = min(n_resets for _, _, n_resets in given(model))
    return {(seed, level) for seed, level, n_resets in given(model) if n_resets == fewest}


def later(model):
    fewest = min(n_resets for _, _, n_resets in given(model))
    return {(seed, level) for seed, level, n_resets in given(model) if n_resets > fewest}


NOTHING = {(-1.0, -1.0)}
OWN = {"learning_starts": 5000, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
OURS = {**OWN, "n_steps": 1, "local_buffer_size": 10}


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_no_seed_is_passed_unless_asked_for(execution):
    model = CA2EDQN("MlpPolicy", Asked(), n_actors=3, execution=execution, **OURS).learn(120)
    assert first(model) == NOTHING
    assert later(model) == NOTHING


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_a_seed_is_passed_once_and_counted_on_by_slot(execution):
    model = CA2EDQN("MlpPolicy", Asked(), n_actors=3, execution=execution, seed=40, **OURS).learn(120)
    assert first(model) == {(40.0, -1.0), (41.0, -1.0), (42.0, -1.0)}
    assert later(model) == NOTHING
    model.learn(120, reset_num_timesteps=False)
    assert first(model) == {(40.0, -1.0), (41.0, -1.0), (42.0, -1.0), (-1.0, -1.0)}


@pytest.mark.parametrize("n_envs", [1, 2])
def test_seeds_and_options_of_the_vectorized_environment_are_passed_as_sb3_passes_them(n_envs):
    seen = []
    for algorithm, kwargs in [(DQN, OWN), (CA2EDQN, {**OURS, "execution": "sync", "n_actors": n_envs + 1})]:
        env = make_vec_env(Asked, n_envs, seed=70)
        env.set_options({"level": 4})
        model = algorithm("MlpPolicy", env, **kwargs).learn(120)
        seen.append({(seed, level) for seed, level, _ in given(model) if seed >= 0})
    sb3, ours = seen
    assert sb3 == {(70.0 + index, 4.0) for index in range(n_envs)}
    assert ours == {(70.0 + slot, 4.0) for slot in range(n_envs + 1)}


def test_options_of_each_environment_are_those_of_its_slots():
    env = make_vec_env(Asked, 2, seed=70)
    env.set_options([{"level": 4}, {"level": 5}])
    model = CA2EDQN("MlpPolicy", env, n_actors=4, execution="sync", **OURS).learn(120)
    assert first(model) == {(70.0, 4.0), (71.0, 5.0), (72.0, 4.0), (73.0, 5.0)}


def test_a_loaded_model_does_not_play_the_same_again(tmp_path):
    model = CA2EDQN("MlpPolicy", Asked(), n_actors=2, execution="sync", seed=40, **OURS).learn(60)
    model.save(tmp_path / "model")
    again = CA2EDQN.load(tmp_path / "model", Asked(), device="cpu").learn(60, reset_num_timesteps=False)
    assert first(again) == NOTHING
    again.get_env().seed(8)
    again.learn(60, reset_num_timesteps=False)
    assert first(again) == {(8.0, -1.0), (9.0, -1.0), (-1.0, -1.0)}


def test_slots_without_a_seed_see_different_episodes():
    model = dqn(RandomWalk(), n_actors=4, seed=None, n_steps=1).learn(400)
    rows = model.replay_buffer.sample(4000).observations.numpy()
    assert len(np.unique(rows, axis=0)) > 350


class Fails(RandomWalk):
    def step(self, action):
        raise OSError("the arm is stuck")


def test_an_error_names_slot_life_and_seed_in_one_process():
    with pytest.raises(ActorError, match=r"slot 0, life 0, seed 17, failed"):
        dqn(Fails(), seed=17).learn(60)


def test_an_error_names_slot_life_and_seed_of_a_process():
    model = dqn(Fails(), seed=17, execution="async", n_processes=1, actor_restarts=1)
    with (
        pytest.warns(ActorWarning, match=r"slot 0, life 0, seed 17, failed"),
        pytest.raises(ActorError, match=r"slot 0, life 1, seed 17, failed"),
    ):
        model.learn(60)


def test_several_environments_of_one_model_have_a_seed_each():
    model = CA2EDQN("MlpPolicy", DummyVecEnv([Asked] * 2), n_actors=2, execution="sync", seed=5, **OURS).learn(60)
    assert {seed for seed, _, _ in given(model) if seed >= 0} == {5.0, 6.0}

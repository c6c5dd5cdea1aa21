"""The statistics that a prior agent's observations are normalised with."""

import cloudpickle
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e.priors.loading import load_vec_normalize
from sb3_ca2e.priors.reader.statistics import read_vec_normalize
from sb3_ca2e.priors.trained_on import frozen


@pytest.mark.parametrize("read", [read_vec_normalize, lambda path: frozen(load_vec_normalize(path))])
def test_saved_statistics_normalise_the_same_in_an_actor_process(read, tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0))
    env.reset()
    for _ in range(20):
        env.step(np.array([env.action_space.sample() for _ in range(2)]))
    env.save(str(tmp_path / "vecnormalize.pkl"))
    in_actor = cloudpickle.loads(cloudpickle.dumps(read(tmp_path / "vecnormalize.pkl")))
    observations = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_array_equal(in_actor.normalize_obs(observations), env.normalize_obs(observations))

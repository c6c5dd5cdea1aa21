"""Statistics that are read are those that ``VecNormalize`` saved."""

import pickle

import cloudpickle
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ca2e.priors.reader.errors import UntrustedAgentError
from sb3_ca2e.priors.reader.statistics import read_vec_normalize
from sb3_ca2e.replay.block import OBSERVATION
from tests.priors.reader.spaces_env import SpacesEnv

VECTOR = spaces.Box(-50, 90, (3,), np.float32)
DICT = spaces.Dict({"far": VECTOR, "as it is": spaces.Box(-1, 1, (2,)), "near": spaces.Box(-1, 1, (2,))})


def trained(observation_space, **kwargs):
    """Statistics of some steps."""
    envs = [lambda: SpacesEnv(observation_space, spaces.Discrete(2))] * 2
    normalize = VecNormalize(DummyVecEnv(envs), **kwargs)
    normalize.reset()
    for _ in range(10):
        normalize.step(np.zeros(2, int))
    return normalize


@pytest.mark.parametrize(
    ("space", "kwargs"),
    [
        (VECTOR, {}),
        (VECTOR, {"clip_obs": 0.7, "epsilon": 2.0, "gamma": 0.9}),
        (VECTOR, {"norm_obs": False}),
        (VECTOR, {"norm_reward": False}),
        (DICT, {}),
        (DICT, {"norm_obs_keys": ["near", "far"]}),
    ],
)
def test_observations_are_normalised_as_by_vec_normalize(tmp_path, space, kwargs):
    normalize = trained(space, **kwargs)
    normalize.save(str(tmp_path / "vecnormalize.pkl"))
    space.seed(5)
    drawn = [space.sample() for _ in range(4)]
    observations = {key: np.stack([each[key] for each in drawn]) for key in space} if space is DICT else np.stack(drawn)

    statistics = read_vec_normalize(tmp_path / "vecnormalize.pkl")

    expected = normalize.normalize_obs(observations)
    for each in (statistics, cloudpickle.loads(cloudpickle.dumps(statistics))):
        found = each.normalize_obs(observations)
        for key in space if space is DICT else [...]:
            np.testing.assert_array_equal(found[key], expected[key])
            assert found[key].dtype == expected[key].dtype
    assert (statistics.clip_obs, statistics.epsilon) == (normalize.clip_obs, normalize.epsilon)
    assert bool(statistics.observations) == normalize.norm_obs
    if space is DICT:
        assert list(statistics.observations) == normalize.norm_obs_keys
    elif normalize.norm_obs:
        assert list(statistics.observations) == [OBSERVATION]


def test_statistics_can_not_be_changed(tmp_path):
    trained(VECTOR).save(str(tmp_path / "vecnormalize.pkl"))

    statistics = read_vec_normalize(tmp_path / "vecnormalize.pkl")

    with pytest.raises(ValueError, match="read-only"):
        statistics.observations[OBSERVATION].mean += 1
    with pytest.raises(AttributeError):
        statistics.clip_obs = 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda normalize: normalize.obs_rms.mean.fill(np.nan), "means and variances"),
        (lambda normalize: normalize.obs_rms.var.fill(-1), "means and variances"),
        (lambda normalize: setattr(normalize.obs_rms, "var", np.ones(4)), "means and variances"),
        (lambda normalize: setattr(normalize, "epsilon", 0.0), "its epsilon is 0.0"),
        (lambda normalize: setattr(normalize, "clip_obs", "10"), "'10' is not a valid array"),
        (lambda normalize: setattr(normalize, "norm_obs", 1), "its norm_obs is 1"),
        (lambda normalize: setattr(normalize, "obs_rms", None), "None is not a valid RunningMeanStd"),
        (lambda normalize: setattr(normalize, "callback", np.linalg.norm), r"VecNormalize names numpy.linalg.norm"),
    ],
)
def test_statistics_that_are_none_are_refused(tmp_path, change, reason):
    normalize = trained(VECTOR)
    change(normalize)
    normalize.save(str(tmp_path / "vecnormalize.pkl"))

    with pytest.raises(UntrustedAgentError, match=reason) as refusal:
        read_vec_normalize(tmp_path / "vecnormalize.pkl")

    assert str(tmp_path / "vecnormalize.pkl") in str(refusal.value)


def test_something_else_is_refused(tmp_path):
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps({"obs_rms": None}))

    with pytest.raises(UntrustedAgentError, match="it holds a dict, not a VecNormalize"):
        read_vec_normalize(tmp_path / "vecnormalize.pkl")


def test_missing_statistics_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_vec_normalize(tmp_path / "vecnormalize.pkl")

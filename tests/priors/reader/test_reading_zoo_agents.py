"""The RL Zoo's own agents, where a copy of rl-trained-agents is at hand."""

import io
import pickle
import warnings

import numpy as np
import pytest
from gymnasium import spaces

from sb3_ca2e.priors.find import algorithm_class
from sb3_ca2e.priors.reader.config import read_yaml
from sb3_ca2e.priors.reader.model import read_agent
from sb3_ca2e.priors.reader.statistics import read_vec_normalize
from tests.priors.agents_clone import AGENTS, needs_agents

pytestmark = needs_agents

MODELS = sorted(AGENTS.glob("*/*/*.zip"))
#: The environments' own: numbers of an observation, and actions, by the name without its version
SPACES: dict[str, tuple[int, spaces.Space]] = {
    "CartPole": (4, spaces.Discrete(2)),
    "Acrobot": (6, spaces.Discrete(3)),
    "MountainCar": (2, spaces.Discrete(3)),
    "LunarLander": (8, spaces.Discrete(4)),
    "Pendulum": (3, spaces.Box(-2, 2, (1,))),
    "MountainCarContinuous": (2, spaces.Box(-1, 1, (1,))),
    "LunarLanderContinuous": (8, spaces.Box(-1, 1, (2,))),
    "Hopper": (11, spaces.Box(-1, 1, (3,))),
    "Swimmer": (8, spaces.Box(-1, 1, (2,))),
    "HalfCheetah": (17, spaces.Box(-1, 1, (6,))),
    "Walker2d": (17, spaces.Box(-1, 1, (6,))),
    "Ant": (111, spaces.Box(-1, 1, (8,))),
}
ALGORITHMS = sorted({path.parts[-3] for path in MODELS})


class GymUnpickler(pickle.Unpickler):
    """Python's own, for the pickles of the time when Gymnasium was called Gym."""

    def find_class(self, module, name):
        return super().find_class("gymnasium" + module[3:] if module.startswith("gym.") else module, name)


def trained_on(path):
    """How many numbers the agent observes, and what it does."""
    n_observations, action_space = SPACES[path.stem.rpartition("-")[0]]
    has_clock = "TimeFeatureWrapper" in path.with_name(path.stem).joinpath("config.yml").read_text()
    return n_observations + has_clock, action_space


def loaded_by_sb3(algorithm, path, n_observations, action_space):
    """With the replacements that the agents' README asks for."""
    replaced = {
        "observation_space": spaces.Box(-np.inf, np.inf, (n_observations,), np.float32),
        "action_space": action_space,
        "learning_rate": 0.0,
        "buffer_size": 1,
    }
    schedules = ("lr_schedule", "clip_range", "exploration_schedule", "delta_std_schedule")
    replaced |= dict.fromkeys(schedules, lambda progress: 0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are probably loading a DQN model saved with SB3 < 2.4.0")
        warnings.filterwarnings("ignore", "numpy.core.* is deprecated", DeprecationWarning)
        return algorithm_class(algorithm).load(path, device="cpu", custom_objects=replaced)


def test_all_are_there():
    assert len(MODELS) == 70


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_agents_act_as_when_sb3_loads_them(algorithm):
    for path in (path for path in MODELS if path.parts[-3] == algorithm):
        n_observations, action_space = trained_on(path)
        scale = np.exp(np.random.default_rng(0).uniform(-3, 3, size=(1000, 1)))
        observations = np.random.default_rng(1).normal(scale=scale, size=(1000, n_observations)).astype(np.float32)

        agent = read_agent(path, algorithm)

        actions, _ = agent.predict(observations, deterministic=True)
        model = loaded_by_sb3(algorithm, path, n_observations, action_space)
        expected, _ = model.predict(observations, deterministic=True)
        assert len(np.unique(expected, axis=0)) > 1, path
        np.testing.assert_array_equal(actions, expected, str(path))
        assert agent.observation_space.shape == (n_observations,)
        assert agent.action_space == action_space


def test_statistics_normalise_as_when_sb3_loads_them():
    paths = sorted(AGENTS.glob("*/*/*/vecnormalize.pkl"))
    assert len(paths) == 36
    for path in paths:
        normalize = GymUnpickler(io.BytesIO(path.read_bytes())).load()
        normalize.class_attributes, normalize.returns = {}, np.zeros(0)  # which SB3 expects to have had an environment
        n_observations, _ = trained_on(path.parent)
        observations = np.random.default_rng(0).normal(0, 10, (100, n_observations)).astype(np.float32)

        statistics = read_vec_normalize(path)

        np.testing.assert_array_equal(
            statistics.normalize_obs(observations), normalize.normalize_obs(observations), str(path)
        )


def test_configurations_are_read():
    paths = sorted(AGENTS.glob("*/*/*/*.yml"))
    assert len(paths) >= 140
    for path in paths:
        values = read_yaml(path)

        assert all(f"- {key}" in path.read_text() for key in values), path
        if path.name == "args.yml":
            assert values["algo"] == path.parts[-4]
            assert values["env"] == path.parts[-2]
        if path.name == "config.yml":
            assert values["n_timesteps"] > 0
            assert isinstance(values["policy"], str)

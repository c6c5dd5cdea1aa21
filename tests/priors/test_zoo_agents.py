"""Agents of the RL Zoo, beside SB3's own way of playing them: only where a clone of rl-trained-agents is at hand."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
from gymnasium import spaces
from sb3_contrib.common.wrappers import TimeFeatureWrapper
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_ca2e import PriorAgent
from sb3_ca2e.envs.identity import identity_of_vec
from tests.priors.agents_clone import AGENTS, needs_agents, readme_rewards

pytestmark = needs_agents


@pytest.fixture(autouse=True)
def zoo(monkeypatch) -> None:
    monkeypatch.setenv("SB3_CA2E_AGENTS", str(AGENTS))


@pytest.fixture
def with_gym(monkeypatch) -> None:
    """Gymnasium under its old name, for files from that time."""
    for name in [name for name in sys.modules if name.split(".")[0] == "gymnasium"]:
        monkeypatch.setitem(sys.modules, name.replace("gymnasium", "gym", 1), sys.modules[name])


class NoContactForces(gym.ObservationWrapper):
    """27 numbers of Ant, and the zeros that followed them until Ant-v3."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (111,), np.float64)

    def observation(self, observation):
        return np.concatenate([observation, np.zeros(84)])


def seeded(env_id: str, wrapper=lambda env: env, **kwargs) -> VecEnv:
    venv = DummyVecEnv([lambda: wrapper(gym.make(env_id, **kwargs))])
    venv.seed(0)
    return venv


def played_by_sb3(algorithm: str, trained_on: str, oracle: VecEnv) -> tuple:
    """The agent as SB3 loads it, and the environment behind the agent's own statistics."""
    run = AGENTS / algorithm / f"{trained_on}_1"
    model_class = getattr(stable_baselines3, algorithm.upper(), None) or getattr(sb3_contrib, algorithm.upper())
    live = {"observation_space": oracle.observation_space, "action_space": oracle.action_space}
    names = ("learning_rate", "lr_schedule", "clip_range", "exploration_schedule", "delta_std_schedule")
    schedules = dict.fromkeys(names, lambda _: 0.0)
    model = model_class.load(run / f"{trained_on}.zip", custom_objects={**live, **schedules, "buffer_size": 1})
    statistics = run / trained_on / "vecnormalize.pkl"
    if statistics.is_file():
        oracle = VecNormalize.load(str(statistics), oracle)
        oracle.training = oracle.norm_reward = False
    return model, oracle


def timed(env: gym.Env) -> gym.Env:
    return TimeFeatureWrapper(env)


def timed_ant(env: gym.Env) -> gym.Env:
    return TimeFeatureWrapper(NoContactForces(env))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("algorithm", "trained_on", "learners", "oracles"),
    [
        ("dqn", "MountainCar-v0", ("MountainCar-v0", {}), ("MountainCar-v0", {})),
        ("ppo", "MountainCar-v0", ("MountainCar-v0", {}), ("MountainCar-v0", {})),
        ("qrdqn", "LunarLander-v2", ("LunarLander-v3", {}), ("LunarLander-v3", {})),
        ("ars", "Pendulum-v1", ("Pendulum-v1", {}), ("Pendulum-v1", {})),
        ("tqc", "Hopper-v3", ("Hopper-v4", {}), ("Hopper-v4", {})),
        ("ppo", "Walker2d-v3", ("Walker2d-v5", {}), ("Walker2d-v5", {"wrapper": timed})),
        ("trpo", "Ant-v3", ("Ant-v4", {}), ("Ant-v4", {"wrapper": NoContactForces})),
        ("trpo", "Ant-v3", ("Ant-v4", {"use_contact_forces": True}), ("Ant-v4", {"wrapper": NoContactForces})),
        (
            "ppo",
            "Ant-v3",
            ("Ant-v5", {}),
            ("Ant-v5", {"wrapper": timed_ant, "include_cfrc_ext_in_observation": False}),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:You are probably loading a DQN model saved with SB3 < 2.4.0")
@pytest.mark.filterwarnings("ignore:.*The environment Ant-v4 is out of date", "ignore:.*Hopper-v4 is out of date")
def test_agents_act_as_through_the_zoos_own_wrappers(algorithm, trained_on, learners, oracles, trust, with_gym):
    (env_id, arguments), (oracle_id, oracle_arguments) = learners, oracles
    model, oracle = played_by_sb3(algorithm, trained_on, seeded(oracle_id, **oracle_arguments))
    venv = seeded(env_id, **arguments)
    agent = PriorAgent(f"zoo:{algorithm}", trust=trust)
    agent.resolve(venv.observation_space, venv.action_space, identity_of_vec(venv))
    observations, seen = venv.reset(), oracle.reset()
    starts, state, taken = np.ones(1, dtype=bool), None, []
    for _ in range(220):
        expected, _ = model.predict(seen, deterministic=True)
        actions, state = agent.predict(observations, state, starts)
        np.testing.assert_array_equal(actions, expected)
        taken.append(actions)
        observations, _, starts, _ = venv.step(actions)
        seen, _, _, _ = oracle.step(expected)
    assert len(np.unique(taken)) > 1


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("algorithm", "env_id", "live", "message"),
    [
        ("dqn", "MountainCar-v0", "MountainCarContinuous-v0", r"actions Discrete\(3\), this environment's are Box\("),
        ("dqn", "MountainCar-v0", "Acrobot-v1", r"observations Box\(.*\(2,\), .*are Box\(.*\(6,\)"),
        ("trpo", "Ant-v3", "HalfCheetah-v5", r"\(111,\), .* \(zeros for contact forces, VecNormalize\), .*\(17,\)"),
        ("ppo", "Swimmer-v3", "Reacher-v5", r"\(9,\), float32\) \(time feature, VecNormalize\), .*\(10,\), float64"),
    ],
)
@pytest.mark.filterwarnings("ignore:You are probably loading a DQN model saved with SB3 < 2.4.0")
def test_an_agent_for_other_spaces_is_refused_showing_both(algorithm, env_id, live, message, trust):
    venv = seeded(live)
    agent = PriorAgent(f"zoo:{algorithm}/{env_id}", trust=trust)
    with pytest.raises(ValueError, match=f"was trained on .*{message}"):
        agent.resolve(venv.observation_space, venv.action_space, identity_of_vec(venv))


@pytest.mark.parametrize("algorithm", ["dqn", "ppo", "a2c"])
def test_agents_are_as_good_as_their_readme_says(algorithm):
    mean, std = readme_rewards()[algorithm, "MountainCar-v0"].measured
    venv = make_vec_env("MountainCar-v0", seed=5)
    found, _ = PriorAgent(AGENTS / algorithm / "MountainCar-v0_1").evaluate(venv, 10)
    assert abs(found - mean) <= 3 * std * np.sqrt(2 / 10)

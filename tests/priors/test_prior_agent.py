"""Prior agents act as the models that they come from."""

import hashlib
import json
import pathlib
import pickle
import re

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ca2e import CA2EDQN, PriorAgent
from sb3_ca2e.priors.find import BUNDLED
from sb3_ca2e.priors.reader.errors import UntrustedAgentError


class Reach(gym.Env):
    """
    Observations far from zero; its rewards play no part.

    :param action_space: of the environment
    :param size: of its observations
    """

    def __init__(self, action_space: spaces.Space, size: int = 3):
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action):
        return self._observation(), 0.0, False, bool(self.np_random.random() < 0.1), {}

    def _observation(self):
        return (50 + 10 * self.np_random.normal(size=self.observation_space.shape)).astype(np.float32)


DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(np.array([-1, 0], np.float32), np.array([3, 0.5], np.float32))


def model_of(algorithm, env):
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [16]})
    with th.no_grad():  # untrained networks say nearly the same of everything
        for parameter in model.policy.parameters():
            parameter += 0.5 * th.randn_like(parameter)
    return model


def observations_like(space: spaces.Box, mean: float = 0.0, n: int = 64) -> np.ndarray:
    return (mean + 10 * np.random.default_rng(1).normal(size=(n, *space.shape))).astype(np.float32)


def resolved(agent: PriorAgent, env) -> PriorAgent:
    return agent.resolve(env.observation_space, env.action_space)


def assert_same_actions(agent: PriorAgent, model, observations: np.ndarray, normalize=lambda x: x) -> None:
    expected, _ = model.predict(normalize(observations), deterministic=True)
    assert len({action.tobytes() for action in expected}) > 1
    for prior in (agent, cloudpickle.loads(cloudpickle.dumps(agent.for_actor()))):
        actions, _ = prior.predict(observations, None, np.ones(len(observations), bool))
        assert actions.dtype == expected.dtype
        np.testing.assert_array_equal(actions, expected)


@pytest.mark.parametrize(
    ("algorithm", "action_space"),
    [(DQN, DISCRETE), (PPO, DISCRETE), (A2C, DISCRETE), (PPO, BOX), (SAC, BOX), (TD3, BOX), (DDPG, BOX)],
)
def test_an_agent_of_a_model_or_of_its_zip_acts_as_the_model_predicts(algorithm, action_space, tmp_path):
    env = Reach(action_space)
    model = model_of(algorithm, env)
    observations = observations_like(env.observation_space)
    assert_same_actions(resolved(PriorAgent(model), env), model, observations)
    path = tmp_path / f"{algorithm.__name__.lower()}_agent.zip"
    model.save(path)
    agent = PriorAgent(path)
    assert agent.algo == algorithm.__name__.lower() == PriorAgent(model).algo
    assert_same_actions(resolved(agent, env), model, observations)


@pytest.mark.parametrize(
    ("algorithm", "action_space", "settings"),
    [
        (DQN, DISCRETE, {"learning_starts": 8}),
        (PPO, DISCRETE, {"n_steps": 8, "batch_size": 8}),
        (A2C, DISCRETE, {}),
        (A2C, BOX, {"use_sde": True}),
        (SAC, BOX, {"learning_starts": 8}),
        (SAC, BOX, {"learning_starts": 8, "use_sde": True}),
        (TD3, BOX, {"learning_starts": 8}),
        (DDPG, BOX, {"learning_starts": 8}),
    ],
)
def test_a_model_that_has_just_been_trained_is_an_agent(algorithm, action_space, settings):
    env = Reach(action_space)
    policy_kwargs = {"net_arch": [16]}
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs=policy_kwargs, **settings).learn(16)
    agent = resolved(PriorAgent(model), env)  # nothing has been predicted since
    assert_same_actions(agent, model, observations_like(env.observation_space))


def test_a_model_that_learns_on_does_not_change_its_prior_agent():
    env = Reach(DISCRETE)
    model = model_of(DQN, env)
    agent = resolved(PriorAgent(model), env)
    observations = observations_like(env.observation_space)
    before, _ = agent.predict(observations)
    with th.no_grad():
        model.q_net.q_net[-1].bias += th.tensor([0.0, 0, 0, 1e6])
    assert (model.predict(observations, deterministic=True)[0] == 3).all()
    np.testing.assert_array_equal(agent.predict(observations)[0], before)
    assert (before != 3).any()


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_without_trust_nothing_in_a_zip_is_executed(tmp_path):
    env, sprung = Reach(DISCRETE), tmp_path / "sprung"
    model = model_of(DQN, env)
    model.trap = Trap(sprung)
    path = tmp_path / "dqn.zip"
    model.save(path)
    agent = resolved(PriorAgent(str(path)), env)
    assert_same_actions(agent, model, observations_like(env.observation_space))
    assert not sprung.exists()
    resolved(PriorAgent(path, trust=True), env)
    assert sprung.exists()  # so that it stayed away above was worth something


def test_what_can_only_be_executed_is_refused_naming_it_and_the_way_out(tmp_path):
    env, sprung = Reach(DISCRETE), tmp_path / "sprung"
    model = model_of(DQN, env)
    model.policy_kwargs["net_arch"] = Trap(sprung)
    model.save(tmp_path / "dqn.zip")
    with pytest.raises(UntrustedAgentError, match=r"dqn\.zip .*Path\.touch.*PriorAgent\(\.\.\., trust=True\)"):
        resolved(PriorAgent(tmp_path / "dqn.zip"), env)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["vecnormalize.pkl", "config.yml"])
def test_what_lies_beside_a_zip_is_not_executed_either(name, tmp_path):
    sprung = tmp_path / "sprung"
    model, venv = normalized_ppo()
    folder = tmp_path / "ppo" / "Reach-v0_1"
    (folder / "Reach-v0").mkdir(parents=True)
    model.save(folder / "Reach-v0.zip")
    venv.save(str(folder / "Reach-v0" / "vecnormalize.pkl"))
    trap = f"normalize: true\ntrap: !!python/object/apply:os.mkdir ['{sprung}']"
    content = trap.encode() if name == "config.yml" else pickle.dumps(Trap(sprung))
    (folder / "Reach-v0" / name).write_bytes(content)
    with pytest.raises(UntrustedAgentError, match=rf"{re.escape(name)} .*trust=True"):
        resolved(PriorAgent(folder), Reach(DISCRETE))
    assert not sprung.exists()
    if name == "config.yml":
        resolved(PriorAgent(folder, trust=True), Reach(DISCRETE))
        assert sprung.exists()


def test_another_file_than_the_one_asked_for_is_refused(tmp_path):
    env = Reach(DISCRETE)
    model_of(DQN, env).save(tmp_path / "dqn.zip")
    sha256 = hashlib.sha256((tmp_path / "dqn.zip").read_bytes()).hexdigest()
    assert resolved(PriorAgent(tmp_path / "dqn.zip", sha256=sha256.upper()), env)
    model_of(PPO, env).save(tmp_path / "dqn.zip")
    with pytest.raises(ValueError, match=rf"dqn\.zip has the SHA-256 (?!{sha256})[0-9a-f]{{64}}, but .*{sha256}"):
        resolved(PriorAgent(tmp_path / "dqn.zip", sha256=sha256), env)


def normalized_ppo() -> tuple[PPO, VecNormalize]:
    venv = VecNormalize(DummyVecEnv([lambda: Reach(DISCRETE)]), clip_obs=2.0)
    model = model_of(PPO, venv)
    venv.reset()
    for _ in range(50):
        venv.step([0])
    venv.training = False
    return model, venv


def test_the_statistics_of_a_models_own_vec_normalize_are_applied():
    model, venv = normalized_ppo()
    agent = resolved(PriorAgent(model), Reach(DISCRETE))
    observations = observations_like(model.observation_space, mean=50.0)
    assert_same_actions(agent, model, observations, venv.normalize_obs)
    assert (agent.predict(observations)[0] != model.predict(observations, deterministic=True)[0]).any()


def test_the_statistics_beside_a_zip_are_applied(tmp_path):
    model, venv = normalized_ppo()
    folder = tmp_path / "ppo" / "Reach-v0_1"
    (folder / "Reach-v0").mkdir(parents=True)
    model.save(folder / "Reach-v0.zip")
    venv.save(str(folder / "Reach-v0" / "vecnormalize.pkl"))
    agent = resolved(PriorAgent(folder), Reach(DISCRETE))
    assert_same_actions(agent, model, observations_like(model.observation_space, mean=50.0), venv.normalize_obs)


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("live", "own"),
    [
        (Reach(DISCRETE, size=5), r"observations Box\(.*\(3,\).* are Box\(.*\(5,\)"),
        (Reach(spaces.Discrete(2)), r"actions Discrete\(4\).* are Discrete\(2\)"),
        (Reach(BOX), r"actions Discrete\(4\).* are Box\("),
    ],
)
def test_an_agent_of_other_spaces_is_refused_showing_both(live, own, as_zip, tmp_path):
    source = model_of(DQN, Reach(DISCRETE))
    if as_zip:
        source.save(tmp_path / "dqn.zip")
        source = tmp_path / "dqn.zip"
    with pytest.raises(ValueError, match=f"was trained on {own}"):
        resolved(PriorAgent(source), live)


@pytest.mark.parametrize("algorithm", [DDPG, PPO])
def test_actions_keep_the_agents_scale_and_the_environments_bounds(algorithm, tmp_path):
    own = spaces.Box(-2, 2, (2,), np.float32)
    model = model_of(algorithm, Reach(own))
    path = tmp_path / f"{algorithm.__name__.lower()}.zip"
    model.save(path)
    observations = observations_like(model.observation_space)
    wanted, _ = model.predict(observations, deterministic=True)
    for trust in (False, True):
        actions, _ = resolved(PriorAgent(path, trust=trust), Reach(BOX)).predict(observations)
        np.testing.assert_array_equal(actions, np.clip(wanted, BOX.low, BOX.high))
    assert (actions != wanted).any()
    assert (actions == wanted).any()


def test_pickling_an_agent_of_a_model_drops_the_weights():
    env = Reach(DISCRETE)
    agent = PriorAgent(model_of(DQN, env), mean_reward=3.5)
    resolved(agent, env)
    data = pickle.dumps(agent)
    assert len(data) < 1000
    restored = pickle.loads(data)
    assert (restored.name, restored.mean_reward, restored.source) == ("a DQN object", 3.5, None)
    with pytest.raises(ValueError, match=r"a DQN object was given to the model as an object.*set model\.prior_agents"):
        resolved(restored, env)
    assert agent.predict(observations_like(env.observation_space))[0].shape == (64,)  # the agent itself is as before


def test_pickling_an_agent_of_a_path_keeps_the_path(tmp_path):
    env = Reach(DISCRETE)
    model = model_of(DQN, env)
    model.save(tmp_path / "dqn.zip")
    agent = resolved(PriorAgent(tmp_path / "dqn.zip"), env)
    restored = pickle.loads(pickle.dumps(agent))
    assert len(pickle.dumps(agent)) < 1000
    assert_same_actions(resolved(restored, env), model, observations_like(env.observation_space))


def test_what_is_no_agent_is_refused():
    with pytest.raises(TypeError, match="give its trained model"):
        PriorAgent(model_of(DQN, Reach(DISCRETE)).policy)
    with pytest.raises(TypeError, match="prior_agents takes a list"):
        CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents="zoo:dqn")


def test_evaluate_plays_the_environment_with_the_agents_own_normalisation():
    class Told(Reach):
        """Rewards the action that its model would take there."""

        def step(self, action):
            wanted, _ = model.predict(venv.normalize_obs(self.last), deterministic=True)
            observation, *_ = super().step(action)
            self.length += 1
            return observation, float(action == wanted), self.length == 10, False, {}

        def reset(self, **kwargs):
            self.length = 0
            return super().reset(**kwargs)

        def _observation(self):
            self.last = super()._observation()
            return self.last

    model, venv = normalized_ppo()
    assert PriorAgent(model).evaluate(Told(DISCRETE), n_episodes=3) == (10.0, 0.0)
    with pytest.raises(ValueError, match="inside VecNormalize"):
        PriorAgent(model).evaluate(VecNormalize(DummyVecEnv([lambda: Told(DISCRETE)])))


def test_an_agent_that_is_not_loaded_says_so():
    with pytest.raises(RuntimeError, match=r"a DQN object is not loaded; resolve\(\) it first"):
        PriorAgent(model_of(DQN, Reach(DISCRETE))).predict(np.zeros((1, 3), np.float32))


def zoo_agents() -> list[str]:
    return sorted(str(path.parent.parent.relative_to(BUNDLED)) for path in BUNDLED.glob("*/*/*/results.json"))


def test_agents_for_the_demo_and_the_tests_are_bundled():
    ids = [pathlib.Path(name).name.rpartition("_")[0] for name in zoo_agents()]
    assert ids.count("CartPole-v1") >= 2
    assert ids.count("LunarLander-v3") >= 3
    assert ids.count("Pendulum-v1") >= 3
    assert ids.count("Reacher-v5") >= 2
    for path in BUNDLED.glob("*/*/*.zip"):
        assert path.stat().st_size <= 300 * 1024


@pytest.mark.extended
@pytest.mark.parametrize("name", zoo_agents())
def test_bundled_agents_are_as_good_as_recorded(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SB3_CA2E_AGENTS", raising=False)
    algorithm, run = pathlib.Path(name).parts
    env_id = run.rpartition("_")[0]
    recorded = json.loads((BUNDLED / name / env_id / "results.json").read_text())
    venv = make_vec_env(env_id, seed=123)
    agent = PriorAgent(f"zoo:{algorithm}", env_id=env_id)
    n_episodes = 8 if recorded["std_reward"] else 2
    mean, _ = agent.evaluate(venv, n_episodes)
    assert agent.mean_reward == recorded["mean_reward"]
    error = recorded["std_reward"] * np.sqrt(1 / n_episodes + 1 / recorded["n_eval_episodes"])
    assert abs(mean - recorded["mean_reward"]) <= 3 * error

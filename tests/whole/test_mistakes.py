"""Mistakes that users make: the message names the culprit, the expectation and the remedy."""

import json
import subprocess
import sys
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, HerReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback

from sb3_ca2e import CA2EDDPG, CA2EDQN, ActorError, BuilderVecEnv, CA2ECheckpointCallback, NativeVecEnv, PriorAgent
from sb3_ca2e.common.installing import how_to_install
from tests.toy import RandomWalk

pytestmark = pytest.mark.usefixtures("_one_server")


class Unbounded(RandomWalk):
    def __init__(self):
        super().__init__(continuous=True)
        self.action_space = spaces.Box(-np.inf, np.inf, (2,))


class Many(RandomWalk):
    def __init__(self):
        super().__init__()
        self.action_space = spaces.MultiDiscrete([2, 3])


@pytest.mark.parametrize(
    ("algorithm", "env", "arguments", "error", "message"),
    [
        (CA2EDQN, "CartPole-v1", {"n_actor": 8}, TypeError, "takes no argument 'n_actor'. Did you mean 'n_actors'"),
        (CA2EDDPG, "Pendulum-v1", {"critic_12": 0}, TypeError, "Did you mean 'critic_l2'"),
        (CA2EDQN, "CartPole-v1", {"zzz": 1}, TypeError, "takes no argument 'zzz'. It takes policy, env"),
        (CA2EDQN, "CartPole-v1", {"n_actors": 1, "prior_agents": ["zoo:dqn"]}, ValueError, "set n_actors >= 2"),
        (CA2EDQN, "CartPole-v1", {"exploration_initial_eps": [0.1] * 3}, ValueError, "3 values for 8 slots; pass one"),
        (CA2EDQN, "CartPole-v1", {"train_freq": (1, "episode")}, ValueError, "Give a number of steps"),
        (CA2EDQN, "CartPole-v1", {"replay_buffer_class": HerReplayBuffer}, ValueError, "HerReplayBuffer.*leave it out"),
        (CA2EDDPG, Unbounded(), {}, ValueError, "need finite bounds.*Declare bounds"),
        (CA2EDQN, None, {}, ValueError, "env is None: give an id"),
        (CA2EDQN, "CartPole-v1", {"n_actors": 2.0}, ValueError, "n_actors must be a whole number of at least 1"),
        (CA2EDQN, "CartPole-v1", {"buffer_size": 1e5}, ValueError, "buffer_size must be a whole number.*not 100000.0"),
        (CA2EDQN, "CartPole-v1", {"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1"),
        (CA2EDQN, "CartPole-v1", {"train_freq": 0}, ValueError, "train_freq must be a whole number of at least 1"),
        (CA2EDQN, "CartPole-v1", {"actor_timeout": "60"}, ValueError, "actor_timeout must be a number of seconds"),
        (CA2EDQN, "CartPole-v1", {"actor_restarts": True}, ValueError, "actor_restarts must be a whole number"),
        (CA2EDQN, "CartPole-v1", {"prior_alpha": np.nan}, ValueError, "prior_alpha must be a finite number, not nan"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": None}, TypeError, "takes a list of agents.*leave it out"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": "zoo:ppo"}, TypeError, r"takes a list.*write \['zoo:ppo'\]"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": [PPO]}, TypeError, "or a class, give its trained model"),
        (CA2EDQN, "CartPole-v1", {"info_keys": "lives"}, TypeError, r"takes a list of names; write \['lives'\]"),
        (CA2EDQN, "CartPole-v1", {"rate_limit": "no"}, ValueError, "rate_limit must be True or False, not 'no'"),
        (CA2EDQN, "CartPole-v1", {"double_q": "no"}, ValueError, "double_q must be True or False, not 'no'"),
        (CA2EDQN, "CartPole-v1", {"loss": "mse"}, ValueError, "loss must be 'huber' or 'squared', not 'mse'"),
        (CA2EDDPG, "Pendulum-v1", {"critic_l2": -1e-2}, ValueError, "critic_l2 must be a finite number of at least 0"),
        (CA2EDDPG, "Pendulum-v1", {"actor_learning_rate": "lin_1e-4"}, ValueError, "or a schedule such as.*'lin_1e-4'"),
        (CA2EDQN, "CartPole-v1", {"learning_rate": -1e-4}, ValueError, "learning_rate must be a number of at least 0"),
        (CA2EDQN, "CartPole-v1", {"compile": [True]}, ValueError, "compile must be True, False or 'auto'"),
        (CA2EDQN, "CartPole-v1", {"replay_buffer_class": "HER"}, ValueError, "replay_buffer_class='HER'.*leave it out"),
        (CA2EDQN, "CartPole-v1", {"replay_buffer_kwargs": {"beta": "1"}}, ValueError, "beta='1'; it must be a finite"),
        (CA2EDDPG, "Pendulum-v1", {"action_noise": 0.1}, TypeError, "takes an ActionNoise of SB3"),
        (CA2EDQN, "Pendulum-v1", {}, ValueError, "CA2EDQN learns Discrete actions.*has Box.*: use CA2EDDPG"),
        (CA2EDDPG, "CartPole-v1", {}, ValueError, "CA2EDDPG learns Box actions.*has Discrete.*: use CA2EDQN"),
        (CA2EDQN, Many(), {}, ValueError, "CA2EDQN learns Discrete actions.*has MultiDiscrete.*: wrap the environment"),
        (CA2EDQN, "CartPole-v1", {"replay_buffer_kwargs": {"alpa": 0}}, TypeError, "'alpa', which.*you mean 'alpha'"),
        (
            CA2EDQN,
            "CartPole-v1",
            {"replay_buffer_kwargs": {"gamma": 0}},
            ValueError,
            "'gamma', which the model sets",
        ),
        (CA2EDQN, "CartPole-v1", {"replay_buffer_kwargs": [1]}, TypeError, "replay_buffer_kwargs takes a dictionary"),
        (CA2EDQN, "CartPole-v1", {"gamma": "0.99"}, ValueError, "gamma must be a number, not '0.99'"),
        (CA2EDQN, "CartPole-v1", {"tau": None}, ValueError, "tau must be a number, not None"),
        (CA2EDQN, "CartPole-v1", {"learning_starts": "100"}, ValueError, "learning_starts must be a number"),
        (CA2EDQN, "CartPole-v1", {"gradient_steps": 0.5}, ValueError, "gradient_steps must be a whole number, not 0.5"),
        (CA2EDQN, "CartPole-v1", {"target_update_interval": None}, ValueError, "target_update_interval must be a num"),
        (CA2EDQN, "CartPole-v1", {"exploration_fraction": "0.1"}, ValueError, "exploration_fraction must be a number"),
        (CA2EDQN, "CartPole-v1", {"stats_window_size": "a"}, ValueError, "stats_window_size must be a whole number"),
        (
            CA2EDQN,
            "CartPole-v1",
            {"ent_coef": 0.1},
            TypeError,
            "'ent_coef'. It is one of A2C and PPO and SAC",
        ),
        (CA2EDQN, "CartPole-v1", {"lr": 0.1}, TypeError, "Did you mean 'learning_rate'"),
        (CA2EDQN, "CartPole-v1", {"n_envs": 4}, TypeError, "Did you mean 'n_actors'"),
        (
            CA2EDQN,
            gym.make_vec("CartPole-v1", 2),
            {},
            TypeError,
            "takes one environment or a VecEnv.*give the id",
        ),
        (CA2EDQN, [RandomWalk(), RandomWalk()], {}, TypeError, "takes one environment.*not a list"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": [None]}, TypeError, r"takes a list of agents.*not \[None\]"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": {"ppo": "zoo:ppo"}}, TypeError, "takes a list of agents"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": ["zoo:pppo"]}, ValueError, "names no algorithm.*mean 'zoo:ppo'"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": ["ppo"]}, ValueError, "There is no agent at ppo.*mean 'zoo:ppo'"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": ["zoo:sac"]}, ValueError, "No sac agent.*There are.*'zoo:ppo'"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": ["hub:ppo"]}, ValueError, "write 'hub:<owner>/<name>'"),
        (CA2EDQN, "CartPole-v1", {"prior_agents": ["zoo:ppo/LunarLander-v3"]}, ValueError, "trained on observations"),
    ],
)
def test_arguments_are_refused_with_the_way_out(algorithm, env, arguments, error, message):
    with pytest.raises(error, match=message):
        algorithm("MlpPolicy", env, **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BuilderVecEnv([]), "takes a list of functions"),
        (lambda: BuilderVecEnv(RandomWalk), "takes a list of functions"),
        (lambda: NativeVecEnv(RandomWalk()), "takes a function of n_envs and seed"),
        (lambda: PriorAgent("zoo:ppo", mean_reward="120"), "takes a number, or None to measure it"),
        (lambda: PriorAgent("zoo:ppo", mean_reward=np.nan), "must be finite.*leave it out"),
        (lambda: CA2ECheckpointCallback("folder", 100), "save_freq takes a number, not 'folder'.*before save_path"),
    ],
)
def test_other_arguments_are_refused_with_what_was_expected(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def files(path):
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(path / "ppo.zip")
    CA2EDDPG("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}).save(path / "ca2e_ddpg.zip")
    CA2EDQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}).save(path / "ca2e_dqn.zip")
    whole = (path / "ca2e_dqn.zip").read_bytes()
    (path / "half_dqn.zip").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(path / "other_dqn.zip", "w") as archive:
        archive.writestr("notes.txt", "no model")


def test_files_that_are_no_model_of_ours_are_refused(tmp_path):
    files(tmp_path)
    assert isinstance(CA2EDQN.load(tmp_path / "ca2e_dqn"), CA2EDQN)
    for name, error, message in [
        ("missing_dqn", FileNotFoundError, r"There is no model at .*missing_dqn.*model\.save"),
        ("half_dqn", ValueError, r"half_dqn is not a zip, or only a part.*model\.save"),
        ("other_dqn", ValueError, r"not a Stable-Baselines3 model.*model\.save"),
        ("ppo", ValueError, "is no CA2EDQN, but a model of another algorithm.*prior_agents"),
        ("ca2e_ddpg", ValueError, "is no CA2EDQN, but a model of another algorithm.*Load it with the class"),
    ]:
        with pytest.raises(error, match=message):
            CA2EDQN.load(tmp_path / name)
    for name, message in [
        ("missing_dqn", "There is no agent at"),
        ("half_dqn", "only a part"),
        ("other_dqn", "not a Stable-Baselines3 model"),
    ]:
        with pytest.raises(ValueError, match=message):
            CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=[PriorAgent(tmp_path / f"{name}.zip", trust=True)])


def test_what_can_not_be_a_model_under_any_trust_is_refused_without_advising_it(tmp_path):
    (tmp_path / "ppo").mkdir()
    th.save(PPO("MlpPolicy", "CartPole-v1").policy.state_dict(), tmp_path / "ppo" / "policy.pt")
    (tmp_path / "ppo" / "notes.zip").write_text("no zip")
    for name, message in [("policy.pt", "not a Stable-Baselines3 model"), ("notes.zip", "is not a zip")]:
        for trust in (False, True):
            agent = PriorAgent(tmp_path / "ppo" / name, trust=trust)
            with pytest.raises(ValueError, match=message) as error:
                CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=[agent])
            assert "trust=True" not in str(error.value)


def test_a_zip_is_found_without_its_ending_as_in_sb3(tmp_path):
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "my_ppo")
    assert CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=[str(tmp_path / "my_ppo")]).prior_agents


def test_loading_takes_an_id_and_refuses_what_it_would_ignore(tmp_path):
    CA2EDQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}).save(tmp_path / "model")
    assert CA2EDQN.load(tmp_path / "model", env="CartPole-v1", gamma=0.5).gamma == 0.5
    with pytest.raises(TypeError, match=r"no attribute 'n_actorss' to change\. Did you mean 'n_actors'"):
        CA2EDQN.load(tmp_path / "model", n_actorss=3)
    saved = CA2ECheckpointCallback(10, tmp_path / "folder")
    CA2EDQN("MlpPolicy", "CartPole-v1", execution="sync").learn(10, saved)
    for folder in (tmp_path / "folder", next((tmp_path / "folder").iterdir())):
        with pytest.raises(ValueError, match=r"has checkpoints.*CA2EDQN\.resume"):
            CA2EDQN.load(folder)
    with pytest.raises(TypeError, match="no attribute 'name_prefix' to change"):
        CA2EDQN.resume(tmp_path / "folder", name_prefix="x")


def test_learn_in_a_callback_and_agents_that_are_no_list_any_more_are_refused():
    model = CA2EDQN("MlpPolicy", "CartPole-v1", execution="sync")
    with pytest.raises(RuntimeError, match=r"learn\(\) is running"):
        model.learn(100, lambda *_: model.learn(10))
    model.prior_agents = "zoo:ppo"
    with pytest.raises(TypeError, match=r"takes a list of agents.*\['zoo:ppo'\]"):
        model.learn(100)
    model.prior_agents = []
    assert model.learn(100).num_timesteps == 100


@pytest.mark.parametrize("filled", [False, True])
def test_a_buffer_of_sb3s_in_the_place_of_the_models_is_refused_before_anything_is_done(filled):
    model = CA2EDQN("MlpPolicy", "CartPole-v1", device="cpu", n_actors=2)
    other = DQN("MlpPolicy", "CartPole-v1", device="cpu", learning_starts=100, buffer_size=100)
    model.replay_buffer = (other.learn(20) if filled else other).replay_buffer
    with pytest.raises(TypeError, match=r"set to a ReplayBuffer, .* model.replay_buffer.add_from\(buffer\)"):
        model.learn(20)


def test_recurrent_policies_and_other_spaces_are_refused_as_priors(tmp_path):
    recurrent = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match=r"RecurrentPPO object has a recurrent policy.*agent without memory"):
        PriorAgent(recurrent)
    recurrent.save(tmp_path / "ppo_lstm.zip")
    for prior, message in [
        (PriorAgent(tmp_path / "ppo_lstm.zip", trust=True), "ppo_lstm.zip has a recurrent policy"),
        (str(tmp_path / "ppo_lstm.zip"), "ppo_lstm.zip has a recurrent policy"),
        (DQN("MlpPolicy", "MountainCar-v0", buffer_size=1), r"trained on observations.*Give an agent"),
    ]:
        with pytest.raises(ValueError, match=message):
            CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=[prior])


def test_a_prior_agent_that_has_gone_since_does_not_keep_a_model_from_being_loaded(tmp_path):
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "ppo.zip")
    model = CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=[str(tmp_path / "ppo.zip")])
    model.save(tmp_path / "model")
    (tmp_path / "ppo.zip").unlink()
    loaded = CA2EDQN.load(tmp_path / "model", env=gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="There is no agent at"):
        loaded.learn(100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("100",), "total_timesteps must be a number of transitions, such as 100_000, not '100'"),
        ((100, [None]), "callback takes a callback of Stable-Baselines3, a list of them, or a function, not None in a"),
        ((100, "eval"), "or a function, not 'eval'"),
        ((100, [lambda *_: True]), "not <function .* in a list"),
        ((100, EvalCallback), r"not its class: write EvalCallback\(...\)"),
        ((100, None, 0), "log_interval must be a whole number of at least 1, or None, not 0"),
    ],
)
def test_what_learn_can_not_take_is_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        CA2EDQN("MlpPolicy", "CartPole-v1", execution="sync").learn(*arguments)


def test_learn_takes_the_numbers_that_sb3_takes():
    for number in (np.int64(8), 8.0, np.float32(8), 7.5):
        for algorithm, kwargs in ((CA2EDQN, {"execution": "sync"}), (DQN, {})):
            assert algorithm("MlpPolicy", "CartPole-v1", **kwargs).learn(number).num_timesteps == 8


MISSING = """
import json, sys, traceback
sys.modules |= dict.fromkeys(["Box2D", "mujoco", "ale_py"])
from sb3_ca2e import CA2EDQN
told = {}
for env_id in sys.argv[1:]:
    try:
        CA2EDQN("MlpPolicy", env_id)
    except Exception:
        told[env_id] = traceback.format_exc().splitlines()[-1]
print(json.dumps(told))
"""
EXTRAS = {"LunarLander-v3": "box2d", "Hopper-v5": "mujoco", "ALE/Pong-v5": "atari", "PongNoFrameskip-v4": "atari"}


@pytest.fixture(scope="module")
def of_missing():
    """The last line that is told of each environment, in one process without their packages."""
    done = subprocess.run([sys.executable, "-c", MISSING, *EXTRAS], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("env_id", EXTRAS)
def test_an_environment_that_is_not_installed_names_our_extra(env_id, of_missing):
    last = of_missing[env_id]
    assert how_to_install(EXTRAS[env_id]) in last
    assert last.count("pip install") == 1
    assert "Did you mean" not in last


class Wrong(gym.Env):
    """Goes wrong in its 150th step, or in all behind the 140th."""

    def __init__(self, observation=None, reward=0.0, space=None, always=False, no_info=False):
        self.observation_space = space or spaces.Box(-1, 1, (2,))
        self.action_space = spaces.Discrete(2)
        self.observation, self.reward, self.always, self.steps = observation, reward, always, 0
        self.no_info = no_info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        wrong = self.steps > 140 if self.always else self.steps == 150
        observation = self.observation if wrong and self.observation is not None else self.observation_space.sample()
        info = None if wrong and self.no_info else {}
        return observation, self.reward if wrong else 0.0, False, self.steps % 10 == 0, info


TWO = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (2,))})


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Wrong(np.array([np.nan, 0], np.float32), always=True), "not finite, [nan  0.]"),
        (Wrong(np.array([0, np.inf], np.float32), always=True), "not finite"),
        (Wrong(np.zeros(3, np.float32)), "shape (3,)"),
        (Wrong(np.array([0.5, 1]), space=spaces.Box(0, 9, (2,), np.int64)), "dtype float64"),
        (Wrong(np.array([-1, 300]), space=spaces.Box(0, 255, (2,), np.uint8)), "does not fit its observation space"),
        (Wrong(np.array([0, 300]), space=spaces.Box(-100, 100, (2,), np.int8)), "does not fit its observation space"),
        (Wrong(np.array(["a", "b"])), "does not fit its observation space"),
        (Wrong({"a": np.zeros(2, np.float32)}, space=TWO), "an observation without 'b', a key of its space"),
        (Wrong(np.zeros(2, np.float32), space=TWO), "an observation without 'a', a key of its space"),
        (Wrong(reward=float("nan"), always=True), "the reward nan. Rewards must be finite"),
        (Wrong(reward=1e300, always=True), "the reward 1e+300"),
        (Wrong(reward=[1.0, 2.0]), "a number for the reward"),
        (Wrong(no_info=True, always=True), "the info None, which must be a dictionary"),
        (Wrong(5, space=spaces.Discrete(5)), "outside of its observation space (from 0 to 4)"),
    ],
)
def test_an_environment_that_goes_wrong_is_named_and_what_was_learned_is_kept(env, message, tmp_path):
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    model = CA2EDQN(policy, env, n_actors=2, execution="sync", learning_starts=50, policy_kwargs={"net_arch": [8]})
    with pytest.raises(ActorError, match=r"slot \d") as caught:
        model.learn(1000)
    assert message in str(caught.value)
    assert "orrect the environment" in str(caught.value)
    assert model.num_timesteps == model.replay_buffer.size() == 200
    assert model._n_updates > 0
    model.save(tmp_path / "model")
    observation = model.observation_space.sample()
    loaded = CA2EDQN.load(tmp_path / "model")
    assert (
        loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]
    ).all()


@pytest.mark.parametrize(
    ("wrong", "n_processes"), [({"observation": np.array([np.nan, 0], np.float32)}, 2), ({"reward": float("nan")}, 1)]
)
def test_nan_in_an_actor_process_is_named_and_the_model_learns_on_elsewhere(wrong, n_processes, tmp_path):
    class Fine(Wrong):
        def __init__(self):
            super().__init__()
            self.steps = -(10**6)

    builders = BuilderVecEnv([Fine, lambda: Wrong(**wrong, always=True)])
    small = {"learning_starts": 50, "policy_kwargs": {"net_arch": [8]}}
    model = CA2EDQN("MlpPolicy", builders, n_actors=2, n_processes=n_processes, seed=7, **small)
    message = r"(?s)slot 1, life 0, seed 7, failed:.*(is not finite, \[nan|the reward nan).*10 times in a row"
    with pytest.raises(ActorError, match=message) as caught:
        model.learn(1000)
    assert "orrect the environment" in str(caught.value)
    # The 150th step of slot 1 lies in its third block; slot 0 may be two blocks ahead.
    n_timesteps, n_updates = model.num_timesteps, model._n_updates
    assert 2 * 50 <= n_timesteps <= 2 * 100 + 100
    assert n_updates > 0
    assert model.replay_buffer.size() == n_timesteps
    batch = model.replay_buffer.sample(1000)
    assert all(tensor.isfinite().all() for tensor in batch.tensors())
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    loaded = CA2EDQN.load(tmp_path / "model", env=BuilderVecEnv([Fine, Fine]), execution="sync")
    loaded.load_replay_buffer(tmp_path / "memory")
    model.set_env(BuilderVecEnv([Fine, Fine]))
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    np.testing.assert_array_equal(*(each.predict(observations, deterministic=True)[0] for each in (model, loaded)))
    for each in (model, loaded):
        each.learn(200, reset_num_timesteps=False)
        assert each.num_timesteps == each.replay_buffer.size() == n_timesteps + 200
        assert each._n_updates > n_updates
        assert all(parameter.isfinite().all() for parameter in each.policy.parameters())

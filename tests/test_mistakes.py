"""Mistakes that users make: the message names the culprit, the expectation and the remedy."""

import zipfile

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, HerReplayBuffer

from sb3_ca2e import CA2EDDPG, CA2EDQN, ActorError, BuilderVecEnv, NativeVecEnv, PriorAgent
from toy import RandomWalk


class Unbounded(RandomWalk):
    def __init__(self):
        super().__init__(continuous=True)
        self.action_space = spaces.Box(-np.inf, np.inf, (2,))


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
        (CA2EDDPG, "Pendulum-v1", {"critic_l2": -1e-2}, ValueError, "critic_l2 must be a finite number of at least 0"),
        (CA2EDDPG, "Pendulum-v1", {"actor_learning_rate": "lin_1e-4"}, ValueError, "or a schedule such as.*'lin_1e-4'"),
        (CA2EDQN, "CartPole-v1", {"learning_rate": -1e-4}, ValueError, "learning_rate must be a number of at least 0"),
        (CA2EDQN, "CartPole-v1", {"compile": [True]}, ValueError, "compile must be True, False or 'auto'"),
        (CA2EDQN, "CartPole-v1", {"replay_buffer_class": "HER"}, ValueError, "replay_buffer_class='HER'.*leave it out"),
        (CA2EDQN, "CartPole-v1", {"replay_buffer_kwargs": {"beta": "1"}}, ValueError, "beta='1'; it must be a finite"),
        (CA2EDDPG, "Pendulum-v1", {"action_noise": 0.1}, TypeError, "takes an ActionNoise of SB3"),
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
    ],
)
def test_other_arguments_are_refused_with_what_was_expected(make, message):
    with pytest.raises(TypeError, match=message):
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
        ("half_dqn", ValueError, r"half_dqn is no zip, or only a part.*model\.save"),
        ("other_dqn", ValueError, r"none of a Stable-Baselines3 model.*model\.save"),
        ("ppo", ValueError, "no CA2EDQN but a model of another algorithm.*prior_agents"),
        ("ca2e_ddpg", ValueError, "no CA2EDQN but a model of another algorithm.*Load it with the class"),
    ]:
        with pytest.raises(error, match=message):
            CA2EDQN.load(tmp_path / name)
    for name, message in [
        ("missing_dqn", "There is no agent at"),
        ("half_dqn", "only a part"),
        ("other_dqn", "none of a Stable-Baselines3 model"),
    ]:
        model = CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=[PriorAgent(tmp_path / f"{name}.zip", trust=True)])
        with pytest.raises(ValueError, match=message):
            model.learn(100)
        assert model.num_timesteps == 0


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
        model = CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=[prior])
        with pytest.raises(ValueError, match=message):
            model.learn(100)


class Wrong(gym.Env):
    """Goes wrong in its 150th step, or in all behind the 140th."""

    def __init__(self, observation=None, reward=0.0, space=None, always=False):
        self.observation_space = space or spaces.Box(-1, 1, (2,))
        self.action_space = spaces.Discrete(2)
        self.observation, self.reward, self.always, self.steps = observation, reward, always, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        wrong = self.steps > 140 if self.always else self.steps == 150
        observation = self.observation if wrong and self.observation is not None else self.observation_space.sample()
        return observation, self.reward if wrong else 0.0, False, self.steps % 10 == 0, {}


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
    message = r"(?s)slot 1, seed 7, failed:.*(is not finite, \[nan|the reward nan).*10. time in a row"
    with pytest.raises(ActorError, match=message) as caught:
        model.learn(1000)
    assert "orrect the environment" in str(caught.value)
    # The 150th step of slot 1 lies in its third block; slot 0 may be two blocks ahead.
    n_timesteps, n_updates = model.num_timesteps, model._n_updates
    assert 2 * 50 <= n_timesteps <= 2 * 100 + 100
    assert n_updates > 0
    assert model.replay_buffer.size() == n_timesteps
    batch = model.replay_buffer.sample(1000)
    assert all(tensor.isfinite().all() for tensor in batch)
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

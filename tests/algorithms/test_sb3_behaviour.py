"""What SB3's users rely on, with SB3's own DQN and DDPG as the oracle."""

import inspect
import os
import pathlib
import pydoc
from typing import Unpack

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

import sb3_ca2e
from sb3_ca2e import CA2EDDPG, CA2EDQN, PriorAgent
from sb3_ca2e.algorithms.arguments import CA2EArguments
from tests.toy import SYNC, RandomWalk, ddpg, dqn

pytestmark = pytest.mark.usefixtures("_one_server")


class Trace(BaseCallback):
    """What was called, in order, with the counters of that moment."""

    def __init__(self, stop_at: int | None = None):
        super().__init__()
        self.trace: list[tuple] = []
        self.stop_at = stop_at

    def _note(self, event):
        self.trace.append((event, self.num_timesteps, self.n_calls, self.model._n_updates))

    def _on_training_start(self):
        self._note("training start")

    def _on_rollout_start(self):
        self._note("rollout start")

    def _on_step(self):
        self._note("step")
        return self.stop_at is None or self.num_timesteps < self.stop_at

    def _on_rollout_end(self):
        self._note("rollout end")

    def _on_training_end(self):
        self._note("training end")


# Signatures.


@pytest.mark.parametrize(("ours", "theirs"), [(CA2EDQN, sb3.DQN), (CA2EDDPG, sb3.DDPG)])
def test_every_argument_of_sb3_is_taken_at_its_place(ours, theirs):
    positional = [name for name, p in inspect.signature(ours).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    added = [name for name, p in inspect.signature(ours).parameters.items() if p.kind is not p.POSITIONAL_OR_KEYWORD]
    assert positional == list(inspect.signature(theirs).parameters)
    assert all(inspect.signature(ours).parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in added)
    assert {"prior_agents", "n_actors", "n_processes", "execution", "rate_limit"} <= set(added)
    common = set(positional) - {"n_steps", "exploration_initial_eps", "exploration_final_eps", "env"}
    changed = {
        name
        for name in common
        if inspect.signature(ours).parameters[name].default != inspect.signature(theirs).parameters[name].default
    }
    assert changed == set()


@pytest.mark.parametrize(("ours", "theirs"), [(CA2EDQN, sb3.DQN), (CA2EDDPG, sb3.DDPG)])
def test_learn_takes_what_sb3s_takes(ours, theirs):
    assert inspect.signature(ours.learn).parameters.keys() == inspect.signature(theirs.learn).parameters.keys()


@pytest.mark.parametrize("algorithm", [CA2EDQN, CA2EDDPG])
def test_help_tells_of_every_argument(algorithm):
    told = pydoc.plain(pydoc.render_doc(algorithm)).partition("Method resolution order")[0]
    parameters = inspect.signature(algorithm).parameters
    assert {"prior_agents", "learning_rate", "actor_timeout", "seed"} < parameters.keys()
    assert [name for name in parameters if told.count(f":param {name}:") != 1] == []
    assert "inference: str = 'auto'" in told
    assert "ca2e" not in parameters


def test_an_argument_that_is_left_out_has_the_default_that_the_signature_tells():
    model = CA2EDQN("MlpPolicy", "CartPole-v1")
    for name, parameter in inspect.signature(CA2EDQN).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default not in ((), None):
            assert getattr(model, name) == parameter.default


def test_an_algorithm_of_ones_own_takes_all_and_refuses_the_rest():
    class Own(CA2EDQN):
        def __init__(self, *args, bonus=1.0, **kwargs):
            self.bonus = bonus
            super().__init__(*args, **kwargs)

    model = Own("MlpPolicy", "CartPole-v1", 1e-3, bonus=2.0, n_actors=3)
    assert (model.bonus, model.n_actors, model.learning_rate) == (2.0, 3, 1e-3)
    with pytest.raises(TypeError, match=r"Own takes no argument 'n_actor'. Did you mean 'n_actors'"):
        Own("MlpPolicy", "CartPole-v1", n_actor=3)
    with pytest.raises(TypeError, match=r"Own takes no argument 'zzz'. It takes bonus, policy, env, learning_rate"):
        Own("MlpPolicy", "CartPole-v1", zzz=3)


def test_an_algorithm_may_have_a_base_of_sb3_that_passes_arguments_on():
    class Base(sb3.DQN):
        def __init__(self, policy, env, **kwargs):
            super().__init__(policy, env, **kwargs)

    class Own(CA2EDQN, Base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    assert Own("MlpPolicy", "CartPole-v1", learning_rate=1e-3).learning_rate == 1e-3
    with pytest.raises(TypeError, match=r"CA2EDDPG takes no argument 'policy_delay'. It is one of TD3."):
        CA2EDDPG("MlpPolicy", "Pendulum-v1", policy_delay=2)


def test_an_algorithm_may_have_another_default_for_an_argument_of_the_mixin():
    class Own(CA2EDQN):
        def __init__(self, policy, env, n_actors: int = 3, **ca2e: Unpack[CA2EArguments]):
            super().__init__(policy, env, n_actors=n_actors, **ca2e)

    class Postponed(CA2EDQN):
        def __init__(self, policy, env, **ca2e: "Unpack[CA2EArguments]"):
            super().__init__(policy, env, **ca2e)

    assert Own("MlpPolicy", "CartPole-v1").n_actors == inspect.signature(Own).parameters["n_actors"].default == 3
    assert inspect.signature(Postponed).parameters["n_actors"].default is None


def test_a_model_is_loaded_by_a_class_of_ones_own_but_not_by_another_algorithms(tmp_path):
    class Own(CA2EDQN):
        def __init__(self, *args, bonus=1.0, **kwargs):
            super().__init__(*args, **kwargs)

    CA2EDQN("MlpPolicy", "CartPole-v1", n_actors=3).save(tmp_path / "dqn")
    CA2EDDPG("MlpPolicy", "Pendulum-v1").save(tmp_path / "ddpg")
    assert Own.load(tmp_path / "dqn").n_actors == 3
    with pytest.raises(ValueError, match="is no Own, but a model of another algorithm"):
        Own.load(tmp_path / "ddpg")


def test_sb3s_own_policies_and_architectures_are_taken():
    model = CA2EDQN(sb3.dqn.MlpPolicy, "CartPole-v1", policy_kwargs={"net_arch": [7]}, seed=1, **SYNC)
    assert type(model.policy) is sb3.dqn.MlpPolicy
    shapes = [tuple(parameter.shape) for parameter in model.q_net.parameters()]
    assert shapes == [(7, 4), (7,), (2, 7), (2,)]
    model.learn(120)
    actor_critic = {"net_arch": {"pi": [5], "qf": [6]}}
    continuous = CA2EDDPG(sb3.td3.MlpPolicy, "Pendulum-v1", policy_kwargs=actor_critic, **SYNC)
    assert tuple(next(continuous.actor.parameters()).shape) == (5, 3)
    assert tuple(next(continuous.critic.parameters()).shape) == (6, 4)
    continuous.learn(120)


# Counting.


@pytest.mark.parametrize(
    ("total", "train_freq", "n_envs", "execution"),
    [
        *[(100, 1, 1, "sync"), (101, 4, 1, "sync"), (333, 4, 8, "sync"), (200, 3, 8, "sync"), (7, 4, 8, "sync")],
        *[(101, 4, 1, "async"), (333, 4, 8, "async")],
    ],
)
def test_learn_makes_as_many_transitions_and_calls_as_sb3s(total, train_freq, n_envs, execution):
    def trace(algorithm, **kwargs):
        callback = Trace()
        env = make_vec_env("CartPole-v1", n_envs)
        model = dqn(env, algorithm, train_freq=train_freq, **kwargs).learn(total, callback)
        return model, callback.trace

    model, ours = trace(CA2EDQN, execution=execution, n_processes=2)
    oracle, theirs = trace(sb3.DQN)
    assert ours == theirs
    assert model.replay_buffer.size() == model.num_timesteps == oracle.num_timesteps
    assert model._n_updates == oracle._n_updates
    assert model._n_calls == oracle._n_calls


def test_ddpg_makes_as_many_updates_as_sb3s():
    def trace(algorithm):
        callback = Trace()
        ddpg(algorithm=algorithm, train_freq=4, gradient_steps=2).learn(130, callback)
        return callback.trace

    assert trace(CA2EDDPG) == trace(sb3.DDPG)


def test_learning_again_counts_as_sb3_does():
    def counts(algorithm):
        model = dqn(algorithm=algorithm)
        counted = []
        for reset in (True, False, True, False):
            model.learn(102, reset_num_timesteps=reset)
            counted.append((model.num_timesteps, model._n_updates, model._total_timesteps, model.replay_buffer.size()))
        return counted

    ours, theirs = counts(CA2EDQN), counts(sb3.DQN)
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    assert [row[3] for row in ours] == [104, 208, 312, 416]


# Callbacks.


class Locals(BaseCallback):
    """The locals of every tick."""

    def __init__(self):
        super().__init__()
        self.ticks = []

    def _on_step(self):
        names = ("infos", "rewards", "dones", "actor_ids", "actor_kinds")
        self.ticks.append({name: self.locals[name] for name in names})
        return True


def test_callbacks_see_the_transitions_of_their_tick():
    watcher = Locals()
    env = make_vec_env(RandomWalk, 4, monitor_kwargs={"info_keywords": ()})
    model = dqn(env, n_actors=2, prior_agents=[sb3.DQN("MlpPolicy", RandomWalk(), buffer_size=1)])
    model.learn(400, watcher)
    assert len(watcher.ticks) == 100
    rewards = {0: [], 1: []}
    lengths = {0: 0, 1: 0}
    n_episodes = 0
    for tick in watcher.ticks:
        assert tick["rewards"].shape == tick["dones"].shape == tick["actor_ids"].shape == (4,)
        assert len(tick["infos"]) == len(tick["actor_kinds"]) == 4
        assert tick["dones"].dtype == bool
        for i, (info, slot) in enumerate(zip(tick["infos"], tick["actor_ids"].tolist(), strict=True)):
            assert tick["actor_kinds"][i] == ("prior" if slot == 1 else "nature")
            rewards[slot].append(float(tick["rewards"][i]))
            lengths[slot] += 1
            if tick["dones"][i]:
                n_episodes += 1
                assert isinstance(info["TimeLimit.truncated"], bool)
                assert info["episode"]["l"] == lengths[slot]
                assert info["episode"]["r"] == pytest.approx(sum(rewards[slot]), abs=1e-4)
                rewards[slot], lengths[slot] = [], 0
            else:
                assert "episode" not in info
    assert n_episodes > 20
    assert sum(row["transitions"] for row in model.actor_stats) == 400
    assert sum(row["episodes"] for row in model.actor_stats) == n_episodes
    ended = [
        (info["episode"]["r"], kind)
        for tick in watcher.ticks
        for info, kind in zip(tick["infos"], tick["actor_kinds"], strict=True)
        if "episode" in info
    ]
    nature = [episode_return for episode_return, kind in ended if kind == "nature"]
    assert [info["r"] for info in model.ep_info_buffer] == nature[-100:]


class Reports(gym.Wrapper):
    """Says in ``info`` which step of its episode it was."""

    def reset(self, **kwargs):
        self.count = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        self.count += 1
        *result, info = self.env.step(action)
        return *result, {**info, "count": self.count, "unasked": 1}


def test_info_keys_reach_the_callbacks():
    watcher = Locals()
    dqn(Monitor(Reports(RandomWalk())), n_actors=1, info_keys=["count"]).learn(60, watcher)
    count = 0
    for tick in watcher.ticks:
        count += 1
        assert tick["infos"][0]["count"] == count
        assert "unasked" not in tick["infos"][0]
        count = 0 if tick["dones"][0] else count


@pytest.mark.parametrize("stop_at", [41, 150])
def test_a_callback_can_end_training(stop_at):
    ours, theirs = Trace(stop_at), Trace(stop_at)
    model = dqn().learn(1000, ours)
    oracle = dqn(algorithm=sb3.DQN).learn(1000, theirs)
    assert ours.trace == theirs.trace
    assert model.num_timesteps == oracle.num_timesteps == stop_at
    model.learn(50, reset_num_timesteps=False)
    assert model.num_timesteps == oracle.learn(50, reset_num_timesteps=False).num_timesteps


# Logs.


def tensorboard_keys(folder: pathlib.Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    return {*tags["scalars"], *(tag.removesuffix("/text_summary") for tag in tags["tensors"])}


def test_tensorboard_gets_sb3s_keys_and_ours(tmp_path):
    def keys(algorithm, **kwargs):
        model = dqn(algorithm=algorithm, tensorboard_log=str(tmp_path / algorithm.__name__), **kwargs)
        model.learn(1000, log_interval=2)
        return tensorboard_keys(tmp_path / algorithm.__name__ / f"{algorithm.__name__}_1")

    prior = PriorAgent(sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=1), mean_reward=480.0)
    ours, theirs = keys(CA2EDQN, prior_agents=[prior]), keys(sb3.DQN)
    assert theirs <= ours
    assert len(theirs) >= 6
    added = {
        *(f"actors/{slot}/{key}" for slot in (0, 2) for key in ("kind", "epsilon", "ep_rew_mean", "fps", "param_age")),
        *(f"priors/2/{key}" for key in ("ep_rew_mean", "baseline")),
        "replay/size",
        "replay/prior_fraction",
        "replay/sampled_prior_fraction",
        "replay/td_error_prior",
        "replay/td_error_nature",
        "replay/sample_age",
        "replay/samples_per_insert",
        "time/updates_per_second",
        "time/learner_wait",
        "time/actor_wait",
        "time/bottleneck",
    }
    assert added <= ours


def test_ddpg_logs_what_sb3s_logs(tmp_path):
    def keys(algorithm):
        model = ddpg(Monitor(RandomWalk(continuous=True)), algorithm)
        model.set_logger(configure(str(tmp_path / algorithm.__name__), ["csv"]))
        model.learn(150, log_interval=1)
        model.logger.close()
        return set((tmp_path / algorithm.__name__ / "progress.csv").read_text().splitlines()[0].split(","))

    theirs = keys(sb3.DDPG)
    assert {"train/actor_loss", "train/critic_loss", "train/learning_rate", "rollout/ep_rew_mean"} <= theirs
    assert theirs <= keys(CA2EDDPG)


# Saving.


@pytest.mark.parametrize("make", [dqn, ddpg])
def test_a_saved_model_predicts_the_same(make, tmp_path):
    model = make()
    model.learn(150)
    model.save(tmp_path / "model")
    observations = np.stack([model.observation_space.sample() for _ in range(20)]).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    for env in (None, model.get_env()):
        loaded = type(model).load(tmp_path / "model", env=env)
        np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
        assert loaded.replay_buffer.nbytes == 0
    loaded.set_parameters(make(seed=5).get_parameters())
    for name, value in make(seed=5).policy.state_dict().items():
        assert th.equal(loaded.policy.state_dict()[name], value)


def test_a_loaded_model_goes_on_where_it_was(tmp_path):
    continued = dqn(exploration_fraction=0.5, target_update_interval=70)
    continued.learn(300)
    continued.save(tmp_path / "model")
    continued.save_replay_buffer(tmp_path / "memory")
    loaded = CA2EDQN.load(tmp_path / "model")
    with pytest.raises(AssertionError):
        loaded.learn(100)  # as in SB3, a model without an environment can only predict
    loaded.set_env(make_vec_env("CartPole-v1", 1))
    loaded.load_replay_buffer(tmp_path / "memory")
    assert loaded.replay_buffer.size() == 300
    for name in ("num_timesteps", "_n_updates", "_n_calls", "_episode_num", "exploration_rate", "double_q", "n_actors"):
        assert getattr(loaded, name) == getattr(continued, name), name
    for model in (loaded, continued):
        model.learn(100, reset_num_timesteps=False)
    for name in ("num_timesteps", "_n_updates", "_n_calls", "exploration_rate"):
        assert getattr(loaded, name) == getattr(continued, name), name
    assert loaded.num_timesteps == 400
    assert loaded.replay_buffer.size() == 400


def test_another_number_of_actors_goes_on(tmp_path):
    model = dqn(n_actors=2)
    model.learn(200)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "memory")
    loaded = CA2EDQN.load(tmp_path / "model", env=make_vec_env("CartPole-v1", 1), n_actors=5)
    loaded.load_replay_buffer(tmp_path / "memory")
    loaded.learn(200, reset_num_timesteps=False)
    assert loaded.replay_buffer.size() == 400
    assert len(loaded.actor_stats) == 5


def test_a_prior_object_is_saved_as_a_reference(tmp_path):
    prior = sb3.PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [512, 512]}, device="cpu")
    model = dqn(prior_agents=[prior])
    model.learn(60)
    model.save(tmp_path / "model")
    n_parameters = sum(parameter.numel() for parameter in prior.policy.parameters())
    assert os.path.getsize(tmp_path / "model.zip") < n_parameters
    loaded = CA2EDQN.load(tmp_path / "model", env=make_vec_env("CartPole-v1", 1))
    with pytest.raises(ValueError, match=r"object.*set model.prior_agents"):
        loaded.learn(60, reset_num_timesteps=False)
    loaded.prior_agents = [prior]
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 120
    assert loaded.replay_buffer.prior_fraction == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "noise",
    [NormalActionNoise(np.zeros(1), 0.3 * np.ones(1)), OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))],
)
def test_a_noise_of_the_users_own_survives(noise, tmp_path):
    model = ddpg(make_vec_env("Pendulum-v1", 2), action_noise=noise)
    model.learn(120)
    assert model.action_noise is noise
    model.save(tmp_path / "model")
    loaded = CA2EDDPG.load(tmp_path / "model", env=make_vec_env("Pendulum-v1", 2))
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 180


def test_the_actors_learning_rate_is_its_own():
    model = ddpg(learning_rate=2e-3, actor_learning_rate=lambda progress: 1e-4 * progress)
    model.learn(100)
    assert model.critic.optimizer.param_groups[0]["lr"] == 2e-3
    assert model.actor.optimizer.param_groups[0]["lr"] < 1e-4


def test_the_package_says_what_it_exports():
    assert all(hasattr(sb3_ca2e, name) for name in sb3_ca2e.__all__)

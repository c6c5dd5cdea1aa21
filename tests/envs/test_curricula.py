"""Curricula: what callbacks call on the model's environment has SB3's effect in every slot."""

import os
import signal
import threading
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecCheckNan, VecEnv, VecMonitor, VecNormalize

from sb3_ca2e import CA2EDQN, ActorError, ActorWarning, BuilderVecEnv, CA2ECheckpointCallback, NativeVecEnv, PriorAgent
from sb3_ca2e.envs import order_log
from sb3_ca2e.replay.block import OBSERVATION
from tests import inside
from tests.actors.levels_env import LevelsEnv
from tests.envs.test_vec_normalize import stored_rows

pytestmark = pytest.mark.usefixtures("_patient", "_forkserver", "_one_server")
SMALL = {"policy_kwargs": {"net_arch": [8]}, "learning_starts": 10**6, "seed": 0, "device": "cpu"}
#: Slots that step copies: in this process, and in two others.
COPIES = {
    "sync": {"execution": "sync", "n_actors": 4, "local_buffer_size": 5},
    "async": {"execution": "async", "n_actors": 4, "n_processes": 2, "local_buffer_size": 5},
}


class At(BaseCallback):
    """
    Does something at given callback steps.

    :param actions: by callback step, what to do with the training environment
    """

    def __init__(self, actions: dict[int, Callable[[VecEnv], object]]):
        super().__init__()
        self.actions = actions
        self.results: list[object] = []

    def _on_step(self) -> bool:
        if (action := self.actions.get(self.n_calls)) is not None:
            self.results.append(action(self.training_env))
        return True


#: On each layer, in each form; which of them are executed, how often and in which order shows in what SB3 observes.
CALLS = {
    7: lambda env: env.env_method("add", 1),
    10: lambda env: env.venv.set_attr("length", 3, indices=0),
    13: lambda env: env.unwrapped.env_method("set_level", level=3, indices=[1]),
    14: lambda env: env.unwrapped.env_method("set_level", 4, indices=-2),
    20: lambda env: env.venv.env_method("add", number=5, indices=iter([1, 0, 1])),
    30: lambda env: env.set_attr("level", 6.0),
    31: lambda env: env.env_method("add", 2),
    40: lambda env: env.get_attr("sum"),
}


def two() -> VecMonitor:
    """Bare environments, so that ``set_attr`` reaches them, in a wrapper of SB3's."""
    return VecMonitor(DummyVecEnv([LevelsEnv, LevelsEnv]))


def oracle(actions=CALLS, n_steps: int = 100) -> tuple[sb3.DQN, At]:
    callback = At(actions)
    model = sb3.DQN("MlpPolicy", VecMonitor(two()), buffer_size=1000, train_freq=1, **SMALL)
    return model.learn(2 * n_steps, callback), callback


def newest(model: CA2EDQN) -> dict[int, tuple[float, ...]]:
    """The last observation that each slot stored."""
    frames = inside.rows(model.replay_buffer).frames[OBSERVATION]
    return {slot: tuple(frames[rows[-1]].tolist()) for slot, rows in stored_rows(model).items()}


def first(model: CA2EDQN, number: int) -> dict[int, tuple[float, ...]]:
    """An observation of each slot."""
    frames = inside.rows(model.replay_buffer).frames[OBSERVATION]
    return {slot: tuple(frames[rows[number]].tolist()) for slot, rows in stored_rows(model).items()}


def test_slots_that_step_the_users_own_environments_see_each_call_at_once_and_once():
    lock = threading.Lock()  # nothing is sent to anyone
    callback = At(
        {**CALLS, 8: lambda env: env.set_attr("lock", lock), 9: lambda env: env.get_attr("lock") == [lock] * 2}
    )
    expected, theirs = oracle(callback.actions)
    model = CA2EDQN("MlpPolicy", VecMonitor(two()), execution="sync", local_buffer_size=1, train_freq=1, **SMALL)
    model.learn(200, callback)
    assert callback.results == theirs.results
    found = np.array(model.replay_buffer.observations).reshape(-1, 2)
    np.testing.assert_array_equal(found, expected.replay_buffer.observations[:100].reshape(-1, 2))
    assert len({tuple(each) for each in found.tolist()}) > 8


@pytest.mark.parametrize("execution", COPIES)
def test_slots_that_step_copies_repeat_each_call_once_and_in_order(execution):
    expected, theirs = oracle()
    callback, env = At(CALLS), VecMonitor(two())
    model = CA2EDQN("MlpPolicy", env, **COPIES[execution], **SMALL).learn(1000, callback)
    assert callback.results == theirs.results
    last = expected.replay_buffer.observations[99].tolist()
    assert newest(model) == {slot: tuple(last[slot % 2]) for slot in range(4)}
    assert env.get_attr("sum") == expected.get_env().get_attr("sum")
    assert not {"env_method", "set_attr"} & set(vars(env.unwrapped))
    # An episode is played to its end: nothing that SB3 shows within an episode is shown otherwise
    model.learn(200)
    assert set(newest(model).values()) == {tuple(each) for each in last}


@pytest.mark.parametrize("execution", COPIES)
def test_a_monitor_receives_what_set_attr_sets_as_in_sb3(execution):
    """SB3 sets attributes of the outermost layer, which hides them from the environment."""
    levels = []
    for kind, arguments in ((sb3.DQN, {"buffer_size": 1000}), (CA2EDQN, COPIES[execution])):
        env = DummyVecEnv([lambda: Monitor(LevelsEnv())])
        set_and_add = lambda env: (env.set_attr("level", 5.0), env.env_method("add", 1))  # noqa: E731
        callback = At({5: set_and_add, 20: lambda env: env.get_attr("level")})
        model = kind("MlpPolicy", env, **arguments, **SMALL).learn(600, callback)
        shown = np.unique(np.reshape(model.replay_buffer.observations[:500], (-1, 2)), axis=0)
        levels.append((callback.results[-1], shown.tolist()))
    assert levels[0] == levels[1] == ([5.0], [[1.0, 0.0], [1.0, 1.0]])


class Telling(LevelsEnv):
    """Tells its process and level with each step."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "pid": os.getpid(), "level": self.shown[0], "first": self.t == 1}


class Kill(BaseCallback):
    """Sets the level, and once all slots have it, kills the process of one; ends with the replacement's steps."""

    def __init__(self):
        super().__init__()
        self.killed, self.seen, self.later = 0, set(), []

    def _on_step(self) -> bool:
        (info,) = self.locals["infos"]
        if self.n_calls == 10:
            self.training_env.env_method("set_level", 5)
        if not self.killed and info["level"] == 5:
            self.killed = info["pid"]
            os.kill(self.killed, signal.SIGKILL)
        elif self.killed and info["pid"] not in self.seen:
            self.later.append(info["level"])
        if not self.killed:
            self.seen.add(info["pid"])
        return len(self.later) < 20


@pytest.mark.parametrize("made", ["copied", "by a function"])
def test_a_process_that_is_started_again_begins_with_what_was_called(made):
    callback = Kill()
    env = Telling() if made == "copied" else Telling
    slots = {"n_actors": 2, "n_processes": 1, "local_buffer_size": 4, "info_keys": ("pid", "level")}
    model = CA2EDQN("MlpPolicy", env, **slots, **SMALL)
    with pytest.warns(ActorWarning, match="SIGKILL"):
        model.learn(10**6, callback)
    assert callback.later == [5.0] * 20


@pytest.mark.parametrize("execution", COPIES)
def test_prior_slots_repeat_calls_and_keep_them_when_they_retire(execution):
    agent = sb3.DQN("MlpPolicy", LevelsEnv(), buffer_size=1, policy_kwargs={"net_arch": [8]}, device="cpu")
    prior = PriorAgent(agent, mean_reward=-1.0)
    kinds = []

    def note(env: VecEnv) -> None:
        kinds.append([row["kind"] for row in model.actor_stats])

    callback = At({5: lambda env: env.env_method("set_level", 5), 100: note, 7000: note})
    model = CA2EDQN("MlpPolicy", LevelsEnv(), prior_agents=[prior], prior_patience=1, **COPIES[execution], **SMALL)
    model.learn(7000, callback)
    assert kinds == [["nature"] * 3 + ["prior"], ["nature"] * 4]
    memory, rows = inside.rows(model.replay_buffer), stored_rows(model)[3]
    assert {tuple(each) for each in memory.frames[OBSERVATION][rows[100:]].tolist()} == {(5.0, 0.0)}


MAKERS = {
    "a copy": lambda: LevelsEnv(),
    "a function": lambda: LevelsEnv,
    "several functions": lambda: BuilderVecEnv([LevelsEnv] * 2),
    "a function that holds it": lambda: (lambda env: lambda: env)(LevelsEnv()),
    "processes of its own": lambda: SubprocVecEnv([LevelsEnv] * 2, start_method="forkserver"),
}
OFTEN = "a copy", "a function", "processes of its own"


@pytest.mark.parametrize(
    ("made", "execution"), [(made, "sync") for made in MAKERS] + [(made, "async") for made in OFTEN]
)
def test_what_was_called_before_during_and_between_learns_is_done_once(made, execution):
    model = CA2EDQN("MlpPolicy", MAKERS[made](), **COPIES[execution], **SMALL)
    env, n_envs = model.get_env(), model.n_envs
    assert env.env_method("add", 1) == [1.0] * n_envs
    model.learn(40)
    assert set(first(model, 0).values()) == {(1.0, 1.0)}
    model.learn(200, At({3: lambda env: (env.env_method("set_level", 5), env.env_method("add", 1))}))
    assert set(newest(model).values()) == {(5.0, 7.0)}
    env.env_method("add", 2)
    assert env.get_attr("sum") == [24.0] * n_envs
    model.learn(40)
    assert set(first(model, -5).values()) == set(newest(model).values()) == {(5.0, 24.0)}
    env.close()


@pytest.mark.parametrize("execution", COPIES)
def test_native_vector_environments_repeat_calls(execution):
    env = NativeVecEnv(lambda n_envs, seed: DummyVecEnv([LevelsEnv] * n_envs))
    model = CA2EDQN("MlpPolicy", env, **COPIES[execution], **SMALL)
    env.unwrapped.env_method("add", 1)
    model.learn(40)
    assert set(first(model, 0).values()) == {(1.0, 1.0)}
    model.learn(200, At({3: lambda env: (env.env_method("set_level", 5), env.env_method("add", 1))}))
    assert set(newest(model).values()) == {(5.0, 7.0)}
    env.env_method("add", 2)
    model.learn(40)
    assert set(first(model, -5).values()) == {(5.0, 24.0)}


@pytest.mark.parametrize(
    ("make", "execution"), [(LevelsEnv, "sync"), (lambda: LevelsEnv, "async")], ids=["a copy", "a function"]
)
def test_a_call_that_actors_can_not_repeat_is_refused_before_anything_is_done(make, execution, monkeypatch):
    monkeypatch.setattr(order_log, "MOST_CALLS", 5)
    model = CA2EDQN("MlpPolicy", make(), **COPIES[execution], **SMALL)
    env = model.get_env()
    for refused, error, what in (
        (lambda env: env.set_attr("level", threading.Lock()), ValueError, "Actors repeat set_attr"),
        (lambda env: [env.env_method("add", 1) for _ in range(6)], RuntimeError, "one call too many: actors have 5"),
    ):
        with pytest.raises(error, match=what):
            model.learn(200, At({3: refused}))
        assert not {"env_method", "set_attr"} & set(vars(env.unwrapped))
    assert env.get_attr("sum") == [31.0]


class Drawn(LevelsEnv):
    """Has something to render."""

    def render(self):
        return None


@pytest.mark.parametrize("execution", COPIES)
def test_a_call_that_the_users_environment_refuses_is_not_repeated(execution):
    def call(env: VecEnv) -> None:
        with pytest.raises(AttributeError):
            env.env_method("no_such_method")
        env.env_method("set_level", 5)
        for _ in range(order_log.MOST_CALLS + 1):
            env.env_method("render")  # changes nothing, and is called often

    model = CA2EDQN("MlpPolicy", Drawn(), **COPIES[execution], **SMALL).learn(200, At({3: call}))
    assert set(newest(model).values()) == {(5.0, 0.0)}


def test_a_resumed_run_repeats_what_was_called_before_its_checkpoint(tmp_path):
    """In the middle of an episode, so that slots had not done so yet."""
    slots = {**COPIES["sync"], "local_buffer_size": 1, "train_freq": 4}
    model = CA2EDQN("MlpPolicy", LevelsEnv(length=20), **slots, **SMALL)
    calls = At({6: lambda env: env.env_method("add", 1)})
    model.learn(16, [calls, CA2ECheckpointCallback(8, tmp_path, save_replay_buffer=True)])
    resumed = CA2EDQN.resume(tmp_path, LevelsEnv(length=20), device="cpu")
    again = At({1: lambda env: env.env_method("add", 1)})
    resumed.learn(160, again, reset_num_timesteps=False)
    assert again.results == [[1.0]]  # the model's own environment is another one
    assert set(newest(resumed).values()) == {(1.0, 3.0)}


class Rewards(gym.Env):
    """Rewards and observations that depend on the step alone."""

    observation_space, action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64), gym.spaces.Discrete(2)
    n = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.ones(1), {}

    def step(self, action):
        self.n, self.t = self.n + 1, self.t + 1
        return np.full(1, np.sin(self.n)), float(np.cos(self.n)), self.t == 7, False, {}


@pytest.mark.parametrize("changes", [{"training": (False, True)}, {"gamma": (0.5, 0.9)}, {"norm_obs": (False, True)}])
def test_statistics_follow_what_a_callback_changes_as_in_sb3(changes):
    def change(number: int) -> Callable[[VecEnv], None]:
        return lambda env: [setattr(env, name, values[number]) for name, values in changes.items()] and None

    found = []
    for kind, arguments in ((sb3.DQN, {"buffer_size": 1000}), (CA2EDQN, {"execution": "sync", "local_buffer_size": 1})):
        arguments["n_actors" if kind is CA2EDQN else "train_freq"] = 1
        model = kind("MlpPolicy", VecNormalize(DummyVecEnv([Rewards])), **arguments, **SMALL)
        model.learn(100, At({20: change(0), 65: change(1)}))
        found.append(model.get_env())
    theirs, ours = found
    for name in ("count", "mean", "var"):
        assert getattr(ours.ret_rms, name) == pytest.approx(getattr(theirs.ret_rms, name), rel=1e-5)
    # What is stored counts, and so do the last observations of episodes, which SB3 leaves out
    assert theirs.obs_rms.count - 2 <= ours.obs_rms.count <= theirs.obs_rms.count + 15


@pytest.mark.parametrize("execution", COPIES)
def test_a_check_of_nan_may_be_switched_to_errors(execution):
    class Nan(LevelsEnv):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, np.nan if self.t == 3 else reward, *rest

    env = VecCheckNan(DummyVecEnv([Nan]))
    model = CA2EDQN("MlpPolicy", env, **COPIES[execution], **SMALL)
    with pytest.warns(ActorWarning, match="left out"):
        model.learn(100)

    def switch(env: VecEnv) -> None:
        env.raise_exception = True

    with pytest.warns(ActorWarning, match="left out"), pytest.raises(ActorError, match="raise_exception=True"):
        model.learn(500, At({5: switch}))

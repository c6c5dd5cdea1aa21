"""Subclasses of what actors make anew or read: kept whole, or refused by name; never replaced by their parent."""

import functools
import types

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_ca2e import ActorError, BuilderVecEnv, NativeVecEnv
from sb3_ca2e.envs.recipe import recipe_from
from tests.toy import RandomWalk, dqn

pytestmark = pytest.mark.usefixtures("_forkserver", "_one_server")


class Shaped(Monitor):
    """A monitor that also shapes rewards, and remembers something."""

    def __init__(self, env, filename=None, bonus=-5.0, **kwargs):
        super().__init__(env, filename, **kwargs)
        self.bonus = bonus

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + self.bonus, terminated, truncated, info


@pytest.mark.parametrize("file", [False, True], ids=["no file", "open file"])
@pytest.mark.parametrize("execution", ["sync", "async"])
def test_a_monitor_of_ones_own_does_what_it_does(execution, file, tmp_path):
    name = str(tmp_path / "mine") if file else None
    env = Shaped(gym.make("CartPole-v1"), name, bonus=-7.0)
    try:
        model = dqn(env, execution=execution, n_steps=1)
        before = (tmp_path / "mine.monitor.csv").read_text() if file else None
        model.learn(100)
        assert set(model.replay_buffer.sample(300).rewards.flatten().tolist()) == {-6.0}
        if file:
            assert (tmp_path / "mine.monitor.csv").read_text() == before
            assert (tmp_path / "mine.actor_0.monitor.csv").read_text().count("\n") > 2
    finally:
        env.close()


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_a_monitor_with_a_method_of_its_own_does_what_it_does(execution):
    env = Monitor(gym.make("CartPole-v1"))
    env.step = types.MethodType(lambda self, action: (*Monitor.step(self, action)[:1], -4.0, False, True, {}), env)
    model = dqn(env, execution=execution, n_steps=1).learn(40)
    assert set(model.replay_buffer.sample(300).rewards.flatten().tolist()) == {-4.0}


def _changed(kind):
    class Changed(kind):
        """Penalises."""

        def step_wait(self):
            observations, rewards, dones, infos = super().step_wait()
            return observations, rewards - 5.0, dones, infos

    return Changed


def _normalize_changed(venv):
    class Bounded(VecNormalize):
        def normalize_obs(self, obs):
            return np.tanh(super().normalize_obs(obs))

    return Bounded(venv)


def _walks():
    return DummyVecEnv([RandomWalk] * 2)


def _images():
    return DummyVecEnv([lambda: gym.wrappers.AddRenderObservation(gym.make("CartPole-v1", render_mode="rgb_array"))])


REPLACED = {
    "DummyVecEnv": lambda: _changed(DummyVecEnv)([RandomWalk] * 2),
    "BuilderVecEnv": lambda: _changed(BuilderVecEnv)([RandomWalk] * 2),
    "SubprocVecEnv": lambda: _changed(SubprocVecEnv)([RandomWalk], start_method="forkserver"),
    "VecFrameStack": lambda: _changed(VecFrameStack)(_walks(), 2),
    "VecNormalize": lambda: _changed(VecNormalize)(_walks()),
    "VecMonitor": lambda: _changed(VecMonitor)(_walks()),
    "VecCheckNan": lambda: _changed(VecCheckNan)(_walks()),
    "NativeVecEnv": lambda: _changed(NativeVecEnv)(lambda n_envs, seed: DummyVecEnv([RandomWalk] * n_envs)),
}


@pytest.mark.parametrize("known", REPLACED)
def test_a_vectorized_environment_that_does_more_is_refused_by_name(known):
    env = REPLACED[known]()
    try:
        with pytest.raises(ValueError, match=rf"Actors reimplement {known} and would leave out Changed.step_wait,"):
            dqn(env)
    finally:
        env.close()


def test_images_that_are_turned_in_another_way_are_refused(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = _images()
    with pytest.raises(ValueError, match=r"reimplement VecTransposeImage and would leave out Changed.step_wait,"):
        recipe_from(_changed(VecTransposeImage)(env))
    env.close()


def test_a_subclass_of_a_class_that_does_more_is_refused_too():
    class Named(_changed(DummyVecEnv)):
        pass

    with pytest.raises(ValueError, match=r"reimplement DummyVecEnv and would leave out Named.step_wait,"):
        dqn(Named([RandomWalk]))


@pytest.mark.parametrize("method", ["__getattribute__", "__setattr__"])
def test_so_is_a_class_that_decides_over_all_attributes(method):
    usual = getattr(object, method)
    decides = type("Decides", (DummyVecEnv,), {method: lambda self, *args: usual(self, *args)})
    with pytest.raises(ValueError, match=rf"reimplement DummyVecEnv and would leave out Decides.{method},"):
        dqn(decides([RandomWalk]))


def test_normalization_of_ones_own_is_refused_by_the_name_of_its_method():
    with pytest.raises(ValueError, match=r"reimplement VecNormalize and would leave out Bounded.normalize_obs,"):
        dqn(_normalize_changed(_walks()))


def test_a_method_that_an_object_alone_has_is_refused_too():
    env = _walks()
    env.step_wait = lambda: None
    with pytest.raises(ValueError, match=r"reimplement DummyVecEnv and would leave out DummyVecEnv.step_wait,"):
        dqn(env)


@pytest.mark.parametrize("method", ["step_wait", "seed"])
def test_so_is_a_class_of_sb3s_that_was_changed(method, monkeypatch):
    owner = next(kind for kind in DummyVecEnv.__mro__ if method in vars(kind))
    monkeypatch.setattr(owner, method, lambda self, *args: None)
    with pytest.raises(ValueError, match=rf"reimplement DummyVecEnv and would leave out {owner.__name__}.{method},"):
        dqn(DummyVecEnv([RandomWalk]))


def _by_wraps(method):
    @functools.wraps(method)
    def changed(self):
        observations, rewards, *rest = method(self)
        return observations, 10 * rewards, *rest

    return changed


@pytest.mark.parametrize("change", [_by_wraps, lambda method: functools.partial(method)], ids=["wraps", "no function"])
def test_so_is_one_whose_method_goes_by_the_name_of_the_old_one(change, monkeypatch):
    monkeypatch.setattr(DummyVecEnv, "step_wait", change(DummyVecEnv.step_wait))
    with pytest.raises(ValueError, match=r"and would leave out DummyVecEnv.step_wait,"):
        dqn(DummyVecEnv([RandomWalk]))


@pytest.mark.parametrize("kind", [gym.wrappers.NormalizeObservation, gym.wrappers.NormalizeReward])
def test_wrappers_that_keep_statistics_are_refused_unless_they_are_stepped_themselves_or_keep_them(kind):
    env = kind(RandomWalk())
    with pytest.raises(ValueError, match=rf"{kind.__name__} keeps statistics.* Use VecNormalize"):
        dqn(env)
    assert dqn(env, n_actors=1).learn(40).num_timesteps == 40
    env.update_running_mean = False
    assert dqn(env).learn(40).num_timesteps == 40


def test_a_check_that_raises_raises():
    class Sick(RandomWalk):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation * np.nan, reward, *rest

    model = dqn(VecCheckNan(DummyVecEnv([Sick]), raise_exception=True))
    with pytest.raises(ActorError, match=r"VecCheckNan was given raise_exception=True"):
        model.learn(40)


def test_stacks_of_ones_own_are_refused():
    class Last(StackedObservations):
        def update(self, observations, dones, infos):
            return super().update(0 * observations, dones, infos)

    env = VecFrameStack(_walks(), 2)
    env.stacked_obs = Last(2, 2, env.venv.observation_space)
    with pytest.raises(ValueError, match=r"reimplement StackedObservations and would leave out Last.update,"):
        dqn(env)


def test_subclasses_that_replace_nothing_are_taken():
    class Named(DummyVecEnv):
        """Two walks, with a name."""

        def __init__(self, name):
            super().__init__([RandomWalk] * 2)
            self.name = name

        def __repr__(self):
            return self.name

        def __call__(self):
            return self.name

        def greet(self):
            return f"I am {self.name}"

    class Stack(VecFrameStack):
        pass

    for algorithm in ({"algorithm": DQN}, {}):
        model = dqn(Stack(Named("walks"), 2), **algorithm).learn(60)
        assert model.get_env().venv.greet() == "I am walks"

"""What can't be loaded again in another process is refused at construction, in one sentence."""

import importlib.util
import sys

import cloudpickle
import gymnasium as gym
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_ca2e import BuilderVecEnv, NativeVecEnv
from toy import RandomWalk, dqn

pytestmark = pytest.mark.usefixtures("_forkserver")


class Easy(gym.Wrapper):
    """Lets attributes of the environment inside be used as its own."""

    def __getattr__(self, name):
        return getattr(self.env, name)


class Careful(gym.Wrapper):
    """The same, with what it takes."""

    def __getattr__(self, name):
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)


@pytest.mark.parametrize("worker", [False, True], ids=["here", "in a worker"])
def test_a_wrapper_that_cant_be_loaded_is_told_by_name(worker):
    env = SubprocVecEnv([lambda: Easy(RandomWalk())], start_method="forkserver") if worker else Easy(RandomWalk())
    try:
        with pytest.raises(
            ValueError, match=r"can't be loaded again \(RecursionError: .*, in Easy.__getattr__\)\. While .*func"
        ):
            dqn(env)
    finally:
        env.close()


def test_a_wrapper_that_can_is_no_reason():
    dqn(Careful(RandomWalk())).learn(20)


def test_an_object_that_cant_be_set_up_again_is_told_with_what_it_raised():
    class Held:
        def __setstate__(self, state):
            raise OSError("the port is taken")

    env = RandomWalk()
    env.held = Held()
    env.held.port = 1
    with pytest.raises(
        ValueError, match=r"can't be loaded again \(OSError: the port is taken, in .*Held.__setstate__\)"
    ):
        dqn(env)


TEXT = """
import gymnasium as gym

class Env(gym.Wrapper):
    def __init__(self):
        super().__init__(gym.make("CartPole-v1"))

def make():
    return Env()

def made_together(n_envs, seed):
    from stable_baselines3.common.vec_env import DummyVecEnv
    return DummyVecEnv([Env] * n_envs)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module loaded from a file, as plugin loaders do."""

    def load(name):
        path = tmp_path / f"{name.rpartition('.')[2]}.py"
        path.write_text(TEXT)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


BROUGHT = {
    "environment": lambda module: module.Env(),
    "inside a wrapper": lambda module: gym.wrappers.TimeLimit(module.Env(), 10),
    "vectorized": lambda module: DummyVecEnv([module.Env]),
    "function": lambda module: module.make,
    "function of a list": lambda module: BuilderVecEnv([module.Env]),
    "function that names the module": lambda module: lambda: module.Env(),
    "native": lambda module: NativeVecEnv(module.made_together),
}


@pytest.mark.parametrize("brought", BROUGHT)
@pytest.mark.parametrize("name", ["ca2e_plugin", "gymnasium.ca2e_plugin"])
def test_a_module_that_actors_would_not_find_is_told(brought, name, plugin):
    env = BROUGHT[brought](plugin(name))
    with pytest.raises(ValueError, match=rf"Actors import {name}, which .* not on the path .*ca2e_plugin.py"):
        dqn(env, execution="async")
    assert dqn(env, execution="sync").learn(40).num_timesteps == 40


def test_another_module_of_that_name_is_told(plugin, tmp_path, monkeypatch):
    other = tmp_path / "on the path"
    other.mkdir()
    (other / "ca2e_plugin.py").write_text(TEXT.replace("CartPole-v1", "Acrobot-v1"))
    monkeypatch.syspath_prepend(other)
    with pytest.raises(
        ValueError, match=r"what they would find is .*on the path/ca2e_plugin.py, not .*/ca2e_plugin.py"
    ):
        dqn(plugin("ca2e_plugin").Env(), execution="async")


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_the_ways_out_are_ways_out(execution, plugin, tmp_path, monkeypatch):
    module = plugin("ca2e_plugin")
    cloudpickle.register_pickle_by_value(module)
    try:
        assert dqn(module.Env(), execution=execution).learn(40).num_timesteps == 40
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    monkeypatch.syspath_prepend(tmp_path)
    assert dqn(module.Env(), execution=execution).learn(40).num_timesteps == 40

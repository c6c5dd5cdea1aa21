"""What can't be loaded again in another process is refused at construction, in one sentence."""

import importlib.util
import subprocess
import sys

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_ca2e import BuilderVecEnv, NativeVecEnv
from sb3_ca2e.envs.copies.modules import refuse_lost_modules
from tests.toy import RandomWalk, ddpg, dqn
from tests.user_script import environment, of_ours, script

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
    assert dqn(Careful(RandomWalk())).learn(20).num_timesteps == 20


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
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from sb3_ca2e import CA2EDDPG

class Features(FlattenExtractor):
    pass

class Noise(NormalActionNoise):
    pass

class Algorithm(CA2EDDPG):
    pass

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
    with pytest.raises(ValueError, match=rf"Actors must import {name}, which .* not on the path .*ca2e_plugin.py"):
        dqn(env, execution="async")
    assert dqn(env, execution="sync").learn(40).num_timesteps == 40


PARTS = {
    "features": lambda module: ddpg(execution="async", policy_kwargs={"features_extractor_class": module.Features}),
    "features derived": lambda module: ddpg(
        execution="async", policy_kwargs={"features_extractor_class": type("Mine", (module.Features,), {})}
    ),
    "noise": lambda module: ddpg(execution="async", action_noise=module.Noise(np.zeros(1), np.ones(1))),
    "algorithm": lambda module: ddpg(algorithm=module.Algorithm, execution="async"),
}


@pytest.mark.parametrize("part", PARTS)
def test_so_is_one_of_the_policy_or_of_the_algorithm(part, plugin):
    module = plugin("ca2e_plugin")
    with pytest.raises(ValueError, match=r"Actors must import ca2e_plugin, which the model needs, but .* not on the"):
        PARTS[part](module)
    cloudpickle.register_pickle_by_value(module)
    try:
        assert PARTS[part](module).learn(40).num_timesteps == 40
    finally:
        cloudpickle.unregister_pickle_by_value(module)


MOVED = """
    import os, sys
    sys.path.insert(0, "parts")
    import ca2e_part, ca2e_algorithm
    from stable_baselines3.common.env_util import make_vec_env
    os.chdir("/")
    model = ca2e_algorithm.Algorithm("MlpPolicy", make_vec_env(ca2e_part.Part), n_actors=2, learning_starts=1000)
    print(model.learn(40).num_timesteps)
    """


def test_a_relative_path_leads_where_it_did_when_modules_were_imported(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "ca2e_algorithm.py").write_text(TEXT)
    (tmp_path / "parts" / "ca2e_part.py").write_text(
        "import gymnasium as gym\n\nclass Part(gym.Wrapper):\n"
        "    def __init__(self, render_mode=None):\n        super().__init__(gym.make('Pendulum-v1'))\n"
    )
    run = subprocess.run(
        script(MOVED, tmp_path), cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert (run.stdout, of_ours(run.stderr)) == ("40\n", "")


def test_a_module_that_sets_its_own_parts_is_found(plugin, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    plugin("ca2e_plugin")
    refuse_lost_modules({"ca2e_plugin.own_part"}, "it")  # as os has os.path
    with pytest.raises(ValueError, match=r"Actors must import ca2e_nowhere.own_part, which it needs, but .*not on the"):
        refuse_lost_modules({"ca2e_plugin.own_part", "ca2e_nowhere.own_part"}, "it")


def test_another_module_of_that_name_is_told(plugin, tmp_path, monkeypatch):
    other = tmp_path / "on the path"
    other.mkdir()
    (other / "ca2e_plugin.py").write_text(TEXT.replace("CartPole-v1", "Acrobot-v1"))
    monkeypatch.syspath_prepend(other)
    with pytest.raises(ValueError, match=r"they would find .*on the path/ca2e_plugin.py, not .*/ca2e_plugin.py"):
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

"""Functions that make environments, those that return one that they hold, and environments that were put in later."""

import functools

import gymnasium as gym
import pytest

from sb3_ca2e import BuilderVecEnv
from sb3_ca2e.actors.envs import as_env, recipe_from

pytestmark = pytest.mark.usefixtures("_forkserver")


def pendulum():
    return gym.make("Pendulum-v1")  # pickles how it was made


def gravity_in_actors(env):
    """Of the first slot."""
    return recipe_from(as_env(env)).build(0).unwrapped.g


class Maker:
    def __init__(self, env):
        self.env = env

    def make(self):
        return self.env

    __call__ = make


def a_function(env):
    return lambda: env


def of_a_module(env):
    ELSEWHERE.update(env=env)
    return lambda: [ELSEWHERE["env"] for _ in range(2)].pop()


#: What a function of a script finds there.
ELSEWHERE = {}

HELD = {
    "function": a_function,
    "default": lambda env: lambda held=env: held,
    "list": lambda env: lambda held=(env, None): held[0],
    "name in a module": of_a_module,
    "partial": lambda env: functools.partial(lambda held: held, env),
    "method": lambda env: Maker(env).make,
    "object": Maker,
    "wrapped": lambda env: lambda: gym.wrappers.TimeLimit(env, 5),
    "function in a function": lambda env: (lambda inner: lambda: inner())(lambda: env),
    "BuilderVecEnv": lambda env: BuilderVecEnv([lambda: env]),
}


@pytest.mark.parametrize("way", HELD)
def test_an_environment_that_a_function_holds_is_copied_as_it_is(way):
    env = pendulum()
    function = HELD[way](env)
    env.unwrapped.g = 2.5
    assert gravity_in_actors(function) == 2.5


def test_one_that_a_function_makes_is_made_anew():
    env = as_env(pendulum)
    env.envs[0].unwrapped.g = 2.5
    assert gravity_in_actors(env) == 10.0


def test_environments_that_are_put_in_later_are_copied():
    env = BuilderVecEnv([pendulum])
    env.envs[0] = pendulum()
    env.envs[0].unwrapped.g = 2.5
    assert gravity_in_actors(env) == 2.5
    env.release()
    assert env.envs[0].unwrapped.g == 2.5
    env = BuilderVecEnv([pendulum])
    env.envs = [pendulum()]
    env.envs[0].unwrapped.g = 3.5
    assert gravity_in_actors(env) == 3.5


def test_what_was_released_and_made_again_is_no_other():
    env = BuilderVecEnv([pendulum])
    env.release()
    env.envs[0].unwrapped.g = 2.5
    assert gravity_in_actors(env) == 10.0

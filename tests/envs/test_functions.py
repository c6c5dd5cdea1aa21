"""Functions that make environments, those that return one that they hold, and environments that were put in later."""

import collections
import functools
import operator
import types

import gymnasium as gym
import pytest
from gymnasium.utils import EzPickle

from sb3_ca2e import BuilderVecEnv
from sb3_ca2e.envs.model_env import as_env
from sb3_ca2e.envs.recipe import recipe_from
from tests.toy import RandomWalk

pytestmark = pytest.mark.usefixtures("_forkserver")


class Planet(RandomWalk, EzPickle):
    """Pickles how it was made, as those of gymnasium do that are made of C++."""

    def __init__(self):
        EzPickle.__init__(self)
        super().__init__()
        self.gravity = 10.0


def gravity_in_actors(env):
    """Of the first slot."""
    return recipe_from(as_env(env)).build(0).unwrapped.gravity


class Maker:
    def __init__(self, env):
        self.env = env

    def make(self):
        return self.env

    __call__ = make


class Settings:
    env = None


class Slots:
    __slots__ = ("env",)

    def __init__(self, env):
        self.env = env


def of_a_class(env):
    Settings.env = env
    return lambda: Settings.env


def of_another_module(env):
    elsewhere.env = env
    return lambda: elsewhere.env


def taken(env, take=collections.deque.pop):
    envs = collections.deque([env])
    return lambda: take(envs)


def a_function(env):
    return lambda: env


def of_a_module(env):
    ELSEWHERE.update(env=env)
    return lambda: [ELSEWHERE["env"] for _ in range(2)].pop()


#: What a function of a script finds there.
ELSEWHERE = {}
elsewhere = types.ModuleType("elsewhere")

HELD = {
    "function": a_function,
    "default": lambda env: lambda held=env: held,
    "keyword": lambda env: lambda *, held=env: held,
    "list": lambda env: lambda held=(env, None): held[0],
    "name in a module": of_a_module,
    "item of a dictionary": lambda env: lambda held={"env": env}: held["env"],
    "partial": lambda env: functools.partial(lambda held: held, env),
    "keyword of a partial": lambda env: functools.partial(lambda held: held, held=env),
    "partial of a function": lambda env: functools.partial(lambda _: env, 0),
    "method": lambda env: Maker(env).make,
    "function of a method": lambda env: types.MethodType(lambda _, held=env: held, "nobody"),
    "object": Maker,
    "attribute of an object": lambda env: (lambda held: lambda: held.env)(Maker(env)),
    "slot of an object": lambda env: (lambda held: lambda: held.env)(Slots(env)),
    "attribute of a class": of_a_class,
    "attribute of a module": of_another_module,
    "taken from a collection": taken,
    "next of an iterator": lambda env: functools.partial(next, iter([env])),
    "C's own": lambda env: functools.partial(operator.attrgetter("env"), Maker(env)),
    "wrapped": lambda env: lambda: gym.wrappers.TimeLimit(env, 5),
    "function in a function": lambda env: (lambda inner: lambda: inner())(lambda: env),
    "BuilderVecEnv": lambda env: BuilderVecEnv([lambda: env]),
}


@pytest.mark.parametrize("way", HELD)
def test_an_environment_that_a_function_holds_is_copied_as_it_is(way):
    env = Planet()
    function = HELD[way](env)
    env.unwrapped.gravity = 2.5
    assert gravity_in_actors(function) == 2.5


def test_one_that_a_function_makes_is_made_anew():
    env = as_env(Planet)
    env.envs[0].unwrapped.gravity = 2.5
    assert gravity_in_actors(env) == 10.0


def test_a_function_that_keeps_what_it_makes_is_one_that_makes():
    made = []

    def make():
        made.append(Planet())
        return made[-1]

    env = as_env(make)
    env.envs[0].unwrapped.gravity = 2.5
    assert gravity_in_actors(env) == 10.0


def test_so_is_one_that_holds_another_environment():
    template = Planet()
    env = as_env(lambda: type(template)())
    env.envs[0].unwrapped.gravity = 2.5
    assert gravity_in_actors(env) == 10.0


def test_environments_that_are_put_in_later_are_copied():
    env = BuilderVecEnv([Planet])
    env.envs[0] = Planet()
    env.envs[0].unwrapped.gravity = 2.5
    assert gravity_in_actors(env) == 2.5
    env.release()
    assert env.envs[0].unwrapped.gravity == 2.5
    env = BuilderVecEnv([Planet])
    env.envs = [Planet()]
    env.envs[0].unwrapped.gravity = 3.5
    assert gravity_in_actors(env) == 3.5


def test_what_was_released_and_made_again_is_no_other():
    env = BuilderVecEnv([Planet])
    env.release()
    env.envs[0].unwrapped.gravity = 2.5
    assert gravity_in_actors(env) == 10.0
    env.envs[0] = Planet()
    env.envs[0].unwrapped.gravity = 2.5
    assert gravity_in_actors(env) == 2.5


def test_of_several_functions_one_that_holds_an_environment_is_enough():
    held = Planet()
    held.unwrapped.gravity = 2.5
    recipe = recipe_from(BuilderVecEnv([Planet, lambda: held]))
    assert [recipe.build(slot).unwrapped.gravity for slot in range(2)] == [10.0, 2.5]


def test_environments_that_are_made_again_have_been_reset():
    env = BuilderVecEnv([Planet])
    env.reset()
    env.release()
    assert env.step([0])[0].shape == (1, 3)

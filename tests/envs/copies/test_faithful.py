"""Copies of environments are as the originals are, whatever was done to them after they were made."""

import contextlib
import ctypes
import dataclasses
import datetime
import functools
import itertools
import math
import operator
import random
import socket
import threading
import types
from collections import deque
from copy import deepcopy
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_ca2e.envs.recipe import recipe_from
from tests.toy import RandomWalk, dqn

mujoco = pytest.importorskip("mujoco")
pytestmark = pytest.mark.usefixtures("_forkserver")


def copied(env):
    return recipe_from(DummyVecEnv([lambda: env])).build(0)


def course(env, n_steps=40):
    """What an environment does: all that it returns from a seed on."""
    env.reset(seed=5)
    env.action_space.seed(5)
    seen = []
    for _ in range(n_steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        seen.append([*np.ravel(np.asarray(observation, np.float64)), float(reward), terminated, truncated])
        if terminated or truncated:
            env.reset()
    return np.array(seen)


class Arm:
    __slots__ = ("length", "line", "owner")

    def __init__(self, length=1.0):
        self.length = length
        self.owner = None

    def told(self):
        return self.length


class Named(dict):
    """A dictionary of one's own."""


def rewarding(number):
    return lambda: number


class Crane(gym.Env, EzPickle):
    """Pickles how it was made, as gymnasium's own do; what it observes tells of everything it holds."""

    observation_space, action_space = spaces.Box(-1e6, 1e6, (16,), np.float64), spaces.Discrete(2)

    def __init__(self, load=1.0):
        EzPickle.__init__(self, load)
        self.load = load
        self.bend = np.zeros(2)
        self.view = self.bend[:1]  # the same memory, as MuJoCo's arrays are
        self.arms = [Arm(), Arm()]
        self.arms[0].owner = self
        self.table = {"a": {"b": [1, 2]}}
        self.pair = (1.0, Arm())
        self.weights = th.zeros(2)
        self.reward = rewarding(0.0)
        self.named = Named(a=1.0)
        self.kind = float
        self.parts = np.array([1.0, "a"], object)
        self.when = datetime.date(2000, 1, 1)
        self.told = Arm().told
        self.settings = types.SimpleNamespace(level=0.0)
        self.round = math.floor
        self.added = functools.partial(operator.add, 0.0)
        self.opened, self.t = 0, 0

    def _observed(self):
        numbers = [
            self.load,
            self.arms[0].length,
            self.view[0],
            self.arms[0].owner.arms[1].length,
            self.table["a"]["b"][1],
        ]
        numbers += [self.when.year, self.told(), self.settings.level, self.round(0.5)]
        numbers += [self.named["a"], self.kind("3") == 3, self.parts[0], self.added(1.0)]
        return np.array([*numbers, self.pair[0], self.weights.sum().item(), self.opened])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.opened, self.t = 1, 0
        return self._observed(), {}

    def step(self, action):
        self.t += 1
        return self._observed(), self.reward() + self.t, False, self.t >= 10, {}


def _in_place(env):
    env.bend[0] = 4.0


def _replaced_list(env):
    env.arms[1] = Arm(7.0)


def _function(env):
    env.reward = lambda: -3.0


def _method(env):
    env.step = types.MethodType(lambda self, action: (self._observed(), 9.0, True, False, {}), env)


def _one_more(env):
    env.arms.insert(1, Arm(7.0))


def _of_a_pair(env):
    env.pair = (5.0, env.pair[1])


CHANGES = {
    "attribute": lambda env: setattr(env, "load", 42.0),
    "array in place": _in_place,
    "slot of an object inside": lambda env: setattr(env.arms[1], "length", 2.5),
    "object in a list": _replaced_list,
    "one more object in a list": _one_more,
    "item of a dictionary": lambda env: env.table["a"]["b"].__setitem__(1, 9),
    "new items": lambda env: env.table["a"].update(c=[1], b=[1, 5, 6]),
    "item of a tuple": _of_a_pair,
    "tensor": lambda env: env.weights.add_(2.0),
    "function": _function,
    "function that holds something else": lambda env: setattr(env, "reward", rewarding(4.0)),
    "partial function": lambda env: setattr(env, "added", functools.partial(operator.add, 7.0)),
    "date": lambda env: setattr(env, "when", datetime.date(2030, 1, 1)),
    "method of another object": lambda env: setattr(env, "told", Arm(6.0).told),
    "namespace": lambda env: setattr(env.settings, "level", 3.0),
    "function of C's": lambda env: setattr(env, "round", math.ceil),
    "class": lambda env: setattr(env, "kind", str),
    "dictionary of a subclass": lambda env: env.named.update(a=3.0),
    "array of objects": lambda env: env.parts.__setitem__(0, 5.0),
    "method": _method,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_after_it_was_made_is_so_in_a_copy(change):
    env = Crane()
    CHANGES[change](env)
    before = course(Crane())
    wanted = course(env)
    assert not np.array_equal(wanted, before)
    copy = copied(env)
    np.testing.assert_array_equal(course(copy), wanted)
    inside = copy.unwrapped
    assert inside is not env
    assert inside.arms[0].owner is inside
    assert inside.view.base is inside.bend


def test_what_is_not_a_number_is_no_difference():
    env = Crane()
    env.load = math.nan
    assert math.isnan(copied(env).unwrapped.load)


def test_a_copy_and_the_original_share_nothing():
    env = Crane()
    env.table["a"]["b"] = [7, 8]
    copy = copied(env).unwrapped
    assert copy.table == env.table
    copy.table["a"]["b"][0] = -1
    assert env.table["a"]["b"] == [7, 8]


def _pendulum(env):
    env.unwrapped.model.opt.gravity[:] = (0.0, 0.0, 2.0)
    env.unwrapped.model.opt.timestep = 0.01
    env.unwrapped.model.body_mass[1:] *= 3
    env.unwrapped.init_qpos[:] = 0.1


REAL = [
    pytest.param("InvertedPendulum-v5", _pendulum, id="MuJoCo"),
    pytest.param("Hopper-v5", lambda env: setattr(env.unwrapped, "_forward_reward_weight", 4.0), id="MuJoCo's reward"),
    pytest.param("LunarLander-v3", lambda env: setattr(env.unwrapped, "gravity", -3.0), id="Box2D"),
    pytest.param("CartPole-v1", lambda env: setattr(env.unwrapped, "length", 3.0), id="pickled as any object"),
    pytest.param("Pendulum-v1", lambda env: setattr(env.unwrapped, "g", 1.0), id="pickled too"),
]


@pytest.mark.parametrize(("env_id", "change"), REAL)
def test_so_it_is_with_real_environments(env_id, change):
    env = gym.make(env_id)
    before = course(gym.make(env_id))
    change(env)
    wanted = course(env)
    assert not np.array_equal(wanted, before)
    np.testing.assert_array_equal(course(copied(env)), wanted)


@pytest.mark.parametrize("worker", [False, True], ids=["here", "in a worker"])
def test_a_subclass_keeps_what_it_added(worker):
    from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

    class Rewarded(InvertedPendulumEnv):
        def __init__(self, bonus=0.0):
            super().__init__()
            self.bonus = bonus

        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, self.bonus, *rest

    def make():
        return gym.wrappers.TimeLimit(Rewarded(bonus=42.0), 200)

    venv = SubprocVecEnv([make], start_method="forkserver") if worker else DummyVecEnv([make])
    try:
        copy = recipe_from(venv).build(0)
    finally:
        venv.close()
    assert set(course(copy)[:, -3]) == {42.0}


@pytest.mark.parametrize("env_id", ["LunarLander-v3", "Hopper-v5"])
def test_a_subclass_keeps_generators_and_classes_that_its_steps_need(env_id):
    class Noisy(type(gym.make(env_id).unwrapped)):
        def __init__(self):
            super().__init__()
            self.noise, self.kind = np.random.default_rng(), np.float32

        def step(self, action):
            observation, *rest = super().step(action)
            return self.kind(observation + 0.0 * self.noise.random()), *rest

    np.testing.assert_array_equal(course(copied(Noisy())), course(Noisy()))


def test_a_part_in_cpp_that_a_copy_lacks_is_no_reason_to_refuse():
    env = gym.make("LunarLander-v3")
    env.reset()
    env.unwrapped.last = env.unwrapped.lander.fixtures[0]
    np.testing.assert_array_equal(course(copied(env)), course(gym.make("LunarLander-v3")))


def test_a_table_that_was_changed_is_so_in_a_copy():
    class Market(Crane):
        def __init__(self):
            super().__init__()
            EzPickle.__init__(self)
            self.prices = pd.DataFrame({"a": [1.0, 2.0]})

    env = Market()
    env.prices.loc[0, "a"] = 5.0
    assert copied(env).unwrapped.prices["a"].tolist() == [5.0, 2.0]


def test_a_tree_whose_parts_know_their_parent_is_copied():
    env = Crane()
    env.tree = {"children": []}
    env.tree["children"] += [{"parent": env.tree, "number": number} for number in range(30)]
    tree = copied(env).unwrapped.tree
    assert [child["number"] for child in tree["children"]] == list(range(30))
    assert all(child["parent"] is tree for child in tree["children"])


#: Those that are open.
OPEN = []


class Opens(Crane):
    def __init__(self):
        super().__init__()
        EzPickle.__init__(self)
        OPEN.append(self)

    def close(self):
        OPEN.remove(self)


def test_copies_that_were_made_to_be_compared_are_closed():
    env = Opens()
    env.load = 2.0
    recipe = recipe_from(DummyVecEnv([lambda: env]))
    assert [env] == OPEN
    recipe.build(0).close()
    env.close()
    assert not OPEN


def test_a_subclass_that_pickles_itself_in_its_own_way_is_pickled_so():
    class Locked(Crane):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

        def __getstate__(self):
            return {"load": self.load}

        def __setstate__(self, state):
            self.__init__()
            self.load = state["load"]

    env = Locked()
    env.load = 2.0
    copy = copied(env)
    assert not copy.unwrapped.lock.locked()
    np.testing.assert_array_equal(course(copy), course(env))


def test_a_copy_is_not_closed_if_the_original_owns_what_it_closes(tmp_path):
    class Folder(RandomWalk):
        def close(self):
            (tmp_path / "data").rmdir()

    (tmp_path / "data").mkdir()
    copied(Folder())
    assert (tmp_path / "data").exists()


# Use before: no reason to refuse, and none to carry over what a copy's own reset sets.


USED = [
    *("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "LunarLander-v3", "BipedalWalker-v3"),
    *("Hopper-v5", "InvertedPendulum-v5", "FrozenLake-v1", "CliffWalking-v1"),
]


@pytest.mark.parametrize("env_id", USED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_environment_that_was_checked_stepped_and_rendered_is_copied(env_id, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    shows = "Hopper" not in env_id and "Inverted" not in env_id  # which need a graphics card, or a library
    env = gym.make(env_id, render_mode="rgb_array" if shows else None)
    with contextlib.suppress(AssertionError):  # BipedalWalker's rewards are no floats
        check_env(env, skip_render_check=not shows)
    wanted = course(gym.make(env_id))
    course(env)
    if shows:
        assert env.render() is not None
    np.testing.assert_array_equal(course(copied(env)), wanted)
    if shows:
        assert env.render() is not None
    env.close()


def test_what_reset_sets_is_not_carried_over():
    env = Crane()
    env.reset()
    copy = copied(env)
    assert copy.unwrapped.opened == 0


@dataclasses.dataclass(frozen=True)
class Place:
    x: int = 0


class Point(NamedTuple):
    x: int = 0


class Thing:
    """Equal to itself alone."""


SETS = {
    "dataclasses": lambda n: {Place(x) for x in range(n)},
    "named tuples": lambda n: frozenset(Point(x) for x in range(n)),
    "dates": lambda n: {datetime.date(2000, 1, 1 + x) for x in range(n)},
    "classes": lambda n: {int, float, Place, Point}.difference([Point][n - 3 :]),
    "functions": lambda n: {rewarding, course, copied}.difference([course][n - 3 :]),
    "keys": lambda n: dict.fromkeys([Place(x) for x in range(n)], 1.0),
}


@pytest.mark.parametrize("held", SETS)
def test_sets_of_objects_are_compared(held):
    env = Crane()
    env.places = SETS[held](3)
    assert copied(env).unwrapped.places == SETS[held](3)

    class Walled(Crane):
        def __init__(self):
            super().__init__()
            EzPickle.__init__(self)
            self.places = SETS[held](3)

    env = Walled()
    env.places = SETS[held](4)
    assert copied(env).unwrapped.places == SETS[held](4)


def test_what_is_equal_to_itself_alone_is_no_reason_to_refuse():
    env = RandomWalk()
    env.things, env.names = {Thing(), Thing()}, {Thing(): "a"}
    copy = copied(env).unwrapped
    assert (len(copy.things), list(copy.names.values())) == (2, ["a"])


def test_a_function_may_hold_itself():
    def factorial(n):
        return n * factorial(n - 1) if n else 1.0

    env = Crane()
    env.reward, env.load = (lambda: factorial(3)), 2.0
    np.testing.assert_array_equal(course(copied(env)), course(env))


def test_what_a_class_leaves_out_when_it_is_pickled_is_left_out():
    class Locked:
        def __init__(self):
            self.lock = None

        def used(self):
            self.lock = self.lock or threading.Lock()
            return self.lock

        def __getstate__(self):
            return {name: value for name, value in vars(self).items() if name != "lock"}

        def __setstate__(self, state):
            self.__init__()
            vars(self).update(state)

    env = Crane()
    env.locked, env.load = Locked(), 2.0
    env.locked.used()
    copy = copied(env)
    assert copy.unwrapped.load == 2.0
    assert copy.unwrapped.locked.used() is not env.locked.used()


class Converted(gym.Wrapper):
    """Pickles its own attributes, and forgets those that every wrapper has, as gymnasium's ArrayConversion does."""

    def __init__(self, env):
        super().__init__(env)
        self.scale = 2.0

    def __getstate__(self):
        return {"env": self.env, "scale": self.scale}

    def __setstate__(self, state):
        self.env, self.scale = state["env"], state["scale"]


def test_what_every_wrapper_has_is_carried_over():
    env = Converted(Crane())
    env.metadata = {"render_modes": ["ansi"]}
    other = copied(env).env.env  # without the slot's monitors
    assert vars(other).keys() == vars(env).keys()
    assert (other.metadata, other.spec, other.scale) == ({"render_modes": ["ansi"]}, None, 2.0)


def test_a_difference_of_times_that_was_changed_is_carried_over():
    env = Crane()
    env.when = datetime.timedelta(days=3)
    assert copied(env).unwrapped.when == datetime.timedelta(days=3)


@pytest.mark.parametrize("other", [lambda state: state[:1], lambda state: state.numpy(), lambda state: state.data])
def test_tensors_that_share_memory_are_refused_by_name(other):
    env = RandomWalk()
    env.state = th.zeros(2)
    env.position = other(env.state)
    with pytest.raises(ValueError, match=r"without its (position|state).* shares its memory with (state|position)"):
        copied(env)
    env.position = env.state.clone()
    copied(env)
    env.position = env.state
    copy = copied(env).unwrapped
    assert copy.position is copy.state


def test_making_a_copy_draws_no_number_of_the_users_and_counts_nothing():
    class Counts(Crane):
        made, latest = 0, None

        def __init__(self):
            super().__init__()
            EzPickle.__init__(self)
            type(self).made += 1
            type(self).latest = self
            np.random.rand(), random.random()

    env = Counts()
    env.load = 2.0
    before = str((random.getstate(), np.random.get_state()))
    recipe_from(DummyVecEnv([lambda: env]))
    assert str((random.getstate(), np.random.get_state())) == before
    assert (Counts.made, Counts.latest) == (1, env)


class Course(Crane):
    """Becomes harder with each episode, and draws what is not to be carried over."""

    def __init__(self):
        super().__init__()
        EzPickle.__init__(self)
        self.level, self.played, self.start = 1, {"episodes": [0]}, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = min(self.level + 1, 7)
        self.played["episodes"][0] += 1
        self.start = self.np_random.random()
        return self._observed(), {}

    def _observed(self):
        return super()._observed() + 100 * self.level + 1000 * self.played["episodes"][0]


@pytest.mark.parametrize("n_episodes", [0, 1, 3, 9])
def test_what_reset_only_changes_goes_on_from_where_it_was(n_episodes):
    env = Course()
    for _ in range(n_episodes):
        env.reset()
    before = (env.level, deepcopy(env.played))
    copy = copied(env)
    assert (env.level, env.played) == before
    env.reset()
    copy.reset()
    assert (copy.unwrapped.level, copy.unwrapped.played) == (env.level, env.played)


def test_what_reset_draws_is_set_by_it():
    env = Course()
    env.reset()
    assert copied(env).unwrapped.start == 0.0


class Deals(Crane):
    """Draws anew, in place, what its copies need not be given."""

    def __init__(self):
        super().__init__()
        EzPickle.__init__(self)
        self.array, self.list, self.dict, self.set, self.deque = np.zeros(1), [], {}, set(), deque()

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        number = self.np_random.random()
        self.array[0] = number
        self.list[:] = [number]
        self.dict["number"] = number
        self.set.clear()
        self.set.add(number)
        self.deque.clear()
        self.deque.append(number)
        return observation, info


@pytest.mark.parametrize("name", ["array", "list", "dict", "set", "deque"])
def test_so_is_what_it_draws_in_place(name):
    env = Deals()
    env.reset()
    assert getattr(copied(env).unwrapped, name) == getattr(Deals(), name)


def test_what_reset_needs_is_there_and_what_it_sets_is_not_carried_over():
    class Limited(Crane):
        def __init__(self):
            super().__init__()
            self.limits = [1.0]

        def reset(self, **kwargs):
            self.limit = self.limits[0]
            return super().reset(**kwargs)

    env = Limited()
    env.reset()
    copy = copied(env)
    assert copy.unwrapped.opened == 0
    np.testing.assert_array_equal(course(copy), course(env))


def test_what_was_changed_is_carried_over_if_reset_fails_without():
    class Loaded(Crane):
        def reset(self, **kwargs):
            assert self.load == 2.0
            return super().reset(**kwargs)

    env = Loaded()
    env.load = 2.0
    np.testing.assert_array_equal(course(copied(env)), course(env))


def test_a_subclass_keeps_a_count_that_only_it_has():
    class Counted(type(gym.make("LunarLander-v3").unwrapped)):
        def __init__(self):
            super().__init__()
            self.n_episodes = [10]

        def reset(self, **kwargs):
            self.n_episodes[0] += 1
            return super().reset(**kwargs)

    env = Counted()
    copy = copied(env)
    copy.reset()
    assert (copy.unwrapped.n_episodes, env.n_episodes) == ([11], [10])


def test_the_users_random_numbers_are_as_if_nothing_had_drawn():
    class Draws(Crane):
        def reset(self, **kwargs):
            np.random.rand(), random.random(), th.rand(1)
            return super().reset(**kwargs)

    env = Draws()
    env.load = 2.0

    def states():
        return str((random.getstate(), np.random.get_state(), th.get_rng_state().tolist()))

    before = states()
    recipe_from(DummyVecEnv([lambda: env]))
    assert states() == before


def test_a_generator_that_a_copy_shares_with_the_user_is_not_begun_anew():
    rng, twin = np.random.default_rng(5), np.random.default_rng(5)
    env = Crane()
    env.draw = types.FunctionType((lambda rng: rng.random()).__code__, globals(), "draw", (rng,))
    env.load = 2.0
    assert course(copied(env))[0, 0] == 2.0
    assert rng.random() == twin.random()


# What is shared stays shared.


class Mass(gym.Env):
    """Its state lies in one array; parts of it are views, as hand-written physics has it."""

    observation_space, action_space = spaces.Box(-99, 99, (4,), np.float64), spaces.Discrete(2)

    def __init__(self, order="C"):
        self.state = np.zeros((2, 2), order=order)
        self.position, self.velocity = self.state[0], self.state[1]
        self.by_column = self.state.T[:, ::-1]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state[:] = 0.0
        self.t = 0
        return self.state.ravel(), {}

    def step(self, action):
        self.velocity += 1.0 + action
        self.position += self.velocity
        self.by_column[0, 0] += 0.5
        self.t += 1
        return self.state.ravel(), float(self.by_column.sum()), False, self.t >= 10, {}


class HiddenMass(Mass):
    """Only views are kept of what they share."""

    def __init__(self):
        super().__init__()
        whole = np.zeros(6)
        self.state = whole[:4].reshape(2, 2)
        self.position, self.velocity = self.state
        self.by_column = whole[:4].reshape(2, 2).T


class Knows(gym.Wrapper):
    """Keeps parts of the environment, and changes them."""

    def __init__(self, env):
        super().__init__(env)
        self.arm, self.bend = env.unwrapped.arms[1], env.unwrapped.bend

    def reset(self, **kwargs):
        self.arm.length = 3.0
        self.bend[0] = 2.0
        return super().reset(**kwargs)


class Weightless(gym.Wrapper):
    """Keeps the simulation's model and data, as people write domain randomisation and shaped rewards."""

    def __init__(self, env):
        super().__init__(env)
        self.model, self.data = env.unwrapped.model, env.unwrapped.data

    def reset(self, **kwargs):
        self.model.opt.gravity[:] = 0.0
        return super().reset(**kwargs)

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(self.data.time), *rest


SHARED = {
    "views": Mass,
    "views of an array in another order": lambda: Mass("F"),
    "views of an array that nobody keeps": HiddenMass,
    "an object that a wrapper knows": lambda: Knows(Crane()),
    "MuJoCo's model and data that a wrapper knows": lambda: Weightless(gym.make("InvertedPendulum-v5")),
}


@pytest.mark.parametrize("shared", SHARED)
def test_what_is_shared_in_an_environment_is_shared_in_a_copy(shared):
    copy = copied(SHARED[shared]())
    np.testing.assert_array_equal(course(copy), course(SHARED[shared]()))


def test_a_model_of_mujoco_in_an_environment_of_ones_own_is_copied():
    xml = "<mujoco><worldbody><body><joint name='j' type='slide'/><geom size='.1'/></body></worldbody></mujoco>"

    class Slider(gym.Env):
        observation_space, action_space = spaces.Box(-np.inf, np.inf, (1,), np.float64), spaces.Discrete(2)

        def __init__(self):
            self.model = mujoco.MjModel.from_xml_string(xml)
            self.data = mujoco.MjData(self.model)
            self.model.opt.gravity[:] = (0.0, 0.0, -1.0)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            mujoco.mj_resetData(self.model, self.data)
            return self.data.qpos.copy(), {}

        def step(self, action):
            mujoco.mj_step(self.model, self.data)
            return self.data.qpos.copy(), 0.0, False, self.data.time > 1.0, {}

    np.testing.assert_array_equal(course(copied(Slider())), course(Slider()))


def test_memory_of_others_that_is_written_is_refused_by_name():
    env = Mass()
    env.position = np.ctypeslib.as_array((ctypes.c_double * 2)())
    with pytest.raises(ValueError, match=r"come without its position, which can't be copied"):
        dqn(env)


UNSHARED = {"objects": np.zeros((2, 3), object), "pieces": np.zeros((2, 3, 4)).transpose(1, 0, 2).copy(order="K")}


@pytest.mark.parametrize("kind", UNSHARED)
def test_views_that_cant_be_made_again_are_refused_with_the_reason(kind):
    env = Mass()
    env.whole = UNSHARED[kind]
    env.part = env.whole[1]
    with pytest.raises(
        ValueError, match=r"without its part, .*with an array that is not contiguous, or that holds objects"
    ):
        dqn(env)


def test_a_file_that_is_only_read_is_copied(tmp_path):
    np.save(tmp_path / "prices.npy", np.arange(5.0))
    env = RandomWalk()
    env.prices = np.load(tmp_path / "prices.npy", mmap_mode="r")
    np.testing.assert_array_equal(copied(env).unwrapped.prices, np.arange(5.0))


# What can't be carried over is refused by name.


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_cant_be_carried_over_is_refused_by_name_at_construction(wrapped):
    env = Crane()
    env.arms[1].line = socket.socket()
    with env.arms[1].line, pytest.raises(ValueError, match=r"come without its arms\[1\]\.line.* a function that makes"):
        dqn(Monitor(env) if wrapped else env)


ONLY = []


class Connects(Crane):
    def reset(self, **kwargs):
        if self is not ONLY[0]:
            raise ConnectionError("there is one line only")
        return super().reset(**kwargs)


def test_a_reset_that_fails_in_a_copy_is_told_at_construction(monkeypatch):
    env = Connects()
    env.load = 3.0
    monkeypatch.setitem(globals(), "ONLY", [env])
    with pytest.raises(ValueError, match=r"reset\(\) of a copy fails.*ConnectionError: there is one line only"):
        dqn(env)


def test_a_change_between_two_calls_of_learn_counts():
    env = Crane()
    model = dqn(env, n_steps=1)
    model.learn(60)
    env.load = 8.0
    model.learn(60, reset_num_timesteps=False)
    loads = model.replay_buffer.sample(500).observations[:, 0]
    assert set(loads.tolist()) == {1.0, 8.0}


def indexed(numbers):
    """As dm_control names parts of arrays: the class of the result is made anew for each array."""

    class Indexer:
        def of(self, name):
            return numbers["xy".index(name)]

        def set(self, name, value):
            numbers["xy".index(name)] = value

    return Indexer()


class Numbers:
    def __init__(self):
        self.held = np.zeros(2)


class Physics:
    """Pickles its numbers alone, and makes from them what else it holds, as dm_control's does."""

    def __init__(self):
        self.__setstate__(Numbers())

    def __getstate__(self):
        return self.numbers

    def __setstate__(self, numbers):
        self.numbers = numbers
        self.named = (indexed(numbers.held), "named")


class Indexed(Crane):
    def __init__(self, load=1.0):
        super().__init__(load)
        self.physics = Physics()

    def _observed(self):
        return np.full(16, self.physics.numbers.held[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.physics.named[0].set("x", self.np_random.random())
        return self._observed(), {}


def test_a_part_whose_class_is_made_with_it_is_the_copys_own():
    env = Indexed()
    before = env.physics.numbers.held.copy()
    other = copied(env)
    seen, _ = other.reset(seed=3)
    np.testing.assert_array_equal(env.physics.numbers.held, before)
    np.testing.assert_array_equal(seen, env.reset(seed=3)[0])


class Forwards:
    """Forwards to a part that it does not have yet while it is loaded."""

    def __init__(self):
        self.part = np.zeros(2)

    def __getattr__(self, name):
        return getattr(self.part, name)


def test_what_actors_load_is_tried_at_construction():
    """A class that is pickled by value brings its attributes along only to another process."""

    class Local:
        part = Forwards()

    env = Crane()
    env.further = Local()
    for here in (True, False):
        with (
            contextlib.nullcontext()
            if here
            else pytest.raises(
                ValueError,
                match=r"pickle can't be loaded again \(RecursionError.*__getattr__ must raise AttributeError",
            )
        ):
            recipe_from(DummyVecEnv([lambda: env]), here=here)


def test_trying_leaves_classes_that_are_pickled_by_value_as_they_are():
    class Local:
        def itself(self):
            return Local

    env = Crane()
    env.further = Local()
    recipe_from(DummyVecEnv([lambda: env]), here=True)
    before = vars(Local).copy()
    recipe_from(DummyVecEnv([lambda: env]), here=False)
    assert {name: id(value) for name, value in vars(Local).items()} == {name: id(each) for name, each in before.items()}
    assert env.further.itself() is Local


class Dealt(Crane):
    """What its constructor and ``reset`` draw has few values, so that they are often the same."""

    def __init__(self, load=1.0):
        super().__init__(load)
        EzPickle.__init__(self, load)
        self.cards = [types.SimpleNamespace(value=int(value)) for value in np.random.default_rng().integers(2, size=8)]

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        for card in self.cards:
            card.value = int(self.np_random.integers(2))
        return observation, info


def test_what_reset_draws_is_no_reason_to_refuse_if_it_was_the_same_by_chance():
    for _ in range(20):
        env = Dealt()
        env.bend[0] = 3.0
        assert copied(env).get_wrapper_attr("bend")[0] == 3.0


def test_what_a_constructor_draws_is_carried_over_though_it_was_the_same_by_chance():
    drawn = itertools.chain([1.0, 1.0], itertools.repeat(2.0))  # the first copy's is the same

    class Drawn(Crane):
        def __init__(self, load=1.0):
            super().__init__(load)
            EzPickle.__init__(self, load)
            self.settings.level = next(drawn)

    env = Drawn()
    env.bend[0] = 3.0
    assert copied(env).get_wrapper_attr("settings").level == 1.0

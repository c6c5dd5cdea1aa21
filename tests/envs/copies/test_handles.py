"""No copy releases, at its end, what the user's own environment holds outside Python."""

import gc
import logging
import os
import shutil

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils import EzPickle
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_ca2e import BuilderVecEnv
from sb3_ca2e.envs.recipe import recipe_from

pytestmark = pytest.mark.usefixtures("_forkserver")

SERVERS: dict[int, float] = {}


def connect():
    SERVERS[number := max(SERVERS, default=-1) + 1] = 0.0
    return number


def disconnect(client=0):
    del SERVERS[client]


class Client:
    """A number of a server, as PyBullet's ``BulletClient`` holds it."""

    def __init__(self):
        self.number, self.pid = connect(), os.getpid()

    def __del__(self):
        if self.number >= 0 and self.pid == os.getpid():
            disconnect(client=self.number)
            self.number = -1


class ClosedClient(Client):
    def __init__(self):
        super().__init__()
        disconnect(self.number)
        self.number = -1


class ClosesInAnotherMethod(Client):
    def close(self, number):
        if (it := number) in SERVERS:
            disconnect(it)

    def __del__(self):
        self.close(self.number)


class SeveralClients:
    def __init__(self):
        self.numbers = {"one": connect(), "other": connect()}

    def __del__(self):
        for number in self.numbers.values():
            disconnect(number)


class WithALibrary(Client):
    def __init__(self):
        super().__init__()
        self.release = disconnect

    def __del__(self):
        self.release(self.number)


class Descends(Client):
    def __del__(self):
        super().__del__()


class Descriptor:
    def __init__(self):
        self.number = os.open(os.devnull, os.O_RDONLY)

    def __del__(self):
        os.close(self.number)


class Folder:
    def __init__(self, path="/nowhere"):
        self.number = path

    def __del__(self):
        shutil.rmtree(self.number, ignore_errors=True)


class Simulated(gym.Env):
    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

    def __init__(self, part=None):
        self.parts = {"simulation": part}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


HELD = (Client, ClosesInAnotherMethod, WithALibrary, Descends, Descriptor, Folder)


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("kind", HELD)
def test_a_handle_that_is_released_at_the_end_is_refused_by_name(kind, here):
    env = Simulated(kind())
    before = dict(SERVERS)
    told = rf"parts\['simulation'\] \(a {kind.__name__}\) can't be copied.*{kind.__name__}.number.*Pass a function"
    with pytest.raises(ValueError, match=told):
        recipe_from(DummyVecEnv([lambda: env]), here=here)
    gc.collect()
    assert before == SERVERS


def test_several_handles_are_refused():
    with pytest.raises(ValueError, match=r"SeveralClients\.numbers"):
        recipe_from(DummyVecEnv([lambda: Simulated(SeveralClients())]))


def test_so_it_is_in_workers():
    venv = SubprocVecEnv([lambda: Simulated(Client())])
    try:
        with pytest.raises(ValueError, match=r"Client\.number"):
            recipe_from(venv)
        assert venv.reset().shape == (1, 1)
    finally:
        venv.close()


class Releases(Simulated):
    """Releases its own number."""

    def __init__(self):
        super().__init__()
        self.number = connect()

    def close(self):
        disconnect(self.number)

    def __del__(self):
        self.close()


def test_an_environment_that_releases_at_its_end_is_refused():
    with pytest.raises(
        ValueError, match=r"(?s)Actors need copies of .*but a Releases can't be copied.*Releases.number"
    ):
        recipe_from(DummyVecEnv([Releases]))


def test_a_function_that_makes_it_is_the_way_out():
    before = set(SERVERS)
    built = recipe_from(BuilderVecEnv([lambda: Simulated(Client())])).build(0)
    assert built.reset()[0].shape == (1,)
    assert set(SERVERS) > before


class Pickled(Simulated, EzPickle):
    """Each copy makes its own client."""

    def __init__(self):
        EzPickle.__init__(self)
        super().__init__(Client())


class Reconnects(Client):
    def __getstate__(self):
        return {}

    def __setstate__(self, state):
        self.__init__()


class Closes(Simulated):
    """The common kind: closes a window, if there is one."""

    def __init__(self):
        super().__init__()
        self.n_steps, self.window, self.log = 0, None, logging.getLogger(__name__)
        self.seats = {0: "taken"}

    def close(self):
        if self.window is not None:
            self.window.close(self.n_steps)
        self.seats.pop(self.n_steps, None)
        self.log.debug("%d", self.n_steps)
        print("closed after", self.n_steps)
        np.zeros(self.n_steps)
        setattr(self, "n_steps", 0)  # noqa: B010

    def __del__(self):
        self.close()


class Counts:
    number = 0

    def __init__(self):
        self.mine = 3

    def __del__(self):
        type(self).number -= self.mine


@pytest.mark.parametrize(
    "make",
    [
        Pickled,
        Closes,
        lambda: Simulated(Reconnects()),
        lambda: Simulated(ClosedClient()),
        lambda: Simulated(Counts()),
    ],
)
def test_what_harms_nothing_is_not_refused(make):
    env = make()
    before = set(SERVERS)
    assert recipe_from(DummyVecEnv([lambda: env])).build(0).reset()[0].shape == (1,)
    gc.collect()
    assert before <= set(SERVERS)


@pytest.mark.parametrize("wrapper", ["RecordVideo", "HumanRendering", "viewer"])
def test_those_of_gymnasium_are_not_refused(wrapper, tmp_path):
    pytest.importorskip("moviepy" if wrapper == "RecordVideo" else "pygame")
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    if wrapper == "RecordVideo":
        env = gym.wrappers.RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda episode: False)
    elif wrapper == "HumanRendering":
        env = gym.make("CartPole-v1", render_mode="rgb_array_list")
    else:
        pytest.importorskip("mujoco")
        env = Simulated(gym.make("Hopper-v5", render_mode="rgb_array").unwrapped.mujoco_renderer)
    recipe_from(DummyVecEnv([lambda: env]))

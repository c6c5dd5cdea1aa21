"""A model that has learned, and whose environment was used meanwhile, learns on."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_ca2e import CA2EDQN, BuilderVecEnv
from tests.toy import RandomWalk, dqn

pytestmark = pytest.mark.usefixtures("_forkserver", "_one_server")


@pytest.fixture(autouse=True)
def _no_screen(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


def cart(render_mode="rgb_array"):
    return gym.make("CartPole-v1", render_mode=render_mode)


WATCHED = {
    "object": cart,
    "function": lambda: cart,
    "DummyVecEnv": lambda: DummyVecEnv([cart]),
    "BuilderVecEnv": lambda: BuilderVecEnv([cart]),
    "id": lambda: "CartPole-v1",
    "Box2D": lambda: gym.make("LunarLander-v3", render_mode="rgb_array"),
}


@pytest.mark.parametrize("brought", WATCHED)
@pytest.mark.parametrize("execution", ["sync", "async"])
def test_watching_between_two_calls_of_learn(brought, execution):
    model = dqn(WATCHED[brought](), execution=execution, n_actors=2).learn(60)
    env = model.get_env()
    for _ in range(2):
        observations = env.reset()
        for _ in range(5):
            observations, *_ = env.step(model.predict(observations)[0])
            assert env.render("rgb_array").ndim == 3
        model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == 180
    env.close()


def test_what_was_drawn_before_is_in_copies_too():
    """An environment that draws what it observes on a surface of its own."""
    pygame = pytest.importorskip("pygame")

    class Drawn(RandomWalk):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)
            self.surface = pygame.Surface((40, 40))
            self.surface.fill((10, 20, 30))
            self.clock = pygame.time.Clock()

        def _observation(self):
            self.clock.tick()
            return pygame.surfarray.array3d(self.surface)

    model = dqn(Drawn(), n_steps=1, buffer_size=500).learn(40)
    assert np.unique(model.replay_buffer.sample(50).observations.numpy()).tolist() == [10, 20, 30]


@pytest.mark.parametrize("execution", ["sync", "async"])
def test_an_environment_for_people_is_shown_with_one_slot(execution):
    env = cart("human")
    env.unwrapped.metadata = {**env.unwrapped.metadata, "render_fps": 100_000}
    model = dqn(env, n_actors=1, execution=execution).learn(60)
    assert model.learn(60, reset_num_timesteps=False).num_timesteps == 120
    env.close()


@pytest.mark.parametrize("make", [lambda: cart("human"), lambda: lambda: cart("human")], ids=["object", "function"])
def test_an_environment_for_people_is_refused_with_more(make):
    with pytest.raises(ValueError, match=r"render_mode='human' would open a window for each of the 3 slots"):
        dqn(make())
    model = dqn(lambda: cart(None))
    before = model.get_env()
    with pytest.raises(ValueError, match="a window for each of the 3 slots"):
        model.set_env(make())
    assert model.get_env() is before


SET = {
    "object": (RandomWalk, {}),
    "function": (lambda: RandomWalk, {}),
    "id": (lambda: "CartPole-v1", {"env": "CartPole-v1"}),
    "DummyVecEnv": (lambda: DummyVecEnv([RandomWalk]), {}),
    "BuilderVecEnv": (lambda: BuilderVecEnv([RandomWalk]), {}),
    "make_vec_env": (lambda: make_vec_env(RandomWalk, 1), {}),
    "SubprocVecEnv": (lambda: SubprocVecEnv([RandomWalk], start_method="forkserver"), {}),
}


@pytest.mark.parametrize("brought", SET)
def test_set_env_takes_what_the_constructor_takes(brought):
    make, first = SET[brought]
    model = dqn(first.get("env", RandomWalk)).learn(60)
    before = model.get_env()
    model.set_env(make())
    assert model.get_env() is not before
    model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == 120
    model.get_env().close()


def test_set_env_refuses_what_the_constructor_refuses():
    model = dqn(RandomWalk)
    before = model.get_env()
    env = RandomWalk()
    env.held = (each for each in "not pickled")
    with pytest.raises(ValueError, match="can't be pickled"):
        model.set_env(env)
    with pytest.raises(ValueError, match="Action spaces do not match"):
        model.set_env(RandomWalk(continuous=True))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env("CartPole-v1")
    assert model.get_env() is before
    assert model.learn(60).num_timesteps == 60


def test_load_takes_a_function(tmp_path):
    dqn(RandomWalk).save(tmp_path / "model")
    model = CA2EDQN.load(tmp_path / "model", RandomWalk, device="cpu")
    assert model.learn(60).num_timesteps == 60

"""Random generators in copies of environments: fresh in each slot and each ``learn()``, and repeatable by a seed."""

import copy
import random

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import CA2EDQN
from sb3_ca2e.actors.generators import renew

DRAWS = {
    "Generator": (np.random.default_rng, lambda it: it.random()),
    "RandomState": (np.random.RandomState, lambda it: it.random_sample()),
    "of another kind of bits": (lambda: np.random.Generator(np.random.Philox()), lambda it: it.random()),
    "Random": (random.Random, lambda it: it.random()),
    "of PyTorch": (th.Generator, lambda it: th.rand((), generator=it).item()),
    "space": (lambda: spaces.Box(0, 1, (), np.float64), lambda it: it.sample().item()),
    "space in a space": (lambda: spaces.Dict(a=spaces.Box(0, 1, ())), lambda it: it.sample()["a"].item()),
}


class Lottery(gym.Env):
    """
    Observes draws of a generator that lies deep in it.

    :param kind: of the generator
    """

    observation_space, action_space = spaces.Box(0, 1, (1,), np.float64), spaces.Discrete(2)

    def __init__(self, kind: str):
        make, self.draw = DRAWS[kind]
        self.held = {"deep": [(lambda it: lambda: it)(make())]}
        self.held["again"] = self.held["deep"][0]()
        self.n_drawn = 0

    def drawn(self):
        self.n_drawn += 1
        return np.array([self.draw(self.held["again"])])

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.drawn(), {}

    def step(self, action):
        self.t += 1
        return self.drawn(), 0.0, False, self.t >= 10, {}


class Seen(BaseCallback):
    """Keeps what was observed by the end of each ``learn``."""

    def _on_training_start(self):
        self.seen = []

    def _on_training_end(self):
        self.seen = np.unique(self.model.replay_buffer.sample(20_000).observations.numpy()).tolist()

    def _on_step(self):
        return True


def learned(env, seed, **kwargs):
    own = {"learning_starts": 5000, "n_steps": 1, "replay_buffer_kwargs": {"alpha": 0.0}, "n_actors": 4}
    model = CA2EDQN("MlpPolicy", env, seed=seed, execution="sync", device="cpu", **own, **kwargs)
    first, both = Seen(), Seen()
    model.learn(200, first).learn(200, both, reset_num_timesteps=False)
    return first.seen, both.seen


@pytest.mark.parametrize("kind", DRAWS)
def test_no_two_slots_or_calls_draw_the_same_and_a_seed_repeats_all(kind):
    if kind == "of PyTorch":
        pytest.skip("PyTorch's generators can't be pickled")
    first, both = learned(Lottery(kind), seed=3)
    assert (len(first), len(both)) == (200, 400)
    assert learned(Lottery(kind), seed=3) == (first, both)
    assert set(learned(Lottery(kind), seed=4)[1]).isdisjoint(both)


@pytest.mark.parametrize("kind", DRAWS)
def test_generators_are_found_and_stay_shared(kind):
    env = Lottery(kind)
    assert env.held["again"] is env.held["deep"][0]()
    numbers = []
    for seed in (1, 2, 1):
        renew(env, seed)
        numbers.append([env.drawn().item() for _ in range(3)])
    assert env.held["again"] is env.held["deep"][0]()
    assert numbers[0] == numbers[2]
    assert set(numbers[0]).isdisjoint(numbers[1])


def test_two_generators_of_one_environment_differ():
    env = Lottery("Generator")
    env.second = np.random.default_rng()
    renew(env, 1)
    assert env.second.random() != env.held["again"].random()


def test_what_classes_and_modules_hold_is_left_alone():
    class Holds(Lottery):
        rng = np.random.default_rng()

    before = copy.deepcopy((Holds.rng.bit_generator.state, np.random.get_state(), random.getstate()))
    renew(Holds("Generator"), 1)
    after = Holds.rng.bit_generator.state, np.random.get_state(), random.getstate()
    assert str(after) == str(before)


def test_the_users_own_environment_is_not_touched():
    env = Lottery("Generator")
    twin = copy.deepcopy(env.held["again"])
    model = CA2EDQN("MlpPolicy", env, seed=None, execution="sync", n_actors=2, device="cpu")
    model.learn(50)
    twin.random(env.n_drawn)  # SB3 resets it
    assert env.held["again"].random() == twin.random()

"""Random generators in copies of environments: fresh in each slot and each ``learn()``, and repeatable by a seed."""

import copy
import random
import subprocess

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ca2e import CA2EDQN
from sb3_ca2e.envs.copies.generators import renew
from tests.user_script import environment, of_ours, script

#: What lies elsewhere than in environments.
ELSEWHERE = {}

DRAWS = {
    "Generator": (np.random.default_rng, lambda it: it.random()),
    "RandomState": (np.random.RandomState, lambda it: it.random_sample()),
    "of another kind of bits": (lambda: np.random.Generator(np.random.Philox()), lambda it: it.random()),
    "Random": (random.Random, lambda it: it.random()),
    "of PyTorch": (th.Generator, lambda it: th.rand((), generator=it).item()),
    "children of a Generator": (np.random.default_rng, lambda it: it.spawn(1)[0].random()),
    "SeedSequence": (lambda: np.random.SeedSequence(5), lambda it: np.random.default_rng(it.spawn(1)[0]).random()),
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


def of_a_function(rng):
    def nothing():
        pass

    nothing.rng = rng
    return nothing


HOLDERS = {
    "method of its own": lambda rng: rng.random,
    "array": lambda rng: np.array([rng], object),
    "default": lambda rng: lambda held=rng: held,
    "keyword": lambda rng: lambda *, held=rng: held,
    "attribute of a function": of_a_function,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_whoever_holds_a_generator_it_is_found(holder):
    rng = np.random.default_rng()
    root, numbers = [HOLDERS[holder](rng)], []
    for _ in range(2):
        renew(root, 1)
        numbers.append(rng.random())
    assert numbers[0] == numbers[1]


def test_a_generator_that_an_environment_is_given_stays_when_it_is_asked_for_its_seed():
    env = gym.Env()
    renew(env, 1)
    generator = env.np_random
    assert env.np_random_seed == -1  # gymnasium's for "not known"
    assert env.np_random is generator


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


# Generators of classes and modules, in actor processes.

LOTTERIES = """
import random
import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

class Lottery(gym.Env):
    observation_space, action_space = spaces.Box(0, 1, (1,), np.float64), spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.array([self.drawn()]), {}
    def step(self, action):
        self.t += 1
        return np.array([self.drawn()]), 0.0, False, self.t >= 10, {}

class OfItsClass(Lottery):
    rng = np.random.default_rng(0)
    def drawn(self):
        return self.rng.random()

of_module = random.Random(0)
class OfItsModule(Lottery):
    def drawn(self):
        return of_module.random()

class Settings:
    pass
settings = Settings()
settings.rng = np.random.RandomState(0)
class OfAnObject(Lottery):
    def drawn(self):
        return settings.rng.random_sample()

of_pytorch = th.Generator()
class OfPyTorch(Lottery):
    def drawn(self):
        return th.rand((), generator=of_pytorch).item()

class DefaultArgument(Lottery):
    def drawn(self, rng=np.random.default_rng(0)):
        return rng.random()

class OfNumPyItself(Lottery):
    def drawn(self):
        return np.random.rand()

class OfPythonItself(Lottery):
    def drawn(self):
        return random.random()

class OfPyTorchItself(Lottery):
    def drawn(self):
        return th.rand(()).item()
"""

SCRIPT = """
import sys
{lotteries}
from sb3_ca2e import CA2EDQN

if __name__ == "__main__":
    own = {{"learning_starts": 5000, "n_steps": 1, "replay_buffer_kwargs": {{"alpha": 0.0}}, "n_actors": 4}}
    for kind in Lottery.__subclasses__():
        brought = kind if sys.argv[1] == "function" else kind()
        model = CA2EDQN("MlpPolicy", brought, n_processes=2, device="cpu", seed=3, **own)
        for _ in range(2):
            model.learn(200, reset_num_timesteps=False)
        numbers = model.replay_buffer.sample(20_000).observations.numpy()
        print(kind.__name__, len(np.unique(numbers)))
"""


@pytest.mark.parametrize("brought", ["function", "object"])
@pytest.mark.parametrize("imported", [False, True], ids=["script", "module"])
def test_what_classes_and_modules_hold_begins_anew_in_each_actor_process(imported, brought, tmp_path):
    (tmp_path / "lotteries.py").write_text(LOTTERIES)
    lotteries = "from lotteries import *" if imported else LOTTERIES
    written = script(SCRIPT.format(lotteries=lotteries), tmp_path, brought)
    done = subprocess.run(written, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert of_ours(done.stderr) == ""
    different = {name: int(number) for name, number in map(str.split, done.stdout.splitlines())}
    assert len(different) == 8
    assert set(different.values()) == {400}, different


def test_in_one_process_what_a_function_takes_from_elsewhere_is_the_users():
    class Shared(Lottery):
        def __init__(self):
            super().__init__("Generator")
            self.held["again"] = ELSEWHERE["rng"]
            self.held["torch"] = ELSEWHERE["torch"]

    ELSEWHERE["rng"], ELSEWHERE["torch"] = np.random.default_rng(5), th.Generator().manual_seed(5)
    twin = np.random.default_rng(5)
    torch_before = ELSEWHERE["torch"].get_state()
    model = CA2EDQN("MlpPolicy", Shared, seed=None, execution="sync", n_actors=3, learning_starts=500, device="cpu")
    model.learn(60)
    upcoming = ELSEWHERE["rng"].random()
    assert any(twin.random() == upcoming for _ in range(1000))
    assert th.equal(ELSEWHERE["torch"].get_state(), torch_before)

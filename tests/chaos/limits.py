"""Numbers that are not finite, environments that do not keep to their spaces, and systems without what actors need."""

import functools
import importlib
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ca2e import CA2EDDPG, ActorWarning, BuilderVecEnv
from sb3_ca2e.algorithms.base import CA2EMixin
from sb3_ca2e.replay.block import TRANSITION
from tests import inside
from tests.chaos import HANGS, faulty
from tests.chaos.failures import failing, faulty_env, told
from tests.chaos.kills import learner
from tests.chaos.ledger import Ledger, audit
from tests.marked_processes import MARK, processes_marked

#: Shares of steps, actions, priorities and updates in which a number is not finite.
RARELY = 0.05
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))


class Flawed(Ledger):
    """
    A :class:`Ledger` some of whose numbers are not finite.

    :param place: "observation" or "reward"
    """

    def __init__(self, place: str):
        super().__init__()
        self.place = place

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if random.random() < RARELY and self.place == "observation":
            observation[random.randrange(4)] = random.choice(NOT_FINITE)
        elif random.random() < RARELY and self.place == "reward":
            reward = random.choice(NOT_FINITE)
        return observation, reward, *rest


def spoilt(tensor: th.Tensor) -> th.Tensor:
    """Some of its rows are not finite."""
    return th.where(th.rand(len(tensor), *[1] * (tensor.dim() - 1)) < RARELY, float("nan"), tensor)


class WrongActions(CA2EDDPG):
    """Some of the policy's actions are not finite."""

    @staticmethod
    def act(modules, observations):
        actions, outputs = CA2EDDPG.act(modules, observations)
        return spoilt(actions), outputs


class WrongPriorities(CA2EDDPG):
    """Some of the values that priorities come from are not finite."""

    @staticmethod
    def evaluate(modules, steps):
        taken, greedy = CA2EDDPG.evaluate(modules, steps)
        return spoilt(taken), greedy


class WrongLosses(CA2EDDPG):
    """Some updates see rewards that are not finite."""

    def update(self, networks, batch):
        wrong = random.random() < RARELY
        rewards = th.full_like(batch.rewards, random.choice(NOT_FINITE)) if wrong else batch.rewards
        return super().update(networks, batch._replace(rewards=rewards))


def wrong_gradients(gradient: th.Tensor) -> th.Tensor:
    return th.full_like(gradient, random.choice(NOT_FINITE)) if random.random() < RARELY else gradient


def ddpg(algorithm: type[CA2EDDPG], n_transitions: int) -> CA2EDDPG:
    settings = {"n_actors": 4, "n_processes": 2, "local_buffer_size": 10, "learning_starts": 100, "train_freq": 10}
    policy_kwargs = {"net_arch": [8]}
    env = "MountainCarContinuous-v0"
    return algorithm(
        "MlpPolicy",
        env,
        buffer_size=n_transitions,
        gradient_steps=4,
        compile=False,
        device="cpu",
        policy_kwargs=policy_kwargs,
        seed=0,
        **settings,
    )


#: Where numbers are not finite.
PLACES = ("observation", "gradient", "reward", "action", "priority", "loss")


def invalid_numbers(n_transitions: int, places: Sequence[str] = PLACES) -> str:
    """F13: refused and counted at each of the places."""
    said = []
    for place in places:
        if place in ("observation", "reward"):
            # Each step that is refused breaks an episode off, and short episodes take more room.
            flawed = functools.partial(Flawed, place)
            model: CA2EMixin = learner(n_transitions, env=flawed, buffer_size=2 * n_transitions)
        else:
            classes = {"action": WrongActions, "priority": WrongPriorities, "loss": WrongLosses}
            model = ddpg(classes.get(place, CA2EDDPG), n_transitions)
        if place == "gradient":
            next(model.critic.parameters()).register_hook(wrong_gradients)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ActorWarning)
            model.learn(n_transitions)
        refused = sum(row["refused"] for row in model.actor_stats)
        skipped = inside.learner(model).n_skipped
        counted = {"priority": model.replay_buffer.n_refused_priorities, "loss": skipped, "gradient": skipped}
        assert counted.get(place, refused) > 0, f"none was refused: {place}"
        assert (refused > 0) == (place not in counted), f"{refused} steps were refused: {place}"
        assert model.num_timesteps == n_transitions
        assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
        if place in ("observation", "reward"):
            audit(model, broken_off=True)
        is_finite(model)
        said.append(f"{place} {counted.get(place, refused)}")
    return f"refused and counted: {', '.join(said)}"


def is_finite(model: CA2EMixin) -> None:
    """All that the memory holds, and its tree."""
    memory = model.replay_buffer
    held = (inside.rows(memory).flags & int(TRANSITION)).nonzero().flatten()
    batch = memory.samples_at(held)
    for tensor in (batch.observations, batch.next_observations, batch.actions, batch.rewards, batch.weights):
        assert bool(tensor.isfinite().all())
    priorities = inside.rows(memory).priorities
    assert bool((priorities[held] > 0).all())
    np.testing.assert_allclose(float(priorities.total), float(priorities[:].sum()), rtol=1e-9)
    assert np.isfinite(float(priorities.total))


class Misfit(Ledger):
    """
    Does not keep to what it declares, some dozens of steps after its construction.

    :param what: replaces the values that ``step`` returns
    :param space: of observations, another one
    """

    def __init__(self, what: Callable[[tuple], tuple], space: spaces.Space | None = None):
        super().__init__()
        self.observation_space = space or self.observation_space
        self.what, self.left = what, random.randrange(20, 100)

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return self._fitted(observation), info

    def step(self, action):
        observation, *rest = super().step(action)
        self.left -= 1
        result = self._fitted(observation), *rest
        return self.what(result) if self.left <= 0 else result

    def _fitted(self, observation):
        if isinstance(self.observation_space, spaces.Dict):
            return {"ledger": observation}
        return int(observation[2]) if isinstance(self.observation_space, spaces.Discrete) else observation


BOX = Ledger().observation_space
#: What goes wrong, how, in which space if not a Ledger's, and what the error is to say.
MISFITS: dict[str, tuple[Callable[[tuple], tuple], spaces.Space | None, str]] = {
    "shape": (lambda result: (result[0][1:], *result[1:]), None, "an observation of shape (3,)"),
    "dtype": (lambda result: (result[0].astype(str), *result[1:]), None, "dtype <U"),
    "space": (lambda result: (31, *result[1:]), spaces.Discrete(31), "an observation of 31, which lies outside"),
    "key": (lambda result: ({}, *result[1:]), spaces.Dict({"ledger": BOX}), "an observation without 'ledger'"),
    "reward": (lambda result: (result[0], [1.0, 2.0], *result[2:]), None, "a number for the reward"),
    "old interface": (lambda result: result[1:], None, "(observation, reward, terminated, truncated, info)"),
}


def misfits(names: Sequence[str] = tuple(MISFITS), within: float = 30.0) -> str:
    """F14: an error that names slot and field, before anything of it is committed, and no second try."""
    longest = 0.0
    for name in names:
        what, space, message = MISFITS[name]
        fitting = functools.partial(Misfit, tuple, space)
        env = BuilderVecEnv([fitting, functools.partial(Misfit, what, space)])
        policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
        model = learner(100_000, env=env, n_actors=2, policy=policy)
        started = time.monotonic()
        with told() as heard:
            error = failing(model)
        longest = max(longest, time.monotonic() - started)
        assert heard == [], f"{name}: it was tried again: {heard}"
        assert "slot 1, life 0, seed 0, failed" in error, error
        assert message in error, error
        if space is None:
            audit(model)
    assert longest < within
    return f"{', '.join(names)}: named with the slot after at most {longest:.1f} s, nothing of it committed"


def bad_environments() -> None:
    """Its environments can only be made in the learner's process."""
    learner(1000, env=faulty_env(faulty.raises, "__init__"), n_actors=8, n_processes=4).learn(1000)


def few_descriptors() -> None:
    """Each of 32 processes takes some."""
    model = learner(1000, n_actors=32, n_processes=32)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    model.learn(1000)


def little_address_space() -> None:
    """Less is left than the blocks take."""
    model = learner(1000, local_buffer_size=400_000, buffer_size=1000)
    importlib.import_module("sb3_ca2e.replay.kernels")
    taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26, resource.RLIM_INFINITY))
    model.learn(1000)


def little_address_space_in_the_server() -> None:
    """The server that actors are forked from can't import what it needs."""
    original = subprocess.Popen

    def limited(command, **kwargs):
        return original(["sh", "-c", 'ulimit -v 524288 && exec "$@"', "sh", *command], **kwargs)

    subprocess.Popen = limited  # type: ignore[misc, assignment]
    learner(1000).learn(1000)


def no_shared_memory() -> None:
    """Nothing can be written to /dev/shm, and nothing needs to be."""
    assert not pathlib.Path("/dev/shm").exists() or not os.access("/dev/shm", os.W_OK)
    model = learner(1000)
    model.learn(1000)
    assert model.num_timesteps == 1000


#: What is made to happen, and what is to be said; None where learning goes on.
STARTS: dict[Callable[[], None], str | None] = {
    few_descriptors: "file descriptors",
    bad_environments: "sb3_ca2e.errors.ActorError",
    little_address_space: "MemoryError: Could not",
    little_address_space_in_the_server: "The server that actors are forked from",
    no_shared_memory: None,
}
#: Runs a command that finds /dev/shm empty and can't write to it, where the system lets it.
WITHOUT_SHM = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh"]


def refused_at_start(starts: Sequence[Callable[[], None]] = tuple(STARTS), within: float = 30.0) -> str:
    """F18: a clear error soon, and nothing left behind."""
    said = []
    for start in starts:
        message = STARTS[start]
        command = [sys.executable, "-c", f"from tests.chaos import limits; limits.{start.__name__}()"]
        if start is no_shared_memory:
            if not can_mount():
                said.append("no shared memory: not tried, as this system does not let us mount over /dev/shm")
                continue
            command = [*WITHOUT_SHM, *command]
        mark = uuid.uuid4().hex
        env = {**os.environ, MARK: mark, "PYTHONPATH": os.pathsep.join(sys.path)}
        started = time.monotonic()
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=2 * HANGS)
        seconds = time.monotonic() - started
        assert seconds < within, f"{start.__name__} took {seconds:.0f} s"
        assert (done.returncode == 0) == (message is None), (start.__name__, done.returncode, done.stderr)
        assert done.returncode in (0, 1), f"{start.__name__}: ended by a signal"
        assert message is None or message in done.stderr, (start.__name__, done.stderr)
        assert processes_marked(mark) == [], start.__name__
        said.append(f"{start.__name__.replace('_', ' ')} {seconds:.0f} s")
    return "; ".join(said)


def can_mount() -> bool:
    """Whether this process may do as :data:`WITHOUT_SHM` says."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*WITHOUT_SHM, "true"], capture_output=True).returncode == 0

"""The cases of the differential test: an environment with wrappers, and the ways to pass it to a model."""

import pickle
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from differential.environments import BASES, ENVIRONMENTS, Environment
from differential.recorder import Prescribed, Recorder
from differential.wrappers import ALL, pairs

#: Ways to pass an environment, with what the table says of them.
SEEDED = {
    "sync": 'seeded, `"sync"`, the user\'s own environments',
    "sync-copies": 'seeded, `"sync"`, copies of an environment',
    "async": 'seeded, `"async"`, copies of an environment',
    "async-made": 'seeded, `"async"`, made by a function',
}
UNSEEDED = {"sync-unseeded": 'without a seed, `"sync"`', "async-unseeded": 'without a seed, `"async"`'}
MODES = SEEDED | UNSEEDED

SEED = 7
#: Slots of every program.
SLOTS = 2
#: Transitions that a slot hands over at once.
BLOCK = 25
#: Observations of more bytes make a case shorter.
LARGE = 20_000
#: Steps of an episode where distributions are compared.
SHORT = 20


@dataclass(frozen=True)
class Case:
    """
    A program.

    :param kind: ``environment``, ``wrapper`` or ``pair``
    :param name: name of the case
    :param environment: how to make the environment
    :param wrappers: names of wrappers, innermost first
    """

    kind: str
    name: str
    environment: Environment
    wrappers: tuple[str, ...] = ()

    def make(self, folder: str, prescribed: bool = False, short: bool = False) -> gym.Env:
        """
        Make the environment with its wrappers.

        :param folder: where its tape is kept
        :param prescribed: whether all environments get the same actions
        :param short: whether episodes have few steps
        :return: a new environment
        """
        env = self.environment.make()
        for name in self.wrappers:
            if not ALL[name].vec:
                env = ALL[name].make(env)
        if prescribed:
            env = Prescribed(env)
        if short:
            env = gym.wrappers.TimeLimit(env, SHORT)
        return Recorder(env, folder)

    def wrap(self, venv: Any, without: str = "") -> Any:
        """
        Wrap a vectorized environment.

        :param venv: the environment
        :param without: name of a wrapper to leave out
        :return: with the wrappers of the case
        """
        for name in self.wrappers:
            if ALL[name].vec and name != without:
                venv = ALL[name].make(venv)
        return venv

    @property
    def wraps_vec(self) -> bool:
        """Whether a wrapper is one of vectorized environments."""
        return any(ALL[name].vec for name in self.wrappers)

    @property
    def in_processes(self) -> bool:
        """Whether the environments are in processes of their own."""
        return "SubprocVecEnv" in self.wrappers


@dataclass(frozen=True)
class Making:
    """
    A function that makes the environment of a case, for other processes.

    :param case: name of the case
    :param folder: as in :meth:`Case.make`
    :param prescribed: as in :meth:`Case.make`
    :param short: as in :meth:`Case.make`
    """

    case: str
    folder: str
    prescribed: bool = False
    short: bool = False

    def __call__(self) -> gym.Env:
        """
        Make the environment.

        :return: a new one
        """
        return cases()[self.case].make(self.folder, self.prescribed, self.short)


def cases() -> dict[str, Case]:
    """
    Return all cases.

    :return: by name
    """
    made = [Case("environment", name, environment) for name, environment in ENVIRONMENTS.items()]
    for name, wrapped in ALL.items():
        made += [Case("wrapper", f"{name}, {on}", BASES[on], (name,)) for on in wrapped.on]
    for outer, inner, on in pairs():
        made.append(Case("pair", f"{outer}({inner}), {on}", BASES[on], (inner, outer)))
    return {case.name: case for case in made}


def n_steps(case: Case, space: gym.Space) -> int:
    """
    Choose how long the program of a case is.

    :param case: the case
    :param space: space of its observations
    :return: steps of each slot
    """
    large = len(pickle.dumps(space.sample())) > LARGE
    return BLOCK * (2 if large or case.environment.slow else 8)

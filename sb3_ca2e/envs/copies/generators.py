"""Random generators held by a copy of an environment: each copy draws its own numbers."""

import contextlib
import gc
import random
import types
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

#: Random generators.
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, th.Generator)
#: Objects to reseed: generators, what they draw from, and objects that create a generator at their first draw.
_RENEWED = (*GENERATORS, np.random.BitGenerator, np.random.SeedSequence, gym.Env, spaces.Space)
#: Objects not to search, as they lead to the whole interpreter or to state of the process.
_BOUNDARIES = (types.ModuleType, types.FrameType, type, types.CodeType)
#: Types that hold nothing.
_ATOMS = {type(None), bool, int, float, complex, str, bytes}


def renew(root: Any, seed: int, kept: Collection[int] = ()) -> set[int]:
    """
    Reseed all generators that an object holds, at any depth: those of NumPy, Python, PyTorch, and of gymnasium's
    environments and spaces.

    Generators shared within the object stay shared. Generators held by classes and modules belong to the process and
    are left alone.

    :param root: copy of an environment, or of a function that makes one; changed in place
    :param seed: seed of the first generator; the others follow from it
    :param kept: ids of generators to leave alone
    :return: ids of the reseeded generators
    """
    children = np.random.SeedSequence(seed)
    done = set()
    for each in _generators(root):
        if id(each) not in kept:
            (sequence,) = children.spawn(1)
            _renewed(each, sequence)
            done.add(id(each))
    return done


def ids_of_generators(root: Any) -> set[int]:
    """
    Find the generators that an environment holds, as :func:`renew` does.

    :param root: an environment
    :return: their ids
    """
    return {id(each) for each in _generators(root)}


class ProcessGenerators:
    """
    The generators of a process whose holders are unknown: those held by classes, modules and what these hold.

    :param alone: whether the process is an actor's own, so that all of them are reseeded; otherwise they are the user's
    """

    def __init__(self, alone: bool):
        self.alone = alone
        self._known: dict[int, Any] = {}  # keeps the objects alive, so that their ids stay unique

    def note(self) -> None:
        """Note all present generators of an actor's own process, which are not reseeded again."""
        if self.alone:
            self._known = of_process()

    def of_user(self) -> Collection[int]:
        """
        Return the generators that belong to the user: all that are present.

        :return: ids of generators to leave alone; none in an actor's own process
        """
        if not self.alone:
            self._known = of_process()
        return () if self.alone else self._known.keys()

    def renew(self, seed: int, done: Collection[int]) -> None:
        """
        Reseed generators that have been created since :meth:`note`, in an actor's own process.

        :param seed: seed of the first generator
        :param done: ids of generators that have been reseeded already
        """
        if self.alone:
            known = self._known.keys() | set(done)
            new = {key: each for key, each in of_process().items() if key not in known}
            children = np.random.SeedSequence([seed, 1]).spawn(len(new))
            for each, child in zip(new.values(), children, strict=True):
                _renewed(each, child)


def of_process() -> dict[int, Any]:
    """
    Find all generators of this process.

    :return: generators by id, except those that existed when a server called ``gc.freeze``
    """
    known = gc.get_objects()
    found = {id(each): each for each in known if issubclass(type(each), GENERATORS[:-1])}  # isinstance calls proxies
    # The collector does not track PyTorch's generators, but their holders.
    return found | {id(each): each for each in gc.get_referents(*known) if type(each) is th.Generator}


def _generators(root: Any) -> Iterator[Any]:
    """Iterate over generators, each once, in the order in which they are found."""
    seen, waiting = {id(root)}, [root]
    is_generator: dict[type, bool] = {}  # by type: checking each object takes ten times as long
    while waiting:
        each = waiting.pop()
        kind = type(each)
        if kind not in is_generator:
            is_generator[kind] = issubclass(kind, _RENEWED)
        if is_generator[kind]:
            yield each
        held = each if kind is list or kind is tuple else _held(each)
        if _ATOMS.issuperset(map(type, held)):
            continue
        for part in reversed(held):
            if type(part) not in _ATOMS and id(part) not in seen and not isinstance(part, _BOUNDARIES):
                seen.add(id(part))
                waiting.append(part)


def _held(value: Any) -> Sequence[Any]:
    """Return what an object holds, like the garbage collector or better."""
    if isinstance(value, types.FunctionType):  # not its module's globals
        return [*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__, value.__dict__]
    if isinstance(value, types.BuiltinMethodType):  # such as a generator; a module for a function
        return [value.__self__]
    if isinstance(value, np.ndarray):  # not visible to the collector
        objects: list[Any] = value.ravel().tolist() if value.dtype.hasobject else []
        return objects
    if isinstance(value, np.random.Generator | np.random.RandomState | th.Tensor):
        return []
    return gc.get_referents(value)


def _renewed(owner: Any, sequence: np.random.SeedSequence) -> None:
    """Reseed a generator; create that of an object that has none, which would draw it from the system's entropy."""
    match owner:
        case np.random.Generator():
            _renewed(owner.bit_generator, sequence)
        case np.random.RandomState():
            _renewed(owner._bit_generator, sequence)
        case np.random.BitGenerator():
            bits: Any = owner
            state: Any = type(bits)(sequence).state
            # With NumPy 2, spawned generators follow from the sequence
            bits.__setstate__((state, sequence) if isinstance(bits.__getstate__(), tuple) else state)
        case np.random.SeedSequence():
            reduced: Any = sequence.__reduce__()
            owner.__setstate_cython__(reduced[-1])
        case random.Random():
            random.Random.seed(owner, _number(sequence))
        case th.Generator():
            owner.manual_seed(_number(sequence))
        case gym.Env() | spaces.Space() if not _has_one(owner):
            owner._np_random = np.random.Generator(np.random.PCG64(sequence))
            if isinstance(owner, gym.Env):
                owner._np_random_seed = -1  # gymnasium's value for "unknown"


def _has_one(owner: Any) -> bool:
    """Whether an environment or a space has a generator, or draws from that of another object."""
    if isinstance(owner, gym.Wrapper) or (isinstance(owner, spaces.Space) and "_np_random" not in vars(owner)):
        return True
    return owner._np_random is not None


def _number(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Restore the user's random generators at the end."""
    states = random.getstate(), np.random.get_state(), th.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        th.set_rng_state(states[2])

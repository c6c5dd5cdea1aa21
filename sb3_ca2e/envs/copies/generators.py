"""Random generators that a copy of an environment holds: each copy's draw numbers of their own."""

import functools
import gc
import random
import types
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

#: What draws random numbers.
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, th.Generator)
#: What is begun anew: those, what they draw from, and what makes its generator when it first draws.
_RENEWED = (*GENERATORS, np.random.BitGenerator, np.random.SeedSequence, gym.Env, spaces.Space)
#: What holds the whole interpreter, or what belongs to all of a process.
_BOUNDARIES = (types.ModuleType, types.FrameType, type, types.CodeType)
#: What holds nothing.
_ATOMS = {type(None), bool, int, float, complex, str, bytes}


def renew(root: Any, seed: int, kept: Collection[int] = ()) -> set[int]:
    """
    Begin all generators anew that an object holds, however deep they lie: those of NumPy, Python, PyTorch and
    gymnasium, of environments and spaces. What it shares with others of its own stays shared. Generators that classes
    and modules hold belong to the process and are left alone.

    :param root: a copy of an environment, or of a function that makes one; changed in place
    :param seed: of the first of them; further ones follow from it
    :param kept: ids of those to leave alone
    :return: ids of the others
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
    :param root: an environment
    :return: ids of the generators that it holds, as :func:`renew` finds them
    """
    return {id(each) for each in _generators(root)}


class ProcessGenerators:
    """
    The generators of a process of which it is not known who holds them: those of classes, modules and what they hold.

    :param alone: the process is an actor's own, and all of them are begun anew; else they are the user's
    """

    def __init__(self, alone: bool):
        self.alone = alone
        self._known: dict[int, Any] = {}  # with the objects, as their ids would else become those of others

    def note(self) -> None:
        """Know all that there are in an actor's own process: they are not begun anew again."""
        if self.alone:
            self._known = of_process()

    def of_user(self) -> Collection[int]:
        """
        :return: ids of those that are to be left alone, as they are the user's: all that there are
        """
        if not self.alone:
            self._known = of_process()
        return () if self.alone else self._known.keys()

    def renew(self, seed: int, done: Collection[int]) -> None:
        """
        Begin those anew that have come since, in an actor's own process.

        :param seed: of the first of them
        :param done: ids of those that have been already
        """
        if self.alone:
            known = self._known.keys() | set(done)
            new = {key: each for key, each in of_process().items() if key not in known}
            children = np.random.SeedSequence([seed, 1]).spawn(len(new))
            for each, child in zip(new.values(), children, strict=True):
                _renewed(each, child)


def of_process() -> dict[int, Any]:
    """
    :return: all generators of this process by their ids, but those that were there when a server froze its objects
    """
    known = gc.get_objects()
    found = {id(each): each for each in known if issubclass(type(each), GENERATORS[:-1])}  # isinstance asks proxies
    # PyTorch's are not known to the collector, but whoever holds them is.
    return found | {id(each): each for each in gc.get_referents(*known) if type(each) is th.Generator}


def _generators(root: Any) -> Iterator[Any]:
    """What draws random numbers, each once, in the order in which it is found."""
    seen, waiting = {id(root)}, [root]
    is_generator: dict[type, bool] = {}  # to ask for each object takes ten times as long
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
    """What an object holds, as the garbage collector sees it, or better."""
    if isinstance(value, types.FunctionType):  # not its module's globals
        return [*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__, value.__dict__]
    if isinstance(value, types.BuiltinMethodType):  # of a generator, for instance; a module, of a function
        return [value.__self__]
    if isinstance(value, np.ndarray):  # which does not tell the collector
        objects: list[Any] = value.ravel().tolist() if value.dtype.hasobject else []
        return objects
    if isinstance(value, np.random.Generator | np.random.RandomState | th.Tensor):
        return []
    return gc.get_referents(value)


@functools.singledispatch
def _renewed(generator: Any, sequence: np.random.SeedSequence) -> None:
    """Begin a generator anew; make one for an object that has none."""
    raise NotImplementedError(f"no generator: {generator!r}")


@_renewed.register
def _(generator: np.random.Generator, sequence: np.random.SeedSequence) -> None:
    _renewed(generator.bit_generator, sequence)


@_renewed.register
def _(generator: np.random.RandomState, sequence: np.random.SeedSequence) -> None:
    _renewed(generator._bit_generator, sequence)


@_renewed.register
def _(bits: np.random.BitGenerator, sequence: np.random.SeedSequence) -> None:
    state: Any = type(bits)(sequence).state
    if isinstance(bits.__getstate__(), tuple):  # from NumPy 2 on: generators that it spawns follow from the sequence
        state = state, sequence
    settable: Any = bits
    settable.__setstate__(state)


@_renewed.register
def _(seeds: np.random.SeedSequence, sequence: np.random.SeedSequence) -> None:
    reduced: Any = sequence.__reduce__()
    settable: Any = seeds  # whose attributes can't be set one by one
    settable.__setstate_cython__(reduced[-1])


@_renewed.register
def _(generator: random.Random, sequence: np.random.SeedSequence) -> None:
    random.Random.seed(generator, _number(sequence))


@_renewed.register
def _(generator: th.Generator, sequence: np.random.SeedSequence) -> None:
    generator.manual_seed(_number(sequence))


@_renewed.register(gym.Env)
@_renewed.register(spaces.Space)
def _(owner: Any, sequence: np.random.SeedSequence) -> None:
    """One that makes its generator when it first draws would make it of the system's entropy."""
    if not _has_one(owner):
        owner._np_random = np.random.Generator(np.random.PCG64(sequence))
        if isinstance(owner, gym.Env):
            owner._np_random_seed = -1  # gymnasium's for "not known"


def _has_one(owner: Any) -> bool:
    """Whether an environment or a space has a generator, or draws from another's."""
    if isinstance(owner, gym.Wrapper) or (isinstance(owner, spaces.Space) and "_np_random" not in vars(owner)):
        return True
    return owner._np_random is not None


def _number(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

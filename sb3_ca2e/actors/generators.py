"""Random generators that a copy of an environment holds: each copy's draw numbers of their own."""

import functools
import gc
import random
import types
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

#: What holds the whole interpreter, or what belongs to all of a process.
_BOUNDARIES = (types.ModuleType, types.FrameType, type, types.BuiltinFunctionType, types.CodeType)


def renew(root: Any, seed: int) -> None:
    """
    Begin all generators anew that an object holds, however deep they lie: those of NumPy, Python, PyTorch and
    gymnasium, of environments and spaces. What it shares with others of its own stays shared. Generators that classes
    and modules hold belong to the process and are left alone.

    :param root: a copy of an environment, or of a function that makes one; changed in place
    :param seed: of the first of them; further ones follow from it
    """
    children = np.random.SeedSequence(seed)
    for generator in _generators(root):
        (sequence,) = children.spawn(1)
        _renewed(generator, sequence)


def _generators(root: Any) -> Iterator[Any]:
    """What draws random numbers, each once, in the order in which it is found."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        each = waiting.pop()
        if isinstance(each, _KINDS):
            yield each
        if isinstance(each, types.FunctionType):  # not its module's globals
            held = [*(each.__closure__ or ()), each.__defaults__, each.__kwdefaults__, each.__dict__]
        elif isinstance(each, np.random.Generator | np.random.RandomState | th.Tensor):
            held = []
        else:
            held = gc.get_referents(each)
        for part in reversed(held):
            if id(part) not in seen and not isinstance(part, _BOUNDARIES):
                seen.add(id(part))
                waiting.append(part)


_KINDS = (np.random.Generator, np.random.RandomState, random.Random, th.Generator, gym.Env, spaces.Space)


@functools.singledispatch
def _renewed(generator: Any, sequence: np.random.SeedSequence) -> None:
    raise NotImplementedError(f"no generator: {generator!r}")


@_renewed.register
def _(generator: np.random.Generator, sequence: np.random.SeedSequence) -> None:
    generator.bit_generator.state = type(generator.bit_generator)(sequence).state


@_renewed.register
def _(generator: np.random.RandomState, sequence: np.random.SeedSequence) -> None:
    bits = generator._bit_generator
    bits.state = type(bits)(sequence).state


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
    if vars(owner).get("_np_random", owner) is None or (isinstance(owner, gym.Env) and _has_none(owner)):
        owner._np_random = np.random.Generator(np.random.PCG64(sequence))


def _has_none(env: gym.Env) -> bool:
    return not isinstance(env, gym.Wrapper) and env._np_random is None


def _number(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

"""
What a copy of an environment lacks of the original, and how it gets it.

Environments that pickle how they were made (gymnasium's ``EzPickle``) come back as they were made: gravity that was
set afterwards, or what a subclass added, is lost. So a copy is compared with the original as deep as Python can look,
and what differs is carried over.
"""

import contextlib
import enum
import pathlib
import random
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.monitor import Monitor

from sb3_ca2e.actors.generators import GENERATORS

#: From one object to the next: an attribute's name, or the key of an item.
Step = tuple[str, Any]
Path = tuple[Step, ...]

_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, pathlib.PurePath),
    *(enum.Enum, np.generic, np.dtype, np.ndarray, th.Tensor, spaces.Space),
)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque, OrderedDict, defaultdict)
_NOT_COMPARED = (*GENERATORS, types.ModuleType, type, types.BuiltinFunctionType)
#: Where what shows an environment comes from: each copy makes its own when it is to be shown.
_SHOWING = {"pygame", "pyglet", "glfw", "OpenGL", "matplotlib", "cv2", "moviepy"}
_MUJOCO_RENDERING = "gymnasium.envs.mujoco.mujoco_rendering"
#: Wrappers that copies get anew, and what is compared of them.
_MADE_ANEW = {Monitor: "env", EpisodicLifeEnv: "env"}
#: Attributes of a ``Monitor`` that tell of the episode under way, or of its file.
_OF_AN_EPISODE = {"rewards", "needs_reset", "episode_returns", "episode_lengths", "episode_times", "total_steps"}
_OF_A_MONITOR = {*_OF_AN_EPISODE, "results_writer", "t_start", "current_reset_info"}


class _Missing:
    """Stands for what is not there."""


@dataclass(frozen=True)
class Change:
    """
    Something that a copy lacks.

    :param path: where it belongs, from the environment on
    :param value: the original's
    """

    path: Path
    value: Any

    @property
    def name(self) -> str:
        """The path as one writes it, without the wrappers."""
        steps = [step for step in self.path if step != ("attribute", "env")]
        text = "".join(f".{name}" if kind == "attribute" else f"[{name!r}]" for kind, name in steps)
        return text.removeprefix(".")

    def make(self, env: Any) -> None:
        """
        :param env: a copy, which is changed in place
        :raises Exception: whatever the object raises that can't be changed
        """
        *path, (kind, name) = self.path
        owner = _at(env, path)
        present = _next(owner, (kind, name))
        if isinstance(present, np.ndarray) and present.flags.writeable and _alike(present, self.value):
            present[...] = self.value  # others may see the same memory, as MuJoCo does
        elif kind == "item":
            owner[name] = self.value
        elif _is_mujoco(owner):
            setattr(owner, name, self.value)
        else:  # whatever the class itself would do
            object.__setattr__(owner, name, self.value)


def changes_between(env: gym.Env, copied: gym.Env) -> list[Change]:
    """
    :param env: the original
    :param copied: a copy, which may be reset here
    :return: what the copy is to be given, without what its own ``reset`` sets
    """
    found = dict(_differences(env, copied))
    if not found:
        return []
    before = {path: _still(_at(copied, path)) for path in found}
    with _random_numbers_kept():
        copied.reset()
    return [Change(path, value) for path, value in found.items() if _unchanged(before[path], _at(copied, path))]


def _differences(env: Any, copied: Any) -> Iterator[tuple[Path, Any]]:
    """Where the copy is known to be another, and what the original has there."""
    seen: set[int] = set()
    waiting: list[tuple[Path, Any, Any]] = [((), env, copied)]
    while waiting:
        path, ours, theirs = waiting.pop()
        if ours is theirs or isinstance(ours, _NOT_COMPARED) or _shows(ours) or _shows(theirs):
            continue
        if isinstance(ours, types.FunctionType | types.MethodType):
            if not _same_code(ours, theirs):
                yield path, ours
        elif type(ours) is not type(theirs):
            if not _opaque(ours):
                yield path, ours
        elif isinstance(ours, _PLAIN):
            if not _equal(ours, theirs):
                yield path, ours
        elif id(ours) not in seen:
            seen.add(id(ours))
            if (parts := _parts(ours, theirs)) is None:
                if not _opaque(ours):
                    yield path, ours
            else:
                waiting += [((*path, step), *pair) for step, *pair in reversed(parts)]


def _parts(ours: Any, theirs: Any) -> list[tuple[Step, Any, Any]] | None:
    """Pairs of what two objects of one type hold; None if they are known to differ as a whole."""
    if type(ours) in _CONTAINERS:
        return _parts_of_containers(ours, theirs)
    if type(ours) in _MADE_ANEW:
        names: Any = [_MADE_ANEW[type(ours)]]
    elif _is_mujoco(ours):
        names = _numbers_of_mujoco(ours)
        return [(("attribute", name), getattr(ours, name), getattr(theirs, name)) for name in names]
    else:
        names = _attributes(ours).keys() - (_OF_A_MONITOR if isinstance(ours, Monitor) else set())
    own, other = _attributes(ours), _attributes(theirs)
    return [(("attribute", name), own[name], other.get(name, _Missing)) for name in own if name in names]


def _parts_of_containers(ours: Any, theirs: Any) -> list[tuple[Step, Any, Any]] | None:
    with contextlib.suppress(Exception):  # arrays, and what a user's own classes raise
        if ours == theirs:
            return []
    if isinstance(ours, set | frozenset) or _all_plain(ours):
        return None
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return None
        return [(("item", key), value, theirs[key]) for key, value in ours.items()]
    if len(ours) != len(theirs):
        return None
    pairs = list(enumerate(zip(ours, theirs, strict=True)))
    if isinstance(ours, tuple) and any(isinstance(a, _PLAIN) and not _equal(a, b) for _, (a, b) in pairs):
        return None  # its items can't be set
    return [(("item", index), *pair) for index, pair in pairs]


def _all_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(each, _PLAIN) for pair in value.items() for each in pair)
    return all(isinstance(each, _PLAIN) for each in value)


def _attributes(value: Any) -> dict[str, Any]:
    """What an object holds, without asking its class, which may answer with something else."""
    held = {}
    with contextlib.suppress(AttributeError):
        held.update(object.__getattribute__(value, "__dict__"))
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType):  # of __slots__
                with contextlib.suppress(AttributeError):
                    held[name] = member.__get__(value)
    return held


def _is_mujoco(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "mujoco"


def _numbers_of_mujoco(value: Any) -> list[str]:
    """Names of what a model, or a part of it, says of physics; a state is set by ``reset``."""
    if type(value).__name__ == "MjData":
        return []
    names = []
    for name in dir(value):
        if not name.startswith("_"):
            held = getattr(value, name, None)
            if isinstance(held, np.ndarray | int | float) or type(held).__name__ in ("MjOption", "MjStatistic"):
                names.append(name)
    return names


def _opaque(value: Any) -> bool:
    """Whether Python can't look into it, or into something that it holds; what it is can't be told then."""
    if isinstance(value, (*_PLAIN, types.FunctionType, types.MethodType, *_NOT_COMPARED)):
        return False
    if type(value) in _CONTAINERS:
        held = [*value, *value.values()] if isinstance(value, dict) else value
        return any(_opaque(each) for each in held if each is not value)
    if any("thisown" in vars(kind) for kind in type(value).__mro__):  # SWIG's, such as Box2D's
        return True
    return _shows(value)


def _shows(value: Any) -> bool:
    module: str = type(value).__module__ or ""
    return module.partition(".")[0] in _SHOWING or module == _MUJOCO_RENDERING


def _same_code(ours: Any, theirs: Any) -> bool:
    codes = [getattr(getattr(each, "__func__", each), "__code__", None) for each in (ours, theirs)]
    return codes[0] is not None and codes[0] == codes[1]


def _alike(ours: Any, theirs: Any) -> bool:
    """Arrays of one shape and type."""
    return type(ours) is type(theirs) and (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, th.Tensor):
        ours, theirs = ours.detach().cpu().numpy(), theirs.detach().cpu().numpy()
    if isinstance(ours, np.ndarray):
        return _alike(ours, theirs) and bool(ours.dtype.hasobject or ours.tobytes() == theirs.tobytes())
    return bool(ours == theirs) or (ours != ours and theirs != theirs)  # NaN equals none


def _still(value: Any) -> Any:
    """A value as it is now, though it may be changed in place."""
    if isinstance(value, np.ndarray):
        return value.copy()
    return type(value)(value) if type(value) in (list, dict, set, deque) else value


def _unchanged(before: Any, after: Any) -> bool:
    if before is after:
        return True
    if type(before) is not type(after):
        return False
    if isinstance(before, _PLAIN):
        return _equal(before, after)
    if type(before) in _CONTAINERS:
        return _parts_of_containers(before, after) == []
    return False


def _at(value: Any, path: Any) -> Any:
    for step in path:
        value = _next(value, step)
    return value


def _next(value: Any, step: Step) -> Any:
    kind, name = step
    if kind == "item":
        try:
            return value[name]
        except (LookupError, TypeError):
            return _Missing
    held = _attributes(value)
    if name in held:
        return held[name]
    return getattr(value, name, _Missing) if _is_mujoco(value) else _Missing


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """The user's own random numbers are as if nothing had drawn any."""
    states = random.getstate(), np.random.get_state(), th.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        th.set_rng_state(states[2])

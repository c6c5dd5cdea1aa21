"""Looks into objects without asking their classes, which may answer with something else."""

import contextlib
import enum
import pathlib
import types
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, pathlib.PurePath),
    *(types.CodeType, enum.Enum, np.generic, np.dtype, np.ndarray, th.Tensor, spaces.Space),
)


CONTAINERS = (list, tuple, dict, set, frozenset, deque, OrderedDict, defaultdict)


#: Where what shows an environment comes from: each copy makes its own when it is to be shown.
_SHOWING = {"pygame", "pyglet", "glfw", "OpenGL", "matplotlib", "cv2", "moviepy"}


_MUJOCO_RENDERING = "gymnasium.envs.mujoco.mujoco_rendering"


#: Flag of classes that are no C types.
MADE_IN_PYTHON = 1 << 9


def is_table(value: Any) -> bool:
    return (getattr(type(value), "__module__", None) or "").startswith("pandas.") and hasattr(value, "equals")


def held_by(function: types.FunctionType) -> list[Any]:
    """
    :param function: one written in Python
    :return: what it holds: the contents of its closure, and its defaults
    """
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # it is empty
            held.append(cell.cell_contents)
    return held


def keys_of(value: Any) -> list[Any]:
    """Of what it holds, if it is a container."""
    if isinstance(value, dict):
        return list(dict.keys(value))
    return list(range(len(value))) if isinstance(value, list | tuple | deque) else []


def is_plain(value: Any) -> bool:
    """
    :param value: anything
    :return: whether it is data that can be compared, or a container of such, however deep
    """
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        if type(each) in CONTAINERS:
            if id(each) not in seen:
                seen.add(id(each))
                waiting += [*each, *each.values()] if isinstance(each, dict) else each
        elif not isinstance(each, PLAIN):
            return False
    return True


def attributes_of(value: Any) -> dict[str, Any]:
    """What an object holds, without asking its class, which may answer with something else."""
    held = {}
    with contextlib.suppress(AttributeError):
        held.update(object.__getattribute__(value, "__dict__"))
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            is_slot = isinstance(member, types.MemberDescriptorType) and kind.__flags__ & MADE_IN_PYTHON
            if is_slot and not name.startswith("__"):
                with contextlib.suppress(AttributeError):
                    held[name] = member.__get__(value)
    return held


def is_mujoco(value: Any) -> bool:
    return (getattr(type(value), "__module__", None) or "").partition(".")[0] == "mujoco"


def numbers_of_mujoco(value: Any) -> list[str]:
    """Names of what a model, or a part of it, says of physics; a state is set by ``reset``."""
    if type(value).__name__ == "MjData":
        return []
    is_model, names = type(value).__name__ == "MjModel", []  # whose sizes can't be set
    for name in dir(value):
        if not name.startswith("_"):
            held = getattr(value, name, None)
            is_part = type(held).__name__ in ("MjOption", "MjStatistic")
            if isinstance(held, np.ndarray) or is_part or (isinstance(held, int | float) and not is_model):
                names.append(name)
    return names


def is_swigs(value: Any) -> bool:
    """Of a library in C++, such as Box2D."""
    return "Swig" in type(value).__name__ or any("thisown" in vars(kind) for kind in type(value).__mro__)


def shows(value: Any) -> bool:
    module = getattr(type(value), "__module__", None) or ""
    return module.partition(".")[0] in _SHOWING or module == _MUJOCO_RENDERING

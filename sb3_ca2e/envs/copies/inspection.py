"""Inspects objects without calling methods of their classes, which may answer with something else."""

import contextlib
import copyreg
import enum
import pathlib
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, pathlib.PurePath),
    *(types.CodeType, enum.Enum, np.generic, np.dtype, np.ndarray, th.Tensor, spaces.Space),
)


CONTAINERS = (list, tuple, dict, set, frozenset, deque, OrderedDict, defaultdict)


#: Packages whose objects display an environment: each copy creates its own when it is rendered.
_SHOWING = {"pygame", "pyglet", "glfw", "OpenGL", "matplotlib", "cv2", "moviepy"}


_MUJOCO_RENDERING = "gymnasium.envs.mujoco.mujoco_rendering"


#: Flag of classes that are not C types.
MADE_IN_PYTHON = 1 << 9


def is_table(value: Any) -> bool:
    """Whether a value is a table of pandas."""
    return (getattr(type(value), "__module__", None) or "").startswith("pandas.") and hasattr(value, "equals")


def held_by(function: types.FunctionType) -> list[Any]:
    """
    Return what a function holds.

    :param function: function written in Python
    :return: the contents of its closure, and its defaults
    """
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # empty cell
            held.append(cell.cell_contents)
    return held


def keys_of(value: Any) -> list[Any]:
    """Return the keys or indices of a container; none for other objects."""
    if isinstance(value, dict):
        return list(dict.keys(value))
    return list(range(len(value))) if isinstance(value, list | tuple | deque) else []


def leaves_of(value: Any, is_container: Callable[[Any], bool]) -> Iterator[Any]:
    """
    Iterate over what containers hold that is no container itself.

    :param value: anything
    :param is_container: whether to look into an object
    :return: the value, or what it holds at any depth
    """
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        if not is_container(each):
            yield each
        elif id(each) not in seen:
            seen.add(id(each))
            waiting += [*each, *each.values()] if isinstance(each, dict) else each


def is_plain(value: Any) -> bool:
    """
    Whether a value is data that can be compared, or a container of such data, at any depth.

    :param value: anything
    :return: True for plain data
    """
    return all(isinstance(each, PLAIN) for each in leaves_of(value, lambda each: type(each) in CONTAINERS))


def attributes_of(value: Any) -> dict[str, Any]:
    """Return an object's attributes without calling methods of its class."""
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
    """Whether an object's class belongs to MuJoCo."""
    return (getattr(type(value), "__module__", None) or "").partition(".")[0] == "mujoco"


def numbers_of_mujoco(value: Any) -> list[str]:
    """Return names of the physical parameters of a MuJoCo model, or of a part of it; the state is set by ``reset``."""
    if type(value).__name__ == "MjData":
        return []
    is_model, names = type(value).__name__ == "MjModel", []  # a model's sizes can't be set
    for name in dir(value):
        if not name.startswith("_"):
            held = getattr(value, name, None)
            is_part = type(held).__name__ in ("MjOption", "MjStatistic")
            if isinstance(held, np.ndarray) or is_part or (isinstance(held, int | float) and not is_model):
                names.append(name)
    return names


def is_swigs(value: Any) -> bool:
    """Whether an object belongs to a SWIG-wrapped C++ library, such as Box2D."""
    return "Swig" in type(value).__name__ or any("thisown" in vars(kind) for kind in type(value).__mro__)


def shows(value: Any) -> bool:
    """Whether an object displays an environment."""
    module = getattr(type(value), "__module__", None) or ""
    return module.partition(".")[0] in _SHOWING or module == _MUJOCO_RENDERING


def of_display(value: Any) -> Any:
    """
    Reduce an object that displays an environment: a copy creates its own when it is rendered.

    :param value: any object to pickle
    :return: as ``__reduce__`` returns it; None if the object displays nothing
    """
    module = type(value).__module__
    if module.startswith("pygame"):
        return _of_pygame(value)
    if module == _MUJOCO_RENDERING and type(value).__name__ == "MujocoRenderer":
        without_windows = {**vars(value), "viewer": None, "_viewers": {}}
        return copyreg.__newobj__, (type(value),), without_windows  # type: ignore[attr-defined]
    return None


def _of_pygame(value: Any) -> Any:
    pygame: Any = sys.modules["pygame"]
    if isinstance(value, pygame.Surface):
        if pygame.display.get_init() and value is pygame.display.get_surface():
            return type(None), ()  # the window: environments open one if there is none
        kind = "RGBA" if value.get_flags() & pygame.SRCALPHA else "RGB"
        looks = value.get_colorkey(), value.get_alpha()
        return _surface, (pygame.image.tobytes(value, kind), value.get_size(), kind, *looks)
    if isinstance(value, pygame.time.Clock().__class__):
        return pygame.time.Clock, ()
    return None


def _surface(content: bytes, size: tuple[int, int], kind: Any, colorkey: Any, alpha: int | None) -> Any:
    import pygame

    surface = pygame.image.frombytes(content, size, kind)
    if colorkey is not None:
        surface.set_colorkey(colorkey)
    if alpha is not None and alpha != 255:
        surface.set_alpha(alpha)
    return surface

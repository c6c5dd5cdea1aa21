"""Changes that the user's process has made to classes of environments, and to constants beside them."""

import contextlib
import functools
import importlib
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle
import gymnasium as gym

from sb3_ca2e.envs.copies.comparison import same
from sb3_ca2e.envs.copies.inspection import MADE_IN_PYTHON, is_plain
from sb3_ca2e.envs.copies.modules import is_imported
from sb3_ca2e.envs.identity import layers_of

#: Whose functions and classes hold no environment of the user's.
LIBRARIES = {
    "gymnasium",
    "stable_baselines3",
    "sb3_contrib",
    "torch",
    "numpy",
    "mujoco",
    "ale_py",
    "builtins",
    "typing",
}
#: Packages whose classes are not the user's to change.
_NOT_CHANGED = {"sb3_ca2e", "builtins", "typing", "abc"}


@dataclass(frozen=True)
class Patch:
    """
    Attributes of a module, or of a class in it, as the user's process has them.

    :param module: its name
    :param qualname: the class's name, None for the module itself
    :param values: plain data by name, and functions that come from elsewhere
    :param parts: of objects: plain data by name, and by the name of the object
    """

    module: str
    qualname: str | None
    values: dict[str, Any]
    parts: dict[str, dict[str, Any]]

    def apply(self) -> None:
        """Make it so in this process, whose module has been imported anew."""
        target: Any = importlib.import_module(self.module)
        for part in self.qualname.split(".") if self.qualname else ():
            target = getattr(target, part)
        for name, value in self.values.items():
            present = vars(target).get(name)
            if not (is_plain(value) and same(present, value)):
                setattr(target, name, value)
        for name, parts in self.parts.items():
            held = getattr(vars(target).get(name), "__dict__", {})
            for part, value in parts.items():
                if not same(held.get(part), value):
                    held[part] = value


def kinds_of(envs: Iterable[gym.Env]) -> set[type]:
    """
    :param envs: environments
    :return: their classes, those of their wrappers, and the parents of these
    """
    return {each for env in envs for layer in layers_of(env) for each in type(layer).__mro__}


def patches_of(kinds: Iterable[type]) -> tuple[bytes, ...]:
    """
    :param kinds: classes of environments
    :return: pickled: what may have been changed in them, and in the modules that define them
    """
    modules = {each.__module__ for each in filter(_imported, kinds)}
    targets: list[tuple[str, str | None, Any]] = [(name, None, sys.modules[name]) for name in modules]
    for name in modules:
        classes = [each for each in vars(sys.modules[name]).values() if isinstance(each, type)]
        targets += [(name, each.__qualname__, each) for each in classes if each.__module__ == name and _imported(each)]
    pickled = []
    for module, qualname, target in targets:
        held = _held(target)
        values = {name: _by_its_own_name(value) for name, value in held if _counts(target, name, value)}
        values = {name: value for name, value in values.items() if _can_be_pickled(value)}
        parts = {name: vars(value) for name, value in held if _is_settings(value)}
        if values or parts:
            pickled.append(cloudpickle.dumps(Patch(module, qualname, values, parts)))
    return tuple(pickled)


@contextlib.contextmanager
def classes_kept(kinds: Iterable[type]) -> Iterator[None]:
    """
    Let classes be afterwards as they are now: an environment that is made for a while may count itself there.

    :param kinds: classes of environments
    """
    own = [each for each in kinds if each.__module__.partition(".")[0] not in LIBRARIES | _NOT_CHANGED]
    before = [(kind, dict(_held(kind))) for kind in own]
    try:
        yield
    finally:
        for kind, held in before:
            for name, value in _held(kind):
                if name not in held:
                    delattr(kind, name)
                elif value is not held[name]:
                    setattr(kind, name, held[name])


def _held(target: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(target).items() if not name.startswith(("__", "_abc_"))]


def _can_be_pickled(value: Any) -> bool:
    """What can't be can't be told from what was there before either."""
    with contextlib.suppress(Exception):
        return is_plain(value) or bool(cloudpickle.dumps(value))
    return False


def _is_settings(value: Any) -> bool:
    """Whether an object of a class written in Python holds nothing but plain data."""
    kind: Any = type(value)
    own = isinstance(value, types.SimpleNamespace) or (kind.__flags__ & MADE_IN_PYTHON and is_imported(kind))
    if not own or is_plain(value) or isinstance(value, type) or type(vars(kind).get("__dict__")) is property:
        return False
    held = getattr(value, "__dict__", None)
    return isinstance(held, dict) and bool(held) and is_plain(held)


def apply(pickled: tuple[bytes, ...]) -> None:
    """
    :param pickled: what :func:`patches_of` returned in the user's process
    """
    for each in pickled:
        patch: Patch = cloudpickle.loads(each)
        patch.apply()


def _imported(kind: type) -> bool:
    """Other classes are pickled with all that they hold; those of the libraries here are not the user's to change."""
    name = kind.__module__
    by_value = name == "__main__" or name in cloudpickle.list_registry_pickle_by_value()
    if by_value or name not in sys.modules or name.partition(".")[0] in _NOT_CHANGED:
        return False
    return is_imported(kind)


def _counts(target: Any, name: str, value: Any) -> bool:
    """Whether a process of its own might have something else there."""
    if is_plain(value) or isinstance(value, functools.partialmethod):
        return True
    # A function that was put there was defined under another name, whatever name it goes by.
    own = f"{target.__qualname__}.{name}" if isinstance(target, type) else name
    functions = _functions_of(value)
    if not isinstance(target, type) and any(each.__module__ != target.__name__ for each in functions):
        return any(each.__name__ != name for each in functions)  # one that was imported is there too
    return any(each.__code__.co_qualname != own for each in functions)


def _by_its_own_name(value: Any) -> Any:
    """A function that goes by the name of another would be pickled as that one."""
    if isinstance(value, staticmethod | classmethod):
        return type(value)(_by_its_own_name(value.__func__))
    if isinstance(value, property):
        return property(*[_by_its_own_name(each) for each in (value.fget, value.fset, value.fdel)])
    if not isinstance(value, types.FunctionType) or value.__qualname__ == value.__code__.co_qualname:
        return value
    own = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, value.__closure__)
    own.__kwdefaults__, own.__module__ = value.__kwdefaults__, value.__module__
    own.__qualname__ = value.__code__.co_qualname
    return own


def _functions_of(value: Any) -> list[types.FunctionType]:
    """Those that a method of any kind is made of."""
    if isinstance(value, property):
        held: list[Any] = [value.fget, value.fset, value.fdel]
    else:
        held = [getattr(value, "__func__", value)]  # of a staticmethod, a classmethod
    return [each for each in held if isinstance(each, types.FunctionType)]

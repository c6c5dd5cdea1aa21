"""Changes that the user's process has made to classes of environments, and to constants in their modules."""

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

#: Packages whose functions and classes hold no environment of the user's.
LIBRARIES = {"gymnasium", "stable_baselines3", "sb3_contrib", "torch", "numpy", "mujoco", "ale_py"}
#: Packages whose classes are not expected to be changed.
_NOT_CHANGED = {"sb3_ca2e", "builtins", "typing", "abc"}


@dataclass(frozen=True)
class Patch:
    """
    Attributes of a module, or of a class in it, as in the user's process.

    :param module: name of the module
    :param qualname: name of the class, None for the module itself
    :param values: plain data and functions from elsewhere, by name
    :param parts: plain data of objects, by name of the object and of the attribute
    """

    module: str
    qualname: str | None
    values: dict[str, Any]
    parts: dict[str, dict[str, Any]]

    def apply(self) -> None:
        """Apply the changes in this process, which has imported the module again."""
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
    Return the classes of environments.

    :param envs: environments
    :return: classes of the environments, of their wrappers, and parents of these
    """
    return {each for env in envs for layer in layers_of(env) for each in type(layer).__mro__}


def patches_of(kinds: Iterable[type]) -> tuple[bytes, ...]:
    """
    Pickle what may have been changed in classes and in the modules that define them.

    :param kinds: classes of environments
    :return: pickled :class:`Patch` objects
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
    Restore class attributes at the end: a temporary environment may count itself there.

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
    """Whether a value can be pickled; otherwise it can't be compared with the original value either."""
    with contextlib.suppress(Exception):
        return is_plain(value) or bool(cloudpickle.dumps(value))
    return False


def _is_settings(value: Any) -> bool:
    """Whether an object of a Python class holds nothing but plain data."""
    kind: Any = type(value)
    own = isinstance(value, types.SimpleNamespace) or (kind.__flags__ & MADE_IN_PYTHON and is_imported(kind))
    if not own or is_plain(value) or isinstance(value, type) or type(vars(kind).get("__dict__")) is property:
        return False
    held = getattr(value, "__dict__", None)
    return isinstance(held, dict) and bool(held) and is_plain(held)


def apply(pickled: tuple[bytes, ...]) -> None:
    """
    Apply patches.

    :param pickled: result of :func:`patches_of` in the user's process
    """
    for each in pickled:
        patch: Patch = cloudpickle.loads(each)
        patch.apply()


def _imported(kind: type) -> bool:
    """Whether a class is imported in actor processes; other classes are pickled with everything that they hold."""
    name = kind.__module__
    by_value = name == "__main__" or name in cloudpickle.list_registry_pickle_by_value()
    if by_value or name not in sys.modules or name.partition(".")[0] in _NOT_CHANGED:
        return False
    return is_imported(kind)


def _counts(target: Any, name: str, value: Any) -> bool:
    """Whether another process may have a different value there."""
    if is_plain(value) or isinstance(value, functools.partialmethod):
        return True
    # A function from elsewhere was compiled under another qualified name, whatever its __name__ is now.
    own = f"{target.__qualname__}.{name}" if isinstance(target, type) else name
    functions = _functions_of(value)
    if not isinstance(target, type) and any(each.__module__ != target.__name__ for each in functions):
        return any(each.__name__ != name for each in functions)  # imported functions are there as well
    return any(each.__code__.co_qualname != own for each in functions)


def _by_its_own_name(value: Any) -> Any:
    """Restore a function's own qualified name: under another one, pickle would refer to that function."""
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
    """Return the functions that a method of any kind consists of."""
    if isinstance(value, property):
        held: list[Any] = [value.fget, value.fset, value.fdel]
    else:
        held = [getattr(value, "__func__", value)]  # static or class method
    return [each for each in held if isinstance(each, types.FunctionType)]

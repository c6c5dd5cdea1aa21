"""Checks that objects of known classes are not of subclasses that override something."""

import inspect
import types
from collections.abc import Iterable
from typing import Any

#: Attributes that a subclass may define without changing behaviour.
_HARMLESS = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__dict__", "__weakref__"}
_HARMLESS |= {"__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__static_attributes__"}
_HARMLESS |= {"__firstlineno__", "__slots__"}
#: Methods of ``object`` that change everything else if a class overrides them.
_DECISIVE = {"__getattribute__", "__setattr__", "__delattr__", "__new__"}


def overridden(value: Any, known: type) -> str | None:
    """
    Find what an object changes of a known class.

    :param value: an object
    :param known: class that it is an instance of
    :return: name of the first part of ``known`` that the object, its class, or a later change to ``known`` overrides;
        None if there is none
    """
    kind, parents = type(value), known.__mro__[:-1]
    parts = _DECISIVE.union(*map(vars, parents)) - _HARMLESS
    for each in kind.__mro__[: kind.__mro__.index(known)]:
        for name in vars(each):
            if name in parts:
                return f"{kind.__name__}.{name}"
    for parent in parents:
        if parent.__module__.partition(".")[0] in ("stable_baselines3", "sb3_ca2e"):
            for name, own in vars(parent).items():
                if callable(own) and not isinstance(own, type) and not _defined_in(parent, own):
                    return f"{parent.__name__}.{name}"
    for name, own in vars(value).items():
        if callable(own) and isinstance(getattr(known, name, None), types.FunctionType):
            return f"{kind.__name__}.{name}"
    return None


def from_elsewhere(value: Any, names: Iterable[str], packages: Iterable[str]) -> str | None:
    """
    Find a method that is not the one of known packages: overridden in a class, or replaced on the object or a class.

    :param value: an object
    :param names: methods and properties to look at; those that the object lacks are skipped
    :param packages: packages whose methods are known
    :return: class and name of the first that was defined elsewhere; None if there is none
    """
    for name in names:
        found = inspect.getattr_static(value, name, None)
        function = getattr(found, "fget", None) or getattr(found, "__func__", found)
        # Not the function's own module: ``functools.wraps`` copies it.
        module = getattr(function, "__globals__", {}).get("__name__", "")
        if found is not None and module.partition(".")[0] not in packages:
            return f"{type(value).__name__}.{name}"
    return None


def _defined_in(kind: type, function: Any) -> bool:
    """Whether a function was defined in a class's body; ``functools.wraps`` changes all its names but one."""
    function = getattr(function, "__func__", function)  # unwrap static and class methods
    return isinstance(function, types.FunctionType) and function.__code__.co_qualname.startswith(f"{kind.__name__}.")

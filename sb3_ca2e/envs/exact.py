"""Objects of the user's that are read and made anew must be of the very class that is known: a subclass may do more."""

import types
from typing import Any

#: What a subclass may have of its own, as it does nothing later.
_HARMLESS = {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__dict__", "__weakref__"}
_HARMLESS |= {"__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__static_attributes__"}
_HARMLESS |= {"__firstlineno__", "__slots__"}
#: What all objects have, and what decides over everything else if a class has its own.
_DECISIVE = {"__getattribute__", "__setattr__", "__delattr__", "__new__"}


def overridden(value: Any, known: type) -> str | None:
    """
    :param value: an object
    :param known: a class that it is an instance of
    :return: where the object's class, or the object itself, has something else in the place of a part of that class,
        or the class of what it had when it was defined: a name to be shown; None if it has not
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


def _defined_in(kind: type, function: Any) -> bool:
    """Whether a function stands in a class's own text; ``functools.wraps`` changes all its names but one."""
    function = getattr(function, "__func__", function)  # of a static or a class method
    return isinstance(function, types.FunctionType) and function.__code__.co_qualname.startswith(f"{kind.__name__}.")

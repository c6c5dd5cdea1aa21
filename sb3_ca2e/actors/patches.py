"""Changes that the user's process has made to classes of environments, and to constants beside them."""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cloudpickle
import gymnasium as gym

from sb3_ca2e.actors.faithful import is_plain, same
from sb3_ca2e.actors.identity import layers_of

#: Packages whose classes are not the user's to change.
_NOT_CHANGED = {"sb3_ca2e", "builtins", "typing", "abc"}


@dataclass(frozen=True)
class Patch:
    """
    Attributes of a module, or of a class in it, as the user's process has them.

    :param module: its name
    :param qualname: the class's name, None for the module itself
    :param values: plain data by name, and functions that come from elsewhere
    """

    module: str
    qualname: str | None
    values: dict[str, Any]

    def apply(self) -> None:
        """Make it so in this process, whose module has been imported anew."""
        target: Any = importlib.import_module(self.module)
        for part in self.qualname.split(".") if self.qualname else ():
            target = getattr(target, part)
        for name, value in self.values.items():
            present = vars(target).get(name)
            if not (is_plain(value) and same(present, value)):
                setattr(target, name, value)


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
    classes = set(filter(_imported, kinds))
    modules = {each.__module__ for each in classes}
    targets: list[tuple[str, str | None, Any]] = [(name, None, sys.modules[name]) for name in modules]
    targets += [(each.__module__, each.__qualname__, each) for each in classes]
    pickled = []
    for module, qualname, target in targets:
        values = {name: value for name, value in vars(target).items() if _counts(target, name, value)}
        if values:
            with contextlib.suppress(Exception):  # what can't be pickled can't be told from what was there before
                pickled.append(cloudpickle.dumps(Patch(module, qualname, values)))
    return tuple(pickled)


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
    found: Any = sys.modules[name]
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind


def _counts(target: Any, name: str, value: Any) -> bool:
    """Whether a process of its own might have something else there."""
    if name.startswith("__") or name.startswith("_abc_"):
        return False
    if is_plain(value):
        return True
    # A function that was put into the class has another name than one that was defined in it.
    own = f"{target.__qualname__}.{name}" if isinstance(target, type) else name
    return isinstance(value, types.FunctionType) and isinstance(target, type) and value.__qualname__ != own

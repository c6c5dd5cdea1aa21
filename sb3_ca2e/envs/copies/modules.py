"""Checks that actor processes can import the modules that a pickled environment names."""

import importlib.machinery
import os
import pickletools
import sys
from collections.abc import Iterable
from typing import Any

import cloudpickle

#: Function by which cloudpickle pickles a module.
_IMPORTS = ("cloudpickle.cloudpickle", "subimport")


def modules_in(pickled: bytes) -> set[str]:
    """
    Find the modules that a pickle imports.

    :param pickled: pickle for an actor
    :return: names of the modules
    """
    found: set[str] = set()
    memo: list[Any] = []
    pushed: list[Any] = [None, None]  # the last two values: strings, or a function's module and name
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "MEMOIZE":
            memo.append(pushed[-1])
            continue
        if opcode.name == "STACK_GLOBAL":
            module, name = pushed[-2:]
            found.add(module)
            value: Any = (module, name)
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            value = memo[int(argument or 0)]
        else:
            value = argument if isinstance(argument, str) else None
        if pushed[-1] == _IMPORTS and isinstance(value, str):
            found.add(value)
        pushed = [pushed[-1], value]
    return found


def modules_of(kinds: Iterable[type]) -> set[str]:
    """
    Find the modules that classes are imported from.

    :param kinds: classes that an actor needs
    :return: names of the modules of the classes and their parents, without those that are pickled by value
    """
    by_value: set[str] = cloudpickle.list_registry_pickle_by_value() | {"__main__"}
    return {each.__module__ for kind in kinds for each in kind.__mro__ if is_imported(each)} - by_value


def is_imported(kind: type) -> bool:
    """
    Whether a class can be imported by its name, by which it is pickled then.

    :param kind: a class
    :return: whether its module has it under that name
    """
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind


def import_path() -> list[str]:
    """
    Return this process's import path with absolute entries.

    :return: entries of ``sys.path``; a relative one from which something was imported refers to the working directory
        at that time
    """
    finders = [(entry, sys.path_importer_cache.get(entry)) for entry in sys.path]
    return [os.path.abspath(getattr(finder, "path", entry)) for entry, finder in finders]


def refuse_lost_modules(names: Iterable[str], what: str) -> None:
    """
    Refuse modules that actor processes can't import.

    :param names: names of modules
    :param what: description of what needs them, for the message
    :raises ValueError: if a module is not on the path, or another one is found there
    """
    for name in sorted(names):
        if (reason := _lost(name)) is not None:
            raise ValueError(
                f"Actors must import {name}, which {what} needs, but {reason}. Put its folder on sys.path (or "
                "PYTHONPATH) before you import it, install it, or have it pickled along with what it defines: "
                f"cloudpickle.register_pickle_by_value(sys.modules[{name!r}])."
            )


def _lost(name: str) -> str | None:
    """Return why another process would not import the same module, None if it would."""
    if name == "__main__":
        return "it is another module there: objects pickled by name, such as a cached method, can't be found"
    if name in sys.builtin_module_names:
        return None
    path: Any = None
    theirs: str | None = None
    module, parts = sys.modules.get(name), name.split(".")
    for length in range(1, len(parts) + 1):
        spec = _found(".".join(parts[:length]), path)
        if spec is None:
            return f"it is not on the path (it was loaded from {getattr(module, '__file__', None) or 'no file'})"
        path, theirs = spec.submodule_search_locations, spec.origin
        if path is None and length < len(parts):
            return None  # a module that sets its own parts, as os does
    ours = getattr(module, "__file__", None)
    if ours and theirs and os.path.isfile(ours) and os.path.isfile(theirs) and not os.path.samefile(ours, theirs):
        return f"they would find {theirs}, not {ours}"
    return None


def _found(name: str, path: Any) -> importlib.machinery.ModuleSpec | None:
    """Find a module as ``import`` would, though it has been imported."""
    return next(filter(None, (finder.find_spec(name, path) for finder in sys.meta_path)), None)

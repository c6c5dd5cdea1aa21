"""Whether an actor's process will find the modules that a pickled environment names."""

import importlib.machinery
import os
import pickletools
import sys
from collections.abc import Iterable
from typing import Any

import cloudpickle

#: What cloudpickle has in the place of a module.
_IMPORTS = ("cloudpickle.cloudpickle", "subimport")


def modules_in(pickled: bytes) -> set[str]:
    """
    :param pickled: what an actor is to load
    :return: names of the modules that are imported for it
    """
    found: set[str] = set()
    memo: list[Any] = []
    pushed: list[Any] = [None, None]  # the last two: names are strings, a function that imports is told by its name
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
    :param kinds: classes that an actor is to have
    :return: names of the modules that are imported for them and their parents; the rest is pickled
    """
    by_value: set[str] = cloudpickle.list_registry_pickle_by_value() | {"__main__"}
    return {each.__module__ for kind in kinds for each in kind.__mro__ if is_imported(each)} - by_value


def is_imported(kind: type) -> bool:
    """
    :param kind: a class
    :return: whether its module has it under its name, by which it is pickled then
    """
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind


def import_path() -> list[str]:
    """
    :return: where this process imports from. An entry that is relative stays, for whoever has imported from it, where
        it was before ``os.chdir``
    """
    finders = [(entry, sys.path_importer_cache.get(entry)) for entry in sys.path]
    return [os.path.abspath(getattr(finder, "path", entry)) for entry, finder in finders]


def refuse_lost_modules(names: Iterable[str], what: str) -> None:
    """
    :param names: of modules
    :param what: what needs them, as it is called in a message
    :raises ValueError: if one is not on the path, or another one is there
    """
    for name in sorted(names):
        if (reason := _lost(name)) is not None:
            raise ValueError(
                f"Actors import {name}, which {what} is made of, and {reason}. Put its folder on sys.path (or "
                "PYTHONPATH) before you import it, install it, or have it pickled along with what it defines: "
                f"cloudpickle.register_pickle_by_value(sys.modules[{name!r}])."
            )


def _lost(name: str) -> str | None:
    """Why another process would not import the same, None if it would."""
    if name == "__main__":
        return "it is another module there. What is pickled by its name alone, such as a cached method, can't be found"
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
        return f"what they would find is {theirs}, not {ours}"
    return None


def _found(name: str, path: Any) -> importlib.machinery.ModuleSpec | None:
    """As import finds it, though it has been imported."""
    for finder in sys.meta_path:
        if (spec := finder.find_spec(name, path)) is not None:
            return spec
    return None

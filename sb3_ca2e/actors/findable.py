"""Whether an actor's process will find the modules that a pickled environment names."""

import importlib.machinery
import io
import os
import pickle
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any


def loaded_with_modules(pickled: bytes) -> tuple[Any, set[str]]:
    """
    :param pickled: what an actor is to load
    :return: what is loaded here, and the names of the modules that it needs
    """
    names = _Names(io.BytesIO(pickled))
    return names.load(), names.found


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


class _Names(pickle.Unpickler):
    """Takes down which modules are imported."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.found: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if (module, name) == ("cloudpickle.cloudpickle", "subimport"):

            def subimport(imported: str) -> ModuleType:
                self.found.add(imported)
                of_cloudpickle: ModuleType = found(imported)
                return of_cloudpickle

            return subimport
        self.found.add(module)
        return found


def _lost(name: str) -> str | None:
    """Why another process would not import the same, None if it would."""
    if name == "__main__" or name in sys.builtin_module_names:
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

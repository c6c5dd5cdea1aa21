"""
Copies objects within one process; classes, functions and modules are shared, not copied.

``cloudpickle.loads`` is made for another process. In the process that pickled a class of a script, it finds the class
that already exists and overwrites its methods with new ones that have globals of their own.
"""

import io
import pickle
import types
from collections.abc import Sequence
from typing import Any

import cloudpickle


class Pickler(cloudpickle.Pickler):
    """
    Pickles objects for :func:`loads`.

    :param file: file to write to
    """

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        #: objects that a copy shares with the original
        self.kept: list[Any] = []
        self._indices: dict[int, int] = {}

    def reducer_override(self, obj: Any) -> Any:
        """
        Reduce an object; what can't change is kept by reference.

        :param obj: any object to pickle except plain data
        :return: as of ``__reduce__``; a copied function has copies of its closure and defaults, and the same globals
        """
        if obj is _kept:
            return NotImplemented  # pickled by name, by which the unpickler recognises shared objects
        if type(obj) is _Kept:
            return self._as_it_is(obj.value)
        if isinstance(obj, type | types.ModuleType | types.CodeType):
            return self._as_it_is(obj)
        if type(obj) is not types.FunctionType:
            return super().reducer_override(obj)
        if obj.__closure__ is None:
            return self._as_it_is(obj)
        cells: list[tuple[Any, ...]] = []
        for cell in obj.__closure__:
            try:
                cells.append((cell.cell_contents,))
            except ValueError:  # it is empty
                cells.append(())
        state = obj.__defaults__, obj.__kwdefaults__, obj.__dict__, obj.__qualname__, cells
        made_of = obj.__code__, _Kept(obj.__globals__), obj.__name__, len(cells)
        return _function, made_of, state, None, None, _set_up

    def _as_it_is(self, obj: Any) -> Any:
        index = self._indices.setdefault(id(obj), len(self.kept))
        if index == len(self.kept):
            self.kept.append(obj)
        return _kept, (index,)


class _Kept:
    """Wraps a dictionary to be shared: picklers don't call ``reducer_override`` for plain dictionaries."""

    def __init__(self, value: dict[str, Any]):
        self.value = value


def _kept(index: int) -> Any:
    """Mark an object that the unpickler takes from its list; never called itself."""
    raise pickle.UnpicklingError("pickles of copying.Pickler must be loaded with copying.loads")


def _function(code: types.CodeType, its_globals: dict[str, Any], name: str, n_cells: int) -> types.FunctionType:
    return types.FunctionType(code, its_globals, name, None, tuple(types.CellType() for _ in range(n_cells)))


def _set_up(function: Any, state: tuple[Any, ...]) -> None:
    function.__defaults__, function.__kwdefaults__, attributes, function.__qualname__, cells = state
    function.__dict__.update(attributes)
    for cell, contents in zip(function.__closure__, cells, strict=True):
        if contents:
            (cell.cell_contents,) = contents


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, kept: Sequence[Any]):
        super().__init__(file)
        self._kept = kept

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (_kept.__module__, _kept.__name__):
            return self._kept.__getitem__
        return super().find_class(module, name)


def loads(pickled: bytes, kept: Sequence[Any]) -> Any:
    """
    Load a pickle of this process.

    :param pickled: bytes that a :class:`Pickler` of this process wrote
    :param kept: its ``kept`` objects
    :return: a copy of the pickled object
    """
    return _Unpickler(io.BytesIO(pickled), kept).load()


class _UnpicklerOfOthers(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == cloudpickle.cloudpickle.__name__:
            if name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return _own_class
            if name == "_class_setstate":
                return _left_alone
        return super().find_class(module, name)


def _own_class(*made_of: Any) -> Any:
    """Return the class of this process that was pickled by value."""
    return cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[made_of[-2]]


def _left_alone(kind: type, state: Any) -> type:
    return kind


def loads_of_others(pickled: bytes) -> Any:
    """
    Load a pickle that this process has made for another one with cloudpickle.

    :param pickled: the pickle
    :return: what another process gets, but with the classes of this process, unchanged, where they are pickled by value
    """
    return _UnpicklerOfOthers(io.BytesIO(pickled)).load()


def dumps(obj: Any) -> tuple[bytes, list[Any]]:
    """
    Pickle an object for this process.

    :param obj: any object that can be pickled
    :return: arguments of :func:`loads`
    """
    buffer = io.BytesIO()
    pickler = Pickler(buffer)
    pickler.dump(obj)
    return buffer.getvalue(), pickler.kept


def copy(obj: Any) -> Any:
    """
    Copy an object within this process.

    :param obj: any object that can be pickled
    :return: the copy
    """
    return loads(*dumps(obj))

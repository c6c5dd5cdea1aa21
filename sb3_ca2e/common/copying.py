"""
Copies within one process: objects are copied, and classes, functions and modules are the same.

``cloudpickle.loads`` is made for another process. In the process that pickled a class of a script, it takes the class
for the one it knows, and writes all of its methods anew, with globals of their own.
"""

import io
import pickle
import types
from collections.abc import Sequence
from typing import Any

import cloudpickle


class Pickler(cloudpickle.Pickler):
    """
    Pickles for :func:`loads`.

    :param file: where to
    """

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        #: what is the same in a copy
        self.kept: list[Any] = []
        self._indices: dict[int, int] = {}

    def reducer_override(self, obj: Any) -> Any:
        """
        :param obj: anything that is to be pickled, but plain data
        :return: as of ``__reduce__``: functions hold copies of what they hold, and see the globals that they saw
        """
        if obj is _kept:
            return NotImplemented  # pickled by its name, which is how an unpickler knows what is the same
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
    """Stands for a dictionary, which a pickler does not ask about."""

    def __init__(self, value: dict[str, Any]):
        self.value = value


def _kept(index: int) -> Any:
    """Stands for what an unpickler has been given."""
    raise pickle.UnpicklingError("what was pickled by copying.Pickler is loaded by copying.loads")


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
    :param pickled: by a :class:`Pickler` of this process
    :param kept: by the same
    :return: a copy
    """
    return _Unpickler(io.BytesIO(pickled), kept).load()


def copy(obj: Any) -> Any:
    """
    :param obj: anything that can be pickled
    :return: a copy
    """
    buffer = io.BytesIO()
    pickler = Pickler(buffer)
    pickler.dump(obj)
    return loads(buffer.getvalue(), pickler.kept)

"""
Copies within one process: objects are copied, and classes, functions and modules are the same.

``cloudpickle.loads`` is made for another process. In the process that pickled a class of a script, it takes the class
for the one it knows, and writes all of its methods anew, with globals of their own.
"""

import io
import pickle
import types
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

    def persistent_id(self, obj: Any) -> int | None:
        """
        :param obj: anything that is to be pickled
        :return: its index in :attr:`kept`, None if it is to be copied
        """
        is_kept = isinstance(obj, type | types.ModuleType | types.CodeType)
        if is_kept or (type(obj) is types.FunctionType and obj.__closure__ is None):
            self._keep(obj)
        return self._indices.get(id(obj))

    def _keep(self, obj: Any) -> None:
        if id(obj) not in self._indices:
            self._indices[id(obj)] = len(self.kept)
            self.kept.append(obj)

    def reducer_override(self, obj: Any) -> Any:
        """
        :param obj: anything that is to be pickled
        :return: as of ``__reduce__``: functions hold copies of what they hold, and see the globals that they saw
        """
        if type(obj) is not types.FunctionType:
            return super().reducer_override(obj)
        self._keep(obj.__globals__)
        cells: list[tuple[Any, ...]] = []
        for cell in obj.__closure__ or ():
            try:
                cells.append((cell.cell_contents,))
            except ValueError:  # it is empty
                cells.append(())
        state = obj.__defaults__, obj.__kwdefaults__, obj.__dict__, obj.__qualname__, cells
        return _function, (obj.__code__, obj.__globals__, obj.__name__, len(cells)), state, None, None, _set_up


def _function(code: types.CodeType, its_globals: dict[str, Any], name: str, n_cells: int) -> types.FunctionType:
    return types.FunctionType(code, its_globals, name, None, tuple(types.CellType() for _ in range(n_cells)))


def _set_up(function: Any, state: tuple[Any, ...]) -> None:
    function.__defaults__, function.__kwdefaults__, attributes, function.__qualname__, cells = state
    function.__dict__.update(attributes)
    for cell, contents in zip(function.__closure__, cells, strict=True):
        if contents:
            (cell.cell_contents,) = contents


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, kept: list[Any]):
        super().__init__(file)
        self._kept = kept

    def persistent_load(self, pid: int) -> Any:
        return self._kept[pid]


def loads(pickled: bytes, kept: list[Any]) -> Any:
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

"""
Sharing inside an environment: two names of one object, two views of one memory.

Pickling keeps the first, unless an environment makes its parts anew (``EzPickle``), and loses the second: NumPy pickles
each array with its own memory.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th


@dataclass(frozen=True)
class Alias:
    """
    An object of the copy that has a second name.

    :param path: path of the other name
    """

    path: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class View:
    """
    An array that is a view of another array's memory.

    :param root: array that owns the memory; pickled with the environment, it becomes the copy's
    :param offset: offset of the first element in bytes
    :param shape: shape of the view
    :param strides: strides in bytes
    :param dtype: dtype of the view
    """

    root: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, array: np.ndarray) -> "View":
        """
        Describe a view.

        :param array: a view
        :return: its description
        """
        root = root_of(array)
        return cls(root, array.ctypes.data - root.ctypes.data, array.shape, array.strides, array.dtype)

    def made(self) -> np.ndarray:
        """
        Create the view.

        :return: the view
        :raises ValueError: if the memory is not contiguous, or holds objects
        """
        whole = self.root if self.root.flags.c_contiguous else self.root.T
        if not whole.flags.c_contiguous or whole.dtype.hasobject:
            raise ValueError("it shares memory with an array that is not contiguous, or that holds objects")
        memory = whole.reshape(-1).view(np.uint8)
        return np.ndarray(self.shape, self.dtype, memory, self.offset, self.strides)


@dataclass(frozen=True)
class Shared:
    """
    A tensor that shares memory with another tensor or an array; this can't be restored.

    :param other: path of the other tensor or array
    """

    other: tuple[tuple[str, Any], ...]

    def made(self) -> Any:
        """
        Refuse: shared tensor memory can't be restored.

        :raises ValueError: always
        """
        other = ".".join(str(name) for _, name in self.other)
        raise ValueError(f"it shares its memory with {other}, but in a copy it does not")


def lost_storages(held: list[tuple[Any, Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """
    Find tensors that share memory in the original but not in the copy.

    :param held: paths of tensors and arrays, with the original's and the copy's values
    :return: paths of these tensors, and what each shares memory with
    """
    groups = defaultdict(list)
    for path, ours, theirs in held:
        if type(theirs) is type(ours) and (place := _memory(ours)):
            groups[place].append((path, ours, theirs))
    for members in groups.values():
        first, *others = members
        for path, ours, theirs in others:
            is_tensor = isinstance(ours, th.Tensor) or isinstance(first[1], th.Tensor)
            if is_tensor and _memory(theirs) != _memory(first[2]):
                yield path, Shared(first[0])


def _memory(held: Any) -> int:
    """Return the address of the memory of an array, or of a tensor on the CPU; 0 if it has none."""
    if isinstance(held, np.ndarray):
        return root_of(held).ctypes.data if held.size else 0
    return int(held.untyped_storage().data_ptr()) if held.device.type == "cpu" and held.layout is th.strided else 0


def root_of(array: np.ndarray) -> np.ndarray:
    """
    Return the array that owns the memory of an array.

    :param array: an array
    :return: the owner, ``array`` itself if it is not a view
    """
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def is_foreign(array: np.ndarray) -> bool:
    """
    Whether an array is a writable view of memory outside NumPy; a read-only file may be copied.

    :param array: an array
    :return: True for such a view
    """
    base: Any = root_of(array).base
    while isinstance(base, memoryview):
        base = base.obj
    return array.flags.writeable and not isinstance(base, type(None) | bytes | bytearray)  # bytes: unpickled arrays


def lost_views(arrays: list[tuple[Any, np.ndarray, Any]]) -> Iterator[tuple[Any, Any]]:
    """
    Find arrays that share memory in the original but not in the copy.

    :param arrays: paths of arrays, with the original's and the copy's values
    :return: paths of these arrays, and what belongs there
    """
    groups = defaultdict(list)
    for path, ours, theirs in arrays:
        if isinstance(theirs, np.ndarray):
            groups[id(root_of(ours))].append((path, ours, theirs))
    for members in groups.values():
        if any(is_foreign(ours) for _, ours, _ in members):
            yield from ((path, ours) for path, ours, theirs in members if not is_foreign(theirs))
        elif len(members) > 1 and len({id(root_of(theirs)) for _, _, theirs in members}) > 1:
            yield from ((path, View.of(ours)) for path, ours, _ in members if root_of(ours) is not ours)

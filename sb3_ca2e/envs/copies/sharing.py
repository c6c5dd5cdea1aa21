"""
What is shared inside an environment: two names of one object, two views of one memory.

Pickling keeps the first, unless an environment makes its parts anew (``EzPickle``), and loses the second: NumPy pickles
each array with memory of its own.
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
    An object of the copy that has another name too.

    :param path: the other name
    """

    path: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class View:
    """
    An array that lies in the memory of another one.

    :param root: the array that owns the memory; pickled with the environment, it is the copy's
    :param offset: bytes from there to the first element
    :param shape: of the view
    :param strides: bytes
    :param dtype: of the view
    """

    root: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, array: np.ndarray) -> "View":
        """
        :param array: a view
        :return: how it is made of the array that owns the memory
        """
        root = root_of(array)
        return cls(root, _address(array) - _address(root), array.shape, array.strides, array.dtype)

    def made(self) -> np.ndarray:
        """
        :return: the view
        :raises ValueError: if the memory is not in one piece, or holds objects
        """
        whole = self.root if self.root.flags.c_contiguous else self.root.T
        if not whole.flags.c_contiguous or whole.dtype.hasobject:
            raise ValueError("an array that is not in one piece, or of objects, is shared")
        memory = whole.reshape(-1).view(np.uint8)
        return np.ndarray(self.shape, self.dtype, memory, self.offset, self.strides)


@dataclass(frozen=True)
class Shared:
    """
    A tensor that lies in the memory of another one, or of an array, which can't be had again.

    :param other: path of the other
    """

    other: tuple[tuple[str, Any], ...]

    def made(self) -> Any:
        """
        :raises ValueError: always
        """
        other = ".".join(str(name) for _, name in self.other)
        raise ValueError(f"it shares its memory with {other}, and in a copy it does not")


def lost_storages(held: list[tuple[Any, Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """
    :param held: tensors and arrays of the original and of the copy, with their paths
    :return: paths of tensors that share memory with others, as their counterparts do not, and with which
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
    """Where the memory of an array, or of a tensor on the CPU, begins; 0 if it has none."""
    if isinstance(held, np.ndarray):
        return _address(root_of(held)) if held.size else 0
    return int(held.untyped_storage().data_ptr()) if held.device.type == "cpu" and held.layout is th.strided else 0


def root_of(array: np.ndarray) -> np.ndarray:
    """
    :param array: any
    :return: the array that it is a view of, itself if it is none
    """
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def is_foreign(array: np.ndarray) -> bool:
    """
    :param array: any
    :return: whether it shows memory that is not NumPy's, and can write into it; a file that is only read may be copied
    """
    base: Any = root_of(array).base
    while isinstance(base, memoryview):
        base = base.obj
    return array.flags.writeable and not isinstance(base, type(None) | bytes | bytearray)  # as of pickled arrays


def lost_views(arrays: list[tuple[Any, np.ndarray, Any]]) -> Iterator[tuple[Any, Any]]:
    """
    :param arrays: of the original and of the copy, with their paths
    :return: paths of those that share memory with others, as their counterparts do not, and what belongs there
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


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address

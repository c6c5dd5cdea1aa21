"""The tensors of a module's ``state_dict``, whose shapes are known before they are read."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_ca2e.priors.reader.archive import Window
from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickle_values import Call, describe
from sb3_ca2e.priors.reader.spaces import ORDERED_DICT
from sb3_ca2e.priors.reader.torch_files import REBUILD_PARAMETER, REBUILD_TENSOR, Storage, open_torch_file

#: Most tensors of one module
MAX_TENSORS = 1024


@dataclass(frozen=True)
class SavedTensor:
    """
    A tensor in a file.

    :param storage: storage that it is a view of
    :param shape: its shape
    :param stride: strides in elements
    :param offset: offset in the storage, in elements
    :param read_storage: function that reads a storage
    """

    storage: Storage
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    read_storage: Callable[[Storage], th.Tensor]

    def read(self) -> th.Tensor:
        """
        Read the tensor.

        :return: the tensor; it shares memory with other tensors of its storage
        :raises Unreadable: if the file is damaged
        """
        return self.read_storage(self.storage).as_strided(self.shape, self.stride, self.offset)


def open_state_dict(file: Window, what: str) -> dict[str, SavedTensor]:
    """
    Open a file with a module's ``state_dict``.

    :param file: file written by ``torch.save``
    :param what: name of the file, for messages
    :return: tensors by name, to be read while the file is open
    :raises Unreadable: if it contains anything else, or is damaged
    """
    saved = open_torch_file(file, what)
    is_ordered = isinstance(saved.value, Call) and saved.value.calls(ORDERED_DICT) and not saved.value.args
    tensors = saved.value.pairs if is_ordered else saved.value
    if not isinstance(tensors, dict):
        raise Unreadable(f"{what} holds {describe(tensors)}, not the tensors of a module")
    if len(tensors) > MAX_TENSORS:
        raise Unreadable(f"{what} holds {len(tensors)} tensors, over {MAX_TENSORS}")
    if not all(isinstance(name, str) for name in tensors):
        raise Unreadable(f"{what} has a tensor whose name is not a string")
    return {name: _tensor_of(tensor, saved.read, f"{name[:80]} in {what}") for name, tensor in tensors.items()}


def _tensor_of(value: Any, read_storage: Callable[[Storage], th.Tensor], what: str) -> SavedTensor:
    if isinstance(value, Call) and value.calls(REBUILD_PARAMETER):
        value = value.args[0]
    if not (isinstance(value, Call) and value.calls(REBUILD_TENSOR)):
        raise Unreadable(f"{what} is {describe(value)}, not a tensor")
    storage = Storage.of(value.args[0], what)
    offset, shape, stride = value.args[1:4]
    if type(offset) is not int or not (_is_extent(shape) and _is_extent(stride)) or len(shape) != len(stride):
        raise Unreadable(f"{what} has no shape")
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    # A tensor with more elements than its storage repeats some: no module saves it, and it could fill the memory
    if offset < 0 or math.prod(shape) > storage.n_entries or (0 not in shape and last >= storage.n_entries):
        raise Unreadable(f"{what} reaches beyond its storage")
    return SavedTensor(storage, shape, stride, offset, read_storage)


def _is_extent(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 8 and all(type(each) is int and each >= 0 for each in value)

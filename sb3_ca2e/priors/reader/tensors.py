"""The tensors of a module's ``state_dict``, from their storages in torch's files."""

import math
from typing import Any

import torch as th

from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickles import Call, describe
from sb3_ca2e.priors.reader.spaces import ORDERED_DICT
from sb3_ca2e.priors.reader.torch_files import REBUILD_PARAMETER, REBUILD_TENSOR, read_torch_file, storage_key

#: Tensors of one module
MAX_TENSORS = 4096


def read_state_dict(data: bytes, what: str) -> dict[str, th.Tensor]:
    """
    :param data: a file of ``torch.save`` with a module's ``state_dict``
    :param what: the file's name, for messages
    :return: the tensors by name; those that share their storage in the file share it here
    :raises Unreadable: if anything else is in it, or it is damaged
    """
    value, storages = read_torch_file(data, what)
    if not (isinstance(value, Call) and value.calls(ORDERED_DICT)) or value.args or len(value.pairs) > MAX_TENSORS:
        raise Unreadable(f"{what} holds {describe(value)}, not the tensors of a module")
    if not all(isinstance(name, str) for name in value.pairs):
        raise Unreadable(f"{what} has a tensor whose name is no text")
    return {name: _tensor_of(tensor, storages, f"{name[:80]} in {what}") for name, tensor in value.pairs.items()}


def _tensor_of(value: Any, storages: dict[str, th.Tensor], what: str) -> th.Tensor:
    if isinstance(value, Call) and value.calls(REBUILD_PARAMETER):
        value = value.args[0]
    if not (isinstance(value, Call) and value.calls(REBUILD_TENSOR)):
        raise Unreadable(f"{what} is {describe(value)}, no tensor")
    storage, offset, size, stride = value.args[:4]
    key, _, _ = storage_key(storage, what)
    flat = storages[key]
    if type(offset) is not int or not (_is_extent(size) and _is_extent(stride)) or len(size) != len(stride):
        raise Unreadable(f"{what} has no shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    # A tensor of more entries than its storage repeats some: no module saves such a one, and it could fill the memory
    if offset < 0 or math.prod(size) > flat.numel() or (0 not in size and last >= flat.numel()):
        raise Unreadable(f"{what} reaches beyond its storage")
    return flat.as_strided(size, stride, offset)


def _is_extent(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 8 and all(type(each) is int and each >= 0 for each in value)

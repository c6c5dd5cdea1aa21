"""
Files of ``torch.save``, in the zip format and in the format before torch 1.6, decoded without unpickling.

The shapes of a ``state_dict``'s tensors are known before these are read.
"""

import functools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_ca2e.priors.reader.archive import MIB, Archive, Window
from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickles import Call, Persistent, Symbol, decode, decode_first, describe
from sb3_ca2e.priors.reader.spaces import ORDERED_DICT

REBUILD_TENSOR = Symbol("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = Symbol("torch._utils", "_rebuild_parameter")

#: dtypes by the names of their storages; most have a name in torch that is the same in lower case
_DTYPES = ("Half", "BFloat16", "Float", "Double", "Bool", "Short", "Int", "Long")
_NAMED = {"Byte": th.uint8, "Char": th.int8, **{name: getattr(th, name.lower()) for name in _DTYPES}}
STORAGES = {Symbol("torch", f"{name}Storage"): dtype for name, dtype in _NAMED.items()}

#: Symbols allowed in files of tensors
SYMBOLS = frozenset(STORAGES) | {REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT}

#: Most members of a file, and so roughly of its tensors
MAX_MEMBERS = 4096

#: Most tensors of one module
MAX_TENSORS = 1024

#: Most bytes of a pickle without its tensors
MAX_PICKLE = 4 * MIB

#: Most bytes of a file in the old format, which is read at once; no large agents were saved in it
MAX_LEGACY = 64 * MIB

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

_MARKS = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")


@dataclass(frozen=True)
class Storage:
    """
    Storage of one or more tensors of a file.

    :param key: its name in the file
    :param dtype: dtype of its elements
    :param n_entries: number of elements
    """

    key: str
    dtype: th.dtype
    n_entries: int

    @property
    def n_bytes(self) -> int:
        """Size in bytes."""
        return self.n_entries * self.dtype.itemsize

    @classmethod
    def of(cls, value: Any, what: str) -> "Storage":
        """
        Interpret a decoded storage.

        :param value: decoded value
        :param what: name of the file, for messages
        :return: the storage
        :raises Unreadable: if it is not a storage
        """
        pid = value.pid if isinstance(value, Persistent) else None
        if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and pid[5:] in ((), (None,)):
            _, kind, key, _, n = pid[:5]
            if isinstance(kind, Symbol) and kind in STORAGES and isinstance(key, str) and type(n) is int and n >= 0:
                return cls(key, STORAGES[kind], n)
        raise Unreadable(f"{what} has {describe(value)} where a tensor's storage is expected")


@dataclass(frozen=True)
class TorchFile:
    """
    The content of a file of ``torch.save``.

    :param value: decoded value
    :param read: function that reads a storage as a flat tensor
    """

    value: Any
    read: Callable[[Storage], th.Tensor]


def open_torch_file(file: Window, what: str) -> TorchFile:
    """
    Open a file of ``torch.save``.

    :param file: the file
    :param what: name of the file, for messages
    :return: its content; storages are read on demand, while the file is open
    :raises Unreadable: if it contains anything but tensors and plain values, or is damaged
    """
    start = file.read(2)
    return _open_zip(file, what) if start == b"PK" else _open_legacy(file, what)


def _open_zip(file: Window, what: str) -> TorchFile:
    archive = Archive(file, what, MAX_MEMBERS, _expected)
    folders = {name.split("/", 1)[0] for name in archive.names}
    if len(folders) != 1:
        raise Unreadable(f"{what} has members in {len(folders)} folders instead of one")
    folder = folders.pop()
    byteorder = f"{folder}/byteorder"
    if byteorder in archive.names and archive.read(byteorder, limit=16) != b"little":
        raise Unreadable(f"{what} was written by a machine of the other byte order")
    pickle = decode(archive.read(f"{folder}/data.pkl", MAX_PICKLE), SYMBOLS, what)
    for storage in {Storage.of(each, what) for each in pickle.outside}:
        if archive.size(f"{folder}/data/{storage.key}") != storage.n_bytes:
            raise Unreadable(f"the storage {storage.key[:80]} of {what} has another size than its tensors need")

    @functools.cache
    def read(storage: Storage) -> th.Tensor:
        return _flat(archive.read(f"{folder}/data/{storage.key}", storage.n_bytes), storage.dtype)

    return TorchFile(pickle.value, read)


def _expected(name: str) -> bool:
    folder, _, member = name.partition("/")
    is_storage = member.startswith("data/") and member[len("data/") :].isalnum()
    return folder not in ("", ".", "..") and "\\" not in folder and (is_storage or member in _MARKS)


def _open_legacy(file: Window, what: str) -> TorchFile:
    """
    Open the old format: five pickles (magic number, version, sizes of C types, value, keys of storages), then storages.
    """
    if file.size > MAX_LEGACY:
        raise Unreadable(f"{what} has {file.size} bytes in torch's early format, over {MAX_LEGACY}")
    file.seek(0)
    data = b"".join(iter(lambda: file.read(MIB), b""))
    pickles, end = [], 0
    for _ in range(5):
        pickles.append(decode_first(data, SYMBOLS, what, end))
        end = pickles[-1].end
        if pickles[0].value != _LEGACY_MAGIC:
            raise Unreadable(f"{what} is not a file of torch.save")
    _, version, system, value, keys = (pickle.value for pickle in pickles)
    little = isinstance(system, dict) and system.get("little_endian") is True
    if version != _LEGACY_VERSION or not little or not isinstance(keys, list):
        raise Unreadable(f"{what} has a format that torch did not write on a machine of this byte order")

    named = {storage.key: storage for storage in (Storage.of(each, what) for each in pickles[3].outside)}
    flat: dict[Storage, th.Tensor] = {}
    for key in keys:
        storage = named.pop(key, None)
        if storage is None or end + 8 > len(data) or struct.unpack_from("<q", data, end) != (storage.n_entries,):
            raise Unreadable(f"the storage {describe(key)} of {what} has no tensor or not the size of its tensors")
        start, end = end + 8, end + 8 + storage.n_bytes
        if end > len(data):
            raise Unreadable(f"{what} ends within the storage {describe(key)}")
        flat[storage] = _flat(data[start:end], storage.dtype)
    if named or end != len(data):
        raise Unreadable(f"{what} has other storages than its tensors need")
    return TorchFile(value, flat.__getitem__)


def _flat(data: bytes, dtype: th.dtype) -> th.Tensor:
    if not data:
        return th.empty(0, dtype=dtype)
    return th.frombuffer(bytearray(data), dtype=dtype)  # torch warns of read-only bytes


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

"""Files of ``torch.save``, in the zip format and in the one before torch 1.6: decoded, not unpickled."""

import struct
from typing import Any

import torch as th

from sb3_ca2e.priors.reader.archive import nested_archive
from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickles import Persistent, Symbol, decode_first, describe
from sb3_ca2e.priors.reader.spaces import ORDERED_DICT

REBUILD_TENSOR = Symbol("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = Symbol("torch._utils", "_rebuild_parameter")

STORAGES = {
    Symbol("torch", f"{name}Storage"): dtype
    for name, dtype in {
        "Half": th.float16,
        "BFloat16": th.bfloat16,
        "Float": th.float32,
        "Double": th.float64,
        "Bool": th.bool,
        "Byte": th.uint8,
        "Char": th.int8,
        "Short": th.int16,
        "Int": th.int32,
        "Long": th.int64,
    }.items()
}

#: Symbols that stand in files of tensors
SYMBOLS = frozenset(STORAGES) | {REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT}

#: Members of a file, and so nearly its tensors
MAX_MEMBERS = 4096

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


def read_torch_file(data: bytes, what: str) -> tuple[Any, dict[str, th.Tensor]]:
    """
    :param data: a file of ``torch.save`` with tensors and plain values
    :param what: the file's name, for messages
    :return: the decoded value, and the flat storages by the keys that its :class:`Persistent` values name
    :raises Unreadable: if anything else is in it, or it is damaged
    """
    return _read_zip(data, what) if data.startswith(b"PK") else _read_legacy(data, what)


def storage_key(value: Any, what: str) -> tuple[str, th.dtype, int]:
    """
    :param value: what stands where a tensor's storage belongs
    :param what: the file's name, for messages
    :return: the storage's key, dtype and number of entries
    :raises Unreadable: if it is no storage
    """
    pid = value.pid if isinstance(value, Persistent) else None
    if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and pid[5:] in ((), (None,)):
        _, kind, key, _, n_entries = pid[:5]
        if isinstance(kind, Symbol) and kind in STORAGES and isinstance(key, str) and type(n_entries) is int:
            return key, STORAGES[kind], n_entries
    raise Unreadable(f"{what} has {describe(value)} where a tensor's storage belongs")


def _read_zip(data: bytes, what: str) -> tuple[Any, dict[str, th.Tensor]]:
    with nested_archive(data, what, MAX_MEMBERS, _expected) as archive:
        folders = {name.split("/", 1)[0] for name in archive.names}
        if len(folders) != 1:
            raise Unreadable(f"{what} has members in {len(folders)} folders instead of one")
        folder = folders.pop()
        byteorder = f"{folder}/byteorder"
        if byteorder in archive.names and archive.read(byteorder, limit=16) != b"little":
            raise Unreadable(f"{what} was written by a machine of the other byte order")
        pickle_data = archive.read(f"{folder}/data.pkl")
        pickle = decode_first(pickle_data, SYMBOLS, what)
        if pickle.end != len(pickle_data):
            raise Unreadable(f"{what} goes on after its pickle's end")
        storages: dict[str, th.Tensor] = {}
        for key, dtype, n_entries in {storage_key(each, what) for each in pickle.outside}:
            storages[key] = _flat(archive.read(f"{folder}/data/{key}"), dtype, n_entries, what)
    return pickle.value, storages


def _expected(name: str) -> bool:
    folder, _, member = name.partition("/")
    marks = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")
    is_storage = member.startswith("data/") and member[len("data/") :].isalnum()
    return folder not in ("", ".", "..") and "\\" not in folder and (is_storage or member in marks)


def _read_legacy(data: bytes, what: str) -> tuple[Any, dict[str, th.Tensor]]:
    """Five pickles (magic number, version, sizes of C's types, the value, keys of storages), then the storages."""
    pickles, end = [], 0
    for _ in range(5):
        pickles.append(decode_first(data, SYMBOLS, what, end))
        end = pickles[-1].end
        if len(pickles) == 1 and pickles[0].value != _LEGACY_MAGIC:
            raise Unreadable(f"{what} is no file of torch.save")
    _, version, system, value, keys = (pickle.value for pickle in pickles)
    little = isinstance(system, dict) and system.get("little_endian") is True
    if version != _LEGACY_VERSION or not little or not isinstance(keys, list):
        raise Unreadable(f"{what} is in no format that torch wrote on a machine of this byte order")

    kinds = {key: (dtype, n) for key, dtype, n in (storage_key(each, what) for each in pickles[3].outside)}
    storages: dict[str, th.Tensor] = {}
    for key in keys:
        if key not in kinds or key in storages:
            raise Unreadable(f"{what} has a storage {describe(key)} that no tensor names, or twice")
        dtype, n_entries = kinds[key]
        (written,) = struct.unpack_from("<q", data, end)
        if written != n_entries:
            raise Unreadable(f"the storage {describe(key)} of {what} has {written} entries, not {describe(n_entries)}")
        start, end = end + 8, end + 8 + n_entries * dtype.itemsize
        storages[key] = _flat(data[start:end], dtype, n_entries, what)
    if end != len(data):
        raise Unreadable(f"{what} goes on after its last storage")
    return value, storages


def _flat(data: bytes, dtype: th.dtype, n_entries: int, what: str) -> th.Tensor:
    if len(data) != n_entries * dtype.itemsize:
        raise Unreadable(f"a storage of {what} has {len(data)} bytes, not {describe(n_entries * dtype.itemsize)}")
    if not data:
        return th.empty(0, dtype=dtype)
    return th.frombuffer(bytearray(data), dtype=dtype)  # bytes could not be written to, which torch warns of

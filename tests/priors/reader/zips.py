"""Zips of models taken apart, and put together again in ways that no library would."""

import base64
import io
import json
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable

TORCH_FOLDER = "archive"


def members_of(path: pathlib.Path | io.BytesIO) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_pickle(members: dict[str, bytes], attribute: str, data: bytes) -> dict[str, bytes]:
    """Put a pickle in an attribute of the model."""
    attributes = json.loads(members["data"])
    attributes[attribute] = {":type:": "<class 'dict'>", ":serialized:": base64.b64encode(data).decode()}
    return members | {"data": json.dumps(attributes).encode()}


def pickle_in(members: dict[str, bytes], attribute: str) -> bytes:
    return base64.b64decode(json.loads(members["data"])[attribute][":serialized:"])


def with_attributes(members: dict[str, bytes], **values: object) -> dict[str, bytes]:
    return members | {"data": json.dumps(json.loads(members["data"]) | values).encode()}


def torch_file(members: dict[str, bytes], name: str, edit: Callable[[dict[str, bytes]], dict[str, bytes]]) -> bytes:
    """Edit the zip of torch's within a model's; names of its members are given without their folder."""
    inner = {path.partition("/")[2]: data for path, data in members_of(io.BytesIO(members[name])).items()}
    return zip_of({f"{TORCH_FOLDER}/{path}": data for path, data in edit(inner).items()})


def with_torch_pickle(members: dict[str, bytes], name: str, data: bytes) -> dict[str, bytes]:
    return members | {name: torch_file(members, name, lambda inner: inner | {"data.pkl": data})}


def tensors_pickled(
    entries: dict[str, tuple[str, int, int, tuple[int, ...], tuple[int, ...]]], kind: str = "FloatStorage"
) -> bytes:
    """
    The pickle of a state dictionary.

    :param entries: storage, its entries, offset, shape and strides of the tensors
    :param kind: class of the storages
    :return: the pickle
    """
    import torch

    class Stored:
        def __init__(self, pid):
            self.pid = pid

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.pid if isinstance(value, Stored) else None

    class Tensor:
        def __init__(self, *arguments):
            self.arguments = arguments

        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, self.arguments

    tensors = {
        name: Tensor(Stored(("storage", getattr(torch, kind), key, "cpu", n)), offset, shape, stride, False, {})
        for name, (key, n, offset, shape, stride) in entries.items()
    }
    Pickler(buffer := io.BytesIO(), 2).dump(tensors)
    return buffer.getvalue()


def patched_directory(data: bytes, member: str, **fields: int) -> bytes:
    """
    Change what a zip's directory claims of a member.

    :param data: the zip
    :param member: name of the member
    :param fields: new values: ``flags``, ``method``, ``packed``, ``size``, ``attributes``, ``offset``
    :return: the zip
    """
    places = {"flags": (8, "<H"), "method": (10, "<H"), "packed": (20, "<I"), "size": (24, "<I")}
    places |= {"attributes": (38, "<I"), "offset": (42, "<I")}
    patched = bytearray(data)
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(member.encode()))
    for field, value in fields.items():
        place, form = places[field]
        struct.pack_into(form, patched, entry + place, value)
    return bytes(patched)

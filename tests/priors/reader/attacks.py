"""Files that mean harm, written by hand."""

import io
import json
import os
import pathlib
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cloudpickle
import opcodes
import torch as th
from opcodes import Calls, before, call, calls, name, text, whole
from zips import (
    members_of,
    patched_directory,
    pickle_in,
    tensors_pickled,
    torch_file,
    with_attributes,
    with_pickle,
    with_torch_pickle,
    zip_of,
)

GIB = 2**30


@dataclass
class Attack:
    """
    A file that means harm.

    :param name: what it does
    :param kind: what it is read as: ``agent``, ``statistics`` or ``config``
    :param write: writes it at a path, given a canary that it makes when executed
    :param executes: whether it makes the canary when it is read by SB3, pickle or YAML themselves
    :param harmless: whether it may be read, as what would be executed in it is not even looked at
    """

    name: str
    kind: str
    write: Callable[[pathlib.Path, pathlib.Path], None]
    executes: bool = False
    harmless: bool = False


def that_execute(agent: pathlib.Path, statistics: pathlib.Path) -> list[Attack]:
    """
    :param agent: an honest DQN agent with vectors for observations
    :param statistics: honest statistics of VecNormalize
    :return: attacks made of them that execute something
    """
    return [*_that_call(members_of(agent), statistics.read_bytes()), *_tags()]


def that_burden(agent: pathlib.Path) -> list[Attack]:
    """
    :param agent: an honest DQN agent with vectors for observations
    :return: attacks made of it that fill the memory, take for ever, reach other files or crash
    """
    members = members_of(agent)
    return [
        *_of_pickles(members),
        *_of_tensors(members),
        *_of_data(members),
        *_of_zips(members),
        *_of_configs(),
    ]


def _writing(data: bytes) -> Callable[[pathlib.Path, pathlib.Path], None]:
    def write(path: pathlib.Path, canary: pathlib.Path) -> None:
        path.write_bytes(data)

    return write


def _agent(title: str, members: dict[str, bytes]) -> Attack:
    return Attack(title, "agent", _writing(zip_of(members)))


def _that_call(members: dict[str, bytes], statistics: bytes) -> Iterator[Attack]:
    """Every way to call in one place, and one way to call in every place."""

    def calling(title, kind, build, harmless=False):
        def write(path, canary):
            pathlib.Path(f"{canary.with_suffix('')}.py").write_text(f"open({str(canary)!r}, 'w')")  # to be imported
            path.write_bytes(build(canary))

        return Attack(title, kind, write, executes=True, harmless=harmless)

    for way in calls(pathlib.Path("canary")):
        yield calling(
            f"{way} in the observation space",
            "agent",
            lambda canary, way=way: zip_of(with_pickle(members, "observation_space", whole(calls(canary)[way]))),
        )
        yield calling(f"{way} as VecNormalize", "statistics", lambda canary, way=way: whole(calls(canary)[way]))
    for attribute in ("policy_class", "policy_kwargs", "action_space"):
        yield calling(
            f"REDUCE as {attribute}",
            "agent",
            lambda canary, attribute=attribute: zip_of(with_pickle(members, attribute, whole(calls(canary)["REDUCE"]))),
        )
    yield calling(
        "a schedule, which is not decoded",
        "agent",
        lambda canary: zip_of(with_pickle(members, "lr_schedule", whole(calls(canary)["REDUCE"]))),
        harmless=True,
    )
    yield calling(
        "a result that is dropped before an honest space",
        "agent",
        lambda canary: zip_of(
            with_pickle(members, "action_space", before(calls(canary)["REDUCE"], pickle_in(members, "action_space")))
        ),
    )
    yield calling(
        "a result that is dropped before honest statistics",
        "statistics",
        lambda canary: before(calls(canary)["REDUCE"], statistics),
    )
    yield calling(
        "a generator of random numbers in an honest space",
        "agent",
        lambda canary: zip_of(with_pickle(members, "action_space", _space_with_generator(members, canary))),
    )
    yield calling(
        "a function for a network's activation",
        "agent",
        lambda canary: zip_of(
            with_pickle(members, "policy_kwargs", cloudpickle.dumps({"activation_fn": _opening(str(canary))}))
        ),
    )
    for file in ("policy.pth", "pytorch_variables.pth", "policy.optimizer.pth"):
        yield calling(
            f"REDUCE in {file}",
            "agent",
            lambda canary, file=file: zip_of(with_torch_pickle(members, file, whole(calls(canary)["REDUCE"]))),
        )
        yield calling(
            f"{file} as a bare pickle",
            "agent",
            lambda canary, file=file: zip_of(members | {file: whole(calls(canary)["REDUCE"])}),
        )
    yield calling(
        "a tensor's hooks",
        "agent",
        lambda canary: zip_of(members | {"policy.pth": _saved(OrderedDict(weight=th.zeros(1), hook=Calls(canary)))}),
    )
    yield calling(
        "a tensor of torch's early format",
        "agent",
        lambda canary: zip_of(
            members | {"policy.pth": _saved(OrderedDict(a=Calls(canary)), _use_new_zipfile_serialization=False)}
        ),
    )
    yield calling(
        "a storage's persistent id",
        "agent",
        lambda canary: zip_of(with_torch_pickle(members, "policy.pth", whole(calls(canary)["REDUCE"] + b"Q"))),
    )


def _space_with_generator(members: dict[str, bytes], canary: pathlib.Path) -> bytes:
    space = pickle.loads(pickle_in(members, "action_space"))
    space._np_random = Calls(canary)
    return pickle.dumps(space)


def _opening(path: str) -> Callable[[], object]:
    return lambda: open(path, "w")


def _saved(value: object, **kwargs: object) -> bytes:
    th.save(value, buffer := io.BytesIO(), **kwargs)
    return buffer.getvalue()


def _of_pickles(members: dict[str, bytes]) -> Iterator[Attack]:
    """Bombs, and names that look like those of spaces."""
    doubling = b"".join(b"(h%ch%cl\x940" % (each, each) for each in range(200))  # a list of the last one twice
    doubled = b"]\x940" + doubling + b"h\xc8"
    bombs = {
        "opcodes without end": b"\x80\x04" + b"N0" * 6_000_000 + b"N.",
        "marks without end": b"\x80\x04" + b"(" * 12_000_000 + b".",
        "depth without end": b"\x80\x04N" + b"\x85" * 12_000_000 + b".",
        "lists that double two hundred times": b"\x80\x04" + doubled + b".",
        "an integer of two megabytes": b"\x80\x04\x8b" + (2**21).to_bytes(4, "little") + b"\x7f" * 2**21 + b".",
        "an integer of a million digits": b"L" + b"9" * 10**6 + b"L\n.",
        "a text of 2**63 bytes": b"\x80\x04\x8d" + (2**63 - 1).to_bytes(8, "little") + b"a.",
        "bytes of 4 GiB": b"\x80\x04B" + b"\xff" * 4 + b"a.",
        "a frame of 2**63 bytes": b"\x80\x04\x95" + (2**63 - 1).to_bytes(8, "little") + b"N.",
        "a place in the memo of 2**31": b"\x80\x04Nr" + (2**31 - 1).to_bytes(4, "little") + b"0.",
        "an array of 2**60 numbers": whole(
            call(
                name("numpy.core.numeric", "_frombuffer"),
                b"C\x00",
                opcodes.pickle_of_dtype("f8"),
                b"\x8a\x08" + (2**60).to_bytes(8, "little") + b"\x85",
                text("C"),
            )
        ),
        "a dtype of a gigabyte": whole(call(name("numpy", "dtype"), text("S1000000000"), b"\x89", b"\x88")),
        "names that look like a space": whole(call(name("gym.spaces.box.Box", "__init__"))),
        "a space of another package": whole(call(name("gym.spaces.boxes", "Box"))),
        "what spaces import": whole(text("gymnasium.spaces.box") + text("np.load") + b"\x93"),
        "environment variables": whole(name("os", "environ") + text("CA2E_CANARY") + text("1") + b"s"),
        "no pickle": b"\x00\x01\x02",
        "nothing": b"",
        "a space of itself": b"\x80\x04]\x94h\x00a.",
    }
    for title, data in bombs.items():
        yield _agent(f"{title} for a space", with_pickle(members, "observation_space", data))
    yield Attack("a pickle of 2 MiB for statistics", "statistics", _writing(b"\x80\x04" + b"N0" * 2**20 + b"N."))


def _of_tensors(members: dict[str, bytes]) -> Iterator[Attack]:
    """Weights that are not there, or far too many."""
    places = {
        "a tensor beyond its storage": ("0", 4, 2, (4,), (1,)),
        "a tensor before its storage": ("0", 4, -2, (4,), (1,)),
        "strides that lead out": ("0", 4, 0, (2, 2), (3, 1)),
        "strides that lead back": ("0", 4, 3, (4,), (-1,)),
        "a storage repeated 2**40 times": ("0", 1, 0, (2**20, 2**20), (0, 0)),
        "a storage of 2**60 numbers": ("0", 2**60, 0, (2**60,), (1,)),
        "a storage of -1 numbers": ("0", -1, 0, (1,), (1,)),
        "a storage that is missing": ("99", 4, 0, (4,), (1,)),
        "a storage in another folder": ("../../data", 4, 0, (4,), (1,)),
    }
    for title, place in places.items():
        pickled = tensors_pickled({"q_net.q_net.0.weight": place})
        edited = torch_file(members, "policy.pth", lambda inner, data=pickled: {"data.pkl": data, "data/0": bytes(16)})
        yield _agent(title, members | {"policy.pth": edited})
    many = tensors_pickled({f"layer{i}": ("0", 4, 0, (4,), (1,)) for i in range(5000)})
    edited = torch_file(members, "policy.pth", lambda inner: {"data.pkl": many, "data/0": bytes(16)})
    yield _agent("five thousand tensors", members | {"policy.pth": edited})
    edited = torch_file(members, "policy.pth", lambda inner: inner | {"byteorder": b"big"})
    yield _agent("the other byte order", members | {"policy.pth": edited})
    for title, unexpected in {"code of TorchScript": "code/__torch__.py", "constants": "constants.pkl"}.items():
        edited = torch_file(members, "policy.pth", lambda inner, path=unexpected: inner | {path: b"N."})
        yield _agent(f"{title} beside the weights", members | {"policy.pth": edited})
    yield Attack("480 MiB of weights that no network needs", "agent", _sparse_weights(members))


class _SparseFile(io.FileIO):
    """Zeros take no place on the disk."""

    def write(self, data):
        if not any(bytes(data[:64])) and bytes(data).count(0) == len(data):
            self.seek(len(data), io.SEEK_CUR)
            return len(data)
        return super().write(data)


def _sparse_weights(members: dict[str, bytes]) -> Callable[[pathlib.Path, pathlib.Path], None]:
    n_chunks, chunk = 480, bytes(2**20)
    n = n_chunks * len(chunk) // 4

    def write(path, canary):
        with _SparseFile(path, "w") as on_disk, zipfile.ZipFile(on_disk, "w") as archive:
            for member, data in members.items():
                if member != "policy.pth":
                    archive.writestr(member, data)
            with archive.open("policy.pth", "w", force_zip64=True) as file, zipfile.ZipFile(file, "w") as inner:
                inner.writestr("archive/data.pkl", tensors_pickled({"q_net.q_net.0.weight": ("0", n, 0, (n,), (1,))}))
                with inner.open("archive/data/0", "w", force_zip64=True) as storage:
                    for _ in range(n_chunks):
                        storage.write(chunk)

    return write


def _of_data(members: dict[str, bytes]) -> Iterator[Attack]:
    """The JSON, and networks that no memory holds."""
    texts = {
        "JSON of a hundred thousand brackets": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "JSON of five million empty lists": b'{"a":[' + b"[]," * 5_000_000 + b"[]]}",
        "JSON with a number of a million digits": b'{"a":' + b"9" * 10**6 + b"}",
        "JSON that is none": b"{",
        "JSON with a key twice": members["data"][:-1] + b', "policy_class": {}}',
        "JSON that is a list": b"[]",
        "JSON that is no text": b'{"a": "\xff\xfe"}',
        "data of 17 MiB": b'{"a": "' + b"a" * (17 * 2**20) + b'"}',
    }
    for title, data in texts.items():
        yield _agent(title, members | {"data": data})
    networks = {
        "a layer of 2**19 units": {"net_arch": [2**19]},
        "two layers of 2**19 units": {"net_arch": [2**19, 2**19]},
        "a layer of 10**30 units": {"net_arch": [10**30]},
        "a hundred thousand layers": {"net_arch": [1] * 100_000},
        "a layer of -1 units": {"net_arch": [-1]},
        "layers in layers": {"net_arch": [[[[64]]]]},
        "an argument that SB3 does not know": {"path": "/etc/passwd"},
        "a class as a text": {"features_extractor_class": "os.system"},
        "arguments of an extractor that it does not know": {"features_extractor_kwargs": {"pretrained": "http://a/b"}},
    }
    for title, kwargs in networks.items():
        yield _agent(title, with_attributes(members, policy_kwargs=kwargs))
    yield _agent("no policy", {name: data for name, data in members.items() if name != "policy.pth"})
    yield _agent("no spaces", with_attributes(members, observation_space=None))
    yield _agent("a policy class as text", with_attributes(members, policy_class="os.system"))
    yield _agent(
        "a policy class that is none",
        with_pickle(members, "policy_class", whole(name("stable_baselines3.dqn.policies", "QNetwork"))),
    )
    broken = json.loads(members["data"]) | {"action_space": {":serialized:": "%%%"}}
    yield _agent("base64 that is none", members | {"data": json.dumps(broken).encode()})


def _of_zips(members: dict[str, bytes]) -> Iterator[Attack]:
    """Archives that are larger inside, have places outside, or are no archives."""
    for path in (
        "../canary",
        "/tmp/canary",
        "..\\canary",
        "data/../../canary",
        "C:\\canary",
        "__main__.py",
    ):
        yield _agent(f"a member named {path!r}", members | {path: b"here"})
    for path in ("../data.pkl", "/data.pkl", "data/../../0", "code/x.py"):
        edited = torch_file(members, "policy.pth", lambda inner, path=path: inner | {path: b"here"})
        yield _agent(f"a member of the weights named {path!r}", members | {"policy.pth": edited})
    honest = zip_of(members)
    patched = {
        "a link": {"attributes": 0o120777 << 16},
        "a device": {"attributes": 0o060666 << 16},
        "encryption": {"flags": 1},
        "an unknown packing": {"method": 99},
        "LZMA": {"method": zipfile.ZIP_LZMA},
        "a size that is too large": {"size": 400 * 2**20, "packed": 400 * 2**20},
        "two sizes": {"size": 2**31},
        "a place beyond the end": {"offset": 2**31 - 1},
        "the place of another member": {"offset": 0},
    }
    for title, fields in patched.items():
        yield Attack(f"{title} in the zip", "agent", _writing(patched_directory(honest, "system_info.txt", **fields)))
    bomb = b'{"a": "' + b"0" * (15 * 2**20) + b'"}'
    yield Attack("data packed a thousandfold", "agent", _writing(zip_of({"data": bomb}, zipfile.ZIP_DEFLATED)))
    edited = torch_file(members, "policy.pth", lambda inner: inner | {"data/0": bytes(20 * 2**20)})
    yield Attack(
        "weights packed a thousandfold",
        "agent",
        _writing(zip_of(members | {"policy.pth": edited}, zipfile.ZIP_DEFLATED)),
    )
    del edited
    with zipfile.ZipFile(inner := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"N.")
        archive.writestr("archive/data/0", bytes(20 * 2**20))
    yield _agent("storages packed a thousandfold", members | {"policy.pth": inner.getvalue()})
    yield _agent("a thousand members", members | {f"{i}.txt": b"" for i in range(1000)})
    yield Attack("a directory of a million members", "agent", _writing(_directory_only(10**6)))
    twice = zip_of({**members, "datb": members["data"]}).replace(b"datb", b"data")
    yield Attack("data twice", "agent", _writing(twice))
    hidden = zip_of({**members, "datab": members["data"]}).replace(b"datab", b"data\0")
    yield Attack("data twice, once with a zero after its name", "agent", _writing(hidden))
    for title, data in {"nothing": b"", "a text": b"model", "a directory alone": _directory_only(0)}.items():
        yield Attack(f"{title} for a zip", "agent", _writing(data))
    yield Attack("half a zip", "agent", _writing(honest[: len(honest) // 2]))
    yield Attack("an archive over 512 MiB", "agent", _write_large(GIB))
    yield Attack("a file in place of weights", "agent", _writing(zip_of(members | {"policy.pth": b"PK\x03\x04"})))
    yield Attack("a pipe", "agent", _pipe)
    yield Attack("a pipe for statistics", "statistics", _pipe)
    yield Attack("a pipe for a configuration", "config", _pipe)
    yield Attack("a device", "agent", lambda path, canary: path.symlink_to("/dev/zero"))


def _pipe(path: pathlib.Path, canary: pathlib.Path) -> None:
    os.mkfifo(path)


def _write_large(size: int) -> Callable[[pathlib.Path, pathlib.Path], None]:
    def write(path, canary):
        with path.open("wb") as file:
            file.truncate(size)

    return write


def _directory_only(n_members: int) -> bytes:
    """A zip that is nothing but a directory: each entry names the same place, its number in its name."""
    entry = struct.Struct("<4s4H2H3I5H2I")
    directory = b"".join(
        entry.pack(b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0) + b"%07d" % i
        for i in range(n_members)
    )
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, n_members & 0xFFFF, n_members & 0xFFFF, len(directory), 0, 0)
    return directory + end


def _tags() -> Iterator[Attack]:
    """What YAML's tags call."""

    def calling(title, text_of, harmless=False):
        def write(path, canary):
            path.write_text(text_of(str(canary)))

        return Attack(title, "config", write, executes=not harmless, harmless=harmless)

    apply = "!!python/object/apply:"
    yield calling("apply", lambda canary: f"a: {apply}os.mkdir [{canary!r}]")
    yield calling("apply as a key", lambda canary: f"? {apply}os.mkdir [{canary!r}]\n: 1")
    yield calling("new", lambda canary: f"a: !!python/object/new:os.mkdir [{canary!r}]")
    yield calling("apply of a class", lambda canary: f"a: {apply}io.FileIO [{canary!r}, w]")
    yield calling("eval", lambda canary: f"a: {apply}eval [\"open('{canary}', 'w')\"]")
    yield calling(
        "apply within an OrderedDict",
        lambda canary: f"{apply}collections.OrderedDict\n- - - a\n    - {apply}os.mkdir [{canary!r}]",
    )
    yield calling(
        "OrderedDict with a state",
        lambda canary: f"{apply}collections.OrderedDict\nargs: [[[a, 1]]]\nstate: {apply}os.mkdir [{canary!r}]",
    )
    yield calling(
        "Python in a text", lambda canary: f"env_wrapper: \"__import__('os').mkdir('{canary}')\"", harmless=True
    )


def _of_configs() -> Iterator[Attack]:
    """What YAML unfolds, and tags that name."""
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 30))
    merged = "".join(f"m{i}: &m{i}\n  <<: [{', '.join([f'*m{i - 1}'] * 9)}]\n" for i in range(1, 30))
    texts = {
        "a name": "a: !!python/name:os.system",
        "a module": "a: !!python/module:antigravity",
        "a tuple": "a: !!python/tuple [1]",
        "lists in lists": "a: " + "[" * 30_000,
        "lists that multiply": f"l0: &l0 [a]\n{levels}",
        "dictionaries that multiply": f"m0: &m0 {{a: 1}}\n{merged}",
        "a text of a megabyte": "a: " + "a" * 2**20,
        "a number of sixty thousand digits": "a: " + "9" * 60_000,
        "no text": "a: \x00\x01",
        "an alias of itself": "a: &a [*a]",
    }
    for title, content in texts.items():
        yield Attack(f"{title} in YAML", "config", _writing(content.encode()))

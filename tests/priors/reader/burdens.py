"""Files that fill the memory, take for ever, reach other files or crash those that read them."""

import io
import json
import os
import pathlib
import struct
import zipfile
from collections.abc import Iterator

from tests.priors.reader import opcodes
from tests.priors.reader.attacks import Attack, Write, agent, writing
from tests.priors.reader.opcodes import call, name, text, whole
from tests.priors.reader.zips import (
    members_of,
    patched_directory,
    tensors_pickled,
    torch_file,
    with_attributes,
    with_pickle,
    with_torch_pickle,
    zip_of,
)

GIB = 2**30


def that_burden(honest: pathlib.Path) -> list[Attack]:
    """
    :param honest: an honest DQN agent with vectors for observations
    :return: attacks made of it
    """
    members = members_of(honest)
    return [
        *_of_pickles(members),
        *_of_tensors(members),
        *_of_data(members),
        *_of_zips(members),
        *_of_configs(),
    ]


def _of_pickles(members: dict[str, bytes]) -> Iterator[Attack]:
    """Bombs, and names that look like those of spaces."""
    doubling = b"".join(b"(h%ch%cl\x940" % (each, each) for each in range(200))  # a list of the last one twice
    dtype, huge = opcodes.pickle_of_dtype("f8"), b"\x8a\x08" + (2**60).to_bytes(8, "little")
    too_many, broken = "its observation_space is not a complete pickle .over 30000 opcodes", "is not a complete pickle"
    no_array = "an array's 0 bytes don't fill its shape"
    unknown, no_space = "which is not allowed there", "is not a valid space"
    bombs = {
        "opcodes without end": (b"N0" * 6_000_000 + b"N", too_many),
        "marks without end": (b"(" * 12_000_000, too_many),
        "depth without end": (b"N" + b"\x85" * 12_000_000, too_many),
        "lists that double two hundred times": (b"]\x940" + doubling + b"h\xc8", no_space),
        "an integer of two megabytes": (b"\x8b" + (2**21).to_bytes(4, "little") + b"\x7f" * 2**21, "16777215 bits"),
        "an integer of a million digits": (b"L" + b"9" * 10**6 + b"L\n", broken),
        "a text of 2**63 bytes": (b"\x8d" + (2**63 - 1).to_bytes(8, "little") + b"a", broken),
        "bytes of 4 GiB": (b"B" + b"\xff" * 4 + b"a", broken),
        "a frame of 2**63 bytes": (b"\x95" + (2**63 - 1).to_bytes(8, "little") + b"N", no_space),
        "a place in the memo of 2**31": (b"Nr" + (2**31 - 1).to_bytes(4, "little"), no_space),
        "an array of 2**60 numbers": (_box(_empty_array(dtype, huge + b"\x85"), dtype), no_array),
        "an array of 0 times 2**60 numbers": (_box(_empty_array(dtype, b"K\x00" + huge + b"\x86"), dtype), no_array),
        "a dtype of a gigabyte": (
            _box(b"N", call(name("numpy", "dtype"), text("S1000000000"), b"\x89", b"\x88")),
            "the dtype 'S1000000000' is not a plain number type",
        ),
        "names that look like a space": (call(name("gym.spaces.box.Box", "__init__")), unknown),
        "a space of another package": (call(name("gym.spaces.boxes", "Box")), unknown),
        "what spaces import": (text("gymnasium.spaces.box") + text("np.load") + b"\x93", unknown),
        "environment variables": (name("os", "environ") + text("CA2E_CANARY") + text("1") + b"s", unknown),
        "no opcode": (b"\x00", broken),
        "a list of itself": (b"]\x94h\x00a", no_space),
    }
    for title, (expression, reason) in bombs.items():
        yield agent(f"{title} for a space", with_pickle(members, "observation_space", whole(expression)), reason)
    yield agent("nothing for a space", with_pickle(members, "observation_space", b""), broken)
    yield agent("two pickles for a space", with_pickle(members, "observation_space", b"N.N."), "after the pickle's end")
    large = b"\x80\x04" + b"N0" * 2**20 + b"N."
    yield Attack("a pickle of 2 MiB for statistics", "statistics", writing(large), "it has 2097156 bytes, over 1048576")


def _empty_array(dtype: bytes, shape: bytes) -> bytes:
    """An array that has no bytes."""
    return call(name("numpy.core.numeric", "_frombuffer"), b"C\x00", dtype, shape, text("C"))


def _box(bounds: bytes, dtype: bytes) -> bytes:
    """A Box without dimensions."""
    state = b"}(" + text("dtype") + dtype + text("low") + bounds + text("high") + bounds + b"u"
    return name("gymnasium.spaces.box", "Box") + b")\x81" + state + b"b"


def _of_tensors(members: dict[str, bytes]) -> Iterator[Attack]:
    """Weights that are not there, or far too many."""
    beyond, size = "reaches beyond its storage", "has another size than its tensors need"
    places = {
        "a tensor beyond its storage": (("0", 4, 2, (4,), (1,)), beyond),
        "a tensor before its storage": (("0", 4, -2, (4,), (1,)), beyond),
        "strides that lead out": (("0", 4, 0, (2, 2), (3, 1)), beyond),
        "strides that lead back": (("0", 4, 3, (4,), (-1,)), "has no shape"),
        "a storage repeated 2**40 times": (("0", 4, 0, (2**20, 2**20), (0, 0)), beyond),
        "a storage of 2**60 numbers": (("0", 2**60, 0, (2**60,), (1,)), size),
        "a storage of -1 numbers": (("0", -1, 0, (1,), (1,)), "where a tensor's storage is expected"),
        "a storage that is missing": (("99", 4, 0, (4,), (1,)), "policy.pth has no archive/data/99"),
        "a storage in another folder": (("../../data", 4, 0, (4,), (1,)), "policy.pth has no archive/data/../../data"),
    }
    for title, (place, reason) in places.items():
        pickled = tensors_pickled({"q_net.q_net.0.weight": place})
        edited = torch_file(members, "policy.pth", lambda inner, data=pickled: {"data.pkl": data, "data/0": bytes(16)})
        yield agent(title, members | {"policy.pth": edited}, reason)
    many = tensors_pickled({f"layer{i}": ("0", 4, 0, (4,), (1,)) for i in range(1100)})
    edited = torch_file(members, "policy.pth", lambda inner: {"data.pkl": many, "data/0": bytes(16)})
    yield agent("1100 tensors", members | {"policy.pth": edited}, "1100 tensors, over 1024")
    edited = torch_file(members, "policy.pth", lambda inner: inner | {"byteorder": b"big"})
    yield agent("the other byte order", members | {"policy.pth": edited}, "the other byte order")
    for title, unexpected in {"code of TorchScript": "code/__torch__.py", "constants": "constants.pkl"}.items():
        edited = torch_file(members, "policy.pth", lambda inner, path=unexpected: inner | {path: b"N."})
        yield agent(f"{title} beside the weights", members | {"policy.pth": edited}, "is not expected there")
    yield agent(
        "numbers for weights", with_torch_pickle(members, "policy.pth", whole(b"K\x01")), "policy.pth holds 1, not"
    )
    yield Attack("480 MiB of weights that no network needs", "agent", _sparse_weights(members), "not have the weights")


class _SparseFile(io.FileIO):
    """Zeros take no place on the disk."""

    def write(self, data):
        if not any(bytes(data[:64])) and bytes(data).count(0) == len(data):
            self.seek(len(data), io.SEEK_CUR)
            return len(data)
        return super().write(data)


def _sparse_weights(members: dict[str, bytes]) -> Write:
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
    no_json = "its data is not JSON"
    texts = {
        "JSON of a hundred thousand brackets": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", no_json),
        "JSON of five million empty lists": (b'{"a":[' + b"[]," * 5_000_000 + b"[]]}", "over 500000 values"),
        "JSON with a number of a million digits": (b'{"a":' + b"9" * 10**6 + b"}", no_json),
        "JSON that is none": (b"{", no_json),
        "JSON with a key twice": (members["data"][:-1] + b', "policy_class": {}}', "a key appears twice"),
        "JSON that is a list": (b"[]", "its data is not a JSON object"),
        "JSON that is no text": (b'{"a": "\xff\xfe"}', no_json),
        "JSON without a model": (b"{}", "its data has no policy_class"),
        "data of 17 MiB": (b'{"a": "' + b"a" * (17 * 2**20) + b'"}', "bytes, over 16777216"),
    }
    for title, (data, reason) in texts.items():
        yield agent(title, members | {"data": data}, reason)
    too_large = "its policy is larger than the weights in its policy.pth"
    networks = {
        "a layer of 2**19 units": ({"net_arch": [2**19]}, too_large),
        "two layers of 2**19 units": ({"net_arch": [2**19, 2**19]}, too_large),
        "a layer of 10**30 units": ({"net_arch": [10**30]}, "layer of net_arch is an integer of 100 bits"),
        "a hundred thousand layers": ({"net_arch": [1] * 100_000}, "net_arch has 100000 layers, over 32"),
        "a layer of -1 units": ({"net_arch": [-1]}, "layer of net_arch is -1"),
        "layers in layers": ({"net_arch": [[[[64]]]]}, "layer of net_arch is a list"),
        "an argument that SB3 does not know": ({"path": "/etc/passwd"}, "policy_kwargs have 'path'"),
        "a class as a text": ({"features_extractor_class": "os.system"}, "features_extractor_class is 'os.system'"),
        "arguments of an extractor that it does not know": (
            {"features_extractor_kwargs": {"pretrained": "http://a/b"}},
            "features_extractor_kwargs have 'pretrained'",
        ),
        "arguments that are none": ([], "policy_kwargs are a list"),
    }
    for title, (kwargs, reason) in networks.items():
        yield agent(title, with_attributes(members, policy_kwargs=kwargs), reason)
    without = {name: data for name, data in members.items() if name != "policy.pth"}
    yield agent("no policy", without, "the archive has no policy.pth")
    yield agent("no spaces", with_attributes(members, observation_space=None), "None is not a valid space")
    yield agent("a policy class as text", with_attributes(members, policy_class="os.system"), "is 'os.system', none of")
    yield agent(
        "a policy class that is none",
        with_pickle(members, "policy_class", whole(name("stable_baselines3.dqn.policies", "QNetwork"))),
        "policy_class names stable_baselines3.dqn.policies.QNetwork",
    )
    broken = json.loads(members["data"]) | {"action_space": {":serialized:": "%%%"}}
    yield agent("base64 that is none", members | {"data": json.dumps(broken).encode()}, "[Bb]ase64|base 64")


def _of_zips(members: dict[str, bytes]) -> Iterator[Attack]:
    """Archives that are larger inside, have places outside, or are no archives."""
    for path in ("../canary", "/tmp/canary", "..\\canary", "data/../../canary", "C:\\canary", "__main__.py"):
        yield agent(f"a member named {path!r}", members | {path: b"here"}, "the archive is not expected there")
    for path in ("../data.pkl", "/data.pkl", "data/../../0", "code/x.py"):
        edited = torch_file(members, "policy.pth", lambda inner, path=path: inner | {path: b"here"})
        weights = members | {"policy.pth": edited}
        yield agent(f"a member of the weights named {path!r}", weights, "policy.pth is not expected there")
    honest = zip_of(members)
    patched = {
        "a link": ({"attributes": 0o120777 << 16}, "is not a regular file but a link"),
        "a device": ({"attributes": 0o060666 << 16}, "is not a regular file but a link"),
        "encryption": ({"flags": 1}, "is encrypted"),
        "an unknown packing": ({"method": 99}, "uses a compression"),
        "LZMA": ({"method": zipfile.ZIP_LZMA}, "uses a compression"),
        "a size that is too large": ({"size": 400 * 2**20, "packed": 400 * 2**20}, "ends within a member"),
        "a sum that is too large": ({"size": 600 * 2**20, "packed": 600 * 2**20}, "unpacks to .* bytes, over"),
        "two sizes": ({"size": 2**31}, "has two sizes"),
        "a place beyond the end": ({"offset": 2**31 - 1}, "ends within a member"),
        "the place of another member": ({"offset": 0}, "members of the archive overlap"),
    }
    for title, (fields, reason) in patched.items():
        data = patched_directory(honest, "system_info.txt", **fields)
        yield Attack(f"{title} in the zip", "agent", writing(data), reason)
    yield from _bombs(members)
    twice = zip_of({**members, "datb": members["data"]}).replace(b"datb", b"data")
    yield Attack("data twice", "agent", writing(twice), "has two members 'data'")
    hidden = zip_of({**members, "datab": members["data"]}).replace(b"datab", b"data\0")
    yield Attack("data twice, once with a zero after its name", "agent", writing(hidden), "has two members 'data'")
    for title, data in {"nothing": b"", "a text": b"model", "half a zip": honest[: len(honest) // 2]}.items():
        yield Attack(f"{title} for a zip", "agent", writing(data), "the archive is not a complete zip")
    yield Attack("a directory alone", "agent", writing(_directory_only(0)), "the archive has no data")
    yield agent("no zip in the zip", members | {"policy.pth": b"PK\x03\x04"}, "policy.pth is not a complete zip")
    for kind in ("agent", "statistics", "config"):
        yield Attack(f"a pipe for {kind}", kind, lambda path, canary: os.mkfifo(path), "it is not a regular file")
    yield Attack("a device", "agent", lambda path, canary: path.symlink_to("/dev/zero"), "it is not a regular file")


def _bombs(members: dict[str, bytes]) -> Iterator[Attack]:
    """Archives that are much larger inside than outside."""
    over_ratio, packed = "unpacks to over 100 times its size", zipfile.ZIP_DEFLATED
    bomb = b'{"a": "' + b"0" * (15 * 2**20) + b'"}'
    yield Attack("data packed a thousandfold", "agent", writing(zip_of({"data": bomb}, packed)), over_ratio)
    edited = torch_file(members, "policy.pth", lambda inner: inner | {"data/0": bytes(20 * 2**20)})
    repacked = zip_of(members | {"policy.pth": edited}, packed)
    yield Attack("weights packed a thousandfold", "agent", writing(repacked), over_ratio)
    inner = zip_of({"archive/data.pkl": b"N.", "archive/data/0": bytes(20 * 2**20)}, packed)
    yield agent("storages packed a thousandfold", members | {"policy.pth": inner}, over_ratio)
    yield agent("a thousand members", members | {f"{i}.txt": b"" for i in range(1000)}, "has 1006 members, over 64")
    large_directory = writing(_directory_only(10**6))
    yield Attack("a directory of a million members", "agent", large_directory, "a zip's directory has over")
    yield Attack(
        "an archive over 512 MiB", "agent", lambda path, canary: _make_large(path, GIB), "it has 1073741824 bytes, over"
    )


def _make_large(path: pathlib.Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _directory_only(n_members: int) -> bytes:
    """A zip that is nothing but a directory: each entry names the same place, its number in its name."""
    entry = struct.Struct("<4s4H2H3I5H2I")
    directory = b"".join(
        entry.pack(b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0) + b"%07d" % i
        for i in range(n_members)
    )
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, n_members & 0xFFFF, n_members & 0xFFFF, len(directory), 0, 0)
    return directory + end


def _of_configs() -> Iterator[Attack]:
    """What YAML unfolds, and tags that name."""
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 30))
    merged = "".join(f"m{i}: &m{i}\n  <<: [{', '.join([f'*m{i - 1}'] * 9)}]\n" for i in range(1, 30))
    unknown, aliases = "could not determine a constructor for the tag", "repeats parts of itself by aliases"
    texts = {
        "a name": ("a: !!python/name:os.system", unknown),
        "a module": ("a: !!python/module:antigravity", unknown),
        "a tuple": ("a: !!python/tuple [1]", unknown),
        "lists in lists": ("a: " + "[" * 30_000, "it nests over 32 deep"),
        "lists that multiply": (f"l0: &l0 [a]\n{levels}", aliases),
        "dictionaries that multiply": (f"m0: &m0 {{a: 1}}\n{merged}", aliases),
        "a text of a megabyte": ("a: " + "a" * 2**20, "it has 1048579 bytes, over 65536"),
        "a number of sixty thousand digits": ("a: " + "9" * 60_000, "it is damaged .ValueError"),
        "no text": ("a: \x00\x01", "it is not plain YAML"),
        "an alias of itself": ("a: &a [*a]", aliases),
    }
    for title, (content, reason) in texts.items():
        yield Attack(f"{title} in YAML", "config", writing(content.encode()), reason)

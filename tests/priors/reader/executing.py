"""Files that execute something when they are read by those that trust them."""

import io
import pathlib
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator

import cloudpickle
import torch as th

from tests.priors.reader.attacks import Attack
from tests.priors.reader.opcodes import Calls, before, calls, whole
from tests.priors.reader.zips import members_of, pickle_in, with_pickle, with_torch_pickle, zip_of


def that_execute(agent: pathlib.Path, statistics: pathlib.Path) -> list[Attack]:
    """
    :param agent: an honest DQN agent with vectors for observations
    :param statistics: honest statistics of VecNormalize
    :return: attacks made of them
    """
    return [*_that_call(members_of(agent), statistics.read_bytes()), *_tags()]


def _that_call(members: dict[str, bytes], statistics: bytes) -> Iterator[Attack]:
    """Every way to call in one place, and one way to call in every place."""

    def calling(title, kind, build, reason="names .*, which is not allowed there"):
        def write(path, canary):
            pathlib.Path(f"{canary.with_suffix('')}.py").write_text(f"open({str(canary)!r}, 'w')")  # to be imported
            path.write_bytes(build(canary))

        return Attack(title, kind, write, reason, executes=True)

    def in_attribute(title, attribute, build, **reason):
        return calling(title, "agent", lambda canary: zip_of(with_pickle(members, attribute, build(canary))), **reason)

    def reduce(canary):
        return whole(calls(canary)["REDUCE"])

    for way in calls(pathlib.Path("canary")):
        yield in_attribute(
            f"{way} in the observation space",
            "observation_space",
            lambda canary, way=way: whole(calls(canary)[way]),
            reason=_reason_of(way),
        )
        yield calling(
            f"{way} as VecNormalize",
            "statistics",
            lambda canary, way=way: whole(calls(canary)[way]),
            _reason_of(way),
        )
    for attribute in ("policy_class", "policy_kwargs", "action_space"):
        yield in_attribute(f"REDUCE as {attribute}", attribute, reduce)
    yield in_attribute("a schedule, which is not decoded", "lr_schedule", reduce, reason=None)
    yield in_attribute(
        "a result that is dropped before an honest space",
        "action_space",
        lambda canary: before(calls(canary)["REDUCE"], pickle_in(members, "action_space")),
    )
    yield calling(
        "a result that is dropped before honest statistics",
        "statistics",
        lambda canary: before(calls(canary)["REDUCE"], statistics),
    )
    yield in_attribute(
        "a generator of random numbers in an honest space",
        "action_space",
        lambda canary: _space_with_generator(members, canary),
    )
    yield in_attribute(
        "a function for a network's activation",
        "policy_kwargs",
        lambda canary: cloudpickle.dumps({"activation_fn": _opening(str(canary))}),
    )
    for file in ("policy.pth", "pytorch_variables.pth", "policy.optimizer.pth"):
        yield calling(
            f"REDUCE in {file}",
            "agent",
            lambda canary, file=file: zip_of(with_torch_pickle(members, file, reduce(canary))),
        )
        yield calling(
            f"{file} as a bare pickle",
            "agent",
            lambda canary, file=file: zip_of(members | {file: reduce(canary)}),
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


def _reason_of(way: str) -> str:
    return f"the opcode {way}" if way.startswith("EXT") else "names .*, which is not allowed there"


def _space_with_generator(members: dict[str, bytes], canary: pathlib.Path) -> bytes:
    space = pickle.loads(pickle_in(members, "action_space"))
    space._np_random = Calls(canary)
    return pickle.dumps(space)


def _opening(path: str) -> Callable[[], object]:
    return lambda: open(path, "w")


def _saved(value: object, **kwargs: object) -> bytes:
    th.save(value, buffer := io.BytesIO(), **kwargs)
    return buffer.getvalue()


def _tags() -> Iterator[Attack]:
    """What YAML's tags call."""

    def calling(title, text_of, reason="could not determine a constructor for the tag .*python/", executes=True):
        def write(path, canary):
            path.write_text(text_of(str(canary)))

        return Attack(title, "config", write, reason, executes)

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
        reason="its OrderedDict has no pairs",
    )
    yield calling(
        "Python in a text",
        lambda canary: f"env_wrapper: \"__import__('os').mkdir('{canary}')\"",
        reason=None,
        executes=False,
    )

"""Honest files, damaged by chance."""

import json
import pathlib
import random
from collections.abc import Iterator

from tests.priors.reader.opcodes import calls
from tests.priors.reader.zips import members_of, pickle_in, torch_file, with_pickle, zip_of

PICKLED = ("policy_class", "observation_space", "action_space")


def fuzzed(
    agents: list[pathlib.Path], statistics: list[pathlib.Path], config: pathlib.Path, n: int, canary: pathlib.Path
) -> Iterator[tuple[str, str, bytes]]:
    """
    :param agents: honest models
    :param statistics: honest statistics
    :param config: an honest configuration
    :param n: how many files to make
    :param canary: what is made when one is executed
    :return: a title, what it is read as, and the contents of each; always the same
    """
    honest = [members_of(agent) for agent in agents]
    for index in range(n):
        chance = random.Random(index)
        members = honest[index % len(honest)]
        way = index % 8
        if way == 0:
            yield f"{index}: bytes of a zip", "agent", _damaged(zip_of(members), chance)
        elif way == 1:
            yield f"{index}: part of a zip", "agent", zip_of(members)[: chance.randrange(len(zip_of(members)))]
        elif way in (2, 3):
            attribute = chance.choice(PICKLED)
            pickled = _harmed(pickle_in(members, attribute), chance, canary)
            yield f"{index}: {attribute}", "agent", zip_of(with_pickle(members, attribute, pickled))
        elif way in (4, 5):
            file = chance.choice([member for member in members if member.endswith(".pth")])
            edited = torch_file(
                members,
                file,
                lambda inner, chance=chance: inner | {"data.pkl": _harmed(inner["data.pkl"], chance, canary)},
            )
            yield f"{index}: {file}", "agent", zip_of(members | {file: edited})
        elif way == 6:
            attributes = json.loads(members["data"])
            for key in chance.sample(sorted(attributes), 10):
                attributes[key] = chance.choice([None, [], {}, -1, 1e308, "text", [[]], {":serialized:": ""}])
            yield f"{index}: attributes", "agent", zip_of(members | {"data": json.dumps(attributes).encode()})
        elif chance.random() < 0.7:
            yield f"{index}: statistics", "statistics", _harmed(chance.choice(statistics).read_bytes(), chance, canary)
        else:
            yield f"{index}: configuration", "config", _damaged(config.read_bytes(), chance)


def _harmed(pickled: bytes, chance: random.Random, canary: pathlib.Path) -> bytes:
    """Damage a pickle, or put a call into it wherever that falls."""
    if chance.random() < 0.5:
        return _damaged(pickled, chance)
    place = chance.randrange(2, len(pickled))
    expression = chance.choice(sorted(calls(canary).values()))
    return pickled[:place] + expression + chance.choice([b"", b"0"]) + pickled[place:]


def _damaged(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.choice([1, 2, 8, 64])):
        place = chance.randrange(len(damaged))
        kind = chance.randrange(4)
        if kind == 0:
            damaged[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            damaged[place] = chance.randrange(256)
        elif kind == 2:
            del damaged[place : place + chance.randrange(1, 16)]
        else:
            damaged[place:place] = damaged[chance.randrange(len(damaged)) :][: chance.randrange(1, 64)]
        if not damaged:
            break
    return bytes(damaged)

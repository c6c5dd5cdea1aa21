"""What environments returned, one file for each environment object, and its comparison byte for byte."""

import hashlib
import itertools
import os
import pathlib
import pickle
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

#: Attributes of unknown objects are compared to this depth.
DEPTH = 6

# Not in the module of the recorder: what an environment's module holds travels with copies of the environment.
_paths: "weakref.WeakKeyDictionary[Any, pathlib.Path]" = weakref.WeakKeyDictionary()
_numbers = itertools.count()


def write(owner: Any, folder: str, record: dict[str, Any]) -> None:
    """
    Append a record to the tape of an environment object, which is made at its first record.

    :param owner: the object that has the tape
    :param folder: where tapes are kept
    :param record: what to append
    """
    if owner not in _paths:
        _paths[owner] = pathlib.Path(folder) / f"{os.getpid()}-{next(_numbers)}.tape"
    with _paths[owner].open("ab") as file:  # closed each time, as an actor may be killed
        pickle.dump(record, file)


def tapes(folder: pathlib.Path, since: Mapping[str, int] | None = None) -> list[list[dict[str, Any]]]:
    """
    Read all tapes of environments that were stepped.

    :param folder: where tapes are kept
    :param since: what :func:`sizes` returned: only what was recorded later is read
    :return: the records of each, those of a reset without a step in between left out
    """
    paths = sorted(folder.glob("*.tape"), key=lambda path: path.stat().st_mtime_ns)
    read = [list(_records(path, (since or {}).get(path.name, 0))) for path in paths]
    return [_last_resets(tape) for tape in read if any("action" in record for record in tape)]


def sizes(folder: pathlib.Path) -> dict[str, int]:
    """
    Measure all tapes.

    :param folder: where tapes are kept
    :return: their bytes by name
    """
    return {path.name: path.stat().st_size for path in folder.glob("*.tape")}


def seen(tape: list[dict[str, Any]]) -> list[str]:
    """
    Return what was seen of an environment.

    :param tape: its records
    :return: a digest of each observation and reward
    """
    return [digest([record["observation"], record.get("reward")]) for record in tape]


def _records(path: pathlib.Path, start: int) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        file.seek(start)
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                return


def _last_resets(tape: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out resets before the first step but the last, and those after the last step."""
    stepped = [index for index, record in enumerate(tape) if "action" in record]
    return tape[stepped[0] - 1 : stepped[-1] + 1]


def steps(tape: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return the steps of a tape.

    :param tape: records
    :return: those that are no resets
    """
    return [record for record in tape if "action" in record]


def canonical(value: Any, depth: int = 0) -> Any:
    """
    Turn a value into plain data that is equal for equal types and bytes only.

    :param value: anything
    :param depth: how deep it lies in the value that is compared
    :return: nested tuples of strings and bytes
    """
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return kind, value.shape, tuple(canonical(each, depth + 1) for each in value.ravel().tolist())
        return kind, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.generic):
        return kind, value.dtype.str, value.tobytes()
    if isinstance(value, bool | int | float | complex | str | bytes | type(None)):
        return kind, repr(value)
    if isinstance(value, dict):
        return kind, tuple((canonical(key, depth), canonical(part, depth + 1)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return kind, tuple(canonical(part, depth + 1) for part in value)
    if isinstance(value, set | frozenset):
        return kind, tuple(sorted(repr(canonical(part, depth + 1)) for part in value))
    if hasattr(value, "detach"):  # a tensor
        return kind, canonical(value.detach().cpu().numpy(), depth)
    if depth < DEPTH and hasattr(value, "__dict__"):
        return kind, canonical(vars(value), depth + 1)
    return (kind,)


def digest(value: Any) -> str:
    """
    Hash a value.

    :param value: anything
    :return: equal for equal types and bytes only
    """
    return hashlib.blake2b(repr(canonical(value)).encode(), digest_size=16).hexdigest()


def own_part(info: dict[str, Any]) -> dict[str, Any]:
    """
    Leave out what is not the environment's own: times of the clock, and what SB3's ``DummyVecEnv`` writes into the
    dictionaries of environments, some of which return the same one at each step.

    :param info: what an environment returned
    :return: the same without the times of ``Monitor`` and ``RecordEpisodeStatistics``, and without SB3's entries
    """
    kept = {key: value for key, value in info.items() if key not in ("TimeLimit.truncated", "terminal_observation")}
    if isinstance(episode := kept.get("episode"), dict):
        kept["episode"] = {key: value for key, value in episode.items() if key != "t"}
    return kept

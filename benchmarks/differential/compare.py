"""Comparisons of what two programs saw and stored."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from differential import tape
from differential.cases import BLOCK

#: Numbers of a first observation whose distributions are compared.
MOST_NUMBERS = 32

#: Parts of a record, beside the entries of its info
COMPARED = ("seed", "action_digest", "observation", "reward", "terminated", "truncated")

#: Arrays of a memory
SEEN, ENDS = ("observations", "next_observations", "rewards"), ("dones", "timeouts")


def first_difference(
    ours: list[list[Any]], theirs: list[list[Any]], ignored: Collection[str] = frozenset()
) -> str | None:
    """
    Compare tapes, as far as both go.

    :param ours: tape of each slot
    :param theirs: tape of each slot
    :param ignored: names of parts of records that may differ
    :return: where they first differ, or None
    """
    if len(ours) != len(theirs):
        return f"{len(ours)} tapes, SB3 has {len(theirs)}"
    for slot, step, name, one, other in _differences(ours, theirs):
        if name not in ignored:
            return f"slot {slot}, record {step}, {name}: {_shown(one, name)}; SB3: {_shown(other, name)}"
    return None


def differing(one: list[list[Any]], other: list[list[Any]]) -> set[str]:
    """
    Find out in what tapes differ.

    :param one: tape of each slot
    :param other: tape of each slot
    :return: names of parts of records
    """
    return {name for _, _, name, _, _ in _differences(one, other)}


def _differences(one: list[list[Any]], other: list[list[Any]]) -> Iterator[tuple[int, int, str, Any, Any]]:
    for slot, tapes in enumerate(zip(one, other, strict=True)):
        for step, records in enumerate(zip(*tapes, strict=False)):
            mine, its = map(_parts, records)
            for name in mine | its:
                if mine.get(name) != its.get(name):
                    yield slot, step, name, *records


def _parts(record: dict[str, Any]) -> dict[str, str]:
    parts = {name: tape.digest(record[name]) for name in COMPARED if name in record}
    return parts | {f"info[{key!r}]": told for key, told in record["info"].items()}


def _shown(record: dict[str, Any], name: str) -> str:
    infos = {f"info[{key!r}]": value for key, value in record["shown"].items()}
    value = infos.get(name, record.get(name, "nothing"))
    return f"{type(value).__name__} {value!r}"[:300]


def stored_difference(
    held: dict[str, Any], theirs: list[dict[str, Any]], acted_so: Callable[[int, int, int], bool]
) -> str | list[list[int]]:
    """
    Find out which rows of a memory belong to which slot: whole blocks, each from one slot.

    :param held: contents of our memory
    :param theirs: contents of SB3's buffer for each slot,
    :param acted_so: whether the action of a row is that of a slot at a step; slots may see the same for a while
    :return: rows of each slot, or what is stored and should not be
    """
    rows: list[list[int]] = [[] for _ in theirs]
    for start in range(0, len(held["rewards"]), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(held["rewards"])))
        differences, alike = [], []
        for slot, buffer in enumerate(theirs):
            after = np.arange(len(rows[slot]), len(rows[slot]) + len(block))
            if (difference := _rows_difference(held, block, buffer, after, SEEN)) is None:
                alike.append(
                    (slot, all(acted_so(int(row), slot, int(step)) for row, step in zip(block, after, strict=True)))
                )
            else:
                differences.append(f"slot {slot}: {difference}")
        if not alike:
            return f"rows {start} to {block[-1]} are the next block of no slot; " + "; ".join(differences)
        rows[max(alike, key=lambda each: each[1])[0]] += block.tolist()
    if not all(rows):
        return "nothing of a slot is stored"
    for slot, buffer in enumerate(theirs):
        mine, its = np.array(rows[slot][:-1]), np.arange(len(rows[slot]) - 1)  # learn() cuts the last episode off
        if (difference := _rows_difference(held, mine, buffer, its, ENDS)) is not None:
            return f"slot {slot}: {difference}"
    return rows


def _rows_difference(
    held: dict[str, Any], mine: np.ndarray, buffer: dict[str, Any], its: np.ndarray, names: tuple[str, ...]
) -> str | None:
    for name in names:
        expected = buffer[name]
        keys = expected if isinstance(expected, dict) else [None]
        for key in keys:
            whole, got = (expected, held[name]) if key is None else (expected[key], held[name][key])
            if its[-1] >= len(whole):
                return "the slot made fewer steps"
            one, other = got[mine], whole[its]
            if one.dtype != other.dtype or one.shape != other.shape:
                return f"{name} {key or ''}: {one.dtype} {one.shape}; SB3: {other.dtype} {other.shape}"
            if one.tobytes() != other.tobytes():
                at = next(i for i in range(len(one)) if one[i].tobytes() != other[i].tobytes())
                return f"{name} {key or ''}, row {its[at]}: {one[at]!r}; SB3: {other[at]!r}"[:300]
    return None


def unseeded_difference(ours: list[Any], theirs: list[Any]) -> str | None:
    """
    Check that slots and calls of ``learn`` differ where SB3's do.

    :param ours: what each slot saw in each ``learn``
    :param theirs: the same of SB3
    :return: what is equal and is not with SB3, or None
    """
    if any(len(seen) != len(theirs[0]) for seen in ours):
        return f"{[len(seen) for seen in ours]} slots were stepped in each learn()"
    if not _slots_equal(theirs) and _slots_equal(ours):
        return "without a seed, the slots saw the same"
    for pair, names in (((0, 1), "two learn()s of a model"), ((0, 2), "the learn()s of two models")):
        same = [
            all(any(_alike(one, other) for other in side[pair[1]]) for one in side[pair[0]]) for side in (ours, theirs)
        ]
        if same[0] and not same[1]:
            return f"without a seed, {names} saw the same"
    return None


def _slots_equal(learns: list[Any]) -> bool:
    return all(_alike(*seen) for seen in learns)


def _alike(one: list[str], other: list[str]) -> bool:
    """Compare as far as both go: of two processes, one may have made more steps."""
    return all(pair[0] == pair[1] for pair in zip(one, other, strict=False))


def p_value(ours: list[list[Any]], theirs: list[list[Any]]) -> tuple[float, str]:
    """
    Test whether first observations and returns of episodes have one distribution.

    :param ours: tape of each slot
    :param theirs: tape of each slot
    :return: the smallest p-value, and of which number
    """
    from scipy.stats import ks_2samp

    mine, others = _episodes(ours), _episodes(theirs)
    tests = {name: float(ks_2samp(mine[name], others[name]).pvalue) for name in mine}
    least = min(tests, key=lambda name: tests[name])
    return tests[least], f"{least}, {len(mine['return'])} episodes"


def _episodes(tapes: list[list[Any]]) -> dict[str, list[float]]:
    """Return numbers of each episode, by name."""
    firsts: list[np.ndarray] = []
    returns: list[float] = []
    for record in (record for records in tapes for record in records):
        if "action" not in record:
            firsts.append(_flat(record["observation"]))
            returns.append(0.0)
        else:
            returns[-1] += float(record["reward"])
    of = np.unique(np.linspace(0, len(firsts[0]) - 1, MOST_NUMBERS).astype(int))
    return {"return": returns} | {
        f"number {i} of the first observation": [float(each[i]) for each in firsts] for i in of
    }


def _flat(observation: Any) -> np.ndarray:
    if isinstance(observation, dict):
        return np.concatenate([_flat(part) for part in observation.values()])
    return np.asarray(observation, dtype=float).ravel()

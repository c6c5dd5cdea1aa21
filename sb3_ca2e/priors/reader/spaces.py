"""Observation and action spaces in decoded pickles of Gymnasium and Gym."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ca2e.priors.reader.arrays import SYMBOLS as ARRAY_SYMBOLS
from sb3_ca2e.priors.reader.arrays import array_of, dtype_of, number_of
from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickle_values import Call, Symbol, describe

ORDERED_DICT = Symbol("collections", "OrderedDict")

#: Most entries of a dictionary space
MAX_ENTRIES = 64

#: Most entries of a multi-discrete space
MAX_ACTIONS = 4096

#: Most elements of one observation or action
MAX_SIZE = 2**22


def space_of(value: Any) -> spaces.Space:
    """
    Rebuild a decoded space with Gymnasium.

    :param value: a decoded space
    :return: the space
    :raises Unreadable: if it is not a space that SB3 supports
    """
    if isinstance(value, Call) and value.calls(_DICT):
        return _dict(_state(value))
    return _plain_space_of(value)


def _plain_space_of(value: Any) -> spaces.Space:
    if not isinstance(value, Call) or value.function not in _BUILDERS:
        raise Unreadable(f"{describe(value)} is not a valid space")
    return _BUILDERS[value.function](_state(value))


def _state(value: Call) -> dict[Any, Any]:
    if not isinstance(value.state, dict):
        raise Unreadable(f"{describe(value)} is a space without fields")
    return value.state


def _box(state: dict[Any, Any]) -> spaces.Space:
    dtype = dtype_of(state["dtype"])
    low, high = array_of(state["low"]).astype(dtype), array_of(state["high"]).astype(dtype)
    if low.shape != high.shape or low.size > MAX_SIZE or not np.all(low <= high):
        raise Unreadable("the bounds of a Box are invalid")
    return spaces.Box(low, high, low.shape, dtype.type)


def _discrete(state: dict[Any, Any]) -> spaces.Space:
    return spaces.Discrete(_positive(state["n"]), start=int(number_of(state.get("start", 0))))


def _multi_discrete(state: dict[Any, Any]) -> spaces.Space:
    nvec = array_of(state["nvec"])
    if nvec.dtype.kind not in "iu" or nvec.size > MAX_ACTIONS or not np.all((nvec > 0) & (nvec <= MAX_SIZE)):
        raise Unreadable("the sizes of a MultiDiscrete are invalid")
    start = array_of(state["start"]) if "start" in state else None
    return spaces.MultiDiscrete(nvec, dtype_of(state["dtype"]).type, start=start)


def _multi_binary(state: dict[Any, Any]) -> spaces.Space:
    n = state["n"]
    return spaces.MultiBinary([_positive(size) for size in n] if isinstance(n, tuple) else _positive(n))


def _dict(state: dict[Any, Any]) -> spaces.Space:
    entries = state["spaces"]
    if isinstance(entries, Call) and entries.calls(ORDERED_DICT):
        entries = entries.pairs
    if not isinstance(entries, dict) or len(entries) > MAX_ENTRIES:
        raise Unreadable(f"a Dict space has {describe(entries)} for its entries, or more than {MAX_ENTRIES} of them")
    if not all(isinstance(key, str) for key in entries):
        raise Unreadable("a Dict space has a key that is not a string")
    in_saved_order = OrderedDict((key, _plain_space_of(entry)) for key, entry in entries.items())
    return spaces.Dict(in_saved_order)  # for a plain dictionary it would sort the keys, and so the features


def _positive(value: Any) -> int:
    number = number_of(value)
    if not 0 < number <= MAX_SIZE:
        raise Unreadable(f"{describe(number)} is not a valid size of a space")
    return int(number)


_DICT = Symbol("gymnasium.spaces.dict", "Dict")

_BUILDERS: dict[Any, Callable[[dict[Any, Any]], spaces.Space]] = {
    Symbol("gymnasium.spaces.box", "Box"): _box,
    Symbol("gymnasium.spaces.discrete", "Discrete"): _discrete,
    Symbol("gymnasium.spaces.multi_discrete", "MultiDiscrete"): _multi_discrete,
    Symbol("gymnasium.spaces.multi_binary", "MultiBinary"): _multi_binary,
}

#: Symbols allowed in pickles of spaces
SYMBOLS = ARRAY_SYMBOLS | frozenset(_BUILDERS) | {_DICT, ORDERED_DICT}

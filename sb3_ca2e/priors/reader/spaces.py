"""
NumPy values and spaces in decoded pickles.

Calls of NumPy's functions are interpreted, never made; spaces are rebuilt from their fields by today's constructors.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickles import Call, Symbol, describe

DTYPE = Symbol("numpy", "dtype")
NDARRAY = Symbol("numpy", "ndarray")
RECONSTRUCT = Symbol("numpy.core.multiarray", "_reconstruct")
FROM_BUFFER = Symbol("numpy.core.numeric", "_frombuffer")
SCALAR = Symbol("numpy.core.multiarray", "scalar")
ENCODE = Symbol("_codecs", "encode")
BYTES = Symbol("builtins", "bytes")

#: Random generators, which pickles of spaces contain; they are not used
GENERATORS = frozenset(
    Symbol(module, name)
    for module, names in {
        "numpy.random._pickle": ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
        "numpy.random._pcg64": ("PCG64",),
        "numpy.random._mt19937": ("MT19937",),
        "numpy.random.bit_generator": ("__pyx_unpickle_SeedSequence", "SeedSequence"),
        "gymnasium.utils.seeding": ("RandomNumberGenerator",),
    }.items()
    for name in names
)

#: Symbols allowed in pickles of arrays, scalars and random generators
ARRAY_SYMBOLS = GENERATORS | {DTYPE, NDARRAY, RECONSTRUCT, FROM_BUFFER, SCALAR, ENCODE, BYTES}

#: Largest length of a dimension, also of an empty array
MAX_LENGTH = 2**31

_DTYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])

ORDERED_DICT = Symbol("collections", "OrderedDict")

#: Most entries of a dictionary space
MAX_ENTRIES = 64

#: Most entries of a multi-discrete space
MAX_ACTIONS = 4096

#: Most elements of one observation or action
MAX_SIZE = 2**22


def dtype_of(value: Any) -> np.dtype[Any]:
    """
    Interpret a decoded dtype.

    :param value: a decoded ``numpy.dtype``
    :return: the dtype: boolean, integer or float
    :raises Unreadable: if it is not one of these
    """
    if not (isinstance(value, Call) and value.calls(DTYPE)):
        raise Unreadable(f"{describe(value)} is not a valid dtype")
    code = value.args[0] if value.args else None
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "|"
    if code not in _DTYPES or order not in ("<", ">", "=", "|"):
        raise Unreadable(f"the dtype {describe(code)} is not a plain number type")
    dtype: np.dtype[Any] = np.dtype(code).newbyteorder(order)
    return dtype


def array_of(value: Any) -> np.ndarray:
    """
    Interpret a decoded array or scalar of NumPy.

    :param value: decoded value
    :return: a copy as an array in the machine's byte order
    :raises Unreadable: if it is neither, or its bytes don't fill its shape
    """
    if isinstance(value, Call) and value.calls(RECONSTRUCT) and isinstance(value.state, tuple):
        _, shape, dtype, fortran, data = value.state
        return _filled(data, dtype, shape, "F" if fortran is True else "C")
    if isinstance(value, Call) and value.calls(FROM_BUFFER):
        data, dtype, shape, order = value.args
        return _filled(data, dtype, shape, "F" if order == "F" else "C")
    if isinstance(value, Call) and value.calls(SCALAR):
        dtype, data = value.args
        return _filled(data, dtype, (), "C")
    raise Unreadable(f"{describe(value)} is not a valid array")


def number_of(value: Any) -> int | float | bool:
    """
    Interpret a number.

    :param value: number, or decoded scalar or array with one entry
    :return: the number
    :raises Unreadable: if it is not a number
    """
    if isinstance(value, int | float):
        return value
    array = array_of(value)
    if array.size != 1:
        raise Unreadable(f"an array of {array.size} entries is not a number")
    number: int | float | bool = array.item()
    return number


def _filled(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    kind = dtype_of(dtype)
    raw = _bytes_of(data)
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise Unreadable(f"an array's shape is {describe(shape)}")
    if len(shape) > 8 or max(shape, default=0) > MAX_LENGTH or math.prod(shape) * kind.itemsize != len(raw):
        raise Unreadable(f"an array's {len(raw)} bytes don't fill its shape")
    return np.frombuffer(raw, kind).reshape(shape, order=order).astype(kind.newbyteorder("="))


def _bytes_of(value: Any) -> bytes | bytearray:
    """Interpret bytes: protocols below 3 encode them as latin-1 text, or call ``bytes()`` for empty ones."""
    if isinstance(value, Call) and value.calls(ENCODE) and value.args[1:] == ("latin1",):
        value = value.args[0].encode("latin1")
    elif isinstance(value, Call) and value.calls(BYTES) and value.args == ():
        value = b""
    if not isinstance(value, bytes | bytearray):
        raise Unreadable(f"{describe(value)} is not the bytes of an array")
    return value


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

"""NumPy's values in decoded pickles: what NumPy would be called with is interpreted, never called."""

import math
from typing import Any

import numpy as np

from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickle_values import Call, Symbol, describe

DTYPE = Symbol("numpy", "dtype")
NDARRAY = Symbol("numpy", "ndarray")
RECONSTRUCT = Symbol("numpy.core.multiarray", "_reconstruct")
FROM_BUFFER = Symbol("numpy.core.numeric", "_frombuffer")
SCALAR = Symbol("numpy.core.multiarray", "scalar")
ENCODE = Symbol("_codecs", "encode")
BYTES = Symbol("builtins", "bytes")

#: Random number generators, which spaces carry along; nobody asks for them
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

#: Symbols that stand in pickles of arrays, scalars and random number generators
SYMBOLS = GENERATORS | {DTYPE, NDARRAY, RECONSTRUCT, FROM_BUFFER, SCALAR, ENCODE, BYTES}

#: Entries along one dimension, which may be of an array of none
MAX_LENGTH = 2**31

_DTYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])


def dtype_of(value: Any) -> np.dtype[Any]:
    """
    :param value: a decoded ``numpy.dtype``
    :return: it, a boolean, an integer or a float
    :raises Unreadable: if it is none of these
    """
    if not (isinstance(value, Call) and value.calls(DTYPE)):
        raise Unreadable(f"{describe(value)} stands where a dtype belongs")
    code = value.args[0] if value.args else None
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "|"
    if code not in _DTYPES or order not in ("<", ">", "=", "|"):
        raise Unreadable(f"the dtype {describe(code)} is no plain number")
    dtype: np.dtype[Any] = np.dtype(code).newbyteorder(order)
    return dtype


def array_of(value: Any) -> np.ndarray:
    """
    :param value: a decoded array or scalar of NumPy
    :return: the array, a copy in the machine's byte order
    :raises Unreadable: if it is none, or its bytes don't fill its shape
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
    raise Unreadable(f"{describe(value)} stands where an array belongs")


def number_of(value: Any) -> int | float | bool:
    """
    :param value: a number, or a decoded scalar or array with one entry
    :return: the number
    :raises Unreadable: if it is none
    """
    if isinstance(value, int | float):
        return value
    array = array_of(value)
    if array.size != 1:
        raise Unreadable(f"an array of {array.size} entries stands where a number belongs")
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
    """Protocols below 3 have no bytes: they encode a text with the same code points, or make new ones of none."""
    if isinstance(value, Call) and value.calls(ENCODE) and value.args[1:] == ("latin1",):
        value = value.args[0].encode("latin1")
    elif isinstance(value, Call) and value.calls(BYTES) and value.args == ():
        value = b""
    if not isinstance(value, bytes | bytearray):
        raise Unreadable(f"{describe(value)} stands where an array's bytes belong")
    return value

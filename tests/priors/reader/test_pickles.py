"""What the inert pickle machine makes of pickles, against Python's own."""

import collections
import math
import pickle
import pickletools

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickles import MAX_OPCODES, Call, Symbol, decode
from sb3_ca2e.priors.reader.spaces import ARRAY_SYMBOLS, array_of, number_of, space_of
from sb3_ca2e.priors.reader.spaces import SYMBOLS as SPACE_SYMBOLS

PROTOCOLS = st.integers(0, pickle.HIGHEST_PROTOCOL)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**500), 2**500),
    st.floats(allow_nan=False),
    st.text(),
)
KEYS = st.one_of(SCALARS, st.tuples(SCALARS, SCALARS))
VALUES = st.recursive(
    SCALARS,
    lambda values: st.one_of(
        st.lists(values),
        st.lists(values, max_size=5).map(tuple),
        st.dictionaries(KEYS, values),
    ),
)


def decoded(data, known=frozenset()):
    return decode(data, known, "test").value


@given(VALUES, PROTOCOLS)
def test_plain_values_are_what_python_makes_of_them(value, protocol):
    data = pickle.dumps(value, protocol)

    for each in (data, pickletools.optimize(data)):
        assert decoded(each) == pickle.loads(each) == value
        assert repr(decoded(each)) == repr(value)  # True is no 1


@given(st.binary(), st.sets(SCALARS), st.integers(4, 5))
def test_so_are_the_values_of_later_protocols(data, members, protocol):
    value = {"bytes": data, "array": bytearray(data), "set": members, "frozen": frozenset(members)}

    assert decoded(pickle.dumps(value, 5)) == value
    assert decoded(pickle.dumps([data, members], protocol)) == [data, members]


def test_shared_and_circular_values_stay_so():
    shared = []
    circular = [shared, (shared,), {"self": None}]
    circular[2]["self"] = circular

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = decoded(pickle.dumps(circular, protocol))
        assert found[0] is found[1][0]
        assert found[2]["self"] is found


class Remembers(list):
    """Pickled with every kind of content that an object can have."""

    def __reduce_ex__(self, protocol):
        return collections.deque, ((1, 2),), {"state": 3}, iter([4, 5]), iter([("key", 6)])


def test_calls_are_described_with_all_that_follows():
    known = {Symbol("collections", "deque")}

    found = decoded(pickle.dumps(Remembers(), 4), known)

    assert isinstance(found, Call)
    assert str(found.function) == "collections.deque"
    assert (found.args, found.state, found.appended, found.pairs) == (((1, 2),), {"state": 3}, [4, 5], {"key": 6})


def test_keyword_arguments_are_described():
    class New:
        def __getnewargs_ex__(self):
            return (1,), {"two": 2}

    New.__qualname__, New.__module__ = "New", __name__
    globals()["New"] = New

    found = decoded(pickle.dumps(New(), 4), {Symbol(__name__, "New")})

    assert (found.args, found.kwargs) == ((1,), {"two": 2})


def test_all_names_that_are_unknown_are_told():
    data = pickle.dumps([len, math.sin, collections.OrderedDict], 4)

    with pytest.raises(Unreadable, match=r"its test names builtins.len, math.sin, which is not allowed there"):
        decode(data, {Symbol("collections", "OrderedDict")}, "test")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x80\x04", id="no end"),
        pytest.param(b"N.N.", id="two"),
        pytest.param(b"NN.", id="two values"),
        pytest.param(b".", id="no value"),
        pytest.param(b"(N.", id="a mark left"),
        pytest.param(b"N\x85\x86.", id="a tuple of more than there is"),
        pytest.param(b"}]Ns.", id="a list for a key"),
        pytest.param(b"](Nu.", id="keys for a list"),
        pytest.param(b"h\x05.", id="nothing remembered"),
        pytest.param(b"a.", id="an item for nothing"),
        pytest.param(b"N(NNe.", id="items for None"),
        pytest.param(b"]Nb.", id="a state for a list"),
        pytest.param(b"NNR.", id="arguments that are none"),
        pytest.param(b"(o.", id="a call of nothing"),
        pytest.param(b"NN\x93.", id="a name that is no text"),
        pytest.param(b"\x82\x01.", id="extension registry"),
        pytest.param(b"\x97.", id="data beside the pickle"),
        pytest.param(b"\xff.", id="no opcode"),
        pytest.param(b"\x8d" + b"\xff" * 8 + b".", id="a text of 2**64 characters"),
        pytest.param(b"\x8b\xff\xff\xff\x7f.", id="an integer of 2 GiB"),
        pytest.param(b"\x8a\xff" + b"\x7f" * 255 + b".", id="an integer of 2039 bits"),
        pytest.param(b"L" + b"9" * 5000 + b"L\n.", id="an integer of 5000 digits"),
        pytest.param(b"N0" * MAX_OPCODES + b"N.", id="too many opcodes"),
        pytest.param(b"N" + b"\x85" * 5000 + b"Q}" + b"h\x00Ns.", id="a deep key"),
    ],
)
def test_what_is_no_pickle_is_refused(data):
    with pytest.raises(Unreadable, match="its test"):
        decoded(data)


def test_deep_values_are_no_danger():
    depth = MAX_OPCODES - 2

    found = decoded(b"N" + b"\x85" * depth + b".")

    for _ in range(depth):
        (found,) = found
    assert found is None


def test_deep_keys_are_refused_before_they_are_hashed():
    """Python's hash of a tuple recurses without asking how much stack is left."""
    with pytest.raises(Unreadable, match="a key that is neither a string nor a number"):
        decoded(b"}N" + b"\x85" * (MAX_OPCODES - 10) + b"Ns.")


DTYPES = ["?", "i1", "<i2", ">i4", "<i8", "u1", ">u2", "<u4", "u8", "<f2", ">f4", "<f8"]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_and_scalars_are_those_that_were_pickled(dtype, protocol):
    numbers = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 100, (2, 3, 4)).astype(dtype)
    for array in (
        numbers,
        np.asfortranarray(numbers),
        numbers[:, ::2],
        numbers[0, 0, 0:0],
        np.asarray(numbers[0, 0, 0]),
    ):
        found = array_of(decoded(pickle.dumps(array, protocol), ARRAY_SYMBOLS))

        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype.newbyteorder("=")
    scalar = numbers[1, 1, 1]
    assert number_of(decoded(pickle.dumps(scalar, protocol), ARRAY_SYMBOLS)) == scalar


@pytest.mark.parametrize(
    "array",
    [
        np.array([None, "text"]),
        np.array(["text"]),
        np.array([1j]),
        np.zeros(2, [("a", "f4")]),
        np.array(["2020-01-01"], "datetime64[D]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_anything_but_numbers_are_refused(array):
    with pytest.raises(Unreadable):
        array_of(decoded(pickle.dumps(array, 4), ARRAY_SYMBOLS))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (3,), np.float32, seed=1),
        spaces.Box(np.array([[0, -1]]), np.array([[1, 2]]), dtype=np.float64),
        spaces.Box(0, 255, (4, 4, 1), np.uint8),
        spaces.Discrete(5, start=-2, seed=3),
        spaces.MultiDiscrete([2, 7]),
        spaces.MultiDiscrete([[2, 7], [3, 4]], start=[[1, 1], [0, 0]]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 3]),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 1, (2,))}),
        spaces.Dict(collections.OrderedDict([("b", spaces.Discrete(2)), ("a", spaces.MultiBinary(2))])),
    ],
    ids=str,
)
def test_spaces_are_those_that_were_pickled(space):
    space.sample()
    for protocol in (2, 4, 5):
        found = space_of(decoded(pickle.dumps(space, protocol), SPACE_SYMBOLS))

        assert found == space
        assert found.dtype == space.dtype
        if isinstance(space, spaces.Dict):
            assert list(found) == list(space)  # features stand in this order


@pytest.mark.parametrize(
    "space",
    [spaces.Tuple((spaces.Discrete(2),)), spaces.Text(3), spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})})],
    ids=str,
)
def test_spaces_that_sb3_can_not_learn_in_are_refused(space):
    with pytest.raises(Unreadable):
        space_of(decoded(pickle.dumps(space, 4), SPACE_SYMBOLS))

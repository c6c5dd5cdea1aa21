"""
Decodes pickles into plain values with a pickle machine that never imports and never calls.

``pickletools.genops`` of the standard library reads the opcodes and their arguments; this module applies their effect
on the stack. An import becomes a ``Symbol``, and a call a ``Call``.
"""

import io
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sb3_ca2e.priors.reader.errors import Unreadable
from sb3_ca2e.priors.reader.pickle_values import Call, Persistent, Symbol

#: Most opcodes of one pickle; the largest of the RL Zoo's agents has 1336.
MAX_OPCODES = 30_000

#: Most bits of an integer; the largest legitimate ones are states of random generators.
MAX_INTEGER_BITS = 1024


@dataclass(frozen=True)
class Decoded:
    """
    A decoded pickle.

    :param value: its value, made of plain values, ``Symbol``, ``Call`` and ``Persistent``
    :param end: offset of its end, in bytes
    :param outside: objects stored outside the pickle
    """

    value: Any
    end: int
    outside: list[Persistent]


def decode(data: bytes, known: Collection[Symbol], what: str) -> Decoded:
    """
    Decode a pickle that must end where the data ends.

    :param data: the pickle
    :param known: symbols that are allowed
    :param what: description of its content, for messages
    :return: the decoded pickle
    :raises Unreadable: if it names another symbol, is damaged or too large
    """
    pickle = decode_first(data, known, what)
    if pickle.end != len(data):
        raise Unreadable(f"its {what} continues after the pickle's end")
    return pickle


def decode_first(data: bytes, known: Collection[Symbol], what: str, start: int = 0) -> Decoded:
    """
    Decode a pickle that begins at some offset of the data.

    :param data: data with the pickle
    :param known: symbols that are allowed
    :param what: description of its content, for messages
    :param start: offset of its begin, in bytes
    :return: the decoded pickle
    :raises Unreadable: if it names another symbol, is damaged or too large
    """
    machine = _Machine()
    damage: Exception | None = None
    try:
        machine.run(data, start)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        damage = error
    if unknown := [str(symbol)[:120] for symbol in machine.symbols if symbol not in known]:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise Unreadable(f"its {what} names {', '.join(unknown[:8])}{more}, which is not allowed there") from damage
    if damage is not None:
        raise Unreadable(f"its {what} is not a complete pickle ({str(damage)[:200]})") from damage
    return Decoded(machine.result, machine.end, machine.outside)


class _Machine:
    """Stack and memo of one pickle. Nothing here is recursive, however deep the pickle nests."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stack below each mark
        self.memo: dict[int, Any] = {}
        self.symbols: dict[Symbol, None] = {}
        self.outside: list[Persistent] = []
        self.result: Any = None
        self.end = 0

    def run(self, data: bytes, start: int) -> None:
        """
        Apply the opcodes of a pickle.

        :param data: data with the pickle
        :param start: offset of its begin, in bytes
        """
        file = io.BytesIO(data)
        file.seek(start)
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count >= MAX_OPCODES:
                raise ValueError(f"over {MAX_OPCODES} opcodes")
            if opcode.name in _LITERALS:
                self.stack.append(_limited(argument))
            else:
                effect = _EFFECTS.get(opcode.name)
                if effect is None:
                    raise ValueError(f"the opcode {opcode.name}")
                effect(self, argument)
        self.end = file.tell()

    def pop_to_mark(self) -> list[Any]:
        """
        Pop all values above the last mark.

        :return: the values
        """
        above, self.stack = self.stack, self.below.pop()
        return above

    def symbol(self, module: Any, name: Any) -> None:
        """
        Push a symbol instead of importing.

        :param module: name of the module
        :param name: name in the module
        """
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a global whose name is not a string")
        symbol = Symbol.canonical(module, name)
        self.symbols[symbol] = None
        self.stack.append(symbol)

    def call(self, function: Any, args: Any, kwargs: Any = None) -> None:
        """
        Push a description instead of calling.

        :param function: function that would be called
        :param args: its arguments
        :param kwargs: its keyword arguments
        """
        if not isinstance(args, tuple) or not isinstance(kwargs, dict | None):
            raise ValueError("a call whose arguments are not a tuple")
        self.stack.append(Call(function, args, kwargs or {}))

    def global_(self, argument: str) -> None:
        """GLOBAL: the opcode contains module and name; no known module has a space in its name."""
        self.symbol(*argument.split(" ", 1))

    def stack_global(self, _: None) -> None:
        """STACK_GLOBAL"""
        name, module = self.stack.pop(), self.stack.pop()
        self.symbol(module, name)

    def reduce(self, _: None) -> None:
        """REDUCE and NEWOBJ"""
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args)

    def newobj_ex(self, _: None) -> None:
        """NEWOBJ_EX"""
        kwargs, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.call(function, args, kwargs)

    def inst(self, argument: str) -> None:
        """INST"""
        args = tuple(self.pop_to_mark())
        self.global_(argument)
        self.call(self.stack.pop(), args)

    def obj(self, _: None) -> None:
        """OBJ"""
        function, *args = self.pop_to_mark()
        self.call(function, tuple(args))

    def build(self, _: None) -> None:
        """BUILD"""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Call) or target.state is not None:
            raise ValueError("a state for a value that has one already or takes none")
        target.state = state

    def append(self, values: list[Any]) -> None:
        """APPEND and APPENDS"""
        target = self.stack[-1]
        if not isinstance(target, list | Call):
            raise ValueError("items for a value that takes none")
        (target.appended if isinstance(target, Call) else target).extend(values)

    def set_items(self, values: list[Any]) -> None:
        """SETITEM and SETITEMS"""
        target = self.stack[-1]
        if not isinstance(target, dict | Call):
            raise ValueError("keys for a value that takes none")
        (target.pairs if isinstance(target, Call) else target).update(_pairs(values))

    def add_items(self, _: None) -> None:
        """ADDITEMS"""
        values = self.pop_to_mark()
        target = self.stack[-1]
        if not isinstance(target, set):
            raise ValueError("members for a value that takes none")
        target.update(_keys(values))

    def persistent(self, pid: Any) -> None:
        """PERSID and BINPERSID"""
        self.outside.append(Persistent(pid))
        self.stack.append(self.outside[-1])

    def put(self, index: int | None) -> None:
        """PUT, BINPUT, LONG_BINPUT and MEMOIZE"""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        """GET, BINGET and LONG_BINGET"""
        self.stack.append(self.memo[index])

    def mark(self, _: None) -> None:
        """MARK"""
        self.below.append(self.stack)
        self.stack = []

    def pop(self, _: None) -> None:
        """POP, which also removes a mark on top"""
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def pop_mark(self, _: None) -> None:
        """POP_MARK"""
        self.pop_to_mark()

    def stop(self, _: None) -> None:
        """STOP"""
        (self.result,) = self.stack
        if self.below:
            raise ValueError("an unused mark")


def _limited(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise ValueError(f"an integer of {value.bit_length()} bits")
    return value


def _keys(values: list[Any]) -> list[Any]:
    """Check that values may be hashed: scalars and short tuples of them. Hashing recurses in C without a limit."""
    for value in values:
        scalars = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(scalar, str | int | float | bytes | Symbol | None) for scalar in scalars):
            raise ValueError("a key that is neither a string nor a number")
    return values


def _pairs(values: list[Any]) -> dict[Any, Any]:
    keys = _keys(values[::2])
    if len(keys) != len(values[1::2]):
        raise ValueError("a key without a value")
    return dict(zip(keys, values[1::2], strict=True))


def _push(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _marked(make: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    def effect(machine: _Machine, _: None) -> None:
        values = machine.pop_to_mark()
        machine.stack.append(make(values))

    return effect


def _tuple_of(size: int) -> Callable[[_Machine, Any], None]:
    def effect(machine: _Machine, _: None) -> None:
        if len(machine.stack) < size:
            raise ValueError("a tuple of more values than there are")
        machine.stack[-size:] = [tuple(machine.stack[-size:])]

    return effect


def _two(machine: _Machine) -> list[Any]:
    value, key = machine.stack.pop(), machine.stack.pop()
    return [key, value]


#: Opcodes that push their argument
_LITERALS = frozenset(
    name
    for names in (
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
    for name in names
)

#: Effects of the other opcodes. Missing, and therefore refused: EXT1, EXT2, EXT4 (a registry of this process),
#: NEXT_BUFFER and READONLY_BUFFER (data outside the pickle)
_EFFECTS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": _Machine.stop,
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "EMPTY_LIST": _push(list),
    "EMPTY_DICT": _push(dict),
    "EMPTY_TUPLE": _push(tuple),
    "EMPTY_SET": _push(set),
    "TUPLE": _marked(tuple),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": _marked(list),
    "DICT": _marked(_pairs),
    "FROZENSET": _marked(lambda values: frozenset(_keys(values))),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(_two(machine)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "ADDITEMS": _Machine.add_items,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.newobj_ex,
    "INST": _Machine.inst,
    "OBJ": _Machine.obj,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda machine, _: machine.persistent(machine.stack.pop()),
}

"""
Decodes pickles into plain values with an unpickler that never imports and never calls.

``pickletools.genops`` of the standard library reads the opcodes first, which limits their number and kinds. Then the
standard library's unpickler in Python applies them, with other effects where it would execute something: an import
becomes a ``Symbol``, and a call a ``Call``.
"""

import io
import pickle
import pickletools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sb3_ca2e.priors.reader.errors import Unreadable

#: Most opcodes of one pickle; the largest of the RL Zoo's agents has 1336.
MAX_OPCODES = 30_000

#: Most bits of an integer; the largest legitimate ones are states of random generators.
MAX_INTEGER_BITS = 1024

#: Opcodes that are refused: of a registry of this process, and of data outside the pickle
_REFUSED = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
_ALLOWED = {ord(each.code) for each in pickletools.opcodes if each.proto <= 5 and each.name not in _REFUSED}

#: Old names of modules, from when agents of the RL Zoo were saved, and their current names.
RENAMED = {"gym": "gymnasium", "numpy._core": "numpy.core", "__builtin__": "builtins"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """
    Name of an object that a pickle would import.

    :param module: name of its module
    :param name: its name in the module
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @classmethod
    def canonical(cls, module: str, name: str) -> "Symbol":
        """
        Create a symbol with the current name of its module.

        :param module: name of the module in the pickle
        :param name: name in the module
        :return: the symbol
        """
        for old, new in RENAMED.items():
            if module == old or module.startswith(old + "."):
                module = new + module[len(old) :]
        return cls(module, name)


@dataclass(eq=False, slots=True)
class Call:
    """
    A call that a pickle would make, and what it would do with the result.

    :param function: function that would be called, a :class:`Symbol` in legitimate pickles
    :param args: its arguments
    :param kwargs: its keyword arguments
    :param state: argument of the result's ``__setstate__``
    :param appended: items that would be appended to the result
    :param pairs: items that would be set in the result
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[Any, Any] = field(default_factory=dict)
    state: Any = None
    appended: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)

    def calls(self, *symbols: Symbol) -> bool:
        """
        Check whether it calls a known function.

        :param symbols: names of functions
        :return: whether one of them would be called
        """
        return isinstance(self.function, Symbol) and self.function in symbols

    # What an unpickler does with a list or dictionary

    def append(self, item: Any) -> None:
        self.appended.append(item)

    def extend(self, items: list[Any]) -> None:
        self.appended.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs[key] = value


@dataclass(frozen=True, eq=False, slots=True)
class Persistent:
    """
    An object stored outside the pickle, such as a tensor's storage in torch files.

    :param pid: its persistent id
    """

    pid: Any


def describe(value: Any) -> str:
    """
    Describe a decoded value in a few words.

    :param value: decoded value, possibly too deep or large to print
    :return: text for an error message
    """
    if isinstance(value, Call):
        return f"a call of {describe(value.function)}"
    if isinstance(value, Symbol):
        return str(value)[:80]
    if isinstance(value, Persistent):
        return "something outside of the pickle"
    if isinstance(value, str | float | bool | None):
        return repr(value)[:80]
    if isinstance(value, int):
        return str(value) if value.bit_length() < 64 else f"an integer of {value.bit_length()} bits"
    return f"a {type(value).__name__}"


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
    decoded = decode_first(data, known, what)
    if decoded.end != len(data):
        raise Unreadable(f"its {what} continues after the pickle's end")
    return decoded


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
    end, damage = _end_of(data, start)
    value, machine = None, _Inert(data[start:end])
    try:
        value = machine.load()
    except (ValueError, TypeError, LookupError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        damage = damage or error
    if unknown := [str(symbol)[:120] for symbol in machine.symbols if symbol not in known]:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise Unreadable(f"its {what} names {', '.join(unknown[:8])}{more}, which is not allowed there") from damage
    if damage is not None:
        raise Unreadable(f"its {what} is not a complete pickle ({str(damage)[:200]})") from damage
    return Decoded(value, end, machine.outside)


def _end_of(data: bytes, start: int) -> tuple[int, Exception | None]:
    """Return the end of the pickle, or of its part before what is wrong, and what is wrong."""
    file, end = io.BytesIO(data), start
    file.seek(start)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count >= MAX_OPCODES:
                raise ValueError(f"over {MAX_OPCODES} opcodes")
            if ord(opcode.code) not in _ALLOWED:
                raise ValueError(f"the opcode {opcode.name}")
            if isinstance(argument, int) and argument.bit_length() > MAX_INTEGER_BITS:
                raise ValueError(f"an integer of {argument.bit_length()} bits")
            end = file.tell()
    except ValueError as error:
        return end, error
    return end, None


#: The standard library's unpickler in Python: a method for each opcode, called through its table ``dispatch``.
_Unpickler: Any = pickle._Unpickler


class _Inert(_Unpickler):
    """
    Applies the opcodes of a pickle. Nothing here is recursive, however deep the pickle nests.

    :param data: the opcodes, all of them allowed
    """

    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.symbols: dict[Symbol, None] = {}
        self.outside: list[Persistent] = []

    # What would import, call or set attributes.

    def find_class(self, module: str, name: str) -> Symbol:
        symbol = Symbol.canonical(module, name)
        self.symbols[symbol] = None
        return symbol

    def persistent_load(self, pid: Any) -> Persistent:
        self.outside.append(Persistent(pid))
        return self.outside[-1]

    def call(self, function: Any, args: Any, kwargs: Any) -> None:
        if not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise ValueError("a call whose arguments are not a tuple")
        self.append(Call(function, args, kwargs))

    def _instantiate(self, function: Any, args: list[Any]) -> None:  # of load_inst() and load_obj()
        self.call(function, tuple(args), {})

    def load_reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args, {})

    load_newobj = load_reduce

    def load_newobj_ex(self) -> None:
        kwargs, args, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.call(function, args, kwargs)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Call) or target.state is not None:
            raise ValueError("a state for a value that has one already or takes none")
        target.state = state

    # What would hash keys of any kind and depth.

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_frozenset(self) -> None:
        _check_keys(self.stack)
        super().load_frozenset()

    def load_additems(self) -> None:
        _check_keys(self.stack)
        super().load_additems()

    # Stricter than Python.

    def load_frame(self) -> None:
        self.read(8)  # its length; all of the data is there

    def load_stop(self) -> None:
        if len(self.stack) != 1 or self.metastack:
            raise ValueError("not one value at its end")
        super().load_stop()


def _check_keys(values: list[Any]) -> None:
    """Refuse keys other than scalars and tuples of them: hash() would recurse into deep ones and end the process."""
    for value in values:
        scalars = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(scalar, str | int | float | bytes | Symbol | None) for scalar in scalars):
            raise ValueError("a key that is neither a string nor a number")


_Inert.dispatch = {code: getattr(_Inert, _Unpickler.dispatch[code].__name__) for code in _ALLOWED}

"""Values of decoded pickles besides plain ones: names instead of imports, descriptions instead of calls."""

from dataclasses import dataclass, field
from typing import Any

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

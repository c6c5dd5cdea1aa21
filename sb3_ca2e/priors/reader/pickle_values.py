"""What decoded pickles are made of besides plain values: names instead of imports, descriptions instead of calls."""

from dataclasses import dataclass, field
from typing import Any

#: Names that modules had when agents of the RL Zoo were saved, and later ones.
RENAMED = {"gym": "gymnasium", "numpy._core": "numpy.core", "__builtin__": "builtins"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """
    The name of what would be imported.

    :param module: its module
    :param name: its name there
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @classmethod
    def canonical(cls, module: str, name: str) -> "Symbol":
        """
        :param module: a module as a pickle names it
        :param name: the name there
        :return: the symbol, with the module's name of today
        """
        for old, new in RENAMED.items():
            if module == old or module.startswith(old + "."):
                module = new + module[len(old) :]
        return cls(module, name)


@dataclass(eq=False, slots=True)
class Call:
    """
    What would be called, and what would be done with the result.

    :param function: what would be called, a :class:`Symbol` in honest pickles
    :param args: its arguments
    :param kwargs: its keyword arguments
    :param state: what the result's ``__setstate__`` would be given
    :param appended: what would be appended to the result
    :param pairs: what would be set in the result
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[Any, Any] = field(default_factory=dict)
    state: Any = None
    appended: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)

    def calls(self, *symbols: Symbol) -> bool:
        """
        :param symbols: symbols
        :return: whether one of them is what would be called
        """
        return isinstance(self.function, Symbol) and self.function in symbols


@dataclass(frozen=True, eq=False, slots=True)
class Persistent:
    """
    What stands outside of the pickle, in torch files a tensor's storage.

    :param pid: its persistent id
    """

    pid: Any


def describe(value: Any) -> str:
    """
    :param value: a decoded value, maybe deeper or larger than can be printed
    :return: a few words for an error's message
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

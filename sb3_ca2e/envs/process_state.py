"""Process-wide settings that actor processes take over from the user's process."""

import contextlib
import decimal
import locale
import logging
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def _levels() -> dict[str, int]:
    loggers = {name: each for name, each in logging.root.manager.loggerDict.items() if isinstance(each, logging.Logger)}
    return {name: each.level for name, each in loggers.items() if each.level != logging.NOTSET}


def _log_format() -> str | None:
    handlers = [each for each in logging.root.handlers if type(each) is logging.StreamHandler]
    formatter = handlers[0].formatter if handlers else None
    return getattr(formatter, "_fmt", logging.BASIC_FORMAT) if handlers else None


@dataclass(frozen=True)
class ProcessState:
    """Settings of Python and NumPy in the process that creates the object."""

    recursion_limit: int = field(default_factory=sys.getrecursionlimit)
    int_digits: int = field(default_factory=sys.get_int_max_str_digits)
    numpy_errors: Any = field(default_factory=np.geterr)
    decimals: decimal.Context = field(default_factory=lambda: decimal.getcontext().copy())
    language: str = field(default_factory=lambda: locale.setlocale(locale.LC_ALL))
    log_level: int = field(default_factory=lambda: logging.root.level)
    log_levels: dict[str, int] = field(default_factory=_levels)
    log_format: str | None = field(default_factory=_log_format)

    def apply(self) -> None:
        """Apply the settings to this process."""
        sys.setrecursionlimit(self.recursion_limit)
        sys.set_int_max_str_digits(self.int_digits)
        np.seterr(**self.numpy_errors)
        decimal.setcontext(self.decimals)
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, self.language)
        if self.log_format is not None:
            logging.basicConfig(format=self.log_format)
        logging.root.setLevel(self.log_level)
        for name, level in self.log_levels.items():
            logging.getLogger(name).setLevel(level)

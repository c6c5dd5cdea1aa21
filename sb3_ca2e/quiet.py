"""Keep back the warnings of one thread: ``warnings.catch_warnings`` would keep back those of all."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class _HereAndNow(type):
    """Filters ask whether a warning's category is a subclass of theirs: here the answer depends on who warns."""

    def __init__(cls, *arguments: object):
        super().__init__(*arguments)
        cls.categories: ContextVar[tuple[type[Warning], ...]] = ContextVar(cls.__name__, default=())

    def __subclasscheck__(cls, category: type) -> bool:
        return issubclass(category, cls.categories.get())


class _Ignored(Warning, metaclass=_HereAndNow):
    """Whatever a quiet thread warns of."""


class _Raised(Warning, metaclass=_HereAndNow):
    """Of that, what is an error."""


@contextmanager
def quiet(*failing: type[Warning]) -> Iterator[None]:
    """
    Ignore the warnings of this thread.

    What other threads warn of meanwhile is shown, and filters that they set stay. The filters that this sets are left
    in place: where no thread is quiet, they match nothing.

    :param failing: categories that are raised instead
    """
    warnings.simplefilter("ignore", _Ignored)
    warnings.simplefilter("error", _Raised)  # the later one is asked first
    ignored, raised = _Ignored.categories.set((Warning,)), _Raised.categories.set(failing)
    try:
        yield
    finally:
        _Ignored.categories.reset(ignored)
        _Raised.categories.reset(raised)

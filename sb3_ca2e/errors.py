"""The package's exceptions and warnings."""


class ActorError(RuntimeError):
    """
    An actor failed more often than it may be restarted; the message names the slot, its seed and the cause.

    Transitions committed before stay in the memory, and the model can still be used and saved.
    """


class ActorWarning(RuntimeWarning):
    """An actor failed and is replaced, or its invalid steps are left out; training continues."""


class UnrecoverableError(ValueError):
    """A slot returned data that can't be learned from, and would do so again after a restart."""


class NotFiniteError(ValueError):
    """A value is NaN or infinite, or overflows the dtype in which it is stored."""


class DamagedError(ValueError):
    """A file has changed since it was written; the message names the file and the damage."""

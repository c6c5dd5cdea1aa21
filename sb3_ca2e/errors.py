"""What can go wrong, by its own name."""


class ActorError(RuntimeError):
    """
    An actor failed, and it was not the first time; the message names the slot, its seed and the cause.

    What was committed stays in the memory, and the model can be used and saved.
    """


class ActorWarning(RuntimeWarning):
    """An actor failed and is replaced, or gave steps that are left out: training goes on."""


class UnrecoverableError(ValueError):
    """A slot gives what can't be learned from, and would after a restart too."""


class NotFiniteError(ValueError):
    """NaN or infinity, or what becomes infinite in the type that it is stored in."""


class DamagedError(ValueError):
    """A file is not as it was written; the message says which, and in what way."""

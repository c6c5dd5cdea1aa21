"""Errors for files that can't be read without executing something in them."""

import contextlib
import os
from collections.abc import Iterator


class Unreadable(ValueError):
    """Refuses a part of a file; the message gives the reason, worded to follow the file's name."""


class UntrustedAgentError(ValueError):
    """
    A file is refused because it can't be interpreted without executing code in it.

    :param path: the file
    :param reason: why it is refused
    """

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.path} can't be read without executing what is in it: {self.reason}. If you trust its source, "
            f"PriorAgent(..., trust=True) loads it with Stable-Baselines3's own loader, which may run code."
        )


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """
    Turn errors about a file's content into an error that names the file.

    :param path: file that is read in the context
    :raises UntrustedAgentError: for any error except those of the file system and of missing packages: malicious
        content can trigger almost any error in the libraries that parse it
    """
    try:
        yield
    except (UntrustedAgentError, OSError, ImportError):
        raise
    except Unreadable as error:
        raise UntrustedAgentError(path, str(error)) from error
    except Exception as error:
        raise UntrustedAgentError(path, f"it is damaged ({type(error).__name__}: {str(error)[:200]})") from error

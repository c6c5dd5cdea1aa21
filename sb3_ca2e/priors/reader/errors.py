"""What is said of a file that can't be read without executing something in it."""

import contextlib
import os
from collections.abc import Iterator


class Unreadable(ValueError):
    """A part of a file that is refused; the message says why, in words that follow the file's name."""


class UntrustedAgentError(ValueError):
    """
    A file that is not loaded, because only executing what is in it could tell what it means.

    :param path: the file
    :param reason: what is wrong with it
    """

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.path} can't be read without executing what is in it: {self.reason}. If you are sure of where it "
            f"comes from, PriorAgent(..., trust=True) loads it with Stable-Baselines3's own loader, which may run code."
        )


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """
    Name the file in whatever goes wrong with its contents.

    :param path: the file that is read in the block
    :raises UntrustedAgentError: for any error but those of the file system and of missing packages: the contents are
        the block's only input, and hostile ones reach every corner of the libraries that take them
    """
    try:
        yield
    except (UntrustedAgentError, OSError, ImportError):
        raise
    except Unreadable as error:
        raise UntrustedAgentError(path, str(error)) from error
    except Exception as error:
        raise UntrustedAgentError(path, f"it is damaged ({type(error).__name__}: {str(error)[:200]})") from error

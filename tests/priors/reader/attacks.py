"""A file that means harm."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.priors.reader.zips import zip_of

#: Writes a file at a path, given a canary that it makes when executed
Write = Callable[[pathlib.Path, pathlib.Path], None]


@dataclass
class Attack:
    """
    A file that means harm.

    :param name: what it does
    :param kind: what it is read as: ``agent``, ``statistics`` or ``config``
    :param write: writes it
    :param reason: pattern of what is said when it is refused; None if it may be read, as what would be executed in it
        is not even looked at
    :param executes: whether it makes the canary when it is read by SB3, pickle or YAML themselves
    """

    name: str
    kind: str
    write: Write
    reason: str | None
    executes: bool = False


def writing(data: bytes) -> Write:
    def write(path: pathlib.Path, canary: pathlib.Path) -> None:
        path.write_bytes(data)

    return write


def agent(title: str, members: dict[str, bytes], reason: str) -> Attack:
    return Attack(title, "agent", writing(zip_of(members)), reason)

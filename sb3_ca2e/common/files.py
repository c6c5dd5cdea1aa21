"""Files that are whole or not there: written beside, brought to the disk, and renamed."""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from typing import BinaryIO

#: What is not yet whole: a file or folder beside the one whose place it takes, named after the process that writes it.
_PARTIAL = re.compile(r"\.sb3_ca2e-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}\.partial")


def partial_beside(path: pathlib.Path) -> pathlib.Path:
    """
    :param path: a file or folder that is to appear whole
    :return: a name in the same folder that no other thread, process or host uses
    """
    return path.with_name(f".sb3_ca2e-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def remove_left_partials(folder: pathlib.Path) -> None:
    """
    Remove what processes of this host left unfinished when they were killed.

    :param folder: where they wrote
    """
    for path in folder.glob(".sb3_ca2e-*.partial"):
        match = _PARTIAL.fullmatch(path.name)
        if match is not None and match["host"] == _host() and not _runs(int(match["pid"])):
            with contextlib.suppress(OSError):  # another process does the same, or has the right to and we have not
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _host() -> str:
    """This host, and the namespace of its process ids: containers may share a host's name."""
    name = re.sub(r"[^\w.-]", "_", socket.gethostname())
    with contextlib.suppress(OSError):
        name += f".{os.stat('/proc/self/ns/pid').st_ino}"
    return name


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """
    A new file that takes the place of another once it is on the disk. Until then, and if anything fails, the other
    stays as it is. What killed processes left unfinished in the folder is removed.

    :param path: the file; a link stays one, and what is no plain file (a pipe, say) is written to as it is
    :return: to be written
    :raises OSError: if it can't be written
    """
    target = pathlib.Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with path.open("wb") as file:
            yield file
        return
    remove_left_partials(target.parent)
    beside = partial_beside(target)
    try:
        with written_through(beside) as file:
            yield file
        if target.exists():
            shutil.copymode(target, beside)
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


@contextlib.contextmanager
def written_through(path: pathlib.Path) -> Iterator[BinaryIO]:
    """
    A new file that is on the disk when this ends.

    :param path: the file
    :return: to be written, and read
    """
    with path.open("w+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: pathlib.Path) -> None:
    """
    Bring the names of a folder's files to the disk.

    :param folder: the folder
    """
    if sys.platform == "win32":  # where folders can't be opened
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that bring them there themselves
            raise
    finally:
        os.close(fd)


def destination(path: str | pathlib.Path, suffix: str) -> pathlib.Path:
    """
    Where SB3 saves to when it is given a path, with its warnings.

    :param path: what the user gave
    :param suffix: for a path that has none
    :return: the file to write, in a folder that exists
    """
    path = pathlib.Path(path)
    if path.suffix == "":
        path = pathlib.Path(f"{path}.{suffix}")
    if path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=3)
        path = pathlib.Path(f"{path}_2")
    if not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.", stacklevel=3)
        path.parent.mkdir(exist_ok=True, parents=True)
    return path

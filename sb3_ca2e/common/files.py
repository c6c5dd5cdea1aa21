"""Atomic file writes: write to a temporary file beside the target, flush it to disk, then rename it."""

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

#: Temporary file or folder beside the one that it will replace, named after the host and process that write it.
_PARTIAL = re.compile(r"\.sb3_ca2e-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}\.partial")


def partial_beside(path: pathlib.Path) -> pathlib.Path:
    """
    Return a unique temporary name beside a path.

    :param path: file or folder that will be written
    :return: a path in the same folder that no other thread, process or host uses
    """
    return path.with_name(f".sb3_ca2e-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.partial")


def remove_left_partials(folder: pathlib.Path) -> None:
    """
    Remove temporary files that killed processes of this host have left.

    :param folder: folder that they wrote to
    """
    for path in folder.glob(".sb3_ca2e-*.partial"):
        match = _PARTIAL.fullmatch(path.name)
        if match is not None and match["host"] == _host() and not _runs(int(match["pid"])):
            with contextlib.suppress(OSError):  # another process removes it too, or we lack the permission
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _host() -> str:
    """Name this host and its process-id namespace: containers may share a host name."""
    name = re.sub(r"[^\w.-]", "_", socket.gethostname())
    with contextlib.suppress(OSError):
        name += f".{os.stat('/proc/self/ns/pid').st_ino}"
    return name


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
    except OSError as error:  # of another kind if the process belongs to another user
        return not isinstance(error, ProcessLookupError)
    return True


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """
    Write a new file and atomically replace the old one with it once the new one is on disk.

    If anything fails before, the old file stays as it is. Temporary files of killed processes in the folder are
    removed.

    :param path: the file; a symbolic link is followed, and anything but a regular file (such as a pipe) is written
        directly
    :return: the open file to write to
    :raises OSError: if the file can't be written
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
    Open a new file that is flushed to disk when the context ends.

    :param path: the file
    :return: the open file, writable and readable
    """
    with path.open("w+b") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: pathlib.Path) -> None:
    """
    Flush a folder's file names to disk.

    :param folder: the folder
    """
    if sys.platform == "win32":  # folders can't be opened there
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that do this by themselves
            raise
    finally:
        os.close(fd)


def destination(path: str | pathlib.Path, suffix: str) -> pathlib.Path:
    """
    Choose the file to save to as SB3 does, with its warnings.

    :param path: path that the user gave
    :param suffix: appended to a path without one
    :return: the file to write; its folder exists
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

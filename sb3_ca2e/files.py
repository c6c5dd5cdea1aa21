"""Files that are whole or not there: written beside, brought to the disk, and renamed."""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import secrets
import shutil
import socket
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator
from concurrent import futures
from typing import BinaryIO

#: The file, or the member of a zip, that lists the SHA-256 sums of the others, as ``sha256sum`` writes and checks them.
SUMS = "SHA256SUMS"
#: What is not yet whole: a file or folder beside the one whose place it takes, named after the process that writes it.
_PARTIAL = re.compile(r"\.sb3_ca2e-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}\.partial")
#: Where a member of a zip says how long its name is (APPNOTE.TXT, 4.3.7).
_LENGTHS_AT = 26
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


class DamagedError(ValueError):
    """A file is not as it was written; the message says which, and in what way."""


class HashedFile:
    """
    A file whose SHA-256 is computed while it is written.

    :param file: where bytes go
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """
        :param data: bytes, or anything that has some
        :return: how many were written
        """
        self._hash.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        """
        :return: the SHA-256 of what has been written, in hexadecimal digits
        """
        return self._hash.hexdigest()


def sha256(path: pathlib.Path) -> str:
    """
    :param path: a file
    :return: its SHA-256, in hexadecimal digits
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
def on_its_way(file: BinaryIO) -> Iterator[None]:
    """
    Bring to the disk, beside what is done in the block, what has been written so far.

    :param file: the file
    :raises OSError: at the end, if it can't be brought there
    """
    file.flush()
    with futures.ThreadPoolExecutor(1) as pool:
        synced = pool.submit(os.fsync, file.fileno())
        yield
        synced.result()


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


# Lists of sums. A list carries its own sum in its last line, so that a part of it is no list.


def list_of_sums(title: str, sums: dict[str, str]) -> str:
    """
    :param title: the first line
    :param sums: SHA-256 of each file, in hexadecimal digits
    :return: what to write
    """
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    listed = f"# {title}\n{lines}"
    return f"{listed}# {hashlib.sha256(listed.encode()).hexdigest()}\n"


def parse_sums(text: bytes) -> tuple[str, dict[str, str]]:
    """
    :param text: what :func:`list_of_sums` returned
    :return: the title, and the sums
    :raises DamagedError: if it is not exactly that
    """
    try:
        title, *lines, _ = text.decode().splitlines()
        matches = [_LINE.fullmatch(line) for line in lines]
        title = title.removeprefix("# ")
        sums = {match[2]: match[1] for match in matches if match is not None}
    except ValueError:  # no text, or less than two lines
        title, sums = "", {}
    if list_of_sums(title, sums).encode() != text:
        raise DamagedError(f"{SUMS} is damaged")
    return title, sums


def add_sums(file: BinaryIO, title: str) -> None:
    """
    Add a list of its members' sums to a zip.

    :param file: the zip, open to be read and written, its members not compressed
    :param title: of the list
    """
    with zipfile.ZipFile(file, "a") as archive:
        sums = {member.filename: _sum_as_written(file, member) for member in archive.infolist()}
        archive.writestr(SUMS, list_of_sums(title, sums))


def _sum_as_written(file: BinaryIO, member: zipfile.ZipInfo) -> str:
    """The SHA-256 of a member, without the zip's own sum, which zipfile would compute again."""
    assert member.compress_type == zipfile.ZIP_STORED
    file.seek(member.header_offset + _LENGTHS_AT)
    length_of_name, length_of_extra = struct.unpack("<HH", file.read(4))
    file.seek(length_of_name + length_of_extra, os.SEEK_CUR)
    digest, left = hashlib.sha256(), member.file_size
    while left > 0 and (read := file.read(min(left, 2**20))):
        digest.update(read)
        left -= len(read)
    return digest.hexdigest()


def check_members(archive: zipfile.ZipFile) -> None:
    """
    :param archive: a zip; SB3's own have no list of sums, but zips have their own, which are weaker
    :raises DamagedError: if a member is not as it was written
    """
    if SUMS not in archive.namelist():
        if (damaged := archive.testzip()) is not None:
            raise DamagedError(f"{damaged} is damaged")
        return
    _, sums = parse_sums(archive.read(SUMS))
    for name, digest in sums.items():
        if name not in archive.namelist() or _sum_of(archive, name) != digest:
            raise DamagedError(f"{name} is damaged")


def _sum_of(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as member:
        return hashlib.file_digest(member, "sha256").hexdigest()  # type: ignore[arg-type]

"""Zip files from strangers: limits on what they hold, before and while it is unpacked."""

import contextlib
import io
import os
import pathlib
import stat
import zipfile
from collections.abc import Callable, Iterator

from sb3_ca2e.priors.reader.errors import Unreadable

MIB = 2**20

#: Bytes of an archive, packed and unpacked
MAX_ARCHIVE = 512 * MIB

#: Unpacked bytes for each packed one
MAX_RATIO = 100

#: Bytes before a member's name, at least
_FILE_HEADER = 30

#: Bytes that are read at once, and so those of a zip's directory
_CHUNK = MIB


class _ShortReads:
    """
    A file that refuses long reads: ``zipfile`` reads a directory at once, as long as the zip says it is.

    :param file: the file
    """

    def __init__(self, file: io.BufferedReader | io.BytesIO):
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._read = file.read

    def read(self, size: int = -1) -> bytes:
        """
        :param size: bytes to read; negative: all that are left
        :return: the bytes
        :raises Unreadable: if they are too many
        """
        data = self._read(_CHUNK + 1 if size < 0 else min(size, _CHUNK + 1))
        if len(data) > _CHUNK:
            raise Unreadable(f"its directory has over {_CHUNK} bytes")
        return data


class Archive:
    """
    A zip whose directory has been checked.

    :param zip_file: the zip
    :param what: what it is, for messages
    :param members: number of members that it may have
    :param expected: whether a member of this name belongs there
    :raises Unreadable: if a member is too large, unexpected, encrypted or no plain file, or appears twice
    """

    def __init__(self, zip_file: zipfile.ZipFile, what: str, members: int, expected: Callable[[str], bool]):
        self._zip = zip_file
        self._what = what
        entries = [entry for entry in zip_file.infolist() if not entry.is_dir()]
        if len(entries) > members:
            raise Unreadable(f"{what} has {len(entries)} members, over {members}")
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            if entry.filename in self._entries:
                raise Unreadable(f"{what} has two members {entry.filename!r}")
            self._check(entry, expected)
            self._entries[entry.filename] = entry
        if (total := sum(entry.file_size for entry in entries)) > MAX_ARCHIVE:
            raise Unreadable(f"{what} unpacks to {total} bytes, over {MAX_ARCHIVE}")
        self._check_overlaps(entries)

    def _check(self, entry: zipfile.ZipInfo, expected: Callable[[str], bool]) -> None:
        name = f"the member {entry.filename[:80]!r} of {self._what}"
        if not expected(entry.filename):
            raise Unreadable(f"{name} has no place there")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise Unreadable(f"{name} is no plain file but a link or device")
        if entry.flag_bits & 0x1:
            raise Unreadable(f"{name} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable(f"{name} is packed in a way that SB3 does not use")
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            raise Unreadable(f"{name} unpacks to over {MAX_RATIO} times its size")

    def _check_overlaps(self, entries: list[zipfile.ZipInfo]) -> None:
        """Members that share their bytes make a bomb of a small file."""
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            if entry.header_offset < end:
                raise Unreadable(f"members of {self._what} overlap")
            end = entry.header_offset + _FILE_HEADER + entry.compress_size

    @property
    def names(self) -> list[str]:
        """Names of the members."""
        return list(self._entries)

    def read(self, name: str, limit: int = MAX_ARCHIVE) -> bytes:
        """
        Unpack a member, and count while doing so: sizes in a zip's directory are mere claims.

        :param name: the member
        :param limit: bytes that it may have
        :return: its contents
        :raises Unreadable: if there is no such member, it is damaged or too large
        """
        entry = self._entries.get(name)
        if entry is None:
            raise Unreadable(f"{self._what} has no {name}")
        if entry.file_size > limit:
            raise Unreadable(f"{name} in {self._what} has {entry.file_size} bytes, over {limit}")
        unpacked = io.BytesIO()
        with self._zip.open(entry) as member:
            while chunk := member.read(_CHUNK):
                unpacked.write(chunk)
                if unpacked.tell() > entry.file_size:
                    raise Unreadable(f"{name} in {self._what} is larger than it says")
        if unpacked.tell() != entry.file_size:
            raise Unreadable(f"{name} in {self._what} is shorter than it says")
        return unpacked.getvalue()


@contextlib.contextmanager
def open_archive(path: pathlib.Path, members: int, expected: Callable[[str], bool]) -> Iterator[Archive]:
    """
    Open a zip on disk.

    :param path: the file
    :param members: number of members that it may have
    :param expected: whether a member of this name belongs there
    :return: the archive, open until the block ends
    :raises Unreadable: if it is no zip, or over a limit
    :raises OSError: if it can't be opened
    """
    with open_plain(path, MAX_ARCHIVE) as file, _unzip(file, "the archive") as zip_file:
        yield Archive(zip_file, "the archive", members, expected)


@contextlib.contextmanager
def nested_archive(data: bytes, what: str, members: int, expected: Callable[[str], bool]) -> Iterator[Archive]:
    """
    Open a zip within a zip.

    :param data: its bytes
    :param what: its name
    :param members: number of members that it may have
    :param expected: whether a member of this name belongs there
    :return: the archive
    :raises Unreadable: if it is no zip, or over a limit
    """
    with _unzip(io.BytesIO(data), what) as zip_file:
        yield Archive(zip_file, what, members, expected)


def open_plain(path: pathlib.Path, limit: int) -> io.BufferedReader:
    """
    Open a regular file of limited size; a pipe would block, a device never end.

    :param path: the file, or a link to it
    :param limit: bytes that it may have
    :return: the open file
    :raises Unreadable: if it is something else, or larger
    :raises OSError: if it can't be opened
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is no regular file")
        if status.st_size > limit:
            raise Unreadable(f"it has {status.st_size} bytes, over {limit}")
    except Unreadable:
        file.close()
        raise
    return file


@contextlib.contextmanager
def _unzip(file: io.BufferedReader | io.BytesIO, what: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(_ShortReads(file)) as zip_file:
            yield zip_file
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise Unreadable(f"{what} is no whole zip ({str(error)[:200]})") from error

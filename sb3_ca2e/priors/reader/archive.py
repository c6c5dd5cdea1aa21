"""Zip files from strangers: limits on what they hold, before and while it is unpacked."""

import contextlib
import io
import os
import pathlib
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

from sb3_ca2e.priors.reader.errors import Unreadable

MIB = 2**20

#: Bytes of an archive, packed and unpacked
MAX_ARCHIVE = 512 * MIB

#: Unpacked bytes for each packed one
MAX_RATIO = 100

#: Bytes of an archive that is packed in another, which has to be unpacked whole; SB3 does not pack what torch wrote
MAX_PACKED_ARCHIVE = 64 * MIB

#: Bytes that are read at once, and so those of a zip's directory
_CHUNK = MIB

#: What stands before a member's contents: 26 bytes, the lengths of its name and of a further field, and these two
_MEMBER_HEADER = struct.Struct("<26xHH")


class Window:
    """
    A part of a file as a file, which refuses long reads: ``zipfile`` reads a zip's directory in one.

    :param file: a file that can be sought in
    :param start: where the part begins, in bytes
    :param size: its size in bytes
    """

    def __init__(self, file: BinaryIO, start: int, size: int):
        self._file = file
        self._start = start
        self.size = size
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """
        :param offset: in bytes
        :param whence: what it counts from
        :return: the new position
        """
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError("a position before the beginning")  # as of any file; zipfile expects it
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """
        :return: the position
        """
        return self._position

    def seekable(self) -> bool:
        """
        :return: True
        """
        return True

    def read(self, size: int = -1) -> bytes:
        """
        :param size: bytes to read; negative: all that are left
        :return: the bytes
        :raises Unreadable: if they are too many
        """
        left = max(self.size - self._position, 0)
        wanted = left if size < 0 else min(size, left)
        if wanted > _CHUNK:
            raise Unreadable(f"a zip's directory has over {_CHUNK} bytes")
        self._file.seek(self._start + self._position)
        data = self._file.read(wanted)
        self._position += len(data)
        return data

    def part(self, start: int, size: int) -> "Window":
        """
        :param start: where it begins in this one, in bytes
        :param size: its size in bytes
        :return: a part of this part
        """
        return Window(self._file, self._start + start, size)


class Archive:
    """
    A zip whose directory has been checked.

    :param file: the zip
    :param what: what it is, for messages
    :param members: number of members that it may have
    :param expected: whether a member of this name belongs there
    :raises Unreadable: if it is no zip, or a member is too large, unexpected, encrypted or no plain file, or is there
        twice
    """

    def __init__(self, file: Window, what: str, members: int, expected: Callable[[str], bool]):
        self._file = file
        self._what = what
        self._entries: dict[str, zipfile.ZipInfo] = {}
        with self._damage():
            self._zip = zipfile.ZipFile(file)
        entries = self._zip.infolist()
        if len(entries) > members:
            raise Unreadable(f"{what} has {len(entries)} members, over {members}")
        for entry in entries:
            if entry.filename in self._entries:
                raise Unreadable(f"{what} has two members {entry.filename[:80]!r}")
            self._check(entry, expected)
            self._entries[entry.filename] = entry
        if (total := sum(entry.file_size for entry in entries)) > MAX_ARCHIVE:
            raise Unreadable(f"{what} unpacks to {total} bytes, over {MAX_ARCHIVE}")
        self._check_extents(entries)

    def _check(self, entry: zipfile.ZipInfo, expected: Callable[[str], bool]) -> None:
        name = f"the member {entry.filename[:80]!r} of {self._what}"
        if not expected(entry.filename):
            raise Unreadable(f"{name} has no place there")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise Unreadable(f"{name} is no plain file but a link or a device")
        if entry.flag_bits & 0x1:
            raise Unreadable(f"{name} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable(f"{name} is packed in a way that SB3 does not use")
        if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
            raise Unreadable(f"{name} has two sizes")
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            raise Unreadable(f"{name} unpacks to over {MAX_RATIO} times its size")

    def _check_extents(self, entries: list[zipfile.ZipInfo]) -> None:
        """Members that share their bytes make a bomb of a small file."""
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            if entry.header_offset < end:
                raise Unreadable(f"members of {self._what} overlap")
            end = entry.header_offset + _MEMBER_HEADER.size + entry.compress_size
        if end > self._file.size:
            raise Unreadable(f"{self._what} ends within a member")

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise Unreadable(f"{self._what} is no whole zip ({str(error)[:200]})") from error

    @property
    def names(self) -> list[str]:
        """Names of the members."""
        return list(self._entries)

    def size(self, name: str) -> int:
        """
        :param name: a member
        :return: its size in bytes, as the directory claims
        :raises Unreadable: if there is no such member
        """
        return self._entry(name).file_size

    def read(self, name: str, limit: int = MAX_ARCHIVE) -> bytes:
        """
        Unpack a member, and count while doing so: sizes in a zip's directory are claims.

        :param name: the member
        :param limit: bytes that it may have
        :return: its contents
        :raises Unreadable: if there is no such member, it is damaged or too large
        """
        entry = self._entry(name)
        if entry.file_size > limit:
            raise Unreadable(f"{name} in {self._what} has {entry.file_size} bytes, over {limit}")
        unpacked = io.BytesIO()
        with self._damage(), self._zip.open(entry) as member:
            while chunk := member.read(_CHUNK):
                unpacked.write(chunk)
                if unpacked.tell() > entry.file_size:
                    raise Unreadable(f"{name} in {self._what} is larger than it says")
        if unpacked.tell() != entry.file_size:
            raise Unreadable(f"{name} in {self._what} is shorter than it says")
        return unpacked.getvalue()

    def window(self, name: str) -> Window:
        """
        A member as a file, left where it is if it is not packed.

        :param name: the member
        :return: the file
        :raises Unreadable: if there is no such member, it is damaged or too large to be unpacked
        """
        entry = self._entry(name)
        if entry.compress_type != zipfile.ZIP_STORED:
            return Window(io.BytesIO(self.read(name, MAX_PACKED_ARCHIVE)), 0, entry.file_size)
        self._file.seek(entry.header_offset)
        header = self._file.read(_MEMBER_HEADER.size)
        start = entry.header_offset + _MEMBER_HEADER.size + sum(_MEMBER_HEADER.unpack(header))
        if start + entry.file_size > self._file.size:
            raise Unreadable(f"{self._what} ends within {name}")
        return self._file.part(start, entry.file_size)

    def _entry(self, name: str) -> zipfile.ZipInfo:
        if name not in self._entries:
            raise Unreadable(f"{self._what} has no {name[:80]}")
        return self._entries[name]


@contextlib.contextmanager
def open_plain(path: pathlib.Path, limit: int) -> Iterator[Window]:
    """
    Open a regular file of limited size; a pipe would block, a device never end.

    :param path: the file, or a link to it
    :param limit: bytes that it may have
    :return: the open file
    :raises Unreadable: if it is something else, or larger
    :raises OSError: if it can't be opened
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is no regular file")
        if status.st_size > limit:
            raise Unreadable(f"it has {status.st_size} bytes, over {limit}")
        yield Window(file, 0, status.st_size)

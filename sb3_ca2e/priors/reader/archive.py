"""Zip files from untrusted sources, with limits that are checked before and during unpacking."""

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

#: Most bytes of an archive, packed and unpacked
MAX_ARCHIVE = 512 * MIB

#: Largest ratio of unpacked to packed bytes
MAX_RATIO = 100

#: Most bytes of a compressed inner archive, which must be unpacked as a whole; SB3 does not compress torch's files
MAX_PACKED_ARCHIVE = 64 * MIB

#: Most bytes of a read, and so of a zip's directory
_CHUNK = MIB

#: Header of a member: 26 bytes, and the lengths of its name and of an extra field, which both follow
_MEMBER_HEADER = struct.Struct("<26xHH")


class Window:
    """
    A part of a file as a file object that refuses long reads: ``zipfile`` reads a zip's directory in one call.

    :param file: seekable file
    :param start: offset of the part, in bytes
    :param size: size of the part, in bytes
    """

    def __init__(self, file: BinaryIO, start: int, size: int):
        self._file = file
        self._start = start
        self.size = size
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """
        Move to a position.

        :param offset: in bytes
        :param whence: reference point of the offset, as for any file
        :return: the new position
        """
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError("a position before the beginning")  # as for any file; zipfile expects it
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """
        Return the position.

        :return: the position in bytes
        """
        return self._position

    def seekable(self) -> bool:
        """
        Support ``zipfile``, which checks for seeking.

        :return: True
        """
        return True

    def read(self, size: int = -1) -> bytes:
        """
        Read bytes.

        :param size: number of bytes to read; if negative, all that are left
        :return: the bytes
        :raises Unreadable: if there are too many
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
        Return a part of this part.

        :param start: its offset in this part, in bytes
        :param size: its size in bytes
        :return: the inner part
        """
        return Window(self._file, self._start + start, size)


class Archive:
    """
    A zip whose directory has been checked.

    :param file: the zip
    :param what: description of the zip, for messages
    :param members: largest number of members
    :param expected: tells whether a member of this name is expected
    :raises Unreadable: if it is not a zip, or a member is too large, unexpected, encrypted, duplicated or not a regular
        file
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
            raise Unreadable(f"{name} is not expected there")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise Unreadable(f"{name} is not a regular file but a link or a device")
        if entry.flag_bits & 0x1:
            raise Unreadable(f"{name} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable(f"{name} uses a compression that SB3 does not use")
        if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
            raise Unreadable(f"{name} has two sizes")
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            raise Unreadable(f"{name} unpacks to over {MAX_RATIO} times its size")

    def _check_extents(self, entries: list[zipfile.ZipInfo]) -> None:
        """Refuse overlapping members, by which a small file can unpack to a large size."""
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
            raise Unreadable(f"{self._what} is not a complete zip ({str(error)[:200]})") from error

    @property
    def names(self) -> list[str]:
        """Names of the members."""
        return list(self._entries)

    def size(self, name: str) -> int:
        """
        Return the size of a member.

        :param name: name of the member
        :return: its size in bytes according to the directory
        :raises Unreadable: if there is no such member
        """
        return self._entry(name).file_size

    def read(self, name: str, limit: int = MAX_ARCHIVE) -> bytes:
        """
        Unpack a member, checking its size while doing so: the directory may be wrong.

        :param name: name of the member
        :param limit: largest size in bytes
        :return: its content
        :raises Unreadable: if there is no such member, or it is damaged or too large
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
        Open a member as a file, without copying it if it is not compressed.

        :param name: name of the member
        :return: the file
        :raises Unreadable: if there is no such member, or it is damaged or too large to be unpacked
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
    Open a regular file of limited size.

    A pipe would block, and a device never end.

    :param path: the file, or a link to it
    :param limit: largest size in bytes
    :return: the open file
    :raises Unreadable: if it is not a regular file, or larger
    :raises OSError: if it can't be opened
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("it is not a regular file")
        if status.st_size > limit:
            raise Unreadable(f"it has {status.st_size} bytes, over {limit}")
        yield Window(file, 0, status.st_size)

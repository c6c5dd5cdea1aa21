"""SHA-256 checksums written with files, so that readers detect damage."""

import contextlib
import hashlib
import io
import os
import pathlib
import re
import struct
import zipfile
from collections.abc import Iterator
from concurrent import futures
from typing import Any, BinaryIO

from sb3_ca2e.errors import DamagedError

#: File or zip member that lists the SHA-256 sums of the others, in the format of ``sha256sum``.
SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
#: Offset of the name's length in the header of a zip member (APPNOTE.TXT, 4.3.7).
_LENGTHS_AT = 26
#: Bytes per read, and bytes per flush to disk.
_CHUNK, _TO_DISK = 2**20, 2**27


class HashedFile:
    """
    A file that computes the SHA-256 of its content while it is written.

    :param file: file to write to
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """
        Write data.

        :param data: bytes or an object with a buffer
        :return: number of bytes written
        """
        self._hash.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        """
        Return the SHA-256 of the data written so far.

        :return: hexadecimal digits
        """
        return self._hash.hexdigest()


def sha256(path: pathlib.Path) -> str:
    """
    Compute the SHA-256 of a file.

    :param path: a file
    :return: hexadecimal digits
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Lists of sums. The last line holds the list's own sum, so that a truncated list is detected.


def list_of_sums(title: str, sums: dict[str, str]) -> str:
    """
    Format a list of checksums.

    :param title: first line
    :param sums: SHA-256 of each file, in hexadecimal digits
    :return: text to write
    """
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    listed = f"# {title}\n{lines}"
    return f"{listed}# {hashlib.sha256(listed.encode()).hexdigest()}\n"


def parse_sums(text: bytes) -> tuple[str, dict[str, str]]:
    """
    Parse and verify a list of checksums.

    :param text: output of :func:`list_of_sums`
    :return: the title and the sums
    :raises DamagedError: if the text is not exactly what :func:`list_of_sums` wrote
    """
    try:
        title, *lines, _ = text.decode().splitlines()
        matches = [_LINE.fullmatch(line) for line in lines]
        title = title.removeprefix("# ")
        sums = {match[2]: match[1] for match in matches if match is not None}
    except ValueError:  # not text, or fewer than two lines
        title, sums = "", {}
    if list_of_sums(title, sums).encode() != text:
        raise DamagedError(f"{SUMS} is damaged")
    return title, sums


# Zips that contain the sums of their members.


@contextlib.contextmanager
def zip_with_sums(file: BinaryIO, title: str) -> Iterator[io.BufferedRandom | io.BytesIO]:
    """
    Open a zip to which a list of its members' checksums is added at the end.

    The writer of the zip need not know of checksums. A new file is hashed and flushed to disk while it is written, so
    that neither takes noticeable time.

    :param file: empty file that becomes the zip; a regular file should be readable too
    :param title: title of the list
    :return: the zip to write; its members must not be compressed
    :raises OSError: if the file can't be written
    """
    if not (isinstance(file, io.BufferedRandom) and isinstance(file.raw, io.FileIO)):  # can't be read back
        archive = io.BytesIO()
        yield archive
        _add_sums(archive, title, {})
        file.write(archive.getbuffer())
        return
    hashed = _HashedZip(file.raw)
    try:
        with hashed.pool:
            yield hashed
            _add_sums(hashed, title, hashed.sums)
        for flush in hashed.flushes:
            flush.result()  # raise its error here: the next fsync would not report it again
    finally:
        hashed.detach()  # the caller closes the file


def check_members(archive: zipfile.ZipFile) -> None:
    """
    Verify the members of a zip.

    SB3's own zips have no list of SHA-256 sums; then the zip's weaker CRCs are checked.

    :param archive: an open zip
    :raises DamagedError: if a member has changed since it was written
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


#: Offset and length in a file.
_Extent = tuple[int, int]


def _add_sums(file: BinaryIO, title: str, known: dict[_Extent, str]) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        sums = {}
        for member in archive.infolist():
            extent = _extent(file, member)
            sums[member.filename] = known[extent] if extent in known else _sum_at(file, extent)
        archive.writestr(SUMS, list_of_sums(title, sums))


def _extent(file: BinaryIO, member: zipfile.ZipInfo) -> _Extent:
    assert member.compress_type == zipfile.ZIP_STORED
    file.seek(member.header_offset + _LENGTHS_AT)
    length_of_name, length_of_extra = struct.unpack("<HH", file.read(4))
    return file.tell() + length_of_name + length_of_extra, member.file_size


def _sum_at(file: BinaryIO, extent: _Extent) -> str:
    """Hash a part of the file directly: zipfile would also compute the CRC again."""
    begin, left = extent
    file.seek(begin)
    digest = hashlib.sha256()
    while left > 0 and (read := file.read(min(left, _CHUNK))):
        digest.update(read)
        left -= len(read)
    return digest.hexdigest()


class _HashedZip(io.BufferedRandom):
    """
    A zip file whose parts are hashed by a thread while they are written.

    ``zipfile`` seeks to the place of a member, writes the header in one call, and then the content. So a part begins
    after the first write that follows a seek and ends at the next seek. If a writer behaves differently, the parts
    match no member and their sums are not used.
    """

    def __init__(self, raw: io.FileIO):
        super().__init__(raw)
        self.pool = futures.ThreadPoolExecutor(2)  # one hashes, one flushes to disk
        #: flushes to disk that have begun
        self.flushes: list[futures.Future[None]] = []
        #: sums of the parts that have ended
        self.sums: dict[_Extent, str] = {}
        self._part: Any = None  # the hash of the current part, if it has begun
        self._begin = self._flushed = 0

    def write(self, data: Any, /) -> int:
        """
        Write data.

        :param data: as for any file
        :return: number of bytes
        """
        if self._part is None:
            written = super().write(data)
            self._part, self._begin = hashlib.sha256(), self.tell()
            return written
        view = memoryview(data).cast("B")
        if len(view) < _CHUNK:  # not worth another thread
            self._part.update(view)
            return super().write(view)
        hashed = self.pool.submit(self._part.update, view)
        try:
            for begin in range(0, len(view), _TO_DISK):
                super().write(view[begin : begin + _TO_DISK])
                if (end := self.tell()) - self._flushed >= _TO_DISK:
                    self.flush()
                    self.flushes.append(self.pool.submit(os.fsync, self.raw.fileno()))
                    self._flushed = end
        finally:
            hashed.result()  # the data is the writer's again afterwards
        return len(view)

    def seek(self, target: int, whence: int = os.SEEK_SET, /) -> int:
        """
        Move to a position, which ends the current part.

        :param target: as for any file
        :param whence: as for any file
        :return: the new position
        """
        if self._part is not None:
            self.sums[self._begin, self.tell() - self._begin] = self._part.hexdigest()
            self._part = None
        return super().seek(target, whence)

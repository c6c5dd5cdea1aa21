"""SHA-256 checksums written with files, so that readers detect damage."""

import contextlib
import hashlib
import io
import os
import pathlib
import queue
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
#: Bytes per read, bytes by which hashing lags behind writing, and bytes per flush to disk.
_CHUNK, _BEHIND, _TO_DISK = 2**20, 2**22, 2**27


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

    The writer of the zip need not know of checksums. A new file is hashed by a thread that reads behind the writer, and
    flushed to disk meanwhile, so that neither takes noticeable time.

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
    followed = _FollowedFile(file.raw)
    try:
        with followed.follow() as sums:
            yield followed
        _add_sums(followed, title, sums)
    finally:
        followed.detach()  # the caller closes the file


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


class _FollowedFile(io.BufferedRandom):
    """
    A zip file that a thread hashes part by part behind the writer.

    ``zipfile`` seeks to the place of a member, writes the header in one call, and then the content. So a part begins
    after the first write that follows a seek and ends at the next seek. If a writer behaves differently, the parts
    match no member and their sums are not used; the result is never wrong.
    """

    def __init__(self, raw: io.FileIO):
        super().__init__(raw)
        self._path = raw.name
        self._pool = futures.ThreadPoolExecutor(2)  # one hashes, one flushes to disk
        self._tasks: list[futures.Future[None]] = []
        self._written: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        #: offsets: the part's beginning; up to where the thread may read; up to where a flush to disk has begun
        self._part = self._told = self._synced = 0
        self._header_comes = True

    def write(self, data: Any, /) -> int:
        """
        Write data.

        :param data: as for any file
        :return: number of bytes
        """
        if self._header_comes:
            written = super().write(data)
            self._part = self._told = self.tell()
            self._header_comes = False
            return written
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), _BEHIND):
            super().write(view[begin : begin + _BEHIND])
            if (end := self.tell()) - self._told >= _BEHIND:
                self._tell(end)
        return len(view)

    def seek(self, target: int, whence: int = os.SEEK_SET, /) -> int:
        """
        Move to a position, which ends the current part.

        :param target: as for any file
        :param whence: as for any file
        :return: the new position
        """
        if not self._header_comes:
            self._tell(self.tell())
        self._header_comes = True
        return super().seek(target, whence)

    def _tell(self, end: int) -> None:
        self.flush()
        if end > self._told:
            self._written.put((self._part, self._told, end))
            self._told = end
        if end - self._synced >= _TO_DISK:
            self._tasks.append(self._pool.submit(os.fsync, self.raw.fileno()))
            self._synced = end

    @contextlib.contextmanager
    def follow(self) -> Iterator[dict[_Extent, str]]:
        """
        Hash the file while it is written.

        :return: the sums of its parts, filled when the context ends
        :raises OSError: if the file can't be read or flushed to disk
        """
        sums: dict[_Extent, str] = {}
        with self._pool:
            self._tasks.append(self._pool.submit(self._take_sums, sums))
            try:
                yield sums
            finally:
                self._written.put(None)
            for task in self._tasks:
                task.result()  # raise a thread's error here: the next fsync would not report it again

    def _take_sums(self, sums: dict[_Extent, str]) -> None:
        hashes: dict[int, Any] = {}
        ends: dict[int, int] = {}
        with open(self._path, "rb", buffering=0) as file:
            while (news := self._written.get()) is not None:
                part, begin, end = news
                digest = hashes.setdefault(part, hashlib.sha256())
                file.seek(begin)
                while begin < end and (read := file.read(min(end - begin, _CHUNK))):
                    digest.update(read)
                    begin += len(read)
                ends[part] = begin
        sums.update({(part, ends[part] - part): digest.hexdigest() for part, digest in hashes.items()})

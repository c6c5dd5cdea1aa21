"""SHA-256 sums of what is written, so that whoever reads it knows whether it is as it was."""

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

#: The file, or the member of a zip, that lists the SHA-256 sums of the others, as ``sha256sum`` writes and checks them.
SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
#: Where a member of a zip says how long its name is (APPNOTE.TXT, 4.3.7).
_LENGTHS_AT = 26
#: Bytes that are read at once, that are read behind what is written, and that are brought to the disk at once.
_CHUNK, _BEHIND, _TO_DISK = 2**20, 2**22, 2**27


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


# Zips that carry the sums of their members.


@contextlib.contextmanager
def zip_with_sums(file: BinaryIO, title: str) -> Iterator[io.BufferedRandom | io.BytesIO]:
    """
    A zip to which a list of its members' sums is added at the end.

    Whoever writes the zip knows nothing of sums, so they are taken from what was written. A new file is read behind
    its writer, in a thread, and is on its way to the disk meanwhile: sums and disk cost hardly any time of their own.

    :param file: what becomes the zip, as yet empty; a plain file if it can be read, too
    :param title: of the list
    :return: the zip to write, its members not compressed
    :raises OSError: if it can't be written
    """
    if not (isinstance(file, io.BufferedRandom) and isinstance(file.raw, io.FileIO)):  # what can't be looked at again
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
        followed.detach()  # the file is closed by whoever opened it


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


#: Where something begins in a file, and how long it is.
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
    """Taken from the file itself: zipfile would compute the zip's own sum again beside it."""
    begin, left = extent
    file.seek(begin)
    digest = hashlib.sha256()
    while left > 0 and (read := file.read(min(left, _CHUNK))):
        digest.update(read)
        left -= len(read)
    return digest.hexdigest()


class _FollowedFile(io.BufferedRandom):
    """
    A zip whose writer is followed: sums are taken of the file's parts, behind him, in a thread.

    ``zipfile`` seeks the place of a member, writes its header in one go, and then its contents. So a part begins after
    the first write that follows a seek, and ends with the next seek. Where a writer should do otherwise, these parts
    are none of the members, and their sums of no use; none is wrong.
    """

    def __init__(self, raw: io.FileIO):
        super().__init__(raw)
        self._path = raw.name
        self._pool = futures.ThreadPoolExecutor(2)  # one takes sums, one brings to the disk
        self._tasks: list[futures.Future[None]] = []
        self._written: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        #: the part begins here; the thread knows of what lies before the second; on its way to the disk is the third
        self._part = self._told = self._synced = 0
        self._header_comes = True

    def write(self, data: Any, /) -> int:
        """
        :param data: as any file takes it
        :return: its bytes
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
        :param target: as any file takes it
        :param whence: likewise
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
        :return: at the end, the sums of its parts
        :raises OSError: if it can't be read, or brought to the disk
        """
        sums: dict[_Extent, str] = {}
        with self._pool:
            self._tasks.append(self._pool.submit(self._take_sums, sums))
            try:
                yield sums
            finally:
                self._written.put(None)
            for task in self._tasks:
                task.result()  # what failed in a thread fails here: the next fsync would not tell it again

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

"""Sums that are taken of a zip while it is written."""

import hashlib
import io
import os
import zipfile

import pytest

from sb3_ca2e.common.files import written_through
from sb3_ca2e.common.sums import parse_sums, zip_with_sums

MB = 2**20


def a_zip_of(contents: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()


#: Empty, small, of many buffers, and those that look like what the zip itself is made of.
CONTENTS = {
    "empty": b"",
    "small": b"x",
    "large": os.urandom(11 * MB),
    "folder/zip": a_zip_of({"large": os.urandom(5 * MB), "small": b"y"}),
    "zip-again": a_zip_of({"small": b"z"}),
    "last": os.urandom(MB),
}


def in_one_go(archive):
    with zipfile.ZipFile(archive, "w") as opened:
        for name, content in CONTENTS.items():
            opened.writestr(name, content)


def in_pieces(archive):
    with zipfile.ZipFile(archive, "w") as opened:
        for name, content in CONTENTS.items():
            with opened.open(name, "w", force_zip64=True) as member:
                for begin in range(0, len(content), 999_983):
                    member.write(memoryview(content)[begin : begin + 999_983])


def without_a_seek(archive):
    archive.write(a_zip_of(CONTENTS))


def in_pieces_without_a_seek(archive):
    content = a_zip_of(CONTENTS)
    for begin in range(0, len(content), 777_777):
        archive.write(content[begin : begin + 777_777])


@pytest.mark.parametrize("write", [in_one_go, in_pieces, without_a_seek, in_pieces_without_a_seek])
def test_however_a_zip_is_written_its_sums_are_those_of_its_members(tmp_path, write):
    with written_through(tmp_path / "a.zip") as file, zip_with_sums(file, "a title") as archive:
        write(archive)

    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        title, sums = parse_sums(archive.read("SHA256SUMS"))
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in CONTENTS} == CONTENTS
    assert title == "a title"
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}


def test_a_file_that_can_only_be_written_gets_the_same_zip(tmp_path):
    with written_through(tmp_path / "a.zip") as file, zip_with_sums(file, "a title") as archive:
        without_a_seek(archive)
    with (tmp_path / "b.zip").open("wb") as file, zip_with_sums(file, "a title") as archive:
        without_a_seek(archive)

    zips = [zipfile.ZipFile(tmp_path / name) for name in ("a.zip", "b.zip")]
    first, second = ({name: archive.read(name) for name in archive.namelist()} for archive in zips)
    assert first == second
    assert "SHA256SUMS" in first


def test_what_fails_while_it_is_written_fails_and_the_file_can_be_closed(tmp_path):
    def fail_in_the_middle(file):
        with zip_with_sums(file, "a title") as archive:
            archive.write(os.urandom(9 * MB))
            raise KeyError("of the writer")

    with (tmp_path / "a.zip").open("w+b") as file, pytest.raises(KeyError, match="of the writer"):
        fail_in_the_middle(file)
    assert file.closed

"""Scripts as users write them, run in processes of their own."""

import os
import pathlib
import re
import sys
import tempfile
import textwrap

from tests import REPOSITORY

#: Python's own files, and those of other packages.
_ELSEWHERE = r"\S*/(?:site-packages/(?!sb3_ca2e/)|python3\.\d+/(?!site-packages/))\S+"
#: What Python, other packages and PyTorch's C++ code warn of.
_OF_OTHERS = re.compile(rf"^(?:{_ELSEWHERE}:\d+: \w+: .*\n(?:  .*\n)?|\[[WI]\d{{4}} .*\n)", re.M)


def script(text: str, folder: pathlib.Path, *arguments: str) -> list[str]:
    """A user's script, run with warnings as errors."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    return [sys.executable, "-W", "error", str(path), *arguments]


def environment(folder: pathlib.Path) -> dict[str, str]:
    """
    :param folder: where the script is run; ``tmp`` there leads to its temporary files
    :return: environment variables
    """
    temporary = folder / "tmp"
    if not temporary.exists():
        temporary.symlink_to(tempfile.mkdtemp())  # a short path: sockets are made there, and theirs may have 107 bytes
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary.resolve())}


def of_ours(stderr: str) -> str:
    """
    :param stderr: what a process has printed there
    :return: the same without what other packages warn of
    """
    return _OF_OTHERS.sub("", stderr)

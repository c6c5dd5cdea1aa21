"""Scripts as users write them, run in processes of their own."""

import os
import pathlib
import re
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[1]
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
    :param folder: where the script is run; temporary files go into ``tmp`` there
    :return: environment variables
    """
    (folder / "tmp").mkdir(exist_ok=True)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}


def of_ours(stderr: str) -> str:
    """
    :param stderr: what a process has printed there
    :return: the same without what other packages warn of
    """
    return _OF_OTHERS.sub("", stderr)

"""Scripts as users write them, run in processes of their own."""

import os
import pathlib
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[1]


def script(text: str, folder: pathlib.Path, *arguments: str) -> list[str]:
    """A user's script, run with warnings as errors."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(text))
    return [sys.executable, "-W", "error", str(path), *arguments]


def environment(folder: pathlib.Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}

"""Measure sides that need environments of their own in turns, so that what disturbs one disturbs all."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provenance import REPOSITORY

#: What a side measured: a figure, and what else there is to tell about it, by name.
Answer = float | tuple[float, dict[str, Any]]


def peer_environment(name: str, packages: Sequence[str], beside: bool = False) -> pathlib.Path:
    """
    An environment of the benchmark's own, made once.

    :param name: of its folder in ``runs/peers``
    :param packages: to install there
    :param beside: it sees the packages of this environment too, so that PyTorch and SB3 are the same
    :return: its Python
    """
    folder = REPOSITORY / "runs" / "peers" / name
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.is_file() or done.read_text() != " ".join(packages):
        print(f"installing {' '.join(packages)} into {folder.relative_to(REPOSITORY)}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        if beside:
            (site_packages,) = folder.glob("lib/python*/site-packages")
            (site_packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
        done.write_text(" ".join(packages))
    return python


class Side:
    """
    A process that measures when it is told to.

    :param name: as printed
    :param script: what it runs; it calls :func:`serve`
    :param arguments: of the script
    :param python: that runs it
    :param threads: of PyTorch and others
    :param variables: further environment variables of the process
    """

    def __init__(
        self,
        name: str,
        script: str,
        *arguments: str,
        python: str | pathlib.Path = sys.executable,
        threads: int = 1,
        variables: Mapping[str, str] | None = None,
    ):
        self.name = name
        own = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        flags = f"--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads={threads}" if threads == 1 else ""
        self._process = subprocess.Popen(
            [python, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **own, "XLA_FLAGS": flags, **(variables or {})},
        )
        self.ready = self._answer()
        #: what it told beside each figure
        self.notes: list[dict[str, Any]] = []

    def measure(self) -> float:
        """
        :return: what it measured now
        """
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._answer()
        if isinstance(answer, list):
            answer, note = answer
            self.notes.append(note)
        return float(answer)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return json.loads(line[2:])
        raise RuntimeError(f"{self.name} ended without an answer, see above.")


def serve(measure: Callable[[], Answer], ready: Any = None) -> None:
    """
    What a side's script does when it is ready.

    :param measure: once
    :param ready: what to tell before
    """
    print("> " + json.dumps(ready), flush=True)
    for _ in sys.stdin:
        print("> " + json.dumps(measure()), flush=True)


def in_turns(sides: Sequence[Side], repeats: int) -> dict[str, list[float]]:
    """
    :param sides: to measure
    :param repeats: measurements of each
    :return: what each measured
    """
    figures: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(repeats):
        for side in sides:
            figures[side.name].append(side.measure())
    return figures


def spread(figures: Sequence[float], digits: int = 0) -> str:
    """
    :param figures: of one side
    :param digits: after the point
    :return: their median and their range
    """
    return f"{statistics.median(figures):.{digits}f} ({min(figures):.{digits}f} to {max(figures):.{digits}f})"

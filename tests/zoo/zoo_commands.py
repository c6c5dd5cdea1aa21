"""Runs what imports rl_zoo3 in a process of its own: it patches gymnasium for the whole process."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from tests import REPOSITORY

#: Seconds; a command takes a few.
HANGS = 240


def run(*command: Any, cwd: pathlib.Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """
    :param command: program and arguments
    :param cwd: working directory
    :param environment: environment variables to set
    :return: the ended process with what it printed
    """
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": path, **environment}
    arguments = [str(argument) for argument in command]
    return subprocess.run(arguments, cwd=cwd, env=settings, capture_output=True, text=True, timeout=HANGS, check=False)


def zoo(*arguments: Any, cwd: pathlib.Path, **environment: str) -> str:
    """
    Run a command that must succeed.

    :param arguments: what comes behind ``sb3-ca2e``
    :param cwd: working directory
    :param environment: environment variables to set
    :return: what it printed
    """
    done = run(sys.executable, "-m", "sb3_ca2e.zoo", *arguments, cwd=cwd, **environment)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def script(code: str, cwd: pathlib.Path) -> Any:
    """
    Run a script that must succeed.

    :param code: its lines; the last prints JSON
    :param cwd: working directory
    :return: what its last line printed
    """
    done = run(sys.executable, "-c", code, cwd=cwd)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])

"""What a figure was measured on, and where results are written."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
RESULTS = pathlib.Path(__file__).resolve().parent / "results"
PACKAGES = ("stable_baselines3", "torch", "gymnasium", "numpy")

#: What stands below a table that a benchmark writes into a file of words; above it stands a mark of its own.
END_MARK = "<!-- end -->"


def provenance() -> dict[str, Any]:
    """
    :return: commit, date, machine and versions, as plain data
    """
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES},
        },
    }


def commit() -> str:
    """
    :return: the commit that is checked out, with ``-dirty`` if tracked files of the package differ from it; what
        ``SB3_CA2E_COMMIT`` says where only files were copied
    """
    if named := os.environ.get("SB3_CA2E_COMMIT"):
        return named
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "sb3_ca2e", "hyperparams")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("-dirty" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.strip()


def device() -> str:
    """
    :return: CPU, number of cores that may be used, and the accelerator, if there is one
    """
    import torch as th  # not here for peers in environments of their own

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    described = f"{_cpu_name()}, {cores} cores"
    return f"{described}, {th.cuda.get_device_name()}" if th.cuda.is_available() else described


def _cpu_name() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def describe(measured_on: dict[str, Any]) -> str:
    """
    :param measured_on: what :func:`provenance` returned
    :return: one line
    """
    versions = ", ".join(f"{name} {version}" for name, version in measured_on["versions"].items())
    return f"{measured_on['date']}, commit {measured_on['commit']}, {measured_on['device']}; {versions}"


def write_json(path: pathlib.Path, content: Any) -> None:
    """
    Write a file whole or not at all.

    :param path: where to
    :param content: plain data
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def write_results(folder: pathlib.Path, name: str, results: Any, text: str) -> None:
    """
    Write what a benchmark found, for machines and for people.

    :param folder: where to
    :param name: of the files, without their ending
    :param results: plain data
    :param text: the same as Markdown, printed too
    """
    write_json(folder / f"{name}.json", results)
    (folder / f"{name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    print(text.rstrip())
    print(f"\nwritten to {folder / name}.json and .md")


def write_between(path: pathlib.Path, mark: str, text: str) -> None:
    """
    Write a table into a file of words.

    :param path: of the file
    :param mark: what stands above the table
    :param text: the table
    :raises ValueError: if the file has no such mark, or no :data:`END_MARK` after it
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(mark)
    _, end, after = rest.partition(END_MARK)
    if not begin or not end:
        raise ValueError(f"{path} needs a line {mark} and one {END_MARK} below it: the table goes between them.")
    path.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")

"""
Read files that mean harm, and tell what happened: ``malice_worker.py MANIFEST inert|trusting``.

The manifest is a list of ``[title, kind, path]``. ``inert`` reads as the package does, under an audit hook;
``trusting`` as SB3, pickle and YAML do, which shows that the files are as bad as they look.
"""

import copyreg
import io
import json
import os
import pathlib
import pickle
import re
import resource
import sys
import time
import warnings
import zipfile

import torch as th
import yaml
from stable_baselines3 import DQN

from sb3_ca2e.priors.find import BUNDLED
from sb3_ca2e.priors.reader.config import read_yaml
from sb3_ca2e.priors.reader.errors import UntrustedAgentError
from sb3_ca2e.priors.reader.model import read_agent
from sb3_ca2e.priors.reader.policies import CLASS_SYMBOLS, import_policy
from sb3_ca2e.priors.reader.statistics import read_vec_normalize
from tests.priors.reader.opcodes import EXTENSION_CODE

READERS = {"agent": read_agent, "statistics": read_vec_normalize, "config": read_yaml}

#: What the interpreter says before it runs or reaches something; their names as prefixes
WATCHED = (
    *("import", "exec", "compile", "code.__new__", "function.__new__", "marshal.", "pickle.", "cpython.", "ctypes."),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.mkdir", "os.putenv", "os.remove"),
    *("os.rename", "os.link", "os.symlink", "os.chmod", "os.kill", "os.unsetenv", "subprocess.", "socket.", "shutil."),
    *("urllib.", "webbrowser.", "builtins.input", "sys.settrace", "sys.setprofile", "sys.addaudithook"),
)


def trust(kind: str, path: pathlib.Path) -> None:
    """Read a file as its own libraries do, with the loader of torch before 2.6 for what torch wrote."""
    if kind == "statistics":
        pickle.loads(path.read_bytes())
    elif kind == "config":
        yaml.load(path.read_bytes(), yaml.UnsafeLoader)
    else:
        for name in ("policy.pth", "pytorch_variables.pth", "policy.optimizer.pth"):
            _ignoring(lambda name=name: th.load(io.BytesIO(zipfile.ZipFile(path).read(name)), weights_only=False))
        DQN.load(path, device="cpu")


def peak_memory() -> int:
    """
    :return: the most memory that this process has had, in KiB
    """
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1])  # the above counts what this process was forked from


def _ignoring(action) -> BaseException | None:
    try:
        action()
    except BaseException as error:
        return error
    return None


def read_all(manifest: list[tuple[str, str, str]]) -> list[dict[str, object]]:
    """
    :param manifest: titles, kinds and paths
    :return: for each: ``error``, its ``message``, ``seconds``, ``memory`` in KiB by which the peak grew, and what was
        ``executed``
    """
    for policy_class in CLASS_SYMBOLS:  # so that nothing is left to import
        import_policy(policy_class)
    for path in BUNDLED.glob("*/*/*.zip"):
        read_agent(path)
    events: list[str] = []
    watching = False

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if watching and (writes or event.startswith(WATCHED)):
            events.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(watch)
    results = []
    for title, kind, path in manifest:
        events.clear()
        peak, start = peak_memory(), time.perf_counter()
        watching = True
        error = _ignoring(lambda kind=kind, path=path: READERS[kind](pathlib.Path(path)))
        watching = False
        results.append(
            {
                "title": title,
                "kind": kind,
                "seconds": time.perf_counter() - start,
                "memory": peak_memory() - peak,
                "error": type(error).__name__,
                "refused": isinstance(error, UntrustedAgentError),
                "message": str(error),
                "executed": list(events),
            }
        )
    return results


def main() -> None:
    """Read the manifest, write the results to standard output."""
    manifest = json.loads(pathlib.Path(sys.argv[1]).read_text())
    copyreg.add_extension("io", "open", EXTENSION_CODE)  # as if a package had registered a function
    for folder in {str(pathlib.Path(path).parent) for _, _, path in manifest}:
        sys.path.append(folder)
    warnings.simplefilter("ignore")
    if sys.argv[2] == "inert":
        json.dump(read_all(manifest), sys.stdout)
        return
    for _, kind, path in manifest:
        _ignoring(lambda kind=kind, path=path: trust(kind, pathlib.Path(path)))


if __name__ == "__main__":
    main()

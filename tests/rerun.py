"""Runs tests that failed once more, alone and one at a time. One that passes then is flaky: named, to be mended."""

import json
import pathlib
import subprocess
import sys


def main(failures: pathlib.Path) -> int:
    """
    :param failures: what ``pytest --failures`` wrote
    :return: 1 if a test fails again, or if what failed was no test; else 0
    """
    first: dict[str, str] = {}
    for line in failures.read_text().splitlines():
        failure = json.loads(line)
        first.setdefault(failure["test"], failure["traceback"])
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", ""]
    passed = {test: subprocess.run([*command, test]).returncode == 0 for test in first}
    for test, traceback in first.items():
        print(f"{'FLAKY' if passed[test] else 'FAILED TWICE'} {test}\nThe first time:\n{traceback}\n", flush=True)
    return 0 if passed and all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))

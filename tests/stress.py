"""
Looks for tests that fail by chance: those of concurrent code in random order, with their limits times four, beside two
processes that are always busy; then each test that has ever failed by chance, many times.

What has been run is not run again: each round leaves what it printed in a folder, which `--folder` names.
"""

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

TESTS = pathlib.Path(__file__).parent
#: Folders and files whose tests start no process and no thread.
ALONE = ["replay", "priors/reader", "actors/test_exploration.py", "whole/test_cuda.py", "checkpoints/test_damage.py"]
ALONE += ["common/test_layers.py", "whole/test_plots.py", "learner/test_updates.py", "zoo/test_hyperparams.py"]
#: As actors have, which more load would only starve.
NICENESS = 10


@contextlib.contextmanager
def busy(n_processes: int) -> Iterator[None]:
    """
    :param n_processes: that do nothing, all the time
    """
    command = ["nice", "-n", str(NICENESS), sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(n_processes)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(name: str, folder: pathlib.Path, *arguments: str) -> bool:
    """
    Run tests, unless it has been done.

    :param name: of the file that keeps what was printed
    :param folder: of such files
    :param arguments: for pytest
    :return: whether all passed
    """
    kept, running = folder / f"{name}.txt", folder / f"{name}.running"
    if not kept.exists():
        command = [sys.executable, "-m", "pytest", "-m", "not slow", "-p", "randomly", "--patience", "4", *arguments]
        environment = {**os.environ, "HYPOTHESIS_PROFILE": "search"}
        with running.open("w") as output, busy(2):
            code = subprocess.run(command, cwd=TESTS.parent, env=environment, stdout=output, stderr=output).returncode
            if code not in (0, 1):  # interrupted, or nothing was run
                raise SystemExit(f"pytest ended with {code}: {running}")
        running.rename(kept)
    *_, last = kept.read_text().splitlines()
    print(f"{name}: {last.strip('= ')}", flush=True)
    return "failed" not in last and "error" not in last


def main() -> int:
    """
    :return: 0 if no test failed
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of all concurrent tests, each in an order of its own")
    parser.add_argument("--repeat", type=int, default=20, help="of each test that once failed")
    parser.add_argument("--folder", type=pathlib.Path, default=TESTS.parent / "runs" / "stress")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    concurrent = [str(TESTS), *(f"--ignore={TESTS / each}" for each in ALONE)]
    ok = [
        run(f"round-{seed}", arguments.folder, "--randomly-seed", str(seed), *concurrent)
        for seed in range(1, arguments.rounds + 1)
    ]
    once_failed = (TESTS / "once_failed.txt").read_text().split("\n")
    tests = [str(TESTS / each) for each in once_failed if each and not each.startswith("#")]
    for seed in range(1, arguments.repeat + 1):  # --count would change the tests' names
        ok.append(run(f"once-failed-{seed}", arguments.folder, "--randomly-seed", str(seed), *tests))
    return 0 if all(ok) else 1


if __name__ == "__main__":
    sys.exit(main())

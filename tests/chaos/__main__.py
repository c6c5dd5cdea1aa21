"""Runs rows, each in a process of its own, and prints a line for each."""

import argparse
import subprocess
import sys
import time
import traceback

from tests.chaos.rows import ROWS


def main() -> int:
    """
    :return: how many rows failed
    """
    parser = argparse.ArgumentParser("chaos", description=__doc__)
    parser.add_argument("--row", action="append", choices=ROWS, help="one of them; all without")
    parser.add_argument("--small", action="store_true", help="as the tests run them")
    parser.add_argument("--here", action="store_true", help="in this process")
    arguments = parser.parse_args()
    names = arguments.row or list(ROWS)
    if arguments.here:
        return sum(not run(name, arguments.small) for name in names)
    failed = 0
    for name in names:
        command = [sys.executable, "-m", "tests.chaos", "--row", name, "--here", *["--small"] * arguments.small]
        failed += subprocess.run(command).returncode != 0
    return failed


def run(name: str, small: bool) -> bool:
    """
    :param name: of a row
    :param small: as the tests run it
    :return: whether what must be seen was seen
    """
    row = ROWS[name]
    started = time.monotonic()
    try:
        parts = [part for part in (row.small, row.rest) if part is not None] if small else [row.full]
        said, ok = "; ".join(part() for part in parts), True
    except Exception as error:
        traceback.print_exc()
        said, ok = f"{type(error).__name__}: {error}".splitlines()[0], False
    print(f"{name:4} {'ok' if ok else 'FAILED':6} {time.monotonic() - started:6.0f} s  {row.cause}: {said}", flush=True)
    return ok


if __name__ == "__main__":
    sys.exit(main())

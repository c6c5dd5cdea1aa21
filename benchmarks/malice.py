"""
How quickly, and in how much memory, files that mean harm are refused.

Makes the attacks and the damaged files of the tests, has a process of its own read each, and prints how many were
refused, what was executed (nothing may be), and the longest time and largest growth of memory for one file.

Usage: ``python benchmarks/malice.py [--damaged 2000] [--slowest 10]``; agents in ``$SB3_CA2E_AGENTS`` are damaged too
"""

import argparse
import importlib
import pathlib
import sys
import tempfile
from typing import Any

from provenance import REPOSITORY, device

SECONDS_GOAL, MIB_GOAL = 1.0, 256


def report(kind: str, results: list[dict[str, Any]], slowest: int) -> bool:
    """
    :param kind: what the files are
    :param results: what the reading process tells of each
    :param slowest: how many of the slowest files to list
    :return: whether nothing was executed and the goals were met
    """
    refused = sum(each["refused"] for each in results)
    executed = [each["title"] for each in results if each["executed"]]
    seconds, mib = max(each["seconds"] for each in results), max(each["memory"] for each in results) / 1024
    print(f"{len(results)} {kind}: {refused} refused, {len(executed)} executed something {executed or ''}")
    print(f"  at most {seconds:.2f} s (goal {SECONDS_GOAL} s) and {mib:.0f} MiB (goal {MIB_GOAL} MiB) for one")
    for each in sorted(results, key=lambda each: -each["seconds"])[:slowest]:
        print(f"  {each['seconds']:6.3f} s  {each['title']}")
    return not executed and seconds < SECONDS_GOAL and mib < MIB_GOAL


def main() -> None:
    """Read all files, print, and exit with 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damaged", type=int, default=480, help="number of damaged files")
    parser.add_argument("--slowest", type=int, default=5, help="number of the slowest files to list")
    arguments = parser.parse_args()
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "priors" / "reader")]
    malice, executing, burdens = (importlib.import_module(name) for name in ("malice", "executing", "burdens"))
    print(device())
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        malice.save_honest_files(folder)
        agent, statistics = folder / "dqn.zip", folder / "vecnormalize.pkl"
        every = executing.that_execute(agent, statistics) + burdens.that_burden(agent)
        written = malice.write_attacks(every, folder / "attacks")
        damaged = malice.write_damaged_files(folder, folder / "damaged", arguments.damaged)
        good = [
            report("attacks", malice.work(written, "inert", folder), arguments.slowest),
            report("damaged files", malice.work(damaged, "inert", folder), arguments.slowest),
        ]
        canaries = list(folder.glob("*/*.made"))
        print(f"{len(canaries)} canaries were made")
    sys.exit(not all(good) or bool(canaries))


if __name__ == "__main__":
    main()

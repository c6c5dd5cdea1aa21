"""
How quickly, and in how much memory, files that mean harm are refused.

Makes the attacks and the damaged files of the tests, has a process of its own read each under an audit hook, and tells
how many were refused, what was executed (nothing may be), and the longest time and largest growth of memory for a file.

Usage: ``python benchmarks/malice.py [--damaged 480] [--out benchmarks/results]``; agents in ``$SB3_CA2E_AGENTS`` are
damaged too, beside those of the package
"""

import argparse
import importlib
import pathlib
import sys
import tempfile
from typing import Any

from provenance import REPOSITORY, RESULTS, describe, provenance, write_results

SECONDS_GOAL, MIB_GOAL = 1.0, 256


def read_all(n_damaged: int) -> dict[str, list[dict[str, Any]]]:
    """
    :param n_damaged: number of damaged files
    :return: what the reading process tells of each file, by the kind of files
    """
    sys.path.insert(0, str(REPOSITORY))
    names = "malice", "executing", "burdens"
    malice, executing, burdens = (importlib.import_module(f"tests.priors.reader.{name}") for name in names)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        malice.save_honest_files(folder)
        agent, statistics = folder / "dqn.zip", folder / "vecnormalize.pkl"
        attacks = executing.that_execute(agent, statistics) + burdens.that_burden(agent)
        written = malice.write_attacks(attacks, folder / "attacks")
        damaged = malice.write_damaged_files(folder, folder / "damaged", n_damaged)
        told = {
            "written by hand": malice.work(written, "inert", folder),
            "damaged by chance": malice.work(damaged, "inert", folder),
        }
        assert not list(folder.glob("*/*.made")), "something was executed, and the audit hook did not see it"
    return told


def row(told: list[dict[str, Any]]) -> dict[str, Any]:
    """
    :param told: what the reading process tells of each file
    :return: the figures of all
    """
    slowest = max(told, key=lambda each: each["seconds"])
    return {
        "files": len(told),
        "refused": sum(each["refused"] for each in told),
        "executed": [each["title"] for each in told if each["executed"]],
        "seconds": slowest["seconds"],
        "slowest": slowest["title"],
        "mib": max(each["memory"] for each in told) / 1024,
    }


def main() -> None:
    """Read all files, write the figures, and exit with 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damaged", type=int, default=480, help="number of damaged files")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder for the results")
    arguments = parser.parse_args()
    rows = {kind: row(told) for kind, told in read_all(arguments.damaged).items()}
    results = {"measured_on": provenance(), "rows": rows}
    lines = [
        "# Files that mean harm",
        "",
        "| files | | refused | executed something | slowest | most memory |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
        *(
            f"| {kind} | {each['files']} | {each['refused']} | {len(each['executed'])} "
            f"| {each['seconds']:.2f} s, {each['slowest']} | {each['mib']:.0f} MiB |"
            for kind, each in rows.items()
        ),
        "",
        f"Goals: nothing is executed, at most {SECONDS_GOAL:.0f} s and {MIB_GOAL} MiB for a file. Where a "
        "file is not refused, the harm was done where nothing is read, or what is read is still an agent.",
        "",
        describe(results["measured_on"]),
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_results(arguments.out, "malice", results, "\n".join(lines))
    good = all(
        not each["executed"] and each["seconds"] < SECONDS_GOAL and each["mib"] < MIB_GOAL for each in rows.values()
    )
    sys.exit(not good)


if __name__ == "__main__":
    main()

"""
Compare this commit with an earlier one: our side of rows of a benchmark, in alternating pairs.

Each commit is checked out into a temporary folder, and measured by its own script in a process of its own.

Usage::

    python benchmarks/earlier.py d78e2cb --row hopper --row pong-native      # acting: two minutes
    python benchmarks/earlier.py d78e2cb --script updates --row dqn --pairs 5
"""

import argparse
import pathlib
import statistics
import subprocess
import tempfile
from typing import Any

from provenance import REPOSITORY, RESULTS, describe, provenance, write_results
from turns import Side, in_turns, spread

OURS = "sb3_ca2e"  # the side's name in all scripts


def checked_out(commit: str, folder: pathlib.Path) -> str:
    """
    :param commit: any name that git knows it by
    :param folder: to make, with the commit's files
    :return: its short hash
    """
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(REPOSITORY), str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", commit], check=True)
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def pairs(script: str, row: str, folders: dict[str, pathlib.Path], n_pairs: int, shorten: int) -> dict[str, Any]:
    """
    :param script: name of the benchmark
    :param row: to measure
    :param folders: of the earlier commit and of this one, by short hash
    :param n_pairs: measurements of each
    :param shorten: how many times shorter each measurement is
    :return: figures by commit, the ratio of each pair, and their median
    """
    sides = [
        Side(
            commit,
            str(folder / "benchmarks" / f"{script}.py"),
            *("--row", row, "--side", OURS, *(("--shorten", str(shorten)) if shorten > 1 else ())),
            variables={"PYTHONPATH": str(folder)},
        )
        for commit, folder in folders.items()
    ]
    in_turns(sides, 1)  # files are read, networks traced
    figures = in_turns(sides, n_pairs)
    for side in sides:
        side.close()
    before, now = figures.values()
    ratios = [new / old for old, new in zip(before, now, strict=True)]
    return {"figures": figures, "ratios": ratios, "ratio": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the earlier one")
    parser.add_argument("--script", default="acting", help="name of the benchmark: acting")
    parser.add_argument("--row", action="append", required=True, help="of the script; may be given several times")
    parser.add_argument("--pairs", type=int, default=10, help="measurements of each commit")
    parser.add_argument(
        "--shorten", type=int, default=1, help="make each measurement so many times shorter, if it can be"
    )
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="where results go")
    args = parser.parse_args()

    measured_on, results = provenance(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {}
        for commit in (args.commit, "HEAD"):
            folder = pathlib.Path(temporary, commit)
            folders[checked_out(commit, folder)] = folder
        earlier, now = folders
        lines = [f"# {args.script.capitalize()}: {now} beside {earlier}", ""]
        lines += [f"Medians of {args.pairs} alternating pairs, in brackets the range.", ""]
        lines += [f"| row | {earlier} | {now} | ratio of a pair |", "| --- | --- | --- | --- |"]
        for row in args.row:
            result = results[row] = pairs(args.script, row, folders, args.pairs, args.shorten)
            old, new = result["figures"].values()
            lines.append(f"| {row} | {spread(old)} | {spread(new)} | {spread(result['ratios'], 2)} |")
            print(lines[-1], flush=True)
    lines += ["", describe(measured_on)]
    name = f"{args.script}_since_{earlier}"
    write_results(args.out, name, {"rows": results, "measured_on": measured_on}, "\n".join(lines))


if __name__ == "__main__":
    main()

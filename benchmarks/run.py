"""
All benchmarks of speed, and one table of what they found. It fails only if one of them does not run to its end.

Usage::

    python benchmarks/run.py             # on the CPU: under half an hour on two cores with nothing else to do
    python benchmarks/run.py --quick     # shorter measurements, once each: whether they run, rather than what they find
    python benchmarks/run.py --gpu       # what needs a GPU
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from provenance import REPOSITORY, RESULTS, describe, provenance, write_results

FOLDER = pathlib.Path(__file__).resolve().parent


@dataclass(frozen=True)
class Script:
    """
    A benchmark with what it is told for a whole and for a quick run.

    :param name: of its file and of its results
    :param whole: arguments
    :param quick: arguments; they leave out rows whose code the others run too
    """

    name: str
    whole: tuple[str, ...] = ()
    quick: tuple[str, ...] = ("--quick",)


ON_CPU = (
    Script("replay", quick=("--quick", "--held", "100000")),
    Script("updates", ("--repeats", "5"), ("--repeats", "1", "--row", "ddpg", "--row", "dqn")),
    Script("acting"),
    Script("end_to_end", quick=("--quick", "--row", "ddpg-hopper", "--row", "dqn-pong-native")),
)
ON_GPU = (Script("gpu"),)


def run(script: Script, quick: bool, out: pathlib.Path) -> bool:
    """
    :param script: to run
    :param quick: shortly
    :param out: where results go
    :return: whether it ran to its end
    """
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    arguments = script.quick if quick else script.whole
    command = [sys.executable, str(FOLDER / f"{script.name}.py"), *arguments, "--out", str(out)]
    print(f"\n=== {script.name} ===", flush=True)
    started = time.perf_counter()
    code = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}).returncode
    print(f"({script.name}: {time.perf_counter() - started:.0f} s)", flush=True)
    return code == 0


def summary(script: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """
    :param script: name of the benchmark
    :param rows: what it wrote of its rows: figures by side, ours first, ratios, and goals
    :return: lines of a table, one a goal, or a peer without one
    """
    lines = []
    for name, row in rows.items():
        medians = {side: statistics.median(figures) for side, figures in row["figures"].items()}
        own = f"{next(iter(medians.values())):.4g} {row['unit']}"
        for key, goal in row["goals"].items():
            peer = ratio = ""
            if key in medians:
                peer, ratio = f"{key}: {medians[key]:.4g}", f"{row['ratios'][key]:.2f}"
            elif key:
                peer = key
            ours = own
            if key and key not in medians:  # a number noted beside the figures
                ours = f"{row['ratios'][key]:.4g}" if key in row["ratios"] else "not measured"
            told = {True: "reached", False: "**MISSED**", None: ""}[row["reached"].get(key)]
            asked = "none" if goal is None else f"{'<=' if row.get('at_most') else '>='} {goal:.3g}"
            lines.append(f"| {script}: {name} | {ours} | {peer} | {ratio} | {asked} | {told} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter measurements, once each")
    parser.add_argument("--gpu", action="store_true", help="what needs a GPU, and nothing else")
    parser.add_argument("--out", type=pathlib.Path, help="where results go: benchmarks/results, or runs/bench if quick")
    args = parser.parse_args()
    out = args.out or (REPOSITORY / "runs" / "bench" if args.quick else RESULTS)
    measured_on, started = provenance(), time.time()
    lines = ["# All rows", "", "| row | ours | peer | ratio | goal | |", "| --- | --- | --- | --- | --- | --- |"]
    failed, measured = [], False
    for script in ON_GPU if args.gpu else ON_CPU:
        if not run(script, args.quick, out):
            failed.append(script.name)
        written = out / f"{script.name}.json"
        if written.is_file() and written.stat().st_mtime >= started:
            measured = True
            lines += summary(script.name, json.loads(written.read_text(encoding="utf-8"))["rows"])
    minutes = (time.time() - started) / 60
    lines += ["", f"{minutes:.0f} minutes; {describe(measured_on)}"]
    if measured:
        results = {"minutes": minutes, "failed": failed, "measured_on": measured_on}
        print()
        write_results(out, "all_rows_gpu" if args.gpu else "all_rows", results, "\n".join(lines))
    if failed:
        sys.exit(f"did not run to their end: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""
The same program under SB3 and under CA2E: environments, wrappers and pairs of wrappers.

Each case runs in processes of its own. What has been tried is kept in ``runs/fidelity/cases.jsonl`` and is not tried
again, so that an interrupted run goes on where it was. The table is written when all cases have been tried.

Usage: ``python benchmarks/fidelity.py [--only REGEX] [--fresh] [--report] [--list] [--out benchmarks/results]``
"""

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any

from differential.cases import MODES, Case, cases
from provenance import REPOSITORY, RESULTS, commit, describe, provenance, write_results

RUNS = REPOSITORY / "runs" / "fidelity"
#: Seconds after which a process counts as hanging.
PATIENCE = 1800.0
#: How often a mode is repeated before what may be chance counts as wrong.
REPEATS = 3
VERDICTS = ("equal", "alike", "refused", "not installed", "wrong")

Verdicts = dict[str, tuple[str, str]]


def tried(case: Case, modes: Iterable[str] = tuple(MODES), patience: float = PATIENCE) -> Verdicts:
    """
    Try a case.

    :param case: the case
    :param modes: ways to pass the environment
    :param patience: seconds after which a process counts as hanging
    :return: verdict and reason of each mode
    """
    if (missing := case.environment.missing) is not None:
        return dict.fromkeys(modes, ("not installed", missing))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fidelity-"))
    try:
        verdicts = _run_and_compare(case, folder, modes, patience)
        unequal = [mode for mode, (verdict, _) in verdicts.items() if verdict == "differs"]
        if unequal:
            verdicts |= _compared(case, folder, [*unequal, "--other"], patience)
        for mode in [mode for mode, (verdict, _) in verdicts.items() if verdict == "random"]:
            verdicts[mode] = _run_and_compare(case, folder, [f"{mode}:distribution"], patience)[f"{mode}:distribution"]
        for mode in [mode for mode, (verdict, _) in verdicts.items() if verdict == "same"]:
            verdicts[mode] = _repeated(case, folder, mode, verdicts[mode], patience)
        return verdicts
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_and_compare(case: Case, folder: pathlib.Path, modes: Iterable[str], patience: float) -> Verdicts:
    verdicts: Verdicts = {}
    while left := [mode for mode in modes if mode not in verdicts and not (folder / f"{mode}.pickle").exists()]:
        failure = _run("ours", case, folder, left, patience)
        at = folder / "at"
        if failure is not None:  # goes on with the next mode
            verdicts[at.read_text() if at.exists() else left[0]] = ("wrong", f"our process {failure}")
    return verdicts | _compared(case, folder, [mode for mode in modes if mode not in verdicts], patience)


def _repeated(
    case: Case, folder: pathlib.Path, mode: str, verdict: tuple[str, str], patience: float
) -> tuple[str, str]:
    """
    Repeat a mode without seeds in which ours saw the same and SB3's did not: what an environment draws may be equal by
    chance, as the gaps between FlappyBird's pipes; a random generator that begins anew is so each time.
    """
    for attempt in range(REPEATS):
        (to := folder / f"repeated-{mode}-{attempt}").mkdir()
        verdict = _run_and_compare(case, to, [mode], patience)[mode]
        if verdict[0] != "same":
            return verdict
    return "wrong", f"{verdict[1]}, {REPEATS + 1} times"


def _compared(case: Case, folder: pathlib.Path, modes: list[str], patience: float) -> Verdicts:
    (told := folder / "verdicts.json").unlink(missing_ok=True)
    if modes and (failure := _run("theirs", case, folder, modes, patience)) is not None:
        return {mode: ("wrong", f"the comparing process {failure}") for mode in modes if not mode.startswith("--")}
    return (
        {mode: (verdict, reason) for mode, (verdict, reason) in json.loads(told.read_text()).items()} if modes else {}
    )


def _run(module: str, case: Case, folder: pathlib.Path, modes: list[str], patience: float) -> str | None:
    """Run one side; return how it failed."""
    here = pathlib.Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy"}
    command = [sys.executable, "-m", f"differential.{module}", case.name, str(folder), *modes]
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            return f"had not ended after {patience:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode == 0:
            return None
        output.seek(0)
        return f"ended with {process.returncode}: {output.read()[-1500:]}"


def try_all(path: pathlib.Path, names: Iterable[str]) -> None:
    """
    Try cases that have not been tried, and append what came of each to a file.

    :param path: of the file
    :param names: names of the cases
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = read(path)
    for name in names:
        if name in done:
            continue
        case, started = cases()[name], time.perf_counter()
        verdicts = tried(case)
        entry = {
            "name": name,
            "kind": case.kind,
            "package": case.environment.package or "gymnasium",
            "commit": commit(),
            "seconds": round(time.perf_counter() - started, 1),
            "verdicts": verdicts,
        }
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        counts = collections.Counter(verdict for verdict, _ in verdicts.values())
        print(name, dict(counts), f"{entry['seconds']} s", flush=True)
        for mode, (verdict, reason) in verdicts.items():
            if verdict == "wrong":
                print(f"  WRONG {mode}: {reason}", flush=True)


def read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """
    Read what has been tried.

    :param path: of the file
    :return: what came of each case, by name
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def table(entries: list[dict[str, Any]]) -> list[str]:
    """
    Write the table.

    :param entries: what came of each case
    :return: its lines in Markdown
    """
    lines = []
    for kind, title in (("environment", "Environments"), ("wrapper", "Wrappers"), ("pair", "Pairs of wrappers")):
        of_kind = [entry["verdicts"] for entry in entries if entry["kind"] == kind]
        lines += [f"## {title}: {len(of_kind)}", "", f"| program | tried | {' | '.join(VERDICTS)} |"]
        lines += [f"| --- | {' | '.join(['---:'] * (len(VERDICTS) + 1))} |"]
        for mode in MODES:
            counts = collections.Counter(verdicts[mode][0] for verdicts in of_kind if mode in verdicts)
            cells = [str(sum(counts.values())), *(str(counts[verdict]) for verdict in VERDICTS)]
            lines.append(f"| {MODES[mode]} | {' | '.join(cells)} |")
        lines.append("")
    return [*lines, *_reasons(entries)]


def _reasons(entries: list[dict[str, Any]]) -> list[str]:
    lines = ["## What is not equal", "", "| case | program | verdict | reason |", "| --- | --- | --- | --- |"]
    for entry in entries:
        by_reason: dict[tuple[str, str], list[str]] = {}
        for mode, (verdict, reason) in entry["verdicts"].items():
            if verdict != "equal":
                by_reason.setdefault((verdict, _short(reason)), []).append(mode)
        for (verdict, reason), modes in by_reason.items():
            shown = "all" if len(modes) == len(MODES) else ", ".join(modes)
            lines.append(f"| {entry['name']} | {shown} | {verdict} | {reason} |")
    return lines


def _short(reason: str) -> str:
    line = " ".join(reason.split()).replace("|", "\\|").replace("<", "\\<")
    return line if len(line) <= 320 else line[:320] + " ..."


def report(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """
    Write the results of all cases.

    :param path: of the file of what has been tried
    :param folder: where to
    :return: whether nothing is wrong
    """
    done = read(path)
    entries = [done[name] for name in cases() if name in done]
    commits = collections.Counter(entry["commit"] for entry in entries)
    packages = {entry["package"] for entry in entries if entry["verdicts"]["sync"][0] != "not installed"}
    results = {"measured_on": provenance(), "seconds": sum(entry["seconds"] for entry in entries), "cases": entries}
    lines = [
        "# The same program under SB3 and CA2E",
        "",
        f"{len(entries)} of {len(cases())} cases, environments of {len(packages)} packages, "
        f"{results['seconds'] / 60:.0f} minutes. Goal: nothing is wrong.",
        "",
        f"Tried at {', '.join(f'{name} ({count})' for name, count in commits.items())}.",
        "",
        *table(entries),
        "",
        describe(results["measured_on"]),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, "fidelity", results, "\n".join(lines))
    return all(verdict != "wrong" for entry in entries for verdict, _ in entry["verdicts"].values())


def main() -> None:
    """Try the cases, write the table, and exit with 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="regular expression: the names of the cases to try; writes no table")
    parser.add_argument("--fresh", action="store_true", help="try again what has been tried")
    parser.add_argument("--report", action="store_true", help="write the table of what has been tried")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder for the table")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the processes of the case under way
    names = [name for name in cases() if options.only is None or re.search(options.only, name)]
    path = RUNS / "cases.jsonl"
    if options.list:
        print("\n".join(names))
        return
    if options.fresh and path.exists():
        kept = [line for line in path.read_text().splitlines(True) if json.loads(line)["name"] not in names]
        path.write_text("".join(kept))
    if not options.report:
        try_all(path, names)
    if options.only is None:
        sys.exit(not report(path, options.out))
    done = read(path)
    sys.exit(any(verdict == "wrong" for name in names for verdict, _ in done[name]["verdicts"].values()))


if __name__ == "__main__":
    main()

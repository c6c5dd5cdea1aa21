"""Rows of a benchmark: sides that measure the same thing in turns, the ratios of their medians, and goals for them."""

import argparse
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import turns

#: From the name of a row and the length of a measurement to what measures once.
Side = Callable[[str, int], Callable[[], turns.Answer]]
#: How many times shorter ``--quick`` makes each measurement, and how often each is repeated then and otherwise.
QUICK, QUICK_REPEATS, REPEATS = 8, 1, 5


@dataclass(frozen=True)
class Row:
    """
    What is measured.

    :param what: as printed
    :param unit: of the figures
    :param sides: the first is ours
    :param goals: of our median divided by that of each peer, None for a ratio without a goal; by "", of our median
        itself; by the name of a number that our side notes, of the median of that
    :param n: length of a measurement: transitions, updates
    :param at_most: goals are not to be exceeded, rather than reached
    :param times: what the peer is multiplied by
    :param threads: of PyTorch for a side, 1 where it is not named
    :param pythons: what gives the Python of a side, where it is not ours
    """

    what: str
    unit: str
    sides: Mapping[str, Side]
    goals: Mapping[str, float | None]
    n: int = 0
    at_most: bool = False
    times: int = 1
    threads: Mapping[str, int] = field(default_factory=dict)
    pythons: Mapping[str, Callable[[], pathlib.Path]] = field(default_factory=dict)


def argument_parser(
    description: str | None, names: Iterable[str], *parents: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """
    :param description: of the script
    :param names: of its rows
    :param parents: parsers of further arguments
    :return: a parser of what :func:`run` needs
    """
    parser = argparse.ArgumentParser(
        description=description, parents=parents, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", choices=list(names), help="only this one; may be given several times")
    parser.add_argument("--repeats", type=int, help=f"measurements of each side: {REPEATS}; {QUICK_REPEATS} if quick")
    parser.add_argument("--quick", action="store_true", help=f"the same as --shorten {QUICK}, and fewer repeats")
    parser.add_argument("--shorten", type=int, default=1, help="make each measurement so many times shorter")
    parser.add_argument("--out", type=pathlib.Path, help="where results go; benchmarks/results if all rows are run")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser


def run(script: str, rows: Mapping[str, Row], args: argparse.Namespace, forward: Sequence[str] = ()) -> None:
    """
    Measure, print and write; or be the side that a run of the same script has started.

    :param script: file of the benchmark
    :param rows: by name
    :param args: of :func:`argument_parser`
    :param forward: further arguments that the sides are to get
    """
    shorten = QUICK if args.quick else args.shorten
    if args.side:
        name, row = args.row[0], rows[args.row[0]]
        turns.serve(row.sides[args.side](name, max(row.n // shorten, 1)))
        return

    from provenance import RESULTS, describe, provenance, write_results  # which peers may lack the packages for

    measured_on, results = provenance(), {}
    repeats = args.repeats or (QUICK_REPEATS if args.quick else REPEATS)
    title = pathlib.Path(script).stem
    lines = [f"# {title.replace('_', ' ').capitalize()}", ""]
    lines += [f"Medians of {repeats} measurements, in brackets the range.", ""]
    lines += ["| what | side | figure | ratio | goal |", "| --- | --- | --- | --- | --- |"]
    explanations = []
    for name in args.row or rows:
        command = [script, "--row", name, "--shorten", str(shorten), *forward]
        results[name] = measured(rows[name], command, repeats)
        lines += table(rows[name], results[name])
        explanations += explained(name, results[name])
        print(*table(rows[name], results[name]), *explained(name, results[name]), sep="\n", flush=True)
    lines += ["", *explanations, *[""] * bool(explanations), describe(measured_on)]
    whole = len(results) == len(rows) and shorten == 1
    folder = args.out or (RESULTS if whole else pathlib.Path("runs", title))
    write_results(folder, title, {"rows": results, "measured_on": measured_on}, "\n".join(lines))


def measured(row: Row, command: Sequence[str], repeats: int) -> dict[str, Any]:
    """
    :param row: what to measure
    :param command: script and arguments that all its sides have in common
    :param repeats: measurements of each side
    :return: figures, ratios, goals, which are reached, and what our side notes
    """
    sides = [
        turns.Side(
            name,
            *command,
            "--side",
            name,
            python=row.pythons[name]() if name in row.pythons else sys.executable,
            threads=row.threads.get(name, 1),
        )
        for name in row.sides
    ]
    figures = turns.in_turns(sides, repeats)
    for each in sides:
        each.close()
    own = statistics.median(figures[sides[0].name])
    noted = {key: [note[key] for note in sides[0].notes if key in note] for key in row.goals}
    noted = {key: numbers for key, numbers in noted.items() if numbers}
    ratios = {key: statistics.median(numbers) for key, numbers in noted.items()}
    for key in row.goals:
        if key in row.sides or not key:
            ratios[key] = own / (row.times * statistics.median(figures[key])) if key else own
    goals = {key: goal for key, goal in row.goals.items() if goal is not None}
    reached = {
        key: (ratios[key] <= goal) if row.at_most else (ratios[key] >= goal)
        for key, goal in goals.items()
        if key in ratios
    }
    told = {"ratios": ratios, "goals": goals, "at_most": row.at_most, "reached": reached}
    return {"unit": row.unit, "figures": figures, "noted": noted, **told, "notes": sides[0].notes}


def table(row: Row, result: dict[str, Any]) -> list[str]:
    """
    :param row: that was measured
    :param result: what :func:`measured` returned
    :return: its lines, one a side and one for each number that is noted beside
    """
    lines = []
    ours = next(iter(row.sides))
    for name in [*row.sides, *(key for key in row.goals if key and key not in row.sides)]:
        key = "" if name == ours else name
        figures = result["figures"].get(name) or result["noted"].get(name)
        figure, told = "not measured", [""] * 2
        if figures:
            unit = row.unit if name in row.sides else ""
            figure = f"{turns.spread(figures, 0 if statistics.median(figures) > 100 else 2)} {unit}".rstrip()
        if key in result["ratios"]:
            told[0] = f"{result['ratios'][key]:.2f}" if key in row.sides else ""
            if key in result["goals"]:
                goal = f"{'<=' if row.at_most else '>='} {result['goals'][key]:g}"
                told[1] = goal if result["reached"][key] else f"{goal} MISSED"
        lines.append(f"| {row.what if name == ours else ''} | {name} | {figure} | {told[0]} | {told[1]} |")
    return lines


def explained(name: str, result: dict[str, Any]) -> list[str]:
    """
    :param name: of a row
    :param result: what :func:`measured` returned
    :return: where our time goes, if a goal is missed and our side has told
    """
    told = [note["bottleneck"] for note in result["notes"] if "bottleneck" in note]
    return [f"{name}: {told[-1]}"] if told and not all(result["reached"].values()) else []

"""
Write the README's tables of single tasks and of speed from the files in ``benchmarks/results``::

    python benchmarks/readme.py

The table of the learning benchmark is written by ``learn.py report``. ``make figures`` calls both.
"""

import json
import pathlib
import statistics
from typing import Any

from provenance import REPOSITORY, RESULTS, write_between

#: In the README, above each table.
TASKS_MARK, SPEED_MARK = (f"<!-- by benchmarks/readme.py: {name} -->" for name in ("tasks", "speed"))
#: The learning rows, by their names there.
TASKS = {
    "priors": "three zoo agents as priors",
    "default-dqn": "default arguments",
    "default-ddpg": "default arguments",
    "demo": "`make demo`: three bundled priors",
    "plain-dqn": "shipped hyperparameters",
    "plain-ddpg": "shipped hyperparameters",
}
#: Rows of speed, by their benchmark and their name there.
SPEED = {
    ("end_to_end", "ddpg-hopper"): "`learn()`: DDPG on Hopper-v5, 1 update per transition",
    ("end_to_end", "dqn-pong"): "`learn()`: DQN on Pong, 1 update per 4 transitions, SB3's wrappers",
    ("acting", "hopper"): "acting only: Hopper-v5, 8 slots in 2 processes",
    ("acting", "pong"): "acting only: Pong, SB3's wrappers, 8 slots in 2 processes",
    ("updates", "ddpg"): "updates only: DDPG, layers 64-64, batch 128, 1 thread",
    ("updates", "dqn"): "updates only: DQN, layers 64-64, batch 64, 1 thread",
    ("updates", "dqn-256"): "SB3's DQN update, layers 256-256, batch 128, 1 thread",
    ("updates", "ddpg-400-300-2"): "SB3's DDPG update, layers 400-300, batch 256, 2 threads",
    ("updates", "dqn-cnn"): "updates only: DQN, Pong's CNN, batch 32, 2 threads",
    ("replay", "indices-32"): "memory: draw 32 of 1 M by priority and update them",
}


def tasks(results: pathlib.Path = RESULTS) -> str:
    """
    :param results: folder of what was measured
    :return: the table of single tasks, as Markdown
    """
    rows = json.loads((results / "learning_rows.json").read_text(encoding="utf-8"))
    lines = ["| task | transitions | CA2E | compared with | seconds per run |", "|---|---|---|---|---|"]
    for name, what in TASKS.items():
        row = rows[name]
        ours, *others = row["variants"].items()
        transitions = row["n_timesteps"] or max(run["transitions"] for run in ours[1]["runs"])
        seconds = [run["seconds"] for run in ours[1]["runs"]]
        beside = "; ".join(f"{peer}: {_score(row, variant)}" for peer, variant in others)
        cells = [f"{row['env_id']}, {what}", f"{transitions:,}", _score(row, ours[1]), beside]
        lines.append("| " + " | ".join([*cells, f"{min(seconds):.0f} to {max(seconds):.0f}"]) + " |")
    return "\n".join(lines) + "\n"


def _score(row: dict[str, Any], variant: dict[str, Any]) -> str:
    told = f"{variant['mean']:.1f}"
    if "first_reached" not in variant["runs"][0]:
        return told
    never = float("inf")
    first = [never if run["first_reached"] is None else run["first_reached"] for run in variant["runs"]]
    soonest, latest = ("never" if each == never else f"{each:,}" for each in (min(first), max(first)))
    return f"{told}; reaches {row['threshold']} after {soonest} to {latest}"


def speed(results: pathlib.Path = RESULTS) -> str:
    """
    :param results: folder of what was measured
    :return: the table of speed, as Markdown, and when and on which commit each benchmark was run
    """
    lines, measured_on = ["| what | unit | CA2E | compared with |", "|---|---|---|---|"], {}
    for (script, name), what in SPEED.items():
        content = json.loads((results / f"{script}.json").read_text(encoding="utf-8"))
        row, measured_on[script] = content["rows"][name], content["measured_on"]
        ours, *others = ((side, statistics.median(figures)) for side, figures in row["figures"].items())
        beside = ", ".join(f"{side}: {_figure(figure)} ({row['ratios'][side]:.2f}×)" for side, figure in others)
        lines.append(f"| {what} | {row['unit'].replace('us', 'µs')} | {_figure(ours[1])} | {beside} |")
    scripts: dict[str, list[str]] = {}
    for script, each in measured_on.items():
        scripts.setdefault(f"on {each['commit']}, {each['date'].partition(' ')[0]}", []).append(f"`{script}`")
    told = "; ".join(f"{', '.join(names)} {when}" for when, names in scripts.items())
    return "\n".join([*lines, "", f"Measured: {told}."]) + "\n"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    for mark, table in ((TASKS_MARK, tasks()), (SPEED_MARK, speed())):
        write_between(REPOSITORY / "README.md", mark, table)
        print(table)


if __name__ == "__main__":
    main()

"""
Write the tables of the learning benchmark from the committed curves: ``benchmarks/results/learning/report.md`` and the
README's::

    python benchmarks/learn.py report
"""

import argparse
import itertools
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from provenance import write_between

from learning import clock
from learning.experiment import CURVES, REPOSITORY, Arm, Task, experiment
from learning.scores import THRESHOLD, Curves, Results, improvement, interval, shared
from learning.verdicts import BAD, BARE, BASELINES, PRIORS, best_baselines, count, n_seeds, verdicts

_TO = [f"{unit} to {THRESHOLD}" for unit in ("transitions", "seconds")]
COLUMNS = ["arm", "seeds", "final IQM", "final return", "area", *_TO, "updates", "seconds"]

#: In the README, above the table that :func:`main` writes.
MARK = "<!-- by benchmarks/learn.py report -->"


def introduction() -> list[str]:
    """
    :return: how to read the figures
    """
    whole = experiment()
    return [
        "# Learning",
        "",
        "Generated from the curves in this folder by `python benchmarks/learn.py report`.",
        "",
        "- Scores: 0 is a random policy, 1 is the best of the task's fixed prior agents.",
        f"- Final: the mean of {whole.final_episodes} episodes of the final model. During training, a model is",
        f"  evaluated {whole.evaluations} times, for {whole.episodes} episodes each.",
        "- IQM: interquartile mean. In brackets: 95 % intervals of a bootstrap over seeds, stratified by task",
        "  (rliable).",
        "- Area: the area under the curve; 1 for a curve that is always at 1.",
        f"- To {THRESHOLD}: the median over seeds of the first evaluation that reaches {THRESHOLD}.",
        "- Updates are counted as in SB3.",
        "- Seconds are training time without evaluations, with several runs at a time on the machine. The seconds in",
        "  the goals were measured with one run at a time.",
        "- `missing`: the arm has not been run.",
        "",
        "CA2E's hyperparameters were tuned on seeds 0 to 2, and on 0 to 6 for Reacher-v5. SB3's are those of",
        "the RL Zoo.",
        "",
    ]


def line(name: str, curves: Curves, n_seeds: int) -> str:
    """
    :param name: of the arm
    :param curves: of it
    :param n_seeds: that it should have
    :return: a line of a task's table
    """
    seconds = curves.reached(curves.seconds)
    cells = [
        name,
        f"{len(curves.seeds)} of {n_seeds}",
        str(curves.iqm),
        f"{curves.final_returns.mean():.1f}",
        f"{curves.area.mean():.2f}",
        count(curves.reached(curves.transitions)),
        f"{seconds:.0f}" if np.isfinite(seconds) else "never",
        f"{np.median(curves.updates[:, -1]):,.0f}",
        f"{np.median(curves.seconds[:, -1]):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def table(task: Task, found: Mapping[str, Curves], arms: Mapping[str, Arm]) -> Iterator[str]:
    """
    :param task: a task
    :param found: what has run of it
    :param arms: that are to have run
    :return: its table
    """
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "| " + " | ".join(["---"] * len(COLUMNS)) + " |"
    for name in arms:
        if name in found:
            yield line(name, found[name], len(task.seeds))
        else:
            yield f"| {name} | missing |" + " |" * (len(COLUMNS) - 2)
    yield ""


def over_tasks(found: Mapping[str, Mapping[str, Curves]], env_ids: list[str]) -> Iterator[str]:
    """
    :param found: what has run
    :param env_ids: tasks
    :return: table of CA2E with priors beside each other arm, on the tasks on which both have run
    """
    yield f"| compared with | tasks | its final IQM | final IQM of {PRIORS} | P({PRIORS} ends above it) |"
    yield "| --- | --- | --- | --- | --- |"
    for name in (name for name in experiment().all_arms if name != PRIORS):
        both = shared(found, env_ids, PRIORS, name)
        if both:
            ours, theirs = ([found[env_id][arm].final for env_id in both] for arm in (PRIORS, name))
            yield f"| {name} | {len(both)} | {interval(theirs)} | {interval(ours)} | {improvement(ours, theirs)} |"
    yield ""


def against_the_clock(env_id: str, device: str, results: Results) -> Iterator[str]:
    """
    :param env_id: of a game
    :param device: ``cpu`` or ``cuda``
    :param results: what was measured
    :return: what the arms came to in the same minutes on such a device; nothing if none was run there
    """
    runs = clock.runs(env_id, device, results.folder)
    if not runs:
        return
    yield from (f"## {env_id} against the clock", "")
    told = next(iter(runs.values())).told["measured_on"]
    beside = " Policies were evaluated during training, on two of its cores." if device == "cuda" else ""
    yield from (
        f"Arms ran one after the other, alone on {told['device']}.{beside}",
        "Returns: means of a few games.",
        "",
    )
    yield from clock.table(runs, clock.GAMES[env_id])


def report(results: Results) -> str:
    """
    :param results: what was measured
    :return: the whole of it, as Markdown
    """
    whole, found = experiment(), results.all_curves
    lines = [*introduction(), "## Goals", "", "| goal | result | verdict |", "| --- | --- | --- |"]
    lines += [*map(str, verdicts(results)), ""]
    for family in ("dqn", "ddpg"):
        env_ids = [env_id for env_id, task in whole.tasks.items() if task.off_policy == family]
        lines += [f"## All {family.upper()} tasks", "", *over_tasks(found, env_ids)]
    for env_id, task in whole.tasks.items():
        entry = results.references[env_id]
        others = "".join(f", {name} {mean:g}" for name, mean in {**entry["priors"], **entry["made"]}.items())
        lines += [
            f"## {env_id}: {task.transitions:,} transitions",
            "",
            f"Returns: random policy {entry['random']:g}{others}.",
        ]
        lines += ["", *table(task, found[env_id], {**whole.arms, **whole.controls})]
    lines += [
        "## Ablation",
        "",
        f"`{PRIORS}` is the shipped configuration: three prior agents, retirement, sampling by the priorities that",
        "actors computed, n = 5. Each other arm changes one of these.",
        "",
    ]
    for env_id in whole.ablation_tasks:
        arms = {name: whole.arms[name] for name in (PRIORS, BARE)}
        lines += [f"### {env_id}", "", *table(whole.tasks[env_id], found[env_id], {**arms, **whole.ablation})]
    for env_id, device in itertools.product(clock.GAMES, clock.DEVICES):
        lines += against_the_clock(env_id, device, results)
    return "\n".join(lines).rstrip() + "\n"


def summary(results: Results) -> str:
    """
    :param results: what was measured
    :return: the README's table, as Markdown
    """
    lines = [
        f"| task | seeds | transitions to {THRESHOLD}: CA2E, priors | best of SB3 | final score: CA2E, priors | "
        "best of SB3 | CA2E, no priors | CA2E, bad priors |",
        "| --- " * 8 + "|",
    ]
    for env_id, arms in results.all_curves.items():
        if PRIORS not in arms or not any(name in arms for name in BASELINES):
            continue
        ours, (soonest, highest) = arms[PRIORS], best_baselines(arms)
        others = [arms[name].score if name in arms else None for name in (BARE, BAD)]
        cells = [
            env_id,
            n_seeds(*(arms[name] for name in (PRIORS, BARE, BAD, *BASELINES) if name in arms)),
            count(ours.reached(ours.transitions)),
            f"{count(arms[soonest].reached(arms[soonest].transitions))} ({soonest})",
            f"{ours.score:.2f}",
            f"{arms[highest].score:.2f} ({highest})",
            *("missing" if each is None else f"{each:.2f}" for each in others),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=pathlib.Path, default=CURVES, help="folder of the curves")
    args = parser.parse_args()
    results = Results(args.curves)
    text = report(results)
    (args.curves / "report.md").write_text(text, encoding="utf-8")
    if args.curves == CURVES:
        write_between(REPOSITORY / "README.md", MARK, summary(results))
    print(text)


if __name__ == "__main__":
    main()

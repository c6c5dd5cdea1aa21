"""
Draw the committed curves: ``docs/figures/learning_*.png``::

    python benchmarks/learn.py figures

One panel a task, against transitions and against seconds, and the ablation; ``learning_run_<task>.png`` is one run's
own picture. A cell that has not been run is named as missing.
"""

import argparse
import csv
import itertools
import json
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from learning import clock
from learning.experiment import CURVES, REPOSITORY, Cell, Task, experiment
from learning.scores import Curves, Results, mean_curve
from learning.verdicts import PRIORS
from sb3_ca2e.plots import run_picture

FIGURES = REPOSITORY / "docs" / "figures"
#: Arms as they are drawn: label and colour.
STYLES = {
    "ca2e-priors": ("CA2E with priors", "#d62728"),
    "ca2e": ("CA2E without priors", "#ff7f0e"),
    "ca2e-bad-priors": ("CA2E with bad priors", "#8c564b"),
    "off-policy": ("SB3 DQN / DDPG", "#1f77b4"),
    "a2c": ("SB3 A2C", "#2ca02c"),
    "ppo": ("SB3 PPO", "#9467bd"),
}
ABLATION_STYLES = {
    "ca2e-priors": ("as shipped", "#d62728"),
    "ca2e": ("no priors", "#ff7f0e"),
    "one-prior": ("one prior", "#bcbd22"),
    "no-retirement": ("no retirement", "#8c564b"),
    "uniform": ("uniform draws", "#1f77b4"),
    "n-1": ("n = 1", "#17becf"),
    "n-3": ("n = 3", "#2ca02c"),
    "maximum-priority": ("maximum priority", "#9467bd"),
}
LABELS = {"transitions": "transitions", "seconds": "wall-clock seconds"}
Styles = Mapping[str, tuple[str, str]]


def panel(axes: Axes, task: Task, arms: Mapping[str, Curves], styles: Styles, against: str) -> None:
    """
    One task: means over seeds, with 95 % intervals.

    :param axes: to draw on
    :param task: the task
    :param arms: what has run of it
    :param styles: labels and colours of the arms to draw
    :param against: ``transitions`` or ``seconds``
    """
    for name, (label, colour) in styles.items():
        if name not in arms:
            continue
        curves = arms[name]
        mean, low, high = mean_curve(curves.scores)
        x = curves.transitions if against == "transitions" else np.median(curves.seconds, axis=0)
        axes.plot(x, mean, color=colour, lw=1.5, label=label)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    axes.axhline(1.0, color="0.6", lw=0.8, ls="--")
    axes.set_title(task.env_id)
    axes.set_xlabel(LABELS[against])
    axes.set_xlim(left=0)
    axes.set_ylim(-0.3, 1.4)
    axes.text(0, -0.24, seeds_missing(task, arms, styles), transform=axes.transAxes, va="top", fontsize=7, color="0.4")


def seeds_missing(task: Task, arms: Mapping[str, Curves], styles: Styles) -> str:
    """
    :param task: the task
    :param arms: what has run of it
    :param styles: labels and colours of the arms to draw
    :return: the arms of which seeds are missing, by how many there are; empty if none are
    """
    labels: dict[int, list[str]] = {}
    for name, (label, _) in styles.items():
        labels.setdefault(len(arms[name].seeds) if name in arms else 0, []).append(label)
    told = [f"{n} of {len(task.seeds)} seeds: {', '.join(labels[n])}" for n in sorted(labels) if n < len(task.seeds)]
    return "\n".join(line for each in told for line in textwrap.wrap(each, 64, subsequent_indent="    "))


def panels(tasks: Sequence[Task], found: Mapping[str, Mapping[str, Curves]], styles: Styles, against: str) -> Figure:
    """
    :param tasks: a panel each
    :param found: what has run
    :param styles: labels and colours of the arms to draw
    :param against: ``transitions`` or ``seconds``
    :return: the figure
    """
    figure, all_axes = plt.subplots(1, len(tasks), figsize=(4.2 * len(tasks), 4.0), squeeze=False)
    for axes, task in zip(all_axes[0], tasks, strict=True):
        panel(axes, task, found[task.env_id], styles, against)
    all_axes[0][0].set_ylabel("score (1: the best prior)")
    drawn = {
        label: handle for axes in all_axes[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if drawn:
        labels = [label for label, _ in styles.values() if label in drawn]
        handles = [drawn[label] for label in labels]
        figure.legend(handles, labels, loc="lower center", ncols=min(len(labels), 4 * len(tasks)), frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return figure


def against_the_clock(env_id: str, runs: Mapping[str, clock.Run]) -> Figure:
    """
    :param env_id: of a game
    :param runs: of it on one device, by arm
    :return: the figure
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for name, (label, colour) in STYLES.items():
        if name in runs:
            axes.plot(runs[name].minutes, runs[name].returns, color=colour, lw=1.5, marker=".", label=label)
    axes.axhline(clock.GAMES[env_id], color="0.6", lw=0.8, ls="--")
    axes.set(xlabel="wall-clock minutes", ylabel="return of a game", title=env_id)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def picture_of(cell: Cell) -> Figure:
    """
    :param cell: a run that wrote its own log
    :return: what its actors, its priors and its memory did
    """
    told = json.loads(cell.curve.with_suffix(".json").read_text(encoding="utf-8"))
    with cell.curve.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["final"] == "0"]
    returns: dict[int, list[float]] = {}
    for row in rows:
        returns.setdefault(int(row["transitions"]), []).append(float(row["return"]))
    names = [source.removeprefix("zoo:") for source in told["priors"]]
    first = len(told["actors"]) - len(names)
    agents = {first + i: name for i, name in enumerate(names)}
    title = f"{cell.task.env_id}, {told['algorithm']} with priors, seed {cell.seed}"
    evaluations = np.array(list(returns)), np.array(list(returns.values()))
    return run_picture(cell.curve.with_suffix(""), agents, title, evaluations)


def save(figure: Figure, path: pathlib.Path) -> None:
    """
    :param figure: is closed
    :param path: where to
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})  # so that the same curves give the same file
    plt.close(figure)
    print(path)


def draw(results: Results, folder: pathlib.Path) -> None:
    """
    :param results: what was measured
    :param folder: for the figures
    """
    whole, found = experiment(), results.all_curves
    for against in LABELS:
        for family in ("dqn", "ddpg"):
            tasks = [task for task in whole.tasks.values() if task.off_policy == family]
            save(panels(tasks, found, STYLES, against), folder / f"learning_{family}_{against}.png")
    ablated = [whole.tasks[env_id] for env_id in whole.ablation_tasks]
    save(panels(ablated, found, ABLATION_STYLES, "transitions"), folder / "learning_ablation.png")
    for env_id, device in itertools.product(clock.GAMES, clock.DEVICES):
        if runs := clock.runs(env_id, device, results.folder):
            name = env_id.removesuffix("NoFrameskip-v4").lower()
            save(against_the_clock(env_id, runs), folder / f"learning_{name}_{device}.png")
    for task in whole.tasks.values():
        cell = Cell(task, whole.arms[PRIORS], task.seeds[0], results.folder)
        if cell.curve.exists() and cell.curve.with_suffix("").is_dir():
            save(picture_of(cell), folder / f"learning_run_{task.env_id}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=pathlib.Path, default=CURVES, help="folder of the curves")
    parser.add_argument("--out", type=pathlib.Path, default=FIGURES, help="folder for the figures")
    args = parser.parse_args()
    draw(Results(args.curves), args.out)


if __name__ == "__main__":
    main()

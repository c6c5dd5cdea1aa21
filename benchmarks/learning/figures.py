"""
Draw the committed curves: ``docs/figures/learning_{dqn,ddpg}_{transitions,seconds}.png``::

    python benchmarks/learn.py figures
"""

import pathlib
from collections.abc import Iterable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from learning.experiment import REPOSITORY, Task, experiment
from learning.scores import Curves, all_curves, mean_curve

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


def panel(axes: Axes, env_id: str, arms: dict[str, Curves], against: str) -> None:
    """
    One task.

    :param axes: to draw on
    :param env_id: the task
    :param arms: what has run of it
    :param against: ``transitions`` or ``seconds``
    """
    for name, (label, colour) in STYLES.items():
        if name not in arms:
            continue
        curves = arms[name]
        mean, low, high = mean_curve(curves.scores)
        x = curves.transitions if against == "transitions" else np.median(curves.seconds, axis=0)
        axes.plot(x, mean, color=colour, lw=1.5, label=f"{label} ({len(curves.seeds)})")
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    axes.axhline(1.0, color="0.6", lw=0.8, ls="--")
    axes.set_title(env_id)
    axes.set_xlabel({"transitions": "transitions", "seconds": "wall-clock seconds"}[against])
    axes.set_ylim(-0.3, 1.4)


def figure(tasks: Iterable[Task], found: dict[str, dict[str, Curves]], against: str, path: pathlib.Path) -> None:
    """
    One panel a task: means over seeds, with 95 % intervals.

    :param tasks: to draw
    :param found: what has run
    :param against: ``transitions`` or ``seconds``
    :param path: where to
    """
    drawn = [task for task in tasks if task.env_id in found]
    if not drawn:
        return
    picture, panels = plt.subplots(1, len(drawn), figsize=(4.2 * len(drawn), 3.4), squeeze=False)
    for axes, task in zip(panels[0], drawn, strict=True):
        panel(axes, task.env_id, found[task.env_id], against)
    panels[0][0].set_ylabel("score (1: the best prior)")
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels[0]), key=lambda each: len(each[1]))
    labels = [label.rpartition(" (")[0] for label in labels]
    picture.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    picture.tight_layout(rect=(0, 0.08, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(picture)
    print(path)


def main() -> None:
    found = all_curves()
    for family in ("dqn", "ddpg"):
        tasks = [task for task in experiment().tasks.values() if task.off_policy == family]
        for against in ("transitions", "seconds"):
            figure(tasks, found, against, FIGURES / f"learning_{family}_{against}.png")


if __name__ == "__main__":
    main()

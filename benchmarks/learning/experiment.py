"""What the learning benchmark consists of, as tasks.yml says."""

import dataclasses
import functools
import pathlib
from dataclasses import dataclass, field
from typing import Any

import yaml

FOLDER = pathlib.Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
#: Curves that were run, one file a cell, committed.
CURVES = REPOSITORY / "benchmarks" / "results" / "learning"
#: Agents that :mod:`learning.train_priors` made, in the RL Zoo's layout.
PRIORS = FOLDER / "priors"


@dataclass(frozen=True)
class Arm:
    """
    One way to learn.

    :param name: as in files and figures
    :param algorithm: ``ours``, ``off_policy``, or an algorithm of the RL Zoo
    :param priors: which list of prior agents
    :param n_priors: how many of them, all without it
    :param set: arguments that replace those of the hyperparameters' file
    :param settings_of: whose hyperparameters and networks it has, ``ours`` or ``off_policy``; its own without it
    """

    name: str
    algorithm: str
    priors: str | None = None
    n_priors: int | None = None
    set: dict[str, Any] = field(default_factory=dict)
    settings_of: str | None = None


@dataclass(frozen=True)
class Task:
    """
    An environment and its budget.

    :param env_id: the environment
    :param transitions: the budget
    :param ours: our algorithm for it
    :param off_policy: SB3's
    :param seeds: that are run
    :param priors: sources of good prior agents
    :param entries: where the zoo's hyperparameters are, if not under ``env_id``: the first that an algorithm has
    :param trainer: SB3's algorithm that bad priors and teachers are trained with
    """

    env_id: str
    transitions: int
    ours: str
    off_policy: str
    seeds: tuple[int, ...]
    priors: tuple[str, ...]
    entries: tuple[str, ...] = ()
    trainer: str = "ppo"

    def algorithm(self, name: str) -> str:
        """
        :param name: an arm's
        :return: in the zoo
        """
        return {"ours": self.ours, "off_policy": self.off_policy}.get(name, name)


@dataclass(frozen=True)
class Cell:
    """
    One run: a task, an arm and a seed.

    :param task: the task
    :param arm: the arm
    :param seed: the seed
    :param folder: for curves
    """

    task: Task
    arm: Arm
    seed: int
    folder: pathlib.Path = CURVES

    def __str__(self) -> str:
        return f"{self.task.env_id}/{self.arm.name}/{self.seed}"

    @property
    def curve(self) -> pathlib.Path:
        """The file of its learning curve."""
        return self.folder / f"{self}.csv"

    @property
    def is_first(self) -> bool:
        """Whether it is the first of its seeds, of which a picture is drawn."""
        return self.seed == self.task.seeds[0]


@dataclass(frozen=True)
class Experiment:
    """
    All of tasks.yml.

    :param tasks: by environment
    :param arms: by name
    :param controls: arms with hyperparameters of the other side, by name
    :param ablation: arms of the ablation, by name
    :param ablation_tasks: where it is run
    :param evaluations: number of evaluations in a run
    :param episodes: in each
    :param final_episodes: of the final model
    :param reference_episodes: of a random policy and of each prior agent
    :param made_priors: lists of prior agents made for this benchmark, names in :data:`PRIORS`
    """

    tasks: dict[str, Task]
    arms: dict[str, Arm]
    controls: dict[str, Arm]
    ablation: dict[str, Arm]
    ablation_tasks: tuple[str, ...]
    evaluations: int
    episodes: int
    final_episodes: int
    reference_episodes: int
    made_priors: dict[str, tuple[str, ...]]

    def priors(self, task: Task, arm: Arm) -> list[str]:
        """
        :param task: a task
        :param arm: an arm
        :return: sources of its prior agents
        """
        if arm.priors is None:
            return []
        if arm.priors == "priors":
            return list(task.priors[: arm.n_priors])
        return [str(made_prior(task, name)) for name in self.made_priors[arm.priors]]

    def missing_priors(self, task: Task, arm: Arm) -> list[str]:
        """
        :param task: a task
        :param arm: an arm
        :return: those of its prior agents that are made for this benchmark, and have not been
        """
        return [each for each in self.priors(task, arm) if each.endswith(".zip") and not pathlib.Path(each).exists()]

    @property
    def all_arms(self) -> dict[str, Arm]:
        """Arms, controls and ablation."""
        return {**self.arms, **self.controls, **self.ablation}

    def cells(
        self,
        tasks: list[str] | None = None,
        arms: list[str] | None = None,
        seeds: list[int] | None = None,
        transitions: int | None = None,
        folder: pathlib.Path = CURVES,
    ) -> list[Cell]:
        """
        The runs, all arms of a seed before the next seed, so that what is there can be compared early.

        :param tasks: only these; None for all
        :param arms: only these; None for all that are neither control nor ablation
        :param seeds: only these; None for the task's
        :param transitions: another budget than the task's
        :param folder: for curves
        :return: the runs
        """
        chosen = []
        known = self.all_arms
        for arm_name in arms or self.arms:
            if arm_name not in known:
                raise ValueError(f"There is no arm {arm_name!r}, only {', '.join(known)}.")
            for task in self.tasks.values():
                ablated = arm_name in self.ablation and task.env_id not in self.ablation_tasks
                if (tasks is None or task.env_id in tasks) and not ablated:
                    told = task if transitions is None else dataclasses.replace(task, transitions=transitions)
                    chosen += [Cell(told, known[arm_name], seed, folder) for seed in seeds or task.seeds]
        return sorted(chosen, key=lambda cell: cell.task.seeds.index(cell.seed) if cell.seed in cell.task.seeds else 0)


def made_prior(task: Task, name: str) -> pathlib.Path:
    """
    :param task: the task
    :param name: as :mod:`learning.train_priors` calls it
    :return: the zip of the agent
    """
    return PRIORS / name / task.trainer / f"{task.env_id}_1" / f"{task.env_id}.zip"


@functools.cache
def experiment() -> Experiment:
    """
    :return: what tasks.yml says
    """
    told = yaml.safe_load((FOLDER / "tasks.yml").read_text(encoding="utf-8"))
    tasks = {}
    for env_id, entry in told["tasks"].items():
        lists = {name: tuple(value) for name, value in entry.items() if isinstance(value, list)}
        tasks[env_id] = Task(env_id, **{**entry, **lists})
    return Experiment(
        tasks=tasks,
        arms={name: Arm(name, **entry) for name, entry in told["arms"].items()},
        controls={name: Arm(name, **entry) for name, entry in told["controls"].items()},
        ablation={name: Arm(name, **entry) for name, entry in told["ablation"].items()},
        ablation_tasks=tuple(told["ablation_tasks"]),
        evaluations=told["evaluations"],
        episodes=told["episodes"],
        final_episodes=told["final_episodes"],
        reference_episodes=told["reference_episodes"],
        made_priors={name: tuple(told[name]) for name in ("bad_priors", "teachers")},
    )

"""One run of the learning benchmark, in this process: train, evaluate on the way, write the curve."""

import argparse
import csv
import json
import pathlib
import tempfile
import time
from typing import Any

import gymnasium as gym
import rl_zoo3
import torch as th
import yaml
from playing import play
from provenance import provenance, write_json
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from learning.experiment import Cell, Experiment, Task, experiment
from sb3_ca2e.zoo.registration import ALGORITHMS, register

#: Environments of the final evaluation, and of those on the way.
FINAL_SEED, CURVE_SEED = 10_000, 20_000
COLUMNS = ("transitions", "seconds", "updates", "prior_share", "final", "episode", "return")


class LearningCurve(BaseCallback):
    """
    Evaluates the model every so many transitions; the time that this takes is left out.

    :param cell: what is run
    :param every: transitions between two evaluations
    :param episodes: in each
    """

    def __init__(self, cell: Cell, every: int, episodes: int):
        super().__init__()
        self.cell, self.every, self.episodes = cell, every, episodes
        self.rows: list[dict[str, Any]] = []
        self._evaluated = 0
        self._started = time.perf_counter()
        self._evaluating = 0.0

    def _on_training_start(self) -> None:
        self.evaluate(CURVE_SEED, self.episodes)

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.every * (self._evaluated + 1):
            self._evaluated += 1
            self.evaluate(CURVE_SEED, self.episodes)
        return True

    def evaluate(self, seed: int, episodes: int, final: bool = False) -> None:
        """
        :param seed: of the first episode
        :param episodes: how many
        :param final: whether it is the final model's
        """
        now = time.perf_counter()
        model = self.model
        # Networks of SB3's kind are left in the mode in which they were found, as evaluating must change nothing.
        training = model.policy.training
        returns = play(model, lambda: gym.make(self.cell.task.env_id), seed, episodes, model.get_vec_normalize_env())
        model.policy.set_training_mode(training)
        told = {
            "transitions": model.num_timesteps,
            "seconds": round(now - self._started - self._evaluating, 2),
            "updates": model._n_updates,
            "prior_share": round(getattr(getattr(model, "replay_buffer", None), "prior_fraction", 0.0), 4),
            "final": int(final),
        }
        self.rows += [{**told, "episode": i, "return": round(each, 3)} for i, each in enumerate(returns)]
        self._evaluating += time.perf_counter() - now


def set_up(algorithm: str, task: Task, settings: dict[str, Any], seed: int, folder: pathlib.Path) -> ExperimentManager:
    """
    As the RL Zoo makes a run from hyperparameters: its own for SB3's algorithms, ours for ours.

    :param algorithm: its name in the zoo
    :param task: the task
    :param settings: that replace hyperparameters
    :param seed: of the run
    :param folder: for what the zoo writes
    :return: what makes the model
    """
    register()
    config = None
    if algorithm not in ALGORITHMS and task.entry is not None:
        config = str(folder / "entry.yml")
        entry = _entry_of_the_zoo(algorithm, task.entry)
        pathlib.Path(config).write_text(yaml.safe_dump({task.env_id: entry}), encoding="utf-8")
    return ExperimentManager(
        argparse.Namespace(),
        algorithm,
        task.env_id,
        str(folder),
        n_timesteps=task.transitions,
        eval_freq=-1,
        hyperparams=settings,
        seed=seed,
        verbose=0,
        config=config,
    )


def _model(cell: Cell, whole: Experiment, folder: pathlib.Path, n_processes: int | None) -> BaseAlgorithm:
    algorithm, settings = cell.task.algorithm(cell.arm), dict(cell.arm.set)
    if algorithm in ALGORITHMS:
        settings |= {"prior_agents": whole.priors(cell.task, cell.arm), "n_processes": n_processes}
    made = set_up(algorithm, cell.task, settings, cell.seed, folder).setup_experiment()
    assert made is not None
    return made[0]


def _entry_of_the_zoo(algorithm: str, env_id: str) -> dict[str, Any]:
    file = pathlib.Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algorithm}.yml"
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))[env_id])


def run(cell: Cell, n_processes: int | None) -> None:
    """
    Run, and leave a CSV file with the curve and a JSON file with how it came about.

    :param cell: what to run
    :param n_processes: actor processes of our side
    """
    th.set_num_threads(1)  # small networks: more threads only cost
    whole = experiment()
    with tempfile.TemporaryDirectory() as folder:
        model = _model(cell, whole, pathlib.Path(folder), n_processes)
        curve = LearningCurve(cell, cell.task.transitions // whole.evaluations, whole.episodes)
        model.learn(cell.task.transitions, callback=curve)
        curve.evaluate(FINAL_SEED, whole.final_episodes, final=True)
    told = {
        "task": cell.task.env_id,
        "arm": cell.arm.name,
        "algorithm": type(model).__name__,
        "seed": cell.seed,
        "set": cell.arm.set,
        "priors": [pathlib.Path(each).parts[-4] if "/" in each else each for each in whole.priors(cell.task, cell.arm)],
        "actors": getattr(model, "actor_stats", []),
        "measured_on": provenance(),
    }
    write_json(cell.curve.with_suffix(".json"), told)
    unfinished = cell.curve.with_suffix(".unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve.rows)
    unfinished.replace(cell.curve)  # last: a run is done when its curve is there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cell", help="as JSON: task, arm, seed")
    parser.add_argument("--n-processes", type=int)
    args = parser.parse_args()
    named = json.loads(args.cell)
    (cell,) = experiment().cells([named["task"]], [named["arm"]], [named["seed"]])
    run(cell, args.n_processes)


if __name__ == "__main__":
    main()

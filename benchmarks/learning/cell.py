"""One run of the learning benchmark, in this process: train, evaluate on the way, write the curve."""

import argparse
import copy
import csv
import ctypes
import inspect
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
from typing import Any, NamedTuple, cast

import gymnasium as gym
import rl_zoo3
import torch as th
import yaml
from playing import play
from provenance import provenance, write_json
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from learning.experiment import CURVES, Cell, Experiment, Task, experiment
from sb3_ca2e.zoo.hyperparams import FOLDER
from sb3_ca2e.zoo.registration import ALGORITHMS, register

#: Environments of the final evaluation, and of those on the way.
FINAL_SEED, CURVE_SEED = 10_000, 20_000
#: Entries of hyperparameters that the RL Zoo itself reads.
OF_THE_ZOO = {"n_timesteps", "policy", "n_envs", "env_wrapper", "frame_stack", "normalize"}
#: What stays an algorithm's own where it has another's hyperparameters: many actors have noise in many strengths.
EXPLORATION = {"noise_type", "noise_std"}
#: Rows of a run's own log.
LOGGED = 100
COLUMNS = ("transitions", "seconds", "updates", "prior_share", "final", "episode", "return")


class Kept(NamedTuple):
    """
    A policy on the way.

    :param told: transitions, seconds, updates and share of the prior actors' so far
    :param parameters: of the policy
    :param statistics: by which ``VecNormalize`` normalised observations, if it did
    """

    told: dict[str, Any]
    parameters: dict[str, th.Tensor]
    statistics: Any


class LearningCurve(BaseCallback):
    """
    Keeps the policy every so many transitions, to be evaluated once training is over: nothing of the time told is that
    of evaluating, and no actor gains a lead meanwhile.

    :param transitions: the budget, after which training ends for every algorithm
    :param every: transitions between two evaluations
    :param log: whether the run's own log is written
    """

    def __init__(self, transitions: int, every: int, log: bool):
        super().__init__()
        self.transitions, self.every = transitions, every
        self.log_every = max(transitions // LOGGED, 1) if log else None
        self.kept: list[Kept] = []
        self._started = time.perf_counter()

    def _on_training_start(self) -> None:
        self.keep()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.every * len(self.kept):
            self.keep()
        if self.log_every is not None and self.n_calls % self.log_every == 0:
            self.model.dump_logs()
        return self.num_timesteps < self.transitions

    def keep(self) -> None:
        """Remember the policy as it is now, and what it has taken to come here."""
        model = self.model
        normalization = model.get_vec_normalize_env()
        told = {
            "transitions": model.num_timesteps,
            "seconds": round(time.perf_counter() - self._started, 2),
            "updates": model._n_updates,
            "prior_share": round(getattr(getattr(model, "replay_buffer", None), "prior_fraction", 0.0), 4),
        }
        statistics = copy.deepcopy(normalization.obs_rms) if normalization is not None else None
        self.kept.append(Kept(told, copy.deepcopy(model.policy.state_dict()), statistics))


def evaluate(model: BaseAlgorithm, env_id: str, kept: Kept, seed: int, episodes: int) -> list[float]:
    """
    :param model: takes the policy over
    :param env_id: environment
    :param kept: the policy
    :param seed: of the first episode
    :param episodes: how many
    :return: returns without exploration
    """
    model.policy.load_state_dict(kept.parameters)
    normalization = model.get_vec_normalize_env()
    if normalization is not None:
        normalization.obs_rms = kept.statistics
    return play(model, lambda: gym.make(env_id), seed, episodes, normalization)


def set_up(
    algorithm: str,
    task: Task,
    settings: dict[str, Any],
    seed: int,
    folder: pathlib.Path,
    settings_of: str | None = None,
) -> ExperimentManager:
    """
    As the RL Zoo makes a run from hyperparameters: its own for SB3's algorithms, ours for ours.

    :param algorithm: its name in the zoo
    :param task: the task
    :param settings: that replace hyperparameters
    :param seed: of the run
    :param folder: for what the zoo writes
    :param settings_of: the algorithm whose hyperparameters and networks are taken, as far as this one has them
    :return: what makes the model
    """
    register()
    entry = _entry(settings_of or algorithm, task)
    if settings_of is not None:
        known = inspect.signature(rl_zoo3.ALGOS[algorithm]).parameters.keys() | OF_THE_ZOO
        entry = {name: value for name, value in entry.items() if name in known}
        entry |= {name: value for name, value in _entry(algorithm, task).items() if name in EXPLORATION}
        networks = rl_zoo3.ALGOS[settings_of].policy_aliases[entry["policy"]]
        entry["policy"] = f"{networks.__module__}.{networks.__qualname__}"
        if "double_q" in known:
            entry["double_q"] = False  # SB3's DQN has none
    config = folder / "entry.yml"
    config.write_text(yaml.safe_dump({task.env_id: entry}), encoding="utf-8")
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
        config=str(config),
    )


def _entry(algorithm: str, task: Task) -> dict[str, Any]:
    """Hyperparameters of the zoo, or ours."""
    own = algorithm in ALGORITHMS
    folder = FOLDER if own else pathlib.Path(rl_zoo3.__file__).parent / "hyperparams"
    entries = yaml.safe_load((folder / f"{algorithm}.yml").read_text(encoding="utf-8"))
    names = (task.env_id,) if own else (task.env_id, *task.entries)
    return dict(next(entries[name] for name in names if name in entries))


def _model(
    cell: Cell, whole: Experiment, folder: pathlib.Path, n_processes: int | None
) -> tuple[BaseAlgorithm, dict[str, Any]]:
    """The model, and its hyperparameters."""
    algorithm, settings = cell.task.algorithm(cell.arm.algorithm), dict(cell.arm.set)
    if algorithm in ALGORITHMS:
        settings |= {"prior_agents": whole.priors(cell.task, cell.arm), "n_processes": n_processes}
    settings_of = cell.arm.settings_of and cell.task.algorithm(cell.arm.settings_of)
    made = set_up(algorithm, cell.task, settings, cell.seed, folder, settings_of).setup_experiment()
    assert made is not None
    model, told = made
    return model, {name: str(value) for name, value in told.items() if name != "prior_agents"}


def run(cell: Cell, n_processes: int | None, jobs: int = 1) -> None:
    """
    Run, and leave a CSV file with the curve and a JSON file with how it came about.

    :param cell: what to run
    :param n_processes: actor processes of our side
    :param jobs: how many cells run at a time
    """
    th.set_num_threads(1)  # small networks: more threads only cost
    whole = experiment()
    with tempfile.TemporaryDirectory() as folder:
        model, hyperparameters = _model(cell, whole, pathlib.Path(folder), n_processes)
        logged = cell.is_first and cell.arm.priors is not None
        if logged:
            model.set_logger(configure(str(cell.curve.with_suffix("")), ["csv"]))
        curve = LearningCurve(cell.task.transitions, cell.task.transitions // whole.evaluations, logged)
        model.learn(cell.task.transitions, callback=curve, log_interval=cast(int, None))
    evaluations = [(kept, 0, CURVE_SEED, whole.episodes) for kept in curve.kept]
    evaluations.append((curve.kept[-1], 1, FINAL_SEED, whole.final_episodes))
    rows = []
    for kept, final, seed, episodes in evaluations:
        returns = evaluate(model, cell.task.env_id, kept, seed, episodes)
        rows += [{**kept.told, "final": final, "episode": i, "return": round(r, 3)} for i, r in enumerate(returns)]
    told = {
        "task": cell.task.env_id,
        "arm": cell.arm.name,
        "algorithm": type(model).__name__,
        "seed": cell.seed,
        "jobs": jobs,
        "hyperparameters": hyperparameters,
        "priors": [pathlib.Path(each).parts[-4] if "/" in each else each for each in whole.priors(cell.task, cell.arm)],
        "actors": getattr(model, "actor_stats", []),
        "measured_on": provenance(),
    }
    write_json(cell.curve.with_suffix(".json"), told)
    write_curve(cell.curve, rows)  # last: a run is done when its curve is there


def write_curve(curve: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """
    :param curve: file, which is there as a whole or not at all
    :param rows: an episode each
    """
    unfinished = curve.with_suffix(".unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    unfinished.replace(curve)


def end_with(parent: int) -> None:
    """
    :param parent: with whose end, however it came, this process is sent SIGTERM
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(f"Process {parent} is gone.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cell", help="as JSON: task, arm, seed, transitions, folder")
    parser.add_argument("--n-processes", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="how many run at a time, to be written down")
    parser.add_argument("--parent", type=int, help="process with which this one ends")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that actors end too, whenever it comes
    if args.parent is not None:
        end_with(args.parent)
    named = json.loads(args.cell)
    folder = pathlib.Path(named.get("folder", CURVES))
    (cell,) = experiment().cells([named["task"]], [named["arm"]], [named["seed"]], named.get("transitions"), folder)
    run(cell, args.n_processes, args.jobs)


if __name__ == "__main__":
    main()

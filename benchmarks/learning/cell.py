"""One run of the learning benchmark, in this process: train, evaluate on the way, write the curve."""

import argparse
import inspect
import json
import pathlib
import signal
import tempfile
from typing import Any, cast

import gymnasium as gym
import rl_zoo3
import torch as th
import yaml
from playing import play
from provenance import provenance, write_json
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure

from learning.curve import CURVE_SEED, FINAL_SEED, Kept, LearningCurve, end_with, write_curve
from learning.experiment import CURVES, Cell, Experiment, Task, experiment
from sb3_ca2e.zoo.hyperparams import FOLDER
from sb3_ca2e.zoo.registration import ALGORITHMS, register

#: Entries of hyperparameters that the RL Zoo itself reads.
OF_THE_ZOO = {"n_timesteps", "policy", "n_envs", "env_wrapper", "frame_stack", "normalize"}
#: What stays an algorithm's own where it has another's hyperparameters: many actors have noise in many strengths.
EXPLORATION = {"noise_type", "noise_std"}


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


def run(cell: Cell, n_processes: int | None, jobs: int = 1, threads: int = 1) -> None:
    """
    Run, and leave a CSV file with the curve and a JSON file with how it came about.

    :param cell: what to run
    :param n_processes: actor processes of our side
    :param jobs: how many cells run at a time
    :param threads: of PyTorch, in this process
    """
    th.set_num_threads(threads)
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
        "threads": threads,
        "hyperparameters": hyperparameters,
        "priors": [pathlib.Path(each).parts[-4] if "/" in each else each for each in whole.priors(cell.task, cell.arm)],
        "actors": getattr(model, "actor_stats", []),
        "measured_on": provenance(),
    }
    write_json(cell.curve.with_suffix(".json"), told)
    write_curve(cell.curve, rows)  # last: a run is done when its curve is there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cell", help="as JSON: task, arm, seed, transitions, folder")
    parser.add_argument("--n-processes", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="how many run at a time, to be written down")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's")
    parser.add_argument("--parent", type=int, help="process with which this one ends")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that actors end too, whenever it comes
    if args.parent is not None:
        end_with(args.parent)
    named = json.loads(args.cell)
    folder = pathlib.Path(named.get("folder", CURVES))
    (cell,) = experiment().cells([named["task"]], [named["arm"]], [named["seed"]], named.get("transitions"), folder)
    run(cell, args.n_processes, args.jobs, args.threads)


if __name__ == "__main__":
    main()

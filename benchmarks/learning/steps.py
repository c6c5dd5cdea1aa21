"""
From SB3's DQN and DDPG to ours without prior agents, one change at a time: which change gains, and which costs.

Every step keeps the changes of those before it, and has the same seeds. A run is a process of its own and ends as a
line of ``benchmarks/results/learning/steps.jsonl``; what is there is not run again::

    python benchmarks/learn.py steps run                                   # all steps, seeds 0 to 3, 50,000 transitions
    python benchmarks/learn.py steps run --task Acrobot-v1 --step sb3 --step double --seeds 0-7 --transitions 100000
    python benchmarks/learn.py steps run --step "squared loss"             # one of the trials beside the last step
    python benchmarks/learn.py steps report                                # writes the tables beside the runs
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch as th
from provenance import REPOSITORY, commit
from stable_baselines3 import DDPG, DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.td3.policies import TD3Policy

from learning.cell import evaluate
from learning.curve import CURVE_SEED, LearningCurve
from learning.experiment import CURVES
from learning.references import references
from sb3_ca2e import CA2EDDPG, CA2EDQN

RUNS = CURVES / "steps.jsonl"
N_EVALUATIONS, N_EPISODES = 20, 10

#: Settings of both sides, as ``hyperparams/`` has them for ours. Learning rates fall to zero.
TASKS: dict[str, dict[str, Any]] = {
    "LunarLander-v3": {
        "algorithm": "dqn",
        "learning_rate": 7e-4,
        "batch_size": 128,
        "train_freq": 2,
        "target_update_interval": 500,
        "exploration_fraction": 0.12,
        "exploration_final_eps": 0.1,
    },
    "Acrobot-v1": {
        "algorithm": "dqn",
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "train_freq": 2,
        "target_update_interval": 250,
        "exploration_fraction": 0.12,
        "exploration_final_eps": 0.1,
    },
    "Pendulum-v1": {"algorithm": "ddpg", "learning_rate": 1e-3, "batch_size": 128, "train_freq": 1},
}

_ALIKE = {"execution": "sync", "n_actors": 1, "n_steps": 1, "local_buffer_size": 10, "actor_update_interval": 10}
_UNIFORM, _MAXIMUM = {"alpha": 0.0}, {"maximum_priority": True}
#: What each step changes. "alike" is our class with everything as in SB3; the last step is what we ship.
STEPS: dict[str, dict[str, dict[str, Any]]] = {
    "dqn": {
        "sb3": {},
        "alike": {
            **_ALIKE,
            "replay_buffer_kwargs": _UNIFORM,
            "double_q": False,
            "loss": "huber",
            "exploration_initial_eps": 1.0,
        },
        "eight slots": {"n_actors": 8, "local_buffer_size": 50, "actor_update_interval": 100},
        "ladder": {"exploration_initial_eps": None},
        "3-step returns": {"n_steps": 3},
        "double": {"double_q": True},
        "prioritized": {"replay_buffer_kwargs": _MAXIMUM},
        "actors' priorities": {"replay_buffer_kwargs": None},
        "layer norm": {"policy": "MlpPolicy"},
        "async": {"execution": "async"},
    },
    "ddpg": {
        "sb3": {},
        "alike": {**_ALIKE, "replay_buffer_kwargs": _UNIFORM, "critic_l2": 0.0},
        "eight slots": {"n_actors": 8, "local_buffer_size": 50, "actor_update_interval": 100},
        "ladder": {"action_noise": None},
        "3-step returns": {"n_steps": 3},
        "prioritized": {"replay_buffer_kwargs": _MAXIMUM},
        "actors' priorities": {"replay_buffer_kwargs": None},
        "layer norm": {"policy": "MlpPolicy"},
        "L2 penalty": {"critic_l2": 1e-2},
        "actor's rate": {"actor_learning_rate": 1e-4},
        "async": {"execution": "async"},
    },
}
#: What is tried beside the last step: its settings with these changes.
TRIALS: dict[str, dict[str, dict[str, Any]]] = {
    "dqn": {
        "squared loss": {"loss": "squared"},
        "uniform": {"replay_buffer_kwargs": _UNIFORM},
        "maximum priority": {"replay_buffer_kwargs": _MAXIMUM},
        "single": {"double_q": False},
        "uniform, single": {"replay_buffer_kwargs": _UNIFORM, "double_q": False},
        "rate / 4": {"rate": 0.25},
        "alpha 0.3": {"replay_buffer_kwargs": {"alpha": 0.3}},
    },
    "ddpg": {"uniform": {"replay_buffer_kwargs": _UNIFORM}},
}


def names_of(task: str) -> list[str]:
    """
    :param task: id of the environment
    :return: its steps, and its trials after them
    """
    algorithm = TASKS[task]["algorithm"]
    return [*STEPS[algorithm], *TRIALS[algorithm]]


def settings_of(task: str, step: str) -> dict[str, Any]:
    """
    :param task: id of the environment
    :param step: name of a step or a trial
    :return: what distinguishes it from the step "sb3"
    """
    steps, settings = STEPS[TASKS[task]["algorithm"]], dict[str, Any]()
    for name, changes in steps.items():
        settings |= changes
        if name == step:
            return settings
    return settings | TRIALS[TASKS[task]["algorithm"]][step]


def model_of(task: str, step: str, seed: int, transitions: int) -> BaseAlgorithm:
    """
    :param task: id of the environment
    :param step: name of a step or a trial
    :param seed: seed of the run
    :param transitions: length of the run
    :return: the model
    """
    own = settings_of(task, step)
    common = {"buffer_size": 100_000, "learning_starts": 1_000, "gamma": 0.99, **TASKS[task]}
    rate = common.pop("learning_rate") * own.pop("rate", 1.0)
    common |= {"learning_rate": LinearSchedule(rate, 0.0, 1.0), "policy_kwargs": {"net_arch": [64, 64]}}
    common |= {"env": task, "seed": seed, "device": "cpu"}
    continuous = common.pop("algorithm") == "ddpg"
    if continuous:
        common |= {"policy": TD3Policy, "action_noise": NormalActionNoise(np.zeros(1), np.full(1, 0.2))}
    else:
        common |= {"policy": DQNPolicy}
    if not own:
        return (DDPG if continuous else DQN)(**common)
    if continuous:
        rate = own.get("actor_learning_rate", rate)
        own["actor_learning_rate"] = LinearSchedule(rate, 0.0, 1.0)
    own = {name: value for name, value in own.items() if value is not None or name == "action_noise"}
    if own["execution"] == "async":
        own["n_processes"] = 1  # beside the learner's process, on two cores
    return (CA2EDDPG if continuous else CA2EDQN)(**{**common, "compile": True, **own})


def run(task: str, step: str, seed: int, transitions: int) -> None:
    """
    Run once, and append what came of it to :data:`RUNS`.

    :param task: id of the environment
    :param step: name of a step or a trial
    :param seed: seed of the run
    :param transitions: length of the run
    """
    th.set_num_threads(1)
    model, started = model_of(task, step, seed, transitions), time.perf_counter()
    curve = LearningCurve(transitions, transitions // N_EVALUATIONS, log=False)
    model.learn(transitions, callback=curve)
    seconds = time.perf_counter() - started
    returns = [float(np.mean(evaluate(model, task, kept, CURVE_SEED, N_EPISODES))) for kept in curve.kept]
    ages = [row["param_age"] for row in getattr(model, "actor_stats", [])]
    told = {
        "task": task,
        "step": step,
        "seed": seed,
        "transitions": transitions,
        "returns": np.round(returns, 2).tolist(),
    }
    told |= {"param_age": max(ages, default=0), "seconds": round(seconds, 1), "commit": commit()}
    with RUNS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")


def done() -> list[dict[str, Any]]:
    """
    :return: all runs
    """
    return [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines()] if RUNS.exists() else []


def run_missing(tasks: Iterable[str], steps: list[str], seeds: Iterable[int], transitions: int) -> None:
    """
    Run what is not there, one at a time, all steps of a seed before the next seed.

    :param tasks: ids of environments
    :param steps: names of steps and trials; all steps if empty
    :param seeds: seeds
    :param transitions: length of a run
    """
    known = {(each["task"], each["step"], each["seed"], each["transitions"]) for each in done()}
    script = str(REPOSITORY / "benchmarks" / "learn.py")
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    for seed in seeds:
        for task in tasks:
            for step in steps or STEPS[TASKS[task]["algorithm"]]:
                arguments = (task, step, seed, transitions)
                if arguments in known or step not in names_of(task):
                    continue
                print(*arguments, flush=True)
                subprocess.run(
                    [sys.executable, script, "steps", "one", *map(str, arguments)], env=environment, check=True
                )


def interval(values: np.ndarray) -> str:
    """
    :param values: ``(n,)``, one for each seed
    :return: their mean with the 95 % interval of a bootstrap
    """
    drawn = np.random.RandomState(0).randint(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def scores(transitions: int) -> dict[str, dict[str, dict[int, np.ndarray]]]:
    """
    :param transitions: length of the runs
    :return: by task, step and seed, ``(evaluations,)`` scores: 0 is a random policy, 1 the best of the task's priors
    """
    found: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for each in done():
        if each["transitions"] == transitions:
            reference = references()[each["task"]]
            low, high = reference["random"], max(reference["priors"].values())
            normalised = (np.array(each["returns"]) - low) / (high - low)
            found.setdefault(each["task"], {}).setdefault(each["step"], {})[each["seed"]] = normalised
    return found


def table(transitions: int) -> Iterable[str]:
    """
    :param transitions: length of the runs
    :return: lines in Markdown: areas and final scores of each step, and paired differences to the step before
    """
    for task, by_step in sorted(scores(transitions).items()):
        yield f"**{task}**, {transitions:,} transitions"
        yield ""
        yield "| step | seeds | area | last fifth | area, beside the step before |"
        yield "| --- | ---: | --- | --- | --- |"
        steps = list(STEPS[TASKS[task]["algorithm"]])
        for step in names_of(task):
            if step not in by_step:
                continue
            runs = by_step[step]
            area = {seed: float(np.trapezoid(run) / (len(run) - 1)) for seed, run in runs.items()}
            last = np.array([run[-N_EVALUATIONS // 5 :].mean() for run in runs.values()])
            before = steps[steps.index(step) - 1] if step in steps else steps[-1]
            pairs = by_step.get(before, {})
            differences = [
                area[seed] - float(np.trapezoid(pairs[seed]) / (len(pairs[seed]) - 1)) for seed in runs if seed in pairs
            ]
            beside = interval(np.array(differences)) if differences and step != steps[0] else ""
            name = step if step in steps else f"{before}, but {step}"
            areas = np.array(list(area.values()))
            yield f"| {name} | {len(runs)} | {interval(areas)} | {interval(last)} | {beside} |"
        yield ""


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("run")
    asked.add_argument("--task", action="append", choices=list(TASKS))
    asked.add_argument("--step", action="append", help="name of a step or a trial; may be repeated; all steps without")
    asked.add_argument("--seeds", default="0-3", help="first and last")
    asked.add_argument("--transitions", type=int, default=50_000)
    one = commands.add_parser("one")
    for name, kind in (("task", str), ("step", str), ("seed", int), ("transitions", int)):
        one.add_argument(name, type=kind)
    commands.add_parser("report")
    options = parser.parse_args()
    if options.command == "one":
        run(options.task, options.step, options.seed, options.transitions)
    elif options.command == "run":
        first, _, last = options.seeds.partition("-")
        seeds = range(int(first), int(last or first) + 1)
        run_missing(options.task or list(TASKS), options.step or [], seeds, options.transitions)
    else:
        lengths = sorted({each["transitions"] for each in done()})
        text = "\n".join(line for length in lengths for line in table(length))
        print(text)
        RUNS.with_suffix(".md").write_text(f"# From SB3's algorithms to ours\n\n{text.rstrip()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

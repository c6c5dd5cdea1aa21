"""
Learn on small environments and print each row's scores against its goal.

A run is one seed of one variant in a process of its own, and ends as a small JSON file under ``--out``: an
interrupted benchmark goes on where it was. A score is the mean return of 20 deterministic episodes of the final
model (no checkpoint is chosen), on environments seeded 10000, 10001, ... for every variant alike.

Usage::

    python benchmarks/learning_rows.py                                    # all rows, seeds 0 to 4, two at a time
    python benchmarks/learning_rows.py --row plain-dqn --row default-dqn
    python benchmarks/learning_rows.py --row plain-ddpg --seeds 0-1 --set learning_starts=1000   # tuning
    python benchmarks/learning_rows.py --report                           # print what has been run, run nothing

The row "priors" takes its agents from ``$SB3_CA2E_AGENTS``, a clone of rl-trained-agents. Full rows without
overrides are written to ``benchmarks/results/learning_rows.{json,md}``, everything else to ``--out``.
"""

import argparse
import ast
import dataclasses
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import playing
import stable_baselines3
import torch as th
import yaml
from provenance import REPOSITORY, RESULTS, describe, provenance, write_json, write_results
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecEnv

import sb3_ca2e
from sb3_ca2e.zoo.hyperparams import parse_value

N_EVAL_EPISODES = 20
#: Environments of the final score, and of the evaluations on the way; training seeds are 0, 1, ...
SCORE_SEED, CURVE_SEED = 10_000, 20_000
ALL_SEEDS = [0, 1, 2, 3, 4]


@dataclass(frozen=True)
class Variant:
    """
    One side of a row.

    :param name: as printed
    :param algorithm: class of sb3_ca2e or SB3; None for the demo
    :param tuned: take the environment's entry of ``hyperparams/``; else the default arguments
    :param priors: sources of prior agents
    """

    name: str
    algorithm: str | None
    tuned: bool = False
    priors: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether it is of this package."""
        return self.algorithm is None or hasattr(sb3_ca2e, self.algorithm)


@dataclass(frozen=True)
class Goal:
    """
    What the first variant of a row must reach.

    :param score: on at least ``n_seeds`` seeds
    :param n_seeds: how many
    :param worst: on every seed
    :param seconds: that no run may exceed
    :param beats: variant whose mean score must be reached
    """

    score: float | None = None
    n_seeds: int = 4
    worst: float | None = None
    seconds: float | None = None
    beats: str | None = None

    def __str__(self) -> str:
        parts = []
        if self.score is not None:
            parts.append(f"at least {self.score:g} on at least {self.n_seeds} of {len(ALL_SEEDS)} seeds")
        if self.worst is not None:
            parts.append(f"at least {self.worst:g} on all")
        if self.seconds is not None:
            parts.append(f"at most {self.seconds:g} s each")
        if self.beats is not None:
            parts.append(f"mean at least that of {self.beats}")
        return ", ".join(parts)

    def reached(self, first: list[dict[str, Any]], means: dict[str, float]) -> bool:
        """
        :param first: results of the first variant, one a seed
        :param means: mean score of each variant
        :return: whether the goal is reached
        """
        scores = [result["score"] for result in first]
        return (
            (self.score is None or sum(score >= self.score for score in scores) >= self.n_seeds)
            and (self.worst is None or min(scores) >= self.worst)
            and (self.seconds is None or max(result["seconds"] for result in first) <= self.seconds)
            and (self.beats is None or statistics.fmean(scores) >= means[self.beats])
        )


@dataclass(frozen=True)
class Row:
    """
    A row of the table.

    :param name: for ``--row``
    :param env_id: environment
    :param n_timesteps: budget, in transitions; 0 for the demo's own
    :param variants: what is run; the goal is the first one's
    :param goal: what must be reached
    :param eval_every: transitions between two evaluations on the way; 0 for none
    """

    name: str
    env_id: str
    n_timesteps: int
    variants: tuple[Variant, ...]
    goal: Goal
    eval_every: int = 0


DQN, DDPG = Variant("DQN of SB3", "DQN"), Variant("DDPG of SB3", "DDPG")
PRIORS = ("zoo:dqn", "zoo:ppo", "zoo:a2c")
ROWS = [
    Row("plain-dqn", "CartPole-v1", 60_000, (Variant("CA2EDQN", "CA2EDQN", tuned=True),), Goal(475)),
    Row("plain-ddpg", "Pendulum-v1", 30_000, (Variant("CA2EDDPG", "CA2EDDPG", tuned=True),), Goal(-200)),
    Row("default-dqn", "CartPole-v1", 60_000, (Variant("CA2EDQN", "CA2EDQN"), DQN), Goal(beats=DQN.name)),
    Row("default-ddpg", "Pendulum-v1", 30_000, (Variant("CA2EDDPG", "CA2EDDPG"), DDPG), Goal(beats=DDPG.name)),
    Row(
        "priors",
        "MountainCar-v0",
        100_000,
        (
            Variant("CA2EDQN with priors", "CA2EDQN", tuned=True, priors=PRIORS),
            Variant("CA2EDQN without", "CA2EDQN", tuned=True),
        ),
        Goal(-125),
        eval_every=5_000,
    ),
    Row("demo", "LunarLander-v3", 0, (Variant("make demo", None),), Goal(200, worst=150, seconds=360)),
]


@dataclass(frozen=True)
class Run:
    """
    One seed of one variant.

    :param row: name of the row
    :param variant: the variant
    :param seed: seed
    :param env_id: environment
    :param n_timesteps: budget
    :param settings: arguments of the algorithm as ``hyperparams/`` and ``--set`` give them
    :param eval_every: transitions between two evaluations on the way
    """

    row: str
    variant: Variant
    seed: int
    env_id: str
    n_timesteps: int
    settings: dict[str, Any] = field(default_factory=dict)
    eval_every: int = 0

    @property
    def name(self) -> str:
        """File name; other settings give another one."""
        described = json.dumps({**dataclasses.asdict(self), "seed": None}, sort_keys=True)
        variant = "-".join(self.variant.name.lower().split())
        return f"{self.row}/{variant}-{hashlib.sha256(described.encode()).hexdigest()[:8]}-seed{self.seed}"

    @classmethod
    def from_json(cls, text: str) -> "Run":
        """
        :param text: a run as JSON
        :return: the run
        """
        plain = json.loads(text)
        variant = plain.pop("variant")
        return cls(variant=Variant(**{**variant, "priors": tuple(variant["priors"])}), **plain)


def hyperparams(algorithm: str, env_id: str) -> dict[str, Any]:
    """
    :param algorithm: ``"CA2EDQN"`` or ``"CA2EDDPG"``
    :param env_id: environment
    :return: its entry of ``hyperparams/`` as it stands there, without the budget, which the row sets
    """
    file = REPOSITORY / "hyperparams" / f"{algorithm.lower().replace('ca2e', 'ca2e_')}.yml"
    entry = yaml.safe_load(file.read_text(encoding="utf-8"))[env_id]
    entry.pop("n_timesteps")
    return dict(entry)


def algorithm_arguments(settings: dict[str, Any], env: VecEnv) -> dict[str, Any]:
    """
    :param settings: hyperparameters in the zoo's notation
    :param env: the environment
    :return: arguments of the algorithm
    """
    arguments = {name: parse_value(value) for name, value in settings.items()}
    if (noise_type := arguments.pop("noise_type", None)) is not None:
        if noise_type != "normal":
            raise ValueError(f"noise_type {noise_type!r} is not known here")
        sigma = np.full(env.action_space.shape or (), float(arguments.pop("noise_std")))
        arguments["action_noise"] = NormalActionNoise(np.zeros_like(sigma), sigma)
    return arguments


def play(model: BaseAlgorithm, env_id: str, seed: int) -> list[float]:
    """
    Returns of deterministic episodes, played side by side.

    :param model: plays
    :param env_id: environment
    :param seed: of the first episode's environment; the next ones follow it
    :return: a return for each episode
    """
    return playing.play(model, lambda: gym.make(env_id), seed, N_EVAL_EPISODES)


class LearningCurve(BaseCallback):
    """
    Evaluates the model on the way.

    :param env_id: environment
    :param every: transitions between two evaluations
    """

    def __init__(self, env_id: str, every: int):
        super().__init__()
        self.env_id, self.every = env_id, every
        self.points: list[tuple[int, float]] = []
        self.seconds = 0.0

    def _on_step(self) -> bool:
        if self.every and self.num_timesteps >= self.every * (len(self.points) + 1):
            started = time.perf_counter()
            self.points.append((self.num_timesteps, statistics.fmean(play(self.model, self.env_id, CURVE_SEED))))
            self.seconds += time.perf_counter() - started
        return True


def learn(run: Run, n_processes: int | None) -> dict[str, Any]:
    """
    Train and score.

    :param run: what to run
    :param n_processes: actor processes
    :return: score and how it came about
    """
    th.set_num_threads(1)  # small networks: more threads only cost
    variant = run.variant
    assert variant.algorithm is not None
    settings = dict(run.settings)
    policy, env = settings.pop("policy", "MlpPolicy"), make_vec_env(run.env_id, n_envs=settings.pop("n_envs", 1))
    arguments = algorithm_arguments(settings, env)
    if variant.ours:
        arguments.setdefault("n_processes", n_processes)
        arguments["prior_agents"] = [sb3_ca2e.PriorAgent(source) for source in variant.priors]
    algorithm = getattr(sb3_ca2e if variant.ours else stable_baselines3, variant.algorithm)
    model = algorithm(policy, env, seed=run.seed, **arguments)
    curve = LearningCurve(run.env_id, run.eval_every)
    started = time.perf_counter()
    model.learn(run.n_timesteps, callback=curve)
    seconds = time.perf_counter() - started - curve.seconds
    returns = play(model, run.env_id, SCORE_SEED)
    result = {
        "score": round(statistics.fmean(returns), 2),
        "returns": [round(each, 2) for each in returns],
        "seconds": round(seconds, 1),
        "transitions": model.num_timesteps,
        "updates": model._n_updates,
        "curve": [(timesteps, round(mean, 2)) for timesteps, mean in curve.points],
    }
    return {**result, "actors": model.actor_stats} if variant.priors else result


def run_demo(run: Run, folder: pathlib.Path) -> dict[str, Any]:
    """
    Run the demo as a user does.

    :param run: what to run
    :param folder: what the demo writes
    :return: its score and duration
    """
    command = [sys.executable, "-m", "sb3_ca2e.demo", "--seed", str(run.seed), "--out", str(folder)]
    if run.n_timesteps:
        command += ["--timesteps", str(run.n_timesteps)]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - started
    told = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    best = told["best_checkpoint"]
    return {
        "score": round(best["mean"], 2),
        "returns": [round(each, 2) for each in best["returns"]],
        "seconds": round(seconds, 1),
        "transitions": told["timesteps"],
        "random_policy": round(told["random_policy"]["mean"], 2),
        "actors": told["actors"],
    }


def run_all(runs: Sequence[Run], out: pathlib.Path, jobs: int, n_processes: int | None) -> list[Run]:
    """
    Run what has no result yet, some at a time, each in a process of its own.

    :param runs: the runs
    :param out: folder of their results
    :param jobs: runs at a time; the demo runs alone
    :param n_processes: actor processes of a run
    :return: runs that failed
    """
    todo = [run for run in runs if not (out / f"{run.name}.json").exists()]
    print(f"{len(runs) - len(todo)} of {len(runs)} runs are done", flush=True)
    failed = []
    demos = [run for run in todo if run.variant.algorithm is None]
    for several, at_a_time in (([run for run in todo if run not in demos], jobs), (demos, 1)):
        with ThreadPoolExecutor(at_a_time) as pool:
            try:
                succeeded = pool.map(lambda run: run_in_process(run, out, n_processes), several)
                failed += [run for run, success in zip(several, succeeded, strict=True) if not success]
            except BaseException:
                pool.shutdown(cancel_futures=True)  # Ctrl-C reaches the runs under way by itself
                raise
    return failed


def run_in_process(run: Run, out: pathlib.Path, n_processes: int | None) -> bool:
    """
    Run, and tell how it went.

    :param run: what to run
    :param out: folder of its result and of its output
    :param n_processes: actor processes
    :return: whether there is a result
    """
    command = [sys.executable, __file__, "--out", str(out), "--child", json.dumps(dataclasses.asdict(run))]
    if n_processes is not None:
        command += ["--n-processes", str(n_processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    log = out / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        ended = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if ended.returncode != 0:
        print(f"FAILED: {log}\n" + "\n".join(log.read_text().splitlines()[-15:]), flush=True)
        return False
    result = json.loads((out / f"{run.name}.json").read_text())
    print(f"{run.name}: {result['score']} in {result['seconds']} s", flush=True)
    return True


def run_child(run: Run, out: pathlib.Path, n_processes: int | None) -> None:
    """
    Run, and write the result.

    :param run: what to run
    :param out: folder of the results
    :param n_processes: actor processes
    """
    measured_on = provenance()  # the code that is running, whatever is edited meanwhile
    result = learn(run, n_processes) if run.variant.algorithm is not None else run_demo(run, out / run.name)
    write_json(out / f"{run.name}.json", {**dataclasses.asdict(run), **result, "measured_on": measured_on})


def summarise(row: Row, runs: Sequence[Run], out: pathlib.Path) -> dict[str, Any] | None:
    """
    :param row: the row
    :param runs: its runs
    :param out: folder of their results
    :return: the row as plain data; None if the first variant has no result
    """
    variants: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        file = out / f"{run.name}.json"
        if file.exists():
            variants.setdefault(run.variant.name, []).append(json.loads(file.read_text(encoding="utf-8")))
    first = variants.get(row.variants[0].name)
    if not first:
        return None
    means = {name: statistics.fmean(result["score"] for result in results) for name, results in variants.items()}
    commits = sorted({result["measured_on"]["commit"] for results in variants.values() for result in results})
    complete = all(len(variants.get(variant.name, [])) == len(ALL_SEEDS) for variant in row.variants)
    return {
        "env_id": row.env_id,
        "n_timesteps": first[0]["n_timesteps"],
        "goal": str(row.goal),
        "reached": row.goal.reached(first, means) if complete else None,
        "threshold": row.goal.score,
        "variants": {
            name: {
                "mean": round(means[name], 2),
                "settings": results[0]["settings"],
                "priors": results[0]["variant"]["priors"],
                "runs": [_told(result, row.goal.score) for result in results],
            }
            for name, results in variants.items()
        },
        "measured_on": {**first[-1]["measured_on"], "commit": " and ".join(commits)},
    }


def _told(result: dict[str, Any], threshold: float | None) -> dict[str, Any]:
    """What the table keeps of a run."""
    kept: dict[str, Any] = {
        key: result[key] for key in ("seed", "score", "seconds", "transitions", "updates") if key in result
    }
    if result.get("curve") and threshold is not None:
        kept["first_reached"] = next((steps for steps, mean in result["curve"] if mean >= threshold), None)
        kept["curve"] = result["curve"]
    if "actors" in result:
        kept["retired_at"] = [each["retired_at"] for each in result["actors"] if each["baseline"] is not None]
    return kept


def table(name: str, row: dict[str, Any]) -> str:
    """
    :param name: name of the row
    :param row: what :func:`summarise` returned
    :return: Markdown
    """
    threshold = row["threshold"]
    verdict = {True: "reached", False: "MISSED", None: "some seeds have not been run"}[row["reached"]]
    seeds = [run["seed"] for run in next(iter(row["variants"].values()))["runs"]]
    head = ["", *(f"seed {seed}" for seed in seeds), "mean"]
    head += [f"≥ {threshold:g}"] if threshold is not None else []
    head += ["seconds a run"]
    lines = [f"## {name}: {row['env_id']}" + (f", {row['n_timesteps']} transitions" if row["n_timesteps"] else ""), ""]
    lines += [f"Goal: {row['goal']}. **{verdict}**", "", _line(head), _line(["---"] * len(head))]
    for variant, each in row["variants"].items():
        runs = each["runs"]
        by_seed = {run["seed"]: run for run in runs}
        cells = [f"{by_seed[seed]['score']:.1f}" if seed in by_seed else "" for seed in seeds]
        cells = [variant, *cells, f"{each['mean']:.1f}"]
        if threshold is not None:
            cells.append(f"{sum(run['score'] >= threshold for run in runs)} of {len(runs)}")
        seconds = [run["seconds"] for run in runs]
        lines.append(_line([*cells, f"{min(seconds):.0f} to {max(seconds):.0f}"]))
    for variant, each in row["variants"].items():
        reached = [run["first_reached"] for run in each["runs"] if "first_reached" in run]
        if reached:
            told = ", ".join("never" if steps is None else str(steps) for steps in reached)
            lines += [
                "",
                f"{variant}: transitions at the first evaluation during training that reaches {threshold:g}: {told}.",
            ]
    for variant, each in row["variants"].items():
        if each["settings"]:
            lines += ["", f"{variant}: `{each['settings']}`" + "".join(f", `{prior}`" for prior in each["priors"])]
    return "\n".join([*lines, "", describe(row["measured_on"]), ""])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def report(rows: dict[str, dict[str, Any]], folder: pathlib.Path) -> None:
    """
    Print rows, and write them beside those that stand there already.

    :param rows: what :func:`summarise` returned, by name
    :param folder: where to write
    """
    file = folder / "learning_rows.json"
    standing = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    merged = {row.name: {**standing, **rows}[row.name] for row in ROWS if row.name in {**standing, **rows}}
    intro = [
        "# Learning rows",
        "",
        f"A score is the mean return of {N_EVAL_EPISODES} deterministic episodes of the final model, on environments",
        f"seeded {SCORE_SEED}, {SCORE_SEED + 1}, ... The demo reports its own score, that of its best checkpoint.",
        "",
    ]
    text = "\n".join(intro) + "\n" + "\n".join(table(name, row) for name, row in merged.items())
    write_results(folder, "learning_rows", merged, text)


def parse_seeds(text: str) -> list[int]:
    """
    :param text: such as ``0-4`` or ``0,3``
    :return: the seeds
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def parse_override(text: str) -> tuple[str, Any]:
    """
    :param text: ``name=value``, the value a Python literal or else a string
    :return: name and value
    """
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def runs_of(row: Row, args: argparse.Namespace) -> list[Run]:
    """
    :param row: a row
    :param args: the command line
    :return: its runs, all variants of a seed before the next seed
    """
    runs = []
    for seed in args.seeds:
        for variant in row.variants:
            settings = {}
            if variant.algorithm is not None and variant.tuned:
                settings = hyperparams(variant.algorithm, row.env_id)
            if variant.ours:
                settings |= dict(args.set)
            if args.priors is not None and variant.priors:
                variant = dataclasses.replace(variant, priors=tuple(args.priors.split(",")))
            eval_every = row.eval_every if args.eval_every is None else args.eval_every
            n_timesteps = args.timesteps or row.n_timesteps
            runs.append(Run(row.name, variant, seed, row.env_id, n_timesteps, settings, eval_every))
    return runs


def main() -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=names, help="this row; may be repeated; all without it")
    parser.add_argument("--seeds", type=parse_seeds, default=ALL_SEEDS, help="such as 0-4 or 0,3")
    parser.add_argument(
        "--jobs", type=int, default=2, help="runs at a time; with more than one, each has one actor process"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/learning_rows"), help="results of runs")
    parser.add_argument(
        "--set",
        type=parse_override,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="tuning: an argument of our side",
    )
    parser.add_argument("--priors", help="tuning: comma-separated sources instead of " + ",".join(PRIORS))
    parser.add_argument("--timesteps", type=int, help="tuning: another budget")
    parser.add_argument("--eval-every", type=int, help="tuning: transitions between evaluations on the way; 0 for none")
    parser.add_argument("--n-processes", type=int, help="actor processes of a run")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--child", type=Run.from_json, help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.child is not None:
        run_child(args.child, args.out, args.n_processes)
        return
    rows = {row: runs_of(row, args) for row in ROWS if row.name in (args.row or names)}
    failed = []
    if not args.report:
        n_processes = 1 if args.n_processes is None and args.jobs > 1 else args.n_processes
        failed = run_all([run for runs in rows.values() for run in runs], args.out, args.jobs, n_processes)
    summaries = {row.name: summary for row, runs in rows.items() if (summary := summarise(row, runs, args.out))}
    trial = args.set or args.timesteps or args.priors or args.eval_every is not None
    whole = not trial and all(summary["reached"] is not None for summary in summaries.values())
    report(summaries, RESULTS if whole and summaries else args.out)
    if failed:
        sys.exit(f"{len(failed)} runs failed: {', '.join(run.name for run in failed)}")


if __name__ == "__main__":
    main()

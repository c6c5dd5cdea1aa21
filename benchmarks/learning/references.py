"""
Measure what scores are normalised with: a random policy, and the prior agents of each task.

Mean returns over 100 episodes each, seeded alike; written to ``benchmarks/results/learning/references.json``::

    python benchmarks/learn.py references
"""

import json
import pathlib
import statistics
from typing import Any

import gymnasium as gym
import torch as th
from provenance import provenance, write_json
from stable_baselines3.common.env_util import make_vec_env

from learning.experiment import CURVES, Task, experiment, made_prior
from sb3_ca2e import PriorAgent

#: In the folder of the curves.
NAME = "references.json"
SEED = 30_000


def references(folder: pathlib.Path = CURVES) -> dict[str, Any]:
    """
    :param folder: of the curves
    :return: by task: ``random`` and ``priors`` by source, mean returns
    """
    file = folder / NAME
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: run python benchmarks/learn.py references first.")
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return told


def random_policy(env_id: str, n_episodes: int) -> float:
    """
    :param env_id: environment
    :param n_episodes: how many
    :return: mean return of random actions
    """
    env = gym.make(env_id)
    env.action_space.seed(SEED)
    returns = []
    for episode in range(n_episodes):
        env.reset(seed=SEED + episode)
        total, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += float(reward)
            ended = terminated or truncated
        returns.append(total)
    return statistics.fmean(returns)


def prior(source: str | pathlib.Path, env_id: str, n_episodes: int) -> float:
    """
    :param source: of a prior agent
    :param env_id: environment
    :param n_episodes: how many
    :return: its mean return
    """
    env = make_vec_env(env_id, n_envs=1, seed=SEED)
    return PriorAgent(source).evaluate(env, n_episodes)[0]


def measure(task: Task, n_episodes: int, known: dict[str, Any]) -> dict[str, Any]:
    """
    :param task: a task
    :param n_episodes: how many of each
    :param known: what has been measured before
    :return: its entry
    """
    priors = dict(known.get("priors", {}))
    for source in task.priors:
        if source not in priors:
            priors[source] = round(prior(source, task.env_id, n_episodes), 2)
    made = dict(known.get("made", {}))
    for name in {name for names in experiment().made_priors.values() for name in names}:
        path = made_prior(task, name)
        if path.exists() and name not in made:
            made[name] = round(prior(path, task.env_id, n_episodes), 2)
    at_random = known["random"] if "random" in known else round(random_policy(task.env_id, n_episodes), 2)
    entry = {"random": at_random, "priors": priors, "made": dict(sorted(made.items()))}
    if entry.items() <= known.items():  # nothing new
        return known
    return entry | {"measured_on": provenance()}


def main() -> None:
    th.set_num_threads(1)
    whole = experiment()
    told = references() if (CURVES / NAME).exists() else {}
    for env_id, task in whole.tasks.items():
        told[env_id] = measure(task, whole.reference_episodes, told.get(env_id, {}))
        entry = told[env_id]
        print(env_id, entry["random"], entry["priors"], entry["made"], flush=True)
        write_json(CURVES / NAME, told)


if __name__ == "__main__":
    main()

"""``sb3-ca2e priors``: lists the agents that can serve as prior agents in an environment."""

import argparse
import contextlib
import csv
import dataclasses
import difflib
import importlib
import json
import sys
from importlib import resources
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_ca2e.common.installing import naming_our_extras
from sb3_ca2e.envs.identity import identity_of_vec
from sb3_ca2e.priors.agent import PriorAgent
from sb3_ca2e.priors.find import AgentFiles, candidates, search_path
from sb3_ca2e.priors.loading import load_trained_on
from sb3_ca2e.priors.reader.errors import UntrustedAgentError

#: Mean of a reward and its standard deviation.
Reward = tuple[float, float]


@dataclasses.dataclass
class Candidate:
    """
    An agent that could be a prior agent.

    :param source: entry for ``prior_agents``
    :param algorithm: algorithm that trained it
    :param trained_on: id of the environment that it was trained on
    :param path: path of its zip
    :param published_reward: mean and standard deviation that the RL Zoo publishes for it
    :param recorded_reward: mean recorded beside it
    :param measured_reward: mean and standard deviation measured here
    :param preprocessing: steps from the environment's observations to its policy
    :param loads_without_trust: whether it can be read without executing code
    :param problem: why it can't be a prior agent, or None
    """

    source: str
    algorithm: str
    trained_on: str | None
    path: str
    published_reward: Reward | None
    recorded_reward: float | None = None
    measured_reward: Reward | None = None
    preprocessing: list[str] = dataclasses.field(default_factory=list)
    loads_without_trust: bool = True
    problem: str | None = None


def main() -> None:
    """Run the command with the arguments in ``sys.argv``."""
    parser = argparse.ArgumentParser(description="List the agents that can serve as prior agents in an environment.")
    parser.add_argument("--env", required=True, help="environment ID")
    parser.add_argument("--evaluate", type=int, default=0, metavar="N", help="measure each over N episodes, seed 0")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="packages to import that register environments")
    args = parser.parse_args()
    if args.evaluate < 0:
        parser.error(f"--evaluate takes a number of episodes, not {args.evaluate}")
    for package in args.gym_packages:
        importlib.import_module(package)
    try:
        env = make_env(args.env)
    except gym.error.Error as error:
        nearest = [name for name in difflib.get_close_matches(args.env, gym.registry, n=1) if name != args.env]
        hinted = not nearest or "Did you mean" in str(error)
        sys.exit(f"{error}" if hinted else f"{error} Did you mean {nearest[0]!r}?")
    try:
        found = inspect(args.env, env, args.evaluate)
    finally:
        env.close()
    print(json.dumps([dataclasses.asdict(each) for each in found], indent=2) if args.json else table(args.env, found))


def make_env(env_id: str) -> VecEnv:
    """
    Make an environment as the RL Zoo's hyperparameters prescribe: Atari games are preprocessed and stacked.

    :param env_id: id of the environment
    :return: the environment, wrapped as by a learner
    """
    if "NoFrameskip" in env_id or env_id.startswith("ALE/"):
        with contextlib.suppress(ImportError):
            importlib.import_module("ale_py")
    with naming_our_extras():
        if "AtariEnv" in str(gym.spec(env_id).entry_point):
            return BaseAlgorithm._wrap_env(VecFrameStack(make_atari_env(env_id), 4), verbose=0)
        return BaseAlgorithm._wrap_env(make_vec_env(env_id), verbose=0)


def inspect(env_id: str, env: VecEnv, n_episodes: int = 0) -> list[Candidate]:
    """
    Load all agents on the search path whose names match an environment.

    :param env_id: id of the environment
    :param env: the environment without normalisation
    :param n_episodes: number of episodes to measure each agent; 0 for none
    :return: the agents, in the order in which ``"zoo:"`` prefers them
    """
    published = published_rewards()
    known: set[str] = set()
    found = []
    for files in candidates(env_id):
        source = f"zoo:{files.algorithm}"
        of_the_zoo = not files.bundled and files.model.parts[0] != "logs"  # nor trained here
        candidate = Candidate(
            source=str(files.model) if source in known else source,
            algorithm=files.algorithm,
            trained_on=files.env_id,
            path=str(files.model),
            published_reward=published.get((files.algorithm, str(files.env_id))) if of_the_zoo else None,
        )
        known.add(source)
        try:
            _try(candidate, files, env, n_episodes)
        except UntrustedAgentError as error:
            candidate.loads_without_trust, candidate.problem = False, str(error)
        except (ValueError, ImportError) as error:
            candidate.problem = str(error)
        found.append(candidate)
    return found


def _try(candidate: Candidate, files: AgentFiles, env: VecEnv, n_episodes: int) -> None:
    """Load and measure an agent, recording its properties even if a later step fails."""
    candidate.recorded_reward = files.recorded_reward
    candidate.preprocessing = load_trained_on(files, trust=False).describe()
    agent = PriorAgent(files.model)
    agent.resolve(env.observation_space, env.action_space, identity_of_vec(env))
    if n_episodes:
        env.seed(0)
        candidate.measured_reward = agent.evaluate(env, n_episodes)


def published_rewards() -> dict[tuple[str, str], Reward]:
    """
    Return the rewards that the RL Zoo has published.

    :return: mean and standard deviation by algorithm and environment
    """
    lines = (resources.files("sb3_ca2e.zoo") / "published_rewards.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {(row["algorithm"], row["env_id"]): (float(row["mean_reward"]), float(row["std_reward"])) for row in rows}


def table(env_id: str, found: list[Candidate]) -> str:
    """
    Format candidates as a table, with notes on those that can't be used.

    :param env_id: id of the environment
    :param found: candidates
    :return: the table as text
    """
    if not found:
        looked = ", ".join(map(str, search_path()))
        return f"No agents for {env_id} in {looked}. Set SB3_CA2E_AGENTS to a clone of DLR-RM/rl-trained-agents."
    rows = [["prior agent", "trained on", "published", "recorded", "measured", "preprocessing", "loads"]]
    notes: list[str] = []
    for each in found:
        loads = "yes"
        if each.problem is not None:
            notes.append(f"[{len(notes) + 1}] {each.problem}")
            loads = f"{'no' if each.loads_without_trust else 'needs trust'} [{len(notes)}]"
        rewards = [each.published_reward, each.recorded_reward, each.measured_reward]
        seen = ", ".join(each.preprocessing) or "none"
        rows.append([each.source, each.trained_on or "", *map(_reward, rewards), seen, loads])
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    padded = [[cell.ljust(width) for cell in column] for column, width in zip(columns, widths, strict=True)]
    lines = ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _reward(reward: Any) -> str:
    if reward is None:
        return ""
    return " ± ".join(f"{each:.1f}" for each in (reward if isinstance(reward, tuple) else (reward,)))

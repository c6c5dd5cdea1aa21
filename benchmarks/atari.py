"""
Take CA2EDQN through Pong on the CPU, with and without prior agents, and print what came of it.

Each variant trains, is saved with its memory, loaded, goes on, and plays a whole game. So few transitions teach nobody
Pong: what is checked is that all of it works, and that the returns logged are those of whole, unclipped games.

Usage::

    python benchmarks/atari.py --agents <folder>    # a folder of the RL Zoo's layout with ppo/PongNoFrameskip-v4_*

Without a folder the variant with priors is left out. Results go to ``benchmarks/results/atari.{json,md}``, those of
another budget to ``--out``.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import ale_py
import gymnasium as gym
import torch as th
from provenance import RESULTS, describe, provenance, write_results
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_ca2e import CA2EDQN, PriorAgent

ENV_ID = "PongNoFrameskip-v4"
N_ENVS = 8
N_TIMESTEPS, N_MORE = 20_000, 800
SETTINGS: dict[str, Any] = {"learning_starts": 1_000, "buffer_size": 50_000, "seed": 0}


class Games(BaseCallback):
    """The returns of the games that ended, by the kind of their slot, and the rewards that the learner gets."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: dict[str, list[float]] = {"nature": [], "prior": []}
        self.rewards: set[float] = set()

    def _on_step(self) -> bool:
        self.rewards |= set(self.locals["rewards"].tolist())
        for info, kind in zip(self.locals["infos"], self.locals["actor_kinds"], strict=True):
            if "episode" in info:
                self.returns[kind].append(info["episode"]["r"])
        return True


def pong(n_envs: int, seed: int) -> VecEnv:
    """
    :param n_envs: games side by side
    :param seed: of the first
    :return: Pong as the learner sees it
    """
    return VecFrameStack(make_atari_env(ENV_ID, n_envs=n_envs, seed=seed), 4)


def run(priors: list[PriorAgent], n_timesteps: int, n_more: int, settings: dict[str, Any]) -> dict[str, Any]:
    """
    Train, save, load, go on and play.

    :param priors: prior agents
    :param n_timesteps: transitions of the training
    :param n_more: transitions after loading
    :param settings: arguments of the algorithm
    :return: what was seen
    """
    env, games = pong(N_ENVS, seed=0), Games()
    model = CA2EDQN("CnnPolicy", env, prior_agents=priors, **settings)
    started = time.perf_counter()
    model.learn(n_timesteps, games)
    seconds = time.perf_counter() - started
    trained = {"transitions": model.num_timesteps, "updates": model._n_updates}
    observations = model.replay_buffer.sample(32).observations
    with tempfile.TemporaryDirectory() as folder:
        model.save(pathlib.Path(folder) / "model")
        model.save_replay_buffer(pathlib.Path(folder) / "memory")
        loaded = CA2EDQN.load(pathlib.Path(folder) / "model", env=env)
        loaded.load_replay_buffer(pathlib.Path(folder) / "memory")
    with th.no_grad():
        same = th.equal(loaded.q_net(observations), model.q_net(observations))
    loaded.learn(n_more, games, reset_num_timesteps=False)
    played, frames = evaluate_policy(
        loaded, pong(1, seed=10_000), n_eval_episodes=1, deterministic=False, return_episode_rewards=True
    )
    returns = [each for kind in games.returns.values() for each in kind]
    return {
        "priors": len(priors),
        "seconds": round(seconds, 1),
        **trained,
        "rewards": sorted(games.rewards),
        "games": games.returns,
        "whole_and_unclipped": bool(returns) and all(each == int(each) and abs(each) <= 21 for each in returns),
        "prior_fraction": round(model.replay_buffer.prior_fraction, 3),
        "loaded_the_same": same,
        "resumed": {
            "transitions": loaded.num_timesteps,
            "updates": loaded._n_updates,
            "in_memory": loaded.replay_buffer.size(),
        },
        "played": {"returns": played, "frames": frames},
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """
    :param results: what :func:`run` returned, by the variant's name
    :return: as Markdown
    """
    lines = ["| | " + " | ".join(results) + " |", "| --- |" + " --- |" * len(results)]

    def line(what: str, values: list[str]) -> None:
        lines.append(f"| {what} | " + " | ".join(values) + " |")

    every = list(results.values())
    line("transitions, updates", [f"{r['transitions']}, {r['updates']}" for r in every])
    line("seconds", [f"{r['seconds']}" for r in every])
    line("share of prior transitions", [f"{r['prior_fraction']}" for r in every])
    line("returns of nature slots' games", [spread(r["games"]["nature"]) for r in every])
    line("returns of prior slots' games", [spread(r["games"]["prior"]) for r in every])
    line("all whole numbers from −21 to 21", ["yes" if r["whole_and_unclipped"] else "NO" for r in every])
    line("rewards that the learner got", [", ".join(f"{x:g}" for x in r["rewards"]) for r in every])
    line("loaded model says the same", ["yes" if r["loaded_the_same"] else "NO" for r in every])
    resumed = [r["resumed"] for r in every]
    line("after going on: transitions, updates", [f"{r['transitions']}, {r['updates']}" for r in resumed])
    line("after going on: in the memory", [f"{r['in_memory']}" for r in resumed])
    line("a game played by the loaded model: return", [f"{r['played']['returns'][0]:g}" for r in every])
    return "\n".join(lines)


def spread(returns: list[float]) -> str:
    """
    :param returns: of games
    :return: how many, their mean and their range
    """
    if not returns:
        return "none ended"
    return f"{len(returns)}: mean {statistics.fmean(returns):.1f}, {min(returns):g} to {max(returns):g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    agents = os.environ.get("SB3_CA2E_ATARI_AGENTS")
    parser.add_argument("--agents", type=pathlib.Path, default=agents, help="folder of the Pong agents")
    parser.add_argument("--timesteps", type=int, default=N_TIMESTEPS, help="transitions of a training")
    parser.add_argument("--more", type=int, default=N_MORE, help="transitions after loading")
    parser.add_argument("--learning-starts", type=int, default=SETTINGS["learning_starts"], help="as the algorithm's")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/atari"), help="for other budgets")
    args = parser.parse_args()

    gym.register_envs(ale_py)
    settings = SETTINGS | {"learning_starts": args.learning_starts}
    variants: dict[str, list[PriorAgent]] = {"without priors": []}
    if args.agents is not None:
        zips = sorted(args.agents.glob(f"ppo/{ENV_ID}_*/{ENV_ID}.zip"))
        variants["with priors"] = [PriorAgent(path) for path in zips]
    measured_on = provenance()
    results = {}
    for name, priors in variants.items():
        results[name] = run(priors, args.timesteps, args.more, settings)
        print(name, results[name], flush=True)
    text = [
        "# Atari",
        "",
        f"CA2EDQN on {ENV_ID}, {N_ENVS} slots, CPU: {args.timesteps} transitions, saved and loaded with the memory,",
        f"{args.more} transitions more, and a game played. Settings: `{settings}`, else the defaults.",
        "",
        table(results),
        "",
        describe(measured_on),
    ]
    whole = (args.timesteps, args.more, settings) == (N_TIMESTEPS, N_MORE, SETTINGS) and len(results) == 2
    content = {"settings": settings, "results": results, "measured_on": measured_on}
    write_results(RESULTS if whole else args.out, "atari", content, "\n".join(text))


if __name__ == "__main__":
    main()

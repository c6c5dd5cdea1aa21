"""
A demonstration of CA2E in a few minutes: ``python -m sb3_ca2e.demo``.

Trains a randomly initialised CA2EDQN with eight slots, three of them with the agents bundled with the package, shows
what each actor does, keeps the best checkpoint, evaluates it on fresh seeds and plots the run.
"""

import argparse
import json
import os
import pathlib
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, ProgressBarCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

from sb3_ca2e import CA2EDQN, PriorAgent
from sb3_ca2e.common.installing import needing
from sb3_ca2e.plots import actors_picture, learning_curve
from sb3_ca2e.priors.find import BUNDLED
from sb3_ca2e.zoo.hyperparams import load_hyperparams

with needing("demo", "Something that the demo needs is not installed"):
    import matplotlib  # noqa: F401
    import tqdm  # noqa: F401
    from rich import box, get_console
    from rich.live import Live
    from rich.table import Table

N_ACTORS = 8
#: Number of evaluations in a run, of episodes in each, and of episodes in the final one.
N_EVALUATIONS, N_EVAL_EPISODES, N_TEST_EPISODES = 20, 10, 20
#: Environments of evaluations. All step until the last one has played its episodes, so that one environment for each
#: episode would mostly step in vain while the last lander hovers.
N_EVAL_ENVS = 5
#: Entries of ``model.actor_stats`` in the table of actors, and their formats.
NUMBERS = {"ep_rew_mean": ".1f", "episodes": ",", "fps": ",.0f", "baseline": ".1f", "retired_at": ",.0f"}


class ActorsTable(BaseCallback):
    """
    Shows what each actor does: above the progress bar in a terminal, otherwise a few times in a run.

    At the end it also logs once more, so that the plots are complete.

    :param agents: names of the prior agents by slot
    :param timesteps: transitions of the run
    """

    model: CA2EDQN

    def __init__(self, agents: dict[int, str], timesteps: int):
        super().__init__()
        self.agents = agents
        self.live = Live() if get_console().is_terminal else None
        self.draw_freq = max(timesteps // (100 if self.live else 5), 1)

    def _on_step(self) -> bool:
        if self.num_timesteps % self.draw_freq < self.training_env.num_envs:
            self._draw()
        return True

    def _on_training_end(self) -> None:
        self.model.dump_logs()
        self._draw()

    def _draw(self) -> None:
        table = actors_table(self.model.actor_stats, self.agents, f"Actors after {self.num_timesteps:,} transitions")
        if self.live is None:
            get_console().print(table)
        else:
            self.live.update(table)


def actors_table(stats: Sequence[dict[str, Any]], agents: dict[int, str], title: str) -> Table:
    """
    Build the table of actors.

    :param stats: ``model.actor_stats``
    :param agents: names of the prior agents by slot
    :param title: title of the table
    :return: a row for each slot, at most 80 columns wide
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("slot", "plays", "epsilon", "mean return", "games", "steps/s", "baseline", "retired"):
        table.add_column(heading, justify="left" if heading == "plays" else "right", no_wrap=True)
    for row in stats:
        agent, is_prior = agents.get(row["slot"]), row["kind"] == "prior"
        plays = f"prior {agent}" if is_prior else f"nature, was {agent}" if agent else "nature"
        epsilon = "" if is_prior else f"{row['epsilon']:.2f}"
        numbers = [_or_blank(row[key], form) for key, form in NUMBERS.items()]
        style = "cyan" if is_prior else "green" if agent else None
        table.add_row(str(row["slot"]), plays, epsilon, *numbers, style=style)
    return table


def _or_blank(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)


class EvaluationLine(BaseCallback):
    """Prints a line for each evaluation; the ``callback_after_eval`` of an ``EvalCallback``."""

    parent: EvalCallback

    def _on_step(self) -> bool:
        returns = self.parent.evaluations_results[-1]
        best = "  best so far, kept" if self.parent.last_mean_reward == self.parent.best_mean_reward else ""
        result = f"{np.mean(returns):7.1f} ± {np.std(returns):5.1f}"
        print(f"{self.num_timesteps:>9,}  evaluation {result}{best}", flush=True)
        return True


def bundled_agents(env_id: str) -> list[pathlib.Path]:
    """
    Find the bundled agents of an environment.

    ``"zoo:ppo"`` would find them too, but prefers the user's own agents.

    :param env_id: id of the environment
    :return: their zoo folders, at most one less than there are slots
    """
    return sorted(BUNDLED.glob(f"*/{env_id}_*"))[: N_ACTORS - 1]


def play(agent: Any, env_id: str, seed: int) -> dict[str, Any]:
    """
    Evaluate an agent on episodes with seeds of their own, one environment for each.

    :param agent: agent with SB3's ``predict``; None for one that acts at random
    :param env_id: id of the environment
    :param seed: seed of the first environment; the others follow
    :return: mean, standard deviation, returns and seed
    """
    env = make_vec_env(env_id, n_envs=N_TEST_EPISODES, seed=seed)
    env.action_space.seed(seed)

    def random_actions(*_: Any, **__: Any) -> tuple[list[Any], None]:
        return [env.action_space.sample() for _ in range(env.num_envs)], None

    player: Any = agent or SimpleNamespace(predict=random_actions)
    returns, _ = evaluate_policy(player, env, N_TEST_EPISODES, return_episode_rewards=True)
    env.close()
    return {"mean": float(np.mean(returns)), "std": float(np.std(returns)), "returns": returns, "seed": seed}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """
    Parse the command line.

    :param argv: arguments; None for those of this process
    :return: the options
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_ca2e.demo", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--env", default="LunarLander-v3", help="an environment of hyperparams/ca2e_dqn.yml")
    parser.add_argument("--timesteps", type=int, help="transitions of all actors (default: the environment's)")
    parser.add_argument("--seed", type=int, help="(default: a random one)")
    parser.add_argument("--out", type=pathlib.Path, help="folder for what the run leaves (default: runs/demo-<date>)")
    parser.add_argument("--no-priors", action="store_true", help="eight nature actors, for comparison")
    parser.add_argument("--n-processes", type=int, help="actor processes (default: one a CPU)")
    options = parser.parse_args(argv)
    try:
        options.hyperparams = load_hyperparams("ca2e_dqn", options.env)
    except ValueError as error:
        parser.error(str(error))
    if options.timesteps is not None and options.timesteps < 1:
        parser.error("--timesteps must be at least 1")
    options.seed = secrets.randbits(31) if options.seed is None else options.seed
    options.out = options.out or pathlib.Path("runs", f"demo-{datetime.now():%Y%m%d-%H%M%S}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """
    Run the demo.

    :param argv: arguments of the command line; None for those of this process
    """
    options = parse_arguments(argv)
    started = time.monotonic()
    # Small networks gain nothing from more threads, which would wait for each other and take the actors' cores.
    th.set_num_threads(1)
    hyperparams = dict(options.hyperparams)
    n_envs, default_timesteps = hyperparams.pop("n_envs"), hyperparams.pop("n_timesteps")
    timesteps = options.timesteps or default_timesteps
    # Training, choosing the checkpoint and the final evaluation never share a seed.
    train_seed, eval_seed, test_seed = (int(s) % 2**30 for s in np.random.SeedSequence(options.seed).generate_state(3))
    priors = [] if options.no_priors else bundled_agents(options.env)
    agents = {N_ACTORS - len(priors) + i: PriorAgent.of(prior).algo for i, prior in enumerate(priors)}

    model = CA2EDQN(
        env=make_vec_env(options.env, n_envs=n_envs),
        prior_agents=priors,
        n_actors=N_ACTORS,
        n_processes=options.n_processes,
        seed=train_seed,
        device="cpu",  # faster than an accelerator for networks of this size
        **hyperparams,
    )
    model.set_logger(configure(str(options.out), ["csv"]))
    eval_freq = min(max(timesteps // N_EVALUATIONS, 1000), timesteps)
    eval_env = make_vec_env(options.env, n_envs=N_EVAL_ENVS, seed=eval_seed)
    evaluation = EvalCallback(
        eval_env,
        callback_after_eval=EvaluationLine(),
        n_eval_episodes=N_EVAL_EPISODES,
        eval_freq=max(eval_freq // n_envs, 1),
        log_path=str(options.out),
        best_model_save_path=str(options.out),
        verbose=0,
    )
    table = ActorsTable(agents, timesteps)
    callbacks, interrupted = CallbackList([evaluation, table, ProgressBarCallback()]), False
    print(f"CA2EDQN on {options.env}, {timesteps:,} transitions, seed {options.seed}")
    names = ", ".join(agents.values()) or "none"
    print(f"{N_ACTORS} slots, prior agents in {len(agents)} of them: {names}\n", flush=True)
    learning_started = time.monotonic()
    with table.live or nullcontext():
        try:
            model.learn(timesteps, callback=callbacks)
        except KeyboardInterrupt:  # continue with the result; a second one ends the demo
            interrupted = True
            if model.num_timesteps > 0:  # the callbacks have begun
                callbacks.on_training_end()
    learning_seconds = time.monotonic() - learning_started
    eval_env.close()
    model.logger.close()

    best = options.out / "best_model.zip"
    model.save(options.out / "last_model")
    if not best.is_file():  # interrupted before the first evaluation
        model.save(best)
    results = {
        "env": options.env,
        "seed": options.seed,
        "timesteps": model.num_timesteps,
        "interrupted": interrupted,
        "priors": {
            slot: {"agent": name} | {key: model.actor_stats[slot][key] for key in ("baseline", "retired_at")}
            for slot, name in agents.items()
        },
        "best_checkpoint": play(CA2EDQN.load(best, device="cpu"), options.env, test_seed),
        "random_policy": play(None, options.env, test_seed),
        "learning_seconds": round(learning_seconds, 1),
        "actors": model.actor_stats,
    }
    spec = gym.spec(options.env)
    title = f"CA2EDQN on {options.env}, {N_ACTORS} slots, {len(agents)} of them priors, seed {options.seed}"
    learning_curve(options.out, agents, title, spec.reward_threshold).savefig(options.out / "learning_curve.png")
    actors_picture(options.out, agents, title).savefig(options.out / "actors.png")
    results["total_seconds"] = round(time.monotonic() - started, 1)
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    report(options, results)


def report(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """
    Print the results.

    :param options: options of the command line
    :param results: content of ``results.json``
    """
    best, random = results["best_checkpoint"], results["random_policy"]
    if results["interrupted"]:
        print(f"\nInterrupted after {results['timesteps']:,} transitions.")
    print(f"\nBest checkpoint, {N_TEST_EPISODES} episodes of fresh seeds: {best['mean']:.1f} ± {best['std']:.1f}")
    print(f"Random policy, the same seeds: {random['mean']:.1f} ± {random['std']:.1f}")
    for prior in results["priors"].values():
        retired = "" if prior["retired_at"] is None else f", retired after {prior['retired_at']:,} transitions"
        print(f"Prior {prior['agent']}: baseline {_or_blank(prior['baseline'], '.1f') or 'unknown'}{retired}")
    print(f"Time: {results['learning_seconds']:.0f} s of learning, {results['total_seconds']:.0f} s in all\n")
    print(*sorted(options.out.iterdir()), sep="\n")
    other, flag = ("with", "") if options.no_priors else ("without", " --no-priors")
    length = f" --timesteps {options.timesteps}" if options.timesteps else ""
    command = f"{shlex.quote(os.path.relpath(sys.executable))} -m sb3_ca2e.demo --env {options.env}"
    print(f"\nNext, the same run {other} the prior agents:\n  {command} --seed {options.seed}{length}{flag}")


if __name__ == "__main__":
    main()

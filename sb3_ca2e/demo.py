"""
A demonstration of CA2E in a few minutes: ``python -m sb3_ca2e.demo``.

Trains a randomly initialised CA2EDQN with eight slots, three of them with the agents bundled with the package, shows
what each actor does, keeps the best checkpoint, evaluates it on fresh seeds and plots the run.
"""

import argparse
import json
import pathlib
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv

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


class ActorsTable(BaseCallback):
    """
    Shows what each actor does: above the progress bar in a terminal, otherwise a few times in a run.

    :param agents: names of the prior agents by slot
    :param print_freq: transitions between two tables without a terminal
    """

    def __init__(self, agents: dict[int, str], print_freq: int):
        super().__init__()
        self.agents, self.print_freq = agents, print_freq
        self.console = get_console()
        self.live = Live(console=self.console) if self.console.is_terminal else None
        self._drawn_at = 0.0

    def display(self) -> AbstractContextManager[Any]:
        """
        Return a context for ``learn``, in which SB3's progress bar appears below the table.

        :return: the context
        """
        return self.live or nullcontext()

    def _on_step(self) -> bool:
        if self.live is not None:
            if time.monotonic() - self._drawn_at >= 1.0:
                self._draw()
        elif self.num_timesteps % self.print_freq < self.training_env.num_envs:
            self._draw()
        return True

    def _on_training_end(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        assert isinstance(self.model, CA2EDQN)
        table = actors_table(self.model.actor_stats, self.agents, f"Actors after {self.num_timesteps:,} transitions")
        if self.live is not None:
            self.live.update(table)
        else:
            self.console.print(table)


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
        table.add_row(
            str(row["slot"]),
            plays,
            "" if is_prior else f"{row['epsilon']:.2f}",
            _or_blank(row["ep_rew_mean"], ".1f"),
            f"{row['episodes']:,}",
            f"{row['fps']:,.0f}",
            _or_blank(row["baseline"], ".1f"),
            _or_blank(row["retired_at"], ",.0f"),
            style="cyan" if is_prior else "green" if agent else None,
        )
    return table


def _or_blank(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)


class EvaluationLine(BaseCallback):
    """Prints a line for each evaluation; the ``callback_after_eval`` of an ``EvalCallback``."""

    parent: EvalCallback

    def _on_step(self) -> bool:
        returns = self.parent.evaluations_results[-1]
        best = "  best so far, kept" if self.parent.last_mean_reward == self.parent.best_mean_reward else ""
        print(
            f"{self.num_timesteps:>9,}  evaluation {np.mean(returns):7.1f} ± {np.std(returns):5.1f}{best}", flush=True
        )
        return True


class StopOnInterrupt(BaseCallback):
    """Ends the training at the first Ctrl-C, and the demo continues with the result; the second one ends the demo."""

    interrupted = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """
        Return a context for ``learn``.

        :return: the context
        """

        def interrupt(*_: Any) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_step(self) -> bool:
        return not self.interrupted


class LogAtEnd(BaseCallback):
    """Logs once more at the end of training, so that the plots are complete."""

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        assert isinstance(self.model, CA2EDQN)
        self.model.dump_logs()


class RandomAgent:
    """
    Acts at random, for comparison.

    :param env: environment
    """

    def __init__(self, env: VecEnv):
        self.env = env

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        """
        Choose random actions.

        :param observation: ``(batch, ...)``
        :return: ``(batch, ...)`` actions, and None for the state
        """
        return np.array([self.env.action_space.sample() for _ in observation]), None


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

    :param agent: agent with SB3's ``predict``; None for a random one
    :param env_id: id of the environment
    :param seed: seed of the first environment; the others follow
    :return: mean, standard deviation, returns and seed
    """
    env = make_vec_env(env_id, n_envs=N_TEST_EPISODES, seed=seed)
    env.action_space.seed(seed)
    returns, _ = evaluate_policy(
        agent if agent is not None else RandomAgent(env), env, N_TEST_EPISODES, return_episode_rewards=True
    )
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
    table, stop = ActorsTable(agents, print_freq=4 * eval_freq), StopOnInterrupt()
    print(f"CA2EDQN on {options.env}, {timesteps:,} transitions, seed {options.seed}")
    print(
        f"{N_ACTORS} slots, prior agents in {len(agents)} of them: {', '.join(agents.values()) or 'none'}\n", flush=True
    )
    learning_started = time.monotonic()
    with stop.listening(), table.display():
        model.learn(timesteps, callback=[evaluation, LogAtEnd(), table, stop], progress_bar=True)
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
        "interrupted": stop.interrupted,
        "priors": {slot: {"agent": name, **_baseline(model.actor_stats[slot])} for slot, name in agents.items()},
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


def _baseline(stats: dict[str, Any]) -> dict[str, Any]:
    return {key: stats[key] for key in ("baseline", "retired_at")}


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
    for name, what in (
        ("learning_curve.png", "evaluations, baselines, retirements"),
        ("actors.png", "what each actor did"),
        ("best_model.zip", "the checkpoint evaluated above"),
        ("last_model.zip", "the model at the end"),
        ("progress.csv", "everything logged"),
        ("results.json", "these numbers"),
    ):
        print(f"{options.out / name}  {what}")
    print(f"\nNext, {_next_command(options)}")


def _next_command(options: argparse.Namespace) -> str:
    interpreter = pathlib.Path(sys.executable)
    if interpreter.is_relative_to(pathlib.Path.cwd()):
        interpreter = interpreter.relative_to(pathlib.Path.cwd())
    command = f"{shlex.quote(str(interpreter))} -m sb3_ca2e.demo --env {options.env} --seed {options.seed}"
    command += f" --timesteps {options.timesteps}" if options.timesteps else ""
    if options.no_priors:
        return f"the same run with the prior agents:\n  {command}"
    return f"the same run without the prior agents:\n  {command} --no-priors"


if __name__ == "__main__":
    main()

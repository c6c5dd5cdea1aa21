"""
Games against the clock: each arm learns for the same minutes, alone on this machine, and is evaluated afterwards::

    python benchmarks/learn.py games --agents <folder with ppo/PongNoFrameskip-v4_*>   # Pong, five arms, an hour
    python benchmarks/learn.py games --agents <...> --arm ca2e-priors --minutes 5
    python benchmarks/learn.py games --task BreakoutNoFrameskip-v4 --arm ca2e --arm off-policy

An arm whose curve is there is not run again. With a GPU there are more slots and larger batches; curves of different
devices are kept apart.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch as th
from provenance import REPOSITORY, provenance, write_json
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv

from learning.cell import CURVE_SEED, Kept, LearningCurve, end_with, write_curve
from learning.clock import ARMS, DEVICES, GAMES, PONG, folder_of
from learning.experiment import CURVES
from sb3_ca2e import CA2EDQN, make_atari_env

#: Evaluations of a run, the untrained policy's left out.
EVALUATIONS = 10
#: Share of random actions in evaluations, where the policy is not stochastic itself.
EPSILON = 0.01
#: Transitions by which exploration and rates have fallen, and training ends though there may be time left: more than
#: each arm should get to in a quarter of an hour.
HORIZON = {
    "cpu": {"ca2e-priors": 250_000, "ca2e": 250_000, "off-policy": 100_000, "a2c": 1_000_000, "ppo": 500_000},
    "cuda": {
        "ca2e-priors": 20_000_000,
        "ca2e": 20_000_000,
        "off-policy": 1_000_000,
        "a2c": 3_000_000,
        "ppo": 3_000_000,
    },
}
#: Of both sides that learn from a memory: transitions before learning starts, those held, and those between two copies
#: of the target network.
MEMORY: dict[str, dict[str, Any]] = {
    "cpu": {"learning_starts": 2_000, "buffer_size": 100_000, "target_update_interval": 2_000},
    "cuda": {"learning_starts": 20_000, "buffer_size": 1_000_000, "target_update_interval": 10_000},
}
#: Of ours: slots, an update for 4 transitions on the CPU and for 8 on a GPU.
OURS: dict[str, dict[str, Any]] = {
    "cpu": {"n_envs": 8, "batch_size": 32, "gradient_steps": 2},
    "cuda": {"n_envs": 64, "batch_size": 256, "gradient_steps": 8},
}


class Against(LearningCurve):
    """
    Keeps the policy at even times, and ends training when they are over.

    :param seconds: of training, that of starting processes and of compiling included
    """

    def __init__(self, seconds: float):
        super().__init__(sys.maxsize, sys.maxsize, log=False)
        self.limit, self.n_times = seconds, 0

    def _on_step(self) -> bool:
        passed = time.perf_counter() - self._started
        n_times = int(EVALUATIONS * passed / self.limit)
        if n_times > self.n_times:
            self.n_times = n_times
            self.keep()
        return passed < self.limit


def ladder(n_slots: int) -> list[float]:
    """
    :param n_slots: number of slots
    :return: epsilon of each, the same for the whole run (Ape-X, https://arxiv.org/abs/1803.00933, section 4.1)
    """
    return [0.4 ** (1 + 7 * i / max(n_slots - 1, 1)) for i in range(n_slots)]


def ours(env_id: str, device: str, priors: list[str], seed: int) -> BaseAlgorithm:
    """
    :param env_id: the game
    :param device: ``cpu`` or ``cuda``
    :param priors: files of prior agents
    :param seed: of the run
    :return: CA2EDQN, on ale-py's native environments
    """
    settings = {**MEMORY[device], **OURS[device]}
    n_slots = settings.pop("n_envs")
    env = make_atari_env(env_id, n_envs=n_slots, seed=seed, native=True)
    settings |= {"exploration_initial_eps": ladder(n_slots), "exploration_final_eps": ladder(n_slots), "train_freq": 1}
    return CA2EDQN("CnnPolicy", env, prior_agents=priors, seed=seed, device=device, **settings)


def dqn(env_id: str, device: str, seed: int) -> BaseAlgorithm:
    """
    :param env_id: the game
    :param device: ``cpu`` or ``cuda``
    :param seed: of the run
    :return: SB3's, with the RL Zoo's hyperparameters but for the memory's, and eight environments
    """
    env = make_atari_env(env_id, n_envs=8, seed=seed, vec_env_cls=SubprocVecEnv)
    settings: Any = {**MEMORY[device], "train_freq": 1, "gradient_steps": 2}  # the zoo's: one for 4 transitions
    if device == "cuda":
        settings |= {"buffer_size": 100_000}  # the zoo's; 1 M take 56 GB here
    return DQN("CnnPolicy", env, exploration_final_eps=0.01, seed=seed, device=device, **settings)


def a2c(env_id: str, device: str, seed: int) -> BaseAlgorithm:
    """
    :param env_id: the game
    :param device: ``cpu`` or ``cuda``
    :param seed: of the run
    :return: SB3's, with the RL Zoo's hyperparameters
    """
    env = make_atari_env(env_id, n_envs=16, seed=seed, vec_env_cls=SubprocVecEnv)
    policy_kwargs = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}
    return A2C("CnnPolicy", env, ent_coef=0.01, vf_coef=0.25, policy_kwargs=policy_kwargs, seed=seed, device=device)


def ppo(env_id: str, device: str, seed: int) -> BaseAlgorithm:
    """
    :param env_id: the game
    :param device: ``cpu`` or ``cuda``
    :param seed: of the run
    :return: SB3's, with the RL Zoo's hyperparameters
    """
    env = make_atari_env(env_id, n_envs=8, seed=seed, vec_env_cls=SubprocVecEnv)
    rates: Any = {"learning_rate": LinearSchedule(2.5e-4, 0.0, 1.0), "clip_range": LinearSchedule(0.1, 0.0, 1.0)}
    settings: Any = {"n_steps": 128, "n_epochs": 4, "batch_size": 256, "vf_coef": 0.5, "ent_coef": 0.01}
    return PPO("CnnPolicy", env, seed=seed, device=device, **rates, **settings)


OTHERS: dict[str, Callable[[str, str, int], BaseAlgorithm]] = {"off-policy": dqn, "a2c": a2c, "ppo": ppo}


def run(args: argparse.Namespace, arm: str, priors: list[str], curve: pathlib.Path) -> None:
    """
    Train for some minutes, then evaluate on the way and leave the curve.

    :param args: what :func:`main` was told
    :param arm: of :data:`ARMS`
    :param priors: files of prior agents
    :param curve: file of the curve
    """
    env_id, device, seed, games = args.task, args.device, args.seed, args.games
    if arm in OTHERS:
        model = OTHERS[arm](env_id, device, seed)
    else:
        model = ours(env_id, device, priors if arm == "ca2e-priors" else [], seed)
    against = Against(60 * args.minutes)
    model.learn(HORIZON[device][arm], callback=against)
    if against.kept[-1].told["transitions"] < model.num_timesteps:
        against.keep()
    env = make_atari_env(env_id, n_envs=games, seed=CURVE_SEED)
    told = {
        "task": env_id,
        "arm": arm,
        "algorithm": type(model).__name__,
        "seed": seed,
        "minutes": args.minutes,
        "priors": [pathlib.Path(each).parent.name for each in priors] if arm == "ca2e-priors" else [],
        "actors": getattr(model, "actor_stats", []),
        "measured_on": provenance(),
    }
    rows = []
    for kept in against.kept:
        rows += evaluated(model, kept, env, games)
        print(rows[-1], flush=True)
    env.close()
    write_json(curve.with_suffix(".json"), told)
    write_curve(curve, rows)


def evaluated(model: BaseAlgorithm, kept: Kept, env: Any, games: int) -> list[dict[str, Any]]:
    """
    :param model: takes the policy over
    :param kept: the policy
    :param env: as many environments as games
    :param games: whole ones, to be played
    :return: a row of the curve for each
    """
    model.policy.load_state_dict(kept.parameters)
    # The zoo plays Atari games with stochastic policies. Those that learn values must act at random now and then, too:
    # where nothing is random, a rally of two paddles that do the same each time goes on for minutes.
    if isinstance(model, DQN):
        model.exploration_rate = EPSILON
    returns, _ = evaluate_policy(model, env, games, deterministic=False, return_episode_rewards=True)
    assert isinstance(returns, list)
    return [{**kept.told, "final": 0, "episode": i, "return": each} for i, each in enumerate(returns)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    agents = os.environ.get("SB3_CA2E_ATARI_AGENTS")
    parser.add_argument("--agents", type=pathlib.Path, default=agents, help="folder with ppo/<game>_*")
    parser.add_argument("--task", choices=GAMES, default=PONG)
    parser.add_argument("--arm", action="append", choices=ARMS, help="may be repeated; all without it")
    parser.add_argument("--minutes", type=float, default=12.0, help="of training, for each arm")
    parser.add_argument("--games", type=int, default=4, help="in an evaluation")
    parser.add_argument("--device", choices=DEVICES, default="cuda" if th.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--out", type=pathlib.Path, default=CURVES, help="folder for the curves")
    parser.add_argument("--parent", type=int, help="run in this process, which ends with that one")
    args = parser.parse_args()
    if args.minutes <= 0 or args.games < 1:
        parser.error(f"--minutes must be above 0 and --games at least 1, not {args.minutes:g} and {args.games}.")
    if args.device == "cuda" and not th.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here, and would learn on the CPU. Leave it out.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: actors end too
    if args.parent is not None:
        end_with(args.parent)
    arms = args.arm or list(ARMS)
    files = f"ppo/{args.task}_*/{args.task}.zip"
    priors = sorted(map(str, args.agents.glob(files))) if args.agents is not None else []
    if "ca2e-priors" in arms and not priors:
        parser.error(f"ca2e-priors needs --agents, a folder with {files}: {args.agents} has none. Or name other arms.")
    for arm in arms:
        curve = folder_of(args.task, args.device, args.out.absolute()) / arm / f"{args.seed}.csv"
        if args.parent is not None:
            run(args, arm, priors, curve)
        elif not curve.exists():
            print(f"{arm}: {args.minutes:g} minutes", flush=True)
            own = [sys.executable, str(REPOSITORY / "benchmarks" / "learn.py"), "games", "--task", args.task]
            own += ["--arm", arm, "--parent", str(os.getpid()), "--minutes", str(args.minutes)]
            own += ["--games", str(args.games), "--seed", str(args.seed)]
            own += ["--device", args.device, "--out", str(args.out)]
            own += ["--agents", str(args.agents)] if args.agents is not None else []
            path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
            subprocess.run(own, env={**os.environ, "PYTHONPATH": path}, check=True)


if __name__ == "__main__":
    main()

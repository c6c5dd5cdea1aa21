"""
Games against the clock: each arm learns for the same minutes, alone on this machine::

    python benchmarks/learn.py games --agents <folder with ppo/PongNoFrameskip-v4_*>   # Pong, five arms, an hour
    python benchmarks/learn.py games --agents <...> --arm ca2e-priors --minutes 5 --stop-at-goal
    python benchmarks/learn.py games --task BreakoutNoFrameskip-v4 --arm ca2e --arm off-policy

An arm whose curve is there is not run again. With a GPU there are more slots and larger batches, and policies are
evaluated beside training, on two of the cores, else afterwards; curves of different devices are kept apart.
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
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import SubprocVecEnv

from learning.clock import ARMS, DEVICES, GAMES, PONG, folder_of
from learning.curve import LearningCurve, end_with, write_curve
from learning.evaluator import Evaluator
from learning.experiment import CURVES
from sb3_ca2e import CA2EDQN, make_atari_env

#: Evaluations of a run, the untrained policy's left out.
EVALUATIONS = {"cpu": 10, "cuda": 24}
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
    "cuda": {"learning_starts": 10_000, "buffer_size": 1_000_000, "target_update_interval": 2_500},
}
#: Of ours: slots, an update for 4 transitions, and how many slots each prior agent has.
OURS: dict[str, dict[str, Any]] = {
    "cpu": {"n_envs": 8, "batch_size": 32, "gradient_steps": 2},
    "cuda": {"n_envs": 64, "batch_size": 64, "gradient_steps": 16, "learning_rate": 2e-4, "inference": "actor"},
}
SLOTS_OF_A_PRIOR = {"cpu": 1, "cuda": 4}


class Against(LearningCurve):
    """
    Has the policy evaluated at even times, and ends training when they are over.

    :param seconds: of training, that of starting processes and of compiling included
    :param n_times: evaluations, that of the untrained policy left out
    :param evaluator: evaluates it
    :param beside: at once, else afterwards
    :param goal: mean return with which training ends
    :param curve: file that is written each time that something has been evaluated
    """

    def __init__(
        self, seconds: float, n_times: int, evaluator: Evaluator, beside: bool, goal: float, curve: pathlib.Path
    ):
        super().__init__(sys.maxsize, sys.maxsize, log=False)
        self.limit, self.n_times, self._evaluator, self._beside = seconds, n_times, evaluator, beside
        self.goal, self.curve, self._n_kept = goal, curve, 0

    def _on_step(self) -> bool:
        passed = time.perf_counter() - self._started
        n_kept = int(self.n_times * passed / self.limit)
        if n_kept > self._n_kept:
            self._n_kept = n_kept
            self.keep()
        return passed < self.limit and not self._reached()

    def _on_training_end(self) -> None:
        collector = getattr(self.model, "_collector", None)
        if collector is not None:
            print(collector.advice(), flush=True)

    def keep(self) -> None:
        """As every learning curve does, and have it evaluated."""
        super().keep()
        if self._beside:
            self._evaluator.ask(self.kept[-1])

    def _reached(self, wait: bool = False) -> bool:
        """Look for what has been evaluated."""
        mean = self._evaluator.answered(wait)
        if mean is not None:
            write_curve(self.curve, self._evaluator.rows)
        return mean is not None and mean >= self.goal

    def finish(self) -> None:
        """Evaluate what has not been, the last policy too."""
        if self.kept[-1].told["transitions"] < self.model.num_timesteps:
            self.keep()
        for kept in () if self._beside else self.kept:
            self._evaluator.ask(kept)
            self._reached(wait=True)
        while self._evaluator.waited_for:
            self._reached(wait=True)


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
    Train for some minutes, and leave the curve of how the policy did on the way.

    :param args: what :func:`main` was told
    :param arm: of :data:`ARMS`
    :param priors: files of prior agents
    :param curve: file of the curve
    """
    env_id, device, seed, games = args.task, args.device, args.seed, args.games
    if arm in OTHERS:
        model = OTHERS[arm](env_id, device, seed)
    else:
        model = ours(env_id, device, priors * SLOTS_OF_A_PRIOR[device] if arm == "ca2e-priors" else [], seed)
    goal = GAMES[env_id] if args.stop_at_goal else float("inf")
    n_times, part = args.evaluations or EVALUATIONS[device], curve.with_suffix(".part")
    evaluator = Evaluator(model, env_id, games, args.frames)
    against = Against(60 * args.minutes, n_times, evaluator, device == "cuda", goal, part)
    told = {
        "task": env_id,
        "arm": arm,
        "algorithm": type(model).__name__,
        "seed": seed,
        "minutes": args.minutes,
        "priors": [pathlib.Path(each).parent.name for each in priors] if arm == "ca2e-priors" else [],
        "measured_on": provenance(),
    }
    write_json(curve.with_suffix(".json"), told)
    try:
        model.learn(HORIZON[device][arm], callback=against)
        write_json(curve.with_suffix(".json"), {**told, "actors": getattr(model, "actor_stats", [])})
        against.finish()
    finally:
        evaluator.close()
    part.replace(curve)  # a run is done when its curve is there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    agents = os.environ.get("SB3_CA2E_ATARI_AGENTS")
    parser.add_argument("--agents", type=pathlib.Path, default=agents, help="folder with ppo/<game>_*")
    parser.add_argument("--task", choices=GAMES, default=PONG)
    parser.add_argument("--arm", action="append", choices=ARMS, help="may be repeated; all without it")
    parser.add_argument("--minutes", type=float, default=12.0, help="of training, for each arm")
    parser.add_argument("--games", type=int, default=4, help="in an evaluation")
    parser.add_argument("--frames", type=int, help="after which a game of an evaluation ends, if it has not before")
    parser.add_argument("--evaluations", type=int, help="of policies on the way: 10, and 24 on a GPU")
    parser.add_argument("--stop-at-goal", action="store_true", help="with the first evaluation that reaches it")
    parser.add_argument("--device", choices=DEVICES, default="cuda" if th.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--out", type=pathlib.Path, default=CURVES, help="folder for the curves")
    parser.add_argument("--parent", type=int, help="run in this process, which ends with that one")
    args = parser.parse_args()
    if args.minutes <= 0 or args.games < 1:
        parser.error(f"--minutes must be above 0 and --games at least 1, not {args.minutes:g} and {args.games}.")
    for name in ("frames", "evaluations"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, not {value}.")
    if args.device == "cuda" and not th.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here, and would learn on the CPU. Leave it out.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: actors end too
    if args.parent is not None:
        end_with(args.parent)
    arms = args.arm or list(ARMS)
    files = f"ppo/{args.task}_*/{args.task}.zip"
    priors = sorted(map(str, args.agents.glob(files))) if args.agents is not None else []
    if args.device == "cuda":
        th.set_float32_matmul_precision("high")  # of all arms: TF32, as PyTorch's convolutions have anyway
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
            own += ["--games", str(args.games), "--seed", str(args.seed), *["--stop-at-goal"] * args.stop_at_goal]
            own += ["--device", args.device, "--out", str(args.out)]
            for name in ("frames", "evaluations", "agents"):
                if (value := getattr(args, name)) is not None:
                    own += [f"--{name}", str(value)]
            path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
            subprocess.run(own, env={**os.environ, "PYTHONPATH": path}, check=True)


if __name__ == "__main__":
    main()

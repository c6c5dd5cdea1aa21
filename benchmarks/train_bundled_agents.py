"""
Train the small pretrained agents that ``sb3_ca2e`` ships, with plain Stable-Baselines3.

The agents land in the layout of the RL Zoo, so that whatever reads a zoo folder reads ours::

    sb3_ca2e/priors/agents/<algo>/<ENV>_1/<ENV>.zip
    sb3_ca2e/priors/agents/<algo>/<ENV>_1/<ENV>/config.yml    hyperparameters
    sb3_ca2e/priors/agents/<algo>/<ENV>_1/<ENV>/args.yml      how the run was started
    sb3_ca2e/priors/agents/<algo>/<ENV>_1/<ENV>/results.json  rewards evaluated on fresh seeds, versions

An agent is the best ``EvalCallback`` checkpoint of its run, evaluated again on seeds that took no part in
choosing it. Optimizer state and buffers are left out; the zip loads with SB3's own ``load()``.

Usage: ``python benchmarks/train_bundled_agents.py [--env LunarLander-v3] [--algo ppo] [--overwrite]``
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
import yaml
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.utils import LinearSchedule

AGENTS_FOLDER = Path(__file__).resolve().parents[1] / "sb3_ca2e" / "priors" / "agents"
ALGORITHMS: dict[str, Any] = {"a2c": A2C, "ddpg": DDPG, "dqn": DQN, "ppo": PPO, "sac": SAC, "td3": TD3}
MAX_ZIP_BYTES = 300_000
# Seeds of the environments: training, choosing the checkpoint and the final evaluation never share one.
CHECKPOINT_SEED_OFFSET = 10_000
EVALUATION_SEED_OFFSET = 20_000
N_EVAL_ENVS = 10
# Run state of no use to someone who only predicts
EXCLUDED_ATTRIBUTES = ["_last_obs", "_last_original_obs", "_last_episode_starts", "ep_info_buffer", "ep_success_buffer"]


@dataclass(frozen=True)
class Recipe:
    """
    How one agent is trained.

    :param algo: Key of ``ALGORITHMS``
    :param env_id: Gymnasium id of the environment
    :param n_timesteps: Length of the training run, in transitions
    :param hyperparams: Arguments of the algorithm, written as in the zoo: ``lin_<x>`` stands for a linear schedule from
        x to 0, ``noise_type`` and ``noise_std`` for an action noise
    :param n_envs: Number of training environments
    :param eval_freq: Transitions between two evaluations
    :param seed: Seed of the run
    """

    algo: str
    env_id: str
    n_timesteps: int
    hyperparams: dict[str, Any] = field(default_factory=dict)
    n_envs: int = 1
    eval_freq: int = 10_000
    seed: int = 0

    @property
    def folder(self) -> Path:
        return AGENTS_FOLDER / self.algo / f"{self.env_id}_1"

    @property
    def zip_path(self) -> Path:
        return self.folder / f"{self.env_id}.zip"


SMALL_OFF_POLICY: dict[str, Any] = {
    "learning_rate": 1e-3,
    "learning_starts": 1000,
    "batch_size": 128,
    "train_freq": 1,
    "gradient_steps": 1,
    "noise_type": "normal",
    "noise_std": 0.1,
    "policy_kwargs": {"net_arch": [64, 64]},
}
# The zoo's hyperparameters with networks of two layers of 64 units (SB3's default), which keep the files small.
RECIPES = [
    Recipe(
        "ppo",
        "LunarLander-v3",
        # The shipped agent is the checkpoint at 850,000 of a run of 1,000,000 that was killed after 900,000. Nothing in
        # these settings depends on the length, so a run of 850,000 should end with that checkpoint (not run again).
        n_timesteps=850_000,
        n_envs=16,
        eval_freq=50_000,
        hyperparams={
            "n_steps": 1024,
            "batch_size": 64,
            "gae_lambda": 0.98,
            "gamma": 0.999,
            "n_epochs": 4,
            "ent_coef": 0.01,
        },
    ),
    Recipe(
        "dqn",
        "LunarLander-v3",
        n_timesteps=100_000,
        hyperparams={
            "learning_rate": 6.3e-4,
            "batch_size": 128,
            "buffer_size": 50_000,
            "learning_starts": 0,
            "gamma": 0.99,
            "target_update_interval": 250,
            "train_freq": 4,
            "gradient_steps": -1,
            "exploration_fraction": 0.12,
            "exploration_final_eps": 0.1,
        },
    ),
    Recipe(
        "a2c",
        "LunarLander-v3",
        n_timesteps=200_000,
        n_envs=8,
        eval_freq=20_000,
        hyperparams={"n_steps": 5, "gamma": 0.995, "learning_rate": "lin_0.00083", "ent_coef": 1e-5},
    ),
    Recipe(
        "ppo",
        "CartPole-v1",
        n_timesteps=100_000,
        n_envs=8,
        hyperparams={
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": "lin_0.001",
            "clip_range": "lin_0.2",
        },
    ),
    Recipe(
        "dqn",
        "CartPole-v1",
        n_timesteps=50_000,
        eval_freq=2_500,
        hyperparams={
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
        },
    ),
    # Short runs: two agents near the best possible, and one that a learner soon beats.
    Recipe(
        "td3",
        "Pendulum-v1",
        n_timesteps=10_000,
        eval_freq=1_000,
        hyperparams={**SMALL_OFF_POLICY, "gamma": 0.98, "buffer_size": 10_000},
    ),
    Recipe(
        "ddpg",
        "Pendulum-v1",
        n_timesteps=5_000,
        eval_freq=1_000,
        hyperparams={**SMALL_OFF_POLICY, "gamma": 0.98, "buffer_size": 10_000},
    ),
    Recipe(
        "ppo",
        "Pendulum-v1",
        n_timesteps=36_864,
        n_envs=4,
        eval_freq=4_096,
        hyperparams={"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3, "ent_coef": 0.0},
    ),
    Recipe(
        "td3",
        "Reacher-v5",
        n_timesteps=20_000,
        eval_freq=2_000,
        hyperparams={**SMALL_OFF_POLICY, "gamma": 0.98, "buffer_size": 20_000},
    ),
    Recipe(
        "ppo",
        "Reacher-v5",
        n_timesteps=61_440,
        n_envs=4,
        eval_freq=10_240,
        hyperparams={"n_steps": 512, "gamma": 0.9, "gae_lambda": 0.9, "learning_rate": 3e-4},
    ),
]


def arguments_of(hyperparams: dict[str, Any], action_space: spaces.Space) -> dict[str, Any]:
    """Replace what the zoo writes in its own way by what the algorithms take."""
    arguments = dict(hyperparams)
    if arguments.pop("noise_type", None) == "normal":
        assert isinstance(action_space, spaces.Box)
        zeros = np.zeros(action_space.shape)
        arguments["action_noise"] = NormalActionNoise(zeros, zeros + arguments.pop("noise_std"))
    return {
        name: LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0) if isinstance(value, str) else value
        for name, value in arguments.items()
    }


def train_best_checkpoint(recipe: Recipe, work_folder: Path) -> BaseAlgorithm:
    """Train as the recipe says and return the checkpoint with the best mean reward."""
    algorithm: type[BaseAlgorithm] = ALGORITHMS[recipe.algo]
    env = make_vec_env(recipe.env_id, n_envs=recipe.n_envs, seed=recipe.seed)
    eval_env = make_vec_env(recipe.env_id, n_envs=N_EVAL_ENVS, seed=recipe.seed + CHECKPOINT_SEED_OFFSET)
    callback = EvalCallback(
        eval_env,
        n_eval_episodes=30,
        eval_freq=max(recipe.eval_freq // recipe.n_envs, 1),
        best_model_save_path=str(work_folder),
        deterministic=True,
    )
    arguments = arguments_of(recipe.hyperparams, env.action_space)
    model = algorithm("MlpPolicy", env, seed=recipe.seed, device="cpu", **arguments)
    model.learn(recipe.n_timesteps, callback=callback)
    env.close()
    eval_env.close()
    return algorithm.load(work_folder / "best_model.zip", device="cpu")


def save_small(model: BaseAlgorithm, path: Path) -> None:
    """Save what is needed to act: no optimizer moments, no replay memory, no last observations."""
    names, _ = model._get_torch_save_params()
    for name in names:
        if name.endswith("optimizer"):
            recursive_getattr(model, name).state.clear()
    if isinstance(model, OffPolicyAlgorithm):
        model.buffer_size = 1  # load() allocates this much
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path, exclude=EXCLUDED_ATTRIBUTES)
    drop_machine(path)
    size = path.stat().st_size
    if size > MAX_ZIP_BYTES:
        raise ValueError(f"{path} takes {size} bytes, more than the {MAX_ZIP_BYTES} allowed in the package")


def drop_machine(path: Path) -> None:
    """Take the line about the operating system, which names a kernel of no interest, out of a saved zip."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    lines = members["system_info.txt"].decode().splitlines(keepends=True)
    members["system_info.txt"] = "".join(line for line in lines if not line.startswith("- OS:")).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def evaluate(recipe: Recipe, n_episodes: int) -> dict[str, Any]:
    """Evaluate the saved zip on seeds that took no part in training or in choosing the checkpoint."""
    model = ALGORITHMS[recipe.algo].load(recipe.zip_path, device="cpu")
    seed = recipe.seed + EVALUATION_SEED_OFFSET
    env = make_vec_env(recipe.env_id, n_envs=N_EVAL_ENVS, seed=seed)
    rewards, _ = evaluate_policy(model, env, n_eval_episodes=n_episodes, return_episode_rewards=True)
    env.close()
    return {
        "mean_reward": round(float(np.mean(rewards)), 2),
        "std_reward": round(float(np.std(rewards)), 2),
        "min_reward": round(float(np.min(rewards)), 2),
        "max_reward": round(float(np.max(rewards)), 2),
        "n_eval_episodes": n_episodes,
        "deterministic": True,
        "eval_seed": seed,
        "training_timesteps_of_checkpoint": int(model.num_timesteps),
    }


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=True), encoding="utf-8")


def build(recipe: Recipe, n_eval_episodes: int) -> None:
    """Train, save, evaluate and describe one agent."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work_folder:
        save_small(train_best_checkpoint(recipe, Path(work_folder)), recipe.zip_path)
    results = evaluate(recipe, n_eval_episodes)
    results |= {
        "training_seconds": round(time.monotonic() - started),
        "versions": {
            "gymnasium": gym.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "stable_baselines3": stable_baselines3.__version__,
            "torch": th.__version__.partition("+")[0],
        },
    }
    details = recipe.folder / recipe.env_id
    config = {"policy": "MlpPolicy", "n_timesteps": float(recipe.n_timesteps), "n_envs": recipe.n_envs}
    write_yaml(details / "config.yml", config | recipe.hyperparams)
    args = {
        "algo": recipe.algo,
        "env": recipe.env_id,
        "env_kwargs": None,
        "eval_freq": recipe.eval_freq,
        "n_timesteps": recipe.n_timesteps,
        "seed": recipe.seed,
    }
    write_yaml(details / "args.yml", args)
    # Last: a folder with results is a finished one
    (details / "results.json").write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(
        f"{recipe.algo} {recipe.env_id}: {results['mean_reward']} ± {results['std_reward']}, "
        f"{recipe.zip_path.stat().st_size} bytes, {results['training_seconds']} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", help="Only this environment")
    parser.add_argument("--algo", choices=sorted(ALGORITHMS), help="Only this algorithm")
    parser.add_argument("--overwrite", action="store_true", help="Train agents again that are there already")
    parser.add_argument("--n-eval-episodes", type=int, default=50, help="Episodes of the final evaluation")
    args = parser.parse_args()

    th.set_num_threads(1)  # small networks: more threads only cost
    for recipe in RECIPES:
        if args.env not in (None, recipe.env_id) or args.algo not in (None, recipe.algo):
            continue
        if (recipe.folder / recipe.env_id / "results.json").exists() and not args.overwrite:
            print(f"{recipe.algo} {recipe.env_id}: already there")
            continue
        build(recipe, args.n_eval_episodes)


if __name__ == "__main__":
    main()

"""
Train the prior agents that are not of the zoo: SB3's PPO, or what ``tasks.yml`` names, with the zoo's
hyperparameters, stopped early.

``untrained`` has learned nothing; ``half``, ``half2`` and ``half3`` (seeds 1, 2, 3) are the first checkpoints that
reach half of the way from a random policy to the best of the task's priors. What is there is not trained again::

    python benchmarks/learn.py train_priors
    python benchmarks/learn.py train_priors --task Hopper-v5 --name half
"""

import argparse
import pathlib
import statistics
import tempfile

import gymnasium as gym
import torch as th
from playing import play
from stable_baselines3.common.callbacks import BaseCallback

from learning.cell import set_up
from learning.experiment import Task, experiment, made_prior
from learning.references import references

#: By name: the seed, and the normalised score that is enough.
MADE = {"untrained": (1, None), "half": (1, 0.5), "half2": (2, 0.5), "half3": (3, 0.5)}
EPISODES = 30
#: Environments that decide when to stop; none of the benchmark's own.
SEED = 40_000
#: Transitions in which it must be reached, and by what share more of them come between two looks.
AT_MOST, LOOKS = 2_000_000, 0.02


class StopAt(BaseCallback):
    """
    Ends training when the deterministic policy is good enough.

    :param env_id: environment
    :param enough: mean return
    """

    def __init__(self, env_id: str, enough: float):
        super().__init__()
        self.env_id, self.enough = env_id, enough
        self.mean, self.looked_at = float("-inf"), 0

    def _on_rollout_start(self) -> None:
        """After each update, or where they are many after some."""
        if self.num_timesteps > (1 + LOOKS) * self.looked_at and self.mean < self.enough:
            self.looked_at = self.num_timesteps
            normalization = self.model.get_vec_normalize_env()
            self.mean = statistics.fmean(play(self.model, lambda: gym.make(self.env_id), SEED, EPISODES, normalization))

    def _on_step(self) -> bool:
        return self.mean < self.enough  # before another update


def train(task: Task, name: str) -> None:
    """
    Train one agent and save it in the zoo's layout.

    :param task: the task
    :param name: of :data:`MADE`
    """
    seed, share = MADE[name]
    path = made_prior(task, name)
    with tempfile.TemporaryDirectory() as folder:
        manager = set_up(task.trainer, task, {}, seed, pathlib.Path(folder))
        made = manager.setup_experiment()
        assert made is not None
        model = made[0]
        if share is not None:
            told = references()[task.env_id]
            stop = StopAt(task.env_id, told["random"] + share * (max(told["priors"].values()) - told["random"]))
            model.learn(AT_MOST, callback=stop)
            if stop.mean < stop.enough:
                raise RuntimeError(f"{task.env_id}: {task.trainer} reached {stop.mean:.1f}, not {stop.enough:.1f}.")
            print(f"{task.env_id} {name}: {stop.mean:.1f} after {model.num_timesteps} transitions", flush=True)
    settings = path.with_suffix("")
    settings.mkdir(parents=True, exist_ok=True)
    model.policy.optimizer.state.clear()  # twice the size of the weights, and nobody trains it further
    model.save(path)
    normalization = model.get_vec_normalize_env()
    if normalization is not None:
        normalization.save(str(settings / "vecnormalize.pkl"))
    (settings / "config.yml").write_text(f"normalize: {str(normalization is not None).lower()}\n", encoding="utf-8")


def main() -> None:
    whole = experiment()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", choices=list(whole.tasks), help="may be repeated; all without it")
    parser.add_argument("--name", action="append", choices=list(MADE), help="may be repeated; all without it")
    args = parser.parse_args()
    th.set_num_threads(1)
    for env_id in args.task or whole.tasks:
        task = whole.tasks[env_id]
        for name in args.name or MADE:
            if not made_prior(task, name).exists():
                train(task, name)


if __name__ == "__main__":
    main()

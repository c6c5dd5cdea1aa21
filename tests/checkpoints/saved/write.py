"""
Writes what tests load, as the package of the commit that is checked out saves it.

Usage::

    python tests/checkpoints/saved/write.py tests/checkpoints/saved/format_1
"""

import pathlib
import pickle
import sys

import numpy as np
import torch as th

from sb3_ca2e import CA2EDQN, CA2ECheckpointCallback, PriorAgent
from sb3_ca2e.priors.find import BUNDLED

#: Timesteps when a checkpoint is taken, and when the run ends.
MIDDLE, END = 240, 300
ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def learner() -> CA2EDQN:
    """
    :return: a small model whose actors explore with different rates, one of them with a prior agent
    """
    few = {"n_actors": 3, "local_buffer_size": 20, "learning_starts": 60, "buffer_size": 500}
    small = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 3}
    return CA2EDQN("MlpPolicy", "CartPole-v1", prior_agents=["zoo:ppo"], execution="sync", **few, **small)


def of_the_hub() -> PriorAgent:
    """
    :return: an agent as it is once it has been downloaded
    """
    agent = PriorAgent("hub:sb3/ppo-CartPole-v1", mean_reward=500.0)
    agent.sha256 = agent._check_hash(BUNDLED / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip")
    agent.revision = "0123456789abcdef0123456789abcdef01234567"
    return agent


def contents(model: CA2EDQN) -> dict[str, np.ndarray]:
    """
    :param model: with a memory
    :return: its parameters, its greedy actions and what it remembers
    """
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    found = {f"policy.{name}": each.numpy() for name, each in model.policy.state_dict().items()}
    found["predicted"] = model.predict(observations, deterministic=True)[0]
    found["num_timesteps"] = np.array(model.num_timesteps)
    return found | {name: np.asarray(getattr(model.replay_buffer, name)) for name in ARRAYS}


def main(folder: pathlib.Path) -> None:
    """
    :param folder: where to
    """
    folder.mkdir(parents=True)
    model = learner()
    model.learn(END, CA2ECheckpointCallback(MIDDLE, folder / "checkpoints", save_replay_buffer=True))
    model.prior_agents = [of_the_hub()]
    model.save(folder / "model")
    model.save_replay_buffer(folder / "memory")
    with (folder / "pickled_memory.pkl").open("wb") as file:
        pickle.dump(model.replay_buffer, file)
    np.savez_compressed(folder / "contents.npz", **contents(model))


if __name__ == "__main__":
    th.set_num_threads(1)
    main(pathlib.Path(sys.argv[1]))

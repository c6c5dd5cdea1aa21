"""Prior agents in training runs: they are as good as ever, and what reaches the memory is what the environment said."""

import csv
import json
import os
import pathlib

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.logger import configure

from sb3_ca2e import CA2EDDPG, CA2EDQN
from sb3_ca2e.priors.find import BUNDLED
from sb3_ca2e.zoo.hyperparams import load_hyperparams
from tests.priors.agents_clone import AGENTS, needs_agents

MODELS = {"ca2e_dqn": CA2EDQN, "ca2e_ddpg": CA2EDDPG}

#: Mean and standard deviation of ten episodes, from the README of the agents' folder.
LUNAR_LANDER = {"ppo": (257.2, 15.6), "dqn": (195.7, 64.7), "a2c": (171.8, 86.3)}
HOPPER = {"trpo": (3625.9, 7.7), "tqc": (3459.7, 415.8), "ppo": (2436.3, 3.7)}


def bundled(env_id: str) -> dict[str, tuple[float, float]]:
    """What is recorded beside the agents that come with the package."""
    recorded = {path.parts[-4]: json.loads(path.read_text()) for path in BUNDLED.glob(f"*/{env_id}_1/*/results.json")}
    return {algorithm: (each["mean_reward"], each["std_reward"]) for algorithm, each in recorded.items()}


class Recorded(gym.Wrapper):
    """Puts down every observation, in whichever process it is made."""

    def __init__(self, env: gym.Env, folder: pathlib.Path):
        super().__init__(env)
        self.folder = folder

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return self._put_down(observation), info

    def step(self, action):
        observation, *others = self.env.step(action)
        return self._put_down(observation), *others

    def _put_down(self, observation):
        with (self.folder / f"{os.getpid()}.bin").open("ab") as file:
            file.write(observation.astype(np.float32).tobytes())
        return observation


def train(algo: str, env_id: str, priors: list[str], folder: pathlib.Path, n_timesteps: int, **changed):
    """Train as the shipped YAML says; the environment records what it returns."""
    hyperparams = {**load_hyperparams(algo, env_id), **changed}
    del hyperparams["n_timesteps"], hyperparams["n_envs"]
    (folder / "observations").mkdir()
    model = MODELS[algo](
        env=lambda: Recorded(gym.make(env_id), folder / "observations"),
        prior_agents=[f"zoo:{prior}" for prior in priors],
        seed=0,
        device="cpu",
        **hyperparams,
    )
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(n_timesteps, log_interval=1)
    model.logger.close()
    return model


def assert_logged_rewards_match(model, table: dict[str, tuple[float, float]], folder: pathlib.Path) -> None:
    with (folder / "progress.csv").open() as file:
        *_, last = csv.DictReader(file)
    first = model.n_slots - len(table)
    for index, (mean, std) in enumerate(table.values()):
        n_episodes = len(model.retirement_state["priors"][index]["returns"])
        logged = float(last[f"priors/{first + index}/ep_rew_mean"])
        assert abs(logged - mean) <= 3 * std * np.sqrt(1 / n_episodes + 1 / 10)


def assert_memory_holds_raw_observations(model, folder: pathlib.Path) -> None:
    n_bytes = int(np.prod(model.observation_space.shape)) * 4
    recorded = b"".join(path.read_bytes() for path in (folder / "observations").iterdir())
    known = {recorded[start : start + n_bytes] for start in range(0, len(recorded), n_bytes)}
    batch = model.replay_buffer.sample(2000)
    assert batch.prior.any()
    for observations in (batch.observations, batch.next_observations):
        for row in observations[batch.prior].float().numpy():
            assert row.tobytes() in known


def test_bundled_agents_teach_raw_observations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SB3_CA2E_AGENTS", raising=False)
    table = bundled("LunarLander-v3")
    sync = {"execution": "sync", "n_actors": 4, "learning_starts": 10_000}
    model = train("ca2e_dqn", "LunarLander-v3", list(table), tmp_path, 4_200, **sync)
    assert_logged_rewards_match(model, table, tmp_path)
    assert_memory_holds_raw_observations(model, tmp_path)


@needs_agents
def test_agents_with_normalisation_teach_raw_observations(tmp_path, monkeypatch):
    monkeypatch.setenv("SB3_CA2E_AGENTS", str(AGENTS))
    sync = {"execution": "sync", "n_actors": 4, "learning_starts": 10_000}
    model = train("ca2e_ddpg", "Hopper-v5", list(HOPPER), tmp_path, 4_200, **sync)
    assert_logged_rewards_match(model, HOPPER, tmp_path)
    assert_memory_holds_raw_observations(model, tmp_path)


@needs_agents
@pytest.mark.slow
@pytest.mark.parametrize(
    ("algo", "env_id", "table"),
    [("ca2e_dqn", "LunarLander-v3", LUNAR_LANDER), ("ca2e_ddpg", "Hopper-v5", HOPPER)],
)
def test_20_k_transitions_from_yaml(algo, env_id, table, tmp_path, monkeypatch):
    monkeypatch.setenv("SB3_CA2E_AGENTS", str(AGENTS))
    model = train(algo, env_id, list(table), tmp_path, 20_000)
    assert model.num_timesteps == 20_000
    assert_logged_rewards_match(model, table, tmp_path)
    assert_memory_holds_raw_observations(model, tmp_path)

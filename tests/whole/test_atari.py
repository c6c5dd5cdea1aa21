"""Atari end to end: training with and without prior agents, going on, playing, and what a game's return is."""

import csv
import os
import pathlib

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_ca2e import CA2EDQN, PriorAgent, make_atari_env
from tests import REPOSITORY

SHARED = REPOSITORY / ".." / "shared" / "atari-agents"
AGENTS = pathlib.Path(os.environ.get("SB3_CA2E_ATARI_AGENTS", SHARED))

gym.register_envs(ale_py)


class WatchSteps(BaseCallback):
    """Transitions of nature and prior slots, and the rewards that came with them."""

    def __init__(self):
        super().__init__()
        self.counts = {"nature": 0, "prior": 0}
        self.rewards = set()

    def _on_step(self):
        for kind in self.locals["actor_kinds"]:
            self.counts[kind] += 1
        self.rewards |= set(self.locals["rewards"].tolist())
        return True


def pong_agents() -> list[PriorAgent]:
    zips = sorted(AGENTS.glob("ppo/PongNoFrameskip-v4_*/PongNoFrameskip-v4.zip"))
    if len(zips) < 3:
        pytest.skip("no folder with three Pong agents (SB3_CA2E_ATARI_AGENTS)")
    return [PriorAgent(path) for path in zips[:3]]


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize(
    ("with_priors", "native"),
    [(False, False), (True, False), (True, True)],
    ids=["without priors", "with priors", "with priors, native"],
)
@pytest.mark.extended
def test_pong_trains_saves_resumes_and_plays(with_priors, native, tmp_path):
    priors = pong_agents() if with_priors else []
    env = make_atari_env("PongNoFrameskip-v4", n_envs=8, seed=0, native=native)
    model = CA2EDQN(
        "CnnPolicy",
        env,
        prior_agents=priors,
        n_processes=2,
        learning_starts=200,
        batch_size=8,
        buffer_size=10_000,
        target_update_interval=300,
        local_buffer_size=20,
        seed=0,
    )
    untrained = {name: value.clone() for name, value in model.q_net.state_dict().items()}
    steps = WatchSteps()
    model.learn(480, steps)
    n_updates = model._n_updates
    assert n_updates == 480 // 32 - 200 // 32
    assert all(not th.equal(value, untrained[name]) for name, value in model.q_net.state_dict().items())
    assert [row["kind"] for row in model.actor_stats] == ["nature"] * (8 - len(priors)) + ["prior"] * len(priors)
    made = [row["transitions"] for row in model.actor_stats]
    assert max(made) - min(made) <= 2 * model.local_buffer_size
    assert steps.counts == {"nature": sum(made[: 8 - len(priors)]), "prior": sum(made[8 - len(priors) :])}
    batch = model.replay_buffer.sample(480)
    assert steps.rewards <= {-1.0, 0.0, 1.0}
    assert batch.observations.float().std(dim=0).max() > 1
    assert batch.prior.any() == with_priors

    model.save(tmp_path / "pong")
    model.save_replay_buffer(tmp_path / "memory")
    loaded = CA2EDQN.load(tmp_path / "pong", env=env, execution="sync")
    with th.no_grad():
        assert th.equal(loaded.q_net(batch.observations[:64]), model.q_net(batch.observations[:64]))
    loaded.load_replay_buffer(tmp_path / "memory")
    assert loaded.replay_buffer.size() == 480
    again = WatchSteps()
    loaded.learn(160, again, reset_num_timesteps=False)  # 20 transitions a slot
    assert loaded.num_timesteps == loaded.replay_buffer.size() == 640
    assert loaded._n_updates == n_updates + 160 // 32
    assert again.counts["prior"] == 20 * len(priors)

    observations = env.reset()
    assert observations.shape == (8, 84, 84, 4)
    for _ in range(5):
        actions, _ = loaded.predict(observations)
        observations, *_ = env.step(actions)
    assert actions.shape == (8,)


class Score(gym.Wrapper):
    """Tells the score of the game so far, counted below all that changes rewards or ends episodes early."""

    def reset(self, **kwargs):
        self.score = 0.0
        return super().reset(**kwargs)

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        self.score += reward
        return observation, reward, terminated, truncated, info | {"score": self.score}


def scored_atari(env: gym.Env) -> gym.Env:
    return AtariWrapper(Score(env))


class WatchGames(BaseCallback):
    """What ended an episode, and the clipped rewards of a slot since its last game ended."""

    def __init__(self):
        super().__init__()
        self.games, self.lives_lost, self.clipped, self.rewards = [], 0, [], set()
        self._of_slot = {}

    def _on_step(self):
        ticked = (self.locals[name] for name in ("actor_ids", "rewards", "dones", "infos"))
        for slot, reward, done, info in zip(*ticked, strict=True):
            self.rewards.add(float(reward))
            self._of_slot[slot] = self._of_slot.get(slot, 0.0) + reward
            if "episode" in info:
                assert done
                assert info["lives"] == 0
                self.games.append((info["episode"]["r"], info["score"]))
                self.clipped.append(self._of_slot.pop(slot))
            elif done:
                assert info["lives"] > 0
                self.lives_lost += 1
        return True


def test_returns_are_of_whole_unclipped_games(tmp_path):
    """Qbert, whose games are short, have four lives and score 25 points and more at once."""
    env = VecFrameStack(make_vec_env("QbertNoFrameskip-v4", n_envs=2, seed=0, wrapper_class=scored_atari), 4)
    model = CA2EDQN(
        "CnnPolicy",
        env,
        execution="sync",
        learning_starts=2000,
        buffer_size=2000,
        info_keys=["score", "lives"],
        seed=0,
    )
    model.set_logger(configure(str(tmp_path), ["csv"]))
    games = WatchGames()
    model.learn(1600, games, log_interval=1)
    model.logger.close()
    assert len(games.games) >= 2
    assert games.lives_lost >= 3 * len(games.games)
    returns, scores = zip(*games.games, strict=True)
    assert returns == scores
    assert games.rewards == {0.0, 1.0}
    assert all(score >= 25 * clipped for score, clipped in zip(scores, games.clipped, strict=True))
    assert max(games.clipped) > 0
    with (tmp_path / "progress.csv").open() as file:
        logged = [row["rollout/ep_rew_mean"] for row in csv.DictReader(file)]
    assert float(logged[-1]) == pytest.approx(np.mean(returns))

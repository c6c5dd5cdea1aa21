"""Success rates, of training and of evaluations, as SB3's own algorithms log them."""

import collections
import csv
import pathlib

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from sb3_ca2e import CA2EDDPG, CA2EDQN
from tests.toy import RandomWalk, ddpg, dqn

PAIRS = [pytest.param(dqn, CA2EDQN, sb3.DQN, id="DQN"), pytest.param(ddpg, CA2EDDPG, sb3.DDPG, id="DDPG")]


class Successes(gym.Wrapper):
    """Episodes of two steps, every third of which succeeds; before its end each seems to, as a goal that is passed."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.steps = 0

    def step(self, action):
        observation, reward, *_ = self.env.step(action)
        self.steps += 1
        over = self.steps % 2 == 0
        return observation, reward, over, False, {"is_success": not over or self.steps % 6 == 0}


def successes(make, n_envs: int = 1):
    return make_vec_env(lambda: Successes(RandomWalk(make is ddpg)), n_envs)


def logged(model, folder: pathlib.Path, key: str, n_timesteps: int, callback=None) -> list[float]:
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(n_timesteps, callback, log_interval=1)
    model.logger.close()
    with (folder / "progress.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) if row[key]]


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_the_success_rate_of_training_is_logged_as_by_sb3(make, ours, theirs, tmp_path):
    def run(algorithm):
        own = {"n_actors": 1} if algorithm is ours else {}
        model = make(successes(make), algorithm, learning_starts=500, **own)
        return logged(model, tmp_path / algorithm.__name__, "rollout/success_rate", 300)

    rates = run(ours)
    assert rates == run(theirs)
    assert len(rates) == 150
    assert rates[-1] == pytest.approx(1 / 3, abs=0.02)
    assert len(set(rates)) > 20


class NatureSuccesses(BaseCallback):
    """What the ends of nature slots' episodes said, and how many of prior slots' there were."""

    def __init__(self):
        super().__init__()
        self.nature: list[bool] = []
        self.kinds: collections.Counter = collections.Counter()

    def _on_step(self):
        for kind, done, info in zip(*(self.locals[name] for name in ("actor_kinds", "dones", "infos")), strict=True):
            if done:
                self.kinds[kind] += 1
                self.nature += [info["is_success"]] * (kind == "nature")
        return True


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize("execution", ["sync", "async"])
def test_the_success_rate_is_of_the_last_hundred_nature_episodes(execution, tmp_path):
    priors = [sb3.DQN("MlpPolicy", RandomWalk(), buffer_size=1, device="cpu")]
    watcher = NatureSuccesses()
    # Episodes of two steps in blocks of 15 go over from one block to the next
    model = dqn(successes(dqn, 2), prior_agents=priors, execution=execution, n_processes=2, local_buffer_size=15)
    rates = logged(model, tmp_path, "rollout/success_rate", 600, watcher)
    assert watcher.kinds["prior"] >= 50
    assert watcher.kinds["nature"] > 150
    assert rates[-1] == pytest.approx(np.mean(watcher.nature[-100:]))
    assert model.ep_success_buffer is not None
    assert list(model.ep_success_buffer) == watcher.nature[-100:]


@pytest.mark.parametrize(("make", "ours", "theirs"), PAIRS)
def test_evaluations_log_their_success_rate_as_with_sb3(make, ours, theirs, tmp_path, capsys):
    def run(algorithm):
        folder = tmp_path / algorithm.__name__
        evaluation = EvalCallback(successes(make), eval_freq=50, n_eval_episodes=7, log_path=str(folder), verbose=1)
        model = make(RandomWalk(make is ddpg), algorithm)
        rates = logged(model, folder, "eval/success_rate", 200, evaluation)
        saved = np.load(folder / "evaluations.npz")["successes"].tolist()
        printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Success rate")]
        return rates, saved, printed

    rates, saved, printed = run(ours)
    assert (rates, saved, printed) == run(theirs)
    assert len(saved) == len(printed) == 4
    assert rates == pytest.approx([np.mean(row) for row in saved])
    assert 0 < min(rates) <= max(rates) < 1


def test_without_success_there_is_no_rate(tmp_path):
    model = dqn(RandomWalk())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(100, log_interval=1)
    model.logger.close()
    assert "success" not in (tmp_path / "progress.csv").read_text().splitlines()[0]

"""Every callback that SB3 ships does with CA2EDQN what it does with SB3's own DQN."""

import csv

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ca2e import CA2EDQN
from tests import inside
from tests.toy import dqn


class Countdown(gym.Env):
    """Episodes of ten steps, each worth one, whatever is done."""

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.full(2, self.left / 10, np.float32), 1.0, self.left == 0, False, {}


class Events(BaseCallback):
    """Counts its calls, and notes what every hook of a callback finds."""

    HOOKS = ("training_start", "rollout_start", "step", "rollout_end", "training_end")

    def __init__(self):
        super().__init__()
        self.timesteps: list[int] = []
        self.found: dict[str, list[bool]] = {hook: [] for hook in self.HOOKS}
        self.names: dict[str, set[str]] = {}

    def _note(self, hook):
        env = self.training_env
        self.found[hook] += [
            env is self.model.get_env(),
            env.num_envs == self.model.n_envs,
            env.get_attr("action_space") == [self.model.action_space] * env.num_envs,
            self.logger is self.model.logger,
            self.num_timesteps == self.model.num_timesteps,
            self.locals.get("self") is self.model,
            self.globals != {},
        ]
        self.names[hook] = set(self.locals)

    def _on_training_start(self):
        self._note("training_start")

    def _on_rollout_start(self):
        self._note("rollout_start")

    def _on_step(self):
        self._note("step")
        self.timesteps.append(self.num_timesteps)
        return True

    def _on_rollout_end(self):
        self._note("rollout_end")

    def _on_training_end(self):
        self._note("training_end")


def both(run):
    """The same with our algorithm and with SB3's."""
    return run(CA2EDQN), run(sb3.DQN)


def test_callbacks_find_what_sb3_documents():
    def run(algorithm):
        events = Events()
        dqn(make_vec_env(Countdown, 2), algorithm).learn(40, events)
        return events

    ours, theirs = both(run)
    assert ours.timesteps == theirs.timesteps
    for hook in Events.HOOKS:
        assert ours.found[hook] == theirs.found[hook]
        assert all(ours.found[hook])
        # What was seen and done stays with the actors and in the memory; the others are counters of SB3's loops.
        missing = {"actions", "buffer_actions", "new_obs", "continue_training", "idx", "done"}
        assert theirs.names[hook] - ours.names[hook] <= missing
    assert {"rewards", "dones", "infos", "num_collected_steps", "num_collected_episodes"} <= ours.names["step"]


# Evaluations.


def evaluated(algorithm, folder, n_timesteps=400, **children):
    env, evaluation = make_vec_env(Countdown, 2), make_vec_env(Countdown, 1)
    folder = folder / algorithm.__name__
    callback = EvalCallback(
        evaluation, eval_freq=20, n_eval_episodes=3, log_path=folder, best_model_save_path=folder, verbose=0, **children
    )
    model = dqn(env, algorithm)
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(n_timesteps, callback)
    model.logger.close()
    results = np.load(folder / "evaluations.npz")
    header = (folder / "progress.csv").read_text().splitlines()[0].split(",") if n_timesteps > 100 else []
    return {
        "timesteps": model.num_timesteps,
        "evaluations": callback.evaluations_timesteps,
        "saved": {name: results[name].tolist() for name in results.files},
        "best": callback.best_mean_reward,
        "calls": callback.n_calls,
        "children's calls": [child.n_calls for child in children.values()],
        "files": sorted(path.name for path in folder.iterdir()),
        "keys": sorted(key for key in header if key.startswith("eval/")),
    }


@pytest.mark.parametrize(("threshold", "end"), [(10.0, 40), (10.5, 400)])
def test_training_stops_when_a_reward_is_reached(threshold, end, tmp_path):
    def run(algorithm):
        return evaluated(algorithm, tmp_path, callback_on_new_best=StopTrainingOnRewardThreshold(threshold))

    ours, theirs = both(run)
    assert ours == theirs
    assert ours["timesteps"] == end


def test_training_stops_without_improvement(tmp_path):
    def run(algorithm):
        return evaluated(algorithm, tmp_path, callback_after_eval=StopTrainingOnNoModelImprovement(2, min_evals=1))

    ours, theirs = both(run)
    assert ours == theirs
    assert ours["children's calls"] == [4]
    assert ours["timesteps"] == 160


def test_events_of_evaluations_reach_their_callbacks(tmp_path):
    def run(algorithm):
        return evaluated(algorithm, tmp_path, callback_on_new_best=Events(), callback_after_eval=Events())

    ours, theirs = both(run)
    assert ours == theirs
    assert ours["children's calls"] == [1, 10]
    assert {"eval/mean_reward", "eval/mean_ep_length"} <= set(ours["keys"])
    assert "best_model.zip" in ours["files"]


def test_evaluation_and_checkpoints_are_sb3s(tmp_path):
    def files(algorithm, folder):
        env = make_vec_env("CartPole-v1", 4)
        callbacks = [
            EvalCallback(
                make_vec_env("CartPole-v1", 1, seed=1),
                eval_freq=max(100 // 4, 1),
                n_eval_episodes=2,
                best_model_save_path=str(folder),
                log_path=str(folder),
                verbose=0,
            ),
            CheckpointCallback(120 // 4, str(folder), save_replay_buffer=True),
        ]
        dqn(env, algorithm).learn(480, callbacks)
        return sorted(path.name for path in folder.iterdir()), np.load(folder / "evaluations.npz")

    ours, our_results = files(CA2EDQN, tmp_path / "ours")
    theirs, their_results = files(sb3.DQN, tmp_path / "theirs")
    assert ours == theirs
    assert {"best_model.zip", "rl_model_480_steps.zip", "rl_model_replay_buffer_480_steps.pkl"} <= set(ours)
    np.testing.assert_array_equal(our_results["timesteps"], their_results["timesteps"])
    assert our_results["results"].shape == their_results["results"].shape == (4, 2)
    best = CA2EDQN.load(tmp_path / "ours" / "best_model")
    assert best.num_timesteps in our_results["timesteps"]
    checkpoint = CA2EDQN.load(tmp_path / "ours" / "rl_model_240_steps", env=make_vec_env("CartPole-v1", 4))
    assert checkpoint.num_timesteps == 240
    checkpoint.load_replay_buffer(tmp_path / "ours" / "rl_model_replay_buffer_240_steps.pkl")
    assert checkpoint.replay_buffer.size() >= 240
    checkpoint.learn(48, reset_num_timesteps=False)
    assert checkpoint.num_timesteps == 288


def test_training_stops_after_some_episodes():
    callback = StopTrainingOnMaxEpisodes(max_episodes=5)
    model = dqn().learn(5000, callback)
    assert callback.n_episodes == 5
    assert model.num_timesteps < 5000


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")  # SB3 does so when it is imported
def test_the_progress_bar_runs_to_its_end(capfd):
    model = dqn().learn(104, progress_bar=True)
    assert model.num_timesteps == 104
    assert "104/104" in capfd.readouterr().out


@pytest.mark.parametrize(("n_envs", "end"), [(1, 50), (2, 100)])
def test_training_stops_after_as_many_episodes_as_with_sb3(n_envs, end, capsys):
    """As many slots as environments, all in step."""

    def run(algorithm):
        callback = StopTrainingOnMaxEpisodes(5, verbose=1)
        ours = {"n_actors": n_envs} if algorithm is CA2EDQN else {}
        model = dqn(make_vec_env(Countdown, n_envs), algorithm, **ours).learn(500, callback)
        return model.num_timesteps, callback.n_episodes, callback.n_calls, capsys.readouterr().out.replace("CA2E", "")

    ours, theirs = both(run)
    assert ours == theirs
    assert ours[0] == end


def test_checkpoints_keep_the_memory_and_the_statistics_of_their_moment(tmp_path):
    def run(algorithm):
        folder = tmp_path / algorithm.__name__
        env = VecNormalize(make_vec_env(Countdown, 2))
        callback = CheckpointCallback(
            save_freq=30, save_path=folder, name_prefix="walk", save_replay_buffer=True, save_vecnormalize=True
        )
        dqn(env, algorithm, buffer_size=100).learn(180, callback)
        return folder, sorted(path.name for path in folder.iterdir())

    (ours, our_files), (_, their_files) = both(run)
    assert our_files == their_files
    assert len(our_files) == 9
    for n in (60, 120, 180):
        env = VecNormalize.load(ours / f"walk_vecnormalize_{n}_steps.pkl", make_vec_env(Countdown, 2))
        model = CA2EDQN.load(ours / f"walk_{n}_steps", env=env)
        model.load_replay_buffer(ours / f"walk_replay_buffer_{n}_steps.pkl")
        assert model.num_timesteps == n
        # Blocks are committed whole, before the callback sees their transitions one by one.
        assert n <= inside.storage(model.replay_buffer).n_committed <= n + 3 * 20
        assert env.ret_rms.count == pytest.approx(inside.storage(model.replay_buffer).n_committed, abs=1e-3)
        model.learn(24, reset_num_timesteps=False)
        assert model.num_timesteps == n + 24


# Events by time.


@pytest.mark.parametrize("n_envs", [1, 4])
def test_something_happens_every_n_timesteps(n_envs):
    def run(algorithm):
        events = Events()
        dqn(make_vec_env(Countdown, n_envs), algorithm).learn(210, EveryNTimesteps(50, events))
        return events.timesteps, events.n_calls

    ours, theirs = both(run)
    assert ours == theirs
    assert ours[1] == 4


def test_logs_are_written_every_n_timesteps(tmp_path):
    def run(algorithm):
        folder = tmp_path / algorithm.__name__
        model = dqn(make_vec_env(Countdown, 2), algorithm)
        model.set_logger(configure(str(folder), ["csv"]))
        model.learn(200, LogEveryNTimesteps(64), log_interval=None)
        model.logger.close()
        with (folder / "progress.csv").open() as file:
            rows = list(csv.DictReader(file))
        return [int(row["time/total_timesteps"]) for row in rows], set(rows[-1])

    (our_times, our_keys), (their_times, their_keys) = both(run)
    assert our_times == their_times == [64, 128, 192]
    assert their_keys <= our_keys


# Lists and functions.


def test_lists_of_callbacks_and_functions():
    def run(algorithm):
        calls = []

        def function(locals_, globals_):
            calls.append((locals_["self"].num_timesteps, len(locals_["dones"]), "self" in globals_))
            return len(calls) < 15

        first, nested, last = Events(), Events(), Events()
        callbacks = [first, CallbackList([nested, ConvertCallback(function)]), last]
        model = dqn(make_vec_env(Countdown, 2), algorithm).learn(200, callbacks)
        counts = [callback.n_calls for callback in (first, nested, last)]
        return model.num_timesteps, counts, [callback.found for callback in (first, nested, last)], calls

    ours, theirs = both(run)
    assert ours == theirs
    assert ours[0] == 30
    assert ours[1] == [15, 15, 15]


def test_a_function_is_a_callback():
    def run(algorithm):
        model = dqn(make_vec_env(Countdown, 2), algorithm)
        return model.learn(100, lambda locals_, _: locals_["self"].num_timesteps < 30).num_timesteps

    ours, theirs = both(run)
    assert ours == theirs == 30


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")  # SB3 does so when it is imported
def test_the_progress_bar_counts_as_with_sb3():
    def run(algorithm):
        model = dqn(make_vec_env(Countdown, 2), algorithm)
        bars = []
        for _ in range(2):
            callback = ProgressBarCallback()
            model.learn(96, callback, reset_num_timesteps=False)
            bars.append((callback.pbar.total, callback.pbar.n))
        return bars

    ours, theirs = both(run)
    assert ours == theirs == [(96, 96), (96, 96)]

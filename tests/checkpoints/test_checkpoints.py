"""Checkpoints, and what a resumed run has to be equal to: the run that was never interrupted."""

import copy
import inspect
import pathlib
import random
import re
import subprocess

import numpy as np
import pytest
import torch as th
from gymnasium.utils import EzPickle
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_ca2e import CA2EDDPG, CA2EDQN, BuilderVecEnv, CA2ECheckpointCallback, PriorAgent
from sb3_ca2e.common.sums import SUMS, list_of_sums, parse_sums
from sb3_ca2e.replay.block import TRANSITION
from tests import inside
from tests.toy import RandomWalk, ddpg, dqn


def tensors(model):
    """All that learning has led to: parameters, optimisers and memory."""
    found = {}
    for name, parameters in model.get_parameters().items():
        parts = parameters if "state" not in parameters else dict(enumerate(parameters["state"].values()))
        for key, value in parts.items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            found |= {f"{name}.{key}.{part}": tensor for part, tensor in values}
    rows = inside.rows(model.replay_buffer)
    held = rows.flags & int(TRANSITION) > 0
    found |= {name: getattr(rows, name)[held] for name in ("actions", "rewards", "flags", "successors")}
    found |= {f"frames.{key}": frames[held] for key, frames in rows.frames.items()}
    return found | {"priorities": rows.priorities[: len(held)][held]}


def counters(model):
    names = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "_n_learns", "retirement_state")
    rows = [{**row, "fps": None} for row in model.actor_stats]  # of the time that it took
    returns = [episode["r"] for episode in model.ep_info_buffer]
    return {name: copy.deepcopy(getattr(model, name, None)) for name in names}, rows, returns


def assert_same(ours, theirs):
    a, b = tensors(ours), tensors(theirs)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert th.equal(tensor, b[name]), name
    assert counters(ours) == counters(theirs)


def checkpoints(folder: pathlib.Path) -> list[str]:
    return sorted((each.name for each in folder.iterdir()), key=lambda name: int(name.split("_")[-2]))


def resumed(algorithm, folder, env, total, **kwargs):
    model = algorithm.resume(folder, env, device="cpu", **kwargs)
    assert model.num_timesteps < total
    return model.learn(total - model.num_timesteps, reset_num_timesteps=False)


class GlobalNumbers(RandomWalk):
    """Rewards from all random numbers that a process has for all."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + random.random() + np.random.rand() + th.rand(1).item(), *rest


def normalized(**kwargs):
    env = make_vec_env(RandomWalk, 2, env_kwargs={"continuous": True}, seed=0)
    return VecFrameStack(VecNormalize(env, gamma=0.9), 3)


def noise():
    return OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.3))


CASES = {
    "CartPole with a prior": (dqn, lambda: "CartPole-v1", {"prior_agents": ["zoo:dqn"], "target_update_interval": 300}),
    "Pendulum": (ddpg, lambda: "Pendulum-v1", {"train_freq": 3, "gradient_steps": 2, "learning_starts": 400}),
    "VecNormalize, stacks, noise": (ddpg, normalized, {"action_noise": noise(), "policy_kwargs": {"net_arch": [8]}}),
    "global random numbers": (dqn, GlobalNumbers, {"seed": None, "exploration_initial_eps": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(case, tmp_path):
    make, env, kwargs = CASES[case]
    total, save_freq = 1000, 330
    n_envs = 2 if env is normalized else 1
    model = make(env(), **kwargs)
    callback = CA2ECheckpointCallback(save_freq // n_envs, tmp_path, save_replay_buffer=True)
    model.learn(total, callback)
    assert len(checkpoints(tmp_path)) == 3
    for name in checkpoints(tmp_path)[:2]:
        again = resumed(type(model), tmp_path / name, env(), total)
        assert_same(again, model)
        if env is normalized:
            ours, theirs = again.get_vec_normalize_env(), model.get_vec_normalize_env()
            for statistics in ("obs_rms", "ret_rms"):
                assert vars(getattr(ours, statistics)).keys() == {"mean", "var", "count", "epsilon"} - {"epsilon"}
                for part in ("mean", "var", "count"):
                    a, b = (getattr(getattr(each, statistics), part) for each in (ours, theirs))
                    np.testing.assert_array_equal(a, b)


class OfLength(RandomWalk):
    """Episodes of a given length."""

    def __init__(self, length: int):
        super().__init__(end_probability=0.0)
        self.length, self.taken = length, 0

    def step(self, action):
        self.taken += 1
        observation, reward, *_ = super().step(action)
        return observation, reward, False, self.taken % self.length == 0, {}


def test_a_beaten_prior_ends_its_episode_in_a_resumed_run_too(tmp_path):
    """The nature slot's twentieth greedy episode beats it after 600 of its steps; its episodes have 1,000."""
    DQN("MlpPolicy", RandomWalk(), seed=0, buffer_size=1).save(tmp_path / "dqn")

    def env():
        return BuilderVecEnv([lambda: OfLength(3), lambda: OfLength(1000)])

    prior = PriorAgent(tmp_path / "dqn.zip", mean_reward=-1e9)
    folder = tmp_path / "checkpoints"
    model = dqn(env(), prior_agents=[prior], prior_patience=16, n_actors=2, gradient_steps=0)
    kinds = Kinds(slot=1)
    model.learn(2400, [CA2ECheckpointCallback(800, folder, save_replay_buffer=True, keep_last=1), kinds])
    again = CA2EDQN.resume(folder, env())
    assert again.num_timesteps == 1600
    assert again.retirement_state["priors"][0]["retired_at"] in range(1150, 1400)
    kinds_again = Kinds(slot=1)
    again.learn(800, kinds_again, reset_num_timesteps=False)
    assert_same(again, model)
    assert kinds_again.seen == kinds.seen[800:] == ["prior"] * 200 + ["nature"] * 200


class Kinds(BaseCallback):
    """What a slot was, at each of its transitions."""

    def __init__(self, slot: int):
        super().__init__()
        self.slot, self.seen = slot, []

    def _on_step(self):
        ticked = zip(self.locals["actor_ids"], self.locals["actor_kinds"], strict=True)
        self.seen += [kind for slot, kind in ticked if slot == self.slot]
        return True


class Stateless(RandomWalk, EzPickle):
    """Pickles how it was made, as environments in C do."""

    def __init__(self):
        RandomWalk.__init__(self)
        EzPickle.__init__(self)


def test_episodes_begin_anew_where_an_environment_can_not_give_its_state(tmp_path):
    model = dqn(Stateless())
    model.learn(300, CA2ECheckpointCallback(200, tmp_path, save_replay_buffer=True))
    twice = [CA2EDQN.resume(tmp_path, Stateless()).learn(400, reset_num_timesteps=False) for _ in range(2)]
    assert_same(*twice)
    assert twice[0].num_timesteps == twice[0].replay_buffer.size() == 600
    # What was under way is cut off: the last transition of each slot is the last of an episode.
    saved = CA2EDQN.resume(tmp_path, Stateless())
    slots = inside.storage(saved.replay_buffer).segments.values()
    saved.learn(1, reset_num_timesteps=False)
    assert [segment.cut for segment in slots][:3] == [True] * 3
    assert len(slots) > 0


@pytest.mark.parametrize("make", [dqn, pytest.param(ddpg, marks=pytest.mark.extended)])
def test_an_asynchronous_run_keeps_counters_memory_priorities_and_retirement(make, tmp_path):
    def env():
        return RandomWalk(continuous=make is ddpg)

    priors = {"prior_agents": ["zoo:dqn"]} if make is dqn else {}
    where = "CartPole-v1" if make is dqn else env()
    model = make(where, execution="async", n_processes=2, local_buffer_size=10, **priors)
    watcher = AtCheckpoint(700)
    model.learn(900, [CA2ECheckpointCallback(700, tmp_path, save_replay_buffer=True), watcher])
    again = type(model).resume(tmp_path, where, device="cpu")
    assert again.num_timesteps in range(700, 705)
    stored, counted, pending = watcher.seen
    for name, tensor in tensors(again).items():
        assert th.equal(tensor, stored[name]), name
    assert counters(again)[0] == counted[0]
    assert again.replay_buffer.size() == again.num_timesteps + pending
    again.learn(300, reset_num_timesteps=False)
    assert sum(row["transitions"] for row in again.actor_stats) == again.replay_buffer.size() == again.num_timesteps


class AtCheckpoint(BaseCallback):
    """Keeps what the model was when a checkpoint was taken."""

    def __init__(self, save_freq: int):
        super().__init__()
        self.save_freq = save_freq

    def _on_step(self):
        if self.n_calls == self.save_freq:
            self.model.between_rounds(self._look)
        return True

    def _look(self):
        copied = {name: tensor.clone() for name, tensor in tensors(self.model).items()}
        self.seen = copied, counters(self.model), inside.collector(self.model).n_ready


def test_a_checkpoint_is_an_sb3_zip_and_sums_that_others_can_check(tmp_path):
    model = dqn(prior_agents=["zoo:dqn"])
    model.learn(300, CA2ECheckpointCallback(200, tmp_path, "mine", save_replay_buffer=True))
    (folder,) = tmp_path.iterdir()
    assert folder.name == "mine_200_steps"
    listed = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert listed.returncode == 0
    assert listed.stdout.splitlines() == ["model.zip: OK", "run.pkl: OK", "replay_buffer.pkl: OK"]
    ours, theirs = CA2EDQN.load(folder / "model.zip"), DQN.load(folder / "model.zip", n_steps=1)
    assert ours.num_timesteps == theirs.num_timesteps == 200
    for name, tensor in theirs.policy.state_dict().items():
        assert th.equal(tensor, ours.policy.state_dict()[name]), name


def test_statistics_of_vecnormalize_are_put_back_or_missed(tmp_path):
    def env(norm_obs=True):
        return VecNormalize(make_vec_env(RandomWalk, 2, env_kwargs={"continuous": True}, seed=0), norm_obs=norm_obs)

    model = ddpg(env())
    model.learn(200, CA2ECheckpointCallback(50, tmp_path))
    again = CA2EDDPG.resume(tmp_path, env())
    saved = VecNormalize.load(str(tmp_path / "rl_model_200_steps" / "vecnormalize.pkl"), make_vec_env(RandomWalk))
    np.testing.assert_array_equal(again.get_vec_normalize_env().obs_rms.mean, saved.obs_rms.mean)
    assert saved.obs_rms.count > 100
    with pytest.raises(ValueError, match="saved with VecNormalize"):
        CA2EDDPG.resume(tmp_path, env().venv)
    with pytest.raises(ValueError, match=r"obs_rms of shape \(3,\), the environment's None"):
        CA2EDDPG.resume(tmp_path, env(norm_obs=False))
    later = CA2EDDPG.resume(tmp_path)
    fresh = env()
    later.set_env(fresh)
    later.learn(50, reset_num_timesteps=False)
    assert fresh.obs_rms.count == pytest.approx(saved.obs_rms.count + 50, abs=10)


def test_statistics_and_memory_are_saved_only_if_asked_for(tmp_path):
    env = VecNormalize(make_vec_env(RandomWalk, 1, env_kwargs={"continuous": True}))
    ddpg(env).learn(50, CA2ECheckpointCallback(50, tmp_path, save_vecnormalize=False))
    (folder,) = tmp_path.iterdir()
    assert sorted(each.name for each in folder.iterdir()) == ["SHA256SUMS", "model.zip", "run.pkl"]


def test_as_many_as_asked_are_kept_and_the_newest_is_the_one_written_last(tmp_path):
    def run(total, **kwargs):
        dqn().learn(total, CA2ECheckpointCallback(100, tmp_path, **kwargs))

    run(500, keep_last=2)
    assert checkpoints(tmp_path) == ["rl_model_400_steps", "rl_model_500_steps"]
    run(100, keep_last=2)  # another run, in the same folder
    assert CA2EDQN.resume(tmp_path).num_timesteps == 100
    assert checkpoints(tmp_path) == ["rl_model_100_steps", "rl_model_500_steps"]
    run(100, keep_last=None)
    run(100, keep_last=None, name_prefix="other")
    names = ["rl_model_100_steps", "rl_model_100_steps_2", "rl_model_500_steps", "other_100_steps"]
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(names)
    assert CA2EDQN.resume(tmp_path / "rl_model_500_steps").num_timesteps == 500


def test_a_checkpoint_with_a_name_of_the_users_own_is_kept(tmp_path):
    checkpoint = CA2ECheckpointCallback(100, tmp_path, keep_last=1)
    model = dqn().learn(100, checkpoint)
    (tmp_path / "rl_model_100_steps").rename(tmp_path / "rl_model_100_steps_best")
    model.learn(200, checkpoint, reset_num_timesteps=False)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rl_model_100_steps_best", "rl_model_300_steps"]


def test_other_callbacks_may_trigger_it(tmp_path):
    checkpoint = CA2ECheckpointCallback(1, tmp_path, keep_last=None)
    dqn(train_freq=4).learn(350, EveryNTimesteps(150, CallbackList([checkpoint])))
    assert checkpoints(tmp_path) == ["rl_model_152_steps", "rl_model_300_steps"]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*Give the save_path of a CA2ECheckpointCallback"):
        CA2EDQN.resume(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        CA2EDQN.resume(tmp_path / "missing")
    with pytest.raises(TypeError, match=r"not DQN; use CheckpointCallback"):
        DQN("MlpPolicy", "CartPole-v1", buffer_size=1).learn(1, CA2ECheckpointCallback(1, tmp_path))
    for wrong in ({"save_freq": 0}, {"save_freq": 1, "keep_last": 0}, {"save_freq": 1, "name_prefix": "a/b"}):
        with pytest.raises(ValueError, match=list(wrong)[-1]):
            CA2ECheckpointCallback(save_path=tmp_path, **wrong)


def test_a_resumed_model_that_counts_from_zero_says_so(tmp_path):
    dqn().learn(110, CA2ECheckpointCallback(100, tmp_path, save_replay_buffer=True))
    model = CA2EDQN.resume(tmp_path, "CartPole-v1")
    with pytest.warns(UserWarning, match="pass reset_num_timesteps=False to continue"):
        model.learn(100)
    assert model.num_timesteps == 100
    assert model.replay_buffer.size() == 112 + 100  # what was left of the round of actors that the checkpoint fell into


def test_a_checkpoint_of_another_version_is_passed_over(tmp_path):
    dqn().learn(200, CA2ECheckpointCallback(100, tmp_path))
    path = tmp_path / "rl_model_200_steps" / SUMS
    title, sums = parse_sums(path.read_bytes())
    path.write_text(list_of_sums(re.sub(r"checkpoint \d+,", "checkpoint 99,", title), sums))
    with pytest.warns(UserWarning, match=r"200_steps is skipped: .*checkpoint 99, .* of another version"):
        assert CA2EDQN.resume(tmp_path).num_timesteps == 100


def test_arguments_are_those_of_sb3s_callback():
    ours, theirs = (list(inspect.signature(each).parameters) for each in (CA2ECheckpointCallback, CheckpointCallback))
    assert ours[: len(theirs)] == theirs

"""From the user's environment to those of the actors."""

import itertools
from typing import ClassVar

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from recording_env import RecordingEnv, make_spec
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_ca2e import CA2EDQN, BuilderVecEnv
from sb3_ca2e.actors.envs import Observations, recipe_from
from sb3_ca2e.actors.pool import AsyncActors
from sb3_ca2e.replay.block import OBSERVATION

gym.register_envs(ale_py)


def model_of(env, policy="MlpPolicy", **kwargs) -> CA2EDQN:
    small = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}} if policy == "CnnPolicy" else {}
    return CA2EDQN(policy, env, n_actors=3, buffer_size=100, policy_kwargs=small or {"net_arch": [8]}, **kwargs)


def atari(game: str, n_envs: int = 1) -> VecEnv:
    # the whole observation kept small; what is compared are the chains of wrappers
    return make_atari_env(f"{game}NoFrameskip-v4", n_envs)


def monitored(tmp_path) -> gym.Env:
    return Monitor(gym.make("CartPole-v1"), str(tmp_path / "log"))


CHAINS = {
    "id": (lambda _: "CartPole-v1", "MlpPolicy", 120),
    "env": (lambda _: gym.make("CartPole-v1"), "MlpPolicy", 120),
    "env with an open monitor file": (monitored, "MlpPolicy", 120),
    "callable": (lambda _: lambda: gym.make("CartPole-v1"), "MlpPolicy", 120),
    "make_vec_env": (lambda _: make_vec_env("CartPole-v1", 3), "MlpPolicy", 120),
    "monitor_dir": (lambda path: make_vec_env("CartPole-v1", 2, monitor_dir=str(path)), "MlpPolicy", 120),
    "builders": (lambda _: BuilderVecEnv([RecordingEnv, lambda: RecordingEnv(lengths=(2, 3))]), "MlpPolicy", 20),
    "stacked vectors": (lambda _: VecFrameStack(make_vec_env("CartPole-v1", 2), 3), "MlpPolicy", 120),
    "image": (lambda _: RecordingEnv(image=True), "CnnPolicy", 20),
    "pong": (lambda _: atari("Pong"), "CnnPolicy", 20),
    "pong, stacked, then turned": (lambda _: VecFrameStack(atari("Pong", 2), 4), "CnnPolicy", 20),
    "pong, turned, then stacked": (lambda _: VecFrameStack(VecTransposeImage(atari("Pong")), 4), "CnnPolicy", 20),
    "lives, stacked, then turned": (lambda _: VecFrameStack(atari("Breakout"), 3), "CnnPolicy", 150),
    "lives, turned, then stacked": (lambda _: VecFrameStack(VecTransposeImage(atari("Breakout")), 3), "CnnPolicy", 150),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_slots_see_byte_for_byte_what_the_users_chain_returns(chain, tmp_path):
    make, policy, n_steps = CHAINS[chain]
    venv = model_of(make(tmp_path), policy).get_env()
    recipe = recipe_from(venv)
    n_envs = venv.num_envs
    observations = Observations(recipe, n_envs)
    venv.seed(7)
    expected = venv.reset()
    envs = [recipe.build(slot) for slot in range(n_envs)]
    for slot, env in enumerate(envs):
        observations.reset(slot, observations.frames(env.reset(seed=7 + slot)[0]))
    rng, n_ends = np.random.default_rng(0), 0
    for t in itertools.count():
        batch = observations.batch[OBSERVATION]
        assert batch.dtype == expected.dtype
        assert np.array_equal(batch, expected)
        if t >= n_steps:
            break
        actions = rng.integers(venv.action_space.n, size=n_envs)
        expected, rewards, dones, infos = venv.step(actions)
        for slot, env in enumerate(envs):
            raw, reward, terminated, truncated, info = env.step(actions[slot])
            observations.push(slot, observations.frames(raw))
            assert (np.float32(reward), terminated or truncated) == (rewards[slot], dones[slot])
            if dones[slot]:
                n_ends += 1
                assert (truncated and not terminated) == infos[slot]["TimeLimit.truncated"]
                assert np.array_equal(batch[slot], infos[slot]["terminal_observation"])
                theirs = infos[slot].get("episode")
                if theirs is not None or chain != "builders":  # only those have no Monitor of their own
                    assert (info.get("episode") is None) == (theirs is None)
                    assert theirs is None or [info["episode"][k] for k in "rl"] == [theirs[k] for k in "rl"]
                observations.reset(slot, observations.frames(env.reset()[0]))
    assert n_ends > 1 or "pong" in chain
    venv.close()


@pytest.mark.parametrize("order", ["stacked, then turned", "turned, then stacked"])
def test_frames_of_several_channels_are_stacked_by_their_channels(order):
    class Colours(RecordingEnv):
        def __init__(self):
            super().__init__(image=True, lengths=(9,))
            self.observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)

        def _frame(self, t: int) -> np.ndarray:
            return np.random.default_rng([self.seed, len(self.episodes), t]).integers(0, 256, (36, 40, 3), np.uint8)

    base = DummyVecEnv([Colours])
    venv = VecTransposeImage(VecFrameStack(base, 2)) if order[0] == "s" else VecFrameStack(VecTransposeImage(base), 2)
    recipe = recipe_from(venv)
    observations = Observations(recipe, 1)
    env = recipe.build(0)
    venv.seed(3)
    observations.reset(0, observations.frames(env.reset(seed=3)[0]))
    assert np.array_equal(venv.reset(), observations.batch[OBSERVATION])
    for _ in range(3):
        raw, *_ = env.step(0)
        observations.push(0, observations.frames(raw))
    for _ in range(3):
        expected, *_ = venv.step([0])
    assert np.array_equal(expected, observations.batch[OBSERVATION])


class NotPicklable(RecordingEnv):
    def __init__(self):
        super().__init__()
        self.log = (line for line in [])


class DictObservations(RecordingEnv):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict({"position": self.observation_space})


@pytest.mark.parametrize(
    ("env", "culprit", "way_out"),
    [
        (lambda: VecNormalize(make_vec_env("CartPole-v1")), "VecNormalize", "gymnasium wrapper inside each env"),
        (lambda: VecMonitor(DummyVecEnv([RecordingEnv])), "VecMonitor", "gymnasium wrapper inside each env"),
        (lambda: VecFrameStack(VecFrameStack(make_vec_env("CartPole-v1"), 2), 2), "two VecFrameStack", "keep one"),
        (NotPicklable, "NotPicklable", "Pass a function that makes the environment"),
        (DictObservations, r"Dict\('position'", "FlattenObservation"),
        (lambda: gym.make("FrozenLake-v1"), r"Discrete\(16\)", "FlattenObservation"),
    ],
)
def test_what_actors_cannot_rebuild_is_refused_at_construction(env, culprit, way_out):
    made = env()
    with pytest.raises(ValueError, match=f"(?s){culprit}.*{way_out}"):
        CA2EDQN("MultiInputPolicy" if isinstance(made.observation_space, spaces.Dict) else "MlpPolicy", made)


def test_a_subproc_vec_env_is_refused_at_construction():
    venv = SubprocVecEnv([lambda: gym.make("CartPole-v1")], start_method="fork")
    try:
        with pytest.raises(ValueError, match=r"SubprocVecEnv.*Pass an id, a gymnasium\.Env, a function"):
            model_of(venv)
    finally:
        venv.close()


def test_the_environment_at_fault_is_named():
    class Fine(RecordingEnv):
        pass

    with pytest.raises(ValueError, match=r"copies of.*NotPicklable"):
        model_of(DummyVecEnv([Fine, NotPicklable]))


def test_a_function_makes_environments_that_do_not_pickle():
    recipe = recipe_from(model_of(NotPicklable).get_env())
    env = recipe.build(0)
    assert isinstance(env.unwrapped, NotPicklable)
    assert env.unwrapped is not recipe.build(0).unwrapped


def test_each_slot_has_an_environment_of_its_own_in_turn():
    recipe = recipe_from(DummyVecEnv([lambda: RecordingEnv(lengths=(1,)), lambda: RecordingEnv(lengths=(2,))]))
    assert [recipe.build(slot).unwrapped.lengths for slot in range(4)] == [(1,), (2,), (1,), (2,)]


def test_copies_of_an_environment_in_use_begin_anew():
    env = RecordingEnv(lengths=(9,))
    venv = DummyVecEnv([lambda: Monitor(env, allow_early_resets=False)])
    venv.reset()
    venv.step([0])
    copied = recipe_from(venv).build(0)
    copied.reset(seed=0)
    rewards = []
    for _ in range(9):
        _, reward, *_, info = copied.step(0)
        rewards.append(reward)
    assert info["episode"]["l"] == 9
    assert info["episode"]["r"] == pytest.approx(sum(rewards), abs=1e-5)


def test_copies_of_an_atari_game_in_use_begin_anew():
    venv, untouched = atari("Breakout"), atari("Breakout")
    venv.seed(0)
    venv.reset()
    rng = np.random.default_rng(0)
    while not venv.step(rng.integers(4, size=1))[2].any():
        pass  # now a life is lost, and the game goes on
    used, fresh = recipe_from(venv).build(0), recipe_from(untouched).build(0)
    assert np.array_equal(used.reset(seed=5)[0], fresh.reset(seed=5)[0])
    for action in rng.integers(4, size=30):
        one, other = used.step(action), fresh.step(action)
        assert np.array_equal(one[0], other[0])
        assert one[1:4] == other[1:4]


class OnlyHere(RecordingEnv):
    """Its class is in this module, which is no part of any package."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None, lengths=(9,)):
        super().__init__(lengths=lengths)


gym.register("SB3CA2EOnlyHere-v0", entry_point=OnlyHere, max_episode_steps=4)


def with_closure():
    length = 5

    class Local(RecordingEnv):
        def __init__(self):
            super().__init__(lengths=(length,))

    return lambda: Local()


@pytest.mark.parametrize(
    ("env", "lengths"),
    [
        (lambda: "SB3CA2EOnlyHere-v0", [4, 4, 4]),
        (
            lambda: BuilderVecEnv(
                [with_closure(), lambda: OnlyHere(lengths=(3,)), lambda: gym.make("SB3CA2EOnlyHere-v0")]
            ),
            [5, 3, 4],
        ),
    ],
    ids=["registered id", "functions"],
)
def test_environments_of_the_users_process_work_in_actor_processes(env, lengths):
    pool = AsyncActors([make_spec(model_of(env()), block_size=8)])
    try:
        handover, _ = pool.collect()
    finally:
        pool.stop()
    first_ends = {}
    for (_, slot), info in sorted(handover.infos.items()):
        first_ends.setdefault(slot, info["episode"]["l"])
    assert [first_ends[slot] for slot in range(3)] == lengths

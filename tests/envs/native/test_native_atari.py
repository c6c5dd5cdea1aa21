"""Native Atari games: episode for episode those of SB3's wrappers, and kept in the memory as they came."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_ca2e import CA2EDQN, PriorAgent, make_atari_env
from sb3_ca2e.envs.recipe import recipe_from
from sb3_ca2e.replay.block import OBSERVATION, TERMINATED, TRANSITION, TRUNCATED
from sb3_ca2e.replay.stacks import stacked
from tests import REPOSITORY
from tests.actors.recording_env import LocalActor, make_spec

SHARED = REPOSITORY / ".." / "shared" / "atari-agents"
AGENTS = pathlib.Path(os.environ.get("SB3_CA2E_ATARI_AGENTS", SHARED))
#: ale-py makes frames grey before it takes the brighter of two pixels, SB3 afterwards: some that change differ.
SHARE_OF_OTHER_PIXELS = 0.02


def pair(env_id: str, wrapper_kwargs: dict | None = None, env_kwargs: dict | None = None) -> list[VecEnv]:
    """The same game twice, native and not, without what is random: no-ops."""
    kwargs = {"wrapper_kwargs": {"noop_max": 0, **(wrapper_kwargs or {})}, "env_kwargs": env_kwargs}
    return [make_atari_env(env_id, 1, seed=0, native=native, **kwargs) for native in (True, False)]


def assert_alike(envs: list[VecEnv], n_steps: int, other_pixels: float = SHARE_OF_OTHER_PIXELS) -> list[dict]:
    """
    Take the same steps in both, and compare all that they return.

    :return: infos of the ends of episodes
    """
    native, peer = envs
    assert native.observation_space == peer.observation_space
    assert native.action_space == peer.action_space
    ends, frames = [], [[native.reset(), peer.reset()]]
    rng = np.random.default_rng(0)
    for _ in range(n_steps):
        actions = rng.integers(native.action_space.n, size=1)
        (observation, reward, done, (info,)), (observation_2, reward_2, done_2, (info_2,)) = (
            env.step(actions) for env in envs
        )
        assert (reward, done, info["lives"]) == (reward_2, done_2, info_2["lives"])
        assert info["episode_frame_number"] == info_2["episode_frame_number"]
        if done:
            assert info["TimeLimit.truncated"] == info_2["TimeLimit.truncated"]
            assert ("episode" in info) == ("episode" in info_2)
            if "episode" in info:
                assert [info["episode"][key] for key in "rl"] == [info_2["episode"][key] for key in "rl"]
            frames.append([info["terminal_observation"][None], info_2["terminal_observation"][None]])
            ends.append(info)
        frames.append([observation, observation_2])
    ours, theirs = (np.stack(side) for side in zip(*frames, strict=True))
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert np.mean(ours != theirs) <= other_pixels
    for env in envs:
        env.close()
    return ends


def test_lives_are_episodes_of_whole_games():
    """Breakout has five lives, each of which begins with FIRE, and its frames are the same to the last pixel."""
    ends = assert_alike(pair("BreakoutNoFrameskip-v4"), 300, other_pixels=0)
    games = [info["episode"] for info in ends if "episode" in info]
    assert len(games) >= 2
    assert len(ends) >= 5 * len(games)


def test_returns_are_not_clipped():
    """Qbert scores 25 points and more at once."""
    games = [info["episode"] for info in assert_alike(pair("QbertNoFrameskip-v4"), 400) if "episode" in info]
    assert games[0]["r"] >= 25


def test_a_game_without_lives():
    (game,) = [info["episode"] for info in assert_alike(pair("PongNoFrameskip-v4"), 900)]
    assert game["r"] in (-20, -21)


@pytest.mark.parametrize(
    ("env_id", "wrapper_kwargs", "env_kwargs"),
    [
        ("FreewayNoFrameskip-v4", {}, None),  # has no FIRE
        ("BreakoutNoFrameskip-v4", {"terminal_on_life_loss": False, "frame_skip": 2, "screen_size": 64}, None),
        ("QbertNoFrameskip-v4", {"clip_reward": False, "frame_skip": 1}, {"full_action_space": True}),
        ("ALE/Breakout-v5", {}, {"frameskip": 1, "repeat_action_probability": 0.0}),
    ],
)
def test_arguments_mean_what_they_mean_to_sb3(env_id, wrapper_kwargs, env_kwargs):
    assert_alike(pair(env_id, wrapper_kwargs, env_kwargs), 150)


def test_long_games_are_truncated():
    ends = assert_alike(pair("PongNoFrameskip-v4", env_kwargs={"max_num_frames_per_episode": 200}), 150)
    assert [info["TimeLimit.truncated"] for info in ends] == [True] * 3
    assert [info["episode"]["l"] for info in ends] == [200] * 3


@pytest.mark.parametrize("lives_are_episodes", [True, False])
def test_what_ends_with_the_frame_at_which_games_are_truncated_has_terminated(lives_are_episodes):
    lives = {"terminal_on_life_loss": lives_are_episodes}
    first = assert_alike(pair("BreakoutNoFrameskip-v4", lives), 300)[0]
    at_most = {"max_num_frames_per_episode": first["episode_frame_number"]}
    end = assert_alike(pair("BreakoutNoFrameskip-v4", lives, at_most), 300)[0]
    assert end["episode_frame_number"] == first["episode_frame_number"]
    assert not end["TimeLimit.truncated"]
    assert "episode" in end


def test_seeds_decide_on_the_no_ops():
    def first_frames(seed: int) -> list[int]:
        env = make_atari_env("PongNoFrameskip-v4", 3, seed=seed, native=True)
        env.reset()
        _, _, _, infos = env.step([0] * 3)
        env.close()
        return [info["episode_frame_number"] - 12 for info in infos]  # FIRE, another action, and the step

    first = first_frames(1)
    assert min(first) >= 0
    assert max(first) <= 30
    assert len(set(first)) > 1
    assert first_frames(1) == first != first_frames(100)


def test_sticky_actions():
    """Were they not repeated, the same actions would lead to the same frames."""
    sticky = {"wrapper_kwargs": {"noop_max": 0, "action_repeat_probability": 0.5}}
    env = make_atari_env("PongNoFrameskip-v4", 2, seed=0, native=True, **sticky)
    env.reset()
    for action in np.random.default_rng(0).integers(6, size=40):
        observations, *_ = env.step([action] * 2)
    assert (observations[0] != observations[1]).any()
    env.close()


def test_blocks_hold_what_the_environment_returned():
    """Frames of lives and games that begin and end, against SB3's VecFrameStack around the same games."""
    env = make_atari_env("BreakoutNoFrameskip-v4", 2, seed=0, native=True)
    model = CA2EDQN("CnnPolicy", env, n_actors=2, buffer_size=100, exploration_initial_eps=1.0, device="cpu", seed=0)
    assert recipe_from(model.env).columns == recipe_from(wrapped()).columns
    spec = make_spec(model, block_size=25)
    actor = LocalActor(spec)
    actor.publish(model)
    rows: list[list[tuple]] = [[], []]
    for _ in range(14):
        for block in actor.collect()[1]:
            frames = stacked(block.frames[OBSERVATION], block.ages, spec.recipe.columns[OBSERVATION])
            rows[block.slot] += zip(frames[:-1], block.flags, block.actions[:, 0], block.rewards, strict=True)
    actor.actor.close()

    build = env.venv.build
    replayed = VecFrameStack(build(2, spec.seed_of(0)), 4)
    observations, streams = replayed.reset(), [iter(each) for each in rows]
    lives, games = 0, 0
    for _ in range(350):
        taken = [next(stream) for stream in streams]
        for slot, (observation, flags, *_) in enumerate(taken):
            assert flags & TRANSITION
            assert observation.tobytes() == observations[slot].transpose(2, 0, 1).tobytes()
        observations, rewards, dones, infos = replayed.step([action for _, _, action, _ in taken])
        for slot, (_, flags, _, reward) in enumerate(taken):
            assert reward == rewards[slot]
            assert bool(flags & TERMINATED) == dones[slot]
            assert not flags & TRUNCATED
            if dones[slot]:
                last, last_flags, *_ = next(streams[slot])
                assert not last_flags & TRANSITION
                assert last.tobytes() == infos[slot]["terminal_observation"].transpose(2, 0, 1).tobytes()
                games += "episode" in infos[slot]
                lives += "episode" not in infos[slot]
    assert games >= 2
    assert lives >= 4 * games
    replayed.close()


def wrapped() -> VecEnv:
    return DQN("CnnPolicy", make_atari_env("BreakoutNoFrameskip-v4"), buffer_size=1, device="cpu").get_env()


def test_sb3_learns_on_it():
    env = make_atari_env("PongNoFrameskip-v4", 2, seed=0, native=True)
    model = DQN("CnnPolicy", env, buffer_size=100, learning_starts=20, batch_size=4, device="cpu", seed=0)
    model.learn(40)
    assert model._n_updates > 0


@pytest.mark.extended
def test_an_agent_trained_elsewhere_wins():
    path = AGENTS / "ppo" / "PongNoFrameskip-v4_1" / "PongNoFrameskip-v4.zip"
    if not path.exists():
        pytest.skip("no folder with Pong agents (SB3_CA2E_ATARI_AGENTS)")
    th.manual_seed(0)
    env = make_atari_env("PongNoFrameskip-v4", seed=0, native=True)
    score, _ = PriorAgent(path).evaluate(env, n_episodes=1)
    env.close()
    assert score > 0


@pytest.mark.parametrize(
    ("env_id", "arguments", "message"),
    [
        ("CartPole-v1", {}, "not an Atari game"),
        ("ALE/Pong-v5", {}, "frameskip=4.*NoFrameskip-v4"),
        ("PongNoFrameskip-v4", {"env_kwargs": {"mode": 1}}, "mode=1"),
        ("PongNoFrameskip-v4", {"env_kwargs": {"render_mode": "human"}}, "render_mode='human'"),
        ("PongNoFrameskip-v4", {"monitor_dir": "logs"}, "monitor_dir.*VecMonitor"),
        ("PongNoFrameskip-v4", {"wrapper_kwargs": {"noops": 3}}, "no argument noops"),
    ],
)
def test_what_native_games_can_not_have(env_id, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_atari_env(env_id, native=True, **arguments)


def test_games_are_known_in_worker_processes():
    """In a process of its own, ale-py has registered nothing yet."""
    script = (
        "from sb3_ca2e import make_atari_env\n"
        "from stable_baselines3.common.vec_env import SubprocVecEnv\n"
        "env = make_atari_env('PongNoFrameskip-v4', 1, seed=0, vec_env_cls=SubprocVecEnv)\n"
        "print(env.reset().shape)\n"
        "env.close()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout.strip() == "(1, 84, 84, 4)", ended.stderr

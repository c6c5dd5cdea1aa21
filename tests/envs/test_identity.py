"""What environments say of themselves, in this process and in others."""

from dataclasses import replace

import gymnasium as gym
import pytest
from stable_baselines3.common.atari_wrappers import ClipRewardEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

from sb3_ca2e.envs.identity import EnvIdentity, identity_of, identity_of_vec
from sb3_ca2e.envs.recipe import recipe_from
from tests.toy import RandomWalk

pytestmark = pytest.mark.usefixtures("_forkserver")


def clipped() -> gym.Env:
    return ClipRewardEnv(gym.make("CartPole-v1", max_episode_steps=70))


def in_workers(env_fns: list) -> SubprocVecEnv:
    return SubprocVecEnv(env_fns, start_method="forkserver")


@pytest.fixture(params=[DummyVecEnv, in_workers])
def venv(request):
    venv = VecFrameStack(request.param([clipped, clipped]), 2)
    yield venv
    venv.close()


def named_alike(identity: EnvIdentity) -> EnvIdentity:
    """Where rl_zoo3 has been imported, as it may have been in this process, ``TimeLimit`` is a class of its own."""
    return replace(identity, wrappers=frozenset(name.removeprefix("Patched") for name in identity.wrappers))


def test_an_environment_tells_its_id_its_limit_and_its_wrappers(venv):
    identity = identity_of(clipped())
    assert (identity.env_id, identity.max_episode_steps) == ("CartPole-v1", 70)
    assert {"ClipRewardEnv", "OrderEnforcing"} <= identity.wrappers
    assert named_alike(recipe_from(venv).identity) == named_alike(identity)


def test_of_another_process_the_wrappers_are_not_known(venv):
    identity = identity_of_vec(venv)
    assert (identity.env_id, identity.max_episode_steps) == ("CartPole-v1", 70)
    assert ("ClipRewardEnv" in identity.wrappers) == isinstance(venv.unwrapped, DummyVecEnv)


def test_what_was_not_made_from_an_id_has_none():
    assert identity_of(RandomWalk()) == EnvIdentity()
    ended = in_workers([clipped])
    ended.close()
    assert identity_of_vec(ended) == EnvIdentity()

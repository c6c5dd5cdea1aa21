"""Steps with numbers that are not finite are left out, and nothing of what is kept reaches over the gap."""

import collections
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecFrameStack
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_ca2e import CA2EDDPG, CA2EDQN, ActorError, ActorWarning, BuilderVecEnv
from sb3_ca2e.replay.block import PRIOR, TRANSITION
from tests import inside

pytestmark = pytest.mark.usefixtures("_one_server")
LENGTH = 7
met: collections.Counter = collections.Counter()


def is_bad(slot: int, episode: int, t: int) -> bool:
    """Whether the ``t``-th observation of an episode, or the reward that comes with it, is not finite."""
    return bool(np.random.default_rng([slot, episode, t]).random() < 0.15)


def reward_of(episode: int, t: int) -> float:
    return episode + 0.125 * t


class Flawed(gym.Env):
    """Observations are (slot, episode, step), but for those that are bad; even episodes are terminated, others cut."""

    def __init__(self, slot: int):
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.slot, self.episode, self.t = slot, -1, 0

    def _observation(self, broken: bool) -> np.ndarray:
        met[self.slot] += is_bad(self.slot, self.episode, self.t)
        last = (np.nan, np.inf)[self.episode % 2] if broken else self.t
        return np.array([self.slot, self.episode, last], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._observation(is_bad(self.slot, self.episode, 0)), {}

    def step(self, action):
        mark, reward = (self.episode, self.t), reward_of(self.episode, self.t)
        self.t += 1
        bad, in_reward = is_bad(self.slot, self.episode, self.t), self.t % 2 == 0
        over = self.t == LENGTH
        ended = over and self.episode % 2 == 0, over and self.episode % 2 == 1
        observation = self._observation(bad and not in_reward)
        return observation, float("nan") if bad and in_reward else reward, *ended, {"mark": mark}


class Marks(BaseCallback):
    """What callbacks are told of a step belongs to that step."""

    n_episodes = 0

    def _on_step(self) -> bool:
        for reward, done, info in zip(self.locals["rewards"], self.locals["dones"], self.locals["infos"], strict=True):
            assert reward == reward_of(*info["mark"])
            assert done == (info["mark"][1] == LENGTH - 1) == ("episode" in info)
            if done:
                assert info["episode"]["l"] == LENGTH
                self.n_episodes += 1
        return True


@pytest.mark.parametrize("n_stack", [1, 3])
def test_returns_and_stacks_end_where_a_step_was_left_out(n_stack):
    met.clear()
    env = BuilderVecEnv([partial(Flawed, slot) for slot in range(2)])
    model = CA2EDQN(
        "MlpPolicy",
        VecFrameStack(env, n_stack) if n_stack > 1 else env,
        execution="sync",
        n_actors=2,
        local_buffer_size=5,
        learning_starts=10**6,
        replay_buffer_kwargs={"segment_length": 8},
        info_keys=("mark",),
        seed=0,
    )
    met.clear()
    marks = Marks()
    with pytest.warns(ActorWarning, match="Slot .*not finite|Slot .*reward nan") as told:
        model.learn(1000, marks)
    assert sorted(str(each.message)[:7] for each in told) == ["Slot 0:", "Slot 1:"], "once each"
    assert marks.n_episodes > 20
    assert [row["refused"] for row in model.actor_stats] == pytest.approx([met[0], met[1]], abs=3)  # of the last block
    memory = model.replay_buffer
    held = (inside.rows(memory).flags & int(TRANSITION)).nonzero().flatten()
    batch = memory.samples_at(held)
    observations, next_observations = (
        each.numpy().reshape(len(held), n_stack, 3) for each in (batch.observations, batch.next_observations)
    )
    made = {tuple(map(int, observation[-1])) for observation in observations}
    assert len(made) == len(held) == 1000
    for slot in range(2):
        episodes = {episode for of, episode, _ in made if of == slot}
        for episode in range(1, max(episodes)):  # SB3 has reset the environments once before
            bad = [t for t in range(LENGTH + 1) if is_bad(slot, episode, t)]
            whole = max(min(bad) - 1, 0) if bad else LENGTH
            assert {t for t in range(LENGTH) if (slot, episode, t) in made} == set(range(whole))

    def stack(slot: int, episode: int, t: int) -> np.ndarray:
        return np.array([(slot, episode, at) if at >= 0 else (0, 0, 0) for at in range(t - n_stack + 1, t + 1)])

    for i, observation in enumerate(observations):
        slot, episode, t = map(int, observation[-1])
        n = next(n for n in range(1, 4) if n == 3 or (slot, episode, t + n) not in made)
        np.testing.assert_array_equal(observation, stack(slot, episode, t))
        np.testing.assert_array_equal(next_observations[i], stack(slot, episode, t + n))
        expected = sum(model.gamma**k * reward_of(episode, t + k) for k in range(n))
        assert batch.rewards[i].item() == pytest.approx(expected, rel=1e-6)
        assert batch.discounts[i].item() == pytest.approx(model.gamma**n, rel=1e-6)
        assert batch.dones[i].item() == (t + n == LENGTH and episode % 2 == 0)


def test_actions_that_are_not_finite_do_not_reach_the_environment_and_are_named_in_the_end():
    model = CA2EDDPG("MlpPolicy", "Pendulum-v1", execution="sync", n_actors=2, learning_starts=0, gradient_steps=0)
    with th.no_grad():
        for parameter in model.actor.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ActorError, match=r"(?s)slot 0, .*an action that is not finite.*10 times in a row"):
        model.learn(1000)
    assert model.num_timesteps == model.replay_buffer.size() == 0


class Failing(DQNPolicy):
    """Acts some dozens of times."""

    left = 40

    def _predict(self, observation, deterministic=True):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the weights are gone")
        return super()._predict(observation, deterministic)


@pytest.mark.parametrize(("execution", "inference"), [("sync", "actor"), ("async", "actor"), ("async", "device")])
def test_a_prior_agent_that_fails_again_and_again_is_retired(execution, inference):
    model = CA2EDQN(
        "MlpPolicy",
        "CartPole-v1",
        prior_agents=[DQN(Failing, "CartPole-v1", buffer_size=1)],
        execution=execution,
        inference=inference,
        device="cpu",
        n_processes=2,
        n_actors=2,
        local_buffer_size=10,
        learning_starts=100,
    )
    with (
        pytest.warns(ActorWarning, match=r"(?s)slot 1 is retired: it failed 3 times in a row.*the weights are gone"),
        pytest.warns(ActorWarning, match=r"(?s)Slot 1: The prior agent a DQN object failed.*the weights are gone"),
    ):
        model.learn(400)
    nature, prior = model.actor_stats
    assert (prior["refused"], nature["refused"]) == (3, 0)
    assert prior["kind"] == "nature"
    assert prior["retired_at"] in range(40, 200)
    assert nature["transitions"] + prior["transitions"] == model.replay_buffer.size() == 400
    made_by_priors = inside.rows(model.replay_buffer).flags & int(PRIOR) > 0
    assert made_by_priors.sum() == 40

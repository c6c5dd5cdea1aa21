"""What the learner makes of its actors' blocks, in whole runs that are repeatable."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN

from sb3_ca2e import BuilderVecEnv, PriorAgent
from sb3_ca2e.actors.actor import GREEDY_EVERY
from sb3_ca2e.priors.retirement import WINDOW
from sb3_ca2e.replay.block import OBSERVATION, TRANSITION
from toy import RandomWalk, dqn


class Numbered(gym.Env):
    """
    The n-th episode has three steps, and a return of n.

    :param offset: added to n
    """

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, offset: int = 0):
        self.episode, self.t = offset, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(2, self.t / 3, np.float32), self.episode / 3, self.t == 3, False, {}


def held(model) -> th.Tensor:
    """Rows of the transitions in the memory, in the order in which they came."""
    rows = model.replay_buffer._storage.rows
    found = th.nonzero(rows.flags & int(TRANSITION)).flatten()
    return found[rows.inserted_at[found].argsort(stable=True)]


def test_actors_explore_less_as_training_goes_on():
    epsilon = {"exploration_initial_eps": 1.0, "exploration_final_eps": 0.0, "exploration_fraction": 0.5}
    model = dqn(RandomWalk, learning_starts=0, gradient_steps=0, n_actors=2, local_buffer_size=10, **epsilon)
    model.learn(800)
    rows, columns = held(model), model.replay_buffer._storage.rows
    with th.no_grad():
        greedy = model.q_net(columns.frames[OBSERVATION][rows]).argmax(dim=1)
    departed = (columns.actions[rows, 0] != greedy).numpy()
    assert not departed[400:].any()
    # Of three actions, a random one is the greedy one every third time.
    early, late = departed[:200].mean(), departed[200:400].mean()
    assert early == pytest.approx(0.75 * 2 / 3, abs=0.12)
    assert late == pytest.approx(0.25 * 2 / 3, abs=0.12)


def prior(**kwargs) -> PriorAgent:
    return PriorAgent(DQN("MlpPolicy", Numbered(), buffer_size=1), **kwargs)


def test_only_greedy_games_measure_the_learner_and_each_priors_own_games_measure_it():
    offsets, n_games = (0, 100, 1000, 2000), 5 * GREEDY_EVERY + 3
    env = BuilderVecEnv([partial(Numbered, offset) for offset in offsets])
    model = dqn(env, n_actors=4, local_buffer_size=15, gradient_steps=0, prior_agents=[prior(), prior()])
    model.learn(4 * 3 * n_games)
    assert [row["episodes"] for row in model.actor_stats] == [n_games] * 4
    # Slots step together: games of a number end one after the other.
    numbers = range(GREEDY_EVERY, n_games, GREEDY_EVERY)
    assert model.retirement_state["greedy_returns"] == pytest.approx([n + of for n in numbers for of in offsets[:2]])
    for of_prior, offset in zip(model.retirement_state["priors"], offsets[2:], strict=True):
        assert of_prior["returns"] == pytest.approx(offset + np.arange(n_games - WINDOW, n_games) + 1.0)
        assert of_prior["baseline"] == pytest.approx(offset + 5.5)  # of its first ten games


def test_a_slots_mean_return_is_of_the_games_since_its_prior_was_beaten():
    model = dqn(
        Numbered,
        n_actors=3,
        local_buffer_size=15,
        gradient_steps=0,
        prior_agents=[prior(mean_reward=-1e9)],
        prior_patience=1,
    )
    model.learn(3 * 3 * 105)
    first, second, beaten = model.actor_stats
    assert (first["ep_rew_mean"], second["ep_rew_mean"]) == pytest.approx((55.5, 55.5))  # the last hundred games
    # Beaten by the twentieth greedy game, the hundredth of a slot, which is in the twentieth round of blocks.
    assert beaten["retired_at"] == 19 * 3 * 15
    assert beaten["ep_rew_mean"] == pytest.approx(np.mean(range(100, 106)))
